//! What a store is told when it is opened, and why it may refuse. Absent: IO.

use std::path::PathBuf;
use std::time::Duration;

use crate::buffers::PoolError;

/// Segment sizes a store may choose, largest first.
const SEGMENT_CHOICES: [u64; 5] = [1 << 30, 256 << 20, 64 << 20, 16 << 20, 4 << 20];
/// A store prefers the largest segment of which at least this many fit ...
const SEGMENTS_WANTED: u64 = 64;
/// ... and at least this many per shard.
const SEGMENTS_WANTED_PER_SHARD: u64 = 8;
/// Least segments per shard: one written, one prepared, two to evict from.
const SEGMENTS_LEAST_PER_SHARD: u64 = 4;
/// Smallest segment: some chunks and a footer.
const SEGMENT_LEAST_BYTES: u64 = 4 << 20;
/// Largest segment: offsets stay far below 32 bits of units.
const SEGMENT_MOST_BYTES: u64 = 4 << 30;

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Directory of the service; the store lives in `store` below it.
    pub dir: PathBuf,
    /// Bytes the store may take on disk.
    pub capacity_bytes: u64,
    /// Shards that will use it.
    pub shards: usize,
    /// Size of a segment; `None`: what the store has, or chosen from the
    /// capacity when it is new. A multiple of 1 MiB.
    pub segment_bytes: Option<u64>,
    /// Write zeros to new segments before they are used, so that records are
    /// written to blocks that exist (much faster with flushes).
    pub zero_ahead: bool,
    /// Longest wait for a buffer.
    pub buffer_timeout: Duration,
    /// Longest wait for one device operation; a write or flush that takes longer
    /// makes the store suspect.
    pub io_timeout: Duration,
    /// Threads that read segments at open.
    pub recovery_threads: usize,
}

impl StoreConfig {
    /// A store of `capacity_bytes` under `dir` with the usual other settings.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, capacity_bytes: u64, shards: usize) -> Self {
        Self {
            dir: dir.into(),
            capacity_bytes,
            shards: shards.max(1),
            segment_bytes: None,
            zero_ahead: true,
            buffer_timeout: Duration::from_secs(5),
            io_timeout: Duration::from_secs(30),
            recovery_threads: 4,
        }
    }

    /// The segment size for a new store.
    pub(super) fn choose_segment_bytes(&self) -> u64 {
        if let Some(bytes) = self.segment_bytes {
            return bytes;
        }
        let wanted = SEGMENTS_WANTED.max(SEGMENTS_WANTED_PER_SHARD * self.shards as u64);
        let fits = |bytes: &u64| self.capacity_bytes / bytes >= wanted;
        let choice = SEGMENT_CHOICES.into_iter().find(fits);
        choice.unwrap_or(SEGMENT_LEAST_BYTES)
    }

    /// How many segments of that size the capacity holds.
    pub(super) fn segments_of(&self, segment_bytes: u64) -> Result<u64, OpenError> {
        let whole = segment_bytes.is_multiple_of(1 << 20);
        if !whole || !(SEGMENT_LEAST_BYTES..=SEGMENT_MOST_BYTES).contains(&segment_bytes) {
            return Err(OpenError::Invalid(format!(
                "segments must have {SEGMENT_LEAST_BYTES} to {SEGMENT_MOST_BYTES} bytes, \
                 a multiple of 1 MiB, not {segment_bytes}"
            )));
        }
        let segments = self.capacity_bytes / segment_bytes;
        let least = SEGMENTS_LEAST_PER_SHARD * self.shards as u64;
        if segments < least {
            return Err(OpenError::Invalid(format!(
                "a capacity of {} bytes is too little: {} shards need at least {} bytes \
                 ({least} segments of {segment_bytes})",
                self.capacity_bytes,
                self.shards,
                least * segment_bytes,
            )));
        }
        Ok(segments)
    }
}

/// Why a store could not be opened. The text is for the admin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error("{doing} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Written by another version of the format.
    #[error("the store in {} has format {found}; this program reads format {supported}", dir.display())]
    OtherVersion {
        /// The store.
        dir: PathBuf,
        /// Its format.
        found: String,
        /// Ours.
        supported: u32,
    },
    /// It was made with another setting.
    #[error("the store in {} has {setting} {found}, not {asked}", dir.display())]
    OtherSetting {
        /// The store.
        dir: PathBuf,
        /// Which setting.
        setting: &'static str,
        /// What it has.
        found: u64,
        /// What was asked for.
        asked: u64,
    },
    /// Its FORMAT file is missing or does not make sense.
    #[error("{} is no store: {why}", dir.display())]
    NotAStore {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another process has it open.
    #[error("the store in {} is in use by process {pid}", dir.display())]
    InUse {
        /// The store.
        dir: PathBuf,
        /// The other process, as it wrote it.
        pid: String,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No memory to read segments with.
    #[error(transparent)]
    Buffers(#[from] PoolError),
}

impl OpenError {
    /// Wraps a failed file operation.
    pub(super) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { doing, path, cause }
    }
}
