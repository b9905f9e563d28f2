//! A job as text and as JSON.

use std::process::ExitCode;

use quickwater_rpc::admin::Job;
use serde_json::{Value, json};

use crate::cli::output::{count, size, table};
use crate::date;

/// What is said of objects that were left alone, by reason.
const REASONS: [(&str, &str); 6] = [
    ("gone", "were gone already"),
    ("cached", "were cached already"),
    ("not_cached", "were not cached"),
    ("no_cache", "are under NO_CACHE"),
    ("only_here", "were kept: only this service has their bytes"),
    ("newer", "were kept: written after the job began"),
];

/// Whether it will not change any more.
pub(super) fn is_end(job: &Job) -> bool {
    !matches!(job.state.as_str(), "waiting" | "running")
}

/// Of a command that waited for the end.
pub(super) fn exit_code(job: &Job) -> ExitCode {
    match job.state.as_str() {
        "done" if !found_nothing(job) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Whether a load came to its end and there was neither an object of that key nor one
/// below it: a mistyped path, most likely. A bucket may be empty.
fn found_nothing(job: &Job) -> bool {
    let found = job.found.is_some_and(|found| found.objects == 0);
    let load = job.kind == "load" && !job.path.is_empty();
    load && job.state == "done" && found && handled(job) == 0
}

/// Objects that were handled.
pub(super) fn handled(job: &Job) -> u64 {
    job.done.unwrap_or_default().objects + job.failed + left(job)
}

fn left(job: &Job) -> u64 {
    job.left.values().sum()
}

pub(super) fn path(job: &Job) -> String {
    format!("/{}/{}", job.bucket, job.path.escape_debug())
}

/// What a kind of job does to an object.
pub(super) fn verb(job: &Job) -> &'static str {
    match job.kind.as_str() {
        "load" => "loaded",
        "free" => "freed",
        _ => "deleted",
    }
}

pub(super) fn json(job: &Job) -> Value {
    let time = |ms: i64| (ms != 0).then(|| date::text(ms));
    let tally =
        |t: quickwater_rpc::admin::JobTally| json!({ "objects": t.objects, "bytes": t.bytes });
    let errors = job.errors.iter();
    json!({
        "id": job.id,
        "kind": job.kind,
        "path": format!("/{}/{}", job.bucket, job.path),
        "verify": job.verify,
        "skip_if_exists": job.skip_if_exists,
        "state": job.state,
        "stopping": job.stopping,
        "created": time(job.created_ms),
        "started": time(job.started_ms),
        "ended": time(job.ended_ms),
        "found": job.found.map(tally),
        "done": tally(job.done.unwrap_or_default()),
        "left": job.left,
        "failed": job.failed,
        "unlisted": job.unlisted,
        "position": job.position,
        "errors": errors
            .map(|e| json!({ "key": e.key, "message": e.message }))
            .collect::<Vec<_>>(),
    })
}

pub(super) fn row(job: &Job) -> Vec<String> {
    let done = job.done.unwrap_or_default();
    let done = match job.found.filter(|_| !is_end(job)) {
        Some(found) => format!("{}/{}", done.objects, found.objects),
        None => format!("{} ({})", done.objects, size(done.bytes)),
    };
    vec![
        job.id.to_string(),
        job.kind.clone(),
        state(job),
        done,
        left(job).to_string(),
        job.failed.to_string(),
        date::text(job.created_ms),
        path(job),
    ]
}

fn state(job: &Job) -> String {
    match job.stopping {
        true => "stopping".into(),
        false => job.state.clone(),
    }
}

pub(super) fn text(job: &Job) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let done = job.done.unwrap_or_default();
    let mut rows = vec![
        row("job", format!("{} {} {}", job.id, job.kind, path(job))),
        row("state", state(job)),
        row("created", date::text(job.created_ms)),
    ];
    if job.ended_ms != 0 {
        rows.push(row("ended", date::text(job.ended_ms)));
    }
    if let Some(found) = job.found {
        let text = match found_nothing(job) {
            true => "nothing is there: no object has this key, none is below it".into(),
            false => format!("{} ({})", count(found.objects, "object"), size(found.bytes)),
        };
        rows.push(row("found", text));
    }
    let text = format!("{} ({})", count(done.objects, "object"), size(done.bytes));
    rows.push(row(verb(job), text));
    for (why, text) in REASONS {
        if let Some(objects) = job.left.get(why) {
            rows.push(row("left", format!("{objects} {text}")));
        }
    }
    rows.push(row("failed", job.failed.to_string()));
    for error in &job.errors {
        let key = match error.key.as_str() {
            "" => path(job),
            key => format!("/{}/{}", job.bucket, key.escape_debug()),
        };
        rows.push(row("error", format!("{key}: {}", error.message)));
    }
    table(&rows)
}

pub(super) fn stopped(job: &Job) -> String {
    match (job.stopping, job.state.as_str()) {
        (true, _) => format!("job {} stops soon\n", job.id),
        (false, "stopped") => format!("job {} is stopped\n", job.id),
        (false, state) => format!("job {} had ended: {state}\n", job.id),
    }
}
