//! The engine of one shard: its outside world, and what it asks of the state all shards share.

use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_lock::{RwLockReadGuard, RwLockWriteGuard};
use futures_util::future::{Either, select};
use quickwater_proto::{
    Bucket, BucketId, BucketName, ObjectKey, ObjectRecord, PathPolicy, PolicyMode, UploadId,
    Version,
};

use crate::decisions::object_cache::Known;
use crate::decisions::slots::{SlotGuard, Slots};
use crate::error::FlowError;
use crate::io::{Disk, Environment, Metadata, Peers, StripePeers, Ufs};
use crate::shared::{EngineConfig, Shared};

/// The outside world of a shard, one type for each outside thing.
pub trait World: 'static {
    /// The local store.
    type Disk: Disk;
    /// The under file systems.
    type Ufs: Ufs;
    /// The metadata.
    type Metadata: Metadata + Clone;
    /// Time and chance.
    type Environment: Environment;
    /// The other workers.
    type Peers: Peers + StripePeers<<Self::Disk as Disk>::Buffer>;
}

/// How long a bucket's row is trusted: mounts reach every shard within this.
const BUCKET_TTL: Duration = Duration::from_secs(1);
/// Buckets remembered.
const BUCKETS_MAX: usize = 10_000;

/// The engine of one shard. Clones are handles to the same shard.
pub struct Engine<W: World>(Rc<Inner<W>>);

struct Inner<W: World> {
    shared: Arc<Shared>,
    disk: W::Disk,
    ufs: W::Ufs,
    metadata: W::Metadata,
    environment: W::Environment,
    peers: W::Peers,
}

impl<W: World> Clone for Engine<W> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<W: World> Engine<W> {
    /// Puts a shard's engine together.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        disk: W::Disk,
        ufs: W::Ufs,
        metadata: W::Metadata,
        environment: W::Environment,
        peers: W::Peers,
    ) -> Self {
        Self(Rc::new(Inner {
            shared,
            disk,
            ufs,
            metadata,
            environment,
            peers,
        }))
    }

    /// The state all shards share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// The shard's store.
    #[must_use]
    pub fn disk(&self) -> &W::Disk {
        &self.0.disk
    }

    /// Time and chance.
    #[must_use]
    pub fn environment(&self) -> &W::Environment {
        &self.0.environment
    }

    pub(crate) fn ufs(&self) -> &W::Ufs {
        &self.0.ufs
    }

    pub(crate) fn peers(&self) -> &W::Peers {
        &self.0.peers
    }

    pub(crate) fn metadata(&self) -> &W::Metadata {
        &self.0.metadata
    }

    /// The same for a change of a key, asked for at once. It is not made if others got the
    /// key after this flow took its lock, or get it before the change arrives.
    pub(crate) fn changes(&self, bucket: BucketId, key: &ObjectKey) -> W::Metadata {
        let slots = &self.0.shared.slots;
        let is_lost = || slots.is_lost(Slots::of_key(bucket, key));
        self.metadata().judging(is_lost)
    }

    pub(crate) fn config(&self) -> &EngineConfig {
        &self.0.shared.config
    }

    /// Whether the store is to hold nothing of an object (NO_CACHE).
    pub(crate) fn bypasses(&self, bucket: &Bucket, key: &ObjectKey) -> bool {
        let policies = &self.0.shared.policies;
        policies.policy(bucket.name.as_str(), key.as_str()).mode == PolicyMode::NoCache
    }

    /// The bucket of that name.
    ///
    /// # Errors
    /// [`FlowError::NoSuchBucket`], or the metadata is unavailable.
    pub async fn bucket(&self, name: &BucketName) -> Result<Arc<Bucket>, FlowError> {
        let now = self.environment().monotonic();
        if let Some(bucket) = self.known_bucket(name.as_str(), now, Arc::clone) {
            return Ok(bucket);
        }
        let found = self.metadata().bucket(name).await?;
        let mut map = self
            .0
            .shared
            .buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = found else {
            map.remove(name);
            return Err(FlowError::NoSuchBucket);
        };
        if map.len() >= BUCKETS_MAX {
            map.clear();
        }
        let bucket = Arc::new(bucket);
        map.insert(name.clone(), (Arc::clone(&bucket), now));
        Ok(bucket)
    }

    /// The bucket of that number; `None`: there is none any more.
    pub(crate) async fn bucket_by_id(
        &self,
        id: BucketId,
    ) -> Result<Option<Arc<Bucket>>, FlowError> {
        let known = {
            let map = self.0.shared.buckets.lock();
            let map = map.unwrap_or_else(PoisonError::into_inner);
            let mut known = map.values().filter(|(bucket, _)| bucket.id == id);
            known.next().map(|(bucket, _)| bucket.name.clone())
        };
        if let Some(name) = known {
            match self.bucket(&name).await {
                Ok(bucket) if bucket.id == id => return Ok(Some(bucket)),
                Ok(_) | Err(FlowError::NoSuchBucket) => {}
                Err(error) => return Err(error),
            }
        }
        let all = self.metadata().buckets().await?;
        let Some(found) = all.into_iter().find(|bucket| bucket.id == id) else {
            return Ok(None);
        };
        // Through the cache, so that the next change finds it there.
        self.bucket(&found.name).await.map(Some)
    }

    /// What a write to a key promises.
    #[must_use]
    pub fn policy(&self, bucket: &Bucket, key: &ObjectKey) -> PathPolicy {
        let shared = &self.0.shared;
        let policy = shared.policies.policy(bucket.name.as_str(), key.as_str());
        match policy.mode {
            // It promises more than was asked for.
            PolicyMode::WriteBack if shared.is_draining() || shared.is_clearing(bucket.id, key) => {
                PathPolicy {
                    mode: PolicyMode::WriteThrough,
                    ..policy
                }
            }
            _ => policy,
        }
    }

    /// Looks at a bucket's row if memory holds it and it is young enough.
    pub(crate) fn known_bucket<R>(
        &self,
        name: &str,
        now: Duration,
        look: impl FnOnce(&Arc<Bucket>) -> R,
    ) -> Option<R> {
        let map = self
            .0
            .shared
            .buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (bucket, read) = map.get(name)?;
        // A worker among others is told when a bucket changed, as long as it has a
        // lease; without one it answers for nothing.
        let told = !self.0.shared.rights.is_alone();
        (told || now.saturating_sub(*read) < BUCKET_TTL).then(|| look(bucket))
    }

    /// Takes the slot of a key, or answers SlowDown when that takes too long.
    pub(crate) async fn lock_key(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<SlotGuard<'_>, FlowError> {
        let slot = Slots::of_key(bucket, key);
        let guard = self.lock_slot(slot).await?;
        let rights = &self.0.shared.rights;
        rights.of_slot(slot, || self.environment().lease_clock())?;
        Ok(guard)
    }

    /// Whether this process may answer for a key now.
    ///
    /// # Errors
    /// [`FlowError::NotHere`].
    pub fn permit(&self, bucket: BucketId, key: &str) -> Result<(), FlowError> {
        let rights = &self.0.shared.rights;
        rights.of_key(bucket, key, || self.environment().lease_clock())
    }

    /// Whether this process may answer for a slot now.
    ///
    /// # Errors
    /// [`FlowError::NotHere`].
    pub fn permit_slot(&self, slot: usize) -> Result<(), FlowError> {
        let rights = &self.0.shared.rights;
        rights.of_slot(slot, || self.environment().lease_clock())
    }

    /// Whether this process has a lease now.
    ///
    /// # Errors
    /// [`FlowError::NotHere`].
    pub fn permit_lease(&self) -> Result<(), FlowError> {
        let rights = &self.0.shared.rights;
        rights.live(|| self.environment().lease_clock())
    }

    pub(crate) async fn lock_slot(&self, slot: usize) -> Result<SlotGuard<'_>, FlowError> {
        let lock = std::pin::pin!(self.0.shared.slots.lock(slot));
        let guard = self.within(lock).await.ok_or_else(|| {
            FlowError::SlowDown("another write to this key is taking too long".into())
        })?;
        Ok(guard.taken_at(self.shared().rights.since()))
    }

    /// The right to publish a part of an upload.
    pub(crate) async fn enter_upload(
        &self,
        upload: UploadId,
    ) -> Result<RwLockReadGuard<'_, ()>, FlowError> {
        let gate = std::pin::pin!(self.0.shared.gates.enter(upload));
        self.within(gate).await.ok_or_else(upload_busy)
    }

    /// The right to end an upload, while no part of it is being published.
    pub(crate) async fn close_upload(
        &self,
        upload: UploadId,
    ) -> Result<RwLockWriteGuard<'_, ()>, FlowError> {
        let gate = std::pin::pin!(self.0.shared.gates.close(upload));
        self.within(gate).await.ok_or_else(upload_busy)
    }

    /// Runs `future` for at most the configured wait; `None` when time is up.
    pub(crate) async fn within<F: Future + Unpin>(&self, future: F) -> Option<F::Output> {
        let mut future = future;
        if let Some(output) = futures_util::FutureExt::now_or_never(&mut future) {
            return Some(output);
        }
        let timer = std::pin::pin!(self.environment().sleep(self.config().wait_max));
        match select(future, timer).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(((), _)) => None,
        }
    }

    /// Remembers what was just committed or checked under the slot's lock.
    pub(crate) fn remember(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<Arc<ObjectRecord>>,
        guard: &SlotGuard<'_>,
    ) {
        let checked = Some(self.environment().monotonic());
        self.remember_as(bucket, key, Known { record, checked }, guard);
    }

    /// The same, with the time of the last comparison. What a commit of before a time
    /// without a lease is told after it may be older than what others committed.
    pub(crate) fn remember_as(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        known: Known,
        guard: &SlotGuard<'_>,
    ) {
        let Shared {
            objects, rights, ..
        } = &*self.0.shared;
        objects.insert_if(bucket, key, known, || rights.holds_since(guard.since()));
    }

    /// Makes the next reader compare the key with the UFS if it still believes in
    /// this version: the UFS was seen to hold another.
    pub(crate) fn distrust_version(&self, bucket: BucketId, key: &ObjectKey, version: Version) {
        self.0.shared.objects.remove_version(bucket, key, version);
    }

    /// Makes the next reader compare the key with the UFS: after a write whose
    /// outcome is unknown.
    pub(crate) fn distrust(&self, bucket: BucketId, key: &ObjectKey) {
        self.0.shared.objects.remove(bucket, key);
    }

    /// Makes listings look again whether the folders above a key are there: the UFS has
    /// it no more. Before anybody learns of that.
    pub(crate) fn note_deleted(&self, bucket: BucketId, key: &ObjectKey) {
        let now = self.environment().monotonic();
        self.0.shared.recent_deletes.note(bucket, key.as_str(), now);
    }
}

fn upload_busy() -> FlowError {
    FlowError::SlowDown("parts of this upload are taking too long".into())
}

/// How long metadata of a bucket may be trusted.
pub(crate) fn ttl_of(bucket: &Bucket) -> Duration {
    match bucket.metadata_ttl_ms {
        u64::MAX => Duration::MAX,
        ms => Duration::from_millis(ms),
    }
}
