//! What the store counts. Absent: hits and misses, which are the engine's words.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters and gauges of a store; all shards together.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Bytes read from the device for reads.
    pub read_bytes: AtomicU64,
    /// Device reads.
    pub read_ops: AtomicU64,
    /// Bytes written to the device: records, footers, headers.
    pub written_bytes: AtomicU64,
    /// Device writes.
    pub write_ops: AtomicU64,
    /// Bytes of zeros written ahead on the first lap.
    pub zeroed_bytes: AtomicU64,
    /// Device flushes.
    pub flushes: AtomicU64,
    /// Groups committed.
    pub groups: AtomicU64,
    /// Records committed; divided by `groups`: records per group.
    pub records: AtomicU64,
    /// Data bytes of evicted records.
    pub evicted_bytes: AtomicU64,
    /// Records evicted.
    pub evicted_records: AtomicU64,
    /// Data bytes written again because they were hot or pinned.
    pub reinserted_bytes: AtomicU64,
    /// Segments recycled.
    pub recycled_segments: AtomicU64,
    /// Records found damaged and forgotten.
    pub damaged_records: AtomicU64,
    /// Device operations that failed or did not end in time.
    pub io_errors: AtomicU64,
    /// Writes refused because nothing could be evicted.
    pub full: AtomicU64,
    /// Bytes on disk of live records, heads and padding included.
    pub live_bytes: AtomicU64,
    /// Bytes on disk of pinned records: what only this store may have.
    pub pinned_bytes: AtomicU64,
    /// Pinned records.
    pub pinned_records: AtomicU64,
    /// Bytes of records that are evicted first (copies of what other workers hold).
    pub spare_bytes: AtomicU64,
    /// Bytes on disk reserved for records that will be pinned.
    pub reserved_bytes: AtomicU64,
    /// Records reserved.
    pub reserved_records: AtomicU64,
    /// Reservations refused because the limit was reached.
    pub dirty_refused: AtomicU64,
    /// How long recovery took at open, milliseconds.
    pub recovery_ms: AtomicU64,
    /// Records recovered at open.
    pub recovered_records: AtomicU64,
    /// Segments that had to be scanned at open because they had no footer.
    pub scanned_segments: AtomicU64,
    /// A write or flush failed; the store takes no more writes.
    pub suspect: AtomicBool,
}

impl StoreStats {
    /// Adds to a counter.
    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes from a gauge.
    pub(super) fn sub(gauge: &AtomicU64, amount: u64) {
        gauge.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Whether the store takes no more writes.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }
}
