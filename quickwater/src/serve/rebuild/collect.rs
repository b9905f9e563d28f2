//! `metadata collect`: writes what the store of a stopped worker tells to one file, for the
//! metadata of its cluster to be rebuilt from. Reads only. Absent: which of it counts.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::facts::Writer;
use quickwater_controlplane::records::{FactRow, FactsEnd, FactsHead, JournalEntry, Witness};
use quickwater_proto::{BlobId, NodeId, SLOTS, SlotTable};
use quickwater_worker::store::{Fact, Facts, Store};

use super::super::apart::belonging::Belonging;
use super::super::apart::claims::{Claimed, untold_since};
use super::super::budget::Budget;
use super::steps::{Telling, record_of};
use super::{open_names, open_store, tell_gaps};
use crate::cli::{SettingsArgs, Usage};
use crate::home::Home;
use crate::settings::Settings;

/// What was collected.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// The worker.
    pub(crate) node: String,
    /// Entries and notes.
    pub(crate) facts: u64,
    /// Of these, still of use to this worker.
    pub(crate) live: u64,
    /// Writes of these with bytes that are missing or do not verify.
    pub(crate) damaged: u64,
    /// Entries and notes that cannot be read.
    pub(crate) unreadable: u64,
    /// Segments that are missing, or older than they were.
    pub(crate) gaps: u64,
    /// What was pending of slots that the worker had taken may be missing.
    pub(crate) untold: bool,
}

/// Writes a new file; `told` learns of every problem, by name.
///
/// # Errors
/// The worker runs, its store cannot tell, or the file exists or cannot be written: then it
/// is not there.
pub(crate) fn collect(
    args: &SettingsArgs,
    path: &Path,
    told: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Collected> {
    let settings = Settings::from_values(&args.values()?).context(Usage)?;
    crate::logging::start(&settings.log_level, settings.log_json)?;
    let home = Home::open(&settings.dir)?;
    let head = head_of(&settings.dir)?;
    let threads = settings.store.threads;
    let budget = Budget::split(settings.memory_bytes, threads, None, false, true);
    let store = open_store(&settings, budget)?;
    let file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    let written = write(&store, &head, &file, &mut Telling::new(told));
    drop(home);
    if written.is_err() {
        // Nobody takes half a file for a whole one: it has no sum. It is in the way.
        let _ = std::fs::remove_file(path);
    }
    written.with_context(|| format!("nothing was collected in {}", path.display()))
}

/// What the directory says of the worker.
fn head_of(dir: &Path) -> Result<FactsHead> {
    let Some(belonging) = Belonging::read_any(dir)? else {
        bail!(
            "{} is not the directory of a worker that was part of a cluster",
            dir.display()
        );
    };
    if belonging.cluster().is_empty() {
        bail!("this worker was never part of a cluster: it has nothing to tell");
    }
    let claimed = Claimed::read(dir)?;
    let none = || (0, SlotTable::default(), vec![0; SLOTS]);
    let (session, table, epochs) = claimed.map_or_else(none, |claimed| {
        (claimed.session, claimed.table, claimed.epochs)
    });
    Ok(FactsHead {
        witness: Witness {
            node: NodeId::new(belonging.node()).context("the name of the worker")?,
            directory: belonging.directory(),
            seen: belonging.seen(),
        },
        cluster: belonging.cluster().to_owned(),
        session,
        table,
        epochs,
        untold_since: untold_since(dir)?,
    })
}

fn write(
    store: &Store,
    head: &FactsHead,
    file: &File,
    telling: &mut Telling<'_>,
) -> Result<Collected> {
    let mut names = Vec::new();
    open_names(store)?.read_to_end(&mut names)?;
    let mut writer = Writer::new(BufWriter::new(file), head)?;
    writer.names(&names)?;
    let gaps = store.gaps().context("cannot read what has ended")?;
    let mut done = Collected {
        node: head.witness.node.to_string(),
        untold: head.untold_since.is_some(),
        gaps: tell_gaps(&gaps, telling)?,
        ..Collected::default()
    };
    if head.untold_since.is_some() {
        telling.tell(&untold(&head.witness.node))?;
    }
    let mut after = 0;
    let mut facts = store.facts()?;
    for error in facts.torn() {
        done.unreadable += 1;
        telling.tell(&format!(
            "{error}: cut by a crash before its ack, or lost; whose write it was is not known"
        ))?;
    }
    let mut reader = store.facts()?;
    for fact in facts {
        let fact = match fact {
            Ok(fact) => fact,
            Err(error) if error.has_ended => {
                tracing::warn!(%error, "an entry that had ended cannot be read");
                continue;
            }
            Err(error) => {
                done.unreadable += 1;
                telling.tell(&format!("{error}: whose write it was is not known"))?;
                continue;
            }
        };
        // Its commit is never made.
        if fact.data.is_empty() {
            continue;
        }
        let entry = match JournalEntry::decode(&fact.data) {
            Ok(entry) => entry,
            Err(error) => {
                done.unreadable += 1;
                telling.tell(&format!("the entry of blob {}: {error}", fact.blob))?;
                continue;
            }
        };
        after = after.max(entry.after);
        let (row, whole) = judge(store, &mut reader, fact, &entry)?;
        done.facts += 1;
        done.live += u64::from(!row.has_ended);
        // A note may be of what another worker has.
        done.damaged += u64::from(!row.has_ended && !row.is_note && !row.torn && !whole);
        telling.show_progress("collecting: entries read", done.facts);
        writer.fact(&row)?;
    }
    let end = FactsEnd {
        after,
        unreadable: done.unreadable,
        gaps: done.gaps,
        facts: done.facts,
    };
    writer.end(&end)?.flush()?;
    file.sync_all()?;
    Ok(done)
}

/// What may be missing of a worker.
pub(super) fn untold(node: &NodeId) -> String {
    format!(
        "worker {node} ended a moment after it had taken slots from others, and had not yet \
         noted what was pending of them. Who owned them before is asked as well; still, writes \
         and deletes of their keys may be missing, and what was before them come back"
    )
}

/// A fact with what is here of its bytes, and whether that is all. What has ended is of
/// interest to other workers only and not read.
fn judge(
    store: &Store,
    reader: &mut Facts,
    fact: Fact,
    entry: &JournalEntry,
) -> Result<(FactRow, bool)> {
    let extents = match entry.removed {
        true => Vec::new(),
        false => record_of(entry)?.extents,
    };
    let mut whole: Vec<BlobId> = Vec::new();
    for extent in &extents {
        if store.holds(extent.blob, extent.size)
            && (fact.has_ended || reader.check(extent.blob, extent.size) == 0)
        {
            whole.push(extent.blob);
        }
    }
    let all = whole.len() == extents.len();
    let flushed = entry.sequence <= store.settled_through();
    Ok((
        FactRow {
            blob: fact.blob,
            is_note: fact.is_note,
            has_ended: fact.has_ended,
            is_void: fact.is_void,
            torn: !fact.is_note && !fact.has_ended && !flushed && !all,
            data: fact.data,
            whole,
        },
        all,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directory_of_a_worker_of_a_cluster_tells() {
        let dir = tempfile::tempdir().unwrap();
        let error = head_of(dir.path()).unwrap_err();
        assert!(error.to_string().contains("not the directory"), "{error}");
        let node = NodeId::new("n1").unwrap();
        Belonging::read_or_make(dir.path(), &node).unwrap();
        let error = head_of(dir.path()).unwrap_err();
        assert!(error.to_string().contains("never part"), "{error}");
        let text = r#"{"node":"n1","directory":"00ff","cluster":"c"}"#;
        std::fs::write(dir.path().join("cluster.json"), text).unwrap();
        let head = head_of(dir.path()).unwrap();
        assert_eq!((head.cluster.as_str(), head.session), ("c", 0));
        assert_eq!(head.witness.directory, [0, 255]);
        assert_eq!(head.epochs, vec![0; SLOTS]);
        assert_eq!(head.untold_since, None);
        std::fs::write(dir.path().join("slots-untold"), "").unwrap();
        assert_eq!(head_of(dir.path()).unwrap().untold_since, Some(0));
        std::fs::write(dir.path().join("slots"), "no such thing").unwrap();
        assert!(head_of(dir.path()).is_err());
    }
}
