//! What workers moved in the last minutes, as they tell it with their heartbeats. Pure:
//! time is handed in. Absent: numbers for what nobody told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quickwater_proto::NodeId;

/// Time that one number is the mean of. Several heartbeats, so that none is made of one
/// that was late.
const STEP: Duration = Duration::from_secs(5);
/// Steps that are kept of each worker: ten minutes.
const STEPS: usize = 120;
/// Workers of which steps are kept, some 8 KB each; others are shown without.
const WORKERS_MAX: usize = 4_096;
/// Of a step this much must have been told of: what a worker did in a moment says nothing
/// of five seconds.
const TOLD_LEAST: Duration = Duration::from_secs(1);

/// What a process of a worker has done since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes sent to S3 clients.
    pub sent_bytes: u64,
    /// Bytes received from S3 clients.
    pub received_bytes: u64,
    /// Requests of S3 clients.
    pub requests: u64,
    /// Bytes that were written back to UFSs.
    pub persisted_bytes: u64,
}

impl Moved {
    /// What came since `earlier`; `None`: it has begun anew.
    fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            sent_bytes: self.sent_bytes.checked_sub(earlier.sent_bytes)?,
            received_bytes: self.received_bytes.checked_sub(earlier.received_bytes)?,
            requests: self.requests.checked_sub(earlier.requests)?,
            persisted_bytes: self.persisted_bytes.checked_sub(earlier.persisted_bytes)?,
        })
    }

    fn add(&mut self, more: Self) {
        let sum = |one: &mut u64, more: u64| *one = one.saturating_add(more);
        sum(&mut self.sent_bytes, more.sent_bytes);
        sum(&mut self.received_bytes, more.received_bytes);
        sum(&mut self.requests, more.requests);
        sum(&mut self.persisted_bytes, more.persisted_bytes);
    }
}

/// The same, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Bytes sent to S3 clients.
    pub sent_bytes: f64,
    /// Bytes received from S3 clients.
    pub received_bytes: f64,
    /// Requests of S3 clients.
    pub requests: f64,
    /// Bytes that were written back to UFSs.
    pub persisted_bytes: f64,
}

impl Rates {
    fn add(&mut self, more: Self) {
        self.sent_bytes += more.sent_bytes;
        self.received_bytes += more.received_bytes;
        self.requests += more.requests;
        self.persisted_bytes += more.persisted_bytes;
    }
}

/// What workers moved, step by step up to the last one that is over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Length of a step.
    pub step: Duration,
    /// By name, the oldest step first; `None`: the worker did not tell. All end with the
    /// same step.
    pub workers: BTreeMap<String, Vec<Option<Rates>>>,
}

impl History {
    /// What the workers that told moved together; `None` where nobody did.
    #[must_use]
    pub fn sum(&self) -> Vec<Option<Rates>> {
        let length = self.workers.values().map(Vec::len).max().unwrap_or(0);
        let mut sum: Vec<Option<Rates>> = vec![None; length];
        for steps in self.workers.values() {
            for (sum, step) in sum.iter_mut().rev().zip(steps.iter().rev()) {
                if let Some(step) = step {
                    sum.get_or_insert_default().add(*step);
                }
            }
        }
        sum
    }

    /// Of how many workers each step of the sum is without: those that had told of an earlier
    /// one, and did not of this.
    #[must_use]
    pub fn missing(&self) -> Vec<usize> {
        let length = self.workers.values().map(Vec::len).max().unwrap_or(0);
        let mut missing = vec![0; length];
        for steps in self.workers.values() {
            for (missing, step) in missing.iter_mut().rev().zip(steps.iter().rev()) {
                *missing += usize::from(step.is_none());
            }
        }
        missing
    }

    /// What one worker moved in the last step; `None`: it did not tell.
    #[must_use]
    pub fn latest(&self, worker: &str) -> Option<Rates> {
        *self.workers.get(worker)?.last()?
    }
}

#[derive(Debug)]
struct Step {
    number: u64,
    moved: Moved,
    /// The time in which that was moved.
    over: Duration,
}

impl Step {
    fn rates(&self) -> Option<Rates> {
        let seconds = self.over.as_secs_f64();
        let rate = |count: u64| count as f64 / seconds;
        (self.over >= TOLD_LEAST).then(|| Rates {
            sent_bytes: rate(self.moved.sent_bytes),
            received_bytes: rate(self.moved.received_bytes),
            requests: rate(self.moved.requests),
            persisted_bytes: rate(self.moved.persisted_bytes),
        })
    }
}

#[derive(Debug, Default)]
struct Course {
    session: u64,
    last: Option<(Duration, Moved)>,
    steps: VecDeque<Step>,
}

impl Course {
    fn told(&mut self, session: u64, moved: Moved, now: Duration) {
        // Between two sessions nobody heard of it, and it may be another process.
        let before = self.last.filter(|_| self.session == session);
        self.session = session;
        let Some((then, before)) = before else {
            self.last = Some((now, moved));
            return;
        };
        let over = now.saturating_sub(then);
        if over.is_zero() {
            return;
        }
        self.last = Some((now, moved));
        let Some(moved) = moved.since(before) else {
            return;
        };
        let number = number(now);
        if self.steps.back().is_none_or(|step| step.number != number) {
            self.steps.push_back(Step {
                number,
                moved: Moved::default(),
                over: Duration::ZERO,
            });
            // The one that is not over is shown by nobody.
            let surplus = self.steps.len().saturating_sub(STEPS + 1);
            self.steps.drain(..surplus);
        }
        if let Some(step) = self.steps.back_mut() {
            step.moved.add(moved);
            step.over += over;
        }
    }

    fn is_over(&self, now: Duration) -> bool {
        let told = self.last.map_or(0, |(then, _)| number(then));
        told + STEPS as u64 + 1 < number(now)
    }

    /// All steps before the one of now, from the first that was told of.
    fn shown(&self, now: Duration) -> Vec<Option<Rates>> {
        let end = number(now);
        let begin = end.saturating_sub(STEPS as u64);
        let mut kept = self.steps.iter().skip_while(|step| step.number < begin);
        let first = kept.next().map_or(end, |step| step.number).min(end);
        let length = usize::try_from(end - first).unwrap_or(STEPS);
        let mut shown = vec![None; length];
        for step in self.steps.iter().filter(|step| step.number >= first) {
            let at = usize::try_from(step.number - first).unwrap_or(usize::MAX);
            if let Some(shown) = shown.get_mut(at) {
                *shown = step.rates();
            }
        }
        shown
    }
}

fn number(now: Duration) -> u64 {
    now.as_secs() / STEP.as_secs()
}

/// What all workers told.
#[derive(Debug, Default)]
pub(super) struct Traffic(BTreeMap<NodeId, Course>);

impl Traffic {
    /// A worker told, in this session, what its process has done so far.
    pub(super) fn told(&mut self, node: &NodeId, session: u64, moved: Moved, now: Duration) {
        if !self.0.contains_key(node) {
            self.0.retain(|_, course| !course.is_over(now));
            if self.0.len() >= WORKERS_MAX {
                return;
            }
        }
        let course = self.0.entry(node.clone()).or_default();
        course.told(session, moved, now);
    }

    /// What is known of all workers that told anything in these ten minutes.
    pub(super) fn history(&self, now: Duration) -> History {
        let shown = |(node, course): (&NodeId, &Course)| (node.to_string(), course.shown(now));
        let workers = self.0.iter().map(shown);
        History {
            step: STEP,
            workers: workers.filter(|(_, steps)| !steps.is_empty()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn sent(bytes: u64) -> Moved {
        Moved {
            sent_bytes: bytes,
            requests: bytes / 10,
            ..Moved::default()
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Heartbeats of a worker, one a second, that sends so many bytes in each.
    fn beats(traffic: &mut Traffic, name: &str, seconds: std::ops::Range<u64>, each: u64) {
        for second in seconds {
            traffic.told(&node(name), 1, sent(second * each), at(second * 1_000));
        }
    }

    fn bytes(steps: &[Option<Rates>]) -> Vec<Option<f64>> {
        let bytes = |step: &Option<Rates>| step.map(|step| step.sent_bytes.round());
        steps.iter().map(bytes).collect()
    }

    #[test]
    fn rates_are_those_of_steps_that_are_over() {
        let mut traffic = Traffic::default();
        beats(&mut traffic, "n1", 100..113, 50);
        let history = traffic.history(at(112_500));
        assert_eq!(history.step, STEP);
        assert_eq!(bytes(&history.workers["n1"]), [Some(50.0), Some(50.0)]);
        assert_eq!(history.latest("n1").unwrap().requests, 5.0);
        assert_eq!(history.latest("n2"), None);
        assert!(
            traffic.history(at(104_000)).workers.is_empty(),
            "none is over"
        );
    }

    #[test]
    fn who_did_not_tell_leaves_a_gap_and_no_zeros() {
        let mut traffic = Traffic::default();
        beats(&mut traffic, "n1", 100..105, 50);
        beats(&mut traffic, "n1", 120..126, 50);
        // It said nothing for a quarter of a minute: what it did then was done over that time.
        let shown = bytes(&traffic.history(at(126_000)).workers["n1"]);
        assert_eq!(shown, [Some(50.0), None, None, None, Some(50.0)]);
        // Nor is it shown as idle once it is silent.
        let shown = bytes(&traffic.history(at(136_000)).workers["n1"]);
        assert_eq!(shown.last(), Some(&None));
        assert_eq!(traffic.history(at(136_000)).latest("n1"), None);
        // Idle is something else.
        let mut idle = Traffic::default();
        beats(&mut idle, "n1", 100..110, 0);
        let shown = bytes(&idle.history(at(110_000)).workers["n1"]);
        assert_eq!(shown, [Some(0.0), Some(0.0)]);
    }

    #[test]
    fn a_process_that_begins_anew_does_not_count_what_the_last_one_did() {
        for (session, count) in [(2, 900), (1, 3), (2, 3)] {
            let mut traffic = Traffic::default();
            beats(&mut traffic, "n1", 100..105, 50);
            traffic.told(&node("n1"), session, sent(count), at(105_500));
            for ms in [106_500, 107_500] {
                traffic.told(&node("n1"), session, sent(count), at(ms));
            }
            let shown = bytes(&traffic.history(at(110_000)).workers["n1"]);
            assert_eq!(shown, [Some(50.0), Some(0.0)], "session {session}, {count}");
        }
    }

    #[test]
    fn a_moment_says_nothing_of_a_step() {
        let mut traffic = Traffic::default();
        for ms in [100_000, 100_001, 100_001] {
            traffic.told(&node("n1"), 1, sent(ms * 1_000), at(ms));
        }
        let history = traffic.history(at(105_000));
        assert_eq!(bytes(&history.workers["n1"]), [None]);
    }

    #[test]
    fn the_sum_is_of_those_that_told() {
        let mut traffic = Traffic::default();
        beats(&mut traffic, "n1", 100..120, 50);
        beats(&mut traffic, "n2", 110..115, 7);
        let sum = bytes(&traffic.history(at(120_000)).sum());
        assert_eq!(sum, [Some(50.0), Some(50.0), Some(57.0), Some(50.0)]);
        // That n2 began later is no gap; that it ended is one.
        let missing = |ms| traffic.history(at(ms)).missing();
        assert_eq!(missing(115_000), [0, 0, 0]);
        assert_eq!(missing(120_000), [0, 0, 0, 1]);
        let sum = bytes(&traffic.history(at(127_000)).sum());
        assert_eq!(sum.last(), Some(&None), "nobody told");
    }

    #[test]
    fn ten_minutes_are_kept_and_no_more_workers_than_allowed() {
        let mut traffic = Traffic::default();
        beats(&mut traffic, "n1", 100..3_000, 50);
        assert_eq!(traffic.0[&node("n1")].steps.len(), STEPS + 1);
        let history = traffic.history(at(3_000_000));
        assert_eq!(history.workers["n1"].len(), STEPS);
        for other in 0..2 * WORKERS_MAX as u64 {
            traffic.told(&node(&format!("m{other}")), 1, sent(0), at(3_000_000));
        }
        assert_eq!(traffic.0.len(), WORKERS_MAX);
        // Who has been silent for that long makes room.
        traffic.told(&node("new"), 1, sent(0), at(3_700_000));
        assert_eq!(traffic.0.len(), 1);
        assert!(traffic.history(at(3_700_000)).workers.is_empty());
    }
}
