//! `list` and `stat`: what is not in the UFS, and why.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use quickwater_rpc::admin::{
    PersistChange, PersistListRequest, PersistStatReply, PersistStatRequest, PersistTotals,
};
use serde_json::{Value, json};

use super::{place, totals_json, unheard_text};
use crate::cli::exit::Kind;
use crate::cli::output::{count, size, table};
use crate::cli::remote::{Remote, Target, explain};
use crate::date;

/// Changes of one page asked for.
const PAGE_CHANGES: u32 = 1_000;

/// Characters of an error in a table.
const ERROR_CHARS_MAX: usize = 60;

/// What was listed.
struct Listed {
    changes: Vec<PersistChange>,
    totals: PersistTotals,
    more: bool,
}

pub(super) fn list(first: PersistListRequest, limit: usize, target: &Target) -> Result<ExitCode> {
    let listed = target.with(|remote| pages(remote, first, limit))?;
    let json = json!({
        "changes": listed.changes.iter().map(change_json).collect::<Vec<_>>(),
        "totals": totals_json(&listed.totals),
        "transient": {
            "objects": listed.totals.transient_objects,
            "bytes": listed.totals.transient_bytes,
        },
        "more": listed.more,
    });
    target.output.show(&json, || list_text(&listed, limit))
}

async fn pages(
    mut remote: Remote,
    mut request: PersistListRequest,
    limit: usize,
) -> Result<Listed> {
    let mut changes = Vec::new();
    loop {
        let left = limit.saturating_sub(changes.len()).max(1);
        request.page_size = PAGE_CHANGES.min(u32::try_from(left).unwrap_or(PAGE_CHANGES));
        let reply = remote.persist_list(request.clone()).await;
        let page = reply.map_err(|s| explain(&s))?.into_inner();
        changes.extend(page.changes);
        let more = !page.next_page_token.is_empty();
        if !more || changes.len() >= limit {
            let cut = changes.len() > limit;
            changes.truncate(limit);
            return Ok(Listed {
                changes,
                totals: page.totals.unwrap_or_default(),
                more: more || cut,
            });
        }
        request.page_token = page.next_page_token;
    }
}

fn list_text(listed: &Listed, limit: usize) -> String {
    let mut text = String::new();
    if !listed.changes.is_empty() {
        let heading = [
            "STATE",
            "SIZE",
            "SINCE",
            "ATTEMPTS",
            "NEXT",
            "PATH",
            "LAST ERROR",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(listed.changes.iter().map(row));
        text.push_str(&table(&rows));
    }
    if listed.more {
        text.push_str(&format!(
            "... maybe more than {limit}; raise --limit or narrow with --prefix\n"
        ));
    }
    text.push_str(&total_text(&listed.totals));
    text.push('\n');
    if !listed.totals.unheard.is_empty() {
        let unheard = unheard_text(&listed.totals);
        text.push_str(&format!(
            "not listed: what is queued there ({unheard}); it is counted, by the metadata\n"
        ));
    }
    let (objects, bytes) = (
        listed.totals.transient_objects,
        listed.totals.transient_bytes,
    );
    if objects > 0 {
        let bytes = size(bytes);
        text.push_str(&format!(
            "not listed: {} ({bytes}), which no UFS gets\n",
            count(objects, "TRANSIENT object")
        ));
    }
    text
}

fn total_text(totals: &PersistTotals) -> String {
    if totals.puts + totals.deletes == 0 {
        return "nothing waits for a UFS".into();
    }
    let oldest = match totals.oldest_ms {
        0 => String::new(),
        ms => format!(", oldest since {}", date::text(ms)),
    };
    format!(
        "in all: {} ({}) to be put, {} to be deleted, {} running, {} failing{oldest}",
        count(totals.puts, "object"),
        size(totals.bytes),
        totals.deletes,
        totals.running,
        totals.failing
    )
}

/// Keys may hold any character, so they are escaped on a terminal.
fn path_text(change: &PersistChange) -> String {
    format!("/{}/{}", change.bucket, change.key.escape_debug())
}

fn row(change: &PersistChange) -> Vec<String> {
    vec![
        change.state.clone(),
        size(change.bytes),
        date::text(change.since_ms),
        change.attempts.to_string(),
        next_text(change),
        path_text(change),
        error_text(&change.error),
    ]
}

/// The beginning of an error; `stat` and `--output json` have all of it.
fn error_text(error: &str) -> String {
    let mut text: String = error.chars().take(ERROR_CHARS_MAX).collect();
    if text.len() < error.len() {
        text.push_str("...");
    }
    text.escape_debug().to_string()
}

fn next_text(change: &PersistChange) -> String {
    match (change.running, change.due_in_ms) {
        (true, _) => "running".into(),
        (false, 0) => "now".into(),
        (false, ms) => format!("in {:?}", whole_seconds(ms)),
    }
}

/// Rounded up: nothing is due before it is said to be.
fn whole_seconds(ms: u64) -> Duration {
    Duration::from_secs(ms.div_ceil(1_000))
}

pub(super) fn stat(path: &str, target: &Target) -> Result<ExitCode> {
    let (bucket, key) = place(path)?;
    if key.is_empty() {
        return Err(anyhow!(
            "'{path}' names no object; write /BUCKET/KEY, or `async-persist list --prefix {path}`"
        )
        .context(Kind::Usage));
    }
    let request = PersistStatRequest {
        bucket: bucket.clone(),
        key: key.clone(),
    };
    let reply = target.with(|mut remote| async move {
        let reply = remote.persist_stat(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    let shown = format!("/{bucket}/{key}");
    let mut json = json!({
        "path": shown,
        "state": reply.state,
        "bytes": reply.bytes,
        "version": reply.version,
    });
    if let Some(change) = &reply.change {
        json = change_json(change);
    }
    target.output.show(&json, || stat_text(&shown, &reply))
}

fn stat_text(path: &str, reply: &PersistStatReply) -> String {
    let mut rows = vec![
        ("path", path.escape_debug().to_string()),
        ("state", reply.state.clone()),
        ("bytes", reply.bytes.to_string()),
        ("version", reply.version.clone()),
    ];
    if let Some(change) = &reply.change {
        rows.push(("since", date::text(change.since_ms)));
        rows.push(("attempts", change.attempts.to_string()));
        rows.push(("next attempt", next_text(change)));
        rows.push(("worker", change.worker.clone()));
        if !change.holders.is_empty() {
            rows.push(("bytes at", change.holders.join(", ")));
        }
        if !change.error.is_empty() {
            rows.push(("last error", change.error.escape_debug().to_string()));
        }
    }
    let row = |(name, value): (&str, String)| vec![format!("{name}:"), value];
    table(&rows.into_iter().map(row).collect::<Vec<_>>())
}

fn change_json(change: &PersistChange) -> Value {
    json!({
        "path": format!("/{}/{}", change.bucket, change.key),
        "bucket": change.bucket,
        "key": change.key,
        "state": change.state,
        "bytes": change.bytes,
        "version": change.version,
        "since": date::text(change.since_ms),
        "running": change.running,
        "attempts": change.attempts,
        "next_attempt_in_ms": (!change.running).then_some(change.due_in_ms),
        "last_error": (!change.error.is_empty()).then_some(&change.error),
        "worker": change.worker,
        "holders": change.holders,
    })
}
