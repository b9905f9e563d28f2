//! `node remove`: a worker is taken for lost, and what goes with it is told.

use std::collections::BTreeSet;
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
get its slots at once, before its lease is over. Refused while its session is open: of a process
that stands still, or a machine that is cut off, it ends after some 10 s.

What no UFS has and only this worker had, or it and workers that were removed before, is lost:
it is counted and named here, answered with 410 ObjectLost, and never with an older version,
until it is written again or deleted. Should the worker come back with its data all the same,
that is there again.

Named apart is what others have that do not answer now: it is answered with 503 until one of
them is back, or with 410 once they are removed as well. Of objects in parts the metadata knows
who has any of them: those of which some part may be only with such workers are named, too. A
worker that came back with an empty disk counts as one that has what it had: what of it is
missing is in quickwater_copies_missing_objects, and is made again from who has it.

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

/// What goes with a worker, or may.
#[derive(Default)]
struct Report {
    lost: Objects,
    /// Others have these, none of which answers now.
    unanswered: Objects,
    /// Who those are.
    workers: BTreeSet<String>,
    /// Of these some parts may be with nobody who answers.
    in_part: Objects,
}

/// Objects, counted and named.
#[derive(Default)]
struct Objects {
    count: u64,
    bytes: u64,
    /// With other workers that have them.
    named: Vec<(LostObject, Vec<String>)>,
}

impl Objects {
    fn add(&mut self, object: LostObject, workers: Vec<String>) {
        // The rows of a bucket that was removed are swept some time later.
        if object.bucket.is_empty() {
            return;
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(object.size);
        if self.named.len() < LISTED_MAX {
            self.named.push((object, workers));
        }
    }

    fn json(&self) -> Vec<serde_json::Value> {
        let named = self.named.iter().map(|(object, workers)| {
            let mut json = json!({
                "path": path(object), "size": object.size, "transient": object.transient,
            });
            if !workers.is_empty() {
                json["workers"] = json!(workers);
            }
            json
        });
        named.collect()
    }

    /// Such as `2 objects (3.0 KiB)`.
    fn words(&self) -> String {
        format!("{} ({})", count(self.count, "object"), size(self.bytes))
    }

    fn names(&self) -> String {
        let lines = self.named.iter().take(NAMED_MAX);
        let lines: String = lines
            .map(|(object, _)| format!("  {} ({})\n", path(object), size(object.size)))
            .collect();
        let more = match self.count > NAMED_MAX as u64 {
            true => "  ...; --output json names them\n",
            false => "",
        };
        format!("{lines}{more}")
    }
}

pub(super) fn run(args: &RemoveArgs) -> Result<ExitCode> {
    let report = args.target.with(|remote| remove(remote, args))?;
    let json = json!({
        "node": args.name,
        "removed": !args.dry_run,
        "lost_objects": report.lost.count,
        "lost_bytes": report.lost.bytes,
        "lost": report.lost.json(),
        "unanswered_objects": report.unanswered.count,
        "unanswered_bytes": report.unanswered.bytes,
        "unanswered_workers": report.workers,
        "unanswered": report.unanswered.json(),
        "in_part_objects": report.in_part.count,
        "in_part_bytes": report.in_part.bytes,
        "in_part": report.in_part.json(),
    });
    args.target.output.show(&json, || text(args, &report))
}

fn path(object: &LostObject) -> String {
    format!("/{}/{}", object.bucket, object.key)
}

fn text(args: &RemoveArgs, report: &Report) -> String {
    let name = &args.name;
    let done = match args.dry_run {
        true => format!("{name} was not removed\n"),
        false => format!("{name} is removed; its slots go to others\n"),
    };
    let Report {
        lost,
        unanswered,
        workers,
        in_part,
    } = report;
    let mut told = String::new();
    if lost.count > 0 {
        let what = match args.dry_run {
            true => "this would be lost",
            false => "this is lost",
        };
        told += &format!(
            "{what}, because only {name} has it, or workers that were removed: {}\n{}",
            lost.words(),
            lost.names()
        );
    }
    if unanswered.count > 0 {
        let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
        told += &format!(
            "otherwise only with workers that do not answer now ({}), and lost if these are: {}\n{}",
            workers.join(", "),
            unanswered.words(),
            unanswered.names()
        );
    }
    if in_part.count > 0 {
        told += &format!(
            "in parts, of which any may be only with {name} and workers that do not answer now \
             or were removed: {}\n{}",
            in_part.words(),
            in_part.names()
        );
    }
    if told.is_empty() {
        told = format!(
            "no object is lost with {name}: the UFS or another worker has each of its own\n"
        );
    }
    format!("{told}{UPLOADS}{done}")
}

/// What was not looked at.
const UPLOADS: &str = "uploads that are not complete were not looked at: their clients may have to \
    send parts again\n";

async fn remove(mut remote: Remote, args: &RemoveArgs) -> Result<Report> {
    // First removed, then counted: nothing of it is committed any more.
    if !args.dry_run {
        let request = NodeRemoveRequest {
            name: args.name.clone(),
        };
        let removed = remote.node_remove(request).await;
        removed.map_err(|s| explain(&s))?;
    }
    let mut report = Report::default();
    let mut token = String::new();
    loop {
        let request = NodeLostRequest {
            name: args.name.clone(),
            page_token: token,
        };
        let page = remote.node_lost(request).await;
        let page = page.map_err(|s| explain(&s))?.into_inner();
        for object in page.objects {
            report.lost.add(object, Vec::new());
        }
        for unanswered in page.unanswered {
            report.workers.extend(unanswered.workers.iter().cloned());
            let object = unanswered.object.unwrap_or_default();
            report.unanswered.add(object, unanswered.workers);
        }
        for object in page.in_part {
            report.in_part.add(object, Vec::new());
        }
        if page.next_page_token.is_empty() {
            return Ok(report);
        }
        token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(count: u64, workers: &[&str]) -> Objects {
        let mut objects = Objects::default();
        for number in 0..count {
            let object = LostObject {
                bucket: "abc".into(),
                key: format!("k{number}"),
                size: 1024,
                transient: false,
            };
            let workers = workers.iter().map(ToString::to_string);
            objects.add(object, workers.collect());
        }
        objects
    }

    fn told(report: &Report, dry_run: bool) -> String {
        let args = RemoveArgs {
            name: "n1".into(),
            dry_run,
            target: Target::local("/d".into()),
        };
        text(&args, report)
    }

    fn words(count: u64, dry_run: bool) -> String {
        let report = Report {
            lost: objects(count, &[]),
            ..Report::default()
        };
        told(&report, dry_run)
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
                "this is lost, because only n1 has it, or workers that were removed: 1 object \
                 (1.0 KiB)\n  /abc/k0 (1.0 KiB)\n\
                 {UPLOADS}n1 is removed; its slots go to others\n"
            )
        );
    }

    #[test]
    fn what_only_silent_workers_have_is_told_apart() {
        let report = Report {
            lost: objects(0, &[]),
            unanswered: objects(1, &["n2", "n3"]),
            workers: ["n2".to_owned(), "n3".to_owned()].into(),
            in_part: objects(2, &[]),
        };
        assert_eq!(
            told(&report, true),
            format!(
                "otherwise only with workers that do not answer now (n2, n3), and lost if these \
                 are: 1 object (1.0 KiB)\n  /abc/k0 (1.0 KiB)\n\
                 in parts, of which any may be only with n1 and workers that do not answer now or \
                 were removed: 2 objects (2.0 KiB)\n  /abc/k0 (1.0 KiB)\n  /abc/k1 (1.0 KiB)\n\
                 {UPLOADS}n1 was not removed\n"
            )
        );
        let json = report.unanswered.json();
        let wanted = json!([{
            "path": "/abc/k0", "size": 1024, "transient": false, "workers": ["n2", "n3"],
        }]);
        assert_eq!(json, *wanted.as_array().unwrap());
        assert_eq!(report.in_part.json()[0].get("workers"), None);
    }

    #[test]
    fn help_says_how_long_a_session_stays_open() {
        let seconds = quickwater_controlplane::cluster::SILENCE_MAX.as_secs();
        assert!(HELP.contains(&format!("it ends after some {seconds} s")));
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_done() {
        let told = words(2, true);
        assert!(told.starts_with("this would be lost, because only n1 has it, "));
        assert!(told.contains(": 2 objects (2.0 KiB)\n"));
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
