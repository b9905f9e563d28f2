//! The default engine: fjall, a log-structured tree with a journal.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::directory::{Directory, OpenError};
use super::engine::{Batch, Durability, Engine, EngineError, RowIterator, Snapshot};
use super::journal;
use super::open::EngineOptions;
use super::transaction::{KeyRange, Row};

/// The keyspace that holds every row.
const KEYSPACE: &str = "rows";
/// Threads that flush and compact.
const WORKER_THREADS: usize = 2;
/// Most bytes of journals: bounds the replay after a crash.
const JOURNALS_BYTES_MAX: u64 = 256 << 20;
/// Least and most bytes of rows copied into one allocation.
const COPIES_BYTES_MIN: usize = 4 << 10;
const COPIES_BYTES_MAX: usize = 64 << 10;
/// A flushed batch is on the disk when it is answered.
const FLUSHED: PersistMode = if cfg!(feature = "unsafe-no-flush") {
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
    /// Bytes of journal since the last flush. Only the committer writes it.
    unflushed: AtomicU64,
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
        journal::repair(&path).map_err(|error| match error.kind() {
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
            unflushed: AtomicU64::new(0),
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

    /// A batch says how much of the journal before it is not flushed, so that a
    /// repair can tell what a power cut may have taken (see [`super::journal`]).
    fn apply(&self, rows: Batch, durability: Durability) -> Result<(), EngineError> {
        let unflushed = self.unflushed.load(Ordering::Relaxed);
        let mode = match durability {
            Durability::Flushed => FLUSHED,
            Durability::Relaxed => PersistMode::Buffer,
        };
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.db.clone(), rows.len() + 1)
            .durability(Some(mode));
        let mut length = journal::BATCH_FRAME_BYTES;
        let mut measure = |key: &[u8], value: &[u8]| {
            length += journal::ITEM_FRAME_BYTES + key.len() as u64 + value.len() as u64;
        };
        if unflushed > 0 {
            let claim = unflushed.to_be_bytes();
            measure(journal::UNFLUSHED_KEY, &claim);
            batch.insert(&self.rows, journal::UNFLUSHED_KEY, claim);
        }
        for (key, value) in rows {
            measure(&key, value.as_deref().unwrap_or_default());
            match value {
                Some(value) => batch.insert(&self.rows, key.as_ref(), value.as_ref()),
                None => batch.remove(&self.rows, key.as_ref()),
            }
        }
        batch.commit()?;
        let unflushed = match durability {
            Durability::Flushed => 0,
            Durability::Relaxed => unflushed + length,
        };
        self.unflushed.store(unflushed, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.db.persist(FLUSHED)?;
        self.unflushed.store(0, Ordering::Relaxed);
        Ok(())
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
        let mut copies = Copies::default();
        let row = move |row: fjall::Guard| {
            let (key, value) = row.into_inner()?;
            Ok(Row {
                key: copies.take(&key),
                value: copies.take(&value),
            })
        };
        if reverse {
            Box::new(rows.rev().map(row))
        } else {
            Box::new(rows.map(row))
        }
    }
}

/// Copies of rows, many in one allocation. They free it together, which is right for
/// the rows of a scan: they are decoded and dropped together too.
#[derive(Default)]
struct Copies {
    room: BytesMut,
    /// Bytes of the last allocation.
    size: usize,
}

impl Copies {
    fn take(&mut self, bytes: &[u8]) -> Bytes {
        if self.room.capacity() < bytes.len() {
            // A scan of few rows shall not pay for one of many.
            self.size = (self.size * 2).clamp(COPIES_BYTES_MIN, COPIES_BYTES_MAX);
            self.room = BytesMut::with_capacity(self.size.max(bytes.len()));
        }
        self.room.extend_from_slice(bytes);
        self.room.split().freeze()
    }
}
