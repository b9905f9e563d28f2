//! The O_DIRECT store: append-only segments, one index for all shards.
//!
//! `DIR/store/FORMAT` says version and secrets, `DIR/store/lock` keeps other
//! processes out, `DIR/store/shard-NNN/seg-NNNNNN` are the segments. Each shard
//! appends to a segment of its own by group commit; every shard reads them all.
//! Absent on purpose: what a chunk belongs to, hits and misses, the UFS.
//!
//! Invariants: bytes leave only after their checksums held. A record is entered
//! into the index after it was written, and answered as flushed after a flush
//! that began when its write had ended. That flush, or one before it, covers all
//! pinned records queued on the shard until then: a segment with pinned records
//! no flush has covered is flushed before it is sealed and before the next takes
//! records, so only the segment being written can hold such records, and what an
//! eviction moves was flushed before and is flushed again before its old place is
//! given up. A segment is recycled only when no index entry names it and no read
//! is in progress. After one failed write or flush nothing is written again.
//!
//! What is pinned, and what is reserved to be, stays below a limit that leaves
//! segments to evict. Releasing and forgetting are kept in memory only: after a
//! start all that was pinned and not recycled is pinned again, until
//! [`Store::reconcile`].

mod allocator;
mod append;
mod aside;
mod config;
mod core;
mod device;
mod dirty;
mod doubles;
mod evict;
mod facts;
mod footer;
mod format;
mod group;
mod index;
mod journal;
mod local;
mod log;
mod marks;
mod prepare;
mod read;
mod reads;
mod reconcile;
mod record;
mod recovery;
mod scan;
mod segment;
mod shard;
mod stats;
#[cfg(test)]
mod trace;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quickwater_engine::io::{ChunkId, JOURNAL_CHUNK, NOTE_CHUNK};
use quickwater_proto::BlobId;

pub use self::config::{DIRTY_RATIO, NoteOrder, OpenError, StoreConfig};
use self::core::Core;
pub use self::dirty::Reservation;
pub use self::facts::{Fact, FactError, Facts, Gaps};
pub use self::index::INDEX_RECORD_BYTES;
use self::index::Index;
pub use self::journal::{Journal, JournalEntry, JournalError};
use self::marks::Marks;
pub use self::reconcile::{Fate, Reconciled};
pub use self::shard::ShardStore;
pub use self::stats::StoreStats;
use crate::buffers::{Pool, PoolError};
use crate::tier::Tier;

/// An open store. Clones share it; it closes when the last clone and the last
/// [`ShardStore`] are gone.
#[derive(Clone)]
pub struct Store {
    core: Arc<Core>,
}

impl Store {
    /// Opens the store below `config.dir`, making a new one where there is
    /// none, and rebuilds the index. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is changed then.
    pub fn open(config: StoreConfig) -> Result<Self, OpenError> {
        let begun = Instant::now();
        let root = config.dir.join("store");
        format::make_directory(&root)?;
        let lock = format::lock(&root)?;
        let format = format::load_or_create(&root, &config)?;
        let marks = Marks::open(&root, &format)?;
        let segments_max = config.segments_of(format.segment_bytes)?;
        let recovered = recovery::recover(&root, &config, &format, segments_max)?;
        let dirty_limits = config.dirty_limits(segments_max, format.segment_bytes);
        let tier = Tier::new(config.ram_tier_bytes).map_err(PoolError::from)?;
        let stats = StoreStats::default();
        recovery::count(&stats, &recovered);
        let core = Core {
            config,
            root,
            segment_bytes: format.segment_bytes,
            segments_max,
            secrets: format.secrets,
            index: Index::new(),
            table: recovered.table,
            stats,
            marks,
            outlived: Mutex::default(),
            torn: recovered.torn,
            tier,
            allocator: Mutex::new(recovered.allocator),
            laps: AtomicU64::new(recovered.next_lap),
            dirty_limits,
            reserved: Mutex::default(),
            _lock: lock,
        };
        let core = Arc::new(core);
        doubles::enter_all(&core, &recovered.records)?;
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        core.stats.recovery_ms.store(took, Ordering::Relaxed);
        Ok(Self { core })
    }

    /// The store as shard `number` uses it, with the shard's buffers. Call it in
    /// the shard's runtime (timer enabled), once per shard.
    #[must_use]
    pub fn shard(&self, number: usize, pool: Pool) -> ShardStore {
        ShardStore::new(Arc::clone(&self.core), number, pool)
    }

    /// The store for a thread beside the shards that reads, releases and forgets;
    /// its writes are refused. Call it in that thread's runtime (timer enabled).
    #[must_use]
    pub fn reader(&self, pool: Pool) -> ShardStore {
        ShardStore::reader(Arc::clone(&self.core), pool)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> &StoreStats {
        &self.core.stats
    }

    /// The RAM tier in front of it.
    #[must_use]
    pub fn tier(&self) -> &Tier {
        &self.core.tier
    }

    /// Chunks in the index.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.core.index.len()
    }

    /// Bytes on disk it may take: whole segments of the configured capacity.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.core.segments_max * self.core.segment_bytes
    }

    /// Most bytes on disk that may be pinned and reserved together: the
    /// configured share of the capacity, or what leaves segments to evict.
    #[must_use]
    pub fn dirty_limit_bytes(&self) -> u64 {
        self.core.dirty_limits.bytes
    }

    /// Most records that may be pinned and reserved together: what a share of the
    /// index's memory holds.
    #[must_use]
    pub fn dirty_limit_records(&self) -> u64 {
        self.core.dirty_limits.records
    }

    /// Size of its segments.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.core.segment_bytes
    }

    /// Bytes of memory the index takes.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        self.core.index.bytes()
    }

    /// Lets the pinned chunks `0..chunks` of a blob be evicted and forgets its
    /// entry in the journal; see
    /// [`Disk::release`](quickwater_engine::io::Disk::release). Kept in memory
    /// only: after a restart what is on disk is pinned again until
    /// [`Store::reconcile`].
    pub fn release(&self, blob: BlobId, chunks: u32) {
        self.core.release_blob(blob, chunks);
    }

    /// Forgets chunks `0..chunks` of a blob and its entry in the journal; as
    /// [`Store::release`] in memory only.
    pub fn forget(&self, blob: BlobId, chunks: u32) {
        self.core.forget_blob(blob, chunks);
    }

    /// All pinned chunks, those of a blob together and in order. Walks the whole
    /// index.
    #[must_use]
    pub fn pinned(&self) -> Vec<ChunkId> {
        let pinned = self.core.index.sweep(|_, at| at.pinned());
        let mut pinned: Vec<_> = pinned.into_iter().map(|(chunk, _)| chunk).collect();
        pinned.sort_unstable_by_key(|chunk| (chunk.blob.0, chunk.index));
        pinned
    }

    /// Reads all entries of the journal, in no order that means anything. Blocks
    /// in `next`: not for a shard's thread.
    ///
    /// An entry being here says only that it was written: when it was not acked,
    /// what was queued with it may be torn. Before one is replayed that the
    /// metadata does not know, [`Store::holds`] must say that its data are here.
    ///
    /// # Errors
    /// No memory for a read buffer.
    pub fn journal(&self) -> Result<Journal, PoolError> {
        Journal::new(Arc::clone(&self.core))
    }

    /// Reads single records of the store by their chunks ([`Journal::chunk`]); lists none.
    /// Blocks in that.
    ///
    /// # Errors
    /// No memory for a read buffer.
    pub fn records(&self) -> Result<Journal, PoolError> {
        Journal::of(Arc::clone(&self.core), Vec::new())
    }

    /// A name of this store that no other has; a store made anew has another. Tells
    /// nothing about the store's secrets.
    #[must_use]
    pub fn identity(&self) -> [u8; 16] {
        quickwater_hash::Md5::digest(&self.core.secrets.mark)
    }

    /// The directory of the store.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        &self.core.root
    }

    /// Every entry and note on disk, ended or not, in no order that means anything.
    /// Blocks in `next`. 48 bytes of memory each.
    ///
    /// # Errors
    /// No memory for a read buffer.
    pub fn facts(&self) -> Result<Facts, PoolError> {
        Facts::new(Arc::clone(&self.core))
    }

    /// Whether [`Store::facts`] can tell what has ended: this version of the program
    /// or a later one has used the store with its metadata.
    #[must_use]
    pub fn knows_what_ended(&self) -> bool {
        self.core.marks.found().whole
    }

    /// The sequence up to which entries were acked or will never be, as noted before
    /// the store was opened.
    #[must_use]
    pub fn settled_through(&self) -> u64 {
        self.core.marks.found().through
    }

    /// Notes that entries up to this sequence were acked or will never be. For
    /// [`Store::facts`] after the metadata are lost; not flushed at once.
    pub fn note_settled(&self, through: u64) {
        self.core.marks.settled(through);
    }

    /// From now on [`Store::facts`] can tell what has ended. To be called after
    /// [`Store::reconcile`], which notes what ended before.
    pub fn trust_marks(&self) {
        doubles::note_outlived(&self.core);
        facts::forget_absent(&self.core);
        facts::forget_torn(&self.core);
        self.core.marks.trust();
    }

    /// From now on it cannot: somebody uses the store who writes no notes.
    pub fn distrust_marks(&self) {
        self.core.marks.distrust();
    }

    /// Returns when all that [`Store::facts`] tells is flushed; `false`: not within
    /// `timeout`. Blocks.
    #[must_use]
    pub fn sync_marks(&self, timeout: std::time::Duration) -> bool {
        self.core.marks.sync(timeout)
    }

    /// What is missing of the store as a whole.
    ///
    /// # Errors
    /// The marks cannot be read.
    pub fn gaps(&self) -> std::io::Result<Gaps> {
        facts::gaps(&self.core)
    }

    /// Whether all chunks of a blob of `bytes` bytes are here. After
    /// [`Store::open`], before the first eviction, that means flushed and (for
    /// pinned chunks) verified, if not at this open then before they were sealed.
    #[must_use]
    pub fn holds(&self, blob: BlobId, bytes: u64) -> bool {
        reconcile::holds(&self.core, blob, bytes)
    }

    /// Whether a blob has an entry of the journal that stays.
    #[must_use]
    pub fn has_entry(&self, blob: BlobId) -> bool {
        self.has_pinned(blob, JOURNAL_CHUNK)
    }

    /// Whether there is a note beside a blob.
    #[must_use]
    pub fn has_note(&self, blob: BlobId) -> bool {
        self.has_pinned(blob, NOTE_CHUNK)
    }

    fn has_pinned(&self, blob: BlobId, index: u32) -> bool {
        let at = self.core.index.get(ChunkId { blob, index });
        at.is_some_and(|at| at.pinned())
    }

    /// Decides about every blob that has pinned records; `fate` is asked at least
    /// once for each. Only before the shards take writes: a blob that is being
    /// written is in no metadata yet.
    pub fn reconcile(&self, fate: impl FnMut(BlobId) -> Fate) -> Reconciled {
        reconcile::reconcile(&self.core, fate)
    }

    /// Forgets all pinned blobs that are not `known` and keeps the others pinned;
    /// see [`Store::reconcile`].
    pub fn forget_unknown(&self, known: impl Fn(BlobId) -> bool) -> Reconciled {
        self.reconcile(|blob| {
            if known(blob) {
                Fate::Keep
            } else {
                Fate::Forget
            }
        })
    }
}

#[cfg(test)]
mod tests;
