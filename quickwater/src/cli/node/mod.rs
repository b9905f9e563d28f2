//! `node`: the workers of a cluster as the control plane knows them.

mod drain;
mod remove;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use quickwater_rpc::admin::{Node, Rates, StatusRequest};
use serde_json::json;

use crate::cli::output::{size, table};
use crate::cli::remote::{Target, explain};
use crate::cli::status::condition_json;

/// Verbs of `node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List workers with their slots and leases
    #[command(
        after_help = "A worker whose lease is over is `silent`; one that said goodbye is `gone`, one that was taken for lost is `removed`; `draining` becomes `drained`.\nDIRTY is what the UFS does not have of its own. COPIES it keeps for other workers; PARTS are bodies of open uploads, and what is being written, told only while it has neither changes nor TRANSIENT objects (`-`: it does not say).\n\nExamples:\n  quickwater node list --dir /var/lib/qw-control\n  quickwater node list --dir /var/lib/qw-control --output json"
    )]
    List(Target),
    /// Have a worker give its slots to others, with nothing left that only it has
    #[command(after_help = drain::HELP)]
    Drain(drain::DrainArgs),
    /// Take a worker for lost, with what only it had
    #[command(after_help = remove::HELP)]
    Remove(remove::RemoveArgs),
}

/// Runs one.
///
/// # Errors
/// The service is not there, or refuses.
pub(super) fn run(verb: NodeVerb) -> Result<ExitCode> {
    match verb {
        NodeVerb::List(target) => list(&target),
        NodeVerb::Drain(args) => drain::run(&args),
        NodeVerb::Remove(args) => remove::run(&args),
    }
}

fn list(target: &Target) -> Result<ExitCode> {
    let status = target.with(|mut remote| async move {
        let reply = remote.status(StatusRequest {}).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    let nodes = status.nodes;
    let shown: Vec<_> = nodes.iter().map(node_json).collect();
    target
        .output
        .show(&json!({ "nodes": shown }), || text(&nodes))
}

fn node_json(node: &Node) -> serde_json::Value {
    json!({
        "name": node.name, "state": node.state, "zone": node.zone, "s3": node.s3_address,
        "advertise": node.advertise, "slots": node.slots, "epoch": node.epoch,
        "lease_ms": node.lease_ms, "heard_ms": node.heard_ms, "shards": node.shards, "capacity_bytes": node.capacity_bytes,
        "used_bytes": node.used_bytes, "dirty_bytes": node.dirty_bytes,
        "changes": node.changes, "transient_objects": node.transient_objects,
        "copies_kept": node.copies_kept, "parts_held": node.parts_held,
        "draining": node.draining, "holds": node.holds, "per_second": node.rates.map(rates_json),
        "conditions": node.conditions.iter().map(condition_json).collect::<Vec<_>>(),
    })
}

fn rates_json(rates: Rates) -> serde_json::Value {
    json!({
        "sent_bytes": rates.sent_bytes, "received_bytes": rates.received_bytes,
        "requests": rates.requests, "persisted_bytes": rates.persisted_bytes,
    })
}

fn text(nodes: &[Node]) -> String {
    let heading = [
        "NODE", "STATE", "ZONE", "SLOTS", "LEASE", "S3", "USED", "DIRTY", "COPIES", "PARTS",
    ];
    let told = |number: Option<u64>| number.map_or_else(|| "-".into(), |n| n.to_string());
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.state.clone(),
            node.zone.clone(),
            node.slots.to_string(),
            format!("{}s", node.lease_ms / 1000),
            node.s3_address.clone(),
            size(node.used_bytes),
            size(node.dirty_bytes),
            told(node.copies_kept),
            told(node.parts_held),
        ]
    }));
    table(&rows)
}
