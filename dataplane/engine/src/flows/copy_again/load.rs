//! What is under way of making copies again, and what may begin beside it. Pure.

use std::time::Duration;

use crate::decisions::copy_holders::{Due, Lack};

/// Bodies copied at the same time, and bytes of memory for that; each takes so many at most.
const BODIES_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: u64 = 16 << 20;
const BODY_BYTES_MAX: u64 = 2 << 20;
/// Those of them that have their copies, and lack zones only.
const MISPLACED_AT_ONCE: usize = 32;
/// Bodies asked for in one message, and messages at the same time.
pub(super) const ASKED_MAX: usize = 1_024;
const ASKS_AT_ONCE: usize = 4;
/// Failures after which a worker that does not say whether it has a body counts as one
/// that has not.
const ASK_FAILURES_MAX: u32 = 5;

/// What is under way.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Load {
    bodies: usize,
    bytes: u64,
    misplaced: usize,
    asked: usize,
}

impl Load {
    /// Of a body that is copied.
    pub(super) fn of_copy(due: &Due) -> Self {
        Self {
            bodies: 1,
            bytes: due.copied.bytes.min(BODY_BYTES_MAX),
            misplaced: usize::from(due.lack == Lack::Zones),
            asked: 0,
        }
    }

    /// Of bodies that are asked for.
    pub(super) fn of_asked(bodies: usize) -> Self {
        Self {
            asked: bodies,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.bodies += other.bodies;
        self.bytes += other.bytes;
        self.misplaced += other.misplaced;
        self.asked += other.asked;
    }

    pub(super) fn sub(&mut self, other: Self) {
        self.bodies -= other.bodies;
        self.bytes -= other.bytes;
        self.misplaced -= other.misplaced;
        self.asked -= other.asked;
    }

    /// Whether another body may begin, beside at most so many that lack only zones.
    pub(super) fn fits(&self, due: &Due, misplaced_max: usize) -> bool {
        if is_asked(due) {
            return self.asked < ASKED_MAX * ASKS_AT_ONCE;
        }
        if due.lack == Lack::Zones && self.misplaced >= misplaced_max {
            return false;
        }
        let bytes = due.copied.bytes.min(BODY_BYTES_MAX);
        self.bodies < BODIES_AT_ONCE && self.bytes + bytes <= BYTES_AT_ONCE
    }
}

pub(super) fn is_asked(due: &Due) -> bool {
    !due.ask.is_empty() && due.failures < ASK_FAILURES_MAX
}

/// Pause of all bodies that lack zones only: those who refuse one of them, full as they are,
/// are not asked for each of the others.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    until: Duration,
}

impl Pace {
    /// How many may be copied at the same time: after a failure one shows whether there is
    /// somebody by now.
    pub(super) fn misplaced_max(&self, now: Duration) -> usize {
        match self.failures {
            _ if now < self.until => 0,
            0 => MISPLACED_AT_ONCE,
            _ => 1,
        }
    }

    /// A look at such a body has ended. `pause`: how long to wait after so many failures.
    pub(super) fn ended(&mut self, failed: bool, now: Duration, pause: impl Fn(u32) -> Duration) {
        match failed {
            false => *self = Self::default(),
            // Those that were under way beside it are one with it.
            true if now < self.until => {}
            true => {
                self.until = now + pause(self.failures);
                self.failures = self.failures.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_until_one_succeeds() {
        let pause = |failures: u32| Duration::from_secs(1 << u64::from(failures));
        let at = Duration::from_secs;
        let mut pace = Pace::default();
        assert_eq!(pace.misplaced_max(at(0)), MISPLACED_AT_ONCE);
        pace.ended(true, at(10), pause);
        assert_eq!([10, 11].map(|now| pace.misplaced_max(at(now))), [0, 1]);
        // It was begun beside the first.
        pace.ended(true, at(10), pause);
        assert_eq!(pace.misplaced_max(at(11)), 1);
        pace.ended(true, at(11), pause);
        assert_eq!([12, 13].map(|now| pace.misplaced_max(at(now))), [0, 1]);
        pace.ended(false, at(12), pause);
        assert_eq!(pace.misplaced_max(at(12)), MISPLACED_AT_ONCE);
        pace.ended(true, at(12), pause);
        assert_eq!([12, 13].map(|now| pace.misplaced_max(at(now))), [0, 1]);
    }
}
