//! `metadata rebuild`: makes lost metadata again from what the cache store still
//! tells. The service must be stopped; the metadata must be empty.
//!
//! Reads the store only. May be killed at any point and run again. What is found to
//! be lost is told by name, and the metadata are made without it or with a row that
//! answers that it is lost, never with an older version. Absent: which change of a
//! key is the newest, which is the namespace's rule.

mod cluster;
mod collect;

use std::fs::File;
use std::io::{BufReader, Read};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::dump::DumpError;
use quickwater_controlplane::namespace::{Change, Namespace, RebuildError};
use quickwater_controlplane::records::{JournalEntry, Known, ObjectRow};
use quickwater_controlplane::store::{self, EngineKind, EngineOptions};
use quickwater_controlplane::{dump, store as stores};
use quickwater_proto::{BucketId, ObjectKey, ObjectRecord, PersistState};
use quickwater_worker::store::{Fact, Facts, Gaps, Store};
use tokio::runtime::Runtime;

use super::apart::belonging::Belonging;
use super::budget::Budget;
use super::{control, control_runtime, data_plane, kept_names};
use crate::cli::{SettingsArgs, Usage};
use crate::home::Home;
use crate::settings::Settings;

pub(crate) use cluster::{Sources, rebuild_cluster};
pub(crate) use collect::{Collected, collect};

/// Changes entered in one transaction, and rows read at a time.
const BATCH_CHANGES: usize = 500;
/// Bytes of entries restored in one transaction, last one apart.
const BATCH_BYTES: usize = 400_000;
/// Most problems told by name; all are counted.
const NAMED_MAX: u64 = 10_000;
/// Time between two words about how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

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
}

impl Rebuilt {
    /// Whether something that was acked is not there.
    pub(crate) fn has_losses(&self) -> bool {
        self.lost + self.nameless + self.unreadable + self.gaps > 0
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
        found: Rebuilt {
            dry_run,
            ..Rebuilt::default()
        },
        telling: Telling::new(told),
    };
    let gaps = store.gaps().context("cannot read what has ended")?;
    work.found.gaps = tell_gaps(&gaps, &mut work.telling)?;
    let last = work.look_through()?;
    if dry_run {
        let scratch = home.dir().join("rebuild-dry-run");
        remove(&scratch)?;
        let outcome = work.try_out(&runtime, &scratch, &last);
        remove(&scratch)?;
        outcome?;
        return Ok(work.found);
    }
    let metadata = control::open_store(&runtime, &home, &settings, budget, last.after + 1)?;
    let namespace = Namespace::new(metadata.clone());
    let outcome = runtime.block_on(work.make(&namespace, &last));
    runtime.block_on(metadata.release());
    outcome?;
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

fn remove(directory: &std::path::Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The largest numbers that were given.
#[derive(Debug, Default)]
struct Last {
    after: u64,
    sequence: u64,
}

/// What is told while it goes on.
struct Telling<'a> {
    named: u64,
    told: &'a mut dyn FnMut(&str) -> Result<()>,
    progress: Instant,
}

impl<'a> Telling<'a> {
    fn new(told: &'a mut dyn FnMut(&str) -> Result<()>) -> Self {
        Self {
            named: 0,
            told,
            progress: Instant::now(),
        }
    }

    fn tell(&mut self, text: &str) -> Result<()> {
        self.named += 1;
        match self.named {
            named if named < NAMED_MAX => (self.told)(text),
            NAMED_MAX => (self.told)("and more, which are counted only"),
            _ => Ok(()),
        }
    }

    fn show_progress(&mut self, doing: &str, count: u64) {
        if self.progress.elapsed() >= PROGRESS_PERIOD {
            self.progress = Instant::now();
            tracing::info!(count, "{doing}");
        }
    }
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

/// Whether the bucket of a change is there; tells of one that should be.
async fn has_bucket<S: stores::Store>(
    to: &Namespace<S>,
    entry: &JournalEntry,
    last_bucket: u64,
    (found, telling): (&mut Rebuilt, &mut Telling<'_>),
) -> Result<bool> {
    let number = entry.bucket.0;
    if to.bucket_name(entry.bucket).await?.is_some() {
        return Ok(true);
    }
    if number <= last_bucket {
        found.bucketless += 1;
    } else {
        found.nameless += 1;
        telling.tell(&format!(
            "{} in bucket number {number}, which was made moments before the end and whose name \
             is not known",
            entry.key
        ))?;
    }
    Ok(false)
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
    found: Rebuilt,
    telling: Telling<'a>,
}

impl Work<'_> {
    fn tell(&mut self, text: &str) -> Result<()> {
        self.telling.tell(text)
    }

    /// Reads everything once, to learn which numbers the new metadata must exceed.
    fn look_through(&mut self) -> Result<Last> {
        let mut last = Last {
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
                last.after = last.after.max(entry.after);
                last.sequence = last.sequence.max(entry.sequence);
            }
        }
        Ok(last)
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

    fn try_out(&mut self, runtime: &Runtime, scratch: &std::path::Path, last: &Last) -> Result<()> {
        let options = EngineOptions::default();
        let store = store::open_at_least(EngineKind::Fjall, scratch, &options, last.after + 1)
            .context("cannot make a store to try it out in")?;
        runtime.block_on(self.make(&Namespace::new(store), last))
    }

    async fn make<S: stores::Store>(&mut self, to: &Namespace<S>, last: &Last) -> Result<()> {
        let mut file = open_names(self.store)?;
        let begun = to.begin_rebuild(Some(&mut file as &mut dyn Read)).await;
        self.found.resumed = begun.map_err(explain)?;
        let has = dump::version(to.store()).await?;
        if has <= last.after {
            let needs = last.after;
            return Err(DumpError::Behind { has, needs }.into());
        }
        let last_bucket = to.last_bucket().await?;
        self.enter_all(to).await?;
        self.restore_all(to, last_bucket).await?;
        to.end_rebuild(&self.store.identity(), last.sequence)
            .await?;
        Ok(())
    }

    /// Enters every change into the metadata, which keep the newest of each key.
    async fn enter_all<S: stores::Store>(&mut self, to: &Namespace<S>) -> Result<()> {
        let mut batch: Vec<Change> = Vec::with_capacity(BATCH_CHANGES);
        let mut count = 0;
        // What cannot be read was told before.
        for fact in self.store.facts()?.flatten() {
            let Ok(entry) = JournalEntry::decode(&fact.data) else {
                continue;
            };
            if self.is_torn(&fact, &entry) {
                self.found.torn += 1;
                self.tell(&format!(
                    "{} of {} bytes: cut by a crash before its ack, left out",
                    place(to, entry.bucket, &entry.key).await?,
                    entry.object.size
                ))?;
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
            batch.push((entry.bucket, entry.key, known));
            if batch.len() == BATCH_CHANGES {
                to.enter_known(&batch).await?;
                batch.clear();
            }
        }
        to.enter_known(&batch).await?;
        Ok(())
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
        let mut after: Option<(BucketId, ObjectKey)> = None;
        let (mut batch, mut bytes, mut count) = (Vec::new(), 0, 0);
        loop {
            let from = after.as_ref().map(|(bucket, key)| (*bucket, key));
            let page = to.known_changes(from, BATCH_CHANGES).await?;
            after = page.last().map(|(bucket, key, _)| (*bucket, key.clone()));
            for (bucket, key, known) in page {
                count += 1;
                self.telling
                    .show_progress("restoring: keys looked at", count);
                if known.has_ended {
                    continue;
                }
                let entry = read_again(&mut facts, &known).with_context(|| {
                    format!("the entry of {key} in bucket {} is gone", bucket.0)
                })?;
                let say = (&mut self.found, &mut self.telling);
                if !has_bucket(to, &entry, last_bucket, say).await? {
                    continue;
                }
                self.count(to, &mut facts, &entry).await?;
                bytes += entry.object.row.len();
                bytes += entry.object.pieces.iter().map(Vec::len).sum::<usize>();
                batch.push(entry);
                if bytes >= BATCH_BYTES || batch.len() == BATCH_CHANGES {
                    to.restore(&batch).await?;
                    batch.clear();
                    bytes = 0;
                }
            }
            if after.is_none() {
                break;
            }
        }
        to.restore(&batch).await?;
        Ok(())
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

/// The object of an entry.
fn record_of(entry: &JournalEntry) -> Result<ObjectRecord> {
    let pieces: Vec<bytes::Bytes> = entry
        .object
        .pieces
        .iter()
        .cloned()
        .map(Into::into)
        .collect();
    Ok(ObjectRow::decode(&entry.object.row)?.into_record(&pieces)?)
}

/// The entry or note that a row names.
fn read_again(facts: &mut Facts, known: &Known) -> Result<JournalEntry> {
    let fact = facts.read(known.blob, known.is_note);
    let fact = fact.context("it is not in the index")??;
    Ok(JournalEntry::decode(&fact.data)?)
}

/// How a key is told to people.
async fn place<S: stores::Store>(
    to: &Namespace<S>,
    bucket: BucketId,
    key: &ObjectKey,
) -> Result<String> {
    let name = to.bucket_name(bucket).await?;
    Ok(match name {
        Some(name) => format!("{name}/{key}"),
        None => format!("{key} in bucket number {}", bucket.0),
    })
}

fn explain(error: RebuildError) -> anyhow::Error {
    match error {
        RebuildError::NotEmpty => anyhow::anyhow!(
            "{error}. If they are lost, empty them first: remove the `metadata` directory, or \
             clear the prefix in FoundationDB. Nothing was done"
        ),
        error => error.into(),
    }
}
