//! The state all shards of a process share, and the settings and counters of its flows.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{BlobId, Bucket, BucketId, BucketName, ObjectKey, ObjectRecord, slot_of};

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
use crate::decisions::object_cache::ObjectCache;
use crate::decisions::opened::Opened;
use crate::decisions::persist_queue::{PersistConfig, PersistQueue};
use crate::decisions::policies::Policies;
use crate::decisions::recent_deletes::RecentDeletes;
use crate::decisions::releases::Releases;
use crate::decisions::relief::Relief;
use crate::decisions::retired::Retired;
use crate::decisions::rights::Rights;
use crate::decisions::slots::Slots;
use crate::decisions::stripes::Stripes;
use crate::decisions::transient::Transient;
use crate::flows::sweep::UnsurePart;

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

#[cfg(test)]
impl EngineConfig {
    /// The least of everything, for tests of flows that move no bytes.
    pub(crate) fn least() -> Self {
        Self {
            object_cache_bytes: 0,
            read_depth: 1,
            fill_run_chunks: 1,
            stripe_bytes: None,
            hot_copies_bytes: None,
            wait_max: Duration::from_secs(1),
            import_concurrency: 1,
            persist: PersistConfig::default(),
            content_matches: |_, _| true,
        }
    }
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
    /// Folders that lost keys in the UFS.
    pub(crate) recent_deletes: RecentDeletes,
    pub(crate) releases: Releases,
    pub(crate) retired: Retired,
    pub(crate) stripes: Stripes,
    pub(crate) hot: HotCopies,
    /// Rows of buckets, and when (monotonic) each was read.
    pub(crate) buckets: Mutex<HashMap<BucketName, (Arc<Bucket>, Duration)>>,
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
            recent_deletes: RecentDeletes::default(),
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
    pub(crate) fn is_clearing(&self, bucket: BucketId, key: &ObjectKey) -> bool {
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
