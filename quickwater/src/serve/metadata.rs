//! The namespace as the shards see it: every call becomes a task of the tokio
//! runtime, so that no shard ever blocks on a metadata read or commit.
//!
//! Absent: rules (the namespace's) and deadlines (its attempts have their own).

use std::future::Future;

use bytes::Bytes;
use quickwater_controlplane::namespace::Namespace;
use quickwater_engine::io::Metadata;
use quickwater_proto::{
    Bucket, BucketId, BucketName, Committed, CopyAt, ETag, MetadataError, ObjectKey, ObjectRecord,
    OpenedUpload, PartRecord, PendingPage, PendingRecord, PutCondition, ScanPage, UfsIdentity,
    UploadId, UploadRecord, Version,
};
use tokio::runtime::Handle;

use super::names::Names;
use crate::store::MetadataStore;

type Answer<T> = Result<T, MetadataError>;

/// A handle for one shard; clones share the namespace.
#[derive(Debug, Clone)]
pub(crate) struct LocalMetadata {
    namespace: Namespace<MetadataStore>,
    runtime: Handle,
}

impl LocalMetadata {
    /// Calls to `namespace` run on `runtime`.
    pub(crate) fn new(namespace: Namespace<MetadataStore>, runtime: Handle) -> Self {
        Self { namespace, runtime }
    }

    /// Runs `work` to its end even if the caller goes away meanwhile.
    async fn run<T, F>(&self, work: impl FnOnce(Namespace<MetadataStore>) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let task = self.runtime.spawn(work(self.namespace.clone()));
        match task.await {
            Ok(answer) => answer,
            Err(error) => Err(MetadataError::Unknown(format!(
                "the task ended early: {error}"
            ))),
        }
    }
}

impl Names for LocalMetadata {
    type Rows = Namespace<MetadataStore>;

    fn rows(&self) -> &Self::Rows {
        &self.namespace
    }

    fn on(&self, runtime: Handle) -> Self {
        Self::new(self.namespace.clone(), runtime)
    }

    fn here(&self) -> Option<&Namespace<MetadataStore>> {
        Some(&self.namespace)
    }
}

impl Metadata for LocalMetadata {
    async fn bucket(&self, name: &BucketName) -> Answer<Option<Bucket>> {
        let name = name.clone();
        self.run(|n| async move { n.bucket(&name).await }).await
    }

    async fn buckets(&self) -> Answer<Vec<Bucket>> {
        self.run(|n| async move { n.buckets().await }).await
    }

    async fn create_bucket(&self, bucket: &Bucket) -> Answer<Bucket> {
        let bucket = bucket.clone();
        self.run(|n| async move { n.create_bucket(&bucket).await })
            .await
    }

    async fn delete_bucket(&self, bucket: BucketId, only_empty: bool) -> Answer<()> {
        self.run(move |n| async move { n.delete_bucket(bucket, only_empty).await })
            .await
    }

    async fn set_bucket_tags(&self, bucket: BucketId, tags: &[(String, String)]) -> Answer<()> {
        let tags = tags.to_vec();
        self.run(move |n| async move { n.set_bucket_tags(bucket, &tags).await })
            .await
    }

    async fn object(&self, bucket: BucketId, key: &ObjectKey) -> Answer<Option<ObjectRecord>> {
        let key = key.clone();
        self.run(move |n| async move { n.object(bucket, &key).await })
            .await
    }

    async fn commit_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Answer<Committed> {
        let (key, record, condition) = (key.clone(), record.clone(), condition.clone());
        self.run(move |n| async move { n.commit_object(bucket, &key, &record, &condition).await })
            .await
    }

    async fn remove_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Answer<Option<ObjectRecord>> {
        let (key, condition) = (key.clone(), condition.clone());
        self.run(move |n| async move { n.remove_object(bucket, &key, &condition).await })
            .await
    }

    fn journal_entry(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        sequence: u64,
    ) -> Answer<Bytes> {
        self.namespace.journal_entry(bucket, key, record, sequence)
    }

    fn note(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
        sequence: u64,
    ) -> Answer<Option<Bytes>> {
        let namespace = &self.namespace;
        let note = namespace.commit_note(bucket, key, record, version, sequence);
        note.map(Some)
    }

    async fn commit_journaled(&self, entry: Bytes, _: Option<&CopyAt>) -> Answer<Committed> {
        self.run(move |n| async move { n.commit_journaled(&entry).await })
            .await
    }

    async fn remove_object_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Answer<(Version, Option<ObjectRecord>)> {
        let (key, condition) = (key.clone(), condition.clone());
        self.run(move |n| async move { n.remove_object_pending(bucket, &key, &condition).await })
            .await
    }

    async fn pending(&self, bucket: BucketId, key: &ObjectKey) -> Answer<Option<PendingRecord>> {
        let key = key.clone();
        self.run(move |n| async move { n.pending(bucket, &key).await })
            .await
    }

    async fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Answer<PendingPage> {
        let after = after.map(|(bucket, key)| (bucket, key.clone()));
        self.run(move |n| async move {
            let after = after.as_ref().map(|(bucket, key)| (*bucket, key));
            n.pending_changes(after, limit).await
        })
        .await
    }

    async fn end_pending(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> Answer<bool> {
        let (key, ufs) = (key.clone(), ufs.cloned());
        self.run(move |n| async move {
            n.end_pending(bucket, &key, version, ufs.as_ref(), settling)
                .await
        })
        .await
    }

    async fn note_request(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        until_ms: i64,
    ) -> Answer<Version> {
        let key = key.clone();
        self.run(move |n| async move { n.note_request(bucket, &key, until_ms).await })
            .await
    }

    async fn flush(&self) -> Answer<()> {
        self.run(|n| async move { n.flush().await }).await
    }

    async fn scan(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Answer<ScanPage> {
        let (prefix, from) = (prefix.to_owned(), from.to_owned());
        self.run(move |n| async move { n.scan(bucket, &prefix, &from, limit).await })
            .await
    }

    async fn scan_folded(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        delimiter: &str,
        limit: usize,
    ) -> Answer<ScanPage> {
        let (prefix, from) = (prefix.to_owned(), from.to_owned());
        let delimiter = delimiter.to_owned();
        self.run(move |n| async move {
            n.scan_folded(bucket, &prefix, &from, &delimiter, limit)
                .await
        })
        .await
    }

    async fn note_opened(&self, bucket: BucketId, opened: &OpenedUpload) -> Answer<()> {
        let opened = opened.clone();
        self.run(move |n| async move { n.note_opened(bucket, &opened).await })
            .await
    }

    async fn forget_opened(&self, bucket: BucketId, key: &ObjectKey, id: UploadId) -> Answer<()> {
        let key = key.clone();
        self.run(move |n| async move { n.forget_opened(bucket, &key, id).await })
            .await
    }

    async fn create_upload(&self, bucket: BucketId, upload: &UploadRecord) -> Answer<()> {
        let upload = upload.clone();
        self.run(move |n| async move { n.create_upload(bucket, &upload).await })
            .await
    }

    async fn upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Answer<Option<UploadRecord>> {
        let key = key.clone();
        self.run(move |n| async move { n.upload(bucket, &key, id).await })
            .await
    }

    async fn put_part(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Answer<Option<PartRecord>> {
        let (upload, part) = (upload.clone(), part.clone());
        self.run(move |n| async move { n.put_part(bucket, &upload, &part).await })
            .await
    }

    async fn hand_over(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        opened: UploadId,
    ) -> Answer<()> {
        let upload = upload.clone();
        self.run(move |n| async move { n.hand_over(bucket, &upload, opened).await })
            .await
    }

    async fn parts(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Answer<Vec<PartRecord>> {
        let key = key.clone();
        self.run(move |n| async move { n.parts(bucket, &key, id, after, limit).await })
            .await
    }

    async fn uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Answer<Vec<UploadRecord>> {
        let prefix = prefix.to_owned();
        let after = after.map(|(key, id)| (key.to_owned(), id));
        self.run(move |n| async move {
            let after = after.as_ref().map(|(key, id)| (key.as_str(), *id));
            n.uploads(bucket, &prefix, after, limit).await
        })
        .await
    }

    async fn complete_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Answer<Committed> {
        let (upload, record, condition) = (upload.clone(), record.clone(), condition.clone());
        self.run(move |n| async move {
            n.complete_upload(bucket, &upload, &record, &condition)
                .await
        })
        .await
    }

    async fn completed(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Answer<Option<ETag>> {
        let key = key.clone();
        self.run(move |n| async move { n.completed(bucket, &key, id).await })
            .await
    }

    async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Answer<Vec<PartRecord>> {
        let key = key.clone();
        self.run(move |n| async move { n.abort_upload(bucket, &key, id).await })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(name: &str) -> Bucket {
        Bucket {
            id: BucketId(0),
            name: BucketName::new(name).unwrap(),
            ufs: format!("file:///nowhere/{name}"),
            created_ms: 0,
            metadata_ttl_ms: 0,
            options: Vec::new(),
            tags: Vec::new(),
            owned: false,
        }
    }

    /// A shard's executor is not tokio; neither is this one.
    #[test]
    fn calls_work_from_outside_of_tokio() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let namespace = Namespace::new(MetadataStore::in_memory().unwrap());
        let metadata = LocalMetadata::new(namespace, runtime.handle().clone());
        let made = block_on(metadata.create_bucket(&bucket("abc"))).unwrap();
        let found = block_on(metadata.bucket(&made.name)).unwrap();
        assert_eq!(found, Some(made));
        let again = block_on(metadata.create_bucket(&bucket("abc")));
        assert_eq!(again, Err(MetadataError::BucketExists));
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.unpark();
            }
        }
        let mut future = std::pin::pin!(future);
        let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        loop {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            std::thread::park();
        }
    }
}
