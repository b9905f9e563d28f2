//! What a start does before the first request: commits that only the journal has
//! are made again, pinned data that nobody needs is let go, and what the UFS has
//! still to be told is queued.
//!
//! May be killed at any point: every step can be done again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::namespace::{Namespace, Replayed};
use quickwater_controlplane::records::JournalEntry;
use quickwater_engine::{Copied, Shared, note_blob};
use quickwater_proto::{
    BlobId, Bucket, BucketId, CopyAt, CopyOf, Holders, MetadataError, NodeId, ObjectKey,
    ObjectRecord, PartOf, PartRecord, PendingChange, PendingRecord, PersistState, UploadId,
    UploadRecord, Version, slot_of,
};
use quickwater_worker::store::{FactError, Fate, JournalError, Store};
use tokio::task::{JoinError, JoinSet};

use super::names::{Names, Rows};
use super::set_aside::set_aside;

use crate::store::MetadataStore;

/// Rows read from the metadata at a time.
const ROWS: usize = 1_000;
/// Entries of the journal that the metadata are asked about at a time.
const ASKED_MAX: usize = 256;
/// How often it is noted how far the journal is settled.
const NOTE_PERIOD: Duration = Duration::from_secs(1);

/// What a start found.
#[derive(Debug, Default)]
struct Found {
    replayed: u64,
    known: u64,
    torn: u64,
    damaged: u64,
}

/// Brings metadata, store and queue together. `fence`: how long a request that
/// the last process sent may still be applied by a UFS that outlives us. `mine`: the
/// slots whose keys are ours to see to. `aside`: where to write what no row names, before
/// it is let go.
///
/// # Errors
/// The metadata or the store cannot be read, or nothing be set aside; nothing was lost by
/// it.
pub(super) async fn recover<M: Names>(
    metadata: &M,
    store: &Store,
    shared: &Arc<Shared>,
    fence: Duration,
    (node, mine): (Option<&NodeId>, &(dyn Fn(usize) -> bool + Sync)),
    aside: Option<&Path>,
) -> Result<()> {
    let rows = metadata.rows();
    let mut fates = HashMap::new();
    if metadata.here().is_none() {
        shared.notes.follow();
    }
    let last = match metadata.here() {
        Some(namespace) => {
            claim(namespace, store).await?;
            replay(namespace, store, &mut fates).await?
        }
        None => judge(rows, store, (shared, mine), &mut fates).await?,
    };
    shared.journal.resume(last);
    let buckets = rows.buckets().await?;
    let queue = Queue {
        rows,
        store: metadata.here().is_none().then_some(store),
        node,
        shared,
        fence,
        now: Duration::ZERO,
        taken: false,
    };
    // Before what is pending is read: Complete moves a part from its own row to that of its
    // key, in one transaction.
    let parts = UploadParts {
        rows,
        store,
        node,
        shared,
        now: Duration::ZERO,
    };
    parts.keep(&buckets, &mut fates).await?;
    parts.take(&buckets, mine).await?;
    let pending = queue.load(&buckets, mine, &mut fates).await?;
    let opened = load_opened(rows, shared, mine).await?;
    // What the metadata says may be in memory only, if no power cut ended the last
    // process; bytes of what is persisted must not go before that is on disk.
    rows.flush().await?;
    if let Some(dir) = aside {
        let aside = set_aside(store, &fates, &buckets, dir)?;
        if aside.files > 0 {
            tracing::warn!(
                dir = %dir.display(),
                files = aside.files,
                bytes = aside.bytes,
                damaged = aside.damaged,
                "the metadata are older than what is here: what they do not name was set aside"
            );
        }
    }
    // What has neither entry nor row is a part: of an object that its UFS has, and
    // then worth keeping, or of nothing, and then the first to be evicted.
    let reconciled = store.reconcile(|blob| fates.get(&blob).copied().unwrap_or(Fate::Release));
    // From here on the store can tell what has ended, should the metadata be lost.
    store.note_settled(last);
    store.trust_marks();
    tracing::info!(
        pending,
        opened,
        kept = reconciled.kept,
        released = reconciled.released,
        forgotten = reconciled.forgotten,
        "data that is not in its UFS was looked through"
    );
    Ok(())
}

/// Queues what the UFSs have still to be told of keys that became ours, and takes in what
/// was opened there for them.
///
/// # Errors
/// The metadata cannot be read: nothing must be answered for these keys yet.
pub(super) async fn take_in<R: Rows>(
    rows: &R,
    store: &Store,
    shared: &Shared,
    (fence, now): (Duration, Duration),
    (node, mine): (&NodeId, &(dyn Fn(usize) -> bool + Sync)),
) -> Result<u64> {
    let buckets = rows.buckets().await?;
    let queue = Queue {
        rows,
        store: Some(store),
        node: Some(node),
        shared,
        fence,
        now,
        taken: true,
    };
    // Before anything is judged by them: what memory has of these keys is of an earlier time.
    let of = |bucket, key: &ObjectKey| mine(slot_of(bucket, key));
    shared.opened.forget(of);
    load_opened(rows, shared, mine).await?;
    let parts = UploadParts {
        rows,
        store,
        node: Some(node),
        shared,
        now,
    };
    parts.take(&buckets, mine).await?;
    queue.load(&buckets, mine, &mut HashMap::new()).await
}

/// What becomes of blobs that have an entry, by the metadata of a cluster: an entry
/// whose commit was acked is in them, and no other is committed any more. The largest
/// sequence seen.
///
/// What is of keys that are not ours is kept for their owners.
async fn judge(
    rows: &impl Rows,
    store: &Store,
    (shared, mine): (&Shared, &(dyn Fn(usize) -> bool + Sync)),
    fates: &mut HashMap<BlobId, Fate>,
) -> Result<u64> {
    let mut last = 0;
    let mut asked = JoinSet::new();
    for entry in store.journal().context("no memory to read the journal")? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error @ JournalError::Damaged { .. }) => {
                tracing::error!(%error, "a commit that was flushed cannot be read");
                continue;
            }
            Err(error) => bail!("the journal cannot be read: {error}"),
        };
        fates.insert(entry.blob, Fate::Forget);
        if entry.data.is_empty() {
            continue;
        }
        let commit = JournalEntry::decode(&entry.data)
            .with_context(|| format!("the journal entry of blob {}", entry.blob))?;
        last = last.max(commit.sequence);
        if asked.len() >= ASKED_MAX {
            take_fate(asked.join_next().await, shared, fates)?;
        }
        let (rows, blob) = (rows.clone(), entry.blob);
        let foreign = !mine(slot_of(commit.bucket, &commit.key));
        asked.spawn(async move {
            let fate = fate_of(&rows, commit.bucket, &commit.key, blob).await?;
            let copy = CopyOf {
                bucket: commit.bucket,
                key: commit.key,
                blob,
                part: None,
                // Its session names ours, which has ended: it commits nothing any more.
                owner: None,
            };
            let copy = foreign.then_some((copy, commit.object.size));
            Ok::<_, anyhow::Error>((blob, fate, copy))
        });
    }
    while !asked.is_empty() {
        take_fate(asked.join_next().await, shared, fates)?;
    }
    Ok(last)
}

/// A blob, what becomes of it, and, if the key is another worker's, what it is a copy of.
type Judged = (BlobId, Fate, Option<(CopyOf, u64)>);

fn take_fate(
    asked: Option<Result<Result<Judged>, JoinError>>,
    shared: &Shared,
    fates: &mut HashMap<BlobId, Fate>,
) -> Result<()> {
    if let Some(answer) = asked {
        let (blob, fate, copy) = answer??;
        fates.insert(blob, fate);
        if let (Fate::Keep, Some((copy, bytes))) = (fate, copy) {
            shared.kept.keep(copy, bytes, true, Duration::ZERO);
        }
    }
    Ok(())
}

/// Notes how far the journal is settled, for ever.
pub(super) async fn note_settled(
    namespace: Namespace<MetadataStore>,
    store: Store,
    shared: Arc<Shared>,
) {
    let mut noted = 0;
    loop {
        tokio::time::sleep(NOTE_PERIOD).await;
        let through = shared.journal.through();
        if through == noted {
            continue;
        }
        store.note_settled(through);
        match namespace.set_journal_through(through).await {
            Ok(()) => noted = through,
            Err(error) => tracing::warn!(%error, "how far the journal is settled cannot be noted"),
        }
    }
}

/// The same in a cluster, whose metadata ask for no journal.
pub(super) async fn note_settled_here(store: Store, shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(NOTE_PERIOD).await;
        store.note_settled(shared.journal.through());
    }
}

/// Refuses a journal that was written with other metadata: its buckets go by
/// numbers, which the metadata gives, and what of it the UFS has, was replaced or
/// deleted since, only that metadata knew. Replayed, it would bring all of it back.
async fn claim(namespace: &Namespace<MetadataStore>, store: &Store) -> Result<()> {
    let known = namespace.journal_of().await?;
    if known.as_deref() == Some(store.identity().as_slice()) {
        return Ok(());
    }
    // Nobody noted whose it is before this version did.
    let unsaid = known.is_none() && namespace.journal_through().await? > 0;
    let acked = match unsaid {
        true => 0,
        false => count_acked(store)?,
    };
    if acked > 0 {
        bail!(
            "the metadata is not the one that the cache store was written with, and the store \
             holds {acked} writes that were acked before their UFS had them. Put the old \
             `metadata` directory back. If it is lost, empty the metadata and run `quickwater \
             metadata rebuild`, which finds out which of them the UFS has not. Without a \
             rebuild, move the `store` directory away: what the UFS has is then served from \
             there, what it has not is lost"
        );
    }
    namespace.set_journal_of(&store.identity()).await?;
    Ok(())
}

/// Entries of the journal that stand for an object, and notes that have not ended.
fn count_acked(store: &Store) -> Result<u64> {
    let mut count = 0;
    for fact in store.facts().context("no memory to read the journal")? {
        match fact {
            Ok(fact) if fact.is_note => count += u64::from(!fact.has_ended),
            Ok(fact) => count += u64::from(!fact.data.is_empty()),
            Err(FactError { cause: None, .. }) => count += 1,
            Err(error) => bail!("the journal cannot be read: {error}"),
        }
    }
    Ok(count)
}

/// Makes commits again that a power cut took from the metadata, in their order;
/// the largest sequence seen. `fates` learns of every blob that has an entry.
async fn replay(
    namespace: &Namespace<MetadataStore>,
    store: &Store,
    fates: &mut HashMap<BlobId, Fate>,
) -> Result<u64> {
    let through = namespace.journal_through().await?;
    let mut found = Found::default();
    let mut last = through;
    let mut later = Vec::new();
    let mut settled = Vec::new();
    for entry in store.journal().context("no memory to read the journal")? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error @ JournalError::Damaged { .. }) => {
                tracing::error!(%error, "a commit that was flushed cannot be read");
                found.damaged += 1;
                continue;
            }
            Err(error) => bail!("the journal cannot be read: {error}"),
        };
        // Says that its commit must never be made.
        if entry.data.is_empty() {
            fates.insert(entry.blob, Fate::Forget);
            continue;
        }
        let commit = JournalEntry::decode(&entry.data)
            .with_context(|| format!("the journal entry of blob {}", entry.blob))?;
        last = last.max(commit.sequence);
        if commit.sequence > through {
            later.push((commit.sequence, entry));
        } else {
            found.known += 1;
            settled.push((commit.bucket, commit.key, entry.blob));
        }
    }
    later.sort_unstable_by_key(|(sequence, _)| *sequence);
    for (_, entry) in later {
        let commit = JournalEntry::decode(&entry.data)?;
        if store.holds(entry.blob, commit.object.size) {
            match namespace.replay(&entry.data).await? {
                Replayed::Committed(_) => found.replayed += 1,
                Replayed::Known => found.known += 1,
                Replayed::BucketGone => {}
            }
            settled.push((commit.bucket, commit.key, entry.blob));
        } else {
            // Never acked: the flush that would have covered both did not end.
            found.torn += 1;
        }
    }
    // Not before: a later entry may have replaced what an earlier one made.
    for (bucket, key, blob) in settled {
        fates.insert(blob, fate_of(namespace, bucket, &key, blob).await?);
    }
    if found.replayed + found.torn + found.damaged > 0 {
        let Found {
            replayed,
            known,
            torn,
            damaged,
        } = found;
        tracing::info!(replayed, known, torn, damaged, "the journal was replayed");
    }
    Ok(last)
}

/// What becomes of a blob that was written for a key.
async fn fate_of(
    rows: &impl Rows,
    bucket: BucketId,
    key: &ObjectKey,
    blob: BlobId,
) -> Result<Fate> {
    let record = rows.object(bucket, key).await?;
    let current = record.filter(|record| record.extents.iter().any(|e| e.blob == blob));
    Ok(match current {
        None => Fate::Forget,
        Some(record) if record.persist == PersistState::Persisted => Fate::Release,
        Some(_) => Fate::Keep,
    })
}

/// Puts pending changes into the queue.
struct Queue<'a, R> {
    rows: &'a R,
    /// Where the bytes of a put must be for it to be queued, if others may have them.
    store: Option<&'a Store>,
    /// This worker, if there are others.
    node: Option<&'a NodeId>,
    shared: &'a Shared,
    fence: Duration,
    /// By the shards' clock.
    now: Duration,
    /// The keys were another worker's, which may run on and have sent something.
    taken: bool,
}

impl<R: Rows> Queue<'_, R> {
    /// Queues every pending change of `mine` and keeps the bytes of those that are puts.
    async fn load(
        &self,
        buckets: &[Bucket],
        mine: &(dyn Fn(usize) -> bool + Sync),
        fates: &mut HashMap<BlobId, Fate>,
    ) -> Result<u64> {
        let mut count = 0;
        let mut after: Option<(BucketId, ObjectKey)> = None;
        loop {
            let from = after.as_ref().map(|(bucket, key)| (*bucket, key));
            let page = self.rows.pending_changes(from, ROWS).await?;
            after = page.entries.last().map(|(b, key, _)| (*b, key.clone()));
            let holders = page.holders.into_iter().zip(page.copies);
            for ((id, key, pending), (nodes, copies)) in page.entries.into_iter().zip(holders) {
                let holders = Holders { nodes, copies };
                // The rows of a bucket that was removed are swept some time later.
                let Some(bucket) = buckets.iter().find(|bucket| bucket.id == id) else {
                    continue;
                };
                if mine(slot_of(id, &key)) {
                    let taken = self.take(bucket, key, (pending, holders), fates);
                    count += u64::from(taken.await?);
                } else if !self.taken {
                    self.keep_for_others(bucket.id, key, &holders.nodes, fates)
                        .await?;
                }
            }
            if !page.more || after.is_none() {
                return Ok(count);
            }
        }
    }

    /// Keeps the bytes of a key that another worker owns, if its row says that we have them:
    /// parts that were completed have no entry of their own.
    async fn keep_for_others(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        holders: &[NodeId],
        fates: &mut HashMap<BlobId, Fate>,
    ) -> Result<()> {
        let (Some(node), Some(store)) = (self.node, self.store) else {
            return Ok(());
        };
        if !holders.contains(node) {
            return Ok(());
        }
        let Some(record) = self.rows.object(bucket, &key).await? else {
            return Ok(());
        };
        for extent in &record.extents {
            if record.persist == PersistState::Persisted || !store.holds(extent.blob, extent.size) {
                continue;
            }
            fates.insert(extent.blob, Fate::Keep);
            let copy = CopyOf {
                bucket,
                key: key.clone(),
                blob: extent.blob,
                part: None,
                owner: None,
            };
            self.shared.kept.keep(copy, extent.size, true, self.now);
        }
        Ok(())
    }

    /// Whether it is ours to see to.
    async fn take(
        &self,
        bucket: &Bucket,
        key: ObjectKey,
        (pending, holders): (PendingRecord, Holders),
        fates: &mut HashMap<BlobId, Fate>,
    ) -> Result<bool> {
        let now = (self.now, unix_ms());
        let mut noted = false;
        if let PendingChange::Put { .. } | PendingChange::Hold { .. } = pending.change
            && let Some(record) = self.rows.object(bucket.id, &key).await?
        {
            let mut extents = record.extents.iter();
            noted = match (self.store, &*record.extents) {
                (Some(store), [one]) => store.has_entry(one.blob),
                _ => false,
            };
            self.note_holders(bucket.id, &key, &record, &holders);
            // Who is there and has it gives it.
            let other = |me| holders.nodes.iter().any(|node| node != me);
            let elsewhere = self.node.is_some_and(other);
            if !elsewhere
                && self
                    .store
                    .is_some_and(|store| !extents.all(|e| store.holds(e.blob, e.size)))
            {
                // Of what no UFS is to get nothing was sent, nor of what it replaced.
                let held = matches!(pending.change, PendingChange::Hold { .. });
                self.shared.notes.look_at(bucket.id, &key);
                if !held || pending.superseded {
                    self.keep_off(bucket, key, now);
                }
                return Ok(false);
            }
            fates.extend(record.extents.iter().map(|e| (e.blob, Fate::Keep)));
            let slot = slot_of(bucket.id, &key);
            self.shared.transient.add(&record, slot);
            if record.persist != PersistState::Persisted {
                for extent in &record.extents {
                    self.shared.anchor(extent.blob, slot);
                }
            }
        }
        let note = note_blob(bucket.id, &key);
        fates.insert(note, Fate::Keep);
        if self.store.is_some_and(|store| store.has_note(note)) {
            self.shared.notes.written(bucket.id, &key);
        }
        // What no entry here tells a rebuild of the metadata, its note does.
        if !noted && !matches!(pending.change, PendingChange::Settling { .. }) {
            self.shared.notes.look_at(bucket.id, &key);
        }
        // A request to a file system ended with the process that made it.
        let outlived = self.taken || !bucket.ufs.starts_with("file:");
        let late_max = outlived.then_some(self.fence);
        let pending = fence_request(self.rows, bucket.id, &key, pending, late_max).await?;
        let persist = &self.shared.persist;
        persist.load(bucket.id, key, pending, now, late_max);
        Ok(true)
    }

    /// Notes who else has the bytes of a key that is ours from now on.
    fn note_holders(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        holders: &Holders,
    ) {
        let Some(node) = self.node else { return };
        let others = others_of(node, holders);
        let named = holders.nodes.contains(node);
        for extent in &record.extents {
            self.shared.kept.own(extent.blob);
            let copied = Copied {
                bucket,
                key: key.clone(),
                part: None,
                bytes: extent.size,
                copies: holders.copies,
                others: Arc::clone(&others),
            };
            self.shared.holders.note_row(extent.blob, copied, named);
        }
    }

    /// Of a key whose bytes nobody has, nor a UFS, nothing is sent before what may be
    /// under way is certainly dead. Its row stays.
    fn keep_off(&self, bucket: &Bucket, key: ObjectKey, now: (Duration, i64)) {
        tracing::warn!(bucket = %bucket.name, key = key.as_str(), "its bytes are in no UFS, and not here");
        let fence_ms = i64::try_from(self.fence.as_millis()).unwrap_or(i64::MAX);
        let until_ms = now.1.saturating_add(fence_ms);
        let foreign = PendingRecord {
            // Of no commit: what ends it ends no row.
            version: Version::default(),
            change: PendingChange::Settling { until_ms },
            since_ms: now.1,
            superseded: true,
        };
        let persist = &self.shared.persist;
        persist.load(bucket.id, key, foreign, now, Some(self.fence));
    }
}

/// The holders but for this worker. A row does not say in which session: they are asked.
fn others_of(node: &NodeId, holders: &Holders) -> Arc<[CopyAt]> {
    let others = holders.nodes.iter().filter(|holder| *holder != node);
    let others = others.map(|node| CopyAt {
        node: node.clone(),
        session: 0,
    });
    others.collect()
}

/// Of a request that was under way when the last process ended it is known from
/// now on how long it may be applied: whatever is committed, its row stays till then.
async fn fence_request(
    rows: &impl Rows,
    bucket: BucketId,
    key: &ObjectKey,
    pending: PendingRecord,
    late_max: Option<Duration>,
) -> Result<PendingRecord> {
    let Some(late_max) = late_max.filter(|_| pending.change == PendingChange::UNDER_WAY) else {
        return Ok(pending);
    };
    let left_ms = i64::try_from(late_max.as_millis()).unwrap_or(i64::MAX);
    let until_ms = unix_ms().saturating_add(left_ms);
    let version = pending.version;
    rows.end_pending(bucket, key, version, None, Some(until_ms))
        .await?;
    let change = PendingChange::Settling { until_ms };
    Ok(PendingRecord { change, ..pending })
}

/// Takes in what the last process, or the last owner, had opened in UFSs.
async fn load_opened(
    rows: &impl Rows,
    shared: &Shared,
    mine: &(dyn Fn(usize) -> bool + Sync),
) -> Result<u64> {
    let mut count = 0;
    let mut after: Option<(BucketId, ObjectKey, UploadId)> = None;
    loop {
        let from = after.as_ref().map(|(bucket, key, id)| (*bucket, key, *id));
        let page = rows.opened(from, ROWS).await?;
        after = page.last().map(|(b, o)| (*b, o.key.clone(), o.id));
        let whole = page.len() < ROWS;
        for (bucket, opened) in page {
            if !mine(slot_of(bucket, &opened.key)) {
                continue;
            }
            count += 1;
            shared.opened.load(bucket, opened);
        }
        if whole {
            return Ok(count);
        }
    }
}

/// A part of an upload of a bucket, and who has its bytes.
type Part<'a> = (&'a Bucket, &'a UploadRecord, PartRecord, Holders);

/// Sees to the parts of uploads that are not complete.
struct UploadParts<'a, R> {
    rows: &'a R,
    store: &'a Store,
    /// This worker, if there are others.
    node: Option<&'a NodeId>,
    shared: &'a Shared,
    /// By the shards' clock.
    now: Duration,
}

impl<R: Rows> UploadParts<'_, R> {
    /// Keeps the parts that are here; those held of uploads that their UFS knows are sent
    /// there.
    async fn keep(&self, buckets: &[Bucket], fates: &mut HashMap<BlobId, Fate>) -> Result<()> {
        let seen = |(bucket, upload, part, holders): Part<'_>| {
            let here = self.store.holds(part.blob, part.size);
            match holders.nodes.is_empty() {
                true => {
                    fates.insert(part.blob, fate_of_part(upload, &part));
                    if here {
                        let slot = slot_of(bucket.id, &upload.key);
                        self.shared.anchor(part.blob, slot);
                    }
                }
                // Whom its row does not name has a copy that nobody counts on.
                false if here && self.node.is_some_and(|node| holders.nodes.contains(node)) => {
                    fates.insert(part.blob, Fate::Keep);
                    let (copy, bytes) = (copy_of(bucket, upload, &part), part.size);
                    self.shared.kept.keep(copy, bytes, true, self.now);
                }
                false => {}
            }
            if part.held && !upload.is_held() {
                self.shared.load_handed_over(bucket.id, upload);
            }
        };
        self.for_each(buckets, &|_| true, seen).await
    }

    /// Notes who else has the parts of uploads whose keys are ours from now on: they are copied
    /// again when one of those is lost.
    async fn take(&self, buckets: &[Bucket], mine: &(dyn Fn(usize) -> bool + Sync)) -> Result<()> {
        let Some(node) = self.node else {
            return Ok(());
        };
        let seen = |(bucket, upload, part, holders): Part<'_>| {
            if holders.nodes.is_empty() {
                return;
            }
            self.shared.kept.own(part.blob);
            if self.store.holds(part.blob, part.size) {
                let slot = slot_of(bucket.id, &upload.key);
                self.shared.anchor(part.blob, slot);
            }
            let CopyOf {
                bucket,
                key,
                part: of,
                ..
            } = copy_of(bucket, upload, &part);
            let copied = Copied {
                bucket,
                key,
                part: of,
                bytes: part.size,
                copies: holders.copies,
                others: others_of(node, &holders),
            };
            let named = holders.nodes.contains(node);
            self.shared.holders.note_row(part.blob, copied, named);
        };
        self.for_each(buckets, mine, seen).await
    }

    async fn for_each(
        &self,
        buckets: &[Bucket],
        mine: &(dyn Fn(usize) -> bool + Sync),
        mut seen: impl FnMut(Part<'_>),
    ) -> Result<()> {
        for bucket in buckets {
            let mut after: Option<(ObjectKey, UploadId)> = None;
            loop {
                let from = after.as_ref().map(|(key, id)| (key.as_str(), Some(*id)));
                let uploads = self.rows.uploads(bucket.id, "", from, ROWS).await?;
                after = uploads.last().map(|u| (u.key.clone(), u.id));
                let whole = uploads.len() < ROWS;
                for upload in uploads.iter().filter(|u| mine(slot_of(bucket.id, &u.key))) {
                    self.of_upload(bucket, upload, &mut seen).await?;
                }
                if whole {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn of_upload(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        seen: &mut impl FnMut(Part<'_>),
    ) -> Result<()> {
        let mut number = 0;
        loop {
            let (key, id) = (&upload.key, upload.id);
            let rows = self.rows.parts_held(bucket.id, key, id, number, ROWS);
            let parts = match rows.await {
                Ok(parts) => parts,
                // Another worker ended it meanwhile.
                Err(MetadataError::NoSuchUpload) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let more = parts.len() == ROWS;
            for (part, holders) in parts {
                number = part.number;
                seen((bucket, upload, part, holders));
            }
            if !more {
                return Ok(());
            }
        }
    }
}

/// A part as its owner has others keep it. Nothing of an earlier session is committed.
fn copy_of(bucket: &Bucket, upload: &UploadRecord, part: &PartRecord) -> CopyOf {
    CopyOf {
        bucket: bucket.id,
        key: upload.key.clone(),
        blob: part.blob,
        part: Some(PartOf {
            upload: upload.id,
            number: part.number,
        }),
        owner: None,
    }
}

/// The UFS has the parts of an upload it knows, but for those held when it was told.
fn fate_of_part(upload: &UploadRecord, part: &PartRecord) -> Fate {
    match upload.is_held() || part.held {
        true => Fate::Keep,
        false => Fate::Release,
    }
}

fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
