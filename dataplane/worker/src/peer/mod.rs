//! Workers to workers: who is where, connections to them, calls and their answers.
//! Absent: what is asked for (see `service`), and who owns what (the control plane).
//!
//! Frames and messages are those of `quickwater-peer`, over TLS 1.3 with certificates
//! of the cluster both ways. A connection carries one request at a time; what is idle
//! is kept for the next, within limits.

mod ask;
mod body;
mod call;
mod connect;
mod copies;
mod deletes;
mod directory;
mod identity;
mod limit;
mod serve;
mod stats;
mod stripes;
#[cfg(test)]
mod tests;
mod wire;

pub use ask::EnginePeers;
pub(crate) use ask::{KEYS_PER_CALL, right_to};
pub(crate) use body::{PeerBody, Pieces, drain};
pub(crate) use call::{CallFailure, Outgoing, Reply};
pub use connect::{PeerConfig, Peers};
pub use copies::OutgoingCopies;
pub(crate) use copies::{blob_of, blob_to_wire, part_of};
pub(crate) use deletes::deletes_to_wire;
pub use directory::{Directory, Where};
pub use identity::{PeerIdentity, PeerIdentityError};
pub(crate) use limit::{RELAY_WAIT, RETRY_PAUSE};
pub(crate) use serve::Host;
pub use serve::Hosting;
pub(crate) use stats::Failure;
pub use stats::{FAILURES, PeerStats, TASKS};
pub(crate) use stripes::{content_to_wire, extent_of, extent_to_wire, run_of};
pub(crate) use wire::{Wire, WireError};
