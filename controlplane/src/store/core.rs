//! The embedded store: transactions with versions and conflicts above an engine.
//! Reads happen here; commits go to the committer's thread.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::check;
use super::clock::{Clock, MonotonicClock};
use super::committer::{Committer, Pending};
use super::engine::{Durability, Engine, EngineError, Snapshot};
use super::limits::{COMMIT_WAIT_MAX, TRANSACTION_AGE_MAX};
use super::queue::{Queue, Ticket};
use super::reads;
use super::stats::{Counters, StoreStats};
use super::transaction::{
    CommitError, CommitVersion, KeyRange, Rows, Scan, Store, StoreError, Transaction,
};
use super::writes::WriteSet;

/// The order a version has when nothing was written.
const READ_ONLY_ORDER: u16 = u16::MAX;

/// A store on this machine. Clones share it; when the last one is dropped, what
/// is queued is committed, and the engine closes with the last transaction.
#[derive(Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// Stops the committer when the last clone goes.
    committer: Arc<Committer>,
}

/// What the store, its transactions and its committer share.
pub(super) struct Shared {
    pub(super) engine: Box<dyn Engine>,
    pub(super) clock: Box<dyn Clock>,
    pub(super) queue: Queue<Pending>,
    pub(super) counters: Counters,
    published: RwLock<Arc<Published>>,
}

/// What new transactions read.
pub(super) struct Published {
    pub(super) version: u64,
    pub(super) snapshot: Arc<dyn Snapshot>,
}

impl Shared {
    pub(super) fn published(&self) -> Arc<Published> {
        Arc::clone(
            &self
                .published
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(super) fn publish(&self, version: u64, snapshot: Arc<dyn Snapshot>) {
        let published = Arc::new(Published { version, snapshot });
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = published;
    }
}

impl EmbeddedStore {
    /// A store on an engine, with the machine's clock.
    ///
    /// # Errors
    /// [`EngineError`] when the engine cannot be read or no thread be started.
    pub fn new(engine: impl Engine) -> Result<Self, EngineError> {
        Self::with_clock(engine, MonotonicClock::default())
    }

    /// A store on an engine, with a clock of the caller's.
    ///
    /// # Errors
    /// As [`EmbeddedStore::new`].
    pub fn with_clock(engine: impl Engine, clock: impl Clock) -> Result<Self, EngineError> {
        Self::start(engine, clock, 0)
    }

    /// A store whose versions begin at this one or later: for rows from another
    /// store, which had versions of its own.
    ///
    /// # Errors
    /// As [`EmbeddedStore::new`].
    pub fn new_at_least(engine: impl Engine, least: u64) -> Result<Self, EngineError> {
        Self::start(engine, MonotonicClock::default(), least)
    }

    fn start(engine: impl Engine, clock: impl Clock, least: u64) -> Result<Self, EngineError> {
        let snapshot = engine.snapshot()?;
        let version = super::committer::first_version(snapshot.as_ref())?.max(least);
        let shared = Arc::new(Shared {
            engine: Box::new(engine),
            clock: Box::new(clock),
            queue: Queue::default(),
            counters: Counters::default(),
            published: RwLock::new(Arc::new(Published { version, snapshot })),
        });
        let committer = Arc::new(Committer::start(Arc::clone(&shared))?);
        Ok(Self { shared, committer })
    }

    /// A store in memory, for tests.
    ///
    /// # Errors
    /// [`EngineError`] when no thread can be started.
    pub fn in_memory() -> Result<Self, EngineError> {
        Self::new(super::memory::MemoryEngine::default())
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.shared.counters.read()
    }

    /// A durable batch failed: nothing is committed any more, reads go on. Only a
    /// restart, after the cause is gone, ends this.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.committer.has_failed()
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Store for EmbeddedStore {
    type Transaction = EmbeddedTransaction;

    fn begin(&self) -> EmbeddedTransaction {
        EmbeddedTransaction {
            shared: Arc::clone(&self.shared),
            view: None,
            reads: Vec::new(),
            writes: WriteSet::default(),
        }
    }

    /// A commit of nothing, flushed: those before it are too.
    async fn flush(&self) -> Result<(), CommitError> {
        let nothing = self.begin();
        let bytes = nothing.writes.bytes();
        let (shared, pending, answer) = nothing.into_pending(Durability::Flushed);
        let ticket = shared
            .queue
            .push(pending, bytes)
            .map_err(CommitError::Unavailable)?;
        wait(&shared, answer, ticket).await.map(drop)
    }
}

/// A transaction of an [`EmbeddedStore`].
pub struct EmbeddedTransaction {
    shared: Arc<Shared>,
    view: Option<View>,
    reads: Vec<KeyRange>,
    writes: WriteSet,
}

/// What a transaction reads, from its first read on.
struct View {
    published: Arc<Published>,
    since: Duration,
}

impl EmbeddedTransaction {
    /// The version it reads at; from now on that is fixed, if it was not before.
    ///
    /// # Errors
    /// [`StoreError::TooOld`].
    pub fn read_version(&mut self) -> Result<u64, StoreError> {
        self.view().map(|view| view.published.version)
    }

    /// Affected data so far, bytes, as it is limited.
    #[must_use]
    pub fn affected_bytes(&self) -> usize {
        self.writes.bytes()
    }

    /// Begins to read, unless it has, and refuses when that was too long ago.
    fn view(&mut self) -> Result<&View, StoreError> {
        let now = self.shared.clock.now();
        let shared = &self.shared;
        let view = self.view.get_or_insert_with(|| View {
            published: shared.published(),
            since: now,
        });
        if now.saturating_sub(view.since) > TRANSACTION_AGE_MAX {
            return Err(StoreError::TooOld);
        }
        Ok(view)
    }

    fn read(&mut self, key: &[u8], snapshot: bool) -> Result<Option<Bytes>, StoreError> {
        check::readable(key)?;
        let stored = Arc::clone(&self.view()?.published);
        let (value, asked) = reads::get(stored.snapshot.as_ref(), &self.writes, key)?;
        if asked && !snapshot {
            self.conflict(KeyRange::point(key));
        }
        Ok(value)
    }

    fn read_range(&mut self, scan: &Scan) -> Result<Rows, StoreError> {
        check::readable_range(&scan.range)?;
        let stored = Arc::clone(&self.view()?.published);
        let page = reads::scan(stored.snapshot.as_ref(), &self.writes, scan)?;
        if !scan.snapshot {
            self.conflict(reads::covered(scan, &page));
        }
        Ok(page)
    }

    fn conflict(&mut self, range: KeyRange) {
        if !range.is_empty() && self.writes.charge(range.start.len() + range.end.len()) {
            self.reads.push(range);
        }
    }

    async fn commit_as(self, durability: Durability) -> Answer {
        if let Some(error) = self.writes.error() {
            return Err(error.clone());
        }
        if self.writes.is_empty() {
            let published = self
                .view
                .map_or_else(|| self.shared.published(), |v| v.published);
            return Ok(CommitVersion::new(published.version, READ_ONLY_ORDER));
        }
        let bytes = self.writes.bytes();
        let (shared, pending, answer) = self.into_pending(durability);
        let began = shared.clock.now();
        let ticket = shared
            .queue
            .push(pending, bytes)
            .map_err(CommitError::Unavailable)?;
        let answer = wait(&shared, answer, ticket).await;
        if answer.is_ok() {
            let took = shared.clock.now().saturating_sub(began);
            shared.counters.latency.count(took);
        }
        answer
    }

    fn into_pending(
        self,
        durability: Durability,
    ) -> (Arc<Shared>, Pending, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            read_version: self.view.as_ref().map_or(0, |view| view.published.version),
            since: self.view.as_ref().map(|view| view.since),
            reads: self.reads,
            writes: self.writes,
            durability,
            reply,
        };
        (self.shared, pending, answer)
    }
}

/// What the committer answers.
pub(super) type Answer = Result<CommitVersion, CommitError>;

impl Transaction for EmbeddedTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(key, false)
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(key, true)
    }

    async fn scan(&mut self, scan: Scan) -> Result<Rows, StoreError> {
        self.read_range(&scan)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.writes.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.writes.clear(key);
    }

    fn clear_range(&mut self, range: KeyRange) {
        self.writes.clear_range(range);
    }

    fn add(&mut self, key: &[u8], delta: i64) {
        self.writes.add(key, delta);
    }

    fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: usize) {
        self.writes.stamp(key, template, offset);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        // Too old shows at commit, where the age is checked again.
        drop(self.view());
        self.conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.writes.add_conflict(range);
    }

    async fn commit(self) -> Answer {
        self.commit_as(Durability::Flushed).await
    }

    async fn commit_relaxed(self) -> Answer {
        self.commit_as(Durability::Relaxed).await
    }
}

/// Waits for the committer's answer, for a limited time.
async fn wait(shared: &Shared, answer: oneshot::Receiver<Answer>, ticket: Ticket) -> Answer {
    match tokio::time::timeout(COMMIT_WAIT_MAX, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_gone)) => Err(CommitError::Unknown),
        Err(_elapsed) if shared.queue.withdraw(ticket) => {
            Err(CommitError::Unavailable("the commit queue does not move"))
        }
        Err(_elapsed) => Err(CommitError::Unknown),
    }
}
