//! Counters of what workers do for each other. Absent: their names for the outside
//! world.

use std::sync::atomic::AtomicU64;

use quickwater_peer::Task;

/// Tasks by name, in the order they are counted in.
pub const TASKS: [&str; 16] = [
    "relay",
    "look_again",
    "hides_below",
    "settle_bucket",
    "delete_keys",
    "copy_source",
    "store_copy",
    "fetch_copy",
    "look_at_copies",
    "has_copies",
    "read_stripe",
    "count_chunks",
    "forget_chunks",
    "take_connection",
    "send_on",
    "connections_ended",
];

/// Ways to fail by name, in the order they are counted in.
pub const FAILURES: [&str; 6] = [
    "no_owner",
    "unreached",
    "not_here",
    "busy",
    "broken",
    "protocol",
];

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody owns the slot now.
    NoOwner,
    /// No connection to it.
    Unreached,
    /// It says that the slot is not its own, or does not know the key of the cluster.
    NotHere,
    /// It, or this worker, has too much to do.
    Busy,
    /// The connection broke, or the answer did not come.
    Broken,
    /// It sent what is no answer.
    Protocol,
}

/// Counters of a process. All only grow, save those of connections open now.
#[derive(Debug, Default)]
pub struct PeerStats {
    /// Calls made, by task.
    pub made: [AtomicU64; TASKS.len()],
    /// Calls of others served, by task.
    pub served: [AtomicU64; TASKS.len()],
    /// Calls that failed, by way.
    pub failed: [AtomicU64; FAILURES.len()],
    /// Calls of others that were refused before they began.
    pub refused: AtomicU64,
    /// Bytes of bodies sent.
    pub bytes_sent: AtomicU64,
    /// Bytes of bodies received.
    pub bytes_received: AtomicU64,
    /// Connections to others so far.
    pub connected: AtomicU64,
    /// Connections of others so far.
    pub accepted: AtomicU64,
    /// Connections to others open now.
    pub open_out: AtomicU64,
    /// Connections of others open now.
    pub open_in: AtomicU64,
    /// Connections refused: no certificate of the cluster, another protocol, no memory.
    pub strangers: AtomicU64,
}

impl PeerStats {
    pub(crate) fn fail(&self, failure: Failure) {
        let at = match failure {
            Failure::NoOwner => 0,
            Failure::Unreached => 1,
            Failure::NotHere => 2,
            Failure::Busy => 3,
            Failure::Broken => 4,
            Failure::Protocol => 5,
        };
        crate::peer::stats::bump(&self.failed[at]);
    }
}

/// Where a task is counted.
pub(crate) fn task_number(task: Task) -> Option<usize> {
    match task {
        Task::Unspecified => None,
        Task::Relay => Some(0),
        Task::LookAgain => Some(1),
        Task::HidesBelow => Some(2),
        Task::SettleBucket => Some(3),
        Task::DeleteKeys => Some(4),
        Task::CopySource => Some(5),
        Task::StoreCopy => Some(6),
        Task::FetchCopy => Some(7),
        Task::LookAtCopies => Some(8),
        Task::HasCopies => Some(9),
        Task::ReadStripe => Some(10),
        Task::CountChunks => Some(11),
        Task::ForgetChunks => Some(12),
        Task::TakeConnection => Some(13),
        Task::SendOn => Some(14),
        Task::ConnectionsEnded => Some(15),
    }
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, std::sync::atomic::Ordering::Relaxed);
}

pub(crate) fn bump(counter: &AtomicU64) {
    add(counter, 1);
}

/// Counts something that is open while it lives.
#[derive(Debug)]
pub(crate) struct Open(std::sync::Arc<PeerStats>, fn(&PeerStats) -> &AtomicU64);

impl Open {
    pub(crate) fn new(
        stats: &std::sync::Arc<PeerStats>,
        which: fn(&PeerStats) -> &AtomicU64,
    ) -> Self {
        bump(which(stats));
        Self(std::sync::Arc::clone(stats), which)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
