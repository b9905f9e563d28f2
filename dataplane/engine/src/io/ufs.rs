//! The under file systems behind all buckets: reads, writes, listings.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use quickwater_proto::{
    Bucket, Checksum, ETag, ObjectHeaders, ObjectKey, PartRecord, UfsEntry, UfsError, UfsIdentity,
    UfsObject, UfsPartSeen, UfsUploadSeen, UploadId, UploadRecord,
};

use super::BodyDigests;

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
