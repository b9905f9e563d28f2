//! The default engine: fjall, a log-structured tree with a journal.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::directory::{Directory, OpenError};
use super::engine::{Batch, Engine, EngineError, RowIterator, Snapshot};
use super::open::EngineOptions;
use super::transaction::{KeyRange, Row};

/// The keyspace that holds every row.
const KEYSPACE: &str = "rows";
/// Threads that flush and compact.
const WORKER_THREADS: usize = 2;
/// Most bytes of journals: bounds the replay after a crash.
const JOURNALS_BYTES_MAX: u64 = 256 << 20;
/// Every batch is on the disk when it is answered.
const PERSIST: PersistMode = if cfg!(feature = "unsafe-no-flush") {
    PersistMode::Buffer
} else {
    PersistMode::SyncData
};

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        Self(error.to_string())
    }
}

/// Rows in a fjall database. Field order is drop order: the lock goes last.
pub struct FjallEngine {
    rows: Keyspace,
    db: Database,
    _directory: Directory,
}

impl FjallEngine {
    /// Opens the store in `dir`, made if missing. Replays at most
    /// [`JOURNALS_BYTES_MAX`] of journals.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, options: &EngineOptions) -> Result<Self, OpenError> {
        let directory = Directory::open(dir, "fjall")?;
        let path = directory.engine_path();
        super::journal::repair(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => OpenError::Damaged {
                dir: dir.to_path_buf(),
                reason: error.to_string(),
            },
            _ => OpenError::io(dir, error),
        })?;
        let engine = |error| open_error(dir, error);
        let db = Database::builder(&path)
            .worker_threads(WORKER_THREADS)
            .cache_size(options.cache_bytes)
            .max_journaling_size(JOURNALS_BYTES_MAX)
            .open()
            .map_err(engine)?;
        let memtable_bytes = options.memtable_bytes;
        let create = || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes);
        let rows = db.keyspace(KEYSPACE, create).map_err(engine)?;
        db.persist(PersistMode::SyncAll).map_err(engine)?;
        directory.finish_creation()?;
        Ok(Self {
            rows,
            db,
            _directory: directory,
        })
    }
}

fn open_error(dir: &Path, error: fjall::Error) -> OpenError {
    match error {
        fjall::Error::Locked => OpenError::InUse {
            dir: dir.to_path_buf(),
        },
        fjall::Error::Io(error) => OpenError::io(dir, error),
        other => OpenError::engine(dir, other),
    }
}

impl Engine for FjallEngine {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        Ok(Arc::new(FjallSnapshot {
            rows: self.rows.clone(),
            snapshot: self.db.snapshot(),
        }))
    }

    fn apply(&self, rows: Batch) -> Result<(), EngineError> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.db.clone(), rows.len())
            .durability(Some(PERSIST));
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(&self.rows, key.as_ref(), value.as_ref()),
                None => batch.remove(&self.rows, key.as_ref()),
            }
        }
        Ok(batch.commit()?)
    }
}

struct FjallSnapshot {
    rows: Keyspace,
    snapshot: fjall::Snapshot,
}

impl Snapshot for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get(&self.rows, key)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan<'a>(&'a self, range: &KeyRange, reverse: bool) -> RowIterator<'a> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let rows = self
            .snapshot
            .range(&self.rows, range.start.as_ref()..range.end.as_ref());
        let row = |row: fjall::Guard| {
            let (key, value) = row.into_inner()?;
            Ok(Row {
                key: Bytes::copy_from_slice(&key),
                value: Bytes::copy_from_slice(&value),
            })
        };
        if reverse {
            Box::new(rows.rev().map(row))
        } else {
            Box::new(rows.map(row))
        }
    }
}
