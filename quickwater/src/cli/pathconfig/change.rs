//! `apply` and `rollback`: checked, shown, set.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use quickwater_rpc::admin::{
    PathConfigCheckReply, PathConfigCheckRequest, PathConfigProblem, PathConfigRollbackRequest,
    PathConfigSetReply, PathConfigSetRequest,
};
use serde_json::{Value, json};
use similar::TextDiff;
use tonic::Code;

use super::{read_document, show};
use crate::cli::exit::Kind;
use crate::cli::output::emit;
use crate::cli::remote::{Target, explain};

/// Unchanged lines shown around a change.
const DIFF_CONTEXT: usize = 3;

pub(super) fn apply(
    file: &Path,
    dry_run: bool,
    expect: Option<u64>,
    target: &Target,
) -> Result<ExitCode> {
    let text = read_document(file)?;
    let checked = check(&text, target)?;
    if !checked.problems.is_empty() {
        let name = file.display();
        let lines = lines(&checked.problems);
        return Err(
            anyhow!("{name} cannot be used; nothing changed:\n{lines}").context(Kind::Usage)
        );
    }
    let now = show::fetch(None, target)?;
    let version = now.origin.map_or(0, |origin| origin.version);
    let difference = diff(&now.document, &checked.document);
    if dry_run {
        let json = json!({
            "version": version,
            "diff": difference,
            "warnings": problems_json(&checked.warnings),
        });
        return target
            .output
            .show(&json, || told(&difference, &checked.warnings));
    }
    if !target.output.is_json() {
        emit(&told(&difference, &[]))?;
    }
    let set = set(text, expect.unwrap_or(version), "pathconfig apply", target)?;
    done(&set, target)
}

pub(super) fn rollback(version: u64, target: &Target) -> Result<ExitCode> {
    let now = show::fetch(None, target)?;
    let then = show::fetch(Some(version), target)?;
    let current = now.origin.map_or(0, |origin| origin.version);
    if now.document == then.document {
        // One more version would only push an older one out of the history.
        let text = match version {
            0 => "these are the built-in policies already: there is nothing to take back".into(),
            _ => format!("version {current} in force has the content of version {version}"),
        };
        let json = json!({ "version": current, "warnings": [] });
        return target
            .output
            .show(&json, || format!("{text}; nothing changed\n"));
    }
    if !target.output.is_json() {
        emit(&told(&diff(&now.document, &then.document), &[]))?;
    }
    let request = PathConfigRollbackRequest {
        version,
        expected_version: Some(current),
        by: by(&format!("pathconfig rollback {version}")),
    };
    let set = target.with(|mut remote| async move {
        let reply = remote.path_config_rollback(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    done(&set, target)
}

/// What the service says of a document.
pub(super) fn check(text: &str, target: &Target) -> Result<PathConfigCheckReply> {
    let request = PathConfigCheckRequest {
        document: text.to_owned(),
    };
    target.with(|mut remote| async move {
        let reply = remote.path_config_check(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })
}

/// Sets a document while `expected` is in force.
pub(super) fn set(
    document: String,
    expected: u64,
    how: &str,
    target: &Target,
) -> Result<PathConfigSetReply> {
    let request = PathConfigSetRequest {
        document,
        expected_version: Some(expected),
        by: by(how),
    };
    target.with(|mut remote| async move {
        let reply = remote.path_config_set(request).await;
        Ok(reply
            .map_err(|status| match status.code() {
                Code::FailedPrecondition => anyhow!(
                    "{}; nothing changed. Look at it with `quickwater pathconfig get` and apply again",
                    status.message()
                ),
                _ => explain(&status),
            })?
            .into_inner())
    })
}

/// Says what was set.
pub(super) fn done(set: &PathConfigSetReply, target: &Target) -> Result<ExitCode> {
    let json = json!({ "version": set.version, "warnings": problems_json(&set.warnings) });
    target.output.show(&json, || {
        let mut text = warned(&set.warnings);
        let _ = writeln!(text, "version {} is in force", set.version);
        text
    })
}

/// Lines removed and added; empty when both are the same.
pub(super) fn diff(old: &str, new: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    let mut text = diff.unified_diff();
    text.context_radius(DIFF_CONTEXT)
        .header("in force", "new")
        .to_string()
}

/// The difference and warnings for people.
pub(super) fn told(difference: &str, warnings: &[PathConfigProblem]) -> String {
    let difference = match difference {
        "" => "no difference to the policies in force\n",
        text => text,
    };
    format!("{difference}{}", warned(warnings))
}

fn warned(warnings: &[PathConfigProblem]) -> String {
    let line = |w: &PathConfigProblem| format!("warning: {}: {}\n", w.field, w.message);
    warnings.iter().map(line).collect()
}

pub(super) fn lines(problems: &[PathConfigProblem]) -> String {
    let line = |p: &PathConfigProblem| format!("  {}: {}", p.field, p.message);
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn problems_json(problems: &[PathConfigProblem]) -> Value {
    let one = |p: &PathConfigProblem| json!({ "field": p.field, "message": p.message });
    problems.iter().map(one).collect()
}

/// Who does it, as far as a program can tell.
fn by(how: &str) -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter();
    let user = user
        .filter_map(|name| std::env::var(name).ok())
        .find(|user| !user.is_empty());
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{}@{host}: {how}", user.as_deref().unwrap_or("unknown"))
}

/// Keeps a text that would otherwise be lost.
pub(super) fn keep(text: &str) -> Result<std::path::PathBuf> {
    let file = tempfile::Builder::new()
        .prefix("quickwater-pathconfig-")
        .suffix(".json")
        .tempfile()
        .context("cannot make a temporary file")?;
    std::fs::write(file.path(), text).context("cannot write a temporary file")?;
    let (_, path) = file.keep().context("cannot keep a temporary file")?;
    Ok(path)
}
