//! The arguments, checked against each other and against limits.

use std::path::PathBuf;
use std::time::Duration;

use super::BenchError;
use crate::cli::{Profile, RunArgs, ScenarioName};
use crate::client::{PARTS_MAX, PUT_BYTES_MAX};
use crate::model::Settings;
use crate::workload::{Sizes, VERSIONED_OBJECTS_MAX};

/// Connections of a round: what one source address has ports for.
const CONNECTIONS_MAX: u32 = 20_000;
const THREADS_MAX: u32 = 256;
const ROUNDS_MAX: u32 = 10_000;
const RATE_MAX: f64 = 10_000_000.0;
/// Objects of a key space: names have room for them.
const OBJECTS_MAX: u64 = 100_000_000_000;
/// Keys of a page (the limit of S3).
const PAGE_MAX: u32 = 1000;
/// Smallest part: S3 wants 5 MiB, stores of one's own may not.
const PART_BYTES_MIN: u64 = 1;
/// Length of prefixes; the rest of the 1,024 bytes of a key are ours.
const PREFIX_BYTES_MAX: usize = 512;
const SAMPLES: u64 = 1000;
const ROUND_LENGTH: Duration = Duration::from_secs(5);

/// What is done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) scenarios: Vec<ScenarioName>,
    pub(crate) concurrency: u32,
    pub(crate) threads: u32,
    pub(crate) client_cpus: Vec<u32>,
    pub(crate) rounds: u32,
    pub(crate) duration: Option<Duration>,
    pub(crate) requests: Option<u64>,
    pub(crate) warmup: Duration,
    pub(crate) rate: Option<f64>,
    pub(crate) timeout: Duration,
    pub(crate) seed: u64,
    pub(crate) objects: u64,
    pub(crate) size_text: String,
    pub(crate) sizes: Sizes,
    pub(crate) prefix: String,
    pub(crate) part_size: u64,
    pub(crate) range_size: u64,
    pub(crate) get_share: f64,
    pub(crate) page: u32,
    pub(crate) ranks: u32,
    pub(crate) verify: bool,
    pub(crate) sign_payload: bool,
    pub(crate) prepare_dir: Option<PathBuf>,
    pub(crate) prepare_concurrency: u32,
    pub(crate) cleanup: bool,
}

impl Plan {
    pub(super) fn new(args: &RunArgs) -> Result<Self, BenchError> {
        let (load, objects) = (&args.load, &args.objects);
        let (count, size) = data_set(objects.profile);
        let size_text = objects.size.clone().unwrap_or_else(|| size.to_owned());
        let sizes = Sizes::parse(&size_text).map_err(BenchError::Usage)?;
        let plan = Self {
            scenarios: args.scenarios.clone(),
            concurrency: load.concurrency,
            threads: load.threads.min(load.concurrency),
            client_cpus: load.client_cpu.clone(),
            rounds: load.rounds,
            duration: load.duration,
            requests: load.requests,
            warmup: load.warmup,
            rate: load.rate,
            timeout: load.timeout,
            seed: load.seed,
            objects: objects.objects.unwrap_or(count),
            size_text,
            sizes,
            prefix: objects.prefix.clone(),
            part_size: objects.part_size,
            range_size: objects.range_size,
            get_share: objects.get_share,
            page: objects.page,
            ranks: objects.ranks,
            verify: objects.verify,
            sign_payload: args.target.sign_payload,
            prepare_dir: objects.prepare_dir.clone(),
            prepare_concurrency: objects.prepare_concurrency,
            cleanup: objects.cleanup,
        };
        plan.check()?;
        Ok(plan)
    }

    /// Time and number that end a round of a scenario which does not end itself.
    pub(super) fn round_end(&self) -> (Option<Duration>, Option<u64>) {
        match (self.duration, self.requests) {
            (None, None) => (Some(ROUND_LENGTH), None),
            both => both,
        }
    }

    pub(super) fn settings(&self, command: Vec<String>) -> Settings {
        Settings {
            command,
            concurrency: self.concurrency,
            threads: self.threads,
            rounds: self.rounds,
            duration_seconds: self.round_end().0.map(|d| d.as_secs_f64()),
            requests: self.requests,
            warmup_seconds: self.warmup.as_secs_f64(),
            rate: self.rate,
            seed: self.seed,
            objects: self.objects,
            size: self.size_text.clone(),
            verify: self.verify,
            sign_payload: self.sign_payload,
            quick: false,
        }
    }

    fn check(&self) -> Result<(), BenchError> {
        within("--concurrency", self.concurrency, 1, CONNECTIONS_MAX)?;
        within("--threads", self.threads, 1, THREADS_MAX)?;
        within("--rounds", self.rounds, 1, ROUNDS_MAX)?;
        within("--objects", self.objects, 1, OBJECTS_MAX)?;
        within("--page", self.page, 1, PAGE_MAX)?;
        within("--ranks", self.ranks, 1, CONNECTIONS_MAX)?;
        within(
            "--prepare-concurrency",
            self.prepare_concurrency,
            1,
            CONNECTIONS_MAX,
        )?;
        within("--part-size", self.part_size, PART_BYTES_MIN, PUT_BYTES_MAX)?;
        within("--range-size", self.range_size, 1, u64::MAX)?;
        within("--requests", self.requests.unwrap_or(1), 1, u64::MAX)?;
        let share = (0.0..=1.0).contains(&self.get_share);
        let rate = self.rate.is_none_or(|r| r > 0.0 && r <= RATE_MAX);
        let seconds = self.duration.is_none_or(|d| !d.is_zero());
        usage(share, "--get-share must be from 0 to 1")?;
        usage(
            rate,
            "--rate must be above 0 and at most 10 million per second",
        )?;
        usage(seconds, "--duration must be above 0")?;
        usage(!self.timeout.is_zero(), "--timeout must be above 0")?;
        usage(
            self.prefix.len() <= PREFIX_BYTES_MAX && !self.prefix.contains(['\r', '\n', '\0']),
            "--prefix must be one line of at most 512 bytes",
        )?;
        self.check_scenarios()
    }

    fn check_scenarios(&self) -> Result<(), BenchError> {
        let has = |name| self.scenarios.contains(&name);
        let parts = has(ScenarioName::PutMultipart) || has(ScenarioName::Checkpoint);
        let few = self.sizes.max().div_ceil(self.part_size) <= PARTS_MAX;
        usage(
            !parts || few,
            "objects of more than 10,000 parts: make --part-size larger",
        )?;
        let whole = self.sizes.max() <= PUT_BYTES_MAX;
        usage(
            parts || whole,
            "objects above 5 GiB are written in parts only",
        )?;
        let timed = has(ScenarioName::GetAfterWrite) && self.rate.is_some();
        usage(
            !timed,
            "get-after-write has no open loop: two calls, one of them timed",
        )?;
        let told_apart = !(has(ScenarioName::Mixed) && self.verify)
            || (self.objects <= VERSIONED_OBJECTS_MAX && whole);
        usage(
            told_apart,
            "mixed --verify remembers versions: at most 10 million objects of at most 5 GiB",
        )?;
        let once =
            has(ScenarioName::Checkpoint) && (self.rate.is_some() || self.requests.is_some());
        usage(
            !once,
            "a checkpoint takes neither --rate nor --requests: its ranks are its load",
        )
    }
}

/// Objects and size that are used when none are given.
const fn data_set(profile: Option<Profile>) -> (u64, &'static str) {
    match profile {
        None => (SAMPLES, "10KiB"),
        Some(Profile::Images) => (10_000, "150KB"),
        Some(Profile::Records) => (1_000, "2.8MB"),
        Some(Profile::Volumes) => (20, "146MB"),
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    low: T,
    high: T,
) -> Result<(), BenchError> {
    let good = value >= low && value <= high;
    usage(
        good,
        &format!("{name} must be from {low} to {high}, not {value}"),
    )
}

fn usage(good: bool, otherwise: &str) -> Result<(), BenchError> {
    good.then_some(())
        .ok_or_else(|| BenchError::Usage(otherwise.to_owned()))
}
