//! A store whose every step takes virtual time, so that steps of several calls mix,
//! and which ends with its process: what was not committed by then never is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quickwater_simulation::Sim;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::store::{
    CommitError, CommitVersion, EmbeddedStore, FaultyStore, KeyRange, Rows, Scan, Store,
    StoreError, Transaction,
};

type Below = FaultyStore<EmbeddedStore>;

/// Longest step of a store.
const STEP_MICROS: u64 = 3_000;
/// One step in so many is slow.
const SLOW_ONE_IN: u64 = 150;
/// How slow.
const SLOW_MILLIS: u64 = 9_000;

/// Lets virtual time pass for a store, which may be asked from any thread.
#[derive(Clone)]
pub(super) struct Steps(mpsc::UnboundedSender<oneshot::Sender<()>>);

impl Steps {
    /// Of a store that is never slow from `calm` on.
    pub(super) fn of(sim: &Sim, calm: Duration) -> Self {
        let (sender, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
        let timer = sim.clone();
        sim.spawn(async move {
            while let Some(done) = asked.recv().await {
                let sim = timer.clone();
                timer.spawn(async move {
                    let wait = match sim.below(SLOW_ONE_IN) {
                        0 if sim.now() < calm => Duration::from_millis(sim.below(SLOW_MILLIS)),
                        _ => Duration::from_micros(sim.below(STEP_MICROS)),
                    };
                    sim.sleep(wait).await;
                    let _ = done.send(());
                });
            }
        });
        Self(sender)
    }

    async fn one(&self) {
        let (done, wait) = oneshot::channel();
        let _ = self.0.send(done);
        let _ = wait.await;
    }
}

/// The store of one control process.
#[derive(Clone)]
pub(super) struct SteppedStore {
    pub(super) below: Below,
    pub(super) steps: Steps,
    /// Whose commits and flushes run there.
    pub(super) runtime: Handle,
    pub(super) ended: Arc<AtomicBool>,
}

impl SteppedStore {
    /// A step of a process that still runs; the others never go on.
    async fn step(&self) {
        self.steps.one().await;
        if self.ended.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

impl Store for SteppedStore {
    type Transaction = SteppedTransaction;

    fn begin(&self) -> SteppedTransaction {
        SteppedTransaction {
            inner: self.below.begin(),
            store: self.clone(),
        }
    }

    async fn flush(&self) -> Result<(), CommitError> {
        self.step().await;
        self.runtime.block_on(self.below.flush())
    }
}

pub(super) struct SteppedTransaction {
    inner: <Below as Store>::Transaction,
    store: SteppedStore,
}

impl Transaction for SteppedTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.step().await;
        self.store.runtime.block_on(self.inner.get(key))
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.step().await;
        self.store.runtime.block_on(self.inner.get_snapshot(key))
    }

    async fn scan(&mut self, scan: Scan) -> Result<Rows, StoreError> {
        self.store.step().await;
        self.store.runtime.block_on(self.inner.scan(scan))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.inner.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.inner.clear(key);
    }

    fn clear_range(&mut self, range: KeyRange) {
        self.inner.clear_range(range);
    }

    fn add(&mut self, key: &[u8], delta: i64) {
        self.inner.add(key, delta);
    }

    fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: usize) {
        self.inner.set_versionstamped_value(key, template, offset);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        self.inner.add_read_conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.inner.add_write_conflict(range);
    }

    async fn commit(self) -> Result<CommitVersion, CommitError> {
        let Self { inner, store } = self;
        store.step().await;
        let committed = store.runtime.block_on(inner.commit());
        // It may end after the commit and before the answer.
        store.step().await;
        committed
    }
}
