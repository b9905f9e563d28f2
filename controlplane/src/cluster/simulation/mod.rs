//! The cluster in a simulated world: virtual time, a seeded network that loses, delays
//! and cuts, workers and control that freeze, crash and start anew, a store that does
//! not know whether it committed. What clients see must be what one machine would do,
//! and all must be well soon after the world is.
//!
//! Real: membership, placement, sessions, fences, calls and what is remembered of
//! them, the namespace, the embedded store. Modelled: workers, after the real one, with a
//! disk each for what no UFS has, and one UFS that takes its time and is away for a while.
//! Absent: copies, requests to the UFS that come late; and what fences alone keep from
//! happening, which takes more coincidences than seeds can wait for (`store/fenced.rs` has
//! tests of its own).
//!
//! `QUICKWATER_SIM_SEEDS` and `QUICKWATER_SIM_FIRST` run other seeds.

mod disk;
mod history;
mod network;
mod store;
mod trouble;
mod worker;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quickwater_proto::{
    Bucket, BucketId, BucketName, ETag, NodeId, ObjectKey, ObjectRecord, PersistState, SLOTS,
    SlotTable, slot_of,
};
use quickwater_simulation::Sim;
use tokio::runtime::{Handle, Runtime};

use self::disk::Ufs;
use self::history::{Operation, Seen, fault};
use self::network::Network;
use self::store::{SteppedStore, Steps};
use self::trouble::{MISTAKES, Mistake, Trouble};
use self::worker::{Refused, Worker};
use super::{Cluster, LeaseClock};
use crate::Namespace;
use crate::records::Member;
use crate::store::{EmbeddedStore, FaultPlan, FaultyStore};

/// How long the world is bad.
const BAD: Duration = Duration::from_secs(40);
/// How long after that everything has to be well: the longest freeze or lease, the
/// longest call, the moves of slots.
const WELL: Duration = Duration::from_secs(45);
/// How far the clock of the control plane may be behind.
const TICK: Duration = Duration::from_millis(1);
const KEYS: usize = 3;
/// One that is written seldom, and not at all once the world is well: what of it is lost
/// stays lost.
const SELDOM: usize = 2;
/// One that is written all the time: never clean, if it is written back.
const OFTEN: usize = 0;
const WORKERS: usize = 3;
const CLIENTS: usize = 5;

/// Most worlds looked at for a mistake.
const SEEDS_MAX: u64 = 40;

/// What all know.
struct Scene {
    bucket: BucketId,
    keys: Vec<ObjectKey>,
    slots: Vec<usize>,
    mistake: Option<Mistake>,
    ufs: Ufs,
    /// Workers have what it does not have.
    keeps: bool,
    workers: RefCell<Vec<Rc<Worker>>>,
}

/// The control process, one after the other over the same store.
struct Control {
    /// Tells the process of now that it ended, also while it still starts.
    ended: RefCell<Arc<AtomicBool>>,
    sim: Sim,
    trouble: Trouble,
    below: FaultyStore<EmbeddedStore>,
    steps: Steps,
    runtime: Handle,
    clock: Arc<AtomicU64>,
    current: RefCell<Option<Cluster<SteppedStore>>>,
    /// A worker that got a slot from a process which had not heard it.
    unheard: RefCell<Option<NodeId>>,
}

impl Control {
    fn cluster(&self) -> Option<Cluster<SteppedStore>> {
        self.current.borrow().clone()
    }

    fn owner(&self, slot: usize) -> Option<NodeId> {
        let table = self.cluster()?.tables().borrow().clone();
        table.owner(slot).cloned()
    }

    fn end(&self) {
        self.ended.borrow().store(true, Ordering::SeqCst);
        self.current.take();
    }

    async fn start(self: Rc<Self>) {
        self.end();
        let ended = Arc::new(AtomicBool::new(false));
        self.ended.replace(Arc::clone(&ended));
        let store = SteppedStore {
            below: self.below.clone(),
            steps: self.steps.clone(),
            runtime: self.runtime.clone(),
            ended: Arc::clone(&ended),
        };
        let nanos = Arc::clone(&self.clock);
        let clock = LeaseClock::of(move || Duration::from_nanos(nanos.load(Ordering::SeqCst)));
        let leases = self.trouble.leases();
        let lease = leases[self.sim.below(leases.len() as u64) as usize];
        let cluster = loop {
            let names = Namespace::new(store.clone());
            match Cluster::open_by(names, lease, clock.clone()).await {
                Ok(cluster) => break cluster,
                Err(_) => self.sim.sleep(Duration::from_millis(100)).await,
            }
        };
        if ended.load(Ordering::SeqCst) {
            return;
        }
        self.current.replace(Some(cluster.clone()));
        while !ended.load(Ordering::SeqCst) {
            let before = cluster.tables().borrow().clone();
            // What cannot be written now is written next time.
            let _ = cluster.look().await;
            self.watch_takers(&cluster, &before);
            self.sim.sleep(Duration::from_millis(200)).await;
        }
    }

    fn watch_takers(&self, cluster: &Cluster<SteppedStore>, before: &SlotTable) {
        let table = cluster.tables().borrow().clone();
        if table.epoch == before.epoch {
            return;
        }
        let nodes = cluster.nodes().into_iter();
        let unheard = nodes.filter(|(seat, _)| seat.heard.is_none());
        let unheard: Vec<NodeId> = unheard.map(|(seat, _)| seat.member.node).collect();
        let gets = |slot: usize| {
            let owner = table.owner(slot)?;
            (before.owner(slot) != Some(owner) && unheard.contains(owner)).then_some(owner)
        };
        if let Some(node) = (0..SLOTS).find_map(gets) {
            self.unheard.replace(Some(node.clone()));
        }
    }
}

fn member(node: &NodeId) -> Member {
    Member {
        node: node.clone(),
        advertise: String::new(),
        zone: String::new(),
        capacity_bytes: 1 << 30,
        s3_address: String::new(),
        store: node.as_str().as_bytes().to_vec(),
        shards: 1,
        version: String::new(),
        gone: false,
        draining: false,
        removed: false,
        lease_ms: 0,
    }
}

fn record(value: &str, persist: PersistState) -> ObjectRecord {
    ObjectRecord {
        version: Default::default(),
        size: 0,
        etag: ETag::new(value),
        modified_ms: 0,
        headers: Default::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: Vec::new(),
        parts: Vec::new(),
        ufs: None,
        persist,
        partial: false,
    }
}

/// Keys in slots of their own, in a bucket of a new store.
async fn scene(store: &EmbeddedStore, (trouble, mistake): (Trouble, Option<Mistake>)) -> Scene {
    let bucket = Bucket {
        id: BucketId(0),
        name: BucketName::new("abc").unwrap(),
        ufs: "file:///nowhere".into(),
        created_ms: 0,
        metadata_ttl_ms: 0,
        options: Vec::new(),
        tags: Vec::new(),
        owned: false,
    };
    let made = Namespace::new(store.clone()).create_bucket(&bucket).await;
    let bucket = made.unwrap().id;
    let key = |at: usize| ObjectKey::new(&format!("key-{at}")).unwrap();
    let keys: Vec<ObjectKey> = (0..KEYS).map(key).collect();
    let slots = keys.iter().map(|key| slot_of(bucket, key)).collect();
    Scene {
        bucket,
        keys,
        slots,
        mistake,
        ufs: Ufs::default(),
        keeps: trouble.keeps(),
        workers: RefCell::default(),
    }
}

struct World {
    sim: Sim,
    network: Network,
    control: Rc<Control>,
    workers: Vec<Rc<Worker>>,
    scene: Rc<Scene>,
    history: Rc<RefCell<Vec<Operation>>>,
}

impl World {
    fn new(seed: u64, runtimes: &Runtimes, (trouble, mistake): (Trouble, Option<Mistake>)) -> Self {
        let sim = Sim::new(seed);
        runtimes.follow(&sim);
        let calm = sim.now() + BAD;
        let store = EmbeddedStore::in_memory().unwrap();
        let scene = Rc::new(runtimes.real.block_on(scene(&store, (trouble, mistake))));
        let plan = FaultPlan {
            conflict: 20,
            unknown_applied: 15,
            unknown_lost: 15,
            unavailable: 5,
            read_unavailable: 2,
            ..FaultPlan::default()
        };
        let control = Rc::new(Control {
            sim: sim.clone(),
            trouble,
            below: FaultyStore::new(store, plan, seed),
            steps: Steps::of(&sim, calm),
            runtime: runtimes.real.handle().clone(),
            clock: sim.clock(),
            ended: RefCell::default(),
            current: RefCell::default(),
            unheard: RefCell::default(),
        });
        sim.spawn(Rc::clone(&control).start());
        let network = Network::of(&sim, calm);
        let start = |at| Worker::start(at, (&sim, &network), &control, &scene);
        let workers: Vec<Rc<Worker>> = (0..WORKERS).map(start).collect();
        scene.workers.replace(workers.clone());
        Self {
            network,
            control,
            workers,
            scene,
            history: Rc::default(),
            sim,
        }
    }

    fn run(&self) -> Option<String> {
        for number in 0..CLIENTS {
            self.sim.spawn(self.client(number));
        }
        match self.control.trouble {
            Trouble::Any => self.sim.spawn(self.trouble()),
            Trouble::Alone => {
                self.sim.spawn(self.ufs_trouble());
                self.sim.spawn(self.trouble());
            }
            Trouble::LongCuts | Trouble::Moves => self.sim.spawn(self.cuts()),
            Trouble::Returns => self.sim.spawn(self.returns()),
        }
        let end = self.sim.now() + BAD + WELL;
        self.sim.run_while(|| self.sim.now() < end);
        let fault = fault(&self.history.borrow()).or_else(|| self.unwell());
        // Tasks hold the world, and the world them.
        self.sim.crash();
        self.control.current.take();
        self.scene.workers.take();
        fault
    }

    /// Asks random workers for random keys, for ever.
    fn client(&self, number: usize) -> impl Future<Output = ()> + 'static {
        let (sim, workers) = (self.sim.clone(), self.workers.clone());
        let history = Rc::clone(&self.history);
        let trouble = self.control.trouble;
        let calm = sim.now() + BAD;
        async move {
            for turn in 0u64.. {
                sim.sleep(Duration::from_millis(sim.below(250))).await;
                let worker = Rc::clone(&workers[sim.below(workers.len() as u64) as usize]);
                let key = sim.below(KEYS as u64) as usize;
                let writes = match key {
                    OFTEN if trouble.keeps() => sim.below(5) > 0,
                    SELDOM if trouble.keeps() => sim.below(40) == 0 && sim.now() < calm,
                    _ => sim.below(trouble.writes_one_in()) == 0,
                };
                let began = sim.now();
                let value = match writes {
                    true => format!("{number}-{turn}"),
                    false => String::new(),
                };
                // A client does not wait for ever for one that crashed or froze.
                let (sender, answer) = tokio::sync::oneshot::channel();
                let text = value.clone();
                sim.spawn(async move {
                    let seen = match writes {
                        true => worker.write(key, &text).await,
                        false => worker.read(key).await,
                    };
                    let _ = sender.send(seen);
                });
                let waiting = Box::pin(sim.sleep(trouble.patience()));
                let seen = match futures_util::future::select(answer, waiting).await {
                    futures_util::future::Either::Left((Ok(Ok(seen)), _)) => seen,
                    futures_util::future::Either::Left((Ok(Err(Refused)), _)) => continue,
                    _ => Seen::Unknown,
                };
                history.borrow_mut().push(Operation {
                    key,
                    began,
                    ended: sim.now(),
                    value,
                    seen,
                });
            }
        }
    }

    /// Everything that can go wrong, until the world has been bad for long enough.
    fn trouble(&self) -> impl Future<Output = ()> + 'static {
        let (sim, network) = (self.sim.clone(), self.network.clone());
        let (control, workers) = (Rc::clone(&self.control), self.workers.clone());
        let scene = Rc::clone(&self.scene);
        let kinds = if scene.keeps { 9 } else { 7 };
        async move {
            let end = sim.now() + BAD;
            loop {
                sim.sleep(Duration::from_millis(300 + sim.below(6_000)))
                    .await;
                if sim.now() >= end {
                    return;
                }
                let worker = &workers[sim.below(workers.len() as u64) as usize];
                let time = Duration::from_millis(100 + sim.below(16_000));
                match sim.below(kinds) {
                    0 | 1 => worker.freeze(time),
                    2 => worker.restart(),
                    3 => network.cut(worker.at, &[true, false], time),
                    4 => network.cut(worker.at, &[true], time),
                    5 => network.cut(worker.at, &[false], time),
                    7 | 8 => worker.end(time / 2),
                    _ => {
                        control.end();
                        sim.sleep(time / 2).await;
                        sim.spawn(Rc::clone(&control).start());
                    }
                }
            }
        }
    }

    /// The UFS is away most of the time, so that what workers have moves with it, or must not.
    fn ufs_trouble(&self) -> impl Future<Output = ()> + 'static {
        let (sim, scene) = (self.sim.clone(), Rc::clone(&self.scene));
        async move {
            let end = sim.now() + BAD;
            while sim.now() < end {
                let away = Duration::from_millis(2_000 + sim.below(12_000));
                scene.ufs.leave(sim.now() + away);
                let here = Duration::from_millis(sim.below(4_000));
                sim.sleep(away + here).await;
            }
        }
    }

    /// Cuts off who owns a key, one key after the other.
    fn cuts(&self) -> impl Future<Output = ()> + 'static {
        let (sim, network) = (self.sim.clone(), self.network.clone());
        let (control, workers) = (Rc::clone(&self.control), self.workers.clone());
        let (slots, time) = (self.scene.slots.clone(), self.control.trouble.cut());
        async move {
            let end = sim.now() + BAD;
            for slot in slots.into_iter().cycle() {
                sim.sleep(Duration::from_secs(4)).await;
                if sim.now() >= end {
                    return;
                }
                let table = control.cluster().map(|c| c.tables().borrow().clone());
                let owner = table.as_ref().and_then(|table| table.owner(slot));
                let owner = workers.iter().find(|worker| Some(&worker.node) == owner);
                if let Some(owner) = owner {
                    network.cut(owner.at, &[true, false], time);
                    sim.sleep(time).await;
                }
            }
        }
    }

    /// Ends who has a key, and cuts off who is about to give it back, again and again: always the
    /// same key, so that whoever has it meanwhile gives nothing else away.
    fn returns(&self) -> impl Future<Output = ()> + 'static {
        let (sim, network) = (self.sim.clone(), self.network.clone());
        let (control, workers) = (Rc::clone(&self.control), self.workers.clone());
        let time = self.control.trouble.cut();
        let key = sim.below(KEYS as u64) as usize;
        let slot = self.scene.slots[key];
        async move {
            let end = sim.now() + BAD;
            let moment = Duration::from_millis(2);
            while sim.now() < end {
                sim.sleep(Duration::from_millis(500)).await;
                let owner = control.owner(slot);
                let Some(first) = workers.iter().find(|one| Some(&one.node) == owner.as_ref())
                else {
                    continue;
                };
                // Time enough for it to write.
                sim.sleep(Duration::from_secs(1)).await;
                first.end(Duration::from_millis(500));
                // Its goodbye may get lost: then its keys wait for its lease.
                let patience = sim.now() + BAD / 4;
                let gives = loop {
                    if sim.now() >= patience.min(end) {
                        break None;
                    }
                    sim.sleep(moment).await;
                    let mut others = workers.iter().filter(|one| one.at != first.at);
                    if let Some(gives) = others.find(|one| one.is_to_give(key)) {
                        break Some(gives);
                    }
                };
                if let Some(gives) = gives {
                    network.cut(gives.at, &[false], time);
                    sim.sleep(time).await;
                }
            }
        }
    }

    /// At the end every key is read and, but for one, written again.
    fn unwell(&self) -> Option<String> {
        if let Some(node) = &*self.control.unheard.borrow() {
            return Some(format!("{node} got a slot, and had not been heard"));
        }
        let late = self.sim.now() - self.control.trouble.served_within();
        let history = self.history.borrow();
        for key in 0..KEYS {
            let done = |writes: bool| {
                let mut late = history.iter().filter(|o| o.key == key && o.began > late);
                late.any(|o| o.value.is_empty() != writes && o.seen != Seen::Unknown)
            };
            let written = done(true) || self.scene.keeps && key == SELDOM;
            if !written || !done(false) {
                let owner = self.control.cluster().map(|cluster| {
                    let table = cluster.tables().borrow().clone();
                    let slot = self.scene.slots[key];
                    (
                        table.epoch,
                        table.owner(slot).cloned(),
                        table.yielding(slot).cloned(),
                    )
                });
                let has: Vec<_> = self.workers.iter().map(|one| one.tells(key)).collect();
                return Some(format!("key {key} is not served: {owner:?}, {has:#?}"));
            }
        }
        self.uneven()
    }
}

impl World {
    /// Written to all the time or not, at the end who should have a slot has it.
    fn uneven(&self) -> Option<String> {
        let cluster = self.control.cluster()?;
        let table = cluster.tables().borrow().clone();
        for (key, slot) in self.scene.slots.iter().enumerate() {
            let owner = table.owner(*slot)?;
            if cluster.wanted(owner).contains(slot) {
                let at = self.workers.iter().find(|worker| worker.node == *owner);
                let has = at.map(|worker| worker.tells(key));
                return Some(format!("{owner} does not give key {key} away: {has:?}"));
            }
        }
        None
    }
}

/// Where commits really run, and the clock of what waits in the control plane.
struct Runtimes {
    real: Runtime,
    virtual_time: Rc<Runtime>,
}

impl Runtimes {
    fn new() -> Self {
        let mut real = tokio::runtime::Builder::new_multi_thread();
        let mut turned = tokio::runtime::Builder::new_current_thread();
        Self {
            real: real.worker_threads(1).enable_all().build().unwrap(),
            virtual_time: Rc::new(turned.enable_time().start_paused(true).build().unwrap()),
        }
    }

    /// Lets timers of the control plane go with the simulation.
    fn follow(&self, sim: &Sim) {
        let (runtime, behind) = (Rc::clone(&self.virtual_time), Cell::new(Duration::ZERO));
        sim.follow(move |moved| {
            behind.set(behind.get() + moved);
            if behind.get() >= TICK {
                runtime.block_on(tokio::time::advance(behind.take()));
            }
        });
    }
}

/// The first of some worlds in which clients see something wrong or, if it is one of data that
/// one worker alone has, that does not get well.
fn caught(
    (trouble, mistake): (Trouble, Mistake),
    seeds: Range<u64>,
    runtimes: &Runtimes,
) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let world = World::new(seed, runtimes, (trouble, Some(mistake)));
        let unwell = world.run().filter(|_| trouble.keeps());
        let fault = fault(&world.history.borrow()).or(unwell)?;
        Some((seed, fault))
    })
}

fn seeds(default: u64) -> Range<u64> {
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    };
    let first = number("QUICKWATER_SIM_FIRST", 0);
    first..first + number("QUICKWATER_SIM_SEEDS", default)
}

#[test]
fn a_cluster_in_trouble_answers_as_one_machine() {
    let runtimes = Runtimes::new();
    let _entered = runtimes.virtual_time.enter();
    let (mut operations, mut writes) = (0, 0);
    for seed in seeds(20) {
        let world = World::new(seed, &runtimes, (Trouble::Any, None));
        if let Some(fault) = world.run() {
            panic!("seed {seed}: {fault}");
        }
        let history = world.history.borrow();
        operations += history.len();
        writes += history
            .iter()
            .filter(|o| matches!(o.seen, Seen::Wrote(_)))
            .count();
    }
    eprintln!("{operations} operations, {writes} acked writes");
    assert!(operations > 100 && writes > 30);
}

#[test]
fn workers_that_are_cut_off_answer_nothing_old() {
    let runtimes = Runtimes::new();
    let _entered = runtimes.virtual_time.enter();
    for trouble in [Trouble::LongCuts, Trouble::Moves, Trouble::Returns] {
        for seed in seeds(3) {
            let world = World::new(seed, &runtimes, (trouble, None));
            if let Some(fault) = world.run() {
                panic!("{trouble:?}, seed {seed}: {fault}");
            }
        }
    }
}

#[test]
fn what_one_worker_alone_has_is_never_lost() {
    let runtimes = Runtimes::new();
    let _entered = runtimes.virtual_time.enter();
    for seed in seeds(5) {
        let world = World::new(seed, &runtimes, (Trouble::Alone, None));
        if let Some(fault) = world.run() {
            panic!("seed {seed}: {fault}");
        }
    }
}

/// Mistakes that some worlds show, looked for from the given one on. [`Mistake::FollowsOn`] takes
/// more coincidences than these worlds have; see [`where_a_mistake_is_seen`].
#[test]
fn mistakes_are_seen() {
    let runtimes = Runtimes::new();
    let _entered = runtimes.virtual_time.enter();
    let mistakes = [
        (Trouble::LongCuts, Mistake::NoLease, 0),
        (Trouble::LongCuts, Mistake::LeaseIsTooLong, 0),
        (Trouble::Moves, Mistake::NoLapse, 0),
        (Trouble::Moves, Mistake::SaysItLetGo, 0),
        (Trouble::Moves, Mistake::LateIsRemembered, 0),
        (Trouble::Alone, Mistake::AnswersAfterGoodbye, 15),
        (Trouble::Alone, Mistake::GivesDirty, 0),
        (Trouble::Alone, Mistake::ClearsNothing, 0),
        (Trouble::Returns, Mistake::BreaksOff, 46),
    ];
    for (trouble, mistake, first) in mistakes {
        let seen = caught((trouble, mistake), first..first + SEEDS_MAX, &runtimes);
        eprintln!("{mistake:?}: {seen:?}");
        assert!(seen.is_some(), "{mistake:?} is never seen");
    }
}

/// For looking: `QUICKWATER_SIM_MISTAKE=name QUICKWATER_SIM_SEEDS=100`, and
/// `QUICKWATER_SIM_TROUBLE=LongCuts` (`Moves`, `Returns`, `Alone`) for those worlds.
#[test]
#[ignore = "looks for the worlds that show a mistake"]
fn where_a_mistake_is_seen() {
    let name = std::env::var("QUICKWATER_SIM_MISTAKE").unwrap_or_default();
    let runtimes = Runtimes::new();
    let _entered = runtimes.virtual_time.enter();
    let named = |mistake: &&Mistake| format!("{mistake:?}") == name;
    let mistake = *MISTAKES.iter().find(named).unwrap();
    let trouble = match std::env::var("QUICKWATER_SIM_TROUBLE") {
        Ok(name) if name == "LongCuts" => Trouble::LongCuts,
        Ok(name) if name == "Moves" => Trouble::Moves,
        Ok(name) if name == "Returns" => Trouble::Returns,
        Ok(name) if name == "Alone" => Trouble::Alone,
        _ => Trouble::Any,
    };
    let mut all = seeds(100);
    while let Some((seed, fault)) = caught((trouble, mistake), all.clone(), &runtimes) {
        eprintln!("{seed}: {fault}");
        all.start = seed + 1;
    }
}
