//! What all tests use: a handle, buckets, whole-object helpers, a foreign runtime.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use md5::{Digest, Md5};
use quickwater_engine::io::{BodyDigests, Ufs, UfsListing, UfsReader, UfsUpload};
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, ETag, ObjectHeaders, ObjectKey, PartRecord, UfsEntry,
    UfsError, UfsIdentity, UfsObject, UploadId, UploadRecord,
};

use crate::{Identities, Standing, UfsClient, UfsConfig};

/// Polls a future without any runtime, as a foreign one would.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

/// A handle on a runtime that lives as long as the tests.
pub(super) fn client(config: UfsConfig) -> UfsClient {
    UfsClient::new(runtime(), config)
}

/// One with a memory of directories that outlives it.
pub(super) fn client_with(identities: Arc<dyn Identities>) -> UfsClient {
    UfsClient::with_identities(runtime(), UfsConfig::default(), identities)
}

/// One of a worker among others.
pub(super) fn among_others(config: UfsConfig, standing: Arc<Standing>) -> UfsClient {
    let identities = Arc::new(crate::identities::Remembered::default());
    UfsClient::among_others(runtime(), config, identities, standing)
}

fn runtime() -> tokio::runtime::Handle {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    });
    runtime.handle().clone()
}

/// Deadlines short enough to be waited for.
pub(super) fn impatient() -> UfsConfig {
    UfsConfig {
        connect_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(1_500),
        idle_timeout: Duration::from_millis(500),
        timeout_per_mib: Duration::from_millis(200),
        ..UfsConfig::default()
    }
}

pub(super) fn bucket(uri: &str, options: &[(&str, &str)]) -> Bucket {
    Bucket {
        id: BucketId(1),
        name: BucketName::new("test-bucket").unwrap(),
        ufs: uri.to_owned(),
        created_ms: 0,
        metadata_ttl_ms: 0,
        options: options
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        tags: Vec::new(),
        owned: true,
    }
}

pub(super) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

pub(super) fn digests(data: &[u8]) -> BodyDigests {
    BodyDigests {
        md5: Md5::digest(data).into(),
        checksums: Vec::new(),
    }
}

/// Bytes that differ from block to block.
pub(super) fn content(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|i| (i % 251) as u8 ^ (i / 4096) as u8 ^ seed)
        .collect()
}

pub(super) async fn send_all(
    mut upload: impl UfsUpload,
    data: &[u8],
) -> Result<UfsObject, UfsError> {
    for piece in data.chunks(1 << 20) {
        upload.send(Bytes::copy_from_slice(piece)).await?;
    }
    upload.finish(&digests(data)).await
}

pub(super) async fn put_with(
    ufs: &UfsClient,
    bucket: &Bucket,
    name: &str,
    data: &[u8],
    headers: &ObjectHeaders,
) -> Result<UfsObject, UfsError> {
    let upload = ufs
        .put(bucket, &key(name), headers, data.len() as u64)
        .await?;
    send_all(upload, data).await
}

pub(super) async fn put(
    ufs: &UfsClient,
    bucket: &Bucket,
    name: &str,
    data: &[u8],
) -> Result<UfsObject, UfsError> {
    put_with(ufs, bucket, name, data, &ObjectHeaders::default()).await
}

pub(super) async fn read(
    ufs: &UfsClient,
    bucket: &Bucket,
    name: &str,
    expect: &UfsIdentity,
    range: Range<u64>,
) -> Result<Vec<u8>, UfsError> {
    let mut reader = ufs.read(bucket, &key(name), expect, range).await?;
    let mut data = Vec::new();
    while let Some(piece) = reader.next().await? {
        assert!(!piece.is_empty() && piece.len() <= 1 << 20);
        data.extend_from_slice(&piece);
    }
    assert!(reader.next().await?.is_none(), "the end stays the end");
    Ok(data)
}

pub(super) async fn get(ufs: &UfsClient, bucket: &Bucket, name: &str) -> Result<Vec<u8>, UfsError> {
    let object = ufs.head(bucket, &key(name)).await?;
    read(ufs, bucket, name, &object.identity, 0..object.identity.size).await
}

pub(super) async fn list(
    ufs: &UfsClient,
    bucket: &Bucket,
    prefix: &str,
    start_after: &str,
    recursive: bool,
) -> Result<Vec<UfsEntry>, UfsError> {
    let mut listing = ufs.list(bucket, prefix, start_after, recursive).await?;
    let mut entries = Vec::new();
    while let Some(page) = listing.next().await? {
        assert!(!page.is_empty() && page.len() <= 1_000);
        entries.extend(page);
    }
    assert!(listing.next().await?.is_none(), "the end stays the end");
    Ok(entries)
}

/// Names of a listing.
pub(super) async fn names(
    ufs: &UfsClient,
    bucket: &Bucket,
    prefix: &str,
    start_after: &str,
    recursive: bool,
) -> Vec<String> {
    let entries = list(ufs, bucket, prefix, start_after, recursive)
        .await
        .unwrap();
    entries
        .into_iter()
        .map(|entry| match entry {
            UfsEntry::Object { key, .. } => key,
            UfsEntry::Prefix(prefix) => prefix,
        })
        .collect()
}

/// What a listing of `model` must show.
pub(super) fn expected<T>(
    model: &BTreeMap<String, T>,
    prefix: &str,
    start_after: &str,
    recursive: bool,
) -> Vec<String> {
    let mut names: Vec<String> = model
        .keys()
        .filter(|k| k.starts_with(prefix) && k.as_str() > start_after)
        .map(|k| match k[prefix.len()..].find('/') {
            Some(at) if !recursive => k[..=prefix.len() + at].to_owned(),
            _ => k.clone(),
        })
        .collect();
    names.dedup();
    names
}

pub(super) fn upload_record(
    name: &str,
    ufs_upload: String,
    headers: ObjectHeaders,
) -> UploadRecord {
    UploadRecord {
        id: UploadId(7),
        key: key(name),
        initiated_ms: 0,
        headers,
        tags: Vec::new(),
        checksum: None,
        ufs_upload,
    }
}

pub(super) async fn put_part(
    ufs: &UfsClient,
    bucket: &Bucket,
    upload: &UploadRecord,
    number: u16,
    data: &[u8],
) -> Result<PartRecord, UfsError> {
    let sending = ufs
        .put_part(bucket, upload, number, data.len() as u64)
        .await?;
    let object = send_all(sending, data).await?;
    assert_eq!(object.etag, ETag::from_md5(&digests(data).md5));
    Ok(PartRecord {
        number,
        size: data.len() as u64,
        etag: object.etag,
        modified_ms: 0,
        checksums: Vec::new(),
        blob: BlobId(0),
        held: false,
    })
}

/// The ETag of a multipart object.
pub(super) fn composite_etag(parts: &[PartRecord]) -> ETag {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part.etag.as_md5().unwrap());
    }
    ETag::new(&format!("{}-{}", hex::encode(hash.finalize()), parts.len()))
}
