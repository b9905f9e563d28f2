//! How often the cluster is asked for one request: the table of
//! `docs/operations/foundationdb.md`.

use quickwater_controlplane::Namespace;
use quickwater_proto::PutCondition;

use crate::namespace::{bucket, key, object};
use crate::support::{Counts, Fixture, Kind, all, is_real, open};

/// What was asked for since `before`, without the watches and faults.
fn since(fixture: &Fixture, before: Counts) -> [u64; 4] {
    let now = fixture.counts();
    [
        now.commits - before.commits,
        now.read_versions - before.read_versions,
        now.gets - before.gets,
        now.pages - before.pages,
    ]
}

#[tokio::test]
async fn requests_ask_as_often_as_documented() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    let namespace = Namespace::new(fixture.store.clone());
    let id = bucket(&namespace, "one").await;
    let none = PutCondition::None;
    let mut measured = Vec::new();

    let before = fixture.counts();
    namespace
        .commit_object(id, &key("k"), &object("a"), &none)
        .await
        .unwrap();
    measured.push(("first PUT of a key", since(&fixture, before)));
    let before = fixture.counts();
    namespace
        .commit_object(id, &key("k"), &object("b"), &none)
        .await
        .unwrap();
    measured.push(("PUT over an object", since(&fixture, before)));
    let before = fixture.counts();
    namespace.object(id, &key("k")).await.unwrap().unwrap();
    measured.push(("GET or HEAD, not in memory", since(&fixture, before)));
    for number in 0..50 {
        let key = key(&format!("list-{number}"));
        namespace
            .commit_object(id, &key, &object("a"), &none)
            .await
            .unwrap();
    }
    let before = fixture.counts();
    namespace.scan(id, "", "", 40).await.unwrap();
    measured.push(("LIST of 40", since(&fixture, before)));
    let before = fixture.counts();
    namespace
        .remove_object(id, &key("k"), &none)
        .await
        .unwrap()
        .unwrap();
    measured.push(("DELETE", since(&fixture, before)));
    // Commits, read versions, values, pages.
    let documented = [
        ("first PUT of a key", [1, 1, 3, 0]),
        ("PUT over an object", [1, 1, 3, 0]),
        ("GET or HEAD, not in memory", [0, 1, 1, 0]),
        ("LIST of 40", [0, 1, 0, 1]),
        ("DELETE", [1, 1, 3, 0]),
    ];
    assert_eq!(measured, documented);
}

/// The fence of `serve`: one value more, and no round trip more than there are.
#[tokio::test]
async fn a_claim_costs_one_read_for_each_commit() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    fixture.store.claim("counting").await.unwrap();
    let namespace = Namespace::new(fixture.store.clone());
    let id = bucket(&namespace, "one").await;
    let none = PutCondition::None;
    let before = fixture.counts();
    namespace
        .commit_object(id, &key("k"), &object("a"), &none)
        .await
        .unwrap();
    assert_eq!(since(&fixture, before), [1, 1, 4, 0]);
    let before = fixture.counts();
    namespace.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!(since(&fixture, before), [0, 1, 1, 0]);
}

/// What stays of an object for as long as it lives.
#[tokio::test]
async fn an_object_takes_as_many_bytes_as_documented() {
    const OBJECTS: usize = 200;
    let fixture = open(Kind::Plain);
    let namespace = Namespace::new(fixture.store.clone());
    let id = bucket(&namespace, "one").await;
    let bytes = async || {
        let rows = all(&fixture.store).await;
        // Operation rows are swept.
        let kept = rows.iter().filter(|(key, _)| key.first() != Some(&0x30));
        kept.map(|(key, value)| key.len() + value.len())
            .sum::<usize>()
    };
    let before = bytes().await;
    for number in 0..OBJECTS {
        // 40 bytes, as in a data set; an ETag as S3's.
        let key = key(&format!("train/shard-{number:06}/sample-{number:012}.t"));
        let etag = "0123456789abcdef0123456789abcdef";
        namespace
            .commit_object(id, &key, &object(etag), &PutCondition::None)
            .await
            .unwrap();
    }
    let each = (bytes().await - before) / OBJECTS;
    assert!((100..200).contains(&each), "{each} bytes for each object");
}
