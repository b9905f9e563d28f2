//! What happens to a request: pure decisions and the flows that use them.
//!
//! Absent on purpose: sockets, files, clocks, randomness, monoio, tokio and S3
//! text. Time, disks, the UFS and the metadata are reached through [`io`] only,
//! so the same flows run in production and in simulation.

#![expect(
    async_fn_in_trait,
    reason = "flows are generic, never dyn, and live on one shard"
)]

pub mod io;
