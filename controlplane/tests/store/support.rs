//! Stores for the tests: every engine, a clock that is moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use quickwater_controlplane::store::limits::KEY_BYTES_MAX;
use quickwater_controlplane::store::{
    Batch, Durability, EmbeddedStore, Engine, EngineError, EngineKind, EngineOptions, FjallEngine,
    ManualClock, MemoryEngine, RedbEngine, Snapshot,
};
use tempfile::TempDir;

pub(crate) use crate::rows::{all, rows};

/// Engines under test.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Memory,
    Disk(EngineKind),
}

/// Runs each of these functions as a test on every engine.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        suite!(@engine memory, $crate::support::Kind::Memory, $($name),*);
        suite!(@engine fjall, $crate::support::Kind::Disk(quickwater_controlplane::store::EngineKind::Fjall), $($name),*);
        suite!(@engine redb, $crate::support::Kind::Disk(quickwater_controlplane::store::EngineKind::Redb), $($name),*);
    };
    (@engine $engine:ident, $kind:expr, $($name:ident),*) => {
        mod $engine {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name($crate::support::open($kind)).await;
                }
            )*
        }
    };
}

/// A store, its clock and its directory.
pub(crate) struct Fixture {
    pub(crate) store: EmbeddedStore,
    pub(crate) clock: ManualClock,
    _dir: TempDir,
}

impl Fixture {
    /// Moves the store's clock on.
    pub(crate) async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Longest key, bytes.
    pub(crate) fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX
    }
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
