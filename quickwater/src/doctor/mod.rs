//! `doctor`: what of this machine and of the service's surroundings is not as it
//! should be, and what to do about it. Absent on purpose: changing anything.

mod certificate;
mod clock;
mod cluster;
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

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use crate::cli::{Output, SettingsArgs, count};
use crate::settings::{Settings, Values};
use service::Role;

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
    let (values, unread) = values(args)?;
    let settings = Settings::from_values(&values).context(crate::cli::Usage)?;
    let found = service::found(&settings);
    let role = service::role(&settings, &found);
    let is_running = matches!(&found, Ok(Some(found)) if found.is_alive);
    let mut checks: Vec<Check> = unread.into_iter().collect();
    checks.extend(not_given(&settings, role));
    checks.extend(machine::checks(&settings, role, is_running));
    checks.extend(privileges::checks());
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
fn values(args: &DoctorArgs) -> Result<(Values, Option<Check>)> {
    let error = match args.settings.values() {
        Ok(values) => return Ok((values, None)),
        Err(error) => error,
    };
    let Ok(values) = args.settings.values_without_file() else {
        return Err(error);
    };
    let unread = Check::fail(
        "settings",
        format!("{error:#}"),
        "mend the file, or run doctor as the service's user or as root; what follows is judged without the file",
    );
    Ok((values, Some(unread)))
}

/// A worker has the address of its control plane among its settings: where it was not given
/// here, neither were the others.
fn not_given(settings: &Settings, role: Role) -> Option<Check> {
    (role == Role::Worker && settings.cluster.control.is_none()).then(|| {
        Check::warn(
            "settings of the worker",
            "not known here: memory, space, ports, open files and ufs.uri are judged by what this command was given, and else by the defaults",
            "give the worker's settings as it has them: its flags, or --config",
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
