//! The under file systems behind the buckets: POSIX directories and S3 stores.
//!
//! [`UfsClient`] implements [`quickwater_engine::io::Ufs`]. Its work runs on a
//! tokio runtime; callers on any other runtime (the io_uring shards) reach it
//! through bounded mailboxes. Only this crate knows aws-sdk-s3. Absent on
//! purpose: caching, retry schedules of the persister, S3 text for clients.

mod buffers;
mod calls;
mod client;
mod config;
mod identities;
mod location;
mod mailbox;
mod mount;
mod posix;
mod s3;
mod standing;
mod stats;
#[cfg(test)]
mod tests;

pub use client::{StoreClock, UfsClient, UfsReport};
pub use config::UfsConfig;
pub use identities::Identities;
pub use mailbox::{Listing, Reader, Upload};
pub use standing::Standing;
pub use stats::{UfsOperation, UfsOutcome, UfsStats};
