//! Who owns what and what is committed. Absent: data bytes, S3 text.

pub mod client;
pub mod cluster;
pub mod dump;
pub mod facts;
pub mod jobs;
pub mod keyspace;
pub mod namespace;
pub mod policies;
pub mod records;
pub mod rest;
pub mod rpc;
pub mod store;

pub use namespace::Namespace;
