//! How long writes waited, counted by length. Absent: clocks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the counts, milliseconds: from at once to a day. Close to each other
/// around minutes, where a store that was away for some is told from one that was for an
/// hour: what is drawn between two bounds is a guess.
const BOUNDS_MS: [u64; 21] = [
    10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 90_000, 120_000,
    180_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000, 14_400_000, 86_400_000,
];

/// Counts by length, and their sum.
#[derive(Debug, Default)]
pub struct Lag {
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_ms: AtomicU64,
}

impl Lag {
    /// Counts one wait; a clock that was set back counts as none.
    pub(crate) fn count(&self, ms: i64) {
        let ms = u64::try_from(ms).unwrap_or(0);
        let at = BOUNDS_MS.partition_point(|&bound| bound < ms);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Upper bounds in seconds, the last one infinite, and how many waits each holds.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS_MS.iter().map(|&ms| ms as f64 / 1e3);
        let bounds = bounds.chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().map(|c| c.load(Ordering::Relaxed)))
    }

    /// Seconds of all waits.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ms.load(Ordering::Relaxed) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_counted_by_length() {
        let lag = Lag::default();
        for ms in [-5, 0, 10, 11, 90_000_000] {
            lag.count(ms);
        }
        let buckets: Vec<_> = lag.buckets().collect();
        assert_eq!(buckets[..2], [(0.01, 3), (0.05, 1)]);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
        assert!((lag.sum_seconds() - 90_000.021).abs() < 1e-6);
    }
}
