//! What is committed: buckets, objects, what no UFS has yet, uploads.

use bytes::Bytes;
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, Committed, CopyAt, CopyOf, CopyState, ETag, Holders,
    MetadataError, ObjectKey, ObjectRecord, OpenedUpload, PartOf, PartRecord, PendingPage,
    PendingRecord, PutCondition, ScanPage, UfsIdentity, UploadId, UploadRecord, Version,
};

/// The metadata: what is committed and who owns what.
pub trait Metadata {
    /// A handle for changes of keys that are taken for this worker's own from now on: they are
    /// refused if others have had them since, and at once if `is_lost`, asked after that
    /// moment was noted, says that others have had them already.
    #[must_use]
    fn judging(&self, _is_lost: impl FnOnce() -> bool) -> Self
    where
        Self: Clone,
    {
        self.clone()
    }

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
    /// later. The caller holds the key's slot and has flushed the entry. `begun`: this
    /// worker in the session in which it took the slot; refused if others may have had the
    /// slot since.
    async fn commit_journaled(
        &self,
        entry: Bytes,
        begun: Option<&CopyAt>,
    ) -> Result<Committed, MetadataError>;

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
    /// `itself`, this worker; nobody else. Each byte is to be on `wanted` workers. `false`:
    /// it is not pending any more.
    async fn set_holders(
        &self,
        _place: (BucketId, &ObjectKey),
        _version: Version,
        _itself: bool,
        (_copies, _wanted): (&[CopyAt], usize),
    ) -> Result<bool, MetadataError> {
        Ok(false)
    }
    /// The same of the bytes `blob` of a part, which this worker has, too. `false`: that
    /// part has other bytes, the UFS has it, or its upload has ended.
    async fn set_part_holders(
        &self,
        _place: (BucketId, &ObjectKey),
        _part: (PartOf, BlobId),
        (_copies, _wanted): (&[CopyAt], usize),
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
    /// workers that were taken for lost, or never were on those `without` them, in these
    /// sessions. Asked only when there are other workers.
    async fn lost(
        &self,
        _bucket: BucketId,
        _key: &ObjectKey,
        _without: &[CopyAt],
    ) -> Result<bool, MetadataError> {
        Ok(false)
    }
    /// The same of the bytes `blob` of a part that no UFS has. Of a part that only the worker
    /// which took it has nobody knows.
    async fn lost_part(
        &self,
        _place: (BucketId, &ObjectKey),
        _part: (PartOf, BlobId),
        _without: &[CopyAt],
    ) -> Result<bool, MetadataError> {
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
    /// [`PendingChange::Settling`](quickwater_proto::PendingChange::Settling). `false`: a newer change is pending. Visible on
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
    /// The same when other workers have flushed copies of a part that no UFS has: its row
    /// names them. Refused if one of them was started anew since.
    async fn put_part_copied(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
        copies: &[CopyAt],
    ) -> Result<Option<PartRecord>, MetadataError> {
        match copies {
            [] => self.put_part(bucket, upload, part).await,
            _ => Err(MetadataError::Unavailable(
                "there are no copies here".into(),
            )),
        }
    }
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
    /// The same with those who have the bytes of each, by its row; nobody: it does not say.
    async fn parts_held(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<(PartRecord, Holders)>, MetadataError> {
        let parts = self.parts(bucket, key, id, after, limit).await?;
        let unsaid = |part| (part, Holders::default());
        Ok(parts.into_iter().map(unsaid).collect())
    }
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
    /// The same when other workers have the bytes of parts that no UFS has: the commit names
    /// them. Refused if one of them was started anew since, or if of any part the rows name
    /// fewer than `wanted`, this worker included.
    async fn complete_copied(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Result<Committed, MetadataError> {
        match (copies, wanted) {
            ([], 0 | 1) => {
                let condition = PutCondition::None;
                self.complete_upload(bucket, upload, record, &condition)
                    .await
            }
            _ => Err(MetadataError::Unavailable(
                "there are no copies here".into(),
            )),
        }
    }
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
