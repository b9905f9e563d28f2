//! What a store is told when it is opened, and why it may refuse. Absent: IO.

use std::path::PathBuf;
use std::time::Duration;

use super::dirty::{Limits, limit_bytes};
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

/// Share of the capacity that may be pinned when nothing else was said.
pub const DIRTY_RATIO: f64 = 0.3;
/// Records when nothing else was said: 512 MiB of index.
const RECORDS_MAX: u64 = 8 << 20;
/// Most pinned records however many there may be in all: what was pinned is looked
/// through at every start.
const DIRTY_RECORDS_MAX: u64 = 2 << 20;
/// Of all records at most one in this many is pinned: others can be evicted.
const DIRTY_RECORDS_SHARE: u64 = 2;

/// Tells the order of notes that lie beside one blob: of two the greater is the newer.
/// `None`: it is not understood.
pub type NoteOrder = fn(&[u8]) -> Option<(u64, u64)>;

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
    /// Share of the capacity that pinned records may take, 0 to 1. What leaves
    /// no segment to evict is cut off, see [`Store::dirty_limit_bytes`].
    ///
    /// [`Store::dirty_limit_bytes`]: super::Store::dirty_limit_bytes
    pub dirty_ratio: f64,
    /// Most records, of [`INDEX_RECORD_BYTES`] of memory each. Beyond it segments
    /// are evicted though the disk has room; what a segment holds may come on top,
    /// and after a start what was there already. Half may be pinned, at most 2 Mi.
    ///
    /// [`INDEX_RECORD_BYTES`]: super::INDEX_RECORD_BYTES
    pub records_max: u64,
    /// Longest wait for a buffer.
    pub buffer_timeout: Duration,
    /// Longest wait for one device operation; a write or flush that takes longer
    /// makes the store suspect.
    pub io_timeout: Duration,
    /// Memory for the RAM tier of small objects, bytes; 0 = none.
    pub ram_tier_bytes: usize,
    /// Threads that read segments at open.
    pub recovery_threads: usize,
    /// What notes say of their order; without it their place on disk decides.
    pub note_order: NoteOrder,
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
            dirty_ratio: DIRTY_RATIO,
            records_max: RECORDS_MAX,
            buffer_timeout: Duration::from_secs(5),
            io_timeout: Duration::from_secs(30),
            ram_tier_bytes: 0,
            recovery_threads: 4,
            note_order: |_| None,
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

    /// Most that may be pinned.
    pub(super) fn dirty_limits(&self, segments: u64, segment_bytes: u64) -> Limits {
        let (ratio, shards) = (self.dirty_ratio, self.shards as u64);
        Limits {
            bytes: limit_bytes(ratio, segments, shards, segment_bytes),
            records: (self.records_max / DIRTY_RECORDS_SHARE).min(DIRTY_RECORDS_MAX),
        }
    }

    /// How many segments of that size the capacity holds.
    pub(super) fn segments_of(&self, segment_bytes: u64) -> Result<u64, OpenError> {
        if !(0.0..=1.0).contains(&self.dirty_ratio) {
            let ratio = self.dirty_ratio;
            return Err(OpenError::Invalid(format!(
                "the dirty ratio must be 0 to 1, not {ratio}"
            )));
        }
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
