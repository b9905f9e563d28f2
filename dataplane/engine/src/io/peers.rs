//! The other workers: copies of bodies on them, and what they are asked.

use std::ops::Range;

use bytes::Bytes;
use quickwater_proto::{BlobId, Bucket, CopyAt, Neighbour, NodeId, ObjectKey, PartOf};

use super::ChunkId;
use crate::decisions::recent_deletes::DeletesBelow;
use crate::error::FlowError;

/// A body that others are to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyBody {
    /// Its name.
    pub blob: BlobId,
    /// Its bytes.
    pub bytes: u64,
    /// The part of an upload that it was taken in as.
    pub part: Option<PartOf>,
    /// No commit is kept beside it: rows alone say whose it is.
    pub bare: bool,
}

/// Copies of one body on their way to other workers. Dropped before it has finished, they
/// forget what came.
pub trait Copies {
    /// Sends the next chunk to all of them.
    ///
    /// # Errors
    /// One does not take it; nothing is promised by any.
    async fn send(&mut self, chunk: Bytes) -> Result<(), FlowError>;

    /// Sends the commit as bytes for their journals (nothing, when none is kept beside the
    /// body); on return all have flushed data and entry, and have shown that they got what
    /// was sent.
    ///
    /// # Errors
    /// As [`Copies::send`]; some may have it all the same.
    async fn finish(&mut self, entry: Bytes) -> Result<Vec<CopyAt>, FlowError>;

    /// Who they are.
    fn nodes(&self) -> Vec<NodeId>;

    /// This worker, in the session that was named to them. They let go of copies that a
    /// later session might still have committed: the commit has to be of this one.
    fn owner(&self) -> Option<CopyAt>;
}

/// The other workers of a cluster, as flows need them. Every wait has a deadline.
pub trait Peers {
    /// Copies on their way.
    type Copies: Copies;

    /// Begins `copies` copies of a body on as many other workers that have room, none of
    /// them in `not`; in other zones first.
    ///
    /// # Errors
    /// [`FlowError::TooFewWorkers`]: there are fewer that take one.
    async fn copy(
        &self,
        place: (&Bucket, &ObjectKey),
        body: CopyBody,
        copies: usize,
        not: &[NodeId],
    ) -> Result<Self::Copies, FlowError>;

    /// Bytes of a chunk that `node` keeps a copy of, into as many; `false`: it has not.
    ///
    /// # Errors
    /// It cannot be reached, or does not say; what is in `into` then means nothing.
    async fn fetch(
        &self,
        node: &NodeId,
        chunk: ChunkId,
        range: Range<u32>,
        into: &mut [u8],
    ) -> Result<bool, FlowError>;

    /// Tells `node` that no commit of these copies is under way any more: it looks
    /// whether they are needed.
    ///
    /// # Errors
    /// It cannot be reached.
    async fn look_at_copies(&self, node: &NodeId, blobs: &[BlobId]) -> Result<(), FlowError>;

    /// Which of these bodies, with their lengths, `node` has whole.
    ///
    /// # Errors
    /// It cannot be reached, or does not say.
    async fn has_copies(
        &self,
        node: &NodeId,
        blobs: &[(BlobId, u64)],
    ) -> Result<Vec<BlobId>, FlowError>;

    /// The other workers, as they are known now.
    fn others(&self) -> Vec<Neighbour>;

    /// The zone of this worker; none: there are no others, or it has not met them yet.
    fn zone(&self) -> Option<String> {
        None
    }

    /// This worker in its session, or in a later one than any it has sent a change in;
    /// none: there are no others.
    fn itself(&self) -> Option<CopyAt>;

    /// Has the owners of these keys compare them with the UFS. All were compared when it
    /// returns.
    ///
    /// # Errors
    /// One could not, or was not reached.
    async fn look_again(&self, bucket: &Bucket, keys: Vec<ObjectKey>) -> Result<(), FlowError>;

    /// What deletes by other workers did below a prefix;
    /// [`DeletesBelow::unknown`] when one cannot be asked.
    async fn deletes_below(&self, bucket: &Bucket, prefix: &str) -> DeletesBelow;

    /// Number of the table by which they are asked; another one when a key got another
    /// owner.
    fn table(&self) -> u64;

    /// Waits until the UFS has all that others hold of a bucket.
    ///
    /// # Errors
    /// [`FlowError::Awaits`]: it takes one too long, or it was not reached.
    async fn settle_bucket(&self, bucket: &Bucket) -> Result<(), FlowError>;
}

/// There are no others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Copies for Alone {
    async fn send(&mut self, _: Bytes) -> Result<(), FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    async fn finish(&mut self, _: Bytes) -> Result<Vec<CopyAt>, FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    fn nodes(&self) -> Vec<NodeId> {
        Vec::new()
    }

    fn owner(&self) -> Option<CopyAt> {
        None
    }
}

impl Peers for Alone {
    type Copies = Self;

    async fn copy(
        &self,
        _: (&Bucket, &ObjectKey),
        _: CopyBody,
        copies: usize,
        _: &[NodeId],
    ) -> Result<Self, FlowError> {
        Err(FlowError::TooFewWorkers {
            wanted: copies + 1,
            possible: 1,
        })
    }

    async fn fetch(
        &self,
        _: &NodeId,
        _: ChunkId,
        _: Range<u32>,
        _: &mut [u8],
    ) -> Result<bool, FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    async fn look_at_copies(&self, _: &NodeId, _: &[BlobId]) -> Result<(), FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    async fn has_copies(&self, _: &NodeId, _: &[(BlobId, u64)]) -> Result<Vec<BlobId>, FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    fn others(&self) -> Vec<Neighbour> {
        Vec::new()
    }

    fn itself(&self) -> Option<CopyAt> {
        None
    }

    async fn look_again(&self, _: &Bucket, _: Vec<ObjectKey>) -> Result<(), FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    async fn deletes_below(&self, _: &Bucket, _: &str) -> DeletesBelow {
        DeletesBelow::none()
    }

    fn table(&self) -> u64 {
        0
    }

    async fn settle_bucket(&self, _: &Bucket) -> Result<(), FlowError> {
        Ok(())
    }
}
