//! What workers keep that no UFS has, and the UFS. A disk outlives its process.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How far the write of some bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its commit is under way.
    Begun,
    /// Nobody knows whether it was committed, before the next session.
    Unknown,
    /// It was committed, or can be no more.
    Final,
}

/// Bytes by key and value.
#[derive(Debug, Default)]
pub(super) struct Disk(RefCell<BTreeMap<(usize, String), Stage>>);

impl Disk {
    pub(super) fn set(&self, key: usize, value: &str, stage: Stage) {
        self.0.borrow_mut().insert((key, value.to_owned()), stage);
    }

    pub(super) fn remove(&self, key: usize, value: &str) {
        self.0.borrow_mut().remove(&(key, value.to_owned()));
    }

    /// Lets go of all there is of a key.
    pub(super) fn clear(&self, key: usize) {
        self.0.borrow_mut().retain(|(of, _), _| *of != key);
    }

    pub(super) fn has(&self, key: usize, value: &str) -> bool {
        self.0.borrow().contains_key(&(key, value.to_owned()))
    }

    /// The process ended, and with it everything that was under way.
    pub(super) fn restarted(&self) {
        for stage in self.0.borrow_mut().values_mut() {
            if *stage == Stage::Begun {
                *stage = Stage::Unknown;
            }
        }
    }

    /// A session began: what an earlier one sent comes to nothing any more.
    pub(super) fn fenced(&self) {
        for stage in self.0.borrow_mut().values_mut() {
            if *stage == Stage::Unknown {
                *stage = Stage::Final;
            }
        }
    }

    /// Whether nothing is kept of any key.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Keys of which something is kept, but for what is only begun.
    pub(super) fn keys(&self) -> BTreeSet<usize> {
        let disk = self.0.borrow();
        let kept = disk.iter().filter(|(_, stage)| **stage != Stage::Begun);
        kept.map(|((key, _), _)| *key).collect()
    }

    /// What may be judged by the metadata.
    pub(super) fn judged(&self) -> Vec<(usize, String)> {
        let disk = self.0.borrow();
        let judged = disk.iter().filter(|(_, stage)| **stage == Stage::Final);
        judged.map(|(place, _)| place.clone()).collect()
    }
}

/// The UFS: which values it has been given.
#[derive(Debug, Default)]
pub(super) struct Ufs {
    values: RefCell<BTreeSet<String>>,
    away_until: Cell<Duration>,
}

impl Ufs {
    /// It answers nobody until then.
    pub(super) fn leave(&self, until: Duration) {
        self.away_until.set(until);
    }

    pub(super) fn is_away(&self, now: Duration) -> bool {
        now < self.away_until.get()
    }

    pub(super) fn put(&self, value: &str) {
        self.values.borrow_mut().insert(value.to_owned());
    }

    pub(super) fn has(&self, value: &str) -> bool {
        self.values.borrow().contains(value)
    }
}
