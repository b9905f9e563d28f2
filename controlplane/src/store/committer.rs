//! The one thread that commits: takes all that waits, checks each against what
//! was written since it read, writes the valid ones as one batch, then answers
//! all. A batch is durable when one of its commits is to be; a relaxed one is
//! flushed soon after. After a failed batch or flush it commits nothing more.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::conflicts::{ConflictWindow, Verdict};
use super::core::{Answer, Shared};
use super::engine::{Batch, Durability, EngineError, Snapshot};
use super::limits::{
    CLEARED_ROWS_MAX, COMMIT_WAIT_MAX, TRANSACTION_AGE_MAX, UNFLUSHED_BYTES_MAX, UNFLUSHED_TIME_MAX,
};
use super::queue::Taken;
use super::stats::Counters;
use super::transaction::{CommitError, CommitVersion, KeyRange};
use super::writes::{Write, WriteSet, stamped, sum};

/// Where the last version is kept, among the system's keys.
const VERSION_KEY: &[u8] = b"\xff/version";
/// Versions left out when a store opens: as many batches may have been lost by a
/// disk that lied, and their versions are still not given out twice.
const VERSIONS_SKIPPED_AT_OPEN: u64 = 1_000_000;
/// How often a closing store looks whether the thread has ended.
const CLOSE_POLL: Duration = Duration::from_millis(1);
/// Why a store that failed refuses.
const FAILED: &str = "the store failed to write and takes no more commits";

/// A transaction that waits for its commit.
pub(super) struct Pending {
    pub(super) read_version: u64,
    /// When it first read.
    pub(super) since: Option<Duration>,
    pub(super) reads: Vec<KeyRange>,
    pub(super) writes: WriteSet,
    pub(super) durability: Durability,
    pub(super) reply: oneshot::Sender<Answer>,
}

/// The committer's thread.
pub(super) struct Committer {
    shared: Arc<Shared>,
    failed: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The version a store begins with after opening.
pub(super) fn first_version(snapshot: &dyn Snapshot) -> Result<u64, EngineError> {
    let Some(stored) = snapshot.get(VERSION_KEY)? else {
        return Ok(VERSIONS_SKIPPED_AT_OPEN);
    };
    let bytes = stored.as_ref().try_into();
    let bytes = bytes.map_err(|_| EngineError("the row of the last version is damaged".into()))?;
    u64::from_be_bytes(bytes)
        .checked_add(VERSIONS_SKIPPED_AT_OPEN)
        .ok_or_else(|| EngineError("the row of the last version is damaged".into()))
}

impl Committer {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Self, EngineError> {
        let failed = Arc::new(AtomicBool::new(false));
        let mut work = Work::new(Arc::clone(&shared), Arc::clone(&failed));
        let thread = std::thread::Builder::new()
            .name("qw-commit".into())
            .spawn(move || work.run())
            .map_err(|error| EngineError(format!("cannot start the committer: {error}")))?;
        Ok(Self {
            shared,
            failed,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shared.queue.close("the store is closed");
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return };
        let began = Instant::now();
        while !thread.is_finished() {
            if began.elapsed() > COMMIT_WAIT_MAX {
                tracing::error!("the metadata store does not finish its last commits");
                return;
            }
            std::thread::park_timeout(CLOSE_POLL);
        }
        if thread.join().is_err() {
            tracing::error!("the committer of the metadata store panicked");
        }
    }
}

/// What only the committer's thread touches.
struct Work {
    shared: Arc<Shared>,
    failed: Arc<AtomicBool>,
    window: ConflictWindow,
    version: u64,
    unflushed: Option<Unflushed>,
}

/// Relaxed batches that no flush has covered.
struct Unflushed {
    /// When the oldest was applied.
    since: Instant,
    /// Of their rows.
    bytes: usize,
}

impl Unflushed {
    fn flush_at(&self) -> Instant {
        self.since + UNFLUSHED_TIME_MAX
    }

    fn is_due(&self) -> bool {
        self.bytes >= UNFLUSHED_BYTES_MAX || Instant::now() >= self.flush_at()
    }
}

/// Transactions that were accepted, with the versions they will have.
type Accepted = Vec<(oneshot::Sender<Answer>, CommitVersion)>;

/// The writes of a group so far: the newest value of each row.
type Overlay = BTreeMap<Bytes, Option<Bytes>>;

impl Work {
    fn new(shared: Arc<Shared>, failed: Arc<AtomicBool>) -> Self {
        let version = shared.published().version;
        Self {
            shared,
            failed,
            window: ConflictWindow::new(version),
            version,
            unflushed: None,
        }
    }

    fn run(&mut self) {
        loop {
            let deadline = self.unflushed.as_ref().map(Unflushed::flush_at);
            match self.shared.queue.take_group(deadline) {
                Taken::Group(group) => self.commit(group),
                Taken::Nothing => self.flush(),
                Taken::Closed => break,
            }
        }
        self.flush();
    }

    fn commit(&mut self, group: Vec<Pending>) {
        let version = self.version + 1;
        let published = self.shared.published();
        let mut overlay = Overlay::new();
        let mut accepted = Accepted::with_capacity(group.len());
        let mut durability = Durability::Relaxed;
        for pending in group {
            let order = u16::try_from(accepted.len()).unwrap_or(u16::MAX);
            let stamp = CommitVersion::new(version, order);
            match self.accept(&pending, stamp, published.snapshot.as_ref(), &mut overlay) {
                Ok(()) => {
                    record(&mut self.window, version, &pending.writes);
                    if pending.durability == Durability::Flushed {
                        durability = Durability::Flushed;
                    }
                    accepted.push((pending.reply, stamp));
                }
                Err(error) => self.refuse(pending.reply, error),
            }
        }
        if !accepted.is_empty() {
            self.apply(version, overlay, accepted, durability);
        }
        self.window.advance(self.shared.clock.now(), self.version);
    }

    /// Checks one transaction and lays its writes over the group's.
    fn accept(
        &mut self,
        pending: &Pending,
        stamp: CommitVersion,
        base: &dyn Snapshot,
        overlay: &mut Overlay,
    ) -> Result<(), CommitError> {
        let age = pending
            .since
            .map(|since| self.shared.clock.now().saturating_sub(since));
        if age.is_some_and(|age| age > TRANSACTION_AGE_MAX) {
            return Err(CommitError::TooOld);
        }
        match self.window.judge(pending.read_version, &pending.reads) {
            Verdict::Valid => {}
            Verdict::Conflict => return Err(CommitError::Conflict),
            Verdict::TooOld => return Err(CommitError::TooOld),
        }
        let rows = resolve(&pending.writes, stamp, base, overlay)?;
        overlay.extend(rows);
        Ok(())
    }

    fn apply(
        &mut self,
        version: u64,
        mut overlay: Overlay,
        accepted: Accepted,
        mut durability: Durability,
    ) {
        let row = Bytes::copy_from_slice(&version.to_be_bytes());
        overlay.insert(Bytes::from_static(VERSION_KEY), Some(row));
        if self.unflushed.as_ref().is_some_and(Unflushed::is_due) {
            durability = Durability::Flushed;
        }
        let batch: Batch = overlay.into_iter().collect();
        let bytes = batch.iter().map(row_bytes).sum();
        let began = self.shared.clock.now();
        let applied = self.shared.engine.apply(batch, durability);
        Counters::add(&self.shared.counters.batches, 1);
        match durability {
            Durability::Flushed => self.flushed(began),
            Durability::Relaxed => self.relaxed(bytes),
        }
        match applied.and_then(|()| self.shared.engine.snapshot()) {
            Ok(snapshot) => {
                self.version = version;
                self.shared.publish(version, snapshot);
                Counters::add(&self.shared.counters.commits, accepted.len() as u64);
                for (reply, stamp) in accepted {
                    answer(reply, Ok(stamp));
                }
            }
            Err(error) => self.fail(&error, accepted),
        }
    }

    /// Flushes relaxed batches, if there are any.
    fn flush(&mut self) {
        if self.unflushed.is_none() || self.failed.load(Ordering::Acquire) {
            return;
        }
        let began = self.shared.clock.now();
        let flushed = self.shared.engine.flush();
        self.flushed(began);
        if let Err(error) = flushed {
            self.fail(&error, Accepted::new());
        }
    }

    /// A flush that began then has ended.
    fn flushed(&mut self, began: Duration) {
        let counters = &self.shared.counters;
        let took = self.shared.clock.now().saturating_sub(began).as_micros();
        Counters::add(&counters.flushes, 1);
        Counters::add(&counters.flush_us, u64::try_from(took).unwrap_or(u64::MAX));
        self.unflushed = None;
    }

    /// A relaxed batch was applied.
    fn relaxed(&mut self, bytes: usize) {
        let unflushed = self.unflushed.get_or_insert_with(|| Unflushed {
            since: Instant::now(),
            bytes: 0,
        });
        unflushed.bytes += bytes;
    }

    /// Stops committing for good: what the disk holds now is not known.
    fn fail(&self, error: &EngineError, accepted: Accepted) {
        tracing::error!(%error, commits = accepted.len(), "{FAILED}");
        self.failed.store(true, Ordering::Release);
        let waiting = self.shared.queue.fail(FAILED);
        Counters::add(&self.shared.counters.unknown, accepted.len() as u64);
        for (reply, _) in accepted {
            answer(reply, Err(CommitError::Unknown));
        }
        for pending in waiting {
            self.refuse(pending.reply, CommitError::Unavailable(FAILED));
        }
    }

    fn refuse(&self, reply: oneshot::Sender<Answer>, error: CommitError) {
        let counters = &self.shared.counters;
        let counter = match error {
            CommitError::Conflict => &counters.conflicts,
            _ => &counters.refused,
        };
        Counters::add(counter, 1);
        answer(reply, Err(error));
    }
}

impl Drop for Work {
    /// Should the thread ever panic, nobody waits for it.
    fn drop(&mut self) {
        for pending in self.shared.queue.fail("the committer has ended") {
            answer(
                pending.reply,
                Err(CommitError::Unavailable("the committer has ended")),
            );
        }
    }
}

/// Whoever does not wait for the answer any more has given it up.
fn answer(reply: oneshot::Sender<Answer>, answer: Answer) {
    drop(reply.send(answer));
}

fn row_bytes((key, value): &(Bytes, Option<Bytes>)) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

/// Remembers what a transaction wrote.
fn record(window: &mut ConflictWindow, version: u64, writes: &WriteSet) {
    for (key, _) in writes.keys() {
        window.record_key(version, key);
    }
    for range in writes.cleared() {
        window.record_range(version, range);
    }
    for range in writes.conflicts() {
        window.record_range(version, range.clone());
    }
}

/// The rows a transaction writes, given what is there.
fn resolve(
    writes: &WriteSet,
    stamp: CommitVersion,
    base: &dyn Snapshot,
    overlay: &Overlay,
) -> Result<Vec<(Bytes, Option<Bytes>)>, CommitError> {
    let mut rows = Vec::new();
    for range in writes.cleared() {
        clear(&range, base, overlay, &mut rows)?;
    }
    for (key, write) in writes.keys() {
        let value = match write {
            Write::Set(value) => Some(value.clone()),
            Write::Clear => None,
            Write::Stamp { template, offset } => Some(stamped(template, *offset, stamp)),
            Write::Add(delta) => {
                let stored = match overlay.get(key) {
                    Some(value) => value.clone(),
                    None => base.get(key).map_err(unreadable)?,
                };
                Some(sum(stored.as_deref(), *delta))
            }
        };
        rows.push((key.clone(), value));
    }
    Ok(rows)
}

/// Removes every row of a range.
fn clear(
    range: &KeyRange,
    base: &dyn Snapshot,
    overlay: &Overlay,
    rows: &mut Vec<(Bytes, Option<Bytes>)>,
) -> Result<(), CommitError> {
    let bounds = (
        Bound::Included(range.start.as_ref()),
        Bound::Excluded(range.end.as_ref()),
    );
    let written = overlay
        .range::<[u8], _>(bounds)
        .filter(|(_, value)| value.is_some());
    rows.extend(written.map(|(key, _)| (key.clone(), None)));
    for row in base.scan(range, false) {
        rows.push((row.map_err(unreadable)?.key, None));
        if rows.len() > CLEARED_ROWS_MAX {
            return Err(CommitError::TooLarge("rows removed by range"));
        }
    }
    Ok(())
}

fn unreadable(error: EngineError) -> CommitError {
    tracing::error!(%error, "the metadata store cannot be read");
    CommitError::Unavailable("the metadata store cannot be read")
}
