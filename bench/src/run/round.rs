//! One round on one endpoint: threads, the gate, what the server cost meanwhile.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::time::Duration;

use super::endpoint::Site;
use super::scenario::Course;
use super::{BenchError, Run};
use crate::cli::ScenarioName;
use crate::client::{Gate, Load, Source, Stage, Tally, Target, drive};
use crate::machine::own_cpu_seconds;
use crate::model::{Round, ServerCost};
use crate::process::{Cost, Processes};

/// How often memory is looked at and progress shown.
const GLANCE: Duration = Duration::from_millis(200);

/// Load that is put on a target.
pub(super) struct Shot<'a> {
    pub(super) target: &'a Target,
    pub(super) processes: &'a Processes,
    pub(super) warmup: Option<Stage>,
    pub(super) stage: Stage,
    pub(super) connections: u32,
    /// Every request takes an object of its own, in warm-up and round.
    pub(super) new_objects: bool,
    /// Also when the run was interrupted.
    pub(super) always: bool,
    /// For those who watch.
    pub(super) title: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) server: Option<ServerCost>,
    pub(super) client_cpu_seconds: f64,
    /// Numbers of requests given out in warm-up and round.
    pub(super) taken: [u64; 2],
}

impl Run {
    pub(super) fn round(&self, site: &Site, course: &mut Course) -> Result<Round, BenchError> {
        if course.scenario == ScenarioName::Checkpoint {
            return self.checkpoint(site, course);
        }
        let outcome = self.shoot(&Shot {
            target: &site.target,
            processes: &site.processes,
            warmup: course.warmup(&self.plan),
            stage: course.stage(&self.plan),
            connections: self.plan.concurrency,
            new_objects: course.takes_new(),
            always: false,
            title: format!("{} {}", super::scenario::name(course.scenario), site.label),
        })?;
        course.used_until(course.base + outcome.taken.iter().sum::<u64>());
        Ok(outcome.round())
    }

    /// Puts the load on and waits for its end.
    pub(super) fn shoot(&self, shot: &Shot<'_>) -> Result<Outcome, BenchError> {
        let threads = self.plan.threads.min(shot.connections);
        let never = AtomicBool::new(false);
        let load = Load {
            target: shot.target,
            content: &self.content,
            warmup: shot.warmup.clone(),
            stage: shot.stage.clone(),
            connections: shot.connections,
            threads,
            cpus: &self.plan.client_cpus,
            timeout: self.plan.timeout,
            part_size: self.plan.part_size,
            page: u64::from(self.plan.page),
            verify: self.plan.verify,
            new_objects: shot.new_objects,
            stop: if shot.always {
                &never
            } else {
                self.stop.flag()
            },
            live: &self.live,
            counters: [AtomicU64::new(0), AtomicU64::new(0)],
        };
        let gate = Gate::new(threads);
        let (sender, receiver) = mpsc::channel();
        let mut outcome = Outcome::default();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (sender, load, gate) = (sender.clone(), &load, &gate);
                scope.spawn(move || {
                    // The receiver lives until every thread has sent.
                    let _ = sender.send(drive(load, gate, thread));
                });
            }
            self.watch(shot, &gate, &receiver, threads, &mut outcome)
        })?;
        outcome.taken = load.counters.map(AtomicU64::into_inner);
        Ok(outcome)
    }

    /// Opens the gate, then looks at the server until all threads have ended.
    fn watch(
        &self,
        shot: &Shot<'_>,
        gate: &Gate,
        ended: &mpsc::Receiver<io::Result<Tally>>,
        threads: u32,
        outcome: &mut Outcome,
    ) -> Result<(), BenchError> {
        gate.ready.wait();
        let (before, client_before) = (self.cost(shot.processes), own_cpu_seconds());
        self.progress.begin(&shot.title, &self.live);
        gate.go.wait();
        let mut peak = before.map_or(0, |c| c.rss_bytes);
        let (mut running, mut first_error) = (threads, None);
        while running > 0 {
            match ended.recv_timeout(GLANCE) {
                Ok(Ok(tally)) => outcome.tally.merge(tally),
                Ok(Err(error)) => first_error = first_error.or(Some(error)),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    peak = peak.max(self.cost(shot.processes).map_or(0, |c| c.rss_bytes));
                    self.progress.show(&self.live);
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            running -= 1;
        }
        outcome.client_cpu_seconds = own_cpu_seconds() - client_before;
        let after = self.cost(shot.processes);
        outcome.server = before.zip(after).map(|(before, after)| ServerCost {
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            rss_peak_bytes: peak.max(after.rss_bytes),
        });
        let failed = first_error.map(BenchError::io("a thread of the client"));
        failed.map_or(Ok(()), Err)
    }

    /// What the processes cost until now; none when none were named or one of
    /// them ended, which is said.
    fn cost(&self, processes: &Processes) -> Option<Cost> {
        if processes.is_empty() {
            return None;
        }
        let cost = processes.cost();
        if let Err(error) = &cost {
            self.progress
                .warn(&format!("server cost is not measured: {error}"));
        }
        cost.ok()
    }
}

impl Outcome {
    /// The round without its place among the others.
    pub(super) fn round(self) -> Round {
        let tally = self.tally;
        let sources = Source::ALL
            .iter()
            .zip(tally.sources)
            .filter(|(_, n)| *n > 0);
        Round {
            number: 0,
            endpoint: 0,
            requests: tally.requests,
            calls: tally.calls,
            errors: tally
                .errors
                .iter()
                .map(|(k, n)| ((*k).to_owned(), *n))
                .collect(),
            error_examples: tally.examples.clone(),
            unsent: tally.unsent,
            reconnects: tally.reconnects,
            resent: tally.resent,
            bytes: tally.bytes,
            seconds: tally.last_ns as f64 / 1e9,
            latency: tally.latency.latency(),
            cache: sources
                .map(|((_, name), n)| ((*name).to_owned(), n))
                .collect(),
            series: tally.series,
            phases: Vec::new(),
            server: self.server,
            client_cpu_seconds: self.client_cpu_seconds,
        }
    }
}
