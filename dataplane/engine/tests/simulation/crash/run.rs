//! A run of one seed: lives of the process, each ended by a crash. Absent: what
//! clients do, what is checked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::Shared;
use quickwater_proto::*;

use super::disk::CrashDisk;
use super::metadata::CrashMetadata;
use super::node::{begin_background, new_shards, recover};
use super::ufs::CrashUfs;
use super::{Break, Counts, Faults, Trace};
use crate::checker::Event;
use quickwater_simulation::Sim;

pub(super) const NAMES: [&str; 3] = ["a", "d/b", "d/c"];
const CLIENTS: u64 = 3;

/// What outlives the process, and what watches it.
#[derive(Clone)]
pub struct Outside {
    pub sim: Sim,
    pub trace: Trace,
    pub disk: CrashDisk,
    pub metadata: CrashMetadata,
    pub ufs: CrashUfs,
    pub bucket: Arc<Bucket>,
    pub(super) faults: Rc<Cell<Faults>>,
    pub(super) history: Rc<RefCell<BTreeMap<&'static str, Vec<Event>>>>,
    /// Writes of a key that go on, and when the last one ended.
    pub(super) writing: Rc<RefCell<BTreeMap<&'static str, (u64, Duration)>>>,
    pub(super) contents: Rc<Cell<u64>>,
    /// Clients that have not ended.
    pub(super) busy: Rc<Cell<u64>>,
    policies: Rc<RefCell<Vec<(String, PathPolicy)>>>,
    /// Uploads with all parts acked that a client completes some time later.
    pub(super) parked: Rc<RefCell<Vec<Parked>>>,
}

/// An upload to be completed later, maybe by the next process.
pub(super) struct Parked {
    pub(super) name: &'static str,
    pub(super) content: u64,
    pub(super) upload: UploadRecord,
    pub(super) parts: Vec<PartRecord>,
}

/// Runs a seed to its end: a hash of all that happened, and how often what did.
pub(super) fn run(seed: u64, broken: Option<Break>) -> (u64, Counts) {
    let outside = Outside::new(seed, Faults::of(seed, broken));
    let lives = 2 + outside.sim.below(4);
    for _ in 0..lives {
        outside.live();
        outside.crash();
    }
    outside.faults.set(outside.faults.get().over());
    outside.ufs.go_down(Duration::ZERO);
    if !Faults::of(seed, broken).may_block_keys() {
        outside.last_life(seed);
        outside.crash();
    }
    outside.last_life(seed);
    outside.sim.crash();
    outside.check(seed);
    (outside.trace.hash.get(), outside.trace.counts.take())
}

impl Outside {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let sim = Sim::new(seed);
        let trace = Trace::new(&sim);
        let faults = Rc::new(Cell::new(faults));
        let ttl_ms = [1, 500, u64::MAX][sim.below(3) as usize];
        let bucket = Bucket {
            id: BucketId(1),
            name: BucketName::new("sim").unwrap(),
            ufs: "sim:".into(),
            created_ms: 0,
            metadata_ttl_ms: ttl_ms,
            options: Vec::new(),
            tags: Vec::new(),
            owned: true,
        };
        let disk = CrashDisk::new(&sim, &faults, &trace);
        let metadata = CrashMetadata::new(&sim, &faults, &trace, &bucket);
        let ufs = CrashUfs::new(&sim, &faults, &trace, &metadata);
        let outside = Self {
            sim,
            trace,
            disk,
            metadata,
            ufs,
            bucket: Arc::new(bucket),
            faults,
            history: Rc::default(),
            writing: Rc::default(),
            contents: Rc::default(),
            busy: Rc::default(),
            policies: Rc::default(),
            parked: Rc::default(),
        };
        outside.choose_policies();
        outside
    }

    /// A mode for each part of the namespace.
    fn choose_policies(&self) {
        let mut rules = self.policies.borrow_mut();
        rules.clear();
        for path in ["/sim/a", "/sim/d/b", "/sim/d/c"] {
            let mode = match self.sim.below(10) {
                0..=5 => PolicyMode::WriteBack,
                6 | 7 => PolicyMode::Transient,
                _ => PolicyMode::WriteThrough,
            };
            let over_limit = match self.sim.below(2) {
                0 if mode == PolicyMode::WriteBack => OverLimit::WriteThrough,
                _ => PathPolicy::default().over_limit,
            };
            let policy = PathPolicy {
                mode,
                over_limit,
                ..PathPolicy::default()
            };
            rules.push((path.to_owned(), policy));
        }
    }

    pub(super) fn set_policies(&self, shared: &Shared) {
        let rules = self.policies.borrow().clone();
        let table = PolicyTable::new(PathPolicy::default(), rules).unwrap();
        let version = shared.policies.version() + 1;
        shared.policies.replace(version, table);
    }

    /// A time that is short, long or longer still: crashes fall into the middle of
    /// a commit, of a retry, of the wait for a late request.
    pub(super) fn some_time(&self) -> Duration {
        let limit = [2_000, 20_000, 3_000_000, 30_000_000][self.sim.below(4) as usize];
        Duration::from_micros(self.sim.below(limit))
    }

    /// Starts a process, sends it clients, and returns when it is to crash.
    fn live(&self) {
        let crash_at = self.sim.now() + self.some_time();
        let shards = new_shards(self);
        self.busy.set(CLIENTS);
        let started = Rc::new(Cell::new(false));
        let (outside, start) = (self.clone(), Rc::clone(&started));
        self.sim.spawn(async move {
            let shared = Arc::clone(shards[0].shared());
            recover(&outside, &shared).await;
            start.set(true);
            outside.set_policies(&shared);
            begin_background(&outside, &shards);
            for n in 0..CLIENTS {
                let (client, shard) = (outside.clone(), shards[n as usize % 2].clone());
                outside.sim.spawn(async move {
                    client.send_requests(&shard).await;
                    client.busy.set(client.busy.get() - 1);
                });
            }
            let operator = outside.clone();
            outside.sim.spawn(async move {
                operator.sim.sleep(operator.some_time()).await;
                operator.choose_policies();
                operator.set_policies(&shared);
                if operator.sim.below(3) == 0 {
                    let until = operator.sim.now() + operator.some_time();
                    operator.ufs.go_down(until);
                }
            });
        });
        self.sim
            .run_while(|| self.sim.now() < crash_at && self.busy.get() > 0);
        if !started.get() {
            self.trace.note("start cut off", &());
        }
    }

    fn crash(&self) {
        self.trace.note("crash", &());
        self.sim.crash();
        self.writing.borrow_mut().clear();
        self.disk.crash();
        self.metadata.crash();
        self.ufs.crash();
    }
}
