//! Tests of the rules over the in-memory store.

mod buckets;
mod faults;
mod hooked;
mod journal;
mod listing;
mod mounts;
mod objects;
mod opened;
mod overtaken;
mod pending;
mod pending_sum;
mod policies;
mod races;
mod rebuild;
mod sweeper;
mod uploads;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Extent,
    ObjectHeaders, ObjectKey, ObjectRecord, PartRecord, PersistState, PutCondition, UploadId,
    UploadRecord, Version,
};

use super::{Namespace, WallClock};
use crate::store::{EmbeddedStore, KeyRange, Scan, Store, Transaction};

type Memory = Namespace<EmbeddedStore>;

/// A wall clock that stands still until it is moved.
#[derive(Clone)]
struct StoppedClock(Arc<AtomicI64>);

impl StoppedClock {
    fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl WallClock for StoppedClock {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn namespace() -> Memory {
    Namespace::new(EmbeddedStore::in_memory().unwrap())
}

fn with_clock() -> (Memory, StoppedClock) {
    let clock = StoppedClock(Arc::new(AtomicI64::new(1_790_000_000_000)));
    (
        Namespace::with_clock(EmbeddedStore::in_memory().unwrap(), clock.clone()),
        clock,
    )
}

/// A namespace and the id of its bucket.
async fn with_bucket() -> (Memory, BucketId) {
    let namespace = namespace();
    let bucket = namespace.create_bucket(&bucket("one")).await.unwrap();
    (namespace, bucket.id)
}

fn name(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}

fn bucket(text: &str) -> Bucket {
    Bucket {
        id: BucketId(0),
        name: name(text),
        ufs: format!("file:///ufs/{text}"),
        created_ms: 5,
        metadata_ttl_ms: 10_000,
        options: Vec::new(),
        tags: Vec::new(),
        owned: true,
    }
}

fn key(key: &str) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

fn object(etag: &str) -> ObjectRecord {
    ObjectRecord {
        version: Version(0),
        size: 7,
        etag: ETag::new(etag),
        modified_ms: 1,
        headers: ObjectHeaders::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: vec![Extent {
            blob: BlobId(1),
            size: 7,
        }],
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    }
}

/// Too large for the object row alone.
fn large_object(etag: &str) -> ObjectRecord {
    let mut record = object(etag);
    record.headers.user = vec![("name".into(), "v".repeat(2_000))];
    record
}

fn upload(text: &str, id: u128) -> UploadRecord {
    UploadRecord {
        id: UploadId(id),
        key: key(text),
        initiated_ms: 2,
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        checksum: None,
        ufs_upload: "staging".into(),
    }
}

fn part(number: u16) -> PartRecord {
    PartRecord {
        number,
        size: 5 << 20,
        etag: ETag::from_md5(&[number as u8; 16]),
        modified_ms: 3,
        checksums: vec![Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: vec![number as u8; 8],
        }],
        blob: BlobId(u128::from(number)),
        held: false,
    }
}

/// The object that an upload with these parts becomes.
fn completed(parts: Vec<PartRecord>) -> ObjectRecord {
    let extents = parts
        .iter()
        .map(|part| Extent {
            blob: part.blob,
            size: part.size,
        })
        .collect();
    let size = parts.iter().map(|part| part.size).sum();
    ObjectRecord {
        size,
        extents,
        parts,
        ..object("completed-1")
    }
}

async fn put<S: Store>(
    namespace: &Namespace<S>,
    bucket: BucketId,
    text: &str,
    record: &ObjectRecord,
) -> Version {
    let committed = namespace
        .commit_object(bucket, &key(text), record, &PutCondition::None)
        .await;
    committed.unwrap().version
}

/// Every row of the store but operations.
async fn rows(namespace: &Memory) -> Vec<Vec<u8>> {
    let mut transaction = namespace.store().begin();
    let all = transaction
        .scan(Scan::new(KeyRange::new(vec![1], vec![0xff]), 10_000))
        .await
        .unwrap();
    assert!(!all.more);
    let keys = all.rows.into_iter().map(|row| row.key.to_vec());
    keys.filter(|key| key[0] != 0x30).collect()
}
