//! The conservative engine: redb, a copy-on-write B-tree in one file.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, DatabaseError, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::directory::{Directory, OpenError};
use super::engine::{Batch, Durability, Engine, EngineError, RowIterator, Snapshot};
use super::open::EngineOptions;
use super::transaction::{KeyRange, Row};

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// A flushed batch is on the disk when it is answered.
const FLUSHED: redb::Durability = if cfg!(feature = "unsafe-no-flush") {
    redb::Durability::None
} else {
    redb::Durability::Immediate
};

impl From<redb::Error> for EngineError {
    fn from(error: redb::Error) -> Self {
        Self(error.to_string())
    }
}

/// Rows in a redb file. Field order is drop order: the lock goes last.
pub struct RedbEngine {
    db: Database,
    _directory: Directory,
}

impl RedbEngine {
    /// Opens the store in `dir`, made if missing. After a crash this walks the
    /// file.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, options: &EngineOptions) -> Result<Self, OpenError> {
        let directory = Directory::open(dir, "redb")?;
        let db = Database::builder()
            .set_cache_size(usize::try_from(options.cache_bytes).unwrap_or(usize::MAX))
            .create(directory.engine_path())
            .map_err(|error| open_error(dir, error))?;
        create_table(&db).map_err(|error| OpenError::engine(dir, error))?;
        directory.finish_creation()?;
        Ok(Self {
            db,
            _directory: directory,
        })
    }

    fn write(&self, rows: Batch, durability: redb::Durability) -> Result<(), redb::Error> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(ROWS)?;
            for (key, value) in rows {
                match value {
                    Some(value) => drop(table.insert(key.as_ref(), value.as_ref())?),
                    None => drop(table.remove(key.as_ref())?),
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn table(&self) -> Result<Table, redb::Error> {
        Ok(self.db.begin_read()?.open_table(ROWS)?)
    }
}

fn create_table(db: &Database) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    transaction.open_table(ROWS)?;
    Ok(transaction.commit()?)
}

fn open_error(dir: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse {
            dir: dir.to_path_buf(),
        },
        DatabaseError::Storage(redb::StorageError::Io(error)) => OpenError::io(dir, error),
        other => OpenError::engine(dir, other),
    }
}

impl Engine for RedbEngine {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        Ok(Arc::new(RedbSnapshot {
            table: self.table()?,
        }))
    }

    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), EngineError> {
        let durability = match durability {
            Durability::Flushed => FLUSHED,
            Durability::Relaxed => redb::Durability::None,
        };
        Ok(self.write(batch, durability)?)
    }

    /// A durable commit takes every commit before it along.
    fn flush(&self) -> Result<(), EngineError> {
        Ok(self.write(Batch::new(), FLUSHED)?)
    }
}

struct RedbSnapshot {
    table: Table,
}

fn engine_error(error: redb::StorageError) -> EngineError {
    EngineError(error.to_string())
}

type Guard<'a> = redb::AccessGuard<'a, &'static [u8]>;

fn copied(row: Result<(Guard<'_>, Guard<'_>), redb::StorageError>) -> Result<Row, EngineError> {
    let (key, value) = row.map_err(engine_error)?;
    Ok(Row {
        key: Bytes::copy_from_slice(key.value()),
        value: Bytes::copy_from_slice(value.value()),
    })
}

impl Snapshot for RedbSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.table.get(key).map_err(engine_error)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan<'a>(&'a self, range: &KeyRange, reverse: bool) -> RowIterator<'a> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let rows = match self
            .table
            .range::<&[u8]>(range.start.as_ref()..range.end.as_ref())
        {
            Ok(rows) => rows,
            Err(error) => return Box::new(std::iter::once(Err(engine_error(error)))),
        };
        if reverse {
            Box::new(rows.rev().map(copied))
        } else {
            Box::new(rows.map(copied))
        }
    }
}
