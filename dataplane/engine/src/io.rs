//! The outside world as the engine sees it: one trait per outside thing.
//!
//! Futures are neither boxed nor `Send`: a flow lives on one shard. Every method
//! that can wait has a deadline inside its implementation and answers with an
//! error when it passes; no method waits for ever.

use std::time::Duration;

use quickwater_proto::Checksum;
pub use quickwater_proto::{Committed, MetadataError, ScanPage};

mod disk;
mod metadata;
mod peers;
mod stripes;
mod ufs;

pub use disk::{
    Buffer, ChunkId, DirtyAmount, DirtySpace, Disk, DiskError, Durability, JOURNAL_CHUNK,
    NOTE_CHUNK,
};
pub use metadata::Metadata;
pub use peers::{Alone, Copies, CopyBody, Peers};
pub use stripes::{ChunkRun, Given, StripeError, StripePeers, StripeRead};
pub use ufs::{Ufs, UfsListing, UfsReader, UfsUpload};

/// A request body, already decoded (no chunk framing) and checked as it goes.
pub trait Body {
    /// Buffers it fills.
    type Buffer: Buffer;
    /// What can go wrong, known to the caller of the flow only.
    type Error;

    /// Bytes the decoded body will have.
    fn length(&self) -> u64;
    /// The next buffer: full chunks, then a shorter last one; `None` at the end.
    async fn next(&mut self) -> Result<Option<Self::Buffer>, Self::Error>;
    /// After `None`: checks what was promised (length, signatures, checksums)
    /// and returns what was computed.
    fn finish(&mut self) -> Result<BodyDigests, Self::Error>;
}

/// What was computed over a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyDigests {
    /// MD5 of all bytes.
    pub md5: [u8; 16],
    /// Checksums asked for, verified where the client sent a value.
    pub checksums: Vec<Checksum>,
}

/// Time and chance.
pub trait Environment {
    /// Wall clock, milliseconds since the Unix epoch. Never orders anything.
    fn wall_ms(&self) -> i64;
    /// Monotonic clock since an arbitrary start.
    fn monotonic(&self) -> Duration;
    /// The clock leases are counted by: it runs on while the machine sleeps.
    fn lease_clock(&self) -> Duration {
        self.monotonic()
    }
    /// Waits.
    async fn sleep(&self, duration: Duration);
    /// A random number for blob and upload ids.
    fn random_u128(&self) -> u128;
    /// Runs a task of this shard to its end, detached.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}
