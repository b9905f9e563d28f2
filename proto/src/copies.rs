//! Copies of bytes that no UFS has, kept by workers other than the key's owner. Absent:
//! how they get there.

use crate::{BlobId, BucketId, NodeId, ObjectKey, UploadId};

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
    /// The part of an upload that it was taken in as: until the upload is complete, the
    /// row of that part says who has it.
    pub part: Option<PartOf>,
    /// Who had it kept, if that worker may still commit it.
    pub owner: Option<CopyAt>,
}

/// A part by the upload it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartOf {
    /// Which upload.
    pub upload: UploadId,
    /// Which part of it, from 1.
    pub number: u16,
}

/// Who has the bytes of something that no UFS has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// These workers; of an object of several bodies each has some of them.
    pub nodes: Vec<NodeId>,
    /// On how many workers every byte is to be; 0: nobody keeps account of it.
    pub copies: usize,
}

/// Whether a copy is still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// The current version of its key consists of it, or an upload has it as a part, no UFS
    /// has that, and its row names who asks.
    Named,
    /// Not so now.
    Unnamed {
        /// Whoever had it kept cannot commit it any more.
        over: bool,
        /// What became of the change that it is of.
        change: ChangeOf,
    },
}

/// What rows say of the change that a copy is of, if they do not name who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOf {
    /// It is pending, or held: others have its bytes.
    Pending,
    /// It was made, and the UFS has it.
    Ended,
    /// Nothing: it was never made, or something newer took its place.
    Unknown,
}
