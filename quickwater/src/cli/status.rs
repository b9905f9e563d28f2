//! `status`.

use std::process::ExitCode;

use anyhow::Result;
use quickwater_rpc::admin::{Condition, Node, StatusReply, StatusRequest};
use serde_json::json;

use super::output::{count, size, table};
use super::remote::{Target, explain};

pub(super) fn run(target: &Target) -> Result<ExitCode> {
    let status = target.with(|mut remote| async move {
        let reply = remote.status(StatusRequest {}).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    target
        .output
        .show(&status_json(&status), || status_text(&status))
}

fn status_json(status: &StatusReply) -> serde_json::Value {
    let node = |n: &Node| {
        json!({
            "name": n.name, "s3": n.s3_address, "state": n.state, "shards": n.shards,
            "capacity_bytes": n.capacity_bytes, "used_bytes": n.used_bytes,
            "copies_kept": n.copies_kept, "parts_held": n.parts_held,
            "conditions": n.conditions.iter().map(condition_json).collect::<Vec<_>>(),
        })
    };
    json!({
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "mounts": status.mounts,
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "troubles": status.troubles,
        "refused": status.refused.iter().map(|r| json!({"name": r.name, "why": r.why})).collect::<Vec<_>>(),
        "conditions": status.conditions.iter().map(condition_json).collect::<Vec<_>>(),
        "counters": status.counters,
    })
}

/// An optional part of a process.
pub(super) fn condition_json(condition: &Condition) -> serde_json::Value {
    json!({ "name": condition.name, "state": condition.state, "detail": condition.detail })
}

/// Those of this process, then those of its workers.
fn conditions_text(status: &StatusReply) -> String {
    let own = status.conditions.iter().map(|c| (String::new(), c));
    let workers = status.nodes.iter().flat_map(|node| {
        let conditions = node.conditions.iter();
        conditions.map(|c| (format!("{}: ", node.name), c))
    });
    let lines = own.chain(workers).map(|(whose, condition)| {
        let (name, state, detail) = (&condition.name, &condition.state, &condition.detail);
        format!("{whose}{name}: {state} ({detail})\n")
    });
    let lines: String = lines.collect();
    match lines.is_empty() {
        true => lines,
        false => format!("\n{lines}"),
    }
}

fn status_text(status: &StatusReply) -> String {
    let uptime = std::time::Duration::from_secs(status.uptime_ms / 1000);
    let mut out = format!(
        "version {}, up {uptime:?}, {}\n\n",
        status.version,
        count(status.mounts, "mount")
    );
    for trouble in &status.troubles {
        out.push_str(&format!("{trouble}\n\n"));
    }
    for refused in &status.refused {
        out.push_str(&format!("{} is refused: {}\n\n", refused.name, refused.why));
    }
    let heading = ["NODE", "S3", "STATE", "SHARDS", "USED", "CAPACITY"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(status.nodes.iter().map(|n| {
        vec![
            n.name.clone(),
            n.s3_address.clone(),
            n.state.clone(),
            n.shards.to_string(),
            size(n.used_bytes),
            size(n.capacity_bytes),
        ]
    }));
    out.push_str(&table(&rows));
    out.push_str(&conditions_text(status));
    let mut counters: Vec<_> = status.counters.iter().collect();
    counters.sort_by(|a, b| a.0.cmp(b.0));
    if !counters.is_empty() {
        out.push('\n');
        let rows: Vec<_> = counters
            .iter()
            .map(|(name, value)| vec![(*name).clone(), value.to_string()])
            .collect();
        out.push_str(&table(&rows));
    }
    out
}
