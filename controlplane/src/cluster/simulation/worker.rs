//! A worker as far as the cluster is concerned: its session, its lease, its slots,
//! what it remembers of keys. It follows the rules of the real one
//! (`quickwater/src/serve/apart/attendant.rs`, `client/link.rs`, the engine's rights).

mod alone;
mod requests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use quickwater_proto::{MetadataError, NodeId, PersistState, SlotTable};
use quickwater_rpc::cluster as messages;
use quickwater_simulation::Sim;
use tokio::sync::Mutex;

use super::disk::{Disk, Stage};
use super::history::Seen;
use super::network::Network;
use super::{Control, Mistake, Scene};
use crate::cluster::{Beat, Past, wire};

/// Parts of a lease that are not relied upon (`client/attend.rs`).
const MARGIN: u32 = 10;
/// Limit of an answer: then the session is given up.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Limit of a call, all repetitions included.
const CALL_WAIT: Duration = Duration::from_secs(12);
/// How long it hands over at its end.
const HAND_OVER_WAIT: Duration = Duration::from_secs(5);
/// Pause between two looks for a session.
const LOOK_PAUSE: Duration = Duration::from_millis(40);

/// What a worker knows; lost with its process.
#[derive(Default)]
struct Mind {
    session: Option<u64>,
    /// End of the lease, by the worker's clock.
    until: Duration,
    owned: BTreeSet<usize>,
    lapses: u64,
    remembered: BTreeMap<usize, (u128, String)>,
    /// Newest table heard of, and the last one gone by.
    heard: Option<Arc<SlotTable>>,
    gone_by: u64,
    kept: BTreeSet<usize>,
    /// What is to be sent to the UFS, by key; what is being sent.
    queue: BTreeMap<usize, (u128, String)>,
    running: BTreeSet<usize>,
    /// Slots that others should have.
    wanted: BTreeSet<usize>,
    /// It ends soon; it answers nobody any more.
    stopping: bool,
    closed: bool,
    /// It said goodbye: there is no other session.
    left: bool,
}

pub(super) struct Worker {
    pub(super) at: usize,
    pub(super) node: NodeId,
    sim: Sim,
    network: Network,
    control: Rc<Control>,
    scene: Rc<Scene>,
    /// How much faster its clock runs, in thousandths.
    drift: i64,
    frozen_until: Cell<Duration>,
    life: Cell<u64>,
    mind: RefCell<Mind>,
    disk: Disk,
    locks: RefCell<Vec<Arc<Mutex<()>>>>,
}

/// How a request ended that did nothing.
pub(super) struct Refused;

/// Slots that are being given away, for when that ends before its time: see the engine's
/// `Going`.
struct BrokenOff<'a> {
    worker: &'a Worker,
    life: u64,
    going: BTreeSet<usize>,
}

impl Drop for BrokenOff<'_> {
    fn drop(&mut self) {
        let worker = self.worker;
        let lives = worker.life.get() == self.life;
        if lives && worker.scene.mistake != Some(Mistake::BreaksOff) {
            worker.mind.borrow_mut().owned.extend(&self.going);
        }
    }
}

impl Worker {
    pub(super) fn start(
        at: usize,
        (sim, network): (&Sim, &Network),
        control: &Rc<Control>,
        scene: &Rc<Scene>,
    ) -> Rc<Self> {
        let worker = Rc::new(Self {
            at,
            node: NodeId::new(&format!("n{at}")).unwrap(),
            sim: sim.clone(),
            network: network.clone(),
            control: Rc::clone(control),
            scene: Rc::clone(scene),
            drift: sim.below(41) as i64 - 20,
            frozen_until: Cell::default(),
            life: Cell::default(),
            mind: RefCell::default(),
            disk: Disk::default(),
            locks: RefCell::default(),
        });
        worker.restart();
        worker
    }

    /// Ends the process and starts another over the same directory.
    pub(super) fn restart(self: &Rc<Self>) {
        self.life.set(self.life.get() + 1);
        self.mind.take();
        self.disk.restarted();
        let locks = self.scene.slots.iter().map(|_| Arc::default());
        self.locks.replace(locks.collect());
        let (link, persister, keeper) = (Rc::clone(self), Rc::clone(self), Rc::clone(self));
        self.sim.spawn(async move { link.link().await });
        self.sim.spawn(async move { persister.persist().await });
        self.sim.spawn(async move { keeper.keep().await });
    }

    /// Nothing of the process moves, but the world does.
    pub(super) fn freeze(&self, time: Duration) {
        self.frozen_until.set(self.sim.now() + time);
    }

    /// Time as the worker sees it. It runs on in a frozen one.
    fn clock(&self) -> Duration {
        let now = self.sim.now().as_nanos() as i64;
        Duration::from_nanos((now + now / 1_000 * self.drift) as u64)
    }

    /// To be called after every wait: goes on when the process does, or never.
    async fn wake(&self, life: u64) {
        loop {
            let until = self.frozen_until.get();
            if until <= self.sim.now() {
                break;
            }
            self.sim.sleep(until - self.sim.now()).await;
        }
        if self.life.get() != life {
            std::future::pending::<()>().await;
        }
    }

    async fn sleep(&self, life: u64, time: Duration) {
        self.sim.sleep(time).await;
        self.wake(life).await;
    }

    /// Sessions one after the other.
    async fn link(self: Rc<Self>) {
        let life = self.life.get();
        loop {
            if let Some(session) = self.register(life).await {
                self.attend(life, session).await;
            }
            if self.mind.borrow().left {
                return;
            }
            let pause = Duration::from_millis(50 + self.sim.below(500));
            self.sleep(life, pause).await;
        }
    }

    async fn register(&self, life: u64) -> Option<(u64, Duration)> {
        let sent = self.clock();
        let (control, member) = (Rc::clone(&self.control), super::member(&self.node));
        let handle = async move {
            let cluster = control.cluster()?;
            let session = cluster
                .register(member, &Past::default())
                .await
                .ok()?
                .session;
            let table = cluster.tables().borrow().clone();
            Some((session, cluster.lease(), table))
        };
        let answer = self.network.call(self.at, ANSWER_WAIT, handle).await;
        self.wake(life).await;
        let (session, lease, table) = answer?;
        self.opened(&table);
        self.disk.fenced();
        self.granted(sent, lease);
        let mut mind = self.mind.borrow_mut();
        mind.session = Some(session);
        mind.heard = Some(table);
        Some((session, lease))
    }

    /// See `Attending::opened`.
    fn opened(&self, table: &SlotTable) {
        let mut mind = self.mind.borrow_mut();
        if self.clock() < mind.until {
            return;
        }
        let slots = &self.scene.slots;
        mind.owned
            .retain(|key| table.owner(slots[*key]) == Some(&self.node));
        if self.scene.mistake != Some(Mistake::NoLapse) {
            mind.lapses += 1;
            mind.remembered.clear();
        }
    }

    fn granted(&self, sent: Duration, lease: Duration) {
        let trusted = match self.scene.mistake {
            Some(Mistake::LeaseIsTooLong) => lease + lease / 4,
            _ => lease - lease / MARGIN,
        };
        let mut mind = self.mind.borrow_mut();
        mind.until = mind.until.max(sent + trusted);
    }

    /// A session: tables are gone by beside the heartbeats, and no longer than they.
    async fn attend(self: &Rc<Self>, life: u64, (session, lease): (u64, Duration)) {
        {
            let mut mind = self.mind.borrow_mut();
            mind.gone_by = 0;
            mind.kept.clear();
        }
        let follower = Rc::clone(self);
        let follower = async move { follower.follow(life, session).await };
        let beats = self.beats(life, session, lease);
        match self.scene.mistake {
            Some(Mistake::FollowsOn) => {
                self.sim.spawn(follower);
                beats.await;
            }
            _ => {
                select(pin!(beats), pin!(follower)).await;
            }
        }
    }

    async fn beats(&self, life: u64, session: u64, lease: Duration) {
        while self.mind.borrow().session == Some(session) {
            let sent = self.clock();
            let beat = {
                let mind = self.mind.borrow();
                let slots = |keys: &BTreeSet<usize>| -> BTreeSet<usize> {
                    keys.iter().map(|key| self.scene.slots[*key]).collect()
                };
                let must = self.must_stay(&mind);
                Beat {
                    epoch: mind.gone_by,
                    kept: slots(&mind.kept),
                    holds: !self.disk.is_empty() || !mind.queue.is_empty(),
                    ready: slots(&mind.wanted.difference(&must).copied().collect()),
                    stopping: mind.stopping,
                    ..Beat::default()
                }
            };
            let (control, node) = (Rc::clone(&self.control), self.node.clone());
            let handle = async move {
                let cluster = control.cluster()?;
                let taken = cluster.beat(&node, session, beat);
                let table = cluster.tables().borrow().clone();
                let wanted = cluster.wanted(&node);
                Some((taken, table, wanted))
            };
            let answer = self.network.call(self.at, ANSWER_WAIT, handle).await;
            self.wake(life).await;
            let Some((true, table, wanted)) = answer else {
                break;
            };
            let slots = self.scene.slots.iter().enumerate();
            let wanted = slots.filter(|(_, slot)| wanted.contains(slot));
            self.mind.borrow_mut().wanted = wanted.map(|(key, _)| key).collect();
            self.granted(sent, lease);
            let newer = |heard: &Arc<SlotTable>| heard.epoch < table.epoch;
            if self.mind.borrow().heard.as_ref().is_none_or(newer) {
                self.mind.borrow_mut().heard = Some(table);
            }
            self.sleep(life, (lease / 10).min(Duration::from_secs(1)))
                .await;
        }
        let mut mind = self.mind.borrow_mut();
        if mind.session == Some(session) {
            mind.session = None;
        }
    }

    /// Whether it has heard that it has to give a key away, and still has it.
    pub(super) fn is_to_give(&self, key: usize) -> bool {
        let mind = self.mind.borrow();
        let heard = mind
            .heard
            .as_ref()
            .filter(|table| table.epoch > mind.gone_by);
        let yields =
            |table: &Arc<SlotTable>| table.yielding(self.scene.slots[key]) == Some(&self.node);
        mind.session.is_some() && mind.owned.contains(&key) && heard.is_some_and(yields)
    }

    /// Goes by one table after the other.
    async fn follow(&self, life: u64, session: u64) {
        while self.mind.borrow().session == Some(session) {
            let heard = self.mind.borrow().heard.clone();
            let gone_by = self.mind.borrow().gone_by;
            match heard {
                Some(table) if table.epoch > gone_by => self.go_by(life, &table).await,
                _ => {}
            }
            self.sleep(life, LOOK_PAUSE).await;
        }
    }

    /// See `Attending::go_by`.
    async fn go_by(&self, life: u64, table: &SlotTable) {
        let mine = |key: usize| table.owner(self.scene.slots[key]) == Some(&self.node);
        let owned = self.mind.borrow().owned.clone();
        let all = 0..self.scene.slots.len();
        let lost: Vec<usize> = all
            .clone()
            .filter(|key| owned.contains(key) && !mine(*key))
            .collect();
        let gained: Vec<usize> = all
            .filter(|key| !owned.contains(key) && mine(*key))
            .collect();
        if self.scene.mistake == Some(Mistake::SaysItLetGo) && !lost.is_empty() {
            self.mind.borrow_mut().gone_by = table.epoch;
            self.sleep(life, Duration::from_secs(5)).await;
        }
        let mut kept = self.give(life, lost).await;
        // A process that ended while it gave slots away left its data here.
        let left = self.disk.keys().into_iter().filter(|key| {
            table.yielding(self.scene.slots[*key]) == Some(&self.node) && !owned.contains(key)
        });
        kept.extend(left);
        for key in &gained {
            self.take(life, *key).await;
        }
        let mut mind = self.mind.borrow_mut();
        mind.owned.extend(gained);
        mind.kept = kept;
        mind.gone_by = table.epoch;
    }

    /// See `Body::must_stay`.
    fn must_stay(&self, mind: &Mind) -> BTreeSet<usize> {
        let mut must = match self.scene.mistake {
            Some(Mistake::GivesDirty) => BTreeSet::new(),
            _ => self.disk.keys(),
        };
        must.extend(mind.running.iter().copied());
        must
    }

    /// See `Body::give`.
    async fn give(&self, life: u64, lost: Vec<usize>) -> BTreeSet<usize> {
        let must = self.must_stay(&self.mind.borrow());
        let lost: BTreeSet<usize> = lost.into_iter().collect();
        let mut kept: BTreeSet<usize> = lost.intersection(&must).copied().collect();
        let going: BTreeSet<usize> = lost.difference(&must).copied().collect();
        for key in &going {
            self.mind.borrow_mut().owned.remove(key);
        }
        let mut broken_off = BrokenOff {
            worker: self,
            life,
            going: going.clone(),
        };
        for key in &going {
            self.quiesce(life, *key).await;
        }
        broken_off.going.clear();
        let mut mind = self.mind.borrow_mut();
        let must = self.must_stay(&mind);
        for key in going {
            match must.contains(&key) {
                true => {
                    mind.owned.insert(key);
                    kept.insert(key);
                }
                false => {
                    mind.queue.remove(&key);
                    // There is nothing, or it is taken for nothing.
                    self.disk.clear(key);
                }
            }
        }
        if !lost.is_empty() {
            mind.remembered.clear();
        }
        kept
    }

    /// See `Body::take`: what is pending of a key, if its bytes are here. The real one forgets what
    /// it remembers, too; not here, so that everything that makes that needless is seen to.
    async fn take(&self, life: u64, key: usize) {
        self.mind.borrow_mut().queue.remove(&key);
        loop {
            if let Ok((version, value, pending)) = self.look(life, key).await {
                if pending && self.reaches(key, &value) {
                    let mut mind = self.mind.borrow_mut();
                    mind.queue.insert(key, (version, value));
                }
                return;
            }
            self.sleep(life, LOOK_PAUSE).await;
        }
    }

    /// The current version of a key, its value, and whether it is still pending.
    async fn look(&self, life: u64, key: usize) -> Result<(u128, String, bool), MetadataError> {
        let call = wire::about(
            messages::Operation::Object,
            self.scene.bucket,
            &self.scene.keys[key],
        );
        let answer = self.call(life, call).await?;
        Ok(match &answer.object {
            Some(found) => {
                let record = wire::object(found).unwrap();
                let pending = record.persist != PersistState::Persisted;
                (record.version.0, record.etag.as_str().to_owned(), pending)
            }
            None => (0, String::new(), false),
        })
    }

    async fn quiesce(&self, life: u64, key: usize) {
        let lock = Arc::clone(&self.locks.borrow()[key]);
        drop(lock.lock_owned().await);
        self.wake(life).await;
    }

    /// See the engine's `Rights`.
    fn permits(&self, key: usize) -> bool {
        let mind = self.mind.borrow();
        let lives = self.clock() < mind.until || self.scene.mistake == Some(Mistake::NoLease);
        mind.owned.contains(&key) && lives && !mind.closed
    }
}
