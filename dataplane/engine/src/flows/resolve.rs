//! Which version of a key is current: memory, then metadata, then the UFS when
//! what we know is older than the bucket allows.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, TryStreamExt};
use quickwater_proto::{
    Bucket, BucketId, ETag, Extent, ObjectKey, ObjectRecord, PendingChange, PersistState,
    PolicyMode, PutCondition, UfsErrorKind, UfsIdentity, UfsObject, Version,
};

use crate::decisions::object_cache::Known;
use crate::decisions::read_plan::chunks_of;
use crate::decisions::slots::SlotGuard;
use crate::engine::{Engine, World, ttl_of};
use crate::error::FlowError;
use crate::io::{Disk, Environment, Metadata, Ufs};

/// After a failed check with the UFS the old answer is given for this long
/// before it is asked again.
pub(crate) const RETRY_CHECK_AFTER: Duration = Duration::from_secs(1);

impl<W: World> Engine<W> {
    /// The current version of a key. `revalidate`: compare with the UFS now,
    /// whatever the age of what we know.
    ///
    /// # Errors
    /// [`FlowError::NoSuchKey`], or it cannot be told.
    pub async fn resolve(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        revalidate: bool,
    ) -> Result<Arc<ObjectRecord>, FlowError> {
        let rights = &self.shared().rights;
        let since = rights.since();
        if !revalidate && let Some(answer) = self.recall(bucket, key) {
            self.permit(bucket.id, key.as_str())?;
            if rights.holds_since(since) {
                return answer.ok_or(FlowError::NoSuchKey);
            }
        }
        let guard = self.lock_key(bucket.id, key).await?;
        if !revalidate && let Some(answer) = self.recall(bucket, key) {
            return answer.ok_or(FlowError::NoSuchKey);
        }
        let found = self.check(bucket, key, revalidate, &guard).await?;
        self.permit(bucket.id, key.as_str())?;
        found.ok_or(FlowError::NoSuchKey)
    }

    /// Compares keys with the UFS, many at a time, because another worker saw a listing of
    /// it that differs.
    ///
    /// # Errors
    /// One cannot be told; others may have been compared.
    pub async fn look_again(&self, bucket: &Bucket, keys: &[ObjectKey]) -> Result<(), FlowError> {
        let width = self.config().import_concurrency.max(1);
        stream::iter(keys.iter().map(Ok))
            .try_for_each_concurrent(width, |key| async move {
                match self.resolve(bucket, key, true).await {
                    Ok(_) | Err(FlowError::NoSuchKey) => Ok(()),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// The current version of a key when bucket and key are both known to be
    /// there from memory that is young enough, and the store may be read for it
    /// (not NO_CACHE); no wait, no allocation. `None` says nothing: ask
    /// [`Engine::bucket`] and [`Engine::resolve`].
    #[must_use]
    pub fn recall_object(&self, bucket: &str, key: &str) -> Option<(BucketId, Arc<ObjectRecord>)> {
        let rights = &self.shared().rights;
        let since = rights.since();
        let now = self.environment().monotonic();
        let (id, ttl) = self.known_bucket(bucket, now, |row| (row.id, ttl_of(row)))?;
        let record = self.recall_at(id, key, ttl, now)??;
        self.permit(id, key).ok()?;
        if !rights.holds_since(since) {
            return None;
        }
        let mode = self.shared().policies.policy(bucket, key).mode;
        (mode != PolicyMode::NoCache).then_some((id, record))
    }

    /// What memory knows, when it is young enough.
    fn recall(&self, bucket: &Bucket, key: &ObjectKey) -> Option<Option<Arc<ObjectRecord>>> {
        let now = self.environment().monotonic();
        self.recall_at(bucket.id, key.as_str(), ttl_of(bucket), now)
    }

    fn recall_at(
        &self,
        bucket: BucketId,
        key: &str,
        ttl: Duration,
        now: Duration,
    ) -> Option<Option<Arc<ObjectRecord>>> {
        let known = self.shared().objects.get(bucket, key)?;
        if known.record.as_ref().is_some_and(|r| r.partial) {
            return None;
        }
        let age = now.saturating_sub(known.checked?);
        (age < ttl).then_some(known.record)
    }

    /// Loads the key and compares it with the UFS where that is due.
    pub(crate) async fn check(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        revalidate: bool,
        guard: &SlotGuard<'_>,
    ) -> Result<Option<Arc<ObjectRecord>>, FlowError> {
        let pending = self.shared().persist.pending(bucket.id, key);
        if pending.is_some_and(|p| p.change == PendingChange::Delete) {
            // What the UFS still shows under the key is not there any more.
            self.remember(bucket.id, key, None, guard);
            return Ok(None);
        }
        let known = self.shared().objects.get(bucket.id, key.as_str());
        let record = match &known {
            Some(known) => known.record.clone(),
            None => self.metadata().object(bucket.id, key).await?.map(Arc::new),
        };
        // What the UFS does not hold yet cannot be compared with it.
        if record
            .as_ref()
            .is_some_and(|r| r.persist != PersistState::Persisted)
        {
            self.remember(bucket.id, key, record.clone(), guard);
            return Ok(record);
        }
        match self.ufs().head(bucket, key).await {
            Ok(object) => self.adopt(bucket, key, record, object, guard).await,
            Err(error) if error.kind == UfsErrorKind::NotFound => {
                self.drop_missing(bucket, key, record, guard).await
            }
            Err(error) if error.kind == UfsErrorKind::Unsupported => Ok(None),
            Err(error) => {
                let out_of_reach = is_out_of_reach(error.kind);
                match record {
                    // A cache keeps serving what it has while the UFS is away.
                    Some(record) if out_of_reach && !revalidate && !record.partial => {
                        self.shared()
                            .stats
                            .stale_answers
                            .fetch_add(1, Ordering::Relaxed);
                        self.remember_stale(bucket, key, &record, guard);
                        Ok(Some(record))
                    }
                    _ => Err(FlowError::Unavailable(error.message)),
                }
            }
        }
    }

    fn remember_stale(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        record: &Arc<ObjectRecord>,
        guard: &SlotGuard<'_>,
    ) {
        let now = self.environment().monotonic();
        let checked = (now + RETRY_CHECK_AFTER).checked_sub(ttl_of(bucket));
        let known = Known {
            record: Some(Arc::clone(record)),
            checked,
        };
        self.remember_as(bucket.id, key, known, guard);
    }

    /// Takes over what the UFS shows under the key.
    async fn adopt(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        record: Option<Arc<ObjectRecord>>,
        object: UfsObject,
        guard: &SlotGuard<'_>,
    ) -> Result<Option<Arc<ObjectRecord>>, FlowError> {
        let same = record
            .as_ref()
            .is_some_and(|r| r.ufs.as_ref() == Some(&object.identity));
        if same && let Some(record) = record.as_ref().filter(|r| !r.partial) {
            self.remember(bucket.id, key, Some(Arc::clone(record)), guard);
            return Ok(Some(Arc::clone(record)));
        }
        let mut fresh = self.import(&object);
        let kept = record.as_ref().filter(|old| {
            // Only the headers were missing, or the same bytes were put there again:
            // what is cached stays good.
            same || is_content_of(old, &object.identity, &object.etag)
        });
        match kept {
            Some(old) => {
                fresh.extents.clone_from(&old.extents);
                fresh.tags.clone_from(&old.tags);
                fresh.parts.clone_from(&old.parts);
                if fresh.checksums.is_empty() {
                    fresh.checksums.clone_from(&old.checksums);
                }
            }
            None => {
                self.shared()
                    .stats
                    .external_changes
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        guard.mark_changed();
        let committed = self
            .changes(bucket.id, key)
            .commit_object(bucket.id, key, &fresh, &PutCondition::None)
            .await;
        let committed = committed.inspect_err(|_| self.distrust(bucket.id, key))?;
        fresh.version = committed.version;
        if kept.is_none()
            && let Some(old) = &record
        {
            self.forget_bytes(old);
        }
        let fresh = Arc::new(fresh);
        self.remember(bucket.id, key, Some(Arc::clone(&fresh)), guard);
        Ok(Some(fresh))
    }

    /// A record for an object found in the UFS.
    pub(crate) fn import(&self, object: &UfsObject) -> ObjectRecord {
        let size = object.identity.size;
        let blob = quickwater_proto::BlobId(self.environment().random_u128());
        ObjectRecord {
            version: Version::default(),
            size,
            etag: object.etag.clone(),
            modified_ms: object.identity.modified_ns.div_euclid(1_000_000),
            headers: object.headers.clone(),
            checksums: object.checksums.clone(),
            tags: Vec::new(),
            extents: if size == 0 {
                Vec::new()
            } else {
                vec![Extent { blob, size }]
            },
            parts: Vec::new(),
            ufs: Some(object.identity.clone()),
            persist: PersistState::Persisted,
            partial: false,
        }
    }

    /// The UFS no longer has the key: neither do we.
    pub(crate) async fn drop_missing(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        record: Option<Arc<ObjectRecord>>,
        guard: &SlotGuard<'_>,
    ) -> Result<Option<Arc<ObjectRecord>>, FlowError> {
        if let Some(record) = record {
            self.shared()
                .stats
                .external_changes
                .fetch_add(1, Ordering::Relaxed);
            self.note_deleted(bucket.id, key);
            guard.mark_changed();
            let removed = self
                .changes(bucket.id, key)
                .remove_object(bucket.id, key, &PutCondition::None)
                .await;
            removed.inspect_err(|_| self.distrust(bucket.id, key))?;
            self.forget_bytes(&record);
        }
        self.remember(bucket.id, key, None, guard);
        Ok(None)
    }

    /// Frees the chunks of a version that is not current any more: a little
    /// later, so that those who are reading it can finish.
    pub(crate) fn forget_bytes(&self, record: &ObjectRecord) {
        self.shared().transient.remove(record);
        if record.persist != PersistState::Persisted {
            // Only this store has them, and nobody needs that any more.
            for extent in &record.extents {
                self.disk().release(extent.blob, chunks_of(extent.size));
                self.shared().holders.end(extent.blob);
            }
        }
        let now = self.environment().monotonic();
        let spread = self.is_spread(record);
        let due = self.shared().retired.retire(&record.extents, spread, now);
        for gone in &due {
            let extent = &gone.extent;
            self.disk().forget(extent.blob, chunks_of(extent.size));
        }
        let spread = due.into_iter().filter(|gone| gone.spread);
        let stripes = &self.shared().stripes;
        stripes.note_ended(spread.map(|gone| gone.extent));
    }
}

/// Whether the UFS could not be asked: what was true at the last look is served.
pub(crate) fn is_out_of_reach(kind: UfsErrorKind) -> bool {
    matches!(
        kind,
        UfsErrorKind::Unavailable | UfsErrorKind::Timeout | UfsErrorKind::Throttled
    )
}

/// Whether what the UFS shows is the content of a record, put there anew: by a
/// request of ours that was applied late, or twice.
pub(crate) fn is_content_of(record: &ObjectRecord, identity: &UfsIdentity, etag: &ETag) -> bool {
    !record.partial && record.size == identity.size && record.etag == *etag
}
