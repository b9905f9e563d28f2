//! MD5 of many streams at once, and the order in which a shard hashes them.
//!
//! MD5 is what an ETag is made of and most of what a PUT costs. One stream can
//! not be hashed faster, several can: a vector register holds one word of each.
//! [`Md5`] is one stream, [`Kernel`] hashes many side by side, [`Scheduler`]
//! decides when, in slices. Absent: IO, tasks, clocks, other digests.

mod kernel;
mod md5;
mod rounds;
mod scalar;
mod scheduler;

#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernel::{Kernel, LANES_MAX, Lane};
pub use md5::Md5;
pub use scheduler::{Decision, SLICE_BYTES, Scheduler, Ticket};

/// Bytes MD5 works on at a time (RFC 1321 §3.4).
pub const BLOCK_BYTES: usize = 64;

#[cfg(test)]
mod tests;
