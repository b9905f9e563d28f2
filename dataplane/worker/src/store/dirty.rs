//! How much may be held that nobody else has: the limit on pinned records.
//!
//! What is pinned is counted in bytes on disk by the segments; what was promised
//! and is not pinned yet is counted here. Absent: pacing and what a refused
//! caller does instead, which are the engine's.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use quickwater_engine::io::{DirtyAmount, DirtySpace, DiskError};
use quickwater_proto::CHUNK_BYTES;

use super::core::Core;
use super::record::{UNIT_BYTES, footprint};
use super::stats::StoreStats;

/// Most bytes on disk that head and padding add to a chunk's data.
const OVERHEAD_BYTES_MAX: u64 = 2 * UNIT_BYTES as u64;
/// Bytes on disk set aside for the blob's entry in the journal; few are longer.
const JOURNAL_BYTES: u64 = UNIT_BYTES as u64;
/// Most pinned bytes of a segment that is evicted when all others are worse:
/// copying three parts to gain one is slow, but it always gains.
const CROWDED_PARTS: (u64, u64) = (3, 4);

/// Limits on what is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// Records.
    pub(super) records: u64,
}

/// Most pinned bytes a segment may have to be evicted at all.
pub(super) fn crowded_bytes(segment_bytes: u64) -> u64 {
    let (parts, of) = CROWDED_PARTS;
    segment_bytes / of * parts
}

/// The share `ratio` of `segments`, but never so much that all segments which
/// can be evicted (each shard writes one and prepares one) might be too crowded.
pub(super) fn limit_bytes(ratio: f64, segments: u64, shards: u64, segment_bytes: u64) -> u64 {
    let share = (ratio * (segments * segment_bytes) as f64) as u64;
    let sealed = segments.saturating_sub(2 * shards);
    share.min(sealed * crowded_bytes(segment_bytes))
}

/// What is promised and not pinned yet.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    bytes: u64,
    records: u64,
}

/// Space kept for pinned records of one blob until it is dropped.
pub struct Reservation {
    core: Arc<Core>,
    bytes: u64,
    records: u64,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, records) = (self.bytes, self.records);
        write!(out, "Reservation({bytes} bytes, {records} records)")
    }
}

impl Reservation {
    /// Bytes on disk it keeps.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = lock(&self.core);
        reserved.bytes -= self.bytes;
        reserved.records -= self.records;
        show(&self.core, &reserved);
    }
}

/// Bytes on disk of `chunks` records with `bytes` of data in all, and the entry
/// in the journal. Exact when all chunks but the last are full, else an upper
/// bound.
fn needed_bytes(bytes: u64, chunks: u32) -> u64 {
    let chunk = u64::from(CHUNK_BYTES);
    let (full, rest) = (bytes / chunk, bytes % chunk);
    let data = if bytes.div_ceil(chunk).max(1) == u64::from(chunks) {
        let last = match rest {
            0 if full > 0 => 0,
            rest => footprint(rest as usize) as u64,
        };
        full.saturating_mul(footprint(CHUNK_BYTES as usize) as u64)
            .saturating_add(last)
    } else {
        bytes.saturating_add(u64::from(chunks) * OVERHEAD_BYTES_MAX)
    };
    data.saturating_add(JOURNAL_BYTES)
}

/// Keeps space for `bytes` in `chunks` chunks and one entry in the journal.
///
/// # Errors
/// [`DiskError::DirtyFull`], [`DiskError::Suspect`].
pub(super) fn reserve(core: &Arc<Core>, bytes: u64, chunks: u32) -> Result<Reservation, DiskError> {
    if core.stats.is_suspect() {
        return Err(DiskError::Suspect);
    }
    let (bytes, records) = (needed_bytes(bytes, chunks), u64::from(chunks) + 1);
    let mut reserved = lock(core);
    // Read under the lock: records are pinned before their reservation is
    // dropped, so what is no longer reserved is counted as pinned.
    let pinned = core.stats.pinned_bytes.load(Ordering::Acquire);
    let pinned_records = core.stats.pinned_records.load(Ordering::Acquire);
    let fits = |limit: u64, terms: [u64; 3]| {
        let sum = terms.into_iter().try_fold(0u64, u64::checked_add);
        sum.is_some_and(|sum| sum <= limit)
    };
    let limits = core.dirty_limits;
    if !fits(limits.bytes, [pinned, reserved.bytes, bytes])
        || !fits(limits.records, [pinned_records, reserved.records, records])
    {
        StoreStats::add(&core.stats.dirty_refused, 1);
        return Err(DiskError::DirtyFull);
    }
    reserved.bytes += bytes;
    reserved.records += records;
    show(core, &reserved);
    Ok(Reservation {
        core: Arc::clone(core),
        bytes,
        records,
    })
}

/// What is taken of the limits.
pub(super) fn space(core: &Core) -> DirtySpace {
    let reserved = lock(core);
    let amount = |bytes, records| DirtyAmount { bytes, records };
    let (stats, limits) = (&core.stats, core.dirty_limits);
    DirtySpace {
        pinned: amount(
            stats.pinned_bytes.load(Ordering::Acquire),
            stats.pinned_records.load(Ordering::Acquire),
        ),
        reserved: amount(reserved.bytes, reserved.records),
        limit: amount(limits.bytes, limits.records),
    }
}

fn lock(core: &Core) -> MutexGuard<'_, Reserved> {
    let reserved = core.reserved.lock();
    reserved.unwrap_or_else(PoisonError::into_inner)
}

fn show(core: &Core, reserved: &Reserved) {
    let stats = &core.stats;
    stats
        .reserved_bytes
        .store(reserved.bytes, Ordering::Relaxed);
    stats
        .reserved_records
        .store(reserved.records, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn space_is_exact_for_whole_chunks_and_enough_for_others() {
        for bytes in [
            0,
            1,
            10_240,
            65_535,
            65_536,
            MIB - 1,
            MIB,
            MIB + 1,
            10 * MIB,
        ] {
            let chunks = bytes.div_ceil(MIB).max(1);
            let last = bytes.saturating_sub((chunks - 1) * MIB) as usize;
            let records = (chunks - 1) * footprint(MIB as usize) as u64 + footprint(last) as u64;
            let needed = needed_bytes(bytes, chunks as u32);
            assert_eq!(needed, records + JOURNAL_BYTES, "{bytes}");
            // The same bytes in twice as many chunks.
            let halves = 2 * chunks * footprint(bytes.div_ceil(2 * chunks) as usize) as u64;
            assert!(needed_bytes(bytes, 2 * chunks as u32) >= halves, "{bytes}");
        }
        assert_eq!(needed_bytes(u64::MAX, u32::MAX), u64::MAX);
    }

    #[test]
    fn a_limit_leaves_segments_that_can_be_evicted() {
        // Plenty of segments: the ratio decides.
        assert_eq!(limit_bytes(0.25, 64, 2, 4 * MIB), 64 * MIB);
        // Four for one shard, two of which can be evicted when three quarters full.
        assert_eq!(limit_bytes(0.9, 4, 1, 4 * MIB), 6 * MIB);
        assert_eq!(limit_bytes(1.0, 2, 1, 4 * MIB), 0);
    }
}
