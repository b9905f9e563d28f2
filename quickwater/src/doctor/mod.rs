//! `doctor`: what of this machine and of the service's surroundings is not as it
//! should be, and what to do about it. Absent on purpose: changing anything.

mod certificate;
mod clock;
mod cluster;
mod control;
mod device;
mod disk;
mod foundation;
mod kernel_clock;
mod machine;
mod privileges;
mod service;
#[cfg(test)]
mod tests;
mod ufs;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use crate::cli::{Output, SettingsArgs, count};
use crate::home::{LastStart, Verb};
use crate::settings::layers::Layer;
use crate::settings::{Settings, Source, Values, keys};
use service::Role;

/// What was given to the process that was started last.
const LAST_START: &str = "settings of the last start";

/// Flags of `doctor`: every setting, because the checks depend on them.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Write a small object to each S3 location, read it back and delete it. Without it nothing
    /// is written outside of DIR
    #[arg(long)]
    probe_writes: bool,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    output: Output,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Ok,
    /// Works, could be better.
    Warn,
    /// The service cannot work so.
    Fail,
}

/// One check and what to do when it is not ok.
#[derive(Debug, Clone)]
struct Check {
    name: String,
    verdict: Verdict,
    found: String,
    advice: String,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, found, "")
    }

    fn warn(name: &str, found: impl Into<String>, advice: &str) -> Self {
        Self::new(name, Verdict::Warn, found, advice)
    }

    fn fail(name: &str, found: impl Into<String>, advice: &str) -> Self {
        Self::new(name, Verdict::Fail, found, advice)
    }

    fn new(name: &str, verdict: Verdict, found: impl Into<String>, advice: &str) -> Self {
        Self {
            name: name.to_owned(),
            verdict,
            found: found.into(),
            advice: advice.to_owned(),
        }
    }
}

/// Runs all checks and prints them.
///
/// # Errors
/// Settings that cannot be used, or stdout that cannot be written.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let Known {
        settings,
        verb,
        told,
    } = known(args)?;
    let found = service::found(&settings);
    let role = service::role(&settings, &found, verb);
    let is_running = matches!(&found, Ok(Some(found)) if found.is_alive);
    let mut checks = told;
    checks.extend(not_given(&settings, role));
    checks.extend(machine::checks(&settings, role, is_running));
    checks.extend(privileges::checks(&settings, is_running));
    checks.extend(disk::checks(&settings, role));
    checks.extend(certificate::checks(&settings));
    checks.extend(foundation::checks(&settings));
    checks.extend(cluster::checks(&settings, role));
    let ufs = ufs::Asker::new(&settings, args.probe_writes);
    checks.extend(service::checks(&settings, role, found, &ufs));
    let json = json!({ "checks": checks.iter().map(check_json).collect::<Vec<_>>() });
    args.output.show(&json, || text(&checks))?;
    let failed = checks.iter().any(|c| c.verdict == Verdict::Fail);
    Ok(if failed {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

/// All settings; if their file cannot be read, the others, and what to do about it: the
/// machine can be looked at all the same.
fn values(args: &DoctorArgs, below: &Layer) -> Result<(Values, Option<Check>)> {
    let error = match args.settings.values_over(below.clone()) {
        Ok(values) => return Ok((values, None)),
        Err(error) => error,
    };
    let Ok(values) = args.settings.values_without_file(below.clone()) else {
        return Err(error);
    };
    let unread = Check::fail(
        "settings",
        format!("{error:#}"),
        "mend the file, or run doctor as the service's user or as root; what follows is judged without the file",
    );
    Ok((values, Some(unread)))
}

/// By what is judged.
struct Known {
    settings: Settings,
    /// What was started last in the directory.
    verb: Option<Verb>,
    /// What is to be said of it.
    told: Vec<Check>,
}

/// What was given here, over what was given to the process that was started last in the
/// directory.
fn known(args: &DoctorArgs) -> Result<Known> {
    let (given, unread) = values(args, &Layer::new())?;
    let mut told: Vec<Check> = unread.into_iter().collect();
    let start = match LastStart::read(Path::new(given.text("dir"))) {
        Ok(start) => start,
        Err(error) => {
            told.push(not_used(&error));
            None
        }
    };
    if let Some(start) = &start {
        // A file of settings that is given here is meant in the place of that one.
        let below = start.layer(args.settings.config.is_none());
        let (values, _) = values(args, &below)?;
        match Settings::from_values(&values) {
            Ok(settings) => {
                told.extend(taken(start, &values));
                let verb = Some(start.verb);
                return Ok(Known {
                    settings,
                    verb,
                    told,
                });
            }
            // Another version may have taken what this one does not.
            Err(error) => told.push(not_used(&error)),
        }
    }
    Ok(Known {
        settings: Settings::from_values(&given).context(crate::cli::Usage)?,
        verb: start.map(|start| start.verb),
        told,
    })
}

fn not_used(error: &anyhow::Error) -> Check {
    let causes = error.chain().filter_map(|one| one.downcast_ref());
    let mut kinds = causes.map(std::io::Error::kind);
    let what = match kinds.any(|kind| kind == std::io::ErrorKind::PermissionDenied) {
        true => "run doctor as the service's user or as root",
        false => {
            "restart the process: each start notes its settings anew; until then give doctor the flags that it was started with"
        }
    };
    let below = "What follows is judged by what this command was given, and else by the defaults";
    Check::warn(
        LAST_START,
        format!("{error:#}"),
        &format!("{what}. {below}"),
    )
}

/// Which settings were taken from the last start.
fn taken(start: &LastStart, values: &Values) -> Option<Check> {
    let keys = keys::KEYS.iter().map(|key| key.name);
    let taken: Vec<&str> = keys
        .filter(|name| values.source(name) == Source::LastStart)
        .collect();
    let what = match start.verb {
        Verb::Serve => "service",
        Verb::Control => "control plane",
        Verb::Worker => service::WORKER,
    };
    (!taken.is_empty()).then(|| {
        let found = format!("what the {what} was given at it: {}", taken.join(", "));
        Check::ok(LAST_START, found)
    })
}

/// A worker has the address of its control plane among its settings: where it is not known,
/// neither are the others.
fn not_given(settings: &Settings, role: Role) -> Option<Check> {
    (role == Role::Worker && settings.cluster.control.is_none()).then(|| {
        Check::warn(
            "settings of the worker",
            "not known here: memory, space, ports, open files and ufs.uri are judged by what this command was given, and else by the defaults",
            "give the worker's settings as it has them: its flags, or --config; or start it once with this version, which notes them",
        )
    })
}

fn check_json(check: &Check) -> serde_json::Value {
    json!({
        "name": check.name, "verdict": word(check.verdict),
        "found": check.found, "advice": check.advice,
    })
}

fn text(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let line = format!(
            "{:4}  {}: {}\n",
            word(check.verdict),
            check.name,
            check.found
        );
        out.push_str(&line);
        if !check.advice.is_empty() {
            out.push_str(&format!("      -> {}\n", check.advice));
        }
    }
    let found = |v: Verdict| checks.iter().filter(|c| c.verdict == v).count() as u64;
    out.push_str(&format!(
        "{} ok, {}, {}\n",
        found(Verdict::Ok),
        count(found(Verdict::Warn), "warning"),
        count(found(Verdict::Fail), "failure")
    ));
    out
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}
