//! `metadata rebuild`: makes lost metadata again from what the cache store still
//! tells. The service must be stopped; the metadata must be empty.
//!
//! Reads the store only. May be killed at any point and run again. What is found to
//! be lost is told by name, and the metadata are made without it or with a row that
//! answers that it is lost, never with an older version. Absent: which change of a
//! key is the newest, which is the namespace's rule.

mod cluster;
mod collect;
mod steps;

use std::fs::File;
use std::io::BufReader;

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::dump;
use quickwater_controlplane::namespace::Namespace;
use quickwater_controlplane::records::{JournalEntry, Known};
use quickwater_controlplane::store as stores;
use quickwater_proto::{ObjectRecord, PersistState};
use quickwater_worker::store::{Fact, Facts, Gaps, Store};

use super::apart::belonging::Belonging;
use super::budget::Budget;
use super::{control_runtime, data_plane, kept_names};
use crate::cli::{SettingsArgs, Usage};
use crate::home::Home;
use crate::settings::Settings;

pub(crate) use cluster::{Overtaken, Sources, rebuild_cluster};
pub(crate) use collect::{Collected, collect};
use steps::{
    Entering, Newest, Place, Rebuild, Restoring, Telling, begin, has_bucket, leave_out_torn, place,
    record_of,
};

/// What a rebuild found and did.
#[derive(Debug, Default)]
pub(crate) struct Rebuilt {
    /// Nothing was changed.
    pub(crate) dry_run: bool,
    /// It went on with one that was cut.
    pub(crate) resumed: bool,
    /// Entries and notes read.
    pub(crate) read: u64,
    /// Of these, ended: the UFS has it, or it was replaced.
    pub(crate) ended: u64,
    /// Writes that a crash cut before their ack.
    pub(crate) torn: u64,
    /// Objects the UFS has still to get, and their bytes.
    pub(crate) dirty: (u64, u64),
    /// Objects that stay on this node, and their bytes.
    pub(crate) transient: (u64, u64),
    /// Deletes the UFS has still to be told of.
    pub(crate) deletes: u64,
    /// In buckets that were removed.
    pub(crate) bucketless: u64,
    /// Objects whose bytes are not all there.
    pub(crate) lost: u64,
    /// In buckets whose name is not known.
    pub(crate) nameless: u64,
    /// Entries and notes that cannot be read.
    pub(crate) unreadable: u64,
    /// Segments that are missing, or older than they were.
    pub(crate) gaps: u64,
    /// Workers of which what was pending of slots that they had taken may be missing.
    pub(crate) untold: u64,
    /// Slots that lost workers owned at the end: nobody knows what was pending of their keys.
    pub(crate) lost_slots: u64,
    /// Changes that may have been replaced or deleted since: left out or restored, as was said.
    pub(crate) overtaken: u64,
}

impl Rebuilt {
    /// Whether something that was acked is not there, or nobody knows whether it is.
    pub(crate) fn has_losses(&self) -> bool {
        let objects = self.lost + self.nameless + self.unreadable;
        objects + self.gaps + self.untold + self.lost_slots + self.overtaken > 0
    }
}

/// Makes the metadata again; `told` learns of every problem, by name.
///
/// # Errors
/// The service runs, there are metadata, or the store cannot tell what has ended:
/// nothing was done. Anything later: run it again.
pub(crate) fn rebuild(
    args: &SettingsArgs,
    dry_run: bool,
    told: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Rebuilt> {
    let settings = Settings::from_values(&args.values()?).context(Usage)?;
    crate::logging::start(&settings.log_level, settings.log_json)?;
    let home = Home::open(&settings.dir)?;
    if Belonging::read_any(&settings.dir)?.is_some() {
        bail!(
            "{} is the directory of a worker: its metadata are those of its cluster, which are \
             rebuilt from all workers (`quickwater metadata collect`, then `metadata rebuild \
             --from`)",
            settings.dir.display()
        );
    }
    let runtime = control_runtime(settings.store.threads)?;
    let budget = Budget::split(
        settings.memory_bytes,
        settings.store.threads,
        None,
        false,
        false,
    );
    let store = open_store(&settings, budget)?;
    let mut work = Work {
        store: &store,
        last: Last::default(),
        found: Rebuilt {
            dry_run,
            ..Rebuilt::default()
        },
        telling: Telling::new(told),
    };
    let gaps = store.gaps().context("cannot read what has ended")?;
    work.found.gaps = tell_gaps(&gaps, &mut work.telling)?;
    work.look_through()?;
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

fn open_store(settings: &Settings, budget: Budget) -> Result<Store> {
    let directory = settings.dir.join("store");
    if !directory.join("FORMAT").exists() {
        bail!(
            "there is no cache store in {}: nothing to rebuild from. What the UFS has needs no \
             rebuild, start the service. The metadata of a cluster are rebuilt from what was \
             collected of its workers: --from",
            directory.display()
        );
    }
    let store = Store::open(data_plane::store_config(settings, budget)?)
        .context("cannot open the cache store")?;
    if !store.knows_what_ended() {
        bail!(
            "the cache store in {} does not say which of its writes the UFS has by now: it was \
             never used by a version that keeps that, or could not write it. Nothing was done",
            directory.display()
        );
    }
    Ok(store)
}

/// The largest numbers that were given.
#[derive(Debug, Default)]
struct Last {
    after: u64,
    sequence: u64,
}

/// Tells of the segments that are missing or old; how many.
fn tell_gaps(gaps: &Gaps, telling: &mut Telling<'_>) -> Result<u64> {
    let all = [
        (&gaps.missing, "is missing; what it held is not known"),
        (&gaps.old, "is older than it was; what was newer is lost"),
        (
            &gaps.unmarked,
            "does not say any more what in it has ended: what the UFS has may be sent again",
        ),
    ];
    let mut count = 0;
    for (segments, what) in all {
        for segment in segments {
            count += 1;
            telling.tell(&format!("segment {segment} {what}"))?;
        }
    }
    Ok(count)
}

impl Rebuilt {
    fn count(&mut self, record: &ObjectRecord) {
        let (objects, bytes) = match record.persist {
            PersistState::Transient => &mut self.transient,
            _ => &mut self.dirty,
        };
        *objects += 1;
        *bytes += record.size;
    }
}

/// A rebuild under way.
struct Work<'a> {
    store: &'a Store,
    last: Last,
    found: Rebuilt,
    telling: Telling<'a>,
}

impl Work<'_> {
    fn tell(&mut self, text: &str) -> Result<()> {
        self.telling.tell(text)
    }

    /// Reads everything once, to learn which numbers the new metadata must exceed.
    fn look_through(&mut self) -> Result<()> {
        self.last = Last {
            after: dump::verify(open_names(self.store)?)
                .context("the names of the buckets, beside the cache store")?,
            sequence: self.store.settled_through(),
        };
        let mut facts = self.store.facts()?;
        for error in facts.torn() {
            self.found.unreadable += 1;
            self.tell(&format!(
                "{error}: cut by a crash before its ack, or lost; whose write it was is not known"
            ))?;
        }
        for fact in facts {
            self.found.read += 1;
            self.telling
                .show_progress("looking through the store: entries read", self.found.read);
            let fact = match fact {
                Ok(fact) => fact,
                Err(error) if error.has_ended => {
                    tracing::warn!(%error, "an entry that had ended cannot be read");
                    continue;
                }
                Err(error) => {
                    self.found.unreadable += 1;
                    self.tell(&format!("{error}: whose write it was is not known"))?;
                    continue;
                }
            };
            self.found.ended += u64::from(fact.has_ended);
            if let Some(entry) = self.decode(&fact)? {
                self.last.after = self.last.after.max(entry.after);
                self.last.sequence = self.last.sequence.max(entry.sequence);
            }
        }
        Ok(())
    }

    /// What a fact says; `None`: nothing, or it cannot be understood.
    fn decode(&mut self, fact: &Fact) -> Result<Option<JournalEntry>> {
        if fact.data.is_empty() {
            return Ok(None);
        }
        match JournalEntry::decode(&fact.data) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => {
                self.found.unreadable += 1;
                self.tell(&format!("the entry of blob {}: {error}", fact.blob))?;
                Ok(None)
            }
        }
    }

    /// Enters every change into the metadata, which keep the newest of each key.
    async fn enter_all<S: stores::Store>(&mut self, to: &Namespace<S>) -> Result<()> {
        let (mut entering, mut count) = (Entering::new(to), 0);
        // What cannot be read was told before.
        for fact in self.store.facts()?.flatten() {
            // It may be newer than what was acked.
            if fact.is_void {
                continue;
            }
            let Ok(entry) = JournalEntry::decode(&fact.data) else {
                continue;
            };
            if self.is_torn(&fact, &entry) {
                leave_out_torn(to, &entry, (&mut self.found, &mut self.telling)).await?;
                continue;
            }
            count += 1;
            self.telling.show_progress("entering changes", count);
            let known = Known {
                after: entry.after,
                sequence: entry.sequence,
                has_ended: fact.has_ended,
                source: 0,
                blob: fact.blob,
                is_note: fact.is_note,
                at: 0,
            };
            entering.enter((entry.bucket, entry.key, known)).await?;
        }
        entering.end().await
    }

    /// An entry is flushed with the bytes it is about, or never acked. Once it was
    /// noted as settled, bytes that are not there were lost later.
    fn is_torn(&self, fact: &Fact, entry: &JournalEntry) -> bool {
        !fact.is_note
            && !fact.has_ended
            && entry.sequence > self.store.settled_through()
            && !self.store.holds(fact.blob, entry.object.size)
    }

    /// Makes the newest changes current that have not ended.
    async fn restore_all<S: stores::Store>(
        &mut self,
        to: &Namespace<S>,
        last_bucket: u64,
    ) -> Result<()> {
        let mut facts = self.store.facts()?;
        let (mut newest, mut restoring) = (Newest::new(to), Restoring::new(to));
        while let Some((bucket, key, known)) = newest.next(&mut self.telling).await? {
            let entry = read_again(&mut facts, &known)
                .with_context(|| format!("the entry of {key} in bucket {} is gone", bucket.0))?;
            let say = (&mut self.found, &mut self.telling);
            if !has_bucket(to, &entry, last_bucket, say).await? {
                continue;
            }
            self.count(to, &mut facts, &entry).await?;
            restoring.restore(entry, Vec::new()).await?;
        }
        restoring.end().await
    }

    /// Counts a change that is restored, and reads all its bytes.
    async fn count<S: stores::Store>(
        &mut self,
        to: &Namespace<S>,
        facts: &mut Facts,
        entry: &JournalEntry,
    ) -> Result<()> {
        if entry.removed {
            self.found.deletes += 1;
            return Ok(());
        }
        let record = record_of(entry)?;
        let gone = |extent: &quickwater_proto::Extent| facts.check(extent.blob, extent.size);
        let missing: u64 = record.extents.iter().map(gone).sum();
        if missing > 0 {
            self.found.lost += 1;
            self.tell(&format!(
                "{} of {} bytes: {missing} of its chunks are lost; it answers so until it is \
                 written again or deleted",
                place(to, entry.bucket, &entry.key).await?,
                record.size
            ))?;
        }
        self.found.count(&record);
        Ok(())
    }
}

impl Rebuild for Work<'_> {
    fn after(&self) -> u64 {
        self.last.after
    }

    async fn make<S: stores::Store>(&mut self, to: &Namespace<S>) -> Result<()> {
        let mut names = open_names(self.store)?;
        self.found.resumed = begin(to, &mut names, "the cache store", self.last.after).await?;
        let last_bucket = to.last_bucket().await?;
        self.enter_all(to).await?;
        self.restore_all(to, last_bucket).await?;
        let identity = self.store.identity();
        Ok(to.end_rebuild(&identity, self.last.sequence).await?)
    }
}

/// The names of buckets, mounts and policies.
fn open_names(store: &Store) -> Result<BufReader<File>> {
    let path = kept_names::path(store.directory());
    File::open(&path).map(BufReader::new).with_context(|| {
        format!(
            "cannot read {}, which names the buckets: without it nobody knows whose objects \
             these are",
            path.display()
        )
    })
}

/// The entry or note that a row names.
fn read_again(facts: &mut Facts, known: &Known) -> Result<JournalEntry> {
    let fact = facts.read(known.blob, known.is_note);
    let fact = fact.context("it is not in the index")??;
    Ok(JournalEntry::decode(&fact.data)?)
}
