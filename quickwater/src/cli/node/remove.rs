//! `node remove`: a worker is taken for lost, and what goes with it is told.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use quickwater_rpc::admin::{LostObject, NodeLostRequest, NodeRemoveRequest};
use serde_json::json;

use crate::cli::output::{count, size};
use crate::cli::remote::{Remote, Target, explain};

/// Objects that are named in text; all are counted, and JSON names more.
const NAMED_MAX: usize = 20;
/// Objects that are named in JSON.
const LISTED_MAX: usize = 100_000;

pub(super) const HELP: &str = "\
Only for a worker whose process is certainly dead and whose data is not to come back: others
get its slots at once, before its lease is over. Refused while its session is open.

What no UFS has and only this worker had is lost: it is counted and named here, answered
with 410 ObjectLost, and never with an older version, until it is written again or deleted.
Should the worker come back with its data all the same, that is there again.

Examples:
  quickwater node remove n1 --dry-run --dir /var/lib/qw-control
  quickwater node remove n1 --output json --dir /var/lib/qw-control";

/// What `node remove` takes.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The worker, by its node id
    #[arg(value_name = "ID")]
    name: String,
    /// Only say what would be lost
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
}

/// What only one worker has.
#[derive(Default)]
struct Lost {
    objects: u64,
    bytes: u64,
    named: Vec<LostObject>,
}

pub(super) fn run(args: &RemoveArgs) -> Result<ExitCode> {
    let lost = args.target.with(|remote| remove(remote, args))?;
    let named = lost.named.iter().map(|object| {
        json!({
            "path": path(object), "size": object.size, "transient": object.transient,
        })
    });
    let json = json!({
        "node": args.name,
        "removed": !args.dry_run,
        "lost_objects": lost.objects,
        "lost_bytes": lost.bytes,
        "lost": named.collect::<Vec<_>>(),
    });
    args.target.output.show(&json, || text(args, &lost))
}

fn path(object: &LostObject) -> String {
    format!("/{}/{}", object.bucket, object.key)
}

fn text(args: &RemoveArgs, lost: &Lost) -> String {
    let (name, many) = (&args.name, lost.objects);
    let (done, what) = match args.dry_run {
        true => (format!("{name} was not removed\n"), "this would be lost"),
        false => (
            format!("{name} is removed; its slots go to others\n"),
            "this is lost",
        ),
    };
    let head = match many {
        0 => format!(
            "no object is lost with {name}: the UFS or another worker has each of its own\n"
        ),
        _ => format!(
            "{what}, because only {name} has it: {} ({})\n",
            count(many, "object"),
            size(lost.bytes)
        ),
    };
    let lines = lost.named.iter().take(NAMED_MAX);
    let lines: String = lines
        .map(|object| format!("  {} ({})\n", path(object), size(object.size)))
        .collect();
    let more = match many > NAMED_MAX as u64 {
        true => "  ...; --output json names them\n",
        false => "",
    };
    format!("{head}{lines}{more}{UPLOADS}{done}")
}

/// What was not looked at.
const UPLOADS: &str = "uploads that are not complete were not looked at: their clients may have to \
    send parts again\n";

async fn remove(mut remote: Remote, args: &RemoveArgs) -> Result<Lost> {
    // First removed, then counted: nothing of it is committed any more.
    if !args.dry_run {
        let request = NodeRemoveRequest {
            name: args.name.clone(),
        };
        let removed = remote.node_remove(request).await;
        removed.map_err(|s| explain(&s))?;
    }
    let mut lost = Lost::default();
    let mut token = String::new();
    loop {
        let request = NodeLostRequest {
            name: args.name.clone(),
            page_token: token,
        };
        let page = remote.node_lost(request).await;
        let page = page.map_err(|s| explain(&s))?.into_inner();
        for object in page.objects {
            // The rows of a bucket that was removed are swept some time later.
            if object.bucket.is_empty() {
                continue;
            }
            lost.objects += 1;
            lost.bytes = lost.bytes.saturating_add(object.size);
            if lost.named.len() < LISTED_MAX {
                lost.named.push(object);
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(lost);
        }
        token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(count: u64) -> Lost {
        let object = |number| LostObject {
            bucket: "abc".into(),
            key: format!("k{number}"),
            size: 1024,
            transient: false,
        };
        Lost {
            objects: count,
            bytes: count * 1024,
            named: (0..count).map(object).collect(),
        }
    }

    fn words(count: u64, dry_run: bool) -> String {
        let args = RemoveArgs {
            name: "n1".into(),
            dry_run,
            target: Target::local("/d".into()),
        };
        text(&args, &lost(count))
    }

    #[test]
    fn what_is_lost_is_told_in_words() {
        assert_eq!(
            words(0, false),
            format!(
                "no object is lost with n1: the UFS or another worker has each of its own\n\
                 {UPLOADS}n1 is removed; its slots go to others\n"
            )
        );
        assert_eq!(
            words(1, false),
            format!(
                "this is lost, because only n1 has it: 1 object (1.0 KiB)\n  /abc/k0 (1.0 KiB)\n\
                 {UPLOADS}n1 is removed; its slots go to others\n"
            )
        );
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_done() {
        let told = words(2, true);
        assert!(
            told.starts_with("this would be lost, because only n1 has it: 2 objects (2.0 KiB)\n")
        );
        assert!(told.ends_with("n1 was not removed\n"));
    }

    #[test]
    fn twenty_are_named_and_the_others_are_said_to_be_in_json() {
        for (count, more) in [(NAMED_MAX as u64, false), (NAMED_MAX as u64 + 1, true)] {
            let told = words(count, false);
            let named = told.lines().filter(|line| line.starts_with("  /abc/"));
            assert_eq!(named.count(), NAMED_MAX);
            assert_eq!(told.contains("  ...; --output json names them\n"), more);
        }
    }
}
