//! Clean bytes of large objects that other workers hold, as flows ask for them.

use quickwater_proto::{BlobId, Bucket, Extent, NodeId, ObjectKey, ObjectRecord};

use super::{Alone, Buffer};
use crate::error::FlowError;

/// Bytes of a version that the UFS has, within one extent of it.
#[derive(Debug)]
pub struct StripeRead<'a> {
    /// Of which bucket.
    pub bucket: &'a Bucket,
    /// Of which key.
    pub key: &'a ObjectKey,
    /// Of which version; its content is what [`ObjectRecord::ufs`] identifies.
    pub record: &'a ObjectRecord,
    /// The extent they lie in, and where in the object it begins.
    pub extent: (&'a Extent, u64),
    /// The first byte, in the object. What is asked for ends with its chunk, or with `until`.
    pub first: u64,
    /// How far the reader will go on in this extent at this worker.
    pub until: u64,
    /// A worker whose store may have them.
    pub source: Option<&'a NodeId>,
}

/// Chunks of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRun {
    /// Which blob.
    pub blob: BlobId,
    /// The first.
    pub first: u32,
    /// The one after the last.
    pub end: u32,
}

/// Bytes that another worker gave.
#[derive(Debug)]
pub struct Given<B> {
    /// They; `None`: they were not wanted.
    pub bytes: Option<B>,
    /// They were in its store.
    pub stored: bool,
}

/// Why another worker did not give bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// The UFS holds another content by now.
    #[error("the object changed in the UFS")]
    Changed,
    /// It cannot be reached, or does not answer.
    #[error("not reached: {0}")]
    Unreached(String),
    /// It cannot give them now.
    #[error("refused: {0}")]
    Refused(String),
}

/// Workers that hold stripes, as flows need them. Every wait has a deadline.
pub trait StripePeers<B: Buffer> {
    /// The other worker that owns a slot; `None`: this one, or nobody now.
    fn owner_elsewhere(&self, slot: usize) -> Option<NodeId>;

    /// Has `node` give bytes, and fetch what it does not have. They come in `into`, which
    /// has room for them; without it they are only fetched.
    ///
    /// # Errors
    /// See [`StripeError`].
    async fn read_stripe(
        &self,
        node: &NodeId,
        read: &StripeRead<'_>,
        into: Option<B>,
    ) -> Result<Given<B>, StripeError>;

    /// How many of these chunks `node` has.
    ///
    /// # Errors
    /// It cannot be reached, or does not say.
    async fn count_chunks(&self, node: &NodeId, runs: &[ChunkRun]) -> Result<u64, FlowError>;

    /// Has `node` forget clean copies of these chunks; how many of each run there were.
    ///
    /// # Errors
    /// It cannot be reached, or does not say.
    async fn forget_chunks(&self, node: &NodeId, runs: &[ChunkRun]) -> Result<Vec<u64>, FlowError>;
}

impl<B: Buffer> StripePeers<B> for Alone {
    fn owner_elsewhere(&self, _: usize) -> Option<NodeId> {
        None
    }

    async fn read_stripe(
        &self,
        _: &NodeId,
        _: &StripeRead<'_>,
        _: Option<B>,
    ) -> Result<Given<B>, StripeError> {
        Err(StripeError::Unreached("there is nobody else".into()))
    }

    async fn count_chunks(&self, _: &NodeId, _: &[ChunkRun]) -> Result<u64, FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    async fn forget_chunks(&self, _: &NodeId, _: &[ChunkRun]) -> Result<Vec<u64>, FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }
}
