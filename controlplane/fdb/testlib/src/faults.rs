//! What goes wrong, how often and in which order: a plan in one line and a seed.
//!
//! The plan is `name=number` separated by blanks, for every database of the process
//! in the environment variable [`PLAN_VARIABLE`], or set by a test for one. Without
//! a unit the number counts in thousandths of the calls it can happen to:
//!
//! | name | calls | what happens |
//! |---|---|---|
//! | `conflict` | commit | 1020, not applied |
//! | `unknown_applied`, `unknown_lost` | commit | 1021, applied or not |
//! | `timeout_applied`, `timeout_lost`, `timeout_late` | commit | 1031; late: applied up to `late_ms` after the answer |
//! | `cancelled_applied`, `cancelled_lost`, `cancelled_late` | commit | 1025, the same |
//! | `changed_applied`, `changed_lost` | commit | 1039, applied or not |
//! | `too_large` | commit | 2101, not applied |
//! | `too_old`, `behind`, `throttled` | commit, read | 1007, 1037, 1213 |
//! | `future`, `changed` | read | 1009, 1039 |
//! | `delay`, up to `delay_ms` | commit, read | the answer comes later |
//! | `stall`, for `stall_ms` | commit, read | the network thread stands still |
//! | `watch_spurious`, `watch_lost` | watch | fires for nothing; ends with 1101 |
//! | `crash_before=N`, `crash_after=N` | N-th commit | the process is killed before or after it is applied |
//! | `page_rows=N` | range | a page has at most N rows |
//! | `strict=1` | all | misuse ends the process |
//! | `strict_age_ms=N` | commit | in strict mode so is a commit that much after the first read |
//! | `seed=N` | | where the random numbers begin |

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The environment variable that holds the plan of every database.
pub(crate) const PLAN_VARIABLE: &str = "FDB_TEST_FAULTS";

const NAMES: &[&str] = &[
    "conflict",
    "unknown_applied",
    "unknown_lost",
    "timeout_applied",
    "timeout_lost",
    "timeout_late",
    "cancelled_applied",
    "cancelled_lost",
    "cancelled_late",
    "changed_applied",
    "changed_lost",
    "too_large",
    "too_old",
    "behind",
    "throttled",
    "future",
    "changed",
    "delay",
    "delay_ms",
    "late_ms",
    "stall",
    "stall_ms",
    "watch_spurious",
    "watch_lost",
    "crash_before",
    "crash_after",
    "page_rows",
    "strict",
    "strict_age_ms",
    "seed",
];

/// What becomes of a commit beside what it does itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFault {
    /// Not applied.
    Lost(i32),
    /// Applied, if nothing else is wrong with it.
    Applied(i32),
    /// The same, some time after the answer.
    Late(i32, Duration),
}

/// What becomes of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchFault {
    Spurious,
    Lost,
}

/// Where the process ends around a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    Before,
    After,
}

/// The faults of one database.
#[derive(Debug)]
pub(crate) struct Faults {
    state: Mutex<State>,
    commits: AtomicU64,
    injected: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    plan: HashMap<String, u64>,
    random: u64,
}

impl State {
    fn number(&self, name: &str) -> u64 {
        self.plan.get(name).copied().unwrap_or(0)
    }

    /// A number below `limit` (splitmix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }

    fn happens(&mut self, name: &str) -> bool {
        let thousandths = self.number(name);
        thousandths > 0 && self.below(1_000) < thousandths
    }

    fn time(&mut self, name: &str) -> Duration {
        let most_us = self.number(name).saturating_mul(1_000);
        Duration::from_micros(self.below(most_us + 1))
    }
}

/// A plan nobody can mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlanError(pub(crate) String);

impl Faults {
    pub(crate) fn parse(plan: &str) -> Result<Self, PlanError> {
        let faults = Self {
            state: Mutex::default(),
            commits: AtomicU64::new(0),
            injected: AtomicU64::new(0),
        };
        faults.set(plan)?;
        Ok(faults)
    }

    /// Another plan from now on; commits are counted from here.
    pub(crate) fn set(&self, plan: &str) -> Result<(), PlanError> {
        let mut numbers = HashMap::new();
        for word in plan.split_whitespace() {
            let known = word
                .split_once('=')
                .filter(|(name, _)| NAMES.contains(name))
                .and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)));
            let (name, number) = known.ok_or_else(|| PlanError(word.to_owned()))?;
            numbers.insert(name, number);
        }
        let mut state = self.state();
        state.random = numbers.get("seed").copied().unwrap_or(1);
        state.plan = numbers;
        self.commits.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// How many faults there were, delays apart.
    pub(crate) fn injected(&self) -> u64 {
        self.injected.load(Ordering::SeqCst)
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.state().number("strict") > 0
    }

    /// Longest time between the first read and the commit, in strict mode.
    pub(crate) fn strict_age(&self) -> Option<Duration> {
        let state = self.state();
        let most = state.number("strict_age_ms");
        (state.number("strict") > 0 && most > 0).then(|| Duration::from_millis(most))
    }

    /// Most rows of a page.
    pub(crate) fn page_rows(&self) -> Option<usize> {
        let rows = self.state().number("page_rows");
        (rows > 0).then(|| usize::try_from(rows).unwrap_or(usize::MAX))
    }

    /// The error that a read ends with.
    pub(crate) fn read(&self) -> Option<i32> {
        self.first(&[
            ("too_old", 1007),
            ("future", 1009),
            ("behind", 1037),
            ("changed", 1039),
            ("throttled", 1213),
        ])
    }

    pub(crate) fn commit(&self) -> Option<CommitFault> {
        let lost = self.first(&[
            ("conflict", 1020),
            ("unknown_lost", 1021),
            ("timeout_lost", 1031),
            ("cancelled_lost", 1025),
            ("changed_lost", 1039),
            ("too_large", 2101),
            ("too_old", 1007),
            ("behind", 1037),
            ("throttled", 1213),
        ]);
        if let Some(code) = lost {
            return Some(CommitFault::Lost(code));
        }
        let applied = self.first(&[
            ("unknown_applied", 1021),
            ("timeout_applied", 1031),
            ("cancelled_applied", 1025),
            ("changed_applied", 1039),
        ]);
        if let Some(code) = applied {
            return Some(CommitFault::Applied(code));
        }
        let late = self.first(&[("timeout_late", 1031), ("cancelled_late", 1025)])?;
        Some(CommitFault::Late(late, self.state().time("late_ms")))
    }

    pub(crate) fn watch(&self) -> Option<WatchFault> {
        let code = self.first(&[("watch_spurious", 1), ("watch_lost", 2)])?;
        Some(match code {
            1 => WatchFault::Spurious,
            _ => WatchFault::Lost,
        })
    }

    /// Counts a commit; whether the process is to end at this one.
    pub(crate) fn crash(&self) -> Option<Crash> {
        let number = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        let state = self.state();
        match number {
            _ if number == state.number("crash_before") => Some(Crash::Before),
            _ if number == state.number("crash_after") => Some(Crash::After),
            _ => None,
        }
    }

    /// How much later an answer comes.
    pub(crate) fn delay(&self) -> Option<Duration> {
        let mut state = self.state();
        state.happens("delay").then(|| state.time("delay_ms"))
    }

    /// How long the network thread stands still.
    pub(crate) fn stall(&self) -> Option<Duration> {
        let mut state = self.state();
        state
            .happens("stall")
            .then(|| Duration::from_millis(state.number("stall_ms")))
    }

    fn first(&self, choices: &[(&str, i32)]) -> Option<i32> {
        let mut state = self.state();
        let chosen = choices.iter().find(|(name, _)| state.happens(name));
        if chosen.is_some() {
            self.injected.fetch_add(1, Ordering::SeqCst);
        }
        chosen.map(|(_, code)| *code)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_kept_and_repeat_with_the_seed() {
        let mut runs = Vec::new();
        for seed in [5, 5, 6] {
            let plan = format!("conflict=100 timeout_late=50 late_ms=3 behind=20 seed={seed}");
            let faults = Faults::parse(&plan).unwrap();
            let run: Vec<_> = (0..2_000)
                .map(|_| (faults.commit(), faults.read()))
                .collect();
            let count = |wanted| {
                run.iter()
                    .filter(|(commit, _)| *commit == Some(wanted))
                    .count()
            };
            assert!((150..250).contains(&count(CommitFault::Lost(1020))));
            let late = |fault: &Option<CommitFault>| matches!(fault, Some(CommitFault::Late(1031, by)) if by.as_millis() <= 3);
            assert!((60..140).contains(&run.iter().filter(|(commit, _)| late(commit)).count()));
            let behind = run.iter().filter(|(_, read)| *read == Some(1037)).count();
            assert!((15..70).contains(&behind), "{behind}");
            runs.push(run);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }

    #[test]
    fn crashes_are_counted() {
        let faults = Faults::parse("crash_after=2").unwrap();
        assert_eq!(faults.crash(), None);
        assert_eq!(faults.crash(), Some(Crash::After));
        assert_eq!(faults.crash(), None);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for plan in ["conflicts=1", "conflict", "conflict=x"] {
            assert_eq!(Faults::parse(plan).unwrap_err(), PlanError(plan.into()));
        }
        let none = Faults::parse("").unwrap();
        assert_eq!(
            (none.commit(), none.read(), none.delay()),
            (None, None, None)
        );
        assert_eq!(none.injected(), 0);
    }
}
