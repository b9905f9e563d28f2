//! The namespace over FoundationDB with every fault: each change once or not at all.

use std::collections::BTreeSet;

use quickwater_controlplane::Namespace;
use quickwater_controlplane::namespace::Usage;
use quickwater_foundationdb::FoundationStore;
use quickwater_proto::{
    BlobId, Bucket, BucketId, BucketName, ETag, Extent, MetadataError, ObjectHeaders, ObjectKey,
    ObjectRecord, PersistState, PutCondition, Version,
};

use crate::support::{Fixture, Kind, is_real, open};

const CLIENTS: u32 = 8;
const ROUNDS: u32 = 40;
const SIZE: u64 = 7;

/// Every fault that ends at some time. Strict: nothing the namespace does is a misuse.
const FAULTS: &str = "conflict=20 unknown_applied=40 unknown_lost=40 timeout_applied=20 \
    timeout_lost=20 timeout_late=40 cancelled_applied=10 cancelled_lost=10 cancelled_late=20 \
    changed_applied=10 changed_lost=10 too_old=5 behind=20 throttled=20 future=10 changed=10 \
    delay=200 delay_ms=3 stall=5 stall_ms=3 late_ms=30 page_rows=3 strict=1";

pub(crate) async fn bucket(namespace: &Namespace<FoundationStore>, name: &str) -> BucketId {
    let bucket = Bucket {
        id: BucketId(0),
        name: BucketName::new(name).expect("a name"),
        ufs: format!("file:///ufs/{name}"),
        created_ms: 5,
        metadata_ttl_ms: 10_000,
        options: Vec::new(),
        tags: Vec::new(),
        owned: true,
    };
    namespace.create_bucket(&bucket).await.expect("a bucket").id
}

pub(crate) fn object(etag: &str) -> ObjectRecord {
    ObjectRecord {
        version: Version(0),
        size: SIZE,
        etag: ETag::new(etag),
        modified_ms: 1,
        headers: ObjectHeaders::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents: vec![Extent {
            blob: BlobId(1),
            size: SIZE,
        }],
        parts: Vec::new(),
        ufs: None,
        persist: PersistState::Persisted,
        partial: false,
    }
}

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a key")
}

/// What one client was told of its own key, in order.
struct Told {
    key: String,
    /// ETags that may be there at the end; none for no object.
    possible: BTreeSet<Option<String>>,
    versions: Vec<Version>,
    /// The last one of the shared key.
    shared: Option<Version>,
}

/// Puts and removes a key that nobody else has, and the one that all share.
async fn client(namespace: Namespace<FoundationStore>, id: BucketId, number: u32) -> Told {
    let mut told = Told {
        key: format!("own-{number}"),
        possible: BTreeSet::from([None]),
        versions: Vec::new(),
        shared: None,
    };
    let none = PutCondition::None;
    for round in 0..ROUNDS {
        let etag = format!("{number}-{round}");
        let own = key(&told.key);
        let (outcome, wanted) = if round % 5 == 4 {
            let removed = namespace.remove_object(id, &own, &none).await;
            if let Ok(Some(removed)) = &removed {
                let seen = Some(removed.etag.as_str().to_owned());
                assert!(
                    told.possible.contains(&seen),
                    "{seen:?} of {:?}",
                    told.possible
                );
            }
            (removed.map(|_| None), None)
        } else {
            let committed = namespace
                .commit_object(id, &own, &object(&etag), &none)
                .await;
            if let Ok(committed) = &committed {
                let seen = committed.replaced.as_ref();
                let seen = seen.map(|record| record.etag.as_str().to_owned());
                assert!(
                    told.possible.contains(&seen),
                    "{seen:?} of {:?}",
                    told.possible
                );
            }
            (
                committed.map(|committed| Some(committed.version)),
                Some(etag),
            )
        };
        match outcome {
            Ok(version) => {
                told.possible = BTreeSet::from([wanted]);
                told.versions.extend(version);
            }
            Err(MetadataError::Unknown(_)) => {
                told.possible.insert(wanted);
            }
            Err(MetadataError::Unavailable(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
        let shared = object(&format!("shared-{number}-{round}"));
        match namespace
            .commit_object(id, &key("shared"), &shared, &none)
            .await
        {
            Ok(committed) => {
                told.versions.push(committed.version);
                told.shared = Some(committed.version);
            }
            Err(MetadataError::Unknown(_) | MetadataError::Unavailable(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_are_applied_once_or_not_at_all() {
    for seed in 1..=2 {
        let fixture = open(Kind::Plain);
        let namespace = Namespace::new(fixture.store.clone());
        let id = bucket(&namespace, "one").await;
        if !is_real() {
            fixture.faults(&format!("{FAULTS} seed={seed}"));
        }
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(namespace.clone(), id, number));
        }
        let told = clients.join_all().await;
        check(&fixture, &namespace, id, told).await;
    }
}

async fn check(
    fixture: &Fixture,
    namespace: &Namespace<FoundationStore>,
    id: BucketId,
    told: Vec<Told>,
) {
    if !is_real() {
        assert!(fixture.counts().faults > 200, "{:?}", fixture.counts());
        fixture.faults("");
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut versions = BTreeSet::new();
    let mut usage = Usage::default();
    let last_shared = told.iter().filter_map(|client| client.shared).max();
    for client in told {
        assert!(client.versions.is_sorted_by(|a, b| a < b), "{}", client.key);
        for version in &client.versions {
            assert!(versions.insert(*version), "{version:?} twice");
        }
        let record = namespace.object(id, &key(&client.key)).await.expect("read");
        if record.is_some() {
            usage.objects += 1;
            usage.bytes += SIZE;
        }
        let seen = record.map(|record| record.etag.as_str().to_owned());
        assert!(
            client.possible.contains(&seen),
            "{seen:?} of {:?}",
            client.possible
        );
    }
    let shared = namespace.object(id, &key("shared")).await.expect("read");
    let shared = shared.expect("written by all").version;
    assert!(
        last_shared.is_some_and(|last| last <= shared),
        "the last one stays"
    );
    usage.objects += 1;
    usage.bytes += SIZE;
    assert_eq!(namespace.usage(id).await, Ok(usage), "counted once each");
    assert!(versions.len() > 300, "{} answers", versions.len());
}
