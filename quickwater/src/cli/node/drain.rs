//! `node drain`: a worker gives its slots to others; with `--evacuate` until nothing is
//! left that only it has.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use quickwater_rpc::admin::{Node, NodeDrainRequest, PersistRetryRequest, StatusRequest};
use serde_json::json;

use super::node_json;
use crate::cli::exit::Kind;
use crate::cli::output::{count, counted, size};
use crate::cli::remote::{Remote, Target, explain};
use crate::settings::parse;

/// Wait between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Progress is told this often.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);

pub(super) const HELP: &str = "\
From now on the worker takes no write that no UFS has: WRITE_BACK is acked as
WRITE_THROUGH there, TRANSIENT writes are told to come back (503). What it has is sent to
the UFS, and then its slots go to the other workers; when there are none it keeps them. A
drain survives restarts and ends with --cancel.

--evacuate waits until the worker has no slots and nothing that no UFS has, and exits with
0 only then. TRANSIENT objects never go to a UFS: those with copies (writeReplicas above 1) are
copied to other workers, the others have to be deleted first. Parts of open uploads go with
their upload: when it is completed and sent, when it is aborted, or when nobody goes on with it
for write_cache.orphan_timeout.

Examples:
  quickwater node drain n1 --evacuate --dir /var/lib/qw-control
  quickwater node drain n1 --evacuate --timeout 2h --output json --dir /var/lib/qw-control
  quickwater node drain n1 --cancel --dir /var/lib/qw-control";

/// What `node drain` takes.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The worker, by its node id
    #[arg(value_name = "ID")]
    name: String,
    /// Send what no UFS has at once, and wait until nothing is left
    #[arg(long, conflicts_with = "cancel")]
    evacuate: bool,
    /// Longest wait for that
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1h",
        requires = "evacuate"
    )]
    timeout: String,
    /// End a drain: the worker may have slots again
    #[arg(long)]
    cancel: bool,
    #[command(flatten)]
    target: Target,
}

/// How far a worker is.
struct Seen {
    node: Node,
    /// There is no other to take its slots.
    alone: bool,
}

impl Seen {
    /// Nothing is left that only it has, and its slots are others', if there are others.
    fn is_done(&self) -> bool {
        self.node.drained || (self.alone && self.node.draining && !self.node.holds)
    }

    fn text(&self) -> String {
        let node = &self.node;
        format!(
            "{}: {}, {} ({}) the UFS does not have, {}{}{}",
            node.name,
            count(node.slots.into(), "slot"),
            count(node.changes, "change"),
            size(node.dirty_bytes),
            count(node.transient_objects, "TRANSIENT object"),
            self.kept(),
            self.waits_for(),
        )
    }

    /// What else it has, as far as it says.
    fn kept(&self) -> String {
        let copies = self.node.copies_kept.map(|number| {
            let copies = counted(number, "copy", "copies");
            format!(", {copies} kept for other workers")
        });
        let parts = self
            .node
            .parts_held
            .map(|number| format!(", {} of open uploads", count(number, "part")));
        copies.into_iter().chain(parts).collect()
    }

    /// What has to happen elsewhere, once it has sent all that is in its own queue.
    fn waits_for(&self) -> &'static str {
        let node = &self.node;
        if !node.holds || node.changes > 0 || node.transient_objects > 0 {
            return "";
        }
        match (
            node.copies_kept.map(|n| n > 0),
            node.parts_held.map(|n| n > 0),
        ) {
            (Some(false), Some(false)) => "; it waits for what is under way",
            (Some(true), Some(false)) => {
                "; it waits for other workers to send what it has copies of, or to copy it elsewhere"
            }
            (Some(false), Some(true)) => {
                "; it waits for parts of open uploads to be completed or aborted"
            }
            _ => {
                "; it waits for parts of open uploads to be completed or aborted, and for other \
                 workers to send what it has copies of, or to copy it elsewhere"
            }
        }
    }
}

pub(super) fn run(args: &DrainArgs) -> Result<ExitCode> {
    let longest = parse::duration(&args.timeout)
        .map_err(|why| anyhow!("--timeout: {why}").context(Kind::Usage))?;
    let seen = args.target.with(|remote| drain(remote, args, longest))?;
    let done = seen.is_done();
    let json = json!({ "node": node_json(&seen.node), "drained": done, "alone": seen.alone });
    let code = args.target.output.show(&json, || told(args, &seen))?;
    Ok(match args.evacuate && !done {
        true => ExitCode::FAILURE,
        false => code,
    })
}

fn told(args: &DrainArgs, seen: &Seen) -> String {
    let name = &args.name;
    match (args.cancel, seen.is_done(), args.evacuate) {
        (true, ..) => format!("{name} may have slots again\n"),
        (_, true, _) if seen.alone => format!(
            "nothing is left that only {name} has; it keeps its slots: no other worker can have them\n"
        ),
        (_, true, _) => format!("{name} is drained: no slots, nothing left that only it has\n"),
        (_, false, true) => format!("time is up; {}\n", seen.text()),
        (_, false, false) => format!(
            "{}\nit is being drained; `quickwater node list` shows when it is `drained`\n",
            seen.text()
        ),
    }
}

async fn drain(mut remote: Remote, args: &DrainArgs, longest: Duration) -> Result<Seen> {
    let request = NodeDrainRequest {
        name: args.name.clone(),
        cancel: args.cancel,
    };
    let begun = Instant::now();
    let mut told = begun;
    if args.evacuate {
        retry(&mut remote).await?;
    }
    loop {
        // Asked again: other workers come and go meanwhile.
        let reply = remote.node_drain(request.clone()).await;
        let alone = reply.map_err(|s| explain(&s))?.into_inner().alone;
        let node = look(&mut remote, &args.name).await?;
        let seen = Seen { node, alone };
        let left = longest.saturating_sub(begun.elapsed());
        if !args.evacuate || seen.is_done() || left.is_zero() {
            return Ok(seen);
        }
        if told.elapsed() >= PROGRESS_PAUSE {
            told = Instant::now();
            progress(&seen);
            retry(&mut remote).await?;
        }
        tokio::time::sleep(LOOK_PAUSE.min(left)).await;
    }
}

/// What waits for another attempt is due now.
async fn retry(remote: &mut Remote) -> Result<()> {
    let everything = PersistRetryRequest::default();
    let retried = remote.persist_retry(everything).await;
    retried.map(drop).map_err(|s| explain(&s))
}

async fn look(remote: &mut Remote, name: &str) -> Result<Node> {
    let status = remote.status(StatusRequest {}).await;
    let nodes = status.map_err(|s| explain(&s))?.into_inner().nodes;
    let node = nodes.into_iter().find(|node| node.name == name);
    node.with_context(|| format!("no worker '{name}'"))
}

#[expect(
    clippy::print_stderr,
    reason = "progress is for the person at the terminal"
)]
fn progress(seen: &Seen) {
    eprintln!("{}", seen.text());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: Node) -> String {
        let node = Node {
            name: "n1".into(),
            draining: true,
            slots: 12,
            ..node
        };
        Seen { node, alone: false }.text()
    }

    /// What a worker says that has sent all of its own.
    fn left(copies_kept: Option<u64>, parts_held: Option<u64>) -> String {
        text(Node {
            holds: true,
            copies_kept,
            parts_held,
            ..Node::default()
        })
    }

    #[test]
    fn what_is_kept_is_counted() {
        let both = left(Some(1), Some(3));
        assert!(
            both.contains("0 changes")
                && both.contains(", 1 copy kept for other workers, 3 parts of open uploads; "),
            "{both}"
        );
        // A worker of before that did not count them.
        let neither = left(None, None);
        assert!(
            !neither.contains(" kept for") && neither.contains("parts of open uploads to be"),
            "{neither}"
        );
    }

    #[test]
    fn a_worker_that_has_nothing_queued_says_what_it_waits_for() {
        let ends = |text: String, end: &str| assert!(text.ends_with(end), "{text}");
        ends(left(Some(0), Some(2)), "completed or aborted");
        ends(
            left(Some(2), Some(0)),
            "waits for other workers to send what it has copies of, or to copy it elsewhere",
        );
        ends(
            left(Some(1), Some(1)),
            "aborted, and for other workers to send what it has copies of, or to copy it elsewhere",
        );
        ends(left(None, None), "or to copy it elsewhere");
        ends(left(Some(0), Some(0)), "; it waits for what is under way");
        let others = [
            Node::default(),
            Node {
                holds: true,
                changes: 1,
                ..Node::default()
            },
            Node {
                holds: true,
                transient_objects: 1,
                ..Node::default()
            },
        ];
        for node in others {
            let said = text(node);
            assert!(
                said.ends_with("TRANSIENT objects") || said.ends_with("TRANSIENT object"),
                "{said}"
            );
        }
    }
}
