//! What a worker does with what the control plane says: leases and tables become
//! rights of the shards. Slots are taken in and given away here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use quickwater_controlplane::client::{Attendant, Condition, ControlClient, Part, Peers};
use quickwater_controlplane::cluster::{Moved, boottime};
use quickwater_controlplane::records::JournalEntry;
use quickwater_engine::io::Environment as _;
use quickwater_engine::{QueueScope, Shared};
use quickwater_proto::{BlobId, CopyOf, NodeId, ObjectKey, SLOTS, SlotTable, slot_of};
use quickwater_rpc::cluster::OrderAnswer;
use quickwater_rpc::cluster::order::What;
use quickwater_ufs::Standing;
use quickwater_worker::environment::ShardEnvironment;
use quickwater_worker::http::HttpStats;
use quickwater_worker::peer::Directory;
use quickwater_worker::store::Store;
use tokio::sync::watch;

use super::super::conditions::Conditions;
use super::super::health::Readiness;
use super::super::recover::take_in;
use super::claims::Claims;
use super::obey::{obey, refused};

/// Longest wait for changes under way in slots that are taken away; what takes longer
/// keeps its slots for now.
const QUIESCE_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether a change that is under way in a new slot, begun when the
/// slot was held before, became one of unknown outcome.
const STUCK_LOOK: Duration = Duration::from_millis(100);
/// How long a slot that others should have waits for its UFS to have all of it, if other
/// workers have it already; it moves as it is then.
const CLEAR_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked what is left to be handed over at the end.
const HAND_OVER_LOOK: Duration = Duration::from_millis(20);
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
    /// Which slots it has owned last.
    pub(super) claims: Arc<Claims>,
}

/// The attendant of a worker. It holds nothing until its body is there.
pub(super) struct Attending {
    directory: Arc<Directory>,
    standing: Arc<Standing>,
    body: OnceLock<Body>,
    here: watch::Sender<bool>,
    /// The table gone by; 0: none yet.
    gone_by: watch::Sender<u64>,
    /// The session that counts; 0: none yet.
    session: watch::Sender<u64>,
    /// A lease that was granted before the body was there.
    early: watch::Sender<Duration>,
    /// Slots that were stuck when the session began. It fenced what had made them so.
    fenced: Mutex<Vec<usize>>,
    /// Slots that others should have, and since when that is known.
    wanted: Mutex<BTreeMap<usize, Instant>>,
    /// The same, for the whole session: what is stuck beside them needs another one.
    known: Mutex<Vec<usize>>,
    /// Whether it was ready once: what is not after that is about to end.
    was_ready: AtomicBool,
}

impl Attending {
    pub(super) fn new(directory: Arc<Directory>, standing: Arc<Standing>) -> Arc<Self> {
        Arc::new(Self {
            directory,
            standing,
            body: OnceLock::new(),
            here: watch::channel(false).0,
            gone_by: watch::channel(0).0,
            session: watch::channel(0).0,
            early: watch::channel(Duration::ZERO).0,
            fenced: Mutex::default(),
            known: Mutex::default(),
            was_ready: AtomicBool::new(false),
            wanted: Mutex::default(),
        })
    }

    /// From now on there is a worker to hold slots. What is pending of the slots of
    /// `table` was taken in already.
    pub(super) fn embody(&self, body: Body, table: &SlotTable) {
        body.shared.rights.grant(*self.early.borrow());
        let mine = |slot: &usize| table.owner(*slot) == Some(self.directory.node());
        let mine: Vec<usize> = (0..SLOTS).filter(mine).collect();
        body.claim(*self.session.borrow(), table, &mine);
        for slot in mine {
            body.shared.rights.set(slot, true);
        }
        body.shared.rights.started();
        if self.body.set(body).is_ok() {
            self.here.send_replace(true);
        }
    }

    /// Has the slots go to others, and what only this worker has to its UFS, for at most
    /// `longest`; requests are served meanwhile. Answers whether something of it is left
    /// that others cannot have.
    pub(super) async fn hand_over(&self, longest: Duration) -> bool {
        let Some(body) = self.body.get() else {
            return false;
        };
        let shared = &body.shared;
        let others = || {
            let mut all = self.directory.neighbours().into_iter();
            all.any(|one| one.node != body.node && one.live && !one.draining)
        };
        let deadline = tokio::time::Instant::now() + longest;
        if !others() {
            return body.is_dirty();
        }
        if !longest.is_zero() {
            shared.clearing.all();
            let now = ShardEnvironment::new(body.start).monotonic();
            shared.persist.retry_all(&QueueScope::everything(), now);
            body.client.beat();
        }
        loop {
            let queued = shared.persist.totals();
            let waits = queued.puts + queued.deletes;
            let slots = match others() {
                true => body.movable(),
                false => 0,
            };
            if waits == 0 && slots == 0 {
                break;
            }
            // Nothing ends without it.
            let alone = !body.client.is_connected();
            if alone || tokio::time::Instant::now() >= deadline {
                tracing::warn!(
                    changes = waits,
                    bytes = queued.bytes,
                    slots = shared.rights.owned(),
                    "the end came before everything was handed over; what no UFS has comes back with this worker"
                );
                break;
            }
            tokio::time::sleep(HAND_OVER_LOOK).await;
        }
        body.is_dirty() && !others()
    }

    /// Waits until a table is gone by.
    pub(super) async fn ready(&self) {
        // The sender is ours, so there always is an answer.
        let _ = self.gone_by.subscribe().wait_for(|epoch| *epoch > 0).await;
    }

    fn fenced(&self) -> MutexGuard<'_, Vec<usize>> {
        self.fenced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted_slots(&self) -> MutexGuard<'_, BTreeMap<usize, Instant>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Vec<usize>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn body(&self) -> Option<&Body> {
        let mut here = self.here.subscribe();
        here.wait_for(|here| *here).await.ok()?;
        self.body.get()
    }
}

fn part((name, state, detail): (&str, &str, String)) -> Part {
    Part {
        name: name.into(),
        state: state.into(),
        detail,
    }
}

/// Notes which slots are owned from now on. Without that a rebuild of the metadata may not
/// know who has the last word, and does not take this worker's for it.
fn claim(claims: &Claims, store: &Store, (session, table): (u64, &SlotTable), slots: &[usize]) {
    if let Err(error) = claims.take(session, table, slots) {
        store.distrust_marks();
        tracing::error!(
            error = format!("{error:#}"),
            "which slots are owned cannot be noted: the metadata could not be rebuilt of this worker"
        );
    }
}

impl Body {
    fn claim(&self, session: u64, table: &SlotTable, slots: &[usize]) {
        claim(&self.claims, &self.store, (session, table), slots);
    }

    /// Gives slots away: nothing of them is answered or changed here from now on.
    /// Answers those that must stay.
    async fn give(&self, lost: Vec<usize>) -> Vec<usize> {
        let clock = ShardEnvironment::new(self.start);
        let patience = tokio::time::sleep(QUIESCE_WAIT);
        let must_stay = || self.must_stay();
        let given = self
            .shared
            .give_slots(lost, must_stay, || clock.monotonic(), patience);
        given.await
    }

    /// Slots of which only this worker has something, or is sending something.
    fn must_stay(&self) -> BTreeSet<usize> {
        // What hangs in the kernel nobody can take back, and the next owner would not know
        // of it.
        if self.standing.stragglers() > 0 {
            return (0..SLOTS).collect();
        }
        self.shared.must_stay(|| self.pinned())
    }

    /// How many slots others could have now.
    fn movable(&self) -> usize {
        let must = self.must_stay();
        let rights = &self.shared.rights;
        let movable = (0..SLOTS).filter(|slot| rights.owns(*slot) && !must.contains(slot));
        movable.count()
    }

    /// What this process has done since it began.
    fn moved(&self) -> Moved {
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

    /// Blobs that the store keeps because no UFS has them.
    fn pinned(&self) -> HashSet<BlobId> {
        let pinned = self.store.pinned();
        pinned.into_iter().map(|chunk| chunk.blob).collect()
    }

    /// Which of the slots that others should have can be given away.
    fn ready(&self, wanted: &BTreeMap<usize, Instant>) -> Vec<usize> {
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
            || !self.store.pinned().is_empty()
    }

    /// Takes slots: what is pending of them is known before anything is answered.
    async fn take(&self, gained: &[usize]) {
        let clock = ShardEnvironment::new(self.start);
        let look = |slots: Vec<usize>| self.look_into(slots);
        let pause = || tokio::time::sleep(STUCK_LOOK);
        self.shared
            .take_slots(gained, || clock.monotonic(), look, pause)
            .await;
    }

    /// Reads what is pending of slots, and does not give up.
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
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "what is pending of new slots cannot be read; tried again");
                    tokio::time::sleep(TAKE_PAUSE).await;
                }
            }
        }
    }

    /// Of slots that were taken away while this worker did not answer: what it has of
    /// them and no UFS had is kept for whoever sees to it by now, like any copy, and goes
    /// when the metadata do not name it. Nothing of an earlier session is committed in this
    /// one to slots that are another's.
    fn leave_to_others(&self) {
        let shared = Arc::clone(&self.shared);
        let foreign = |of: &Shared, at, key: &ObjectKey| of.rights.is_foreign(slot_of(at, key));
        shared
            .persist
            .forget(|bucket, key| foreign(&shared, bucket, key));
        shared
            .transient
            .let_go(|slot| shared.rights.is_foreign(slot));
        shared.notes.give(|slot| shared.rights.is_foreign(slot));
        let (store, start) = (self.store.clone(), self.start);
        tokio::task::spawn_blocking(move || {
            let now = ShardEnvironment::new(start).monotonic();
            let mut left = 0_u64;
            let entries = match store.journal() {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!(%error, "what is kept of lost slots is not known before a restart");
                    return;
                }
            };
            for entry in entries {
                let commit = match entry {
                    Ok(entry) if entry.data.is_empty() => continue,
                    Ok(entry) => {
                        JournalEntry::decode(&entry.data).map(|commit| (entry.blob, commit))
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an entry of the journal cannot be read");
                        continue;
                    }
                };
                let Ok((blob, commit)) = commit else { continue };
                if !foreign(&shared, commit.bucket, &commit.key) || shared.kept.has(blob) {
                    continue;
                }
                let of = CopyOf {
                    bucket: commit.bucket,
                    key: commit.key,
                    blob,
                    owner: None,
                };
                shared.kept.keep(of, commit.object.size, false, now);
                left += 1;
            }
            tracing::info!(left, "slots were lost; what was kept of them is looked at");
        });
    }

    /// Gives up what is stuck of the slots that are held, to be taken in anew: the
    /// metadata know what became of it, as after a restart.
    fn give_up(&self, stuck: &[usize]) {
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

#[tonic::async_trait]
impl Attendant for Attending {
    fn condition(&self) -> Condition {
        let Some(body) = self.body.get() else {
            return Condition {
                state: "starting".into(),
                // What it has is being looked through, and keys that are its own are fenced.
                holds: true,
                ..Condition::default()
            };
        };
        let stats = body.store.stats();
        let queued = body.shared.persist.totals();
        body.shared.prune_anchors(|| body.pinned());
        let holds = body.is_dirty();
        let ready = match holds {
            true => body.ready(&self.wanted_slots()),
            false => Vec::new(),
        };
        let is_ready = body.readiness.get();
        let was_ready = self.was_ready.fetch_or(is_ready, Ordering::Relaxed);
        let state = match (stats.is_suspect(), is_ready) {
            (true, _) => "suspect",
            (false, true) => "ready",
            (false, false) if was_ready => "stopping",
            (false, false) => "starting",
        };
        Condition {
            state: state.into(),
            used_bytes: stats.live_bytes.load(Ordering::Relaxed),
            dirty_bytes: queued.bytes.saturating_add(body.shared.transient.bytes()),
            holds,
            changes: queued.puts + queued.deletes,
            transient_objects: body.shared.transient.objects(),
            draining: body.shared.is_draining(),
            parts: body.conditions.all().into_iter().map(part).collect(),
            ready,
            stopping: body.shared.clearing.is_all(),
            moved: Some(body.moved()),
        }
    }

    fn wanted(&self, slots: Vec<usize>) {
        let Some(body) = self.body.get() else { return };
        let mut wanted = self.wanted_slots();
        if wanted.is_empty() && slots.is_empty() {
            return;
        }
        body.shared.clearing.set(&slots);
        let now = Instant::now();
        let before = std::mem::take(&mut *wanted);
        let since = |slot: usize| (slot, before.get(&slot).copied().unwrap_or(now));
        *wanted = slots.into_iter().map(since).collect();
    }

    fn draining(&self, draining: bool) {
        if let Some(body) = self.body.get()
            && body.shared.is_draining() != draining
        {
            body.shared.drain(draining);
            tracing::info!(draining, "what no UFS has is to go from here");
        }
    }

    fn met(&self, peers: Peers) {
        self.standing.heard(peers.over);
        self.directory.meet(peers.key, &peers.members);
    }

    fn opened(&self, session: u64, table: &SlotTable) {
        self.session.send_replace(session);
        self.directory.set_table(Arc::new(table.clone()));
        let Some(body) = self.body.get() else {
            self.standing.opened(session, true);
            return;
        };
        let left = body.shared.rights.left(boottime());
        let lapsed = left.is_none_or(|left| left.is_zero());
        // A request of before must find itself refused before there is a lease again.
        self.standing.opened(session, lapsed);
        let stuck = body.shared.stuck();
        self.known().clone_from(&stuck);
        *self.fenced() = stuck;
        let now = ShardEnvironment::new(body.start).monotonic();
        body.shared.kept.fence(now);
        let rights = &body.shared.rights;
        if !lapsed {
            return;
        }
        let lost = |slot: &usize| table.owner(*slot) != Some(self.directory.node());
        for slot in (0..SLOTS).filter(lost) {
            rights.set(slot, false);
        }
        // Nobody kept others from changing what is remembered.
        rights.lapse();
        body.shared.forget_objects();
        body.leave_to_others();
    }

    fn is_stuck(&self) -> bool {
        if self.standing.is_ousted() {
            return true;
        }
        let Some(body) = self.body.get() else {
            return false;
        };
        let known = self.known();
        let stuck = body.shared.stuck();
        stuck.iter().any(|slot| !known.contains(slot))
    }

    fn granted(&self, until: Duration) {
        self.standing.granted(until);
        self.early.send_replace(until);
        if let Some(body) = self.body.get() {
            body.shared.rights.grant(until);
        }
    }

    async fn go_by(&self, table: Arc<SlotTable>) -> Vec<usize> {
        self.directory.set_table(Arc::clone(&table));
        let Some(body) = self.body().await else {
            return Vec::new();
        };
        let rights = &body.shared.rights;
        let mine = |slot: &usize| table.owner(*slot) == Some(self.directory.node());
        let lost: Vec<usize> = (0..SLOTS)
            .filter(|slot| rights.owns(*slot) && !mine(slot))
            .collect();
        let mut stuck = std::mem::take(&mut *self.fenced());
        stuck.retain(|slot| rights.owns(*slot) && mine(slot));
        body.give_up(&stuck);
        let gained: Vec<usize> = (0..SLOTS)
            .filter(|slot| !rights.owns(*slot) && mine(slot))
            .collect();
        let mut kept = Vec::new();
        // A process that ended while it gave slots away left its data here. What only it
        // had is kept as copies of what others own are.
        let left = |slot: &usize| {
            table.yielding(*slot) == Some(self.directory.node()) && !rights.owns(*slot)
        };
        let left: Vec<usize> = (0..SLOTS).filter(left).collect();
        let left: Vec<usize> = match left.is_empty() {
            true => left,
            false => {
                let mut must = body.must_stay();
                must.extend(body.shared.kept.slots());
                left.into_iter()
                    .filter(|slot| must.contains(slot))
                    .collect()
            }
        };
        if !lost.is_empty() {
            kept = body.give(lost).await;
        }
        kept.extend(left);
        let (session, of, slots) = (*self.session.borrow(), Arc::clone(&table), gained.clone());
        let (claims, store) = (Arc::clone(&body.claims), body.store.clone());
        let noted =
            tokio::task::spawn_blocking(move || claim(&claims, &store, (session, &of), &slots));
        if !gained.is_empty() {
            if noted.await.is_err() {
                tracing::error!("noting which slots are owned was cut");
            }
            body.take(&gained).await;
        }
        tracing::info!(
            epoch = table.epoch,
            slots = rights.owned(),
            kept = kept.len(),
            "placement taken over"
        );
        self.gone_by.send_replace(table.epoch);
        kept
    }

    fn buckets_changed(&self) {
        if let Some(body) = self.body.get() {
            body.shared.forget_buckets();
        }
    }

    async fn obey(&self, what: What) -> OrderAnswer {
        match self.body.get() {
            Some(body) => obey(body, what).await,
            None => refused("the worker is starting", 2),
        }
    }
}
