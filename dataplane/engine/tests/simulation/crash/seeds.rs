//! Many runs: that none fails, that they see what they are for, that a mistake
//! makes one fail for the reason it should.

use std::io::Write;
use std::panic::catch_unwind;
use std::thread;

use super::check::{HISTORY, LEFT, NEVER, OPEN, PART_LOST, REORDERED};
use super::run::run;
use super::{Break, Counts};

/// Seeds of a run, where `QUICKWATER_SIM_SEEDS` says nothing else (and
/// `QUICKWATER_SIM_FIRST` where they begin).
const SEEDS: u64 = 2_000;
/// Seeds within which a mistake must be seen.
const SEEDS_TO_SEE_MAX: u64 = 2_000;
/// Most threads: the machine has other tests to run.
const THREADS_MAX: u64 = 4;

/// What must have happened in enough seeds, or they prove less than they say.
const HAPPENINGS: [&str; 18] = [
    "commits undone",
    "replayed",
    "answer lost",
    "end not heard of",
    "dirty full",
    "records full",
    "evicted",
    "chunk lost",
    "pinned again",
    "applied late",
    "applied after we ended",
    "start cut off",
    "gone on with",
    "swept",
    "swept in the UFS",
    "handed over",
    "held part sent",
    "completed later",
];

/// A number from the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Says it whether or not the test harness shows what passing tests say.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs every `step`th seed; those that fail, and all that happened.
fn run_each(seeds: impl Iterator<Item = u64>) -> (Vec<u64>, Counts) {
    let mut failed = Vec::new();
    let mut counts = Counts::new();
    for seed in seeds {
        match catch_unwind(|| run(seed, None)) {
            Ok((_, seen)) => {
                for (what, times) in seen {
                    *counts.entry(what).or_default() += times;
                }
            }
            Err(_) => failed.push(seed),
        }
    }
    (failed, counts)
}

#[test]
fn no_crash_loses_or_revives_anything() {
    let first = asked("QUICKWATER_SIM_FIRST").unwrap_or(0);
    let seeds = asked("QUICKWATER_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = thread::available_parallelism().map_or(1, |n| (n.get() as u64).min(THREADS_MAX));
    let ranges = (0..threads).map(|n| (first + n..first + seeds).step_by(threads as usize));
    let threads: Vec<_> = ranges
        .map(|range| thread::spawn(move || run_each(range)))
        .collect();
    let mut failed = Vec::new();
    let mut counts = Counts::new();
    for thread in threads {
        let (of_thread, seen) = thread.join().unwrap();
        failed.extend(of_thread);
        for (what, times) in seen {
            *counts.entry(what).or_default() += times;
        }
    }
    failed.sort_unstable();
    assert!(failed.is_empty(), "{} seeds fail: {failed:?}", failed.len());
    if seeds >= SEEDS {
        for what in HAPPENINGS {
            assert!(counts.contains_key(what), "in no seed: {what}");
        }
    }
    say(&format!(
        "crash simulation: seeds {first} to {}, {seeds} runs, {counts:?}",
        first + seeds - 1
    ));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..30 {
        let elsewhere = thread::spawn(move || run(seed, None)).join().unwrap();
        assert_eq!(run(seed, None), elsewhere, "seed {seed}");
    }
    assert_ne!(run(1, None).0, run(2, None).0);
}

/// What a run says when it sees the mistake, and not something else.
fn reasons(broken: Break) -> &'static [&'static str] {
    match broken {
        Break::LateIsNotFenced | Break::SentIsNotNoted => &[REORDERED],
        // Lost, or known and without bytes.
        Break::FlushCoversItselfOnly => &[HISTORY, NEVER],
        Break::DeleteIsNotPending => &[HISTORY, LEFT],
        Break::RefusedIsNotVoided => &[HISTORY],
        Break::UploadIsNotNoted => &[OPEN],
        Break::EndIsNotFlushed => &[NEVER, HISTORY],
        Break::HeldIsNotMarked => &[PART_LOST],
    }
}

/// The first seed that sees the mistake, and what it says.
fn first_to_see(broken: Break) -> Option<(u64, String)> {
    (0..SEEDS_TO_SEE_MAX).find_map(|seed| {
        let why = catch_unwind(|| run(seed, Some(broken))).err()?;
        let why = why.downcast_ref::<String>()?;
        let seen = reasons(broken).iter().any(|reason| why.contains(reason));
        // It is the mistake that makes it fail.
        (seen && catch_unwind(|| run(seed, None)).is_ok()).then(|| (seed, why.clone()))
    })
}

/// Without these the rest would prove nothing.
#[test]
fn mistakes_are_seen() {
    for broken in [
        Break::LateIsNotFenced,
        Break::SentIsNotNoted,
        Break::FlushCoversItselfOnly,
        Break::DeleteIsNotPending,
        Break::RefusedIsNotVoided,
        Break::UploadIsNotNoted,
        Break::EndIsNotFlushed,
        Break::HeldIsNotMarked,
    ] {
        let seen = first_to_see(broken);
        assert!(seen.is_some(), "{broken:?} is not seen");
        if let Some((seed, why)) = seen {
            let why = why.lines().next().unwrap_or_default();
            say(&format!(
                "crash simulation: {broken:?} is seen by seed {seed}: {why}"
            ));
        }
    }
}
