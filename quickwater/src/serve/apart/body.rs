//! The worker behind its attendant: what it has, and how it gives and takes slots. Absent:
//! who says which (`attendant`), slots that it loses unasked (`lost`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quickwater_controlplane::client::ControlClient;
use quickwater_controlplane::cluster::Moved;
use quickwater_engine::io::Environment as _;
use quickwater_engine::{Notes, Shared};
use quickwater_proto::{BlobId, NodeId, SLOTS, SlotTable};
use quickwater_ufs::Standing;
use quickwater_worker::environment::ShardEnvironment;
use quickwater_worker::http::HttpStats;
use quickwater_worker::store::Store;

use super::super::conditions::Conditions;
use super::super::health::Readiness;
use super::super::recover::take_in;
use super::claims::Claims;
use super::expiry::Expiry;

/// Longest wait for changes under way in slots that are taken away; what takes longer
/// keeps its slots for now.
const QUIESCE_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether a change that is under way in a new slot, begun when the
/// slot was held before, became one of unknown outcome.
const STUCK_LOOK: Duration = Duration::from_millis(100);
/// How long a slot that others should have waits for its UFS to have all of it, if other
/// workers have it already; it moves as it is then.
const CLEAR_WAIT: Duration = Duration::from_secs(10);
/// Pause before the metadata are asked again what is pending of new slots.
const TAKE_PAUSE: Duration = Duration::from_secs(1);

/// The worker behind its attendant, once it runs.
pub(super) struct Body {
    pub(super) node: NodeId,
    pub(super) client: ControlClient,
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    /// What each shard counts of its connections.
    pub(super) http: Vec<Arc<HttpStats>>,
    /// When the shards' monotonic clock was zero.
    pub(super) start: Instant,
    pub(super) fence: Duration,
    pub(super) standing: Arc<Standing>,
    pub(super) readiness: Readiness,
    pub(super) conditions: Conditions,
    pub(super) expiry: Expiry,
    /// Which slots it has owned last.
    pub(super) claims: Arc<Claims>,
    /// What is pending of new slots could not be read, and is tried again.
    pub(super) held_up: AtomicBool,
}

/// Notes which slots are owned from now on. Without that a rebuild of the metadata may not
/// know who has the last word, and does not take this worker's for it.
pub(super) fn claim(
    claims: &Claims,
    (store, notes): (&Store, &Notes),
    by: (u64, &SlotTable),
    slots: &[usize],
) {
    if let Err(error) = claims.take(notes, by, slots) {
        store.distrust_marks();
        tracing::error!(
            error = format!("{error:#}"),
            "which slots are owned cannot be noted: the metadata could not be rebuilt of this worker"
        );
    }
}

impl Body {
    pub(super) fn claim(&self, session: u64, table: &SlotTable, slots: &[usize]) {
        let told = (&self.store, &self.shared.notes);
        claim(&self.claims, told, (session, table), slots);
    }

    /// Gives slots away: nothing of them is answered or changed here from now on.
    /// Answers those that must stay.
    pub(super) async fn give(&self, lost: Vec<usize>) -> Vec<usize> {
        let clock = ShardEnvironment::new(self.start);
        let patience = tokio::time::sleep(QUIESCE_WAIT);
        let must_stay = || self.must_stay();
        let given = self
            .shared
            .give_slots(lost, must_stay, || clock.monotonic(), patience);
        given.await
    }

    /// Slots of which only this worker has something, or is sending something.
    pub(super) fn must_stay(&self) -> BTreeSet<usize> {
        // What hangs in the kernel nobody can take back, and the next owner would not know
        // of it.
        if self.standing.stragglers() > 0 {
            return (0..SLOTS).collect();
        }
        self.shared.must_stay(|| self.pinned())
    }

    /// How many slots others could have now.
    pub(super) fn movable(&self) -> usize {
        let must = self.must_stay();
        let rights = &self.shared.rights;
        let movable = (0..SLOTS).filter(|slot| rights.owns(*slot) && !must.contains(slot));
        movable.count()
    }

    /// What this process has done since it began.
    pub(super) fn moved(&self) -> Moved {
        let sum = |of: fn(&HttpStats) -> &AtomicU64| {
            let each = self.http.iter().map(|shard| of(shard));
            each.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        Moved {
            sent_bytes: sum(|shard| &shard.bytes_sent),
            received_bytes: sum(|shard| &shard.bytes_received),
            requests: sum(|shard| &shard.requests),
            persisted_bytes: self.shared.stats.persisted_bytes.load(Ordering::Relaxed),
        }
    }

    /// Blobs that the store keeps because no UFS has them, but for notes of slots that others
    /// have.
    pub(super) fn pinned(&self) -> HashSet<BlobId> {
        let pinned = self.store.pinned();
        let mut pinned = pinned.into_iter().map(|chunk| chunk.blob).collect();
        self.shared.notes.leave_out_given(&mut pinned);
        pinned
    }

    /// Which of the slots that others should have can be given away.
    pub(super) fn ready(&self, wanted: &BTreeMap<usize, Instant>) -> Vec<usize> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let must = self.must_stay();
        let queued = self.shared.persist.slots();
        let ready = wanted.iter().filter(|(slot, since)| {
            let waits = queued.contains_key(slot) && since.elapsed() < CLEAR_WAIT;
            !must.contains(slot) && !waits
        });
        ready.map(|(slot, _)| *slot).collect()
    }

    /// Whether there are bytes or changes that no UFS has.
    pub(super) fn is_dirty(&self) -> bool {
        let queued = self.shared.persist.totals();
        queued.puts + queued.deletes > 0
            || self.shared.transient.objects() > 0
            || !self.pinned().is_empty()
    }

    /// Bodies that no UFS has and that are not copies: parts of open uploads, and what is
    /// being written. `None` while something is queued, or TRANSIENT: their bodies look alike.
    pub(super) fn parts_held(&self) -> Option<u64> {
        let queued = self.shared.persist.totals();
        if queued.puts + queued.deletes > 0 || self.shared.transient.objects() > 0 {
            return None;
        }
        let pinned = self.pinned().into_iter();
        let held = pinned.filter(|blob| !self.shared.kept.has(*blob));
        Some(held.count() as u64)
    }

    /// Takes slots: what is pending of them is known before anything is answered.
    pub(super) async fn take(&self, gained: &[usize]) {
        let clock = ShardEnvironment::new(self.start);
        let look = |slots: Vec<usize>| self.look_into(slots);
        let pause = || tokio::time::sleep(STUCK_LOOK);
        self.shared
            .take_slots(gained, || clock.monotonic(), look, pause)
            .await;
    }

    /// Reads what is pending of slots, and does not give up: what is read is what must be
    /// known before anything is answered. A newer table may break it off meanwhile.
    async fn look_into(&self, slots: Vec<usize>) {
        let clock = ShardEnvironment::new(self.start);
        let mine = |slot: usize| slots.binary_search(&slot).is_ok();
        // What is known of them is of an earlier time.
        self.shared.transient.let_go(mine);
        loop {
            let when = (self.fence, clock.monotonic());
            match take_in(
                &self.client,
                &self.store,
                &self.shared,
                when,
                (&self.node, &mine),
            )
            .await
            {
                Ok(_) => return self.held_up.store(false, Ordering::Relaxed),
                Err(error) => {
                    self.held_up.store(true, Ordering::Relaxed);
                    tracing::warn!(%error, "what is pending of new slots cannot be read; tried again");
                    tokio::time::sleep(TAKE_PAUSE).await;
                }
            }
        }
    }

    /// Gives up what is stuck of the slots that are held, to be taken in anew: the
    /// metadata know what became of it, as after a restart.
    pub(super) fn give_up(&self, stuck: &[usize]) {
        for slot in stuck {
            self.shared.rights.set(*slot, false);
        }
        if !stuck.is_empty() {
            tracing::info!(
                slots = stuck.len(),
                "what became of some changes was unknown; asked"
            );
            self.shared.forget_objects();
        }
    }
}
