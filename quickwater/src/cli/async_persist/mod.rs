//! `async-persist list|stat|retry|wait`.

mod show;
mod wait;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Subcommand, ValueEnum};
use quickwater_rpc::admin::{PersistRetryReply, PersistRetryRequest, PersistTotals};
use serde_json::{Value, json};

use super::exit::Kind;
use super::fs::split;
use super::remote::{Target, explain};
use crate::date;

#[derive(Debug, Subcommand)]
pub(super) enum AsyncPersistVerb {
    /// List the changes the UFSs do not have yet
    #[command(after_help = LIST_HELP)]
    List {
        /// Only those of this worker, as `status` names it
        #[arg(long, value_name = "W")]
        worker: Option<String>,
        /// Only those in this state
        #[arg(long, value_enum, value_name = "STATE")]
        state: Option<State>,
        /// Only keys that begin with this: /BUCKET or /BUCKET/PREFIX
        #[arg(long, value_name = "PREFIX")]
        prefix: Option<String>,
        /// Stop after so many
        #[arg(long, default_value_t = 1_000, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Show where the bytes of one object are
    #[command(after_help = STAT_HELP)]
    Stat {
        /// /BUCKET/KEY
        #[arg(long, value_name = "PATH")]
        path: String,
        #[command(flatten)]
        target: Target,
    },
    /// Try now what failed and waits for its next attempt
    #[command(after_help = RETRY_HELP)]
    Retry {
        /// /BUCKET, or /BUCKET/KEY and all below it; / for all buckets
        #[arg(long, value_name = "PATH")]
        path: String,
        #[command(flatten)]
        target: Target,
    },
    /// Wait until the UFS has all that was pending when this began
    #[command(after_help = WAIT_HELP)]
    Wait {
        /// /BUCKET, or /BUCKET/KEY and all below it; / for all buckets
        #[arg(long, value_name = "PATH")]
        path: String,
        /// Longest wait, such as 30s or 2h; 0s looks once
        #[arg(long, default_value = "10m", value_name = "TIME")]
        timeout: String,
        #[command(flatten)]
        target: Target,
    },
}

/// States by which changes are chosen.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum State {
    /// Not sent yet
    Waiting,
    /// Being sent
    Running,
    /// Failed, and tried again
    Failing,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Failing => "failing",
        }
    }
}

const LIST_HELP: &str = "\
In order of bucket and key. NOT_PERSISTED and PERSISTING: an object only this
service has. DELETING: a key that is gone here and not yet in the UFS. SETTLING: the
UFS has it, but an older request without an answer may still be applied. TRANSIENT
objects wait for nothing: they are counted below the list, and shown by `stat`. What a
worker has queued that does not answer is not listed, but counted below, and the worker
is named.

Examples:
  quickwater async-persist list --dir ./data
  quickwater async-persist list --state failing --prefix /checkpoints/run-7/ --output json";

const STAT_HELP: &str = "\
PERSISTED: the UFS has it. TRANSIENT: only this service has it, and no UFS gets it.
The other states are those of `list`.

Examples:
  quickwater async-persist stat --path /checkpoints/run-7/model.pt --dir ./data";

const RETRY_HELP: &str = "\
What failed is tried again by itself, after longer and longer waits. This ends the
wait, say after the UFS was repaired, also of parts of open uploads that were handed
over to the UFS (each such upload counts as a change); it never sends a change before an older
request for the same key is certainly dead. Exits with 1, and names them, where workers did not
answer: what waits there was not hurried.

Examples:
  quickwater async-persist retry --path /checkpoints --dir ./data";

const WAIT_HELP: &str = "\
Exits with 0 when the UFS has every change that was pending below the path when the
wait began, with 1 when time is up, or when there is nothing at the path: no object,
none below it and no pending change (a delete that the UFS has is nothing any more).
Buckets, and / for all, may be empty. Changes made later are not waited for, unless
they replaced one of those. What a worker has that does not answer is waited for, too,
as the metadata names it. What is lost is not: once nothing else is left this ends, says
how many objects are lost, and exits with 1. Progress goes to stderr. `--timeout 0s` looks once.

Examples:
  quickwater async-persist wait --path /checkpoints/run-7 --timeout 30m --dir ./data";

pub(super) fn run(verb: AsyncPersistVerb) -> Result<ExitCode> {
    match verb {
        AsyncPersistVerb::List {
            worker,
            state,
            prefix,
            limit,
            target,
        } => {
            let (bucket, prefix) = split(prefix.as_deref().unwrap_or_default());
            let first = quickwater_rpc::admin::PersistListRequest {
                worker: worker.unwrap_or_default(),
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
                state: state.map_or("", State::name).to_owned(),
                ..Default::default()
            };
            show::list(first, limit, &target)
        }
        AsyncPersistVerb::Stat { path, target } => show::stat(&path, &target),
        AsyncPersistVerb::Retry { path, target } => retry(&path, &target),
        AsyncPersistVerb::Wait {
            path,
            timeout,
            target,
        } => wait::run(&path, &timeout, &target),
    }
}

fn retry(path: &str, target: &Target) -> Result<ExitCode> {
    let (bucket, path) = place(path)?;
    let request = PersistRetryRequest { bucket, path };
    let reply = target.with(|mut remote| async move {
        let reply = remote.persist_retry(request).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner())
    })?;
    let json = json!({ "hurried": reply.hurried, "unheard": reply.unheard });
    let code = target.output.show(&json, || hurried_text(&reply))?;
    Ok(match reply.unheard.is_empty() {
        true => code,
        false => ExitCode::FAILURE,
    })
}

fn hurried_text(reply: &PersistRetryReply) -> String {
    let hurried = match reply.hurried {
        0 => "nothing here waits for a later attempt".into(),
        1 => "1 change is tried now".into(),
        many => format!("{many} changes are tried now"),
    };
    match reply.unheard.is_empty() {
        true => format!("{hurried}\n"),
        false => format!(
            "{hurried}; no answer from {}: what waits there was not hurried\n",
            reply.unheard.join(", ")
        ),
    }
}

/// The bucket and the rest of a path; both empty for `/`, which is all buckets.
fn place(path: &str) -> Result<(String, String)> {
    match split(path) {
        ("", "") if path == "/" => Ok((String::new(), String::new())),
        ("", _) => Err(anyhow!(
            "'{path}' names no bucket; write /BUCKET or /BUCKET/KEY, or / for all"
        )
        .context(Kind::Usage)),
        (bucket, rest) => Ok((bucket.to_owned(), rest.to_owned())),
    }
}

/// Who did not answer; empty when all did.
fn unheard_text(totals: &PersistTotals) -> String {
    match totals.unheard.is_empty() {
        true => String::new(),
        false => format!("no answer from {}", totals.unheard.join(", ")),
    }
}

fn totals_json(totals: &PersistTotals) -> Value {
    json!({
        "objects": totals.puts,
        "deletes": totals.deletes,
        "bytes": totals.bytes,
        "running": totals.running,
        "failing": totals.failing,
        "unheard": totals.unheard,
        "oldest": (totals.oldest_ms != 0).then(|| date::text(totals.oldest_ms)),
    })
}
