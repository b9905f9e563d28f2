//! A client library of FoundationDB for tests: the part of its C API that the
//! metadata store uses, over the same versions and conflict check as the embedded
//! store, in memory: of this process, or of a test server that several processes ask
//! (a cluster file with the id `remote`). Absent: anything about speed.
//!
//! It fails on purpose as real clusters do, by a plan with a seed, and in strict
//! mode ends the process on a misuse that a real library punishes only sometimes.
//! See `faults` for the plan, and `trace` for a trace of what was asked for.

mod c;
mod clock;
mod database;
mod faults;
mod local;
mod network;
mod promise;
mod remote;
mod selector;
mod serve;
mod session;
mod strict;
mod trace;
mod transaction;
mod watch;
mod wire;

pub use serve::serve;
