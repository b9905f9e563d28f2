//! A live TCP connection taken out of one process and continued in another, on this
//! host or another (TCP_REPAIR). Linux on both sides, CAP_NET_ADMIN on both.
//!
//! Absent on purpose: getting the state there, having the client's packets follow it,
//! and who may restore when (decisions/0035).

mod diag;
mod freeze;
mod hearing;
mod probe;
mod repair;
mod restore;
mod state;

pub use diag::SocketDiag;
pub use freeze::{Frozen, Refused, freeze, is_at_rest};
pub use hearing::{Hearing, hearing};
pub use probe::{ProbeError, probe};
pub use restore::{RestoreError, Restored, restore};
pub use state::{BadState, STATE_BYTES_MAX, State, UNREAD_BYTES_MAX, Window};
