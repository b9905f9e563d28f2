//! What a store counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::latency::{Latency, LatencyCounts};

/// Counts since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Transactions with writes that were committed.
    pub commits: u64,
    /// Commits refused as a conflict.
    pub conflicts: u64,
    /// Commits refused for another reason, none of them applied.
    pub refused: u64,
    /// Commits whose outcome is unknown.
    pub unknown: u64,
    /// Batches, relaxed and durable. Far fewer than commits when many commit at
    /// once.
    pub batches: u64,
    /// Durable batches, and flushes of relaxed ones.
    pub flushes: u64,
    /// Time spent in durable batches and flushes, microseconds.
    pub flush_us: u64,
    /// Commits that succeeded, by the time their callers waited, their turn included.
    pub latency: LatencyCounts,
}

/// The counters behind [`StoreStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) flush_us: AtomicU64,
    pub(super) latency: Latency,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> StoreStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            commits: read(&self.commits),
            conflicts: read(&self.conflicts),
            refused: read(&self.refused),
            unknown: read(&self.unknown),
            batches: read(&self.batches),
            flushes: read(&self.flushes),
            flush_us: read(&self.flush_us),
            latency: self.latency.read(),
        }
    }
}
