//! WRITE_BACK, TRANSIENT and WRITE_THROUGH while the power goes again and again:
//! a store that keeps what was flushed, metadata that keeps a prefix, a UFS that
//! applies late. Others who write to the UFS are absent.

mod check;
mod client;
mod content;
mod disk;
mod ending;
mod metadata;
mod node;
mod run;
mod seeds;
mod ufs;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use quickwater_engine::World;

use crate::world::SimEnvironment;
use quickwater_simulation::Sim;

/// The outside world with crashes.
pub struct CrashWorld;

impl World for CrashWorld {
    type Disk = disk::CrashDisk;
    type Ufs = ufs::CrashUfs;
    type Metadata = metadata::CrashMetadata;
    type Environment = SimEnvironment;
    type Peers = quickwater_engine::io::Alone;
}

/// A mistake put in on purpose: the simulation must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// A newer change is sent though an older one may still be applied.
    LateIsNotFenced,
    /// A write-through request is sent without being noted before.
    SentIsNotNoted,
    /// The flush of the commit does not cover the data before it.
    FlushCoversItselfOnly,
    /// A delete does not become pending.
    DeleteIsNotPending,
    /// The entry of a refused commit stays in the journal.
    RefusedIsNotVoided,
    /// What is opened in the UFS is not noted before.
    UploadIsNotNoted,
    /// Bytes may go before it is on disk that the UFS has them.
    EndIsNotFlushed,
    /// The parts of an upload that is handed over count as being in the UFS.
    HeldIsNotMarked,
}

/// Chances in percent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    disk_full: u64,
    disk_evicts: u64,
    metadata_refuses: u64,
    metadata_unknown: u64,
    /// The commit that ends a pending change was made, but its answer is lost.
    end_unknown: u64,
    ufs_refuses: u64,
    ufs_throttles: u64,
    ufs_never_answers: u64,
    broken: Option<Break>,
}

impl Faults {
    /// Each seed has its own weather.
    fn of(seed: u64, broken: Option<Break>) -> Self {
        let metadata = seed.is_multiple_of(3);
        Self {
            disk_full: if seed.is_multiple_of(5) { 4 } else { 0 },
            disk_evicts: 10,
            metadata_refuses: if metadata { 8 } else { 0 },
            metadata_unknown: if metadata && seed.is_multiple_of(2) {
                15
            } else {
                0
            },
            end_unknown: if seed % 4 == 1 { 20 } else { 0 },
            ufs_refuses: 8,
            ufs_throttles: 4,
            ufs_never_answers: 20,
            broken,
        }
    }

    /// Nothing fails any more but answers that need no restart to be got over; what
    /// is broken stays so.
    fn over(self) -> Self {
        Self {
            broken: self.broken,
            end_unknown: self.end_unknown,
            ..Self::default()
        }
    }

    /// Whether a write may be given up with its key, until the next start.
    fn may_block_keys(self) -> bool {
        self.disk_full + self.metadata_refuses + self.metadata_unknown > 0
    }
}

/// How often each kind of thing happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// A hash of all that happened, in its order.
#[derive(Clone)]
pub struct Trace {
    sim: Sim,
    hash: Rc<Cell<u64>>,
    counts: Rc<RefCell<Counts>>,
    shown: bool,
}

impl Trace {
    fn new(sim: &Sim) -> Self {
        Self {
            sim: sim.clone(),
            hash: Rc::default(),
            counts: Rc::default(),
            shown: std::env::var_os("QUICKWATER_SIM_TRACE").is_some(),
        }
    }

    fn note(&self, what: &'static str, of: &(impl Hash + Debug)) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
        let mut hasher = DefaultHasher::new();
        (self.hash.get(), self.sim.now(), what).hash(&mut hasher);
        of.hash(&mut hasher);
        self.hash.set(hasher.finish());
        if self.shown {
            eprintln!("{:>12?} {what} {of:?}", self.sim.now());
        }
    }
}
