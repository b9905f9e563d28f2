//! The round of `checkpoint`: all ranks write their shards at once, then one
//! client reads all of them back. The checkpoint before it is deleted, as
//! trainers do; that is not timed.

use super::endpoint::Site;
use super::round::{Outcome, Shot};
use super::scenario::Course;
use super::{BenchError, Run};
use crate::client::Stage;
use crate::model::{Phase, Round, ServerCost};
use crate::workload::{Pattern, Schedule};

impl Run {
    pub(super) fn checkpoint(&self, site: &Site, course: &mut Course) -> Result<Round, BenchError> {
        let (from, ranks) = (course.base, u64::from(self.plan.ranks));
        course.used_until(from + ranks);
        let write = self.phase(site, course, Pattern::PutParts, self.plan.ranks)?;
        let readers = self.plan.concurrency.min(self.plan.ranks);
        let restore = self.phase(site, course, Pattern::GetInOrder, readers)?;
        let phases = vec![phase("write", &write), phase("restore", &restore)];
        let mut round = together(write, restore);
        round.phases = phases;
        if from >= ranks && !self.stop.is_set() {
            let old = (from - ranks, from);
            self.each(
                &site.target,
                course,
                Pattern::Delete,
                old,
                "old checkpoint",
                false,
            )?;
        }
        Ok(round)
    }

    fn phase(
        &self,
        site: &Site,
        course: &Course,
        pattern: Pattern,
        connections: u32,
    ) -> Result<Outcome, BenchError> {
        let mut workload = course.workload(&self.plan, course.base, 0);
        workload.pattern = pattern;
        workload.objects = course.base + u64::from(self.plan.ranks);
        self.shoot(&Shot {
            target: &site.target,
            processes: &site.processes,
            warmup: None,
            stage: Stage {
                workload,
                schedule: Schedule::default(),
                versions: None,
            },
            connections,
            new_objects: false,
            always: false,
            title: format!("checkpoint {}", site.label),
        })
    }
}

fn phase(name: &str, outcome: &Outcome) -> Phase {
    Phase {
        name: name.to_owned(),
        seconds: outcome.tally.last_ns as f64 / 1e9,
        bytes: outcome.tally.bytes,
        requests: outcome.tally.requests,
        server_cpu_seconds: outcome.server.map(|s| s.cpu_seconds),
        latency: outcome.tally.latency.latency(),
    }
}

/// One round of two outcomes, one after the other.
fn together(first: Outcome, second: Outcome) -> Round {
    let server = first.server.zip(second.server).map(|(a, b)| ServerCost {
        cpu_seconds: a.cpu_seconds + b.cpu_seconds,
        rss_peak_bytes: a.rss_peak_bytes.max(b.rss_peak_bytes),
    });
    let client_cpu_seconds = first.client_cpu_seconds + second.client_cpu_seconds;
    let (mut tally, seconds) = (first.tally, second.tally.last_ns);
    let last_ns = tally.last_ns + seconds;
    let later = std::mem::take(&mut tally.series);
    let mut series = later;
    let mut other = second.tally;
    series.append(&mut other.series);
    tally.merge(other);
    (tally.series, tally.last_ns) = (series, last_ns);
    Outcome {
        tally,
        server,
        client_cpu_seconds,
        taken: [0; 2],
    }
    .round()
}
