//! The outside world as the engine sees it: one trait per outside thing.
//!
//! Futures are neither boxed nor `Send`: a flow lives on one shard. Every method
//! that can wait has a deadline inside its implementation and answers with an
//! error when it passes; no method waits for ever.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, Checksum, CopyAt, CopyOf, CopyState, ETag, Neighbour,
    NodeId, ObjectHeaders, ObjectKey, ObjectRecord, OpenedUpload, PartRecord, PendingPage,
    PendingRecord, PutCondition, UfsEntry, UfsError, UfsIdentity, UfsObject, UfsPartSeen,
    UfsUploadSeen, UploadId, UploadRecord, Version,
};
pub use quickwater_proto::{Committed, MetadataError, ScanPage};

use crate::error::FlowError;

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
/// journal of commits (see [`Metadata::journal_entry`]).
pub const JOURNAL_CHUNK: u32 = u32::MAX;

/// Number of the chunk that says what a commit made of a key which no entry of the
/// journal tells (see [`Metadata::note`]); of a blob of its own, see
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

    /// Forgets chunks `0..chunks` of a blob, its entry in the journal and its note.
    fn forget(&self, blob: BlobId, chunks: u32);

    /// Lets chunks `0..chunks` of a blob be evicted like clean copies, and forgets
    /// its entry in the journal and its note.
    fn release(&self, blob: BlobId, chunks: u32);
}

/// A request body, already decoded (no chunk framing) and checked as it goes.
pub trait Body {
    /// Buffers it fills.
    type Buffer: Buffer;
    /// What can go wrong, known to the caller of the flow only.
    type Error;

    /// Bytes the decoded body will have.
    fn length(&self) -> u64;
    /// The next buffer: full chunks, then a shorter last one; `None` at the end.
    async fn next(&mut self) -> Result<Option<Self::Buffer>, Self::Error>;
    /// After `None`: checks what was promised (length, signatures, checksums)
    /// and returns what was computed.
    fn finish(&mut self) -> Result<BodyDigests, Self::Error>;
}

/// What was computed over a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyDigests {
    /// MD5 of all bytes.
    pub md5: [u8; 16],
    /// Checksums asked for, verified where the client sent a value.
    pub checksums: Vec<Checksum>,
}

/// The under file systems behind all buckets.
pub trait Ufs {
    /// A write in progress.
    type Upload: UfsUpload;
    /// A read in progress.
    type Reader: UfsReader;
    /// A listing in progress.
    type Listing: UfsListing;

    /// Whether the UFS can hold an object of this name, by what is known of it
    /// already: nothing is asked.
    ///
    /// # Errors
    /// [`UfsErrorKind::Unsupported`](quickwater_proto::UfsErrorKind::Unsupported),
    /// and why.
    fn can_hold(&self, _bucket: &Bucket, _key: &ObjectKey) -> Result<(), UfsError> {
        Ok(())
    }

    /// Looks at one object.
    async fn head(&self, bucket: &Bucket, key: &ObjectKey) -> Result<UfsObject, UfsError>;

    /// Reads `range` of the content that `expect` identifies;
    /// [`UfsErrorKind::Changed`](quickwater_proto::UfsErrorKind::Changed) when
    /// the UFS holds another by now.
    async fn read(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        expect: &UfsIdentity,
        range: Range<u64>,
    ) -> Result<Self::Reader, UfsError>;

    /// Begins a write of `size` bytes; invisible until finished.
    async fn put(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        size: u64,
    ) -> Result<Self::Upload, UfsError>;

    /// Removes an object; not being there is success.
    async fn delete(&self, bucket: &Bucket, key: &ObjectKey) -> Result<(), UfsError>;

    /// Begins a multipart upload and returns the UFS's name for it.
    async fn create_upload(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        upload: UploadId,
    ) -> Result<String, UfsError>;

    /// The name that [`Ufs::create_upload`] will answer, where it is known before.
    fn upload_name(&self, bucket: &Bucket, upload: UploadId) -> Option<String>;

    /// Largest object that [`Ufs::put`] takes, bytes.
    fn put_bytes_max(&self, bucket: &Bucket) -> u64;

    /// Smallest part of an upload that the UFS completes, the last one excepted, bytes.
    ///
    /// # Errors
    /// The bucket's location is invalid.
    fn part_bytes_min(&self, _bucket: &Bucket) -> Result<u64, UfsError> {
        Ok(0)
    }

    /// Whether an upload that was cut can be gone on with: the parts sent stay and
    /// are listed.
    fn resumes(&self, bucket: &Bucket) -> bool;

    /// Uploads of exactly this key that are open in the UFS.
    async fn open_uploads(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Vec<UfsUploadSeen>, UfsError>;

    /// Whether the name of an upload that [`Ufs::create_upload`] answered is that of
    /// one that was `seen`.
    fn names(&self, name: &str, seen: &UfsUploadSeen) -> bool;

    /// The parts of an upload that the UFS has.
    async fn uploaded_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
    ) -> Result<Vec<UfsPartSeen>, UfsError>;

    /// Begins the write of an object of `size` bytes as the parts of `upload`, of
    /// `part_bytes` each (or more, should they be too many); finishing it completes
    /// the upload. Of `sent` (see [`Ufs::uploaded_parts`]) what has the same bytes
    /// is not sent again. Aborting it leaves the upload open. Only a failure to
    /// complete is [`UfsErrorKind::Timeout`](quickwater_proto::UfsErrorKind::Timeout).
    async fn put_in_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        size: u64,
        part_bytes: u64,
        sent: Vec<UfsPartSeen>,
    ) -> Result<Self::Upload, UfsError>;

    /// Begins the write of one part; a part of the same number is replaced when
    /// this one is finished.
    async fn put_part(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        number: u16,
        size: u64,
    ) -> Result<Self::Upload, UfsError>;

    /// Makes the parts, in this order, the content of the key. `etag` is the one
    /// the object will show. Repeating it after an unknown outcome is allowed: where the
    /// upload is gone, an object with this ETag and the upload's headers is success.
    async fn complete_upload(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        parts: &[PartRecord],
        etag: &ETag,
        checksums: &[Checksum],
    ) -> Result<UfsObject, UfsError>;

    /// Throws away an upload; not being there is success.
    async fn abort_upload(&self, bucket: &Bucket, upload: &UploadRecord) -> Result<(), UfsError>;

    /// Lists keys that begin with `prefix` and are greater than `start_after`,
    /// in byte order. Not `recursive`: keys with a `/` after the prefix are
    /// rolled up into [`UfsEntry::Prefix`].
    async fn list(
        &self,
        bucket: &Bucket,
        prefix: &str,
        start_after: &str,
        recursive: bool,
    ) -> Result<Self::Listing, UfsError>;

    /// Makes the bucket's location (it may exist already).
    async fn create_location(&self, bucket: &Bucket) -> Result<(), UfsError>;

    /// How long after a request was sent, and got no answer, it may still be
    /// applied.
    fn late_max(&self, bucket: &Bucket) -> Duration;

    /// Whether such a request may be applied after this process has ended.
    fn outlives_us(&self, bucket: &Bucket) -> bool;

    /// Removes the bucket's empty location;
    /// [`UfsErrorKind::Invalid`](quickwater_proto::UfsErrorKind::Invalid) when
    /// something is in it.
    async fn remove_location(&self, bucket: &Bucket) -> Result<(), UfsError>;
}

/// A write to the UFS in progress. Dropping it aborts it.
pub trait UfsUpload {
    /// Says, before the first [`send`](Self::send), what the bytes will be, so that
    /// a UFS that can check them does so before it makes them visible.
    async fn expect(&mut self, _digests: &BodyDigests) -> Result<(), UfsError> {
        Ok(())
    }
    /// Hands over the next bytes; waits while the UFS is slower than we are.
    async fn send(&mut self, data: Bytes) -> Result<(), UfsError>;
    /// Publishes the object (or part) and returns only when the UFS has accepted
    /// all of it: length and MD5 or checksum compared; POSIX: file synced,
    /// renamed, directory synced.
    async fn finish(self, digests: &BodyDigests) -> Result<UfsObject, UfsError>;
    /// Throws it away.
    async fn abort(self);
}

/// A read from the UFS in progress.
pub trait UfsReader {
    /// The next bytes, at most one chunk at a time; `None` after exactly the
    /// range asked for. Fewer bytes than that is
    /// [`UfsErrorKind::Corrupt`](quickwater_proto::UfsErrorKind::Corrupt).
    async fn next(&mut self) -> Result<Option<Bytes>, UfsError>;
}

/// A listing of the UFS in progress.
pub trait UfsListing {
    /// The next entries (at most 1,000, at least one); `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<UfsEntry>>, UfsError>;
}

/// The metadata: what is committed and who owns what.
pub trait Metadata {
    /// Finds a bucket by name.
    async fn bucket(&self, name: &BucketName) -> Result<Option<Bucket>, MetadataError>;
    /// All buckets in order of name.
    async fn buckets(&self) -> Result<Vec<Bucket>, MetadataError>;
    /// Commits a new bucket; its `id` is chosen by the metadata.
    async fn create_bucket(&self, bucket: &Bucket) -> Result<Bucket, MetadataError>;
    /// Removes a bucket. `only_empty`: refuse while it has objects or uploads;
    /// otherwise forget them all.
    async fn delete_bucket(&self, bucket: BucketId, only_empty: bool) -> Result<(), MetadataError>;
    /// Replaces a bucket's tags.
    async fn set_bucket_tags(
        &self,
        bucket: BucketId,
        tags: &[(String, String)],
    ) -> Result<(), MetadataError>;

    /// The current version of an object, complete with parts and extents.
    async fn object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError>;
    /// Makes `record` current; `record.version` is ignored and given by the commit.
    /// A record that is `NotPersisted` becomes the key's pending change in the
    /// same commit; any other record ends a pending change of the key.
    async fn commit_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Result<Committed, MetadataError>;
    /// Removes an object. `None`: it was not there.
    async fn remove_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<Option<ObjectRecord>, MetadataError>;
    /// The commit of `record` as bytes for a log. `sequence` orders the entries of
    /// a log; replaying one whose commit is known does nothing.
    ///
    /// # Errors
    /// [`MetadataError::TooLarge`].
    fn journal_entry(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        sequence: u64,
    ) -> Result<Bytes, MetadataError>;
    /// What the commit `version` made of a key, as bytes for the same log: the record,
    /// or its removal. Never replayed; it is read when the metadata are lost. `None`:
    /// such notes are of no use to this metadata.
    ///
    /// # Errors
    /// [`MetadataError::TooLarge`].
    fn note(
        &self,
        _bucket: BucketId,
        _key: &ObjectKey,
        _record: Option<&ObjectRecord>,
        _version: Version,
        _sequence: u64,
    ) -> Result<Option<Bytes>, MetadataError> {
        Ok(None)
    }
    /// Commits what `entry` says: visible to all on return, flushed some time
    /// later. The caller holds the key's slot and has flushed the entry.
    async fn commit_journaled(&self, entry: Bytes) -> Result<Committed, MetadataError>;

    /// The same when other workers have flushed copies, which the commit names. Refused
    /// if one of them was started anew since.
    async fn commit_copied(
        &self,
        _entry: Bytes,
        _copies: &[CopyAt],
    ) -> Result<Committed, MetadataError> {
        Err(MetadataError::Unavailable(
            "there are no copies here".into(),
        ))
    }
    /// Whether a copy that is kept here for another worker is still needed.
    async fn copy_state(&self, _copy: &CopyOf) -> Result<CopyState, MetadataError> {
        Ok(CopyState::Named)
    }
    /// From now on these have the bytes of the pending change `version`, and, if
    /// `itself`, this worker; nobody else. `false`: it is not pending any more.
    async fn set_holders(
        &self,
        _place: (BucketId, &ObjectKey),
        _version: Version,
        _itself: bool,
        _copies: &[CopyAt],
    ) -> Result<bool, MetadataError> {
        Ok(false)
    }

    /// Removes an object that the UFS may still have: a pending change in the same
    /// commit. `None`: there was no object (the change is pending all the same).
    async fn remove_object_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<(Version, Option<ObjectRecord>), MetadataError>;
    /// The change of a key that the UFS does not have yet.
    async fn pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<PendingRecord>, MetadataError>;
    /// Whether the bytes of the current version of a key, which no UFS has, went with
    /// workers that were taken for lost. Asked only when there are other workers.
    async fn lost(&self, _bucket: BucketId, _key: &ObjectKey) -> Result<bool, MetadataError> {
        Ok(false)
    }
    /// Pending changes in order of bucket and key, after one, at most `limit`.
    async fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Result<PendingPage, MetadataError>;
    /// The UFS was told of the change `version` and has acked it: ends it, and,
    /// for a put, notes in the object that it is persisted as `ufs`. `settling`: a
    /// request of it without an answer may be applied until then (milliseconds
    /// since the Unix epoch), so the key stays pending as
    /// [`PendingChange::Settling`]. `false`: a newer change is pending. Visible on
    /// return, on disk after a [`Metadata::flush`]: until then a crash may bring the
    /// change back.
    async fn end_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> Result<bool, MetadataError>;
    /// Returns when all that had returned before the call is on disk.
    async fn flush(&self) -> Result<(), MetadataError>;

    /// Notes that a request which changes a key is about to be sent to a UFS that may
    /// apply it after this process has ended; a kill of this process leaves the
    /// note, a power cut may take it for a second. It settles at `until_ms`; with that
    /// of [`quickwater_proto::PendingChange::UNDER_WAY`] the next commit or
    /// removal of the object ends it, else [`Metadata::end_pending`] with the
    /// version answered. What is pending for the key already stays.
    async fn note_request(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        until_ms: i64,
    ) -> Result<Version, MetadataError>;

    /// Objects with `key >= from` and `key` beginning with `prefix`, at most `limit`.
    async fn scan(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Result<ScanPage, MetadataError>;

    /// The same for a listing that rolls up keys: of those in which `delimiter`
    /// follows the prefix, and which are the same up to there, the first must be
    /// there; the others may be left out.
    async fn scan_folded(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        _delimiter: &str,
        limit: usize,
    ) -> Result<ScanPage, MetadataError> {
        self.scan(bucket, prefix, from, limit).await
    }

    /// Notes an upload in the UFS of a bucket, in place of what was noted of it.
    /// Flushed on return.
    async fn note_opened(
        &self,
        bucket: BucketId,
        opened: &OpenedUpload,
    ) -> Result<(), MetadataError>;
    /// Forgets an upload in the UFS; not being noted is success.
    async fn forget_opened(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<(), MetadataError>;

    /// Commits a new upload, and forgets what was noted as opened for it.
    async fn create_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
    ) -> Result<(), MetadataError>;
    /// Finds an upload of `key`.
    async fn upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<UploadRecord>, MetadataError>;
    /// Commits a part, replacing one of the same number (which is returned).
    async fn put_part(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Result<Option<PartRecord>, MetadataError>;
    /// The UFS knows the upload from now on, as `upload` says; the parts there are
    /// [held](PartRecord::held). Forgets what was noted as opened under `opened`.
    async fn hand_over(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        opened: UploadId,
    ) -> Result<(), MetadataError>;
    /// Parts with a number greater than `after`, in order, at most `limit`.
    async fn parts(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<PartRecord>, MetadataError>;
    /// Uploads in order of (key, id), after (`key_after`, `id_after`), whose key
    /// begins with `prefix`, at most `limit`.
    async fn uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Result<Vec<UploadRecord>, MetadataError>;
    /// Commits the object and ends the upload in one transaction, and remembers
    /// the answer so that a repeat can be told (see [`Metadata::completed`]).
    async fn complete_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Result<Committed, MetadataError>;
    /// The ETag of an upload completed within the last day, if it was.
    async fn completed(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<ETag>, MetadataError>;
    /// Ends an upload without an object; its parts are returned to be freed.
    async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Vec<PartRecord>, MetadataError>;
}

/// Copies of one body on their way to other workers. Dropped before it has finished, they
/// forget what came.
pub trait Copies {
    /// Sends the next chunk to all of them.
    ///
    /// # Errors
    /// One does not take it; nothing is promised by any.
    async fn send(&mut self, chunk: Bytes) -> Result<(), FlowError>;

    /// Sends the commit as bytes for their journals; on return all have flushed data and
    /// entry, and have shown that they got what was sent.
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

    /// Begins `copies` copies of the body `blob` of so many bytes on as many other workers
    /// that have room, none of them in `not`; in other zones first.
    ///
    /// # Errors
    /// [`FlowError::TooFewWorkers`]: there are fewer that take one.
    async fn copy(
        &self,
        place: (&Bucket, &ObjectKey),
        body: (BlobId, u64),
        copies: usize,
        not: &[NodeId],
    ) -> Result<Self::Copies, FlowError>;

    /// Bytes of a chunk that `node` keeps a copy of; `None`: it has not.
    ///
    /// # Errors
    /// It cannot be reached, or does not say.
    async fn fetch(
        &self,
        node: &NodeId,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Result<Option<Bytes>, FlowError>;

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

    /// Has the owners of these keys compare them with the UFS. All were compared when it
    /// returns.
    ///
    /// # Errors
    /// One could not, or was not reached.
    async fn look_again(&self, bucket: &Bucket, keys: Vec<ObjectKey>) -> Result<(), FlowError>;

    /// Whether another worker holds deletes below a prefix that the UFS does not know
    /// of yet; also when one cannot be asked.
    async fn hides_below(&self, bucket: &Bucket, prefix: &str) -> bool;

    /// Waits until the UFS has all that others hold of a bucket.
    ///
    /// # Errors
    /// It takes too long, or one was not reached.
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
        _: (BlobId, u64),
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
    ) -> Result<Option<Bytes>, FlowError> {
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

    async fn look_again(&self, _: &Bucket, _: Vec<ObjectKey>) -> Result<(), FlowError> {
        Err(FlowError::NotHere("there is nobody else"))
    }

    async fn hides_below(&self, _: &Bucket, _: &str) -> bool {
        false
    }

    async fn settle_bucket(&self, _: &Bucket) -> Result<(), FlowError> {
        Ok(())
    }
}

/// Time and chance.
pub trait Environment {
    /// Wall clock, milliseconds since the Unix epoch. Never orders anything.
    fn wall_ms(&self) -> i64;
    /// Monotonic clock since an arbitrary start.
    fn monotonic(&self) -> Duration;
    /// The clock leases are counted by: it runs on while the machine sleeps.
    fn lease_clock(&self) -> Duration {
        self.monotonic()
    }
    /// Waits.
    async fn sleep(&self, duration: Duration);
    /// A random number for blob and upload ids.
    fn random_u128(&self) -> u128;
    /// Runs a task of this shard to its end, detached.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}
