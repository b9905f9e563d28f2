//! Stores for the tests: every engine, a clock that is moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use quickwater_controlplane::store::{
    Batch, Durability, EmbeddedStore, Engine, EngineError, EngineKind, EngineOptions, FjallEngine,
    KeyRange, ManualClock, MemoryEngine, RedbEngine, Row, Scan, Snapshot, Store, Transaction,
};
use tempfile::TempDir;

/// Engines under test.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Memory,
    Disk(EngineKind),
}

/// A store, its clock and its directory.
pub(crate) struct Fixture {
    pub(crate) store: EmbeddedStore,
    pub(crate) clock: ManualClock,
    _dir: TempDir,
}

/// Small memory, so that even small tests write and merge files.
pub(crate) const SMALL: EngineOptions = EngineOptions {
    cache_bytes: 1 << 20,
    memtable_bytes: 64 << 10,
};

pub(crate) fn open(kind: Kind) -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::default();
    let store = match kind {
        Kind::Memory => EmbeddedStore::with_clock(MemoryEngine::default(), clock.clone()),
        Kind::Disk(EngineKind::Fjall) => {
            let engine = FjallEngine::open(dir.path(), &SMALL).expect("fjall");
            EmbeddedStore::with_clock(engine, clock.clone())
        }
        Kind::Disk(EngineKind::Redb) => {
            let engine = RedbEngine::open(dir.path(), &SMALL).expect("redb");
            EmbeddedStore::with_clock(engine, clock.clone())
        }
    };
    Fixture {
        store: store.expect("a store"),
        clock,
        _dir: dir,
    }
}

/// Every row of the store, whatever the limits of one scan.
pub(crate) async fn all(store: &impl Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows(store, KeyRange::prefix(b"")).await
}

/// Every row of a range.
pub(crate) async fn rows(store: &impl Store, mut range: KeyRange) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut transaction = store.begin();
    let mut found = Vec::new();
    loop {
        let page = transaction
            .scan(Scan::new(range.clone(), 1_000).snapshot())
            .await
            .expect("a page");
        found.extend(
            page.rows
                .iter()
                .map(|row| (row.key.to_vec(), row.value.to_vec())),
        );
        match page.rows.last() {
            Some(Row { key, .. }) if page.more => {
                range.start = quickwater_controlplane::store::successor(key);
            }
            _ => return found,
        }
    }
}

/// An engine whose batches wait at a gate, and fail when it is broken.
#[derive(Clone, Default)]
pub(crate) struct GatedEngine {
    rows: Arc<MemoryEngine>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    broken: Arc<AtomicBool>,
    batches: Arc<AtomicU64>,
    flushes: Arc<AtomicU64>,
}

impl GatedEngine {
    pub(crate) fn close(&self) {
        *self.gate.0.lock().expect("gate") = true;
    }

    pub(crate) fn open(&self) {
        *self.gate.0.lock().expect("gate") = false;
        self.gate.1.notify_all();
    }

    /// How many batches have come to the gate.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::SeqCst)
    }

    /// How many flushes there were beside batches.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// Waits until another batch has come to the gate.
    pub(crate) async fn batch_after(&self, before: u64) {
        while self.batches() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }
}

impl Engine for GatedEngine {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        self.rows.snapshot()
    }

    fn apply(&self, batch: Batch, durability: Durability) -> Result<(), EngineError> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        let closed = self.gate.0.lock().expect("gate");
        drop(
            self.gate
                .1
                .wait_while(closed, |closed| *closed)
                .expect("gate"),
        );
        if self.broken.load(Ordering::SeqCst) {
            return Err(EngineError("the disk is on fire".into()));
        }
        self.rows.apply(batch, durability)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return Err(EngineError("the disk is on fire".into()));
        }
        Ok(())
    }
}
