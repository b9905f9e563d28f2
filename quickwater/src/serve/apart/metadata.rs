//! The namespace as the shards of a worker see it: every call goes to the control
//! plane. Absent: how it gets there (the client's) and rules.

use bytes::Bytes;
use quickwater_controlplane::Namespace;
use quickwater_controlplane::client::ControlClient;
use quickwater_engine::io::Metadata;
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, Committed, CopyAt, CopyOf, CopyState, ETag, Holders,
    MetadataError, ObjectKey, ObjectRecord, OpenedUpload, PartOf, PartRecord, PendingPage,
    PendingRecord, PutCondition, ScanPage, UfsIdentity, UploadId, UploadRecord, Version,
};
use tokio::runtime::Handle;

use super::super::names::Names;
use crate::store::MetadataStore;

type Answer<T> = Result<T, MetadataError>;

/// A handle for one shard; clones share the link.
#[derive(Debug, Clone)]
pub(super) struct RemoteMetadata(ControlClient);

impl RemoteMetadata {
    pub(super) fn new(client: ControlClient) -> Self {
        Self(client)
    }
}

impl Names for RemoteMetadata {
    type Rows = ControlClient;

    fn rows(&self) -> &ControlClient {
        &self.0
    }

    fn on(&self, _: Handle) -> Self {
        self.clone()
    }

    fn here(&self) -> Option<&Namespace<MetadataStore>> {
        None
    }
}

impl Metadata for RemoteMetadata {
    fn judging(&self, is_lost: impl FnOnce() -> bool) -> Self {
        Self(self.0.judging(is_lost))
    }

    async fn bucket(&self, name: &BucketName) -> Answer<Option<Bucket>> {
        self.0.bucket(name).await
    }

    async fn buckets(&self) -> Answer<Vec<Bucket>> {
        self.0.buckets().await
    }

    async fn create_bucket(&self, bucket: &Bucket) -> Answer<Bucket> {
        self.0.create_bucket(bucket).await
    }

    async fn delete_bucket(&self, bucket: BucketId, only_empty: bool) -> Answer<()> {
        self.0.delete_bucket(bucket, only_empty).await
    }

    async fn set_bucket_tags(&self, bucket: BucketId, tags: &[(String, String)]) -> Answer<()> {
        self.0.set_bucket_tags(bucket, tags).await
    }

    async fn object(&self, bucket: BucketId, key: &ObjectKey) -> Answer<Option<ObjectRecord>> {
        self.0.object(bucket, key).await
    }

    async fn commit_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Answer<Committed> {
        self.0.commit_object(bucket, key, record, condition).await
    }

    async fn remove_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Answer<Option<ObjectRecord>> {
        self.0.remove_object(bucket, key, condition).await
    }

    fn journal_entry(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        sequence: u64,
    ) -> Answer<Bytes> {
        self.0.journal_entry(bucket, key, record, sequence)
    }

    fn note(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
        sequence: u64,
    ) -> Answer<Option<Bytes>> {
        let note = self.0.commit_note(bucket, key, record, version, sequence);
        note.map(Some)
    }

    /// Flushed on return: the control plane may lose power alone.
    async fn commit_journaled(&self, entry: Bytes, begun: Option<&CopyAt>) -> Answer<Committed> {
        self.0.commit_entry(&entry, begun.cloned()).await
    }

    async fn commit_copied(&self, entry: Bytes, copies: &[CopyAt]) -> Answer<Committed> {
        self.0.commit_copied(&entry, copies).await
    }

    async fn copy_state(&self, copy: &CopyOf) -> Answer<CopyState> {
        self.0.copy_state(copy).await
    }

    async fn set_holders(
        &self,
        place: (BucketId, &ObjectKey),
        version: Version,
        itself: bool,
        named: (&[CopyAt], usize),
    ) -> Answer<bool> {
        self.0.set_holders(place, version, itself, named).await
    }

    async fn set_part_holders(
        &self,
        place: (BucketId, &ObjectKey),
        part: (PartOf, BlobId),
        named: (&[CopyAt], usize),
    ) -> Answer<bool> {
        self.0.set_part_holders(place, part, named).await
    }

    async fn remove_object_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Answer<(Version, Option<ObjectRecord>)> {
        self.0.remove_object_pending(bucket, key, condition).await
    }

    async fn pending(&self, bucket: BucketId, key: &ObjectKey) -> Answer<Option<PendingRecord>> {
        self.0.pending(bucket, key).await
    }

    async fn lost(&self, bucket: BucketId, key: &ObjectKey, without: &[CopyAt]) -> Answer<bool> {
        self.0.lost(bucket, key, without).await
    }

    async fn lost_part(
        &self,
        place: (BucketId, &ObjectKey),
        part: (PartOf, BlobId),
        without: &[CopyAt],
    ) -> Answer<bool> {
        self.0.lost_part(place, part, without).await
    }

    async fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Answer<PendingPage> {
        self.0.pending_changes(after, limit).await
    }

    async fn end_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> Answer<bool> {
        self.0
            .end_pending(bucket, key, version, ufs, settling)
            .await
    }

    async fn note_request(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        until_ms: i64,
    ) -> Answer<Version> {
        self.0.note_request(bucket, key, until_ms).await
    }

    async fn flush(&self) -> Answer<()> {
        self.0.flush().await
    }

    async fn scan(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Answer<ScanPage> {
        self.0.scan(bucket, prefix, from, limit).await
    }

    async fn scan_folded(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        delimiter: &str,
        limit: usize,
    ) -> Answer<ScanPage> {
        self.0
            .scan_folded(bucket, prefix, from, delimiter, limit)
            .await
    }

    async fn note_opened(&self, bucket: BucketId, opened: &OpenedUpload) -> Answer<()> {
        self.0.note_opened(bucket, opened).await
    }

    async fn forget_opened(&self, bucket: BucketId, key: &ObjectKey, id: UploadId) -> Answer<()> {
        self.0.forget_opened(bucket, key, id).await
    }

    async fn create_upload(&self, bucket: BucketId, upload: &UploadRecord) -> Answer<()> {
        self.0.create_upload(bucket, upload).await
    }

    async fn upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Answer<Option<UploadRecord>> {
        self.0.upload(bucket, key, id).await
    }

    async fn put_part(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Answer<Option<PartRecord>> {
        self.0.put_part(bucket, upload, part, &[]).await
    }

    async fn put_part_copied(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
        copies: &[CopyAt],
    ) -> Answer<Option<PartRecord>> {
        self.0.put_part(bucket, upload, part, copies).await
    }

    async fn hand_over(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        opened: UploadId,
    ) -> Answer<()> {
        self.0.hand_over(bucket, upload, opened).await
    }

    async fn parts(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Answer<Vec<PartRecord>> {
        self.0.parts(bucket, key, id, after, limit).await
    }

    async fn parts_held(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Answer<Vec<(PartRecord, Holders)>> {
        self.0.parts_held(bucket, key, id, after, limit).await
    }

    async fn uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Answer<Vec<UploadRecord>> {
        self.0.uploads(bucket, prefix, after, limit).await
    }

    async fn complete_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Answer<Committed> {
        self.0
            .complete_upload(bucket, upload, record, condition, (&[], 0))
            .await
    }

    async fn complete_copied(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        named: (&[CopyAt], usize),
    ) -> Answer<Committed> {
        let condition = PutCondition::None;
        self.0
            .complete_upload(bucket, upload, record, &condition, named)
            .await
    }

    async fn completed(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Answer<Option<ETag>> {
        self.0.completed(bucket, key, id).await
    }

    async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Answer<Vec<PartRecord>> {
        self.0.abort_upload(bucket, key, id).await
    }
}
