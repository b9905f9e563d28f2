//! `metadata rebuild --from`: makes the lost metadata of a cluster again from what its
//! workers' stores told.
//!
//! Of each slot one worker has the last word, the one that owned it last: what is pending of
//! its keys is pending, and nothing else is. All others only add bytes to it. So a worker that
//! was away brings back nothing that was replaced or deleted meanwhile. Where the last owner had
//! not noted yet what was pending when it took the slot, who owned it before speaks, too. Absent: reading
//! stores (`collect`), and which change of a key is the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::cluster::Rebuilt as Ending;
use quickwater_controlplane::facts::Facts;
use quickwater_controlplane::namespace::Namespace;
use quickwater_controlplane::records::{FactRow, FactsHead, JournalEntry, Known};
use quickwater_controlplane::{dump, store as stores};
use quickwater_proto::{BlobId, NodeId, SLOTS, SlotTable, slot_of};
use xxhash_rust::xxh3::Xxh3;

use super::super::budget::Budget;
use super::super::control_runtime;
use super::Rebuilt;
use super::collect::untold;
use super::steps::{
    Entering, Newest, Place, Rebuild, Restoring, Telling, begin, has_bucket, leave_out_torn, place,
    record_of,
};
use crate::cli::{SettingsArgs, Usage};
use crate::home::Home;
use crate::settings::Settings;

/// Names of stores in one transaction.
const BATCH_BLOBS: usize = 2_000;

/// What becomes of changes that may have been overtaken: of keys whose last owner is lost, told
/// by workers that were away when slots moved last. They may have been replaced or deleted
/// since, and the UFS may have that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Overtaken {
    /// They are left out: the UFS is right
    Leave,
    /// They come back, and the UFS gets them, over what it has
    Restore,
}

/// Whom to rebuild from.
pub(crate) struct Sources<'a> {
    /// Files of `metadata collect`, one of each worker.
    pub(crate) from: &'a [PathBuf],
    /// Workers that are lost.
    pub(crate) without: &'a [NodeId],
    /// `None`: a rebuild that finds any is not begun.
    pub(crate) overtaken: Option<Overtaken>,
}

/// Makes the metadata again; `told` learns of every problem, by name.
///
/// # Errors
/// The control plane runs, there are metadata, a file is damaged, of another cluster, or
/// one is missing: nothing was done. Anything later: run it again.
pub(crate) fn rebuild_cluster(
    args: &SettingsArgs,
    sources: &Sources<'_>,
    dry_run: bool,
    told: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Rebuilt> {
    let settings = Settings::from_values(&args.values()?).context(Usage)?;
    crate::logging::start(&settings.log_level, settings.log_json)?;
    let home = Home::open(&settings.dir)?;
    let threads = settings.store.threads;
    let runtime = control_runtime(threads)?;
    let budget = Budget::split(settings.memory_bytes, 1, Some(0), false, false);
    let mut work = Work::open(sources, Telling::new(told))?;
    work.found.dry_run = dry_run;
    if !dry_run && sources.overtaken.is_none() {
        work.refuse_overtaken()?;
    }
    let place = Place {
        home: &home,
        settings: &settings,
        budget,
        runtime: &runtime,
    };
    match dry_run {
        true => place.try_out(&mut work)?,
        false => place.make(&mut work)?,
    }
    Ok(work.found)
}

/// Who has the last word on a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// These sources, as a rule one.
    Of(Vec<u32>),
    /// A worker that is lost: whatever is known counts.
    Lost,
}

impl Word {
    fn is_of(&self, source: u32) -> bool {
        match self {
            Self::Of(sources) => sources.contains(&source),
            Self::Lost => true,
        }
    }
}

/// What a worker noted of slots.
struct Claim<'a> {
    /// Its name.
    node: &'a NodeId,
    /// The table it went by.
    table: &'a SlotTable,
    /// By which table it took each slot last; 0: never.
    epochs: &'a [u64],
    /// From this table on it may not have noted what was pending of slots it took.
    untold_since: Option<u64>,
}

impl<'a> Claim<'a> {
    fn of(head: &'a FactsHead) -> Self {
        Self {
            node: &head.witness.node,
            table: &head.table,
            epochs: &head.epochs,
            untold_since: head.untold_since,
        }
    }
}

/// Who speaks of a slot: who took it last, and, as long as these may not have noted what was
/// pending then, who had it before.
fn speakers(claims: &[Claim<'_>], slot: usize) -> Vec<u32> {
    let taken = claims.iter().zip(0_u32..).filter_map(|(claim, at)| {
        let epoch = claim.epochs.get(slot).copied();
        let epoch = epoch.filter(|epoch| *epoch > 0)?;
        let untold = claim.untold_since.is_some_and(|since| since <= epoch);
        Some((epoch, at, untold))
    });
    let mut taken: Vec<(u64, u32, bool)> = taken.collect();
    taken.sort_unstable_by(|one, other| other.cmp(one));
    let last = taken.iter().position(|(.., untold)| !untold);
    taken.truncate(last.map_or(taken.len(), |last| last + 1));
    taken.into_iter().map(|(_, at, _)| at).collect()
}

/// Who owned each slot last, of what workers noted. Also how many slots each of those had last
/// that there is to be done `without`.
fn last_words(
    claims: &[Claim<'_>],
    without: &[NodeId],
) -> Result<(Vec<Word>, BTreeMap<NodeId, u64>)> {
    let newest = claims.iter().map(|claim| claim.table);
    let Some(newest) = newest.max_by_key(|table| table.epoch) else {
        bail!("no file is given");
    };
    let mut absent: BTreeMap<&NodeId, u64> = BTreeMap::new();
    let mut lost: BTreeMap<NodeId, u64> = without.iter().map(|node| (node.clone(), 0)).collect();
    let mut words = Vec::with_capacity(SLOTS);
    for slot in 0..SLOTS {
        let last = claims
            .iter()
            .filter_map(|claim| claim.epochs.get(slot))
            .max();
        let owner = newest.owner(slot).or_else(|| newest.yielding(slot));
        let owner = owner.filter(|owner| claims.iter().all(|claim| claim.node != *owner));
        words.push(match (owner, last.copied().unwrap_or(0)) {
            // It took the slot by that table, or an earlier one: not later than the rest.
            (Some(owner), epoch) if epoch < newest.epoch => {
                match lost.get_mut(owner) {
                    Some(slots) => *slots += 1,
                    None => *absent.entry(owner).or_default() += 1,
                }
                Word::Lost
            }
            (_, 0) => Word::Lost,
            _ => Word::Of(speakers(claims, slot)),
        });
    }
    if !absent.is_empty() {
        let names: Vec<String> = absent.keys().map(ToString::to_string).collect();
        let names = names.join(", ");
        bail!(
            "workers {names} owned slots at the end and no file of theirs is given. Collect it \
             (`quickwater metadata collect`), or, if they are lost for good, say so by \
             --without: what only they had is lost then"
        );
    }
    Ok((words, lost))
}

/// What goes with a worker that is said to be lost.
fn loss_of(node: &NodeId, slots: u64) -> String {
    match slots {
        0 => format!("worker {node}, said to be lost, owned nothing at the end"),
        _ => format!(
            "worker {node}, said to be lost, owned {slots} of {SLOTS} slots at the end: writes \
             and deletes of their keys that only it had are left out. Nobody else knows which \
             these are: such a key is as its UFS has it, or as an older write left it on the \
             workers that were collected"
        ),
    }
}

/// A rebuild under way.
struct Work<'a> {
    sources: Vec<Facts>,
    words: Vec<Word>,
    /// The sources that were away when the newest table was made.
    away: BTreeSet<u32>,
    overtaken: Option<Overtaken>,
    without: Vec<NodeId>,
    /// The newest names.
    names: Vec<u8>,
    /// What orders the newest commit that anybody knew of.
    after: u64,
    found: Rebuilt,
    telling: Telling<'a>,
}

impl<'a> Work<'a> {
    /// Looks whether the files are whole and belong together.
    fn open(sources: &Sources<'_>, mut telling: Telling<'a>) -> Result<Self> {
        let mut opened: Vec<Facts> = Vec::new();
        for path in sources.from {
            let facts = Facts::open(path);
            let facts = facts.with_context(|| format!("cannot use {}", path.display()))?;
            let head = &facts.head;
            let node = &head.witness.node;
            if let Some(first) = opened.first()
                && first.head.cluster != head.cluster
            {
                bail!(
                    "{} is of worker {node} of cluster {}, the files before are of cluster {}",
                    path.display(),
                    head.cluster,
                    first.head.cluster
                );
            }
            if opened.iter().any(|one| one.head.witness.node == *node) {
                bail!("{} is a second file of worker {node}", path.display());
            }
            if sources.without.contains(node) {
                bail!(
                    "worker {node} is said to be lost, and {} is of it",
                    path.display()
                );
            }
            opened.push(facts);
        }
        // What was entered before a cut goes by their number, whatever order they are named in.
        opened.sort_by(|one, other| one.head.witness.node.cmp(&other.head.witness.node));
        let heads = opened.iter().map(|facts| &facts.head);
        let claims: Vec<Claim<'_>> = heads.map(Claim::of).collect();
        let (words, lost) = last_words(&claims, sources.without)?;
        for (node, slots) in &lost {
            telling.tell(&loss_of(node, *slots))?;
        }
        let table = claims.iter().map(|claim| claim.table.epoch).max();
        let older = claims
            .iter()
            .zip(0_u32..)
            .filter(|(claim, _)| Some(claim.table.epoch) < table);
        let away = older.map(|(_, at)| at).collect();
        let mut newest: Option<(u64, usize)> = None;
        for (at, facts) in opened.iter().enumerate() {
            let node = &facts.head.witness.node;
            let version = dump::verify(&*facts.names)
                .with_context(|| format!("the names of the buckets that worker {node} has"))?;
            newest = newest.max(Some((version, at)));
        }
        let mut after = newest.map_or(0, |(version, _)| version);
        let mut found = Rebuilt {
            lost_slots: lost.values().sum(),
            ..Rebuilt::default()
        };
        for facts in &opened {
            let seen = facts.head.witness.seen.map_or(0, |seen| seen.version);
            after = after.max(facts.end.after).max(seen);
            found.unreadable += facts.end.unreadable;
            found.gaps += facts.end.gaps;
            if facts.head.untold_since.is_some() {
                found.untold += 1;
                telling.tell(&untold(&facts.head.witness.node))?;
            }
        }
        let mut without = sources.without.to_vec();
        without.sort_unstable();
        without.dedup();
        let names = newest.and_then(|(_, at)| opened.get_mut(at));
        let names = names.map(|facts| std::mem::take(&mut facts.names));
        Ok(Self {
            names: names.context("no file is given")?,
            sources: opened,
            words,
            away,
            overtaken: sources.overtaken,
            without,
            after,
            found,
            telling,
        })
    }

    /// What it goes by. What was entered before a cut counts on, so it must be the same then.
    /// Short, however many workers there are: it is kept in one row.
    fn described(&self) -> String {
        let mut sum = Xxh3::new();
        for facts in &self.sources {
            sum.update(&facts.sum.to_be_bytes());
        }
        let files = format!("{} files (sum {:016x})", self.sources.len(), sum.digest());
        let mut lost = Xxh3::new();
        for node in &self.without {
            lost.update(node.as_str().as_bytes());
            lost.update(b"\n");
        }
        let lost = match self.without.as_slice() {
            [] => String::new(),
            [node] => format!(" --without={node}"),
            nodes => format!(
                " --without {} workers (sum {:016x})",
                nodes.len(),
                lost.digest()
            ),
        };
        let overtaken = match self.overtaken {
            Some(Overtaken::Leave) => " --overtaken=leave",
            Some(Overtaken::Restore) => " --overtaken=restore",
            None => "",
        };
        format!("{files}{lost}{overtaken}")
    }

    /// What the cluster goes on with.
    fn ending(&self) -> Ending {
        let heads = || self.sources.iter().map(|facts| &facts.head);
        let taken = heads().flat_map(|head| head.epochs.iter().copied());
        let tables = heads().map(|head| head.table.epoch);
        Ending {
            name: heads()
                .next()
                .map_or_else(String::new, |head| head.cluster.clone()),
            epoch: taken.chain(tables).max().unwrap_or(0),
            session: heads().map(|head| head.session).max().unwrap_or(0),
            witnesses: heads().map(|head| head.witness.clone()).collect(),
            missing: self.without.clone(),
        }
    }

    /// Whether a change may have been replaced or deleted since, without anybody knowing.
    fn is_overtaken(&self, source: u32, fact: &FactRow, entry: &JournalEntry) -> bool {
        let word = self.words.get(slot_of(entry.bucket, &entry.key));
        let of_lost = !self.without.is_empty() && word == Some(&Word::Lost);
        of_lost && self.away.contains(&source) && !(fact.has_ended || fact.is_void || fact.torn)
    }

    /// Looks whether there are such changes, before anything is made.
    ///
    /// # Errors
    /// There are.
    fn refuse_overtaken(&mut self) -> Result<()> {
        let (mut count, mut of) = (0_u64, BTreeSet::new());
        for source in self.away.clone() {
            let node = self.node(source);
            let facts = self.sources.get_mut(source as usize);
            facts.context("it is of no file")?.rewind()?;
            while let Some((_, fact)) = self.next(source)? {
                let entry = JournalEntry::decode(&fact.data)?;
                if self.is_overtaken(source, &fact, &entry) {
                    count += 1;
                    of.extend(node.clone());
                }
            }
        }
        if count == 0 {
            return Ok(());
        }
        let names: Vec<String> = of.iter().map(ToString::to_string).collect();
        bail!(
            "{count} changes of keys that lost workers owned at the end are told by workers that \
             were away by then ({}): they may have been replaced or deleted since, and the UFS may \
             have that. Say what becomes of them: --overtaken=leave (the UFS is right) or \
             --overtaken=restore (the UFS gets them, over what it has); --dry-run names them",
            names.join(", ")
        );
    }

    fn next(&mut self, source: u32) -> Result<Option<(u64, FactRow)>> {
        let facts = self.sources.get_mut(source as usize);
        Ok(facts.context("it is of no file")?.next()?)
    }

    /// Enters what counts into the metadata, which keep the newest of each key, and who
    /// has which bytes.
    async fn enter_all<S: stores::Store>(&mut self, to: &Namespace<S>) -> Result<()> {
        let mut entering = Entering::new(to);
        let mut blobs: Vec<(BlobId, u32)> = Vec::with_capacity(BATCH_BLOBS);
        for source in (0_u32..).take(self.sources.len()) {
            let facts = self.sources.get_mut(source as usize);
            facts.context("it is of no file")?.rewind()?;
            while let Some((at, fact)) = self.next(source)? {
                self.found.read += 1;
                self.found.ended += u64::from(fact.has_ended);
                self.telling
                    .show_progress("entering changes", self.found.read);
                blobs.extend(fact.whole.iter().map(|blob| (*blob, source)));
                if blobs.len() >= BATCH_BLOBS {
                    to.enter_blobs(&blobs).await?;
                    blobs.clear();
                }
                // It may be newer than what was acked.
                if fact.is_void {
                    continue;
                }
                let entry = JournalEntry::decode(&fact.data)?;
                let word = self.words.get(slot_of(entry.bucket, &entry.key));
                if word.is_some_and(|word| !word.is_of(source)) {
                    continue;
                }
                if self.is_overtaken(source, &fact, &entry) {
                    self.tell_overtaken(to, source, &entry).await?;
                    if self.overtaken != Some(Overtaken::Restore) {
                        continue;
                    }
                }
                if fact.torn {
                    leave_out_torn(to, &entry, (&mut self.found, &mut self.telling)).await?;
                    continue;
                }
                let known = Known {
                    after: entry.after,
                    sequence: entry.sequence,
                    has_ended: fact.has_ended,
                    source,
                    blob: fact.blob,
                    is_note: fact.is_note,
                    at,
                };
                entering.enter((entry.bucket, entry.key, known)).await?;
            }
        }
        entering.end().await?;
        to.enter_blobs(&blobs).await?;
        Ok(())
    }

    async fn tell_overtaken<S: stores::Store>(
        &mut self,
        to: &Namespace<S>,
        source: u32,
        entry: &JournalEntry,
    ) -> Result<()> {
        self.found.overtaken += 1;
        let what = match entry.removed {
            true => "deleted",
            false => "written",
        };
        let end = match self.overtaken {
            Some(Overtaken::Restore) => "restored",
            Some(Overtaken::Leave) | None => "left out",
        };
        let node = self
            .node(source)
            .map_or_else(String::new, |n| n.to_string());
        let place = place(to, entry.bucket, &entry.key).await?;
        self.telling.tell(&format!(
            "{place}: {what}, as worker {node} tells, which was away later; it may have been \
             replaced or deleted since: {end}"
        ))
    }

    /// Makes the newest changes current that have not ended.
    async fn restore_all<S: stores::Store>(
        &mut self,
        to: &Namespace<S>,
        last_bucket: u64,
    ) -> Result<()> {
        let (mut newest, mut restoring) = (Newest::new(to), Restoring::new(to));
        while let Some((bucket, key, known)) = newest.next(&mut self.telling).await? {
            let other = || {
                format!(
                    "the entry of {key} is not where it was when this rebuild was begun: go on with \
                     the same files, or begin anew with empty metadata"
                )
            };
            let fact = self.read(&known).with_context(other)?;
            let entry = JournalEntry::decode(&fact.data).with_context(other)?;
            if (entry.bucket, &entry.key) != (bucket, &key) {
                bail!(other());
            }
            let say = (&mut self.found, &mut self.telling);
            if !has_bucket(to, &entry, last_bucket, say).await? {
                continue;
            }
            let holders = self.holders(to, &entry, known.source).await?;
            restoring.restore(entry, holders).await?;
        }
        restoring.end().await
    }

    fn read(&mut self, known: &Known) -> Result<FactRow> {
        let source = self.sources.get_mut(known.source as usize);
        Ok(source.context("it is of no file")?.read(known.at)?)
    }

    fn node(&self, source: u32) -> Option<NodeId> {
        let facts = self.sources.get(source as usize);
        facts.map(|facts| facts.head.witness.node.clone())
    }

    /// Who has all bytes of a change, the one that told of it first. Counts it.
    async fn holders<S: stores::Store>(
        &mut self,
        to: &Namespace<S>,
        entry: &JournalEntry,
        source: u32,
    ) -> Result<Vec<NodeId>> {
        if entry.removed {
            self.found.deletes += 1;
            return Ok(Vec::new());
        }
        let record = record_of(entry)?;
        self.found.count(&record);
        let mut all: Option<BTreeSet<u32>> = None;
        for extent in &record.extents {
            let stores: BTreeSet<u32> = to.stores_of(extent.blob).await?.into_iter().collect();
            all = Some(match all {
                Some(all) => &all & &stores,
                None => stores,
            });
        }
        // Without bytes it is in the row.
        let mut all = all.unwrap_or_else(|| BTreeSet::from([source]));
        let first = all.take(&source);
        let nodes: Vec<NodeId> = first
            .into_iter()
            .chain(all)
            .filter_map(|at| self.node(at))
            .collect();
        if nodes.is_empty() {
            self.found.lost += 1;
            self.telling.tell(&format!(
                "{} of {} bytes: no worker that was collected has all of it; it answers so until \
                 it is written again or deleted",
                place(to, entry.bucket, &entry.key).await?,
                record.size
            ))?;
            // One of them may have it, and come back.
            return Ok(self.without.clone());
        }
        Ok(nodes)
    }
}

impl Rebuild for Work<'_> {
    fn after(&self) -> u64 {
        self.after
    }

    async fn make<S: stores::Store>(&mut self, to: &Namespace<S>) -> Result<()> {
        let names = std::mem::take(&mut self.names);
        let of = self.described();
        self.found.resumed = begin(to, &mut &*names, &of, self.after).await?;
        let last_bucket = to.last_bucket().await?;
        self.enter_all(to).await?;
        self.restore_all(to, last_bucket).await?;
        Ok(to.end_rebuild_of_cluster(&self.ending()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn table(epoch: u64, owner: &NodeId) -> SlotTable {
        SlotTable::from_slots(epoch, |_| (Some(owner), None))
    }

    #[test]
    fn who_took_a_slot_last_has_the_last_word() {
        let (one, two, gone) = (node("n1"), node("n2"), node("n3"));
        let of = |first, rest| {
            let mut epochs = vec![rest; SLOTS];
            epochs[0] = first;
            epochs
        };
        let (mine, theirs) = (of(7, 2), of(3, 5));
        let (older, newer) = (table(7, &one), table(8, &two));
        let claim = |node, table, epochs| Claim {
            node,
            table,
            epochs,
            untold_since: None,
        };
        let claims = [claim(&one, &older, &mine), claim(&two, &newer, &theirs)];
        let (words, lost) = last_words(&claims, &[]).unwrap();
        assert!(lost.is_empty());
        assert_eq!(words[..2], [Word::Of(vec![0]), Word::Of(vec![1])]);
        // An owner at the end who does not tell is asked for, by name.
        let newest = table(9, &gone);
        let claims = [claim(&one, &older, &mine), claim(&two, &newest, &theirs)];
        let error = last_words(&claims, &[]).unwrap_err();
        assert!(error.to_string().contains("workers n3 owned"), "{error}");
        let without = [gone.clone(), node("n4")];
        let (words, lost) = last_words(&claims, &without).unwrap();
        assert_eq!(words, vec![Word::Lost; SLOTS]);
        // What goes with them is told.
        assert_eq!((lost[&gone], lost[&without[1]]), (SLOTS as u64, 0));
        assert!(loss_of(&gone, SLOTS as u64).contains("owned 16384 of 16384 slots"));
        assert!(loss_of(&without[1], 0).contains("owned nothing"));
        // Nobody ever had it.
        let none = vec![0; SLOTS];
        let claims = [claim(&one, &older, &none)];
        let (words, _) = last_words(&claims, &[]).unwrap();
        assert_eq!(words[9], Word::Lost);
        assert!(last_words(&[], &[]).is_err());
    }
    #[test]
    fn who_had_not_noted_yet_leaves_the_word_to_those_before_as_well() {
        let nodes = ["n1", "n2", "n3"].map(node);
        let newest = table(9, &nodes[2]);
        let epochs: [Vec<u64>; 3] = [4, 6, 9].map(|epoch| vec![epoch; SLOTS]);
        let mut claims: Vec<Claim<'_>> = nodes
            .iter()
            .zip(&epochs)
            .map(|(node, epochs)| Claim {
                node,
                table: &newest,
                epochs,
                untold_since: None,
            })
            .collect();
        let words = |claims: &[Claim<'_>]| last_words(claims, &[]).unwrap().0[7].clone();
        assert_eq!(words(&claims), Word::Of(vec![2]));
        claims[2].untold_since = Some(10);
        assert_eq!(words(&claims), Word::Of(vec![2]), "it took it before");
        claims[2].untold_since = Some(9);
        assert_eq!(words(&claims), Word::Of(vec![2, 1]));
        claims[1].untold_since = Some(0);
        assert_eq!(words(&claims), Word::Of(vec![2, 1, 0]));
        claims[0].untold_since = Some(0);
        assert_eq!(words(&claims), Word::Of(vec![2, 1, 0]));
    }
}
