//! Latencies: recorded in three significant digits, reported as quantiles and as
//! a short histogram that can be plotted and merged.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Shortest latency told apart, nanoseconds.
const LOWEST_NS: u64 = 1_000;
/// Longest latency told apart, nanoseconds: one hour. Longer ones count as this.
const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Significant digits while recording.
const RECORDED_DIGITS: u8 = 3;
/// Significant digits of the reported histogram.
const REPORTED_DIGITS: u8 = 2;

/// Latencies of successful requests, microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Values recorded.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Half of the requests took no longer.
    pub p50_us: f64,
    /// 90 % took no longer.
    pub p90_us: f64,
    /// 99 % took no longer.
    pub p99_us: f64,
    /// 99.9 % took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Pairs of an upper bound in nanoseconds and the requests between it and the
    /// bound before; two significant digits, empty ones left out, ascending.
    pub histogram: Vec<(u64, u64)>,
}

impl Latency {
    /// The latency `share` (0 to 1) of the requests did not exceed, from the
    /// histogram, microseconds; none when nothing was recorded.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> Option<f64> {
        let wanted = (share.clamp(0.0, 1.0) * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (bound, count) in &self.histogram {
            seen += count;
            if seen >= wanted {
                return Some(*bound as f64 / 1e3);
            }
        }
        None
    }

    /// All of several rounds together.
    #[must_use]
    pub fn merged<'a>(rounds: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Recorder::new();
        for (bound, count) in rounds.flat_map(|l| &l.histogram) {
            all.record_many(*bound, *count);
        }
        all.latency()
    }
}

/// Records latencies. Not shared: every thread has its own, merged at the end.
#[derive(Debug, Clone)]
pub struct Recorder(Option<Histogram<u64>>);

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        // The constants are valid bounds (a test says so); `None` never happens.
        Self(Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, RECORDED_DIGITS).ok())
    }

    /// Records one latency in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        self.record_many(ns, 1);
    }

    /// Records the same latency several times.
    pub fn record_many(&mut self, ns: u64, count: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record_n(ns.clamp(LOWEST_NS, HIGHEST_NS), count);
        }
    }

    /// Adds what another one recorded.
    pub fn merge(&mut self, other: &Self) {
        if let (Some(all), Some(other)) = (&mut self.0, &other.0) {
            // Same bounds: nothing can be out of range.
            let _ = all.add(other);
        }
    }

    /// Values recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// Quantiles and the short histogram.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let Some(h) = self.0.as_ref().filter(|h| !h.is_empty()) else {
            return Latency::default();
        };
        let us = |q: f64| h.value_at_quantile(q) as f64 / 1e3;
        Latency {
            count: h.len(),
            mean_us: h.mean() / 1e3,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: h.max() as f64 / 1e3,
            histogram: shortened(h),
        }
    }
}

fn shortened(full: &Histogram<u64>) -> Vec<(u64, u64)> {
    let Ok(mut short) = Histogram::<u64>::new_with_bounds(LOWEST_NS, HIGHEST_NS, REPORTED_DIGITS)
    else {
        return Vec::new();
    };
    for bucket in full.iter_recorded() {
        short.saturating_record_n(bucket.value_iterated_to(), bucket.count_at_value());
    }
    let max = full.max();
    let pairs = short.iter_recorded();
    pairs
        .map(|b| (b.value_iterated_to().min(max), b.count_at_value()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_set() {
        let mut recorder = Recorder::new();
        (1..=1000u64).for_each(|ms| recorder.record(ms * 1_000_000));
        let latency = recorder.latency();
        assert_eq!(latency.count, 1000);
        for (got, want_ms) in [
            (latency.p50_us, 500.0),
            (latency.p90_us, 900.0),
            (latency.p99_us, 990.0),
            (latency.p999_us, 999.0),
            (latency.max_us, 1000.0),
            (latency.mean_us, 500.5),
        ] {
            assert!((got / 1e3 / want_ms - 1.0).abs() < 0.002, "{got} {want_ms}");
        }
    }

    #[test]
    fn the_short_histogram_keeps_every_count_and_the_quantiles() {
        let mut recorder = Recorder::new();
        for i in 0..100_000u64 {
            recorder.record(2_000 + i * i % 7_777_777);
        }
        let latency = recorder.latency();
        let sum: u64 = latency.histogram.iter().map(|(_, n)| n).sum();
        assert_eq!(sum, 100_000);
        assert!(
            latency.histogram.len() < 2_000,
            "{}",
            latency.histogram.len()
        );
        assert!(latency.histogram.is_sorted_by(|a, b| a.0 < b.0));
        let p99 = latency.quantile_us(0.99).unwrap();
        assert!((p99 / latency.p99_us - 1.0).abs() < 0.02, "{p99}");
        assert_eq!(latency.quantile_us(1.0), Some(latency.max_us));
    }

    #[test]
    fn merging_is_recording_all() {
        let (mut a, mut b, mut both) = (Recorder::new(), Recorder::new(), Recorder::new());
        for i in 1..=5_000u64 {
            a.record(i * 1_000);
            b.record(i * 9_000);
            both.record(i * 1_000);
            both.record(i * 9_000);
        }
        let (from_a, from_b) = (a.latency(), b.latency());
        a.merge(&b);
        assert_eq!(a.latency(), both.latency());
        let merged = Latency::merged([&from_a, &from_b].into_iter());
        assert_eq!(merged.count, 10_000);
        assert!((merged.p90_us / both.latency().p90_us - 1.0).abs() < 0.02);
    }

    #[test]
    fn out_of_range_counts_as_the_end_of_the_range() {
        let mut recorder = Recorder::new();
        recorder.record(0);
        recorder.record(u64::MAX);
        let latency = recorder.latency();
        assert_eq!(latency.count, 2);
        assert!(latency.max_us >= HIGHEST_NS as f64 / 1e3);
    }

    #[test]
    fn nothing_recorded_is_nothing_reported() {
        let latency = Recorder::new().latency();
        assert_eq!(latency, Latency::default());
        assert_eq!(latency.quantile_us(0.5), None);
    }
}
