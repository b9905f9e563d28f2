//! Counters of the HTTP layer. Absent: their names for the outside world.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one shard, or of several when they share it. All only grow, save
/// `connections_open`.
#[derive(Debug, Default)]
pub struct HttpStats {
    /// Connections open now.
    pub connections_open: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections answered with 503 or closed because there were too many.
    pub connections_refused: AtomicU64,
    /// `accept` failures.
    pub accept_errors: AtomicU64,
    /// Requests handed to the service.
    pub requests: AtomicU64,
    /// Bytes received, heads and framing included.
    pub bytes_received: AtomicU64,
    /// Bytes sent, heads included.
    pub bytes_sent: AtomicU64,
    /// Requests refused because their head or framing is malformed.
    pub parse_errors: AtomicU64,
    /// Connections closed because no request came.
    pub idle_timeouts: AtomicU64,
    /// Heads that did not arrive in time.
    pub header_timeouts: AtomicU64,
    /// Request bodies that did not arrive in time.
    pub body_timeouts: AtomicU64,
    /// Responses the client did not take in time.
    pub write_timeouts: AtomicU64,
    /// Connections cut because others waited for the buffers they held while their
    /// clients did nothing. Counted as a body or write timeout too.
    pub stalled: AtomicU64,
    /// Response bodies broken off because the service could not finish them.
    pub responses_broken: AtomicU64,
    /// Connections the client ended in the middle of a request or response.
    pub client_aborts: AtomicU64,
    /// TLS handshakes that succeeded.
    pub tls_handshakes: AtomicU64,
    /// Handshakes that did not end in time.
    pub tls_timeouts: AtomicU64,
    /// Handshakes the client left.
    pub tls_aborts: AtomicU64,
    /// Handshakes without agreement, or something that is not TLS.
    pub tls_refused: AtomicU64,
    /// Connections that spoke HTTP without TLS to the TLS endpoint.
    pub tls_plain_http: AtomicU64,
    /// Connections ended for want of memory for TLS.
    pub tls_crowded: AtomicU64,
    /// Sessions ended because a record was not right.
    pub tls_record_errors: AtomicU64,
}

/// Adds `amount` to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Adds one to a counter.
pub(crate) fn bump(counter: &AtomicU64) {
    add(counter, 1);
}

/// Counts an open connection while it lives.
pub(crate) struct OpenConnection(std::sync::Arc<HttpStats>);

impl OpenConnection {
    pub(crate) fn new(stats: &std::sync::Arc<HttpStats>) -> Self {
        bump(&stats.connections);
        bump(&stats.connections_open);
        OpenConnection(std::sync::Arc::clone(stats))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
