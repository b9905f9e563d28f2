//! Atomic additions and versionstamps.

use quickwater_controlplane::store::{
    CommitError, CommitVersion, KeyRange, Scan, Store, StoreError, Transaction,
};

use super::{number, put, value};
use crate::support::{Fixture, all};

suite!(
    numbers_are_added,
    additions_do_not_conflict_with_each_other,
    versionstamps_are_the_commit_version,
    versionstamps_rise,
    a_versionstamp_needs_room,
);

async fn numbers_are_added(fixture: Fixture) {
    put(
        &fixture,
        &[("short", "\u{1}"), ("long", "\u{2}\0\0\0\0\0\0\0more")],
    )
    .await;
    for key in ["none", "short", "long"] {
        let mut transaction = fixture.store.begin();
        transaction.add(key.as_bytes(), 3);
        transaction.commit().await.expect("commit");
    }
    let mut wrapping = fixture.store.begin();
    wrapping.add(b"wrap", i64::MAX);
    wrapping.add(b"wrap", 1);
    wrapping.commit().await.expect("commit");
    for (key, sum) in [("none", 3), ("short", 4), ("long", 5), ("wrap", i64::MIN)] {
        let value = value(&fixture, key).await.expect("a row");
        assert_eq!(number(&value), sum, "{key}");
    }
}

async fn additions_do_not_conflict_with_each_other(fixture: Fixture) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let store = fixture.store.clone();
        tasks.spawn(async move {
            let mut transaction = store.begin();
            transaction.add(b"n", 1);
            transaction.add(b"m", -1);
            transaction.commit().await.expect("no conflict");
        });
    }
    tasks.join_all().await;
    assert_eq!(number(&value(&fixture, "n").await.expect("a row")), 64);
    assert_eq!(number(&value(&fixture, "m").await.expect("a row")), -64);
}

async fn versionstamps_are_the_commit_version(fixture: Fixture) {
    let mut transaction = fixture.store.begin();
    transaction.set_versionstamped_value(b"a", b"<0123456789>", 1);
    assert_eq!(transaction.get(b"a").await, Err(StoreError::Unreadable));
    let scan = Scan::new(KeyRange::prefix(b""), 10);
    assert_eq!(transaction.scan(scan).await, Err(StoreError::Unreadable));
    let version = transaction.commit().await.expect("commit");
    let value = value(&fixture, "a").await.expect("a row");
    assert_eq!(value[1..11], *version.as_bytes());
    assert_eq!((value[0], value[11]), (b'<', b'>'));
}

async fn versionstamps_rise(fixture: Fixture) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..32_u8 {
        let store = fixture.store.clone();
        tasks.spawn(async move {
            let mut versions = Vec::new();
            for round in 0..4_u8 {
                let mut transaction = store.begin();
                transaction.set_versionstamped_value(&[b's', task, round], &[0; 10], 0);
                versions.push(transaction.commit().await.expect("commit"));
            }
            assert!(versions.is_sorted_by(|a, b| a < b));
            versions
        });
    }
    let mut versions: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    versions.sort();
    let mut unique = versions.clone();
    unique.dedup();
    assert_eq!(unique.len(), 128);
    let mut stored: Vec<_> = all(&fixture.store)
        .await
        .into_iter()
        .map(|(_, value)| CommitVersion(value.try_into().expect("ten bytes")))
        .collect();
    stored.sort();
    assert_eq!(stored, versions);
}

async fn a_versionstamp_needs_room(fixture: Fixture) {
    for (template, offset) in [(&[0_u8; 10][..], 1), (&[0; 9], 0), (&[0; 20], usize::MAX)] {
        let mut transaction = fixture.store.begin();
        transaction.set(b"b", b"1");
        transaction.set_versionstamped_value(b"a", template, offset);
        let refused = transaction.commit().await;
        assert!(
            matches!(refused, Err(CommitError::Invalid(_))),
            "{refused:?}"
        );
    }
    assert_eq!(all(&fixture.store).await, vec![]);
}
