//! What all shards share: index, segments, counters. Absent: IO, tasks.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quickwater_engine::io::{ChunkId, JOURNAL_CHUNK, NOTE_CHUNK};
use quickwater_proto::BlobId;

use super::allocator::Allocator;
use super::config::StoreConfig;
use super::dirty::{Limits, Reserved};
use super::index::{Index, Location};
use super::marks::{Mark, Marks, What};
use super::record::{Secrets, footprint};
use super::scan::Torn;
use super::segment::{Pin, Table};
use super::stats::StoreStats;
use crate::tier::Tier;

/// Low bits of a generation that are random, so that a lap whose header was
/// lost in a crash cannot be mistaken for a later one.
const RANDOM_BITS: u32 = 24;

/// The shared part of a store.
pub(super) struct Core {
    pub(super) config: StoreConfig,
    /// The `store` directory.
    pub(super) root: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) segments_max: u64,
    pub(super) secrets: Secrets,
    pub(super) index: Index,
    pub(super) table: Table,
    pub(super) stats: StoreStats,
    /// Which entries and notes have ended.
    pub(super) marks: Marks,
    /// Entries and notes found at open that a newer one took the place of.
    pub(super) outlived: Mutex<Vec<Mark>>,
    /// Entries and notes found torn at open.
    pub(super) torn: Vec<Torn>,
    /// Whole small objects, also kept in memory.
    pub(super) tier: Tier,
    pub(super) allocator: Mutex<Allocator>,
    pub(super) laps: AtomicU64,
    /// Most that may be pinned and reserved.
    pub(super) dirty_limits: Limits,
    pub(super) reserved: Mutex<Reserved>,
    /// Held as long as the store is open.
    pub(super) _lock: File,
}

/// The lap counter part of a generation.
pub(super) fn lap_of(generation: u64) -> u64 {
    generation >> RANDOM_BITS
}

impl Core {
    /// The allocator, for one decision.
    pub(super) fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A generation later than all before.
    pub(super) fn next_generation(&self) -> std::io::Result<u64> {
        let mut random = [0u8; 4];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let random = u64::from(u32::from_le_bytes(random)) & ((1 << RANDOM_BITS) - 1);
        let lap = self.laps.fetch_add(1, Ordering::Relaxed);
        Ok((lap << RANDOM_BITS) | random)
    }

    /// Looks a chunk up and keeps its segment from being recycled.
    pub(super) fn pin(&self, chunk: ChunkId, count: bool) -> Option<(Location, Pin)> {
        self.index.get_pinned(chunk, count, |location| {
            self.table.get(location.segment).map(Pin::new)
        })
    }

    fn count_in(&self, location: Location) {
        if let Some(segment) = self.table.get(location.segment) {
            segment.count_in(location, &self.stats);
        }
    }

    fn count_out(&self, location: Location) {
        if let Some(segment) = self.table.get(location.segment) {
            segment.count_out(location, &self.stats);
        }
    }

    /// Enters a record that is on disk.
    pub(super) fn publish(&self, chunk: ChunkId, location: Location) {
        self.count_in(location);
        if let Some(old) = self.index.insert(chunk, location) {
            self.count_out(old);
            // The new one says it all, also that there is nothing to say.
            self.note_over(chunk, old, What::Void);
        }
    }

    /// Enters a record found at open, without noting what it replaces: at a start
    /// nothing is known yet of what is on disk.
    pub(super) fn enter_found(&self, chunk: ChunkId, location: Location) {
        self.count_in(location);
        if let Some(old) = self.index.insert(chunk, location) {
            self.count_out(old);
        }
    }

    /// An entry of the journal or a note is not needed any more: it has ended, or is void.
    fn note_over(&self, chunk: ChunkId, at: Location, what: impl FnOnce(u32) -> What) {
        if chunk.index >= NOTE_CHUNK {
            self.note_lap(at.segment, what(at.offset));
        }
    }

    /// Notes something of the current lap of a segment.
    pub(super) fn note_lap(&self, segment: u32, what: What) {
        if let Some(found) = self.table.get(segment) {
            let generation = found.generation();
            self.marks.note(Mark {
                segment,
                generation,
                what,
            });
        }
    }

    /// Enters the copy of a record in place of `old`, unless the chunk was
    /// forgotten or written anew in between.
    pub(super) fn publish_moved(&self, chunk: ChunkId, old: Location, new: Location) {
        self.count_in(new);
        match self.index.move_if(chunk, old, new) {
            Some(entered) => {
                if new.pinned() && !entered.pinned() {
                    self.count_released(new);
                }
                // The old entry had the same pin as the one entered.
                let pin = entered.pinned();
                let gone = Location::new(old.segment, old.offset, old.data_len(), pin);
                self.count_out(gone);
                // The copy was flushed before.
                self.note_over(chunk, old, What::Void);
            }
            None => {
                self.count_out(new);
                // Whether it has ended is noted of the old one.
                self.note_over(chunk, new, What::Void);
            }
        }
    }

    fn count_released(&self, location: Location) {
        if let Some(segment) = self.table.get(location.segment) {
            segment.count_released(location, &self.stats);
        }
    }

    /// Removes a record if it still is the one at `location`.
    pub(super) fn remove_record(&self, chunk: ChunkId, location: Location) -> bool {
        let removed = self.index.remove_if(chunk, location);
        if let Some(removed) = removed {
            self.count_out(removed);
            self.note_over(chunk, removed, What::Void);
        }
        removed.is_some()
    }

    /// Removes whatever record a chunk has. An entry or a note is void from then on.
    pub(super) fn forget(&self, chunk: ChunkId) {
        self.remove(chunk, What::Void);
    }

    /// Removes an entry or a note that has ended.
    pub(super) fn end(&self, chunk: ChunkId) {
        self.remove(chunk, What::Ended);
    }

    fn remove(&self, chunk: ChunkId, what: impl FnOnce(u32) -> What) {
        if let Some(removed) = self.index.remove(chunk) {
            self.count_out(removed);
            self.note_over(chunk, removed, what);
        }
    }

    /// Makes a clean chunk one of the first to be evicted.
    pub(super) fn make_spare(&self, chunk: ChunkId) {
        if let Some(location) = self.index.make_spare(chunk) {
            let bytes = footprint(location.data_len() as usize) as u64;
            StoreStats::add(&self.stats.spare_bytes, bytes);
        }
    }

    /// Removes a chunk if it is one of these.
    pub(super) fn drop_spare(&self, chunk: ChunkId) {
        if let Some(removed) = self.index.remove_spare(chunk) {
            self.count_out(removed);
        }
    }

    /// Lets a chunk be evicted.
    pub(super) fn release(&self, chunk: ChunkId) {
        if let Some(location) = self.index.release(chunk) {
            self.count_released(location);
        }
    }

    /// Lets chunks `0..chunks` of a blob be evicted; its entry and note have ended.
    pub(super) fn release_blob(&self, blob: BlobId, chunks: u32) {
        for index in 0..chunks {
            self.release(ChunkId { blob, index });
        }
        for index in [JOURNAL_CHUNK, NOTE_CHUNK] {
            self.end(ChunkId { blob, index });
        }
    }

    /// Removes chunks `0..chunks` of a blob, from memory too, its entry and note, which are
    /// void.
    pub(super) fn forget_blob(&self, blob: BlobId, chunks: u32) {
        for index in (0..chunks).chain([JOURNAL_CHUNK, NOTE_CHUNK]) {
            self.forget(ChunkId { blob, index });
        }
        self.tier.forget(ChunkId { blob, index: 0 });
    }

    /// A record did not verify: it is forgotten, the caller answers "not here".
    pub(super) fn damaged(&self, chunk: ChunkId, location: Location) {
        StoreStats::add(&self.stats.damaged_records, 1);
        // It has not ended: a damaged entry stays an entry that cannot be read.
        if let Some(removed) = self.index.remove_if(chunk, location) {
            self.count_out(removed);
        }
        tracing::error!(
            blob = %chunk.blob,
            chunk = chunk.index,
            segment = location.segment,
            offset = location.offset,
            pinned = location.pinned(),
            "a record does not verify and was forgotten"
        );
    }

    /// A write or flush failed: no more writes, for good. A failed flush may
    /// have dropped what it should have written, so it is never tried again.
    pub(super) fn suspect(&self, what: &str, cause: &std::io::Error) {
        StoreStats::add(&self.stats.io_errors, 1);
        self.stats.suspect.store(true, Ordering::Release);
        tracing::error!(what, %cause, "the store is suspect and takes no more writes");
    }
}
