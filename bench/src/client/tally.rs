//! What one thread counts. Nothing here is shared while load runs but `Live`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::answer::Source;
use super::errors::Failure;
use crate::model::{Recorder, Second};

/// Failures kept in words.
const EXAMPLES_MAX: usize = 5;
/// Seconds of a series; later ones count into the last.
const SERIES_MAX: usize = 7 * 24 * 3600;
const SECOND_NS: u64 = 1_000_000_000;

/// Counts for those who watch.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) requests: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Counts of a round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) latency: Recorder,
    pub(crate) requests: u64,
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
    pub(crate) unsent: u64,
    pub(crate) reconnects: u64,
    /// Calls sent a second time: the first was dropped without an answer.
    pub(crate) resent: u64,
    pub(crate) errors: BTreeMap<&'static str, u64>,
    pub(crate) examples: Vec<String>,
    pub(crate) series: Vec<Second>,
    pub(crate) sources: [u64; Source::ALL.len()],
    /// End of the last answer, nanoseconds since the start.
    pub(crate) last_ns: u64,
}

impl Tally {
    /// A request that succeeded.
    pub(crate) fn succeeded(&mut self, now_ns: u64, latency_ns: u64, bytes: u64, live: &Live) {
        self.latency.record(latency_ns);
        self.requests += 1;
        self.bytes += bytes;
        self.last_ns = self.last_ns.max(now_ns);
        self.second(now_ns).requests += 1;
        live.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that failed, and of what.
    pub(crate) fn failed(&mut self, now_ns: u64, failure: &Failure, what: &str, live: &Live) {
        *self.errors.entry(failure.kind()).or_default() += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{what}: {failure}"));
        }
        self.last_ns = self.last_ns.max(now_ns);
        self.second(now_ns).errors += 1;
        live.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that never got an answer, and how long it has waited at least.
    pub(crate) fn unanswered(&mut self, waited_ns: u64) {
        self.latency.record(waited_ns);
    }

    /// Body bytes that moved.
    pub(crate) fn moved(&mut self, now_ns: u64, bytes: u64, live: &Live) {
        self.second(now_ns).bytes += bytes;
        live.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) const fn source(&mut self, source: Source) {
        match source {
            Source::Unsaid => {}
            Source::Hit => self.sources[0] += 1,
            Source::Miss => self.sources[1] += 1,
            Source::Partial => self.sources[2] += 1,
            Source::Other => self.sources[3] += 1,
        }
    }

    /// Adds what another thread counted.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.requests += other.requests;
        self.calls += other.calls;
        self.bytes += other.bytes;
        self.unsent += other.unsent;
        self.reconnects += other.reconnects;
        self.resent += other.resent;
        self.last_ns = self.last_ns.max(other.last_ns);
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES_MAX);
        for (all, more) in self.sources.iter_mut().zip(other.sources) {
            *all += more;
        }
        if self.series.len() < other.series.len() {
            self.series.resize_with(other.series.len(), Second::default);
        }
        for (all, more) in self.series.iter_mut().zip(other.series) {
            all.requests += more.requests;
            all.errors += more.errors;
            all.bytes += more.bytes;
        }
    }

    pub(crate) fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    fn second(&mut self, now_ns: u64) -> &mut Second {
        let index = (usize::try_from(now_ns / SECOND_NS).unwrap_or(usize::MAX)).min(SERIES_MAX - 1);
        if self.series.len() <= index {
            self.series.resize_with(index + 1, Second::default);
        }
        // The vector was made long enough just above.
        &mut self.series[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let live = Live::default();
        let (mut a, mut b) = (Tally::default(), Tally::default());
        a.succeeded(500, 100_000, 10, &live);
        a.moved(500, 10, &live);
        b.succeeded(2 * SECOND_NS, 200_000, 20, &live);
        b.moved(2 * SECOND_NS + 5, 20, &live);
        b.failed(2 * SECOND_NS, &Failure::Timeout, "GET a", &live);
        a.merge(b);
        assert_eq!(
            (a.requests, a.bytes, a.failures(), a.last_ns),
            (2, 30, 1, 2 * SECOND_NS)
        );
        assert_eq!(a.latency.count(), 2);
        let moved: Vec<u64> = a.series.iter().map(|s| s.bytes).collect();
        assert_eq!(moved, [10, 0, 20]);
        assert_eq!((a.series[2].errors, a.series[2].requests), (1, 1));
        assert_eq!(a.examples, ["GET a: no answer in time"]);
        assert_eq!(live.bytes.load(Ordering::Relaxed), 30);
    }
}
