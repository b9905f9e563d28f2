//! The namespace on the durable engines: what was acked is there after a reopen,
//! and versions go on growing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use quickwater_controlplane::Namespace;
use quickwater_controlplane::store::{EmbeddedStore, EngineKind, EngineOptions, open};
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, ETag, Extent, ObjectHeaders, ObjectKey, ObjectRecord,
    PartRecord, PersistState, PutCondition, UploadId, UploadRecord, Version,
};

const NONE: PutCondition = PutCondition::None;

async fn reopened(kind: EngineKind, dir: &Path) -> Namespace<EmbeddedStore> {
    let namespace = Namespace::new(open(kind, dir, &EngineOptions::default()).unwrap());
    namespace.check_format().await.unwrap();
    namespace
}

fn bucket() -> Bucket {
    Bucket {
        id: BucketId(0),
        name: BucketName::new("one").unwrap(),
        ufs: "file:///ufs/one".into(),
        created_ms: 1,
        metadata_ttl_ms: 1,
        options: Vec::new(),
        tags: Vec::new(),
        owned: true,
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn object(user: usize) -> ObjectRecord {
    ObjectRecord {
        version: Version(0),
        size: 7,
        etag: ETag::new("tag"),
        modified_ms: 1,
        headers: ObjectHeaders {
            user: vec![("name".into(), "v".repeat(user))],
            ..ObjectHeaders::default()
        },
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

fn upload(number: u128) -> UploadRecord {
    UploadRecord {
        id: UploadId(number),
        key: key("upload"),
        initiated_ms: 1,
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        checksum: None,
        ufs_upload: String::new(),
    }
}

fn part(number: u16) -> PartRecord {
    PartRecord {
        number,
        size: 7,
        etag: ETag::from_md5(&[1; 16]),
        modified_ms: 1,
        checksums: Vec::new(),
        blob: BlobId(number.into()),
        held: false,
    }
}

/// Buckets, objects, an upload in progress and a completed one of 1,000 parts.
async fn fill(namespace: &Namespace<EmbeddedStore>) -> (BucketId, Version) {
    let id = namespace.create_bucket(&bucket()).await.unwrap().id;
    for number in 0..50 {
        let key = key(&format!("k{number:02}"));
        namespace
            .commit_object(id, &key, &object(number * 20), &NONE)
            .await
            .unwrap();
    }
    for number in 1..=2 {
        namespace.create_upload(id, &upload(number)).await.unwrap();
        for part_number in 1..=1_000 {
            namespace
                .put_part(id, &upload(number), &part(part_number))
                .await
                .unwrap();
        }
    }
    let parts = (1..=1_000).map(part).collect();
    let record = ObjectRecord { parts, ..object(0) };
    let done = namespace
        .complete_upload(id, &upload(1), &record, &NONE)
        .await
        .unwrap();
    (id, done.version)
}

async fn acked_is_there_after_a_reopen(kind: EngineKind) {
    let dir = tempfile::tempdir().unwrap();
    let (id, last) = fill(&reopened(kind, dir.path()).await).await;

    let namespace = reopened(kind, dir.path()).await;
    let found = namespace.bucket(&bucket().name).await.unwrap().unwrap();
    assert_eq!(found, Bucket { id, ..bucket() });
    for number in 0..50 {
        let read = namespace
            .object(id, &key(&format!("k{number:02}")))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            read,
            ObjectRecord {
                version: read.version,
                ..object(number * 20)
            }
        );
        assert!(read.version < last);
    }
    let page = namespace.scan(id, "k", "k25", 10).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (10, true));
    let completed = namespace.object(id, &key("upload")).await.unwrap().unwrap();
    assert_eq!((completed.version, completed.parts.len()), (last, 1_000));
    let remembered = namespace
        .completed(id, &key("upload"), UploadId(1))
        .await
        .unwrap();
    assert_eq!(remembered, Some(ETag::new("tag")));
    let parts = namespace
        .parts(id, &key("upload"), UploadId(2), 0, 2_000)
        .await
        .unwrap();
    assert_eq!(parts, (1..=1_000).map(part).collect::<Vec<_>>());
    assert_eq!(namespace.usage(id).await.unwrap().objects, 51);

    let next = namespace
        .commit_object(id, &key("k00"), &object(0), &NONE)
        .await
        .unwrap();
    assert!(next.version > last);
    namespace.delete_bucket(id, false).await.unwrap();
    let again = namespace.create_bucket(&bucket()).await.unwrap();
    assert!(again.id > id);
    assert_eq!(namespace.object(again.id, &key("k00")).await.unwrap(), None);
    assert!(namespace.sweep().await.unwrap().trash > 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fjall_keeps_what_was_acked() {
    acked_is_there_after_a_reopen(EngineKind::Fjall).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redb_keeps_what_was_acked() {
    acked_is_there_after_a_reopen(EngineKind::Redb).await;
}
