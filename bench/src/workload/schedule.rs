//! When requests are sent. Closed loop: as soon as a connection is free. Open
//! loop: request n is due at n / rate whatever the server does, and its latency
//! counts from then, so a stall is seen by all who would have come in it (no
//! coordinated omission). Time is nanoseconds since the start of the round.

use std::sync::atomic::{AtomicU64, Ordering};

/// The rules of one round.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Schedule {
    /// Requests per second of the open loop; none is a closed loop.
    pub(crate) rate: Option<f64>,
    /// No request is due or sent from then on.
    pub(crate) end_ns: Option<u64>,
    /// Requests at most.
    pub(crate) limit: Option<u64>,
}

/// What a free connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// Send request `number`; its latency counts from `from_ns`.
    Send { number: u64, from_ns: u64 },
    /// Nothing is due before this time.
    Wait(u64),
    /// Nothing will be due any more.
    Done,
}

/// The requests of one thread. Closed loop: threads share a counter. Open loop:
/// each has every n-th request, so that none waits for another's.
#[derive(Debug)]
pub(crate) struct Feed<'a> {
    schedule: Schedule,
    /// One more than the highest number taken by any thread.
    shared: &'a AtomicU64,
    /// Next request of the open loop.
    next: u64,
    stride: u64,
}

impl<'a> Feed<'a> {
    pub(crate) const fn new(
        schedule: Schedule,
        shared: &'a AtomicU64,
        thread: u64,
        threads: u64,
    ) -> Self {
        Self {
            schedule,
            shared,
            next: thread,
            stride: threads,
        }
    }

    /// The next request for a connection that is free at `now_ns`.
    pub(crate) fn take(&mut self, now_ns: u64) -> Take {
        if self.schedule.end_ns.is_some_and(|end| now_ns >= end) {
            return Take::Done;
        }
        let Some(rate) = self.schedule.rate else {
            let number = self.shared.fetch_add(1, Ordering::Relaxed);
            let over = self.schedule.limit.is_some_and(|limit| number >= limit);
            return if over {
                Take::Done
            } else {
                let from_ns = now_ns;
                Take::Send { number, from_ns }
            };
        };
        match self.due(rate) {
            None => Take::Done,
            Some(due) if due > now_ns => Take::Wait(due),
            Some(from_ns) => {
                let number = self.next;
                self.next += self.stride;
                self.shared.fetch_max(number + 1, Ordering::Relaxed);
                Take::Send { number, from_ns }
            }
        }
    }

    /// The requests that were due at `now_ns` and not taken: how long each waits
    /// already. They will not be taken any more.
    pub(crate) fn abandon(&mut self, now_ns: u64, mut waiting: impl FnMut(u64)) -> u64 {
        let Some(rate) = self.schedule.rate else {
            return 0;
        };
        let mut count = 0;
        while let Some(due) = self.due(rate).filter(|due| *due < now_ns) {
            waiting(now_ns - due);
            self.next += self.stride;
            count += 1;
        }
        count
    }

    /// When the next request of the open loop is due, if there is one.
    fn due(&self, rate: f64) -> Option<u64> {
        let due = (self.next as f64 / rate * 1e9) as u64;
        let over = self.schedule.limit.is_some_and(|limit| self.next >= limit)
            || self.schedule.end_ns.is_some_and(|end| due >= end);
        (!over).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Latency, Recorder};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_open_loop_is_due_at_equal_distances() {
        let shared = AtomicU64::new(0);
        let schedule = Schedule {
            rate: Some(4.0),
            end_ns: Some(SECOND),
            limit: None,
        };
        let mut feed = Feed::new(schedule, &shared, 0, 1);
        let mut sent = Vec::new();
        let mut now = 0;
        loop {
            match feed.take(now) {
                Take::Send { number, from_ns } => sent.push((number, from_ns)),
                Take::Wait(until) => now = until,
                Take::Done => break,
            }
        }
        assert_eq!(
            sent,
            [
                (0, 0),
                (1, SECOND / 4),
                (2, SECOND / 2),
                (3, SECOND / 4 * 3)
            ]
        );
    }

    #[test]
    fn threads_share_all_numbers() {
        let shared = AtomicU64::new(0);
        for rate in [None, Some(1e6)] {
            let schedule = Schedule {
                rate,
                end_ns: None,
                limit: Some(10),
            };
            shared.store(0, Ordering::Relaxed);
            let mut numbers = Vec::new();
            let mut feeds = [0, 1, 2].map(|t| Feed::new(schedule, &shared, t, 3));
            for turn in 0..30 {
                if let Take::Send { number, .. } = feeds[turn % 3].take(SECOND) {
                    numbers.push(number);
                }
            }
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..10), "{rate:?} {numbers:?}");
        }
    }

    /// A server on virtual time: one request takes 1 ms; between second 1 and 2
    /// it does nothing.
    fn stalling_server(start: u64) -> u64 {
        let begin = if (SECOND..2 * SECOND).contains(&start) {
            2 * SECOND
        } else {
            start
        };
        begin + 1_000_000
    }

    /// Ten connections for ten seconds of virtual time.
    fn simulate(rate: Option<f64>) -> (Latency, u64) {
        let schedule = Schedule {
            rate,
            end_ns: Some(10 * SECOND),
            limit: None,
        };
        let shared = AtomicU64::new(0);
        let mut feed = Feed::new(schedule, &shared, 0, 1);
        let mut recorder = Recorder::new();
        let mut free_at = [0u64; 10];
        'all: loop {
            let slot = (0..10).min_by_key(|i| free_at[*i]).unwrap();
            let now = free_at[slot];
            free_at[slot] = match feed.take(now) {
                Take::Done => break 'all,
                Take::Wait(until) => until,
                Take::Send { from_ns, .. } => {
                    let end = stalling_server(now);
                    recorder.record(end - from_ns);
                    end
                }
            };
        }
        (recorder.latency(), feed.abandon(10 * SECOND, |_| ()))
    }

    #[test]
    fn a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() {
        // A tenth of all requests came while the server stood still, evenly over
        // that second: the 99th percentile waited about 0.9 s.
        let (open, unsent) = simulate(Some(1000.0));
        assert_eq!((open.count, unsent), (10_000, 0));
        assert!(open.p99_us > 850_000.0, "{}", open.p99_us);
        assert!(open.p50_us < 1_100.0, "{}", open.p50_us);
        // The closed loop sends ten requests into the stall, of 90,000.
        let (closed, _) = simulate(None);
        assert!(closed.p99_us < 1_100.0, "{}", closed.p99_us);
        assert!(closed.max_us > 990_000.0, "{}", closed.max_us);
    }

    #[test]
    fn what_a_slow_server_did_not_get_is_counted_as_waiting() {
        // 10 connections of 1 ms do 10,000 requests per second; 20,000 are due.
        let (_, unsent) = simulate(Some(20_000.0));
        // Nine seconds of work, one of standing still.
        assert!((109_000..111_000).contains(&unsent), "{unsent}");
        let shared = AtomicU64::new(0);
        let schedule = Schedule {
            rate: Some(10.0),
            end_ns: Some(SECOND),
            limit: None,
        };
        let mut feed = Feed::new(schedule, &shared, 0, 1);
        assert!(matches!(feed.take(0), Take::Send { number: 0, .. }));
        let mut waits = Vec::new();
        assert_eq!(feed.abandon(SECOND, |ns| waits.push(ns / 100_000_000)), 9);
        assert_eq!(waits, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(feed.take(SECOND), Take::Done);
    }
}
