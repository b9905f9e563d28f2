//! Pending changes are queued, and the bytes kept that they need.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use quickwater_engine::{Copied, Shared, note_blob};
use quickwater_proto::{
    BlobId, Bucket, BucketId, CopyOf, Holders, NodeId, ObjectKey, ObjectRecord, PendingChange,
    PendingRecord, PersistState, Version, slot_of,
};
use quickwater_worker::store::{Fate, Store};

use super::{ROWS, others_of, unix_ms};
use crate::serve::names::Rows;

/// Puts pending changes into the queue.
pub(super) struct Queue<'a, R> {
    pub(super) rows: &'a R,
    /// Where the bytes of a put must be for it to be queued, if others may have them.
    pub(super) store: Option<&'a Store>,
    /// This worker, if there are others.
    pub(super) node: Option<&'a NodeId>,
    pub(super) shared: &'a Shared,
    pub(super) fence: Duration,
    /// By the shards' clock.
    pub(super) now: Duration,
    /// The keys were another worker's, which may run on and have sent something.
    pub(super) taken: bool,
}

impl<R: Rows> Queue<'_, R> {
    /// Queues every pending change of `mine` and keeps the bytes of those that are puts.
    pub(super) async fn load(
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
        // What no entry here tells a rebuild of the metadata, its note does. A process that
        // has all slots searches for these later.
        if self.store.is_some()
            && !noted
            && !matches!(pending.change, PendingChange::Settling { .. })
        {
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
