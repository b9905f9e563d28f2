//! The metadata as the parts of a worker beside the engine use it, in this process or
//! in another. Absent: what the engine itself asks (its own trait).

use std::future::Future;

use crate::store::MetadataStore;
use quickwater_controlplane::Namespace;
use quickwater_controlplane::client::ControlClient;
use quickwater_engine::io::Metadata;
use quickwater_proto::{
    Bucket, BucketId, Holders, MetadataError, ObjectKey, ObjectRecord, OpenedUpload, PartRecord,
    PendingPage, UfsIdentity, UploadId, UploadRecord, Version,
};
use tokio::runtime::Handle;

type Answer<T> = Result<T, MetadataError>;

/// The metadata of a shard, and the rows behind it.
pub(crate) trait Names: Metadata + Clone + Send + 'static {
    /// The same without the shard.
    type Rows: Rows;

    /// The rows.
    fn rows(&self) -> &Self::Rows;
    /// The same with its work on another runtime.
    fn on(&self, runtime: Handle) -> Self;
    /// The metadata themselves, if they are in this process: then the store's journal is
    /// replayed into them.
    fn here(&self) -> Option<&Namespace<MetadataStore>>;
}

/// Rows of the metadata, by the names the namespace has for them.
pub(crate) trait Rows: Clone + Send + Sync + 'static {
    fn buckets(&self) -> impl Future<Output = Answer<Vec<Bucket>>> + Send;
    fn object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> impl Future<Output = Answer<Option<ObjectRecord>>> + Send;
    fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> impl Future<Output = Answer<PendingPage>> + Send;
    fn end_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> impl Future<Output = Answer<bool>> + Send;
    fn opened(
        &self,
        after: Option<(BucketId, &ObjectKey, UploadId)>,
        limit: usize,
    ) -> impl Future<Output = Answer<Vec<(BucketId, OpenedUpload)>>> + Send;
    fn uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> impl Future<Output = Answer<Vec<UploadRecord>>> + Send;
    /// Parts with those who have the bytes of each, as their rows say.
    fn parts_held(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> impl Future<Output = Answer<Vec<(PartRecord, Holders)>>> + Send;
    fn flush(&self) -> impl Future<Output = Answer<()>> + Send;
    fn directory(&self, bucket: BucketId) -> impl Future<Output = Answer<Option<String>>> + Send;
    fn set_directory(
        &self,
        bucket: BucketId,
        identity: Option<&str>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Version and text of the path policies, if they are newer than `than` (or that
    /// version, when none is known yet).
    fn policies(
        &self,
        than: Option<u64>,
    ) -> impl Future<Output = Answer<Option<(u64, String)>>> + Send;
}

/// Both have the same methods.
macro_rules! rows_of {
    ($type:ty, $policies:expr) => {
        impl Rows for $type {
            async fn buckets(&self) -> Answer<Vec<Bucket>> {
                self.buckets().await
            }

            async fn object(
                &self,
                bucket: BucketId,
                key: &ObjectKey,
            ) -> Answer<Option<ObjectRecord>> {
                self.object(bucket, key).await
            }

            async fn pending_changes(
                &self,
                after: Option<(BucketId, &ObjectKey)>,
                limit: usize,
            ) -> Answer<PendingPage> {
                self.pending_changes(after, limit).await
            }

            async fn end_pending(
                &self,
                bucket: BucketId,
                key: &ObjectKey,
                version: Version,
                ufs: Option<&UfsIdentity>,
                settling: Option<i64>,
            ) -> Answer<bool> {
                self.end_pending(bucket, key, version, ufs, settling).await
            }

            async fn opened(
                &self,
                after: Option<(BucketId, &ObjectKey, UploadId)>,
                limit: usize,
            ) -> Answer<Vec<(BucketId, OpenedUpload)>> {
                self.opened(after, limit).await
            }

            async fn uploads(
                &self,
                bucket: BucketId,
                prefix: &str,
                after: Option<(&str, Option<UploadId>)>,
                limit: usize,
            ) -> Answer<Vec<UploadRecord>> {
                self.uploads(bucket, prefix, after, limit).await
            }

            async fn parts_held(
                &self,
                bucket: BucketId,
                key: &ObjectKey,
                id: UploadId,
                after: u16,
                limit: usize,
            ) -> Answer<Vec<(PartRecord, Holders)>> {
                self.parts_held(bucket, key, id, after, limit).await
            }

            async fn flush(&self) -> Answer<()> {
                self.flush().await
            }

            async fn directory(&self, bucket: BucketId) -> Answer<Option<String>> {
                self.directory(bucket).await
            }

            async fn set_directory(&self, bucket: BucketId, identity: Option<&str>) -> Answer<()> {
                self.set_directory(bucket, identity).await
            }

            async fn policies(&self, than: Option<u64>) -> Answer<Option<(u64, String)>> {
                $policies(self, than).await
            }
        }
    };
}

rows_of!(Namespace<MetadataStore>, stored_policies);
rows_of!(ControlClient, asked_policies);

async fn stored_policies(
    namespace: &Namespace<MetadataStore>,
    than: Option<u64>,
) -> Answer<Option<(u64, String)>> {
    if let Some(than) = than
        && namespace.policy_version().await? <= than
    {
        return Ok(None);
    }
    let stored = namespace.policies(None).await;
    let stored = stored.map_err(|error| MetadataError::Unavailable(error.to_string()))?;
    Ok(Some((stored.version, stored.text)))
}

async fn asked_policies(
    control: &ControlClient,
    than: Option<u64>,
) -> Answer<Option<(u64, String)>> {
    if than.is_some_and(|than| control.told_policies() <= than) {
        return Ok(None);
    }
    let (version, text) = control.policies().await?;
    Ok(than
        .is_none_or(|than| version > than)
        .then_some((version, text)))
}
