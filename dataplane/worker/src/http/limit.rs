//! Every limit and deadline of the HTTP layer, in one place. No behaviour here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Most bytes of a request head (request line and header fields).
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a request.
pub const HEADERS_MAX: usize = 100;
/// What an idle connection holds for the next request's head.
pub(crate) const HEAD_BYTES_START: usize = 4 * 1024;
/// Most empty lines tolerated in front of a request line (RFC 9112 §2.2).
pub(crate) const BLANK_LINES_MAX: usize = 4;
/// Longest chunk-size line with its extensions (RFC 9112 §7.1.1).
pub(crate) const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Most bytes of a chunked body's trailer section.
pub(crate) const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Read-ahead when framing lines are expected between payload bytes. Small: what
/// is read here is copied once, what goes to `read_into` is not.
pub const FRAMING_READ_BYTES: usize = 4 * 1024;
/// Read size when bytes are thrown away.
pub(crate) const DISCARD_READ_BYTES: usize = 16 * 1024;
/// Bodies of at most this many bytes are copied behind the head into one send.
pub(crate) const INLINE_BODY_BYTES_MAX: usize = 64 * 1024;
/// Most bytes thrown away in a lingering close.
pub(crate) const LINGER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most refused connections that a shard answers at the same time; beyond that
/// they are closed without a word.
pub(crate) const REFUSALS_MAX: usize = 64;
/// Pause after `accept` failed for want of descriptors or memory.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long an idle connection may still send a request once the server stops.
pub(crate) const STOPPING_IDLE: Duration = Duration::from_millis(200);
/// How long aborted connections get to unwind after the grace period.
pub(crate) const UNWIND_LIMIT: Duration = Duration::from_secs(5);
/// Most TLS handshakes under way on a shard; others wait for their turn.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// How long a client that does not read keeps us from saying goodbye in TLS.
pub(crate) const GOODBYE_WAIT: Duration = Duration::from_secs(1);
/// How long a sender sleeps at first, and at most, while a client of this node reads what
/// did not go by TCP.
pub(crate) const BYPASS_PAUSE_MIN: Duration = Duration::from_millis(1);
pub(crate) const BYPASS_PAUSE_MAX: Duration = Duration::from_millis(16);
/// Bytes sent so before the sender asks how many wait.
pub(crate) const BYPASS_ASK_BYTES: usize = 1024 * 1024;
/// So many stalled clients in a row, and connections go by TCP.
pub(crate) const BYPASS_STALLS_MAX: usize = 3;
/// `Retry-After` of a refused connection, seconds.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

/// Deadlines and sizes an operator may want to change.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// From the first byte of a head to its last; and for a TLS handshake.
    pub header_timeout: Duration,
    /// Between two requests on a connection.
    pub idle_timeout: Duration,
    /// Longest wait for the next bytes of a request body.
    pub body_timeout: Duration,
    /// Longest wait for the client to take the next bytes of a response.
    pub write_timeout: Duration,
    /// A connection that holds buffers and whose client did nothing for so long is
    /// cut while requests wait for buffers.
    pub stall_timeout: Duration,
    /// Bytes per second a transfer must average over the time spent waiting for
    /// the client, after a grace of one `body_timeout` or `write_timeout`.
    pub min_rate: u64,
    /// Unread request body thrown away to keep a connection; more closes it.
    pub drain_bytes: u64,
    /// How long a closing connection swallows what the client still sends, so
    /// that the client can read our answer.
    pub linger: Duration,
    /// How long requests may run after a stop was asked for.
    pub shutdown_grace: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(3),
            min_rate: 1024,
            drain_bytes: 256 * 1024,
            linger: Duration::from_secs(3),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

impl HttpConfig {
    /// How often deadlines are looked at: a quarter of the shortest, within
    /// 10 ms and 500 ms. Deadlines pass up to two of these late.
    pub(crate) fn tick(&self) -> Duration {
        let shortest = self
            .header_timeout
            .min(self.idle_timeout)
            .min(self.body_timeout)
            .min(self.write_timeout)
            .min(self.stall_timeout)
            .min(self.linger);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_millis(500))
    }
}

/// Most connections of the process, shared by all shards.
#[derive(Debug)]
pub struct ConnectionLimit {
    max: usize,
    open: AtomicUsize,
}

impl ConnectionLimit {
    /// Allows `max` connections at the same time.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(ConnectionLimit {
            max,
            open: AtomicUsize::new(0),
        })
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place, given back when the permit is dropped; `None` when full.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let previous = self.open.fetch_add(1, Ordering::Relaxed);
        let permit = ConnectionPermit {
            limit: Arc::clone(self),
        };
        (previous < self.max).then_some(permit)
    }
}

/// A place under the [`ConnectionLimit`].
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    limit: Arc<ConnectionLimit>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_limit_refuses_and_recovers() {
        let limit = ConnectionLimit::new(1);
        let first = limit.enter();
        assert!(first.is_some());
        assert!(limit.enter().is_none());
        assert_eq!(limit.open(), 1);
        drop(first);
        assert!(limit.enter().is_some());
        assert_eq!(limit.open(), 0);
    }
}
