//! The local store, and the buffers that go in and out of it.

use std::ops::Range;

use bytes::Bytes;
use quickwater_proto::BlobId;

/// An owned buffer of at most one chunk. Dropping it returns it to its pool.
pub trait Buffer: Send + 'static {
    /// The bytes it holds.
    fn as_slice(&self) -> &[u8];
    /// The bytes it holds, writable.
    fn as_mut_slice(&mut self) -> &mut [u8];
    /// Most bytes it can hold.
    fn capacity(&self) -> usize;
    /// Sets how many bytes it holds, at most `capacity`; new bytes have any value.
    fn set_len(&mut self, len: usize);
    /// The same memory as shared bytes; back to the pool when the last is dropped.
    fn into_bytes(self) -> Bytes;
}

/// One piece of an object in the store: chunk `index` of a blob. Every chunk but
/// the last of a blob has [`quickwater_proto::CHUNK_BYTES`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkId {
    /// Which blob.
    pub blob: BlobId,
    /// Which chunk of it, from 0.
    pub index: u32,
}

/// What a chunk write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// A clean copy: may vanish in a crash, is never wrong.
    Cached,
    /// Kept until released or forgotten, and covered by the next
    /// [`Durability::Flushed`] write through the same handle: written on return,
    /// not flushed.
    Pinned,
    /// Acked data, kept until released or forgotten: on return a device flush has
    /// covered it and every [`Durability::Pinned`] write that had returned, or was
    /// queued before it, on this handle.
    Flushed,
}

/// Number of the chunk that holds, beside the data of a blob, its entry in the
/// journal of commits (see [`Metadata::journal_entry`](super::Metadata::journal_entry)).
pub const JOURNAL_CHUNK: u32 = u32::MAX;

/// Number of the chunk that says what a commit made of a key which no entry of the
/// journal tells (see [`Metadata::note`](super::Metadata::note)); of a blob of its own, see
/// [`note_blob`](crate::note_blob).
pub const NOTE_CHUNK: u32 = u32::MAX - 1;

/// Why the store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// What only this store holds has reached its limit.
    #[error("the space for data that is not persisted yet is full")]
    DirtyFull,
    /// No room even after eviction.
    #[error("the store is full")]
    Full,
    /// The disk failed a write or flush before and takes no more writes.
    #[error("the disk is suspect after a failed write or flush")]
    Suspect,
    /// This operation failed.
    #[error("disk: {0}")]
    Io(String),
    /// No buffer or slot in time.
    #[error("the store is overloaded")]
    Overloaded,
}

/// Room that pinned data take: both are limited, and either may be short first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirtyAmount {
    /// Bytes on disk.
    pub bytes: u64,
    /// Records, the journal's included.
    pub records: u64,
}

/// The space for data that only this store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtySpace {
    /// Pinned now.
    pub pinned: DirtyAmount,
    /// Kept for writes under way. What of them is pinned already counts twice.
    pub reserved: DirtyAmount,
    /// Most that may be pinned and reserved together.
    pub limit: DirtyAmount,
}

/// The local store.
pub trait Disk {
    /// Buffers it reads into and writes from.
    type Buffer: Buffer;
    /// Space kept for pinned data until it is dropped: when the data are pinned,
    /// or will never be.
    type Reservation: 'static;

    /// Keeps space for `bytes` of pinned data in `chunks` chunks.
    ///
    /// # Errors
    /// [`DiskError::DirtyFull`] when pinned and reserved bytes or records would pass
    /// their limit; [`DiskError::Suspect`].
    fn reserve(&self, bytes: u64, chunks: u32) -> Result<Self::Reservation, DiskError>;

    /// How much of the space for pinned data is taken.
    fn dirty_space(&self) -> DirtySpace;

    /// An empty buffer that can hold `bytes` (at most one chunk).
    ///
    /// # Errors
    /// [`DiskError::Overloaded`] when none came free in time.
    async fn buffer(&self, bytes: usize) -> Result<Self::Buffer, DiskError>;

    /// Reads `range` of a chunk, verified against its checksums. `None`: not
    /// here (never was, evicted, or found damaged and forgotten).
    ///
    /// # Errors
    /// The device failed; the caller may go to the UFS.
    async fn read(
        &self,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Result<Option<Self::Buffer>, DiskError>;

    /// Stores a whole chunk and gives the buffer back, its content unchanged.
    ///
    /// # Errors
    /// Nothing was stored; the buffer is gone only if it could not be saved.
    async fn write(
        &self,
        chunk: ChunkId,
        data: Self::Buffer,
        durability: Durability,
    ) -> (Self::Buffer, Result<(), DiskError>);

    /// Whether a read would probably hit (no IO).
    fn contains(&self, chunk: ChunkId) -> bool;

    /// Whether a chunk is on the disk itself, and stays until it is released or forgotten
    /// (no IO). What memory or a clean copy holds does not count: either may go at any time.
    fn keeps(&self, chunk: ChunkId) -> bool;

    /// Forgets chunks `0..chunks` of a blob, its entry in the journal and its note, as if
    /// they had never been: they say nothing of what is older of their key. Should the
    /// metadata be lost, that is what tells a commit that was never made from one that ended.
    fn forget(&self, blob: BlobId, chunks: u32);

    /// Makes a clean chunk one of the first to be evicted, however often it is read.
    fn make_spare(&self, chunk: ChunkId);

    /// Forgets a chunk if it is one of the first to be evicted.
    fn drop_spare(&self, chunk: ChunkId);

    /// Lets chunks `0..chunks` of a blob be evicted like clean copies, and forgets
    /// its entry in the journal and its note: their commit was made and has ended, the UFS has
    /// it or a newer one took its place.
    fn release(&self, blob: BlobId, chunks: u32);
}
