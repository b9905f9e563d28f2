//! A measurement: CPU of a journaled commit. Run it alone, in release:
//! `cargo test --release -p quickwater-controlplane --test journaled -- --ignored --nocapture`
//!
//! `WRITERS` and `COMMITS` in the environment change how many at once and in all.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use quickwater_controlplane::namespace::Namespace;
use quickwater_controlplane::store::{EngineKind, EngineOptions, open};
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, ETag, Extent, ObjectHeaders, ObjectKey, ObjectRecord,
    PersistState, Version,
};

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// CPU time of this process, user and system.
fn cpu() -> Duration {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").expect("tasks") {
        let path = task.expect("a task").path().join("schedstat");
        // A thread may end meanwhile; none that works does.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let nanos = text
            .split(' ')
            .next()
            .and_then(|text| text.parse::<u64>().ok());
        total += nanos.unwrap_or(0);
    }
    Duration::from_nanos(total)
}

fn bucket() -> Bucket {
    Bucket {
        id: BucketId(0),
        name: BucketName::new("one").expect("a name"),
        ufs: "file:///ufs/one".into(),
        created_ms: 0,
        metadata_ttl_ms: 0,
        options: Vec::new(),
        tags: Vec::new(),
        owned: true,
    }
}

fn record(number: u64) -> ObjectRecord {
    ObjectRecord {
        version: Version(0),
        size: 10_240,
        etag: ETag::from_md5(&[number as u8; 16]),
        modified_ms: 1_790_000_000_000,
        headers: ObjectHeaders {
            content_type: Some("application/octet-stream".into()),
            ..ObjectHeaders::default()
        },
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: vec![Extent {
            blob: BlobId(u128::from(number) << 64 | 0x9e37_79b9),
            size: 10_240,
        }],
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::NotPersisted,
        partial: false,
    }
}

#[test]
#[ignore = "a measurement"]
fn cpu_per_commit() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (writers, commits) = (setting("WRITERS", 64), setting("COMMITS", 200_000));
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(EngineKind::Fjall, dir.path(), &EngineOptions::default()).expect("open");
    let namespace = Namespace::new(store);
    let id = runtime
        .block_on(namespace.create_bucket(&bucket()))
        .expect("a bucket")
        .id;
    let before = (cpu(), Instant::now());
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let namespace = namespace.clone();
            runtime.spawn(async move {
                for turn in 0..commits / writers {
                    let number = writer + turn * writers;
                    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let key = ObjectKey::new(&format!("data/{spread:016x}")).expect("a key");
                    let entry = namespace.journal_entry(id, &key, &record(number), number + 1);
                    let entry = entry.expect("an entry");
                    namespace.commit_journaled(&entry).await.expect("commit");
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).expect("a writer");
    }
    let (used, took) = (cpu() - before.0, before.1.elapsed());
    let stats = namespace.store().stats();
    eprintln!(
        "{writers} writers: {:.1} us CPU a commit, {:.0} commits/s, {:.1} commits a batch, {} flushes",
        used.as_secs_f64() * 1e6 / commits as f64,
        commits as f64 / took.as_secs_f64(),
        stats.commits as f64 / stats.batches as f64,
        stats.flushes,
    );
}
