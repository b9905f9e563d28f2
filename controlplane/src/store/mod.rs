//! Where metadata is kept: the transaction trait, our own conflict check and
//! group commit, and the engines below it. No rule about objects here.

mod around;
pub mod check;
mod clock;
mod committer;
mod conflicts;
mod core;
mod directory;
mod engine;
#[cfg(any(test, feature = "test-support"))]
mod faulty;
mod fenced;
mod fjall;
mod generation;
mod journal;
mod latency;
pub mod limits;
mod memory;
mod open;
mod queue;
mod reads;
mod redb;
mod stats;
mod transaction;
mod writes;

pub use self::around::{Around, Surrounded};
#[cfg(any(test, feature = "test-support"))]
pub use self::clock::ManualClock;
pub use self::clock::{Clock, MonotonicClock};
pub use self::core::{EmbeddedStore, EmbeddedTransaction};
pub use self::directory::OpenError;
pub use self::engine::{Batch, Durability, Engine, EngineError, RowIterator, Snapshot};
#[cfg(any(test, feature = "test-support"))]
pub use self::faulty::{Fault, FaultPlan, FaultyStore};
pub use self::fenced::Fenced;
pub use self::fjall::FjallEngine;
pub use self::latency::{Latency, LatencyCounts};
pub use self::memory::MemoryEngine;
pub use self::open::{EngineKind, EngineOptions, UnknownEngine, open, open_at_least};
pub use self::redb::RedbEngine;
pub use self::stats::StoreStats;
pub use self::transaction::{
    CommitError, CommitVersion, KeyRange, Row, Rows, Scan, Store, StoreError, Transaction,
    successor,
};
