//! Scenarios: which objects they need before, and what their rounds ask for.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use super::endpoint::Site;
use super::plan::Plan;
use crate::cli::ScenarioName;
use crate::client::Stage;
use crate::workload::{KeySpace, Pattern, Schedule, Shuffle, Versions, Workload};

/// Objects a scenario may write in a run.
const WRITES_MAX: u64 = 100_000_000_000;
/// Set apart the seeds of rounds and warm-ups.
const WARMUP_SEED: u64 = 1 << 63;

/// The name on the command line.
pub(super) fn name(scenario: ScenarioName) -> String {
    let value = scenario.to_possible_value();
    value.map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// What one request is.
pub(super) const fn description(scenario: ScenarioName) -> &'static str {
    match scenario {
        ScenarioName::GetHit => "GET of a whole object, objects drawn again and again",
        ScenarioName::GetMiss => "GET of a whole object, every object once",
        ScenarioName::Put => "PUT of a new object",
        ScenarioName::PutMultipart => "upload of a new object in parts, from begin to completion",
        ScenarioName::GetAfterWrite => {
            "GET of an object right after its PUT; the GET alone is timed, CPU is of both"
        }
        ScenarioName::Mixed => {
            "GET or overwriting PUT of a whole object; latencies are of both together"
        }
        ScenarioName::Head => "HEAD of an object",
        ScenarioName::List => "ListObjectsV2 page after a random key",
        ScenarioName::Delete => "DELETE of an object",
        ScenarioName::Range => "GET of a range of an object",
        ScenarioName::Epoch => "GET of a whole sample, every sample once in shuffled order",
        ScenarioName::Checkpoint => {
            "a shard: uploads of all ranks at once, then all read back; latencies are of both together, those of each in its phase"
        }
    }
}

/// A scenario on one endpoint, over its rounds.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) scenario: ScenarioName,
    pub(super) space: KeySpace,
    /// Objects of the space that exist before the rounds.
    pub(super) prepared: u64,
    /// The objects are new in every run.
    written: bool,
    /// Where overwrites are told apart.
    versions: Option<Arc<Versions>>,
    round: u32,
    /// First index of the round.
    pub(super) base: u64,
    /// One more than the last index that may have been written or read.
    pub(super) used: u64,
}

impl Course {
    pub(super) fn new(scenario: ScenarioName, plan: &Plan, site: &Site, started: i64) -> Self {
        let written = writes_new(scenario);
        let versioned = scenario == ScenarioName::Mixed && plan.verify;
        let used_for = match scenario {
            ScenarioName::GetMiss => "cold".to_owned(),
            // Other runs and the other endpoint have other names.
            _ if written || versioned => format!("{}-{}-{started}", name(scenario), site.label),
            _ => "data".to_owned(),
        };
        Self {
            scenario,
            space: KeySpace::new(&plan.prefix, &used_for, plan.sizes.clone(), plan.seed),
            prepared: if written { 0 } else { plan.objects },
            written,
            versions: versioned.then(|| Arc::new(Versions::new(plan.objects))),
            round: 0,
            base: 0,
            used: if written { 0 } else { plan.objects },
        }
    }

    pub(super) fn begin_round(&mut self, number: u32, plan: &Plan) {
        self.round = number;
        if self.scenario == ScenarioName::GetMiss {
            self.base = u64::from(number - 1) * self.share(plan);
        } else if self.written {
            self.base = self.used;
        }
    }

    /// Objects a round may use.
    pub(super) fn share(&self, plan: &Plan) -> u64 {
        match self.scenario {
            ScenarioName::GetMiss => (plan.objects / u64::from(plan.rounds)).max(1),
            ScenarioName::Checkpoint => u64::from(plan.ranks),
            _ => plan.objects,
        }
    }

    /// Objects written for this round alone, before it.
    pub(super) fn prepared_for_round(&self, plan: &Plan) -> Option<(u64, u64)> {
        let delete = self.scenario == ScenarioName::Delete;
        delete.then(|| (self.base, self.base + self.share(plan)))
    }

    /// Indexes were used up to this one.
    pub(super) fn used_until(&mut self, index: u64) {
        self.used = self.used.max(index);
    }

    /// Whether requests take new objects, one each.
    pub(super) const fn takes_new(&self) -> bool {
        self.written
    }

    /// The requests of the round.
    pub(super) fn stage(&self, plan: &Plan) -> Stage {
        let (time, limit) = if self.ends_itself() {
            (plan.duration, plan.requests)
        } else {
            plan.round_end()
        };
        Stage {
            workload: self.workload(plan, self.base, u64::from(self.round)),
            schedule: schedule(plan, time, limit),
            versions: self.versions.clone(),
        }
    }

    /// The requests before the round; none where they would use up what the round
    /// needs.
    pub(super) fn warmup(&self, plan: &Plan) -> Option<Stage> {
        let uses_up = matches!(
            self.scenario,
            ScenarioName::GetMiss | ScenarioName::Delete | ScenarioName::Epoch
        );
        if uses_up || plan.warmup.is_zero() {
            return None;
        }
        Some(Stage {
            workload: self.workload(plan, self.base, u64::from(self.round) | WARMUP_SEED),
            schedule: schedule(plan, Some(plan.warmup), None),
            versions: self.versions.clone(),
        })
    }

    /// A workload of this space.
    pub(super) fn workload(&self, plan: &Plan, base: u64, seed: u64) -> Workload {
        let end = match self.scenario {
            ScenarioName::GetMiss | ScenarioName::Delete => base + self.share(plan),
            _ if self.written => WRITES_MAX,
            _ => plan.objects,
        };
        Workload {
            space: self.space.clone(),
            pattern: self.pattern(plan, seed),
            objects: end,
            base,
            seed: plan.seed ^ seed.rotate_left(32),
        }
    }

    fn ends_itself(&self) -> bool {
        matches!(
            self.scenario,
            ScenarioName::GetMiss | ScenarioName::Delete | ScenarioName::Epoch
        )
    }

    fn pattern(&self, plan: &Plan, seed: u64) -> Pattern {
        match self.scenario {
            ScenarioName::GetHit => Pattern::Get,
            ScenarioName::GetMiss => Pattern::GetInOrder,
            ScenarioName::Put => Pattern::Put,
            ScenarioName::PutMultipart | ScenarioName::Checkpoint => Pattern::PutParts,
            ScenarioName::GetAfterWrite => Pattern::WriteThenRead,
            ScenarioName::Mixed => Pattern::Mixed(plan.get_share),
            ScenarioName::Head => Pattern::Head,
            ScenarioName::List => Pattern::List(u64::from(plan.page)),
            ScenarioName::Delete => Pattern::Delete,
            ScenarioName::Range => Pattern::Range(plan.range_size),
            ScenarioName::Epoch => Pattern::Once(Shuffle::new(plan.objects, plan.seed ^ seed)),
        }
    }
}

const fn writes_new(scenario: ScenarioName) -> bool {
    matches!(
        scenario,
        ScenarioName::Put
            | ScenarioName::PutMultipart
            | ScenarioName::GetAfterWrite
            | ScenarioName::Delete
            | ScenarioName::Checkpoint
    )
}

fn schedule(plan: &Plan, time: Option<Duration>, limit: Option<u64>) -> Schedule {
    Schedule {
        rate: plan.rate,
        end_ns: time.map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
        limit,
    }
}
