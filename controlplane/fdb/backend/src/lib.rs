//! The metadata store on FoundationDB: keys, values and transactions of the
//! control plane's `Store` trait, no rule about objects and no retry of a commit.
//!
//! The client library is loaded when the store is opened, not linked. An attempt
//! is one transaction of FoundationDB; whoever runs a change tries again, and
//! settles unknown outcomes, because only there is known what was wanted.

mod claim;
mod errors;
mod keys;
mod network;
mod open;
mod scan;
mod store;
mod transaction;

pub use claim::ClaimError;
pub use foundationdb_sys::LoadError;
pub use keys::{KEY_PREFIX_BYTES_MAX, KeyPrefix, PrefixError};
pub use network::NetworkError;
pub use open::{OpenError, Options};
pub use store::FoundationStore;
pub use transaction::FoundationTransaction;
