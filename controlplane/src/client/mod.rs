//! The control plane as a worker sees it: its metadata calls, its session, its
//! lease. Runs on tokio; who calls may be on any runtime. Absent: what a worker does
//! with its slots.

mod attend;
mod calls;
mod link;
mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quickwater_proto::{MetadataError, NodeId, SlotTable};
use quickwater_rpc::cluster::order::What;
use quickwater_rpc::cluster::{News, Operation, OrderAnswer};
use tokio::sync::{Notify, mpsc, watch};

pub use calls::KeptNames;
pub use link::{Link, LinkError, clock_of};
pub use queue::{CALL_WAIT, UNREACHED_WAIT};

pub use crate::cluster::{Moved, Part, Peers, Position};

use queue::Queued;

/// Calls that wait; more are refused.
const QUEUE_MAX: usize = 4_096;

/// How to reach the control plane.
#[derive(Clone)]
pub struct Access {
    /// Where it is, `host:port`; a name is looked up for every session.
    pub address: String,
    /// PEM: who signs certificates of the cluster.
    pub authority: Vec<u8>,
    /// PEM: this worker's certificate.
    pub certificate: Vec<u8>,
    /// PEM: its key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What a worker says of itself when it registers.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// Its name.
    pub node: NodeId,
    /// Where other workers reach it, `host:port`.
    pub advertise: String,
    /// Where it stands.
    pub zone: String,
    /// Bytes of its cache.
    pub capacity_bytes: u64,
    /// Where its S3 endpoint listens.
    pub s3_address: String,
    /// Its cache store.
    pub store: Vec<u8>,
    /// Its data-plane threads.
    pub shards: u32,
    /// Version of its program.
    pub version: String,
    /// The cluster its directory belongs to; empty: none yet.
    pub cluster: String,
    /// How far the metadata were when its directory was told last.
    pub seen: Option<Position>,
}

/// How a worker is, said with each heartbeat.
#[derive(Debug, Clone, Default)]
pub struct Condition {
    /// For people.
    pub state: String,
    /// Bytes of its cache in use.
    pub used_bytes: u64,
    /// Bytes of it that no UFS has.
    pub dirty_bytes: u64,
    /// It has bytes, or knows of changes, that no UFS has.
    pub holds: bool,
    /// Changes that it has queued for UFSs.
    pub changes: u64,
    /// Objects that no UFS is to get.
    pub transient_objects: u64,
    /// Copies that it keeps for other workers; `None`: it does not say.
    pub copies_kept: Option<u64>,
    /// Bodies that no UFS has, and that are neither queued nor TRANSIENT nor copies: parts of
    /// open uploads, and what is being written. `None`: it does not say; nor does it know
    /// while it has changes or TRANSIENT objects.
    pub parts_held: Option<u64>,
    /// It knows that it is to get rid of what only it has.
    pub draining: bool,
    /// Optional parts of it, and its certificate.
    pub parts: Vec<Part>,
    /// Slots it was asked for that it can give away although it `holds` something.
    pub ready: Vec<usize>,
    /// It ends soon, and wants no slots.
    pub stopping: bool,
    /// What its process has done since it began; `None`: not known yet.
    pub moved: Option<Moved>,
}

/// What the worker does with what the control plane says. Nothing here may wait long:
/// heartbeats wait for it.
#[tonic::async_trait]
pub trait Attendant: Send + Sync + 'static {
    /// How it is.
    fn condition(&self) -> Condition;
    /// A session is open, its number, and this was the table then. `false`: others may have
    /// got slots of the session before without this worker having let go of them, so what
    /// was begun in it must not be committed any more.
    fn opened(&self, session: u64, table: &SlotTable) -> bool;
    /// Whether what became of a change has not been known since the session opened: the
    /// next session fences the change, and what it left is asked then.
    fn is_stuck(&self) -> bool;
    /// Until when it may answer for its slots, by the cluster's clock
    /// ([`crate::cluster::boottime`]).
    fn granted(&self, until: Duration);
    /// Goes by a new table; answers the slots taken by it that it cannot give away yet.
    /// When it returns, nothing is under way in those it gave.
    /// It may be broken off at any await, and another table is gone by then.
    async fn go_by(&self, table: Arc<SlotTable>) -> Vec<usize>;
    /// Whether going by the table has met an error and is tried again: a newer table may be
    /// what ends that, and is gone by instead.
    fn is_held_up(&self) -> bool;
    /// What is known of buckets must be read again.
    fn buckets_changed(&self);
    /// Whether it is to get rid of what only it has.
    fn draining(&self, draining: bool);
    /// Slots of this worker that others should have: these and no others.
    fn wanted(&self, slots: Vec<usize>);
    /// Where other workers are, and the key to talk to them.
    fn met(&self, peers: Peers);
    /// Carries out an order; each in a task of its own.
    async fn obey(&self, what: What) -> OrderAnswer;
}

/// Makes calls. Clones share one queue.
#[derive(Debug, Clone)]
pub struct ControlClient {
    shared: Arc<Shared>,
    judged: Judged,
}

/// By which table the keys that a call changes were taken for this worker's own.
#[derive(Debug, Clone, Copy)]
enum Judged {
    /// The newest when the call is made.
    ByNewest,
    By(u64),
    /// They were, and others have had them since.
    Lost,
}

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Queued>,
    stats: ClientStats,
    registered: watch::Receiver<Option<Registered>>,
    /// Set when the worker says goodbye.
    leave: watch::Sender<bool>,
    /// Something is to be said before the next heartbeat is due.
    beat: Notify,
    /// Number of the buckets as they were told of last.
    buckets: AtomicU64,
    /// Version of the path policies as it was told last; 0: not told yet, or none.
    policies: AtomicU64,
    /// How far the metadata were at the most.
    seen: watch::Sender<Option<Position>>,
    /// What orders the newest commit that an answer told of.
    known: AtomicU64,
    /// Number of the newest table that was told. Set before slots of it are taken, and after
    /// those are lost that others had when its session opened.
    epoch: AtomicU64,
}

impl Shared {
    fn leaving(&self) -> bool {
        *self.leave.borrow()
    }

    /// The control plane said how far the metadata are.
    fn saw(&self, position: Position) {
        self.known.fetch_max(position.version, Ordering::Relaxed);
        self.seen.send_if_modified(|seen| {
            let newer = seen
                .is_none_or(|seen| seen.term != position.term || seen.version < position.version);
            if newer {
                *seen = Some(position);
            }
            newer
        });
    }

    fn news(&self, news: &News, attendant: &Arc<dyn Attendant>) {
        self.policies.store(news.policies, Ordering::Release);
        if self.buckets.swap(news.buckets, Ordering::AcqRel) != news.buckets {
            attendant.buckets_changed();
        }
    }
}

/// A session that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its number.
    pub session: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// The table in force.
    pub table: Arc<SlotTable>,
    /// How far the metadata were.
    pub position: Option<Position>,
    /// The directory has seen newer metadata, which an operator gave up: what it has and
    /// no row names is to be set aside.
    pub undone: bool,
}

/// Kinds of calls: one more than the largest number of an [`Operation`].
const OPERATIONS: usize = Operation::Names as usize + 1;

/// How often what was asked.
#[derive(Debug)]
pub struct CallCounts([AtomicU64; OPERATIONS]);

impl Default for CallCounts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl CallCounts {
    fn made(&self, operation: i32) {
        let counter = usize::try_from(operation)
            .ok()
            .and_then(|at| self.0.get(at));
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each kind of call by its name, as `commit_object`, and how many were made.
    pub fn each(&self) -> impl Iterator<Item = (String, u64)> {
        self.0.iter().zip(0..).filter_map(|(made, number)| {
            let operation = Operation::try_from(number).ok()?;
            let name = operation.as_str_name().to_lowercase();
            (operation != Operation::Unspecified).then(|| (name, made.load(Ordering::Relaxed)))
        })
    }
}

/// Counters of a client.
#[derive(Debug, Default)]
pub struct ClientStats {
    /// Calls made.
    pub calls: CallCounts,
    /// Calls sent again after a session ended.
    pub repeated: AtomicU64,
    /// Calls whose outcome nobody knows.
    pub unknown: AtomicU64,
    /// Calls that were not made: the control plane was out of reach.
    pub unreached: AtomicU64,
    /// Sessions opened.
    pub sessions: AtomicU64,
    /// Whether a session is open.
    pub connected: AtomicBool,
}

impl ControlClient {
    /// A client, and the link that does its work once it is run.
    #[must_use]
    pub fn new(access: Access, introduction: Introduction) -> (Self, Link) {
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        let (sender, registered) = watch::channel(None);
        let shared = Arc::new(Shared {
            queue,
            stats: ClientStats::default(),
            registered,
            leave: watch::channel(false).0,
            beat: Notify::new(),
            buckets: AtomicU64::new(0),
            policies: AtomicU64::new(0),
            seen: watch::channel(introduction.seen).0,
            known: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
        });
        let link = Link::new(access, introduction, Arc::clone(&shared), calls, sender);
        (
            Self {
                shared,
                judged: Judged::ByNewest,
            },
            link,
        )
    }

    /// The same for changes of keys that are taken for this worker's own from now on: they are
    /// refused if others have had them since, and at once if `is_lost` says so.
    #[must_use]
    pub fn judging(&self, is_lost: impl FnOnce() -> bool) -> Self {
        // First this: a newer table is told after what was lost by it is known.
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        let judged = match is_lost() {
            true => Judged::Lost,
            false => Judged::By(epoch),
        };
        let shared = Arc::clone(&self.shared);
        Self { shared, judged }
    }

    /// The table to be named by a change.
    fn epoch(&self) -> Result<u64, MetadataError> {
        match self.judged {
            Judged::ByNewest => Ok(self.shared.epoch.load(Ordering::Acquire)),
            Judged::By(epoch) => Ok(epoch),
            Judged::Lost => Err(MetadataError::Unavailable(
                "the key was another worker's meanwhile".into(),
            )),
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &ClientStats {
        &self.shared.stats
    }

    /// Whether a session is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.stats.connected.load(Ordering::Relaxed)
    }

    /// Sends a heartbeat now: how the worker is has changed.
    pub fn beat(&self) {
        self.shared.beat.notify_one();
    }

    /// Says goodbye: the slots go to others at once, and the link ends.
    pub fn leave(&self) {
        self.shared.leave.send_replace(true);
    }

    /// Another number when buckets, mounts or policies changed, as the control plane told
    /// last.
    #[must_use]
    pub fn told_names(&self) -> (u64, u64) {
        (
            self.shared.buckets.load(Ordering::Acquire),
            self.told_policies(),
        )
    }

    /// Version of the path policies in force as the control plane told last.
    #[must_use]
    pub fn told_policies(&self) -> u64 {
        self.shared.policies.load(Ordering::Acquire)
    }

    /// How far the metadata are as the control plane told, the latest first. Who starts
    /// after the newest of it was not written down may be taken in by older ones.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<Option<Position>> {
        self.shared.seen.subscribe()
    }

    /// Waits for the first session.
    pub async fn registered(&self) -> Option<Registered> {
        let mut registered = self.shared.registered.clone();
        let found = registered.wait_for(Option::is_some).await;
        found.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_call_is_counted_by_its_name() {
        let counts = CallCounts::default();
        counts.made(Operation::Bucket as i32);
        counts.made(Operation::Names as i32);
        counts.made(Operation::Names as i32);
        counts.made(i32::MAX);
        counts.made(-1);
        let made: Vec<_> = counts.each().filter(|(_, made)| *made > 0).collect();
        assert_eq!(made, [("bucket".to_owned(), 1), ("names".to_owned(), 2)]);
        // A new operation has to have a counter.
        assert!(Operation::try_from(i32::try_from(OPERATIONS).unwrap()).is_err());
        assert_eq!(counts.each().count(), OPERATIONS - 1);
    }
}
