//! The steps that the rebuild of one store and that of a cluster share: the store they
//! make the metadata in, the newest change of each key, transactions of many changes, and
//! how problems are told.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quickwater_controlplane::dump::{self, DumpError};
use quickwater_controlplane::namespace::{Change, Namespace, RebuildError};
use quickwater_controlplane::records::JournalEntry;
use quickwater_controlplane::store::{self, EngineKind, EngineOptions, Store};
use quickwater_proto::{BucketId, NodeId, ObjectKey, ObjectRecord};
use tokio::runtime::Runtime;

use super::super::budget::Budget;
use super::super::control;
use super::Rebuilt;
use crate::home::Home;
use crate::settings::Settings;

/// Changes entered in one transaction, and rows read at a time.
const BATCH_CHANGES: usize = 500;
/// Bytes of entries restored in one transaction, last one apart.
const BATCH_BYTES: usize = 400_000;
/// Most problems told by name; all are counted.
const NAMED_MAX: u64 = 10_000;
/// Time between two words about how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// A rebuild that has learned what there is.
pub(super) trait Rebuild {
    /// What orders the newest change: the new metadata begin after it.
    fn after(&self) -> u64;

    /// Makes the metadata.
    ///
    /// # Errors
    /// Making them again goes on with it.
    async fn make<S: Store>(&mut self, to: &Namespace<S>) -> Result<()>;
}

/// Where metadata are made.
pub(super) struct Place<'a> {
    pub(super) home: &'a Home,
    pub(super) settings: &'a Settings,
    pub(super) budget: Budget,
    pub(super) runtime: &'a Runtime,
}

impl Place<'_> {
    /// Makes the metadata of this home.
    pub(super) fn make(&self, rebuild: &mut impl Rebuild) -> Result<()> {
        let (settings, budget, least) = (self.settings, self.budget, rebuild.after() + 1);
        let metadata = control::open_store(self.runtime, self.home, settings, budget, least)?;
        let namespace = Namespace::new(metadata.clone());
        let outcome = self.runtime.block_on(rebuild.make(&namespace));
        self.runtime.block_on(metadata.release());
        outcome
    }

    /// Makes metadata that are thrown away.
    pub(super) fn try_out(&self, rebuild: &mut impl Rebuild) -> Result<()> {
        let scratch = self.home.dir().join("rebuild-dry-run");
        remove(&scratch)?;
        let outcome = self.make_at(&scratch, rebuild);
        remove(&scratch)?;
        outcome
    }

    fn make_at(&self, scratch: &Path, rebuild: &mut impl Rebuild) -> Result<()> {
        let (options, least) = (EngineOptions::default(), rebuild.after() + 1);
        let store = store::open_at_least(EngineKind::Fjall, scratch, &options, least)
            .context("cannot make a store to try it out in")?;
        let namespace = Namespace::new(store);
        self.runtime.block_on(rebuild.make(&namespace))
    }
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Begins, or goes on with a rebuild that was cut; which. `names`: of the buckets. `of`: what it
/// goes by.
pub(super) async fn begin<S: Store>(
    to: &Namespace<S>,
    names: &mut dyn Read,
    of: &str,
    after: u64,
) -> Result<bool> {
    let resumed = to.begin_rebuild(Some(names), of).await.map_err(explain)?;
    let has = dump::version(to.store()).await?;
    if has <= after {
        let needs = after;
        return Err(DumpError::Behind { has, needs }.into());
    }
    Ok(resumed)
}

/// Enters changes into the metadata, which keep the newest of each key.
pub(super) struct Entering<'a, S> {
    to: &'a Namespace<S>,
    batch: Vec<Change>,
}

impl<'a, S: Store> Entering<'a, S> {
    pub(super) fn new(to: &'a Namespace<S>) -> Self {
        Self {
            to,
            batch: Vec::with_capacity(BATCH_CHANGES),
        }
    }

    pub(super) async fn enter(&mut self, change: Change) -> Result<()> {
        self.batch.push(change);
        if self.batch.len() == BATCH_CHANGES {
            self.to.enter_known(&self.batch).await?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Enters the last ones.
    pub(super) async fn end(self) -> Result<()> {
        Ok(self.to.enter_known(&self.batch).await?)
    }
}

/// The newest change of each key, of those that have not ended, in order of the keys.
pub(super) struct Newest<'a, S> {
    to: &'a Namespace<S>,
    page: std::vec::IntoIter<Change>,
    after: Option<(BucketId, ObjectKey)>,
    count: u64,
}

impl<'a, S: Store> Newest<'a, S> {
    pub(super) fn new(to: &'a Namespace<S>) -> Self {
        Self {
            to,
            page: Vec::new().into_iter(),
            after: None,
            count: 0,
        }
    }

    pub(super) async fn next(&mut self, telling: &mut Telling<'_>) -> Result<Option<Change>> {
        loop {
            for change in self.page.by_ref() {
                self.count += 1;
                telling.show_progress("restoring: keys looked at", self.count);
                if !change.2.has_ended {
                    return Ok(Some(change));
                }
            }
            let from = self.after.as_ref().map(|(bucket, key)| (*bucket, key));
            let page = self.to.known_changes(from, BATCH_CHANGES).await?;
            let Some((bucket, key, _)) = page.last() else {
                return Ok(None);
            };
            self.after = Some((*bucket, key.clone()));
            self.page = page.into_iter();
        }
    }
}

/// Makes changes current, each with the workers that have its bytes.
pub(super) struct Restoring<'a, S> {
    to: &'a Namespace<S>,
    batch: Vec<(JournalEntry, Vec<NodeId>)>,
    bytes: usize,
}

impl<'a, S: Store> Restoring<'a, S> {
    pub(super) fn new(to: &'a Namespace<S>) -> Self {
        Self {
            to,
            batch: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) async fn restore(&mut self, entry: JournalEntry, on: Vec<NodeId>) -> Result<()> {
        self.bytes += entry.object.row.len();
        self.bytes += entry.object.pieces.iter().map(Vec::len).sum::<usize>();
        self.batch.push((entry, on));
        if self.bytes >= BATCH_BYTES || self.batch.len() == BATCH_CHANGES {
            self.to.restore_held(&self.batch).await?;
            self.batch.clear();
            self.bytes = 0;
        }
        Ok(())
    }

    /// Restores the last ones.
    pub(super) async fn end(self) -> Result<()> {
        self.to.restore_held(&self.batch).await?;
        Ok(())
    }
}

/// What is told while it goes on.
pub(super) struct Telling<'a> {
    named: u64,
    told: &'a mut dyn FnMut(&str) -> Result<()>,
    progress: Instant,
}

impl<'a> Telling<'a> {
    pub(super) fn new(told: &'a mut dyn FnMut(&str) -> Result<()>) -> Self {
        Self {
            named: 0,
            told,
            progress: Instant::now(),
        }
    }

    pub(super) fn tell(&mut self, text: &str) -> Result<()> {
        self.named += 1;
        match self.named {
            named if named < NAMED_MAX => (self.told)(text),
            NAMED_MAX => (self.told)("and more, which are counted only"),
            _ => Ok(()),
        }
    }

    pub(super) fn show_progress(&mut self, doing: &str, count: u64) {
        if self.progress.elapsed() >= PROGRESS_PERIOD {
            self.progress = Instant::now();
            tracing::info!(count, "{doing}");
        }
    }
}

/// Whether the bucket of a change is there; tells of one that should be.
pub(super) async fn has_bucket<S: Store>(
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

/// Leaves out a change whose bytes were not all there when it was cut.
pub(super) async fn leave_out_torn<S: Store>(
    to: &Namespace<S>,
    entry: &JournalEntry,
    (found, telling): (&mut Rebuilt, &mut Telling<'_>),
) -> Result<()> {
    found.torn += 1;
    telling.tell(&format!(
        "{} of {} bytes: cut by a crash before its ack, left out",
        place(to, entry.bucket, &entry.key).await?,
        entry.object.size
    ))
}

/// The object of an entry.
pub(super) fn record_of(entry: &JournalEntry) -> Result<ObjectRecord> {
    Ok(entry.record()?)
}

/// How a key is told to people.
pub(super) async fn place<S: Store>(
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
