//! The O_DIRECT store: append-only segments, one index for all shards.
//!
//! `DIR/store/FORMAT` says version and secrets, `DIR/store/lock` keeps other
//! processes out, `DIR/store/shard-NNN/seg-NNNNNN` are the segments. Each shard
//! appends to a segment of its own by group commit; every shard reads them all.
//! Absent on purpose: what a chunk belongs to, hits and misses, the UFS.
//!
//! Invariants: bytes leave only after their checksums held. A record is entered
//! into the index after it was written, and answered as flushed after a flush
//! that began when its write had ended. A segment is recycled only when no
//! index entry names it and no read is in progress. After one failed write or
//! flush nothing is written again.

mod allocator;
mod append;
mod aside;
mod config;
mod core;
mod device;
mod dirty;
mod evict;
mod footer;
mod format;
mod group;
mod index;
mod local;
mod log;
mod prepare;
mod read;
mod record;
mod recovery;
mod scan;
mod segment;
mod shard;
mod stats;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quickwater_engine::io::ChunkId;
use quickwater_proto::BlobId;

pub use self::config::{DIRTY_RATIO, OpenError, StoreConfig};
use self::core::Core;
pub use self::dirty::Reservation;
use self::index::Index;
pub use self::shard::ShardStore;
pub use self::stats::StoreStats;
use crate::buffers::Pool;

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
        let segments_max = config.segments_of(format.segment_bytes)?;
        let recovered = recovery::recover(&root, &config, &format, segments_max)?;
        let dirty_limits = config.dirty_limits(segments_max, format.segment_bytes);
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
            allocator: Mutex::new(recovered.allocator),
            laps: AtomicU64::new(recovered.next_lap),
            dirty_limits,
            reserved: Mutex::default(),
            _lock: lock,
        };
        // Oldest lap first, so that the newest copy of a chunk wins.
        for (segment, entries) in &recovered.records {
            for entry in entries {
                core.publish(entry.chunk, recovery::location_of(segment, entry));
            }
        }
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        core.stats.recovery_ms.store(took, Ordering::Relaxed);
        Ok(Self {
            core: Arc::new(core),
        })
    }

    /// The store as shard `number` uses it, with the shard's buffers. Call it in
    /// the shard's runtime (timer enabled), once per shard.
    #[must_use]
    pub fn shard(&self, number: usize, pool: Pool) -> ShardStore {
        ShardStore::new(Arc::clone(&self.core), number, pool)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> &StoreStats {
        &self.core.stats
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

    /// Size of its segments.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.core.segment_bytes
    }

    /// Lets chunks `0..chunks` of a blob, written as
    /// [`Flushed`](quickwater_engine::io::Durability::Flushed), be evicted.
    /// Kept in memory only: after a restart what is on disk is pinned again
    /// until released or forgotten, see [`Store::pinned`].
    pub fn release(&self, blob: BlobId, chunks: u32) {
        for index in 0..chunks {
            self.core.release(ChunkId { blob, index });
        }
    }

    /// All pinned chunks, to be compared with the metadata after a restart.
    /// Walks the whole index.
    #[must_use]
    pub fn pinned(&self) -> Vec<ChunkId> {
        let pinned = self.core.index.sweep(index::Location::pinned);
        pinned.into_iter().map(|(chunk, _)| chunk).collect()
    }
}

#[cfg(test)]
mod tests;
