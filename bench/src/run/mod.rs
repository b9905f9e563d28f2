//! A run: checks what was asked for, prepares objects, runs rounds in turns,
//! cleans up, hands back the report. Absent: what a request is, how bytes move.

mod checkpoint;
mod endpoint;
mod plan;
mod prepare;
mod progress;
mod round;
mod scenario;
mod stop;

use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{RunArgs, ScenarioName};
use crate::client::Live;
use crate::model::{FORMAT_VERSION, Report, Scenario};
use crate::workload::Content;

use endpoint::Site;
use plan::Plan;
use progress::Progress;
use scenario::Course;
pub(crate) use stop::Stop;

/// A run could not be done. Failed requests are no such error: they are counted.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
    /// Objects could not be written before the round.
    #[error("objects could not be prepared: {0}")]
    Prepare(String),
    /// A file or a system call failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed; in the text already, so no source.
        error: std::io::Error,
    },
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] crate::report::ReportError),
    /// Budgets could not be compared.
    #[error(transparent)]
    Check(#[from] crate::report::CheckError),
}

impl BenchError {
    /// Whether other arguments would help.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_))
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

/// What the parts of a run share.
struct Run {
    plan: Plan,
    content: Content,
    stop: Stop,
    progress: Progress,
    live: Live,
}

/// Runs all scenarios and reports. Ctrl-C ends it early with what was measured.
///
/// # Errors
/// [`BenchError`]; not for requests that fail.
pub fn run(args: &RunArgs, command: Vec<String>) -> Result<Report, BenchError> {
    let plan = Plan::new(args)?;
    let mut sites = Site::all(args)?;
    let run = Run {
        content: Content::new(),
        stop: Stop::on_signals()?,
        progress: Progress::new(args.output.quiet),
        live: Live::default(),
        plan,
    };
    let started = OffsetDateTime::now_utc();
    let mut report = Report {
        format_version: FORMAT_VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started.format(&Rfc3339).unwrap_or_default(),
        interrupted: false,
        settings: run.plan.settings(command),
        machine: crate::machine::describe(&run.plan.client_cpus),
        endpoints: sites.iter().map(Site::described).collect(),
        scenarios: Vec::new(),
    };
    for name in &run.plan.scenarios {
        if run.stop.is_set() {
            break;
        }
        let mut courses: Vec<Course> = Vec::new();
        for site in &sites {
            courses.push(Course::new(
                *name,
                &run.plan,
                site,
                started.unix_timestamp(),
            ));
        }
        let scenario = run.scenario(*name, &mut sites, &mut courses)?;
        report.scenarios.push(scenario);
        // Also after Ctrl-C: what is asked to be cleaned up is.
        if run.plan.cleanup {
            run.cleanup(&sites, &courses)?;
        }
    }
    report.interrupted = run.stop.is_set();
    run.progress.end();
    Ok(report)
}

impl Run {
    /// Prepares, then runs rounds in turns: A B A B.
    fn scenario(
        &self,
        name: ScenarioName,
        sites: &mut [Site],
        courses: &mut [Course],
    ) -> Result<Scenario, BenchError> {
        let mut scenario = Scenario {
            name: scenario::name(name),
            description: scenario::description(name).to_owned(),
            rounds: Vec::new(),
        };
        for (site, course) in sites.iter().zip(courses.iter()) {
            self.prepare(site, course)?;
        }
        for number in 1..=self.plan.rounds {
            for (index, (site, course)) in sites.iter_mut().zip(courses.iter_mut()).enumerate() {
                course.begin_round(number, &self.plan);
                self.prepare_round(site, course)?;
                if self.stop.is_set() {
                    return Ok(scenario);
                }
                let mut round = self.round(site, course)?;
                (round.number, round.endpoint) = (number, index);
                self.progress.round(&scenario.name, site, &round);
                scenario.rounds.push(round);
            }
        }
        Ok(scenario)
    }
}
