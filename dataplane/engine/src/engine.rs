//! The engine of one shard: its outside world and the state all shards share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_lock::{RwLockReadGuard, RwLockWriteGuard};
use futures_util::future::{Either, select};
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, ObjectKey, ObjectRecord, PathPolicy, PolicyMode,
    UploadId, Version, slot_of,
};

use crate::decisions::anchors::Anchors;
use crate::decisions::clearing::Clearing;
use crate::decisions::copy_holders::CopyHolders;
use crate::decisions::flights::Flights;
use crate::decisions::freshness::Freshness;
use crate::decisions::gates::Gates;
use crate::decisions::held_copies::HeldCopies;
use crate::decisions::held_queue::HeldQueue;
use crate::decisions::hot_copies::HotCopies;
use crate::decisions::in_use::InUse;
use crate::decisions::job_tasks::JobTasks;
use crate::decisions::journal::Journal;
use crate::decisions::lag::Lag;
use crate::decisions::notes::Notes;
use crate::decisions::object_cache::{Known, ObjectCache};
use crate::decisions::opened::Opened;
use crate::decisions::persist_queue::{PersistConfig, PersistQueue};
use crate::decisions::policies::Policies;
use crate::decisions::releases::Releases;
use crate::decisions::relief::Relief;
use crate::decisions::retired::Retired;
use crate::decisions::rights::Rights;
use crate::decisions::slots::{SlotGuard, Slots};
use crate::decisions::stripes::Stripes;
use crate::decisions::transient::Transient;
use crate::error::FlowError;
use crate::flows::sweep::UnsurePart;
use crate::io::{Disk, Environment, Metadata, Peers, StripePeers, Ufs};

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

/// Settings of the flows.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Memory for object records, bytes.
    pub object_cache_bytes: usize,
    /// Chunks read ahead of the one being sent.
    pub read_depth: usize,
    /// Chunks fetched by one UFS read when a client reads on.
    pub fill_run_chunks: u32,
    /// Larger objects that the UFS has are cached in stripes of so many bytes, each by one
    /// worker of a cluster; `None`: by the owner of their key.
    pub stripe_bytes: Option<u64>,
    /// Most bytes of the store for copies of what other workers hold and this one is asked for
    /// often; `None`: no copies.
    pub hot_copies_bytes: Option<u64>,
    /// Longest wait for a slot, a fetch or a comparison with the UFS.
    pub wait_max: Duration,
    /// Objects imported at once while a listing is compared.
    pub import_concurrency: usize,
    /// How pending changes are sent to the UFS.
    pub persist: PersistConfig,
    /// Whether content read whole from the UFS is what its record promises.
    pub content_matches: fn(&ObjectRecord, &[u8]) -> bool,
}

/// Counters of the flows.
#[derive(Debug, Default)]
pub struct EngineStats {
    /// Bytes sent to clients that came from the store.
    pub store_bytes: AtomicU64,
    /// Bytes sent to clients that had to be fetched from the UFS first.
    pub ufs_bytes: AtomicU64,
    /// Bytes sent to clients that other workers' stores gave, or fetched.
    pub peer_bytes: AtomicU64,
    /// Pieces of stripes that other workers gave.
    pub stripe_reads: AtomicU64,
    /// Pieces of stripes that their worker did not give, so that they were read here.
    pub stripe_failures: AtomicU64,
    /// Chunks of stripes given to other workers out of the store.
    pub stripe_hits: AtomicU64,
    /// Chunks of stripes given to other workers that had to be fetched first.
    pub stripe_misses: AtomicU64,
    /// Chunks of stripes taken over from the store of the key's owner.
    pub stripe_pulls: AtomicU64,
    /// Copies made of chunks that other workers hold.
    pub hot_copies: AtomicU64,
    /// Pieces read from such copies.
    pub hot_hits: AtomicU64,
    /// Chunks fetched from the UFS.
    pub fills: AtomicU64,
    /// Fetches that failed or were refused as damaged.
    pub fill_failures: AtomicU64,
    /// Chunks that could not be cached (served all the same).
    pub uncached: AtomicU64,
    /// Objects found changed, new or gone in the UFS.
    pub external_changes: AtomicU64,
    /// Answers given from cached metadata because the UFS was out of reach.
    pub stale_answers: AtomicU64,
    /// Changes the UFS was told of and has acked.
    pub persisted: AtomicU64,
    /// Bytes of objects the UFS was told of and has acked.
    pub persisted_bytes: AtomicU64,
    /// Attempts to tell the UFS that failed.
    pub persist_failures: AtomicU64,
    /// Attempts that found bytes missing which only this store had.
    pub persist_lost: AtomicU64,
    /// Uploads to the UFS that were gone on with after a failure or a restart.
    pub persist_resumed: AtomicU64,
    /// Abandoned uploads of clients that were aborted.
    pub swept_uploads: AtomicU64,
    /// Bytes of their parts.
    pub swept_bytes: AtomicU64,
    /// Uploads only a UFS had, aborted there.
    pub swept_ufs_uploads: AtomicU64,
    /// Parts in the store that no row named, freed.
    pub swept_parts: AtomicU64,
    /// What a sweep could not do and left to the next.
    pub sweep_failures: AtomicU64,
    /// Writes that were told to slow down because dirty space was full.
    pub dirty_refused: AtomicU64,
    /// Commits of which there is no note for a rebuild of the metadata.
    pub notes_failed: AtomicU64,
    /// Writes that went to the UFS instead because dirty space was full.
    pub dirty_through: AtomicU64,
    /// Writes that went to the UFS instead because dirty space can never hold them.
    pub dirty_oversize: AtomicU64,
    /// Uploads whose parts go to the UFS since dirty space could not hold them.
    pub dirty_uploads: AtomicU64,
    /// Tries to send the parts such an upload held, that failed; repeated.
    pub held_failures: AtomicU64,
    /// Such uploads ended because the UFS did not have them any more.
    pub held_gone: AtomicU64,
    /// Writes refused for good: dirty space can never hold them.
    pub dirty_too_large: AtomicU64,
    /// Writes refused for want of other workers that take copies.
    pub copies_refused: AtomicU64,
    /// Chunks read from copies on other workers.
    pub copies_read: AtomicU64,
    /// Copies made again after others were lost.
    pub copies_made: AtomicU64,
    /// Bytes of them.
    pub copies_made_bytes: AtomicU64,
    /// Attempts to make copies again that failed; repeated.
    pub copies_failed: AtomicU64,
    /// How long what was acked waited for the UFS.
    pub persist_lag: Lag,
}

/// State all shards of a process share.
pub struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) objects: ObjectCache,
    pub(crate) slots: Slots,
    pub(crate) gates: Gates,
    pub(crate) flights: Arc<Flights>,
    pub(crate) freshness: Freshness,
    pub(crate) releases: Releases,
    pub(crate) retired: Retired,
    pub(crate) stripes: Stripes,
    pub(crate) hot: HotCopies,
    buckets: Mutex<HashMap<BucketName, (Arc<Bucket>, Duration)>>,
    /// What writes to a path promise; replaced while requests go on.
    pub policies: Policies,
    /// Changes the UFS does not have yet.
    pub persist: PersistQueue,
    /// What is held here for its whole life.
    pub transient: Transient,
    /// Uploads we have opened in UFSs.
    pub opened: Arc<Opened>,
    pub(crate) in_use: Arc<InUse>,
    /// Who else has bytes of our keys that no UFS has.
    pub holders: CopyHolders,
    /// What is kept here for other owners.
    pub kept: HeldCopies,
    /// What this process may answer for.
    pub rights: Rights,
    /// Slots that hold what only this worker has.
    anchors: Anchors,
    /// Slots in which nothing more is kept that no UFS has.
    pub clearing: Clearing,
    /// Nothing is to be kept that no UFS has.
    draining: AtomicBool,
    unsure: Mutex<Vec<UnsurePart>>,
    /// Uploads that were handed over while parts of them are only here.
    pub(crate) held: HeldQueue,
    /// Whose upload is handed over next for want of room.
    pub(crate) relief: Relief,
    /// Numbers of the journal of commits.
    pub journal: Journal,
    /// Notes for a rebuild of the metadata.
    pub notes: Notes,
    /// What jobs want done to single objects.
    pub jobs: JobTasks,
    /// Counters.
    pub stats: EngineStats,
}

/// How long a bucket's row is trusted: mounts reach every shard within this.
const BUCKET_TTL: Duration = Duration::from_secs(1);
/// Buckets remembered.
const BUCKETS_MAX: usize = 10_000;

impl Shared {
    /// Fresh state of the only process there is.
    #[must_use]
    pub fn new(config: EngineConfig) -> Arc<Self> {
        Self::with_rights(config, Rights::alone())
    }

    /// Fresh state of a worker among others: it may answer for nothing yet.
    #[must_use]
    pub fn leased(config: EngineConfig) -> Arc<Self> {
        Self::with_rights(config, Rights::leased())
    }

    fn with_rights(config: EngineConfig, rights: Rights) -> Arc<Self> {
        Arc::new(Self {
            objects: ObjectCache::new(config.object_cache_bytes),
            slots: Slots::new(),
            gates: Gates::new(),
            flights: Arc::default(),
            freshness: Freshness::default(),
            releases: Releases::default(),
            retired: Retired::default(),
            stripes: Stripes::new(config.stripe_bytes),
            hot: HotCopies::new(config.hot_copies_bytes),
            buckets: Mutex::default(),
            policies: Policies::default(),
            persist: PersistQueue::new(config.persist.clone()),
            transient: Transient::default(),
            opened: Arc::default(),
            in_use: Arc::default(),
            holders: CopyHolders::default(),
            kept: HeldCopies::default(),
            unsure: Mutex::default(),
            held: HeldQueue::new(config.persist.clone()),
            relief: Relief::default(),
            journal: Journal::new(0),
            notes: Notes::default(),
            jobs: JobTasks::default(),
            stats: EngineStats::default(),
            rights,
            anchors: Anchors::default(),
            clearing: Clearing::default(),
            draining: AtomicBool::new(false),
            config,
        })
    }

    /// From now on writes go to the UFS before they are acked, whatever their policy
    /// (those that no UFS is to get are refused), or as their policy says again.
    pub fn drain(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    /// Whether nothing is to be kept that no UFS has.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn unsure(&self) -> MutexGuard<'_, Vec<UnsurePart>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is remembered of objects: others may have changed them.
    pub fn forget_objects(&self) {
        self.objects.clear();
    }

    /// Returns when no change of a key of this slot is under way any more that began
    /// before. One whose outcome is not known is not: whoever has the slot next is told
    /// by the metadata what it may have left.
    pub async fn quiesce(&self, slot: usize) {
        if !self.slots.is_kept(slot) {
            drop(self.slots.lock(slot).await);
        }
    }

    /// Slots in which nothing is changed any more, because what became of a change is
    /// not known: until they are taken in anew, see [`Shared::release`].
    #[must_use]
    pub fn stuck(&self) -> Vec<usize> {
        self.slots.kept()
    }

    /// Lets a stuck slot be changed again. Nothing may come of its earlier changes any
    /// more (they are fenced), and the metadata must have been asked since what is
    /// pending in it.
    pub fn release(&self, slot: usize) {
        self.slots.release(slot);
    }

    /// Notes that others may have changed keys of this slot up to now (monotonic): what a
    /// listing of the UFS showed before decides nothing.
    pub async fn note_taken(&self, slot: usize, now: Duration) {
        self.slots.lock(slot).await.mark_changed();
        self.rights.note_taken(slot, now);
    }

    /// Notes that the bytes of a blob are flushed here, for a key of this slot.
    pub fn anchor(&self, blob: BlobId, slot: usize) {
        // The only process gives nothing away.
        if !self.rights.is_alone() {
            self.anchors.note(blob, slot);
        }
    }

    /// The bytes of a blob are a copy for another owner from now on.
    pub(crate) fn forget_anchor(&self, blob: BlobId) {
        self.anchors.forget(blob);
    }

    /// Forgets which blobs are not needed any more, when there may be many. `kept`: those
    /// that the store keeps.
    pub fn prune_anchors(&self, kept: impl FnOnce() -> HashSet<BlobId>) {
        self.anchors.prune_if_many(kept);
    }

    /// Slots that this worker cannot give away: of which it alone has something that no UFS
    /// has, or is sending something. `kept`: the blobs that the store keeps, asked only if
    /// there may be any.
    #[must_use]
    pub fn must_stay(&self, kept: impl FnOnce() -> HashSet<BlobId>) -> BTreeSet<usize> {
        let elsewhere = |blob| self.holders.is_elsewhere(blob);
        let mut slots = self.anchors.slots(kept, elsewhere);
        let queued = self.persist.slots();
        let running = queued.into_iter().filter(|(_, running)| *running);
        slots.extend(running.map(|(slot, _)| slot));
        slots
    }

    /// Whether what is written to a key now goes to its UFS first, whatever its policy.
    fn is_clearing(&self, bucket: BucketId, key: &ObjectKey) -> bool {
        // While the UFS does not take what is there, nothing is gained by it.
        self.clearing.is_clearing(|| slot_of(bucket, key)) && self.persist.totals().failing == 0
    }

    /// Forgets what is remembered of buckets (a mount was added or removed).
    pub fn forget_buckets(&self) {
        self.buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

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
