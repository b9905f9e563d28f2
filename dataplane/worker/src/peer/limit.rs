//! Every limit and deadline between workers, in one place. No behaviour here.

use std::time::Duration;

/// Connections of a shard to one worker, in use and idle; more requests wait.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// Idle connections of a shard to one worker that are kept for [`IDLE_KEPT`]. What many
/// requests at once left behind beyond them is kept for [`SURPLUS_KEPT`]: under load each
/// is wanted again at once, and a new one costs both sides a handshake.
pub(crate) const IDLE_MAX: usize = 16;
/// Connections a shard takes from other workers.
pub(crate) const GUESTS_MAX: usize = 4_096;
/// How long an idle connection is kept by who opened it; the other side keeps it
/// longer, so that it is not cut in the moment it is used again.
pub(crate) const IDLE_KEPT: Duration = Duration::from_secs(30);
/// How long idle connections beyond [`IDLE_MAX`] are kept.
pub(crate) const SURPLUS_KEPT: Duration = Duration::from_secs(2);
/// How long who was called waits for the next request.
pub(crate) const IDLE_WAIT: Duration = Duration::from_secs(90);
/// Longest wait for a connection, its handshake included.
pub(crate) const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// Longest wait for a place among the connections to a worker.
pub(crate) const PLACE_WAIT: Duration = Duration::from_secs(5);
/// Longest wait of a connection for memory to receive in, while others have it.
pub(crate) const MEMORY_WAIT: Duration = Duration::from_secs(5);
/// Longest silence inside a frame.
pub(crate) const FRAME_WAIT: Duration = Duration::from_secs(60);
/// Longest silence between the pieces of a body. Clients may be as slow as at their own
/// worker, which is who loses patience with them.
pub(crate) const PIECE_WAIT: Duration = Duration::from_secs(900);
/// A connection that holds buffers and did nothing for so long is cut while requests wait
/// for buffers.
pub(crate) const STALL_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for an answer. Slow UFSs take minutes to complete large uploads; a host
/// that is gone shows within [`KEEPALIVE`]s, a worker that froze when its slots
/// are given to others.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(900);
/// Longest silence of a worker that keeps a copy, while its owner's client waits.
pub(crate) const COPY_WAIT: Duration = Duration::from_secs(15);
/// Longest wait for a piece of a large object that another worker is to have, which may have
/// to fetch it; then it is read from the UFS here.
pub(crate) const STRIPE_WAIT: Duration = Duration::from_secs(20);
/// How long a request looks for an owner that takes it: slots on their way, a worker
/// that restarts.
pub(crate) const RELAY_WAIT: Duration = Duration::from_secs(3);
/// Pause before it is tried again.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Bytes per second a transfer must average over the time spent waiting.
pub(crate) const MIN_RATE: u64 = 1024;
/// How often deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Silence after which a host is asked whether it lives, how often, and how many
/// answers may be missing.
pub(crate) const KEEPALIVE: (Duration, Duration, u32) =
    (Duration::from_secs(3), Duration::from_secs(2), 3);
/// How long capabilities are still signed with the key before, when there is a new one:
/// until then all others have it.
pub(crate) const KEY_SETTLES: Duration = Duration::from_secs(5);
/// How long what the key before has signed is taken.
pub(crate) const KEY_KEPT: Duration = Duration::from_secs(75);
/// How long calls in flight may go on once our own clients are finished, at least; else for
/// as long as those might have.
pub(crate) const GRACE_MIN: Duration = Duration::from_secs(1);
/// How long aborted connections get to unwind after that.
pub(crate) const UNWIND: Duration = Duration::from_secs(1);
