//! Limits and deadlines of the under file systems. No secrets, no locations.

use std::time::Duration;

/// Bytes per MiB.
pub(crate) const MIB: u64 = 1 << 20;

/// Limits and deadlines, the same for every mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UfsConfig {
    /// To set up a connection.
    pub connect_timeout: Duration,
    /// Most time for one request or file system call without a body, and base of
    /// the deadline of one with a body.
    pub request_timeout: Duration,
    /// Most time without any progress of a body while the UFS is the one to move.
    pub idle_timeout: Duration,
    /// Added to `request_timeout` for every MiB of a body.
    pub timeout_per_mib: Duration,
    /// Most time a stream waits for its caller (next bytes of a write, taking the
    /// bytes of a read) before it is given up.
    pub caller_timeout: Duration,
    /// Most time a call waits for its turn under `concurrency`.
    pub queue_timeout: Duration,
    /// Most calls that wait for their turn per mount; one more is throttled.
    pub queue_max: usize,
    /// Most requests or file system calls at once per mount.
    pub concurrency: usize,
    /// Most open writes, reads and listings per mount.
    pub streams_max: usize,
    /// Bytes of one piece read from a file; at most one chunk.
    pub read_piece_bytes: usize,
    /// Most bytes in pieces read from files and not yet released by the caller.
    pub read_memory_bytes: usize,
    /// Largest object sent with one PUT to an S3 store (S3: 5 GiB).
    pub single_put_bytes_max: u64,
    /// How long a write without an answer may still be applied.
    pub late_max: Duration,
    /// A multipart staging folder of a POSIX UFS that saw no change for this long
    /// is removed when the mount is opened.
    pub upload_age_max: Duration,
}

impl Default for UfsConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(15),
            timeout_per_mib: Duration::from_secs(1),
            caller_timeout: Duration::from_secs(120),
            queue_timeout: Duration::from_secs(10),
            queue_max: 1_024,
            concurrency: 64,
            streams_max: 512,
            read_piece_bytes: 256 << 10,
            read_memory_bytes: 64 << 20,
            single_put_bytes_max: 5 << 30,
            late_max: Duration::from_secs(15 * 60),
            upload_age_max: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl UfsConfig {
    /// Deadline of a request that moves `bytes`.
    pub(crate) fn deadline(&self, bytes: u64) -> Duration {
        let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
        self.request_timeout
            .saturating_add(self.timeout_per_mib.saturating_mul(mib))
    }
}
