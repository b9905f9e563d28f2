//! What a worker does with what the control plane says: leases and tables become
//! rights of the shards. Slots are taken in and given away here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use quickwater_controlplane::client::{Attendant, Condition, Part, Peers};
use quickwater_controlplane::cluster::boottime;
use quickwater_engine::io::Environment as _;
use quickwater_proto::{NodeId, SLOTS, SlotTable};
use quickwater_rpc::cluster::OrderAnswer;
use quickwater_rpc::cluster::order::What;
use quickwater_ufs::Standing;
use quickwater_worker::environment::ShardEnvironment;
use quickwater_worker::peer::Directory;
use tokio::sync::watch;

use super::body::{Body, claim};
use super::lost::{Leavings, lost_meanwhile};
use super::obey::{obey, refused};

/// The attendant of a worker. It holds nothing until its body is there.
pub(super) struct Attending {
    pub(super) directory: Arc<Directory>,
    standing: Arc<Standing>,
    pub(super) body: OnceLock<Body>,
    here: watch::Sender<bool>,
    /// The table gone by; 0: none yet.
    gone_by: watch::Sender<u64>,
    /// A table is being gone by, or that was broken off.
    going: AtomicBool,
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
    /// No slot is taken any more: what is pending of it could not be noted.
    ending: AtomicBool,
    /// What lost slots have left here is being looked through.
    leavings: Leavings,
    /// Held while a session is opened and while the body comes: either sees the other.
    opening: Mutex<()>,
}

impl Attending {
    pub(super) fn new(directory: Arc<Directory>, standing: Arc<Standing>) -> Arc<Self> {
        Arc::new(Self {
            directory,
            standing,
            body: OnceLock::new(),
            here: watch::channel(false).0,
            gone_by: watch::channel(0).0,
            going: AtomicBool::new(false),
            session: watch::channel(0).0,
            early: watch::channel(Duration::ZERO).0,
            fenced: Mutex::default(),
            known: Mutex::default(),
            was_ready: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            leavings: Leavings::default(),
            opening: Mutex::default(),
            wanted: Mutex::default(),
        })
    }

    /// From now on there is a worker to hold slots. What is pending of the slots of
    /// `table` was taken in already; `session` is the one it was told in. Others may have
    /// had all of them if there has been another one since: they are taken anew.
    /// Needs a runtime.
    pub(super) fn embody(&self, body: Body, session: u64, table: &SlotTable) {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let now = *self.session.borrow();
        let mine = taken_in(table, self.directory.node(), session == now);
        body.claim(session, table, &mine);
        for slot in mine {
            body.shared.rights.set(slot, true);
        }
        body.shared.rights.started();
        if session != now {
            tracing::info!(
                "there was another session while the worker started; slots are taken anew"
            );
            let all: Vec<usize> = (0..SLOTS).collect();
            self.leavings.lose(&body, &all);
        }
        body.shared.rights.grant(*self.early.borrow());
        if self.body.set(body).is_ok() {
            self.here.send_replace(true);
        }
    }

    /// Waits until a table is gone by.
    pub(super) async fn ready(&self) {
        // The sender is ours, so there always is an answer.
        let _ = self.gone_by.subscribe().wait_for(|epoch| *epoch > 0).await;
    }

    /// Whether the newest table is gone by, with all that it takes and gives.
    pub(super) fn has_gone_by(&self) -> bool {
        !self.going.load(Ordering::Acquire) && *self.gone_by.borrow() >= self.directory.epoch()
    }

    /// Takes no slots from here on.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
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

/// Slots of `table` that `node` has as it was told while it started: none, if it was told
/// in a session before the one of now.
fn taken_in(table: &SlotTable, node: &NodeId, told_now: bool) -> Vec<usize> {
    let mine = |slot: &usize| told_now && table.owner(*slot) == Some(node);
    (0..SLOTS).filter(mine).collect()
}

fn part((name, state, detail): (&str, &str, String)) -> Part {
    Part {
        name: name.into(),
        state: state.into(),
        detail,
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
        let parts = body.conditions.all().into_iter();
        let expiry = body.expiry.condition(SystemTime::now());
        Condition {
            state: state.into(),
            used_bytes: stats.live_bytes.load(Ordering::Relaxed),
            dirty_bytes: queued.bytes.saturating_add(body.shared.transient.bytes()),
            holds,
            changes: queued.puts + queued.deletes,
            transient_objects: body.shared.transient.objects(),
            copies_kept: Some(body.shared.kept.totals().0),
            parts_held: body.parts_held(),
            draining: body.shared.is_draining(),
            parts: parts.chain([expiry]).map(part).collect(),
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

    fn opened(&self, session: u64, table: &SlotTable) -> bool {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.session.send_replace(session);
        self.directory.set_table(Arc::new(table.clone()));
        let Some(body) = self.body.get() else {
            self.standing.opened(session, true);
            return false;
        };
        let left = body.shared.rights.left(boottime());
        // One in between was not ours: an operator took this worker for dead, and nobody
        // waited for its lease.
        let interrupted = left.is_none_or(|left| left.is_zero()) || session > before + 1;
        // A request of before must find itself refused before there is a lease again.
        self.standing.opened(session, interrupted);
        let stuck = body.shared.stuck();
        self.known().clone_from(&stuck);
        *self.fenced() = stuck;
        let now = ShardEnvironment::new(body.start).monotonic();
        body.shared.kept.fence(now);
        if interrupted {
            let gone_by = *self.gone_by.borrow();
            let lost = lost_meanwhile(table, self.directory.node(), gone_by);
            self.leavings.lose(body, &lost);
        }
        !interrupted
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

    fn is_held_up(&self) -> bool {
        let body = self.body.get();
        body.is_some_and(|body| body.held_up.load(Ordering::Relaxed))
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
        self.going.store(true, Ordering::Release);
        body.held_up.store(false, Ordering::Relaxed);
        let (rights, node) = (&body.shared.rights, Some(self.directory.node()));
        let mine = |slot: &usize| table.owner(*slot) == node;
        // What others have already nobody waits for, whatever only this worker has of it.
        let (lost, taken): (Vec<usize>, Vec<usize>) = (0..SLOTS)
            .filter(|slot| rights.owns(*slot) && !mine(slot))
            .partition(|slot| table.yielding(*slot) == node);
        if !taken.is_empty() {
            self.leavings.lose(body, &taken);
        }
        // Of a slot that comes back it has to be known what is left here of before.
        self.leavings.known().await;
        let mut stuck = std::mem::take(&mut *self.fenced());
        stuck.retain(|slot| rights.owns(*slot) && mine(slot));
        body.give_up(&stuck);
        let gained: Vec<usize> = match self.ending.load(Ordering::Acquire) {
            true => Vec::new(),
            false => (0..SLOTS)
                .filter(|slot| !rights.owns(*slot) && mine(slot))
                .collect(),
        };
        let mut kept = Vec::new();
        // A process that ended while it gave slots away left its data here. What only it
        // had is kept as copies of what others own are.
        let left = |slot: &usize| table.yielding(*slot) == node && !rights.owns(*slot);
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
        let shared = Arc::clone(&body.shared);
        let noted = tokio::task::spawn_blocking(move || {
            claim(&claims, (&store, &shared.notes), (session, &of), &slots);
        });
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
        self.going.store(false, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_in_for_an_earlier_session_is_taken_anew() {
        let nodes = ["n1", "n2"].map(|name| NodeId::new(name).unwrap());
        let table = SlotTable::from_slots(3, |slot| (Some(&nodes[slot % 2]), None));
        let taken = taken_in(&table, &nodes[1], true);
        assert_eq!(taken.len(), SLOTS / 2);
        assert!(taken.iter().all(|slot| slot % 2 == 1));
        assert!(taken_in(&table, &nodes[1], false).is_empty());
    }
}
