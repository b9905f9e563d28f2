//! `quickwater metadata`: moves the metadata of a stopped service between engines, or
//! makes them again when they are lost.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use quickwater_proto::NodeId;

use super::exit::Kind;
use super::{SettingsArgs, emit};
use crate::serve::{Collected, Overtaken, Rebuilt, Sources, rebuild_cluster};

/// Verbs of `metadata`.
#[derive(Debug, Subcommand)]
pub(super) enum MetadataVerb {
    /// Write all metadata to a file; the service must be stopped
    #[command(after_help = "Examples:\n  quickwater metadata export metadata.qw --dir ./data")]
    Export(FileArgs),
    /// Read a file of `export` into empty metadata, of any engine
    #[command(
        after_help = "Examples:\n  quickwater metadata import metadata.qw --dir ./data --metadata-engine foundationdb"
    )]
    Import(FileArgs),
    /// Write what a stopped worker's store tells to a file, for `rebuild --from`
    #[command(
        long_about = "Write what a stopped worker's store tells to a new file, for `metadata rebuild --from`.\n\nReads the directory of the worker only. Run it for every worker of the cluster whose metadata are lost. Exit code 4: done, but something in the store is lost or damaged; it was told.",
        after_help = "Examples:\n  quickwater metadata collect n1.facts --dir /nvme/qw"
    )]
    Collect(FileArgs),
    /// Make lost metadata again from the cache store, into empty metadata
    #[command(
        long_about = "Make lost metadata again from the cache store, into empty metadata; of a cluster, from what was collected of its workers (--from, with the settings of `control`).\n\nThe service must be stopped. Comes back: what was acked and the UFS does not have yet (objects, deletes), TRANSIENT objects, buckets, mounts, path policies. What the UFS has is found there when it is asked for. Does not come back: open multipart uploads, jobs, tags of objects that the UFS has. May be killed and run again. Exit code 4: done, but something that was acked is lost; it was told by name.",
        after_help = "Examples:\n  quickwater metadata rebuild --dry-run --dir ./data\n  quickwater metadata rebuild --dir ./data\n  quickwater metadata rebuild --from n1.facts --from n2.facts --dir ./control"
    )]
    Rebuild(RebuildArgs),
}

/// How to rebuild, and the settings of the service.
#[derive(Debug, Args)]
pub(super) struct RebuildArgs {
    /// Only tell what would come back and what would not
    #[arg(long)]
    dry_run: bool,
    /// A file of `metadata collect`, one for each worker: rebuild the metadata of a cluster
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// A worker that is lost for good, with what only it had
    #[arg(long, value_name = "ID", requires = "from", value_parser = node_id)]
    without: Vec<NodeId>,
    /// What becomes of changes of keys that a lost worker owned at the end, if they are told by
    /// workers that were away by then
    #[arg(long, value_enum, value_name = "WHAT", requires = "without")]
    overtaken: Option<Overtaken>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A file, and the settings of the service.
#[derive(Debug, Args)]
pub(super) struct FileArgs {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl MetadataVerb {
    pub(super) fn run(&self) -> Result<()> {
        let (rows, done) = match self {
            Self::Export(args) => (
                crate::serve::export(&args.settings, &args.file)?,
                "exported",
            ),
            Self::Import(args) => (
                crate::serve::import(&args.settings, &args.file)?,
                "imported",
            ),
            Self::Collect(args) => return collect(args),
            Self::Rebuild(args) => return rebuild(args),
        };
        emit(&format!("{done} {rows} rows\n"))
    }
}

fn node_id(text: &str) -> Result<NodeId, String> {
    NodeId::new(text).map_err(|error| error.to_string())
}

fn collect(args: &FileArgs) -> Result<()> {
    let mut told = |text: &str| emit(&format!("{text}\n"));
    let done = crate::serve::collect(&args.settings, &args.file, &mut told)?;
    let Collected {
        node,
        facts,
        live,
        damaged,
        unreadable,
        gaps,
        untold,
    } = done;
    emit(&format!(
        "collected {facts} entries and notes of worker {node}, of which {live} count here still\n"
    ))?;
    let slots = match untold {
        true => ", slots that were not noted",
        false => "",
    };
    match damaged + unreadable + gaps + u64::from(untold) {
        0 => Ok(()),
        _ => Err(anyhow!(
            "{damaged} whose bytes are not all there, {unreadable} unreadable entries, {gaps} \
             segments{slots}; other workers may have what is missing"
        )
        .context(Kind::Losses)),
    }
}

fn rebuild(args: &RebuildArgs) -> Result<()> {
    let mut told = |text: &str| emit(&format!("{text}\n"));
    let sources = Sources {
        from: &args.from,
        without: &args.without,
        overtaken: args.overtaken,
    };
    let done = match args.from.is_empty() {
        true => crate::serve::rebuild(&args.settings, args.dry_run, &mut told)?,
        false => rebuild_cluster(&args.settings, &sources, args.dry_run, &mut told)?,
    };
    emit(&summary(&done))?;
    match done.has_losses() {
        true => Err(anyhow!(
            "{} objects, {} of unknown buckets, {} unreadable entries, {} segments, {} workers \
             with slots that were not noted, {} slots of lost workers, {} changes that may have \
             been overtaken",
            done.lost,
            done.nameless,
            done.unreadable,
            done.gaps,
            done.untold,
            done.lost_slots,
            done.overtaken
        )
        .context(Kind::Losses)),
        false => Ok(()),
    }
}

fn summary(done: &Rebuilt) -> String {
    let Rebuilt {
        dirty, transient, ..
    } = done;
    let mut text = format!(
        "read {} entries and notes, of which {} had ended\n",
        done.read, done.ended
    );
    let mut line = |what: &str, count: u64, bytes: Option<u64>| {
        if count > 0 {
            let bytes = bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes"));
            text.push_str(&format!("{what}: {count}{bytes}\n"));
        }
    };
    line("objects to be persisted", dirty.0, Some(dirty.1));
    line("TRANSIENT objects", transient.0, Some(transient.1));
    line("deletes to be persisted", done.deletes, None);
    line("left out, cut by a crash before their ack", done.torn, None);
    line(
        "left out, of buckets that were removed",
        done.bucketless,
        None,
    );
    line("lost", done.lost, None);
    line("of buckets whose name is not known", done.nameless, None);
    line("unreadable", done.unreadable, None);
    line("segments with gaps", done.gaps, None);
    line("workers with slots that were not noted", done.untold, None);
    line("slots that lost workers owned", done.lost_slots, None);
    line("changes that may have been overtaken", done.overtaken, None);
    text.push_str(match (done.dry_run, done.resumed) {
        (true, _) => "nothing was changed\n",
        (false, true) => "the rebuild that was cut is complete; start the service\n",
        (false, false) => "rebuilt; start the service\n",
    });
    if !done.dry_run && dirty.0 + done.deletes > 0 {
        text.push_str(
            "its UFS gets what is restored only `write_cache.fence` after that start, unless it is \
             a directory; `quickwater async-persist list` shows how long that is\n",
        );
    }
    text
}
