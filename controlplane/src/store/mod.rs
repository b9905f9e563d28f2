//! Where metadata is kept: the transaction trait, our own conflict check and
//! group commit, and the engines below it. No rule about objects here.

pub mod limits;
mod transaction;

pub use transaction::{
    CommitError, CommitVersion, KeyRange, Row, Rows, Scan, Store, StoreError, Transaction,
    successor,
};
