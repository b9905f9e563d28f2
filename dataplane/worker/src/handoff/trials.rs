//! Whether clients hear this worker on connections that another one let in: filters of the
//! network may drop what has the address of a service and comes from another host, from the
//! start or from some day on. Absent: listening to a connection (`service/arrival.rs`).

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use quickwater_proto::NodeId;

use super::lock;

/// How long nothing else is taken of a path whose trial is on its way.
const TRIAL_WAIT: Duration = Duration::from_secs(5);
/// How long nothing is taken of a path on which this worker is not heard, at first and at
/// most; twice as long each time.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Connections of a path that were not heard yet, at a time: as many break at most when the
/// network changes.
const UNPROVEN_MAX: u32 = 16;
/// What a connection that is not heard counts, one that is heard takes away again, and what is
/// too much: three in a row, or more than one of five. A client that vanishes looks alike.
const SILENT: u32 = 4;
const HEARD: u32 = 1;
const SCORE_MAX: u32 = 12;
/// Paths that are known; connections by others are relayed.
const PATHS_MAX: usize = 4_096;

/// Clients of one network (/24, /64) that come in by one worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    entry: NodeId,
    network: IpAddr,
}

impl Path {
    pub(crate) fn new(entry: &NodeId, client: IpAddr) -> Self {
        let network = match client.to_canonical() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() >> 8 << 8).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        };
        let entry = entry.clone();
        Path { entry, network }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = if self.network.is_ipv4() { 24 } else { 64 };
        write!(f, "{}/{length} by {}", self.network, self.entry)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The next connection is the trial.
    Untried,
    /// The trial may be on its way.
    Open(Instant),
    /// Heard since then.
    Heard(Instant),
    /// Relayed until then.
    Unheard(Instant),
}

#[derive(Debug)]
struct Trial {
    stage: Stage,
    /// Connections that are here and not heard yet.
    unproven: u32,
    score: u32,
    /// The last one; 0: none yet.
    pause: Duration,
    used: Instant,
}

/// What a connection's end of being watched changes for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// No more are taken for so long.
    Fell(Duration),
    /// They are taken again.
    Recovered,
}

/// The paths of a worker.
#[derive(Debug, Default)]
pub(crate) struct Trials(Mutex<HashMap<Path, Trial>>);

impl Trials {
    /// Whether a connection is taken now.
    pub(crate) fn allow(&self, path: &Path, now: Instant) -> bool {
        let mut trials = lock(&self.0);
        if trials.len() >= PATHS_MAX && !trials.contains_key(path) {
            trials.retain(|_, trial| {
                trial.unproven > 0 || now.duration_since(trial.used) < PAUSE_MAX
            });
        }
        match trials.get(path) {
            None => trials.len() < PATHS_MAX,
            Some(trial) => match trial.stage {
                Stage::Untried => true,
                Stage::Heard(_) => trial.unproven < UNPROVEN_MAX,
                Stage::Open(since) => now.duration_since(since) >= TRIAL_WAIT,
                Stage::Unheard(until) => now >= until,
            },
        }
    }

    /// The next connection is the trial, unless the path is known to be heard.
    pub(crate) fn begin(&self, path: &Path, now: Instant) {
        let mut trials = lock(&self.0);
        let trial = trials.entry(path.clone()).or_insert_with(|| Trial {
            stage: Stage::Untried,
            unproven: 0,
            score: 0,
            pause: Duration::ZERO,
            used: now,
        });
        trial.used = now;
        if !matches!(trial.stage, Stage::Heard(_)) {
            trial.stage = Stage::Open(now);
        }
    }

    /// Whether it is not known that a path is heard.
    pub(crate) fn is_open(&self, path: &Path) -> bool {
        let trials = lock(&self.0);
        let stage = trials.get(path).map(|trial| trial.stage);
        !matches!(stage, Some(Stage::Heard(_)))
    }

    /// A connection is here and is watched; [`Trials::end`] follows.
    pub(crate) fn watch(&self, path: &Path) {
        if let Some(trial) = lock(&self.0).get_mut(path) {
            trial.unproven += 1;
        }
    }

    /// Whether its client was heard; `None`: it is not known.
    pub(crate) fn end(&self, path: &Path, heard: Option<bool>, now: Instant) -> Change {
        let mut trials = lock(&self.0);
        let Some(trial) = trials.get_mut(path) else {
            return Change::Nothing;
        };
        trial.unproven = trial.unproven.saturating_sub(1);
        let fresh = match (trial.stage, heard) {
            (Stage::Open(_), None) => {
                trial.stage = Stage::Untried;
                return Change::Nothing;
            }
            // What came before the fall tells nothing new.
            (_, None) | (Stage::Unheard(_), _) => return Change::Nothing,
            (Stage::Heard(_), Some(true)) => {
                trial.score = trial.score.saturating_sub(HEARD);
                return Change::Nothing;
            }
            (Stage::Open(_) | Stage::Untried, Some(true)) => {
                (trial.stage, trial.score) = (Stage::Heard(now), 0);
                return match trial.pause.is_zero() {
                    true => Change::Nothing,
                    false => Change::Recovered,
                };
            }
            (Stage::Open(_) | Stage::Untried, Some(false)) => false,
            (Stage::Heard(since), Some(false)) => {
                trial.score += SILENT;
                if trial.score < SCORE_MAX {
                    return Change::Nothing;
                }
                now.duration_since(since) >= PAUSE_MAX
            }
        };
        // One that breaks again and again is tried less and less.
        trial.pause = match fresh {
            true => PAUSE,
            false => (trial.pause * 2).clamp(PAUSE, PAUSE_MAX),
        };
        trial.used = now;
        trial.stage = Stage::Unheard(now + trial.pause);
        Change::Fell(trial.pause)
    }

    /// Paths on which this worker was not heard and is not known to be heard since.
    pub(crate) fn unheard(&self) -> Vec<String> {
        let trials = lock(&self.0);
        let fallen = trials
            .iter()
            .filter(|(_, trial)| !trial.pause.is_zero() && !matches!(trial.stage, Stage::Heard(_)));
        let mut paths: Vec<_> = fallen.map(|(path, _)| path.to_string()).collect();
        paths.sort();
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(client: &str) -> Path {
        Path::new(&NodeId::new("n1").unwrap(), client.parse().unwrap())
    }

    /// A connection that comes and is heard or not.
    fn one(trials: &Trials, path: &Path, heard: Option<bool>, now: Instant) -> Change {
        trials.begin(path, now);
        trials.watch(path);
        trials.end(path, heard, now)
    }

    #[test]
    fn nothing_more_is_taken_until_the_trial_is_heard() {
        let (trials, now) = (Trials::default(), Instant::now());
        let (path, other) = (path("10.0.0.1"), path("10.0.1.1"));
        assert!(trials.allow(&path, now) && trials.is_open(&path));
        trials.begin(&path, now);
        assert!(!trials.allow(&path, now) && trials.allow(&other, now));
        trials.watch(&path);
        assert_eq!(trials.end(&path, Some(true), now), Change::Nothing);
        trials.begin(&path, now);
        assert!(trials.allow(&path, now) && !trials.is_open(&path));
        // Its invitation was for nothing.
        trials.begin(&other, now);
        assert!(trials.allow(&other, now + TRIAL_WAIT));
    }

    #[test]
    fn a_trial_that_tells_nothing_is_repeated() {
        let (trials, now, path) = (Trials::default(), Instant::now(), path("fd00::1"));
        assert_eq!(one(&trials, &path, None, now), Change::Nothing);
        assert!(trials.allow(&path, now) && trials.is_open(&path));
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end_when_heard() {
        let (trials, mut now, path) = (Trials::default(), Instant::now(), path("10.0.0.1"));
        for seconds in [10, 20, 40, 80, 160, 320, 600, 600] {
            assert!(trials.allow(&path, now));
            let pause = Duration::from_secs(seconds);
            assert_eq!(one(&trials, &path, Some(false), now), Change::Fell(pause));
            assert_eq!(trials.unheard(), ["10.0.0.0/24 by n1"]);
            assert!(!trials.allow(&path, now + pause - Duration::from_millis(1)));
            now += pause;
        }
        assert_eq!(one(&trials, &path, Some(true), now), Change::Recovered);
        assert!(trials.allow(&path, now) && trials.unheard().is_empty());
        // It was heard for a moment, or for long.
        for (later, seconds) in [(Duration::ZERO, 600), (PAUSE_MAX, 10)] {
            now += later;
            let changes = [(); 3].map(|()| one(&trials, &path, Some(false), now));
            let pause = Duration::from_secs(seconds);
            assert_eq!(
                changes,
                [Change::Nothing, Change::Nothing, Change::Fell(pause)]
            );
            now += pause;
            assert_eq!(one(&trials, &path, Some(true), now), Change::Recovered);
        }
    }

    #[test]
    fn clients_that_vanish_among_many_change_nothing() {
        let (trials, now, path) = (Trials::default(), Instant::now(), path("10.0.0.1"));
        for at in 0..1_000 {
            let change = one(&trials, &path, Some(at % 5 != 1), now);
            assert_eq!(change, Change::Nothing);
        }
        let mut shares = (0..1_000).map(|at| one(&trials, &path, Some(at % 3 != 1), now));
        assert!(shares.any(|change| change == Change::Fell(PAUSE)));
        // Who comes late changes nothing.
        assert_eq!(trials.end(&path, Some(true), now), Change::Nothing);
        assert!(!trials.allow(&path, now));
    }

    #[test]
    fn so_many_are_unproven_at_a_time_and_no_more() {
        let (trials, now, path) = (Trials::default(), Instant::now(), path("10.0.0.1"));
        one(&trials, &path, Some(true), now);
        for _ in 0..UNPROVEN_MAX {
            assert!(trials.allow(&path, now));
            trials.begin(&path, now);
            trials.watch(&path);
        }
        assert!(!trials.allow(&path, now));
        trials.end(&path, Some(true), now);
        assert!(trials.allow(&path, now));
    }

    #[test]
    fn so_many_paths_are_known_and_the_unused_go_first() {
        let (trials, now) = (Trials::default(), Instant::now());
        for at in 0..PATHS_MAX as u32 {
            let client = Ipv4Addr::from_bits(at << 8).to_string();
            one(&trials, &path(&client), Some(true), now);
        }
        let other = path("fd00::1");
        assert!(!trials.allow(&other, now) && trials.allow(&path("0.0.1.9"), now));
        assert!(trials.allow(&other, now + PAUSE_MAX));
    }
}
