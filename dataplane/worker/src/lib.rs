//! How bytes move: listeners, connections, the O_DIRECT store, buffers, metrics.
//!
//! The only crate that knows monoio. Absent on purpose: rules (they are the
//! engine's), tokio, S3 text.

#![expect(
    async_fn_in_trait,
    reason = "everything here lives on one shard, never dyn"
)]

pub mod buffers;
pub mod environment;
pub mod handoff;
mod hashing;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod peer;
pub mod runtime;
pub mod service;
pub mod store;
pub mod tier;
pub mod tls;
mod waiting;
