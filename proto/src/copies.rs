//! Copies of bytes that no UFS has, kept by workers other than the key's owner. Absent:
//! how they get there.

use crate::{BlobId, BucketId, NodeId, ObjectKey};

/// A worker that has flushed a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopyAt {
    /// Which one.
    pub node: NodeId,
    /// Its session at that time: a commit that names the copy is refused in any later
    /// one, because a worker that was started anew may not have it.
    pub session: u64,
}

/// A copy that a worker keeps for an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOf {
    /// Where the object is.
    pub bucket: BucketId,
    /// Its key.
    pub key: ObjectKey,
    /// Its bytes.
    pub blob: BlobId,
    /// Who had it kept, if that worker may still commit it.
    pub owner: Option<CopyAt>,
}

/// Whether a copy is still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// The current version of its key consists of it, no UFS has that, and its row names
    /// who asks.
    Named,
    /// Not so now.
    Unnamed {
        /// Whoever had it kept cannot commit it any more.
        over: bool,
    },
}
