//! Whether connections to the service address may go to the worker of this node.

use core::sync::atomic::AtomicU64;

/// An address of IPv6, or one of IPv4 in the form ::ffff:a.b.c.d, as four words and its
/// port as the fifth, all in network byte order.
pub type Endpoint = [u32; 5];

/// A beat older than this counts as none, nanoseconds: the worker hangs or is stopped.
pub const BEAT_NS_MAX: u64 = 2_000_000_000;

/// The only value of the map `STEER`.
#[repr(C)]
#[derive(Debug)]
pub struct Steer {
    /// When the worker was last ready, CLOCK_MONOTONIC in nanoseconds; 0: it is not.
    /// Written by the worker.
    pub beat: AtomicU64,
    /// Connections sent to the worker. Written by the programs, as the rest.
    pub steered: AtomicU64,
    /// Connections to the service address left alone because the worker was not ready.
    pub not_ready: AtomicU64,
    /// And because the worker cannot be reached from where the client is.
    pub elsewhere: AtomicU64,
}
