//! Relaxed commits: like the others for everybody but a power cut.

use quickwater_controlplane::store::{CommitError, Store, Transaction};

use super::{get, number, put, value};
use crate::support::Fixture;

suite!(
    they_are_visible_and_in_order_with_the_others,
    they_conflict_like_the_others,
    they_are_checked_like_the_others,
);

async fn they_are_visible_and_in_order_with_the_others(fixture: Fixture) {
    let first = put(&fixture, &[("a", "1")]).await;
    let mut transaction = fixture.store.begin();
    assert_eq!(get(&mut transaction, "a").await.as_deref(), Some("1"));
    transaction.set(b"a", b"2");
    transaction.add(b"n", 5);
    transaction.set_versionstamped_value(b"v", &[0; 10], 0);
    let second = transaction.commit_relaxed().await.expect("commit");
    assert_eq!(value(&fixture, "a").await.as_deref(), Some(&b"2"[..]));
    assert_eq!(number(&value(&fixture, "n").await.expect("a row")), 5);
    let stamp = value(&fixture, "v").await;
    assert_eq!(stamp.as_deref(), Some(&second.as_bytes()[..]));
    let third = put(&fixture, &[("a", "3")]).await;
    assert!(first < second && second < third);
    assert_eq!(value(&fixture, "a").await.as_deref(), Some(&b"3"[..]));
}

async fn they_conflict_like_the_others(fixture: Fixture) {
    let mut relaxed = fixture.store.begin();
    let mut flushed = fixture.store.begin();
    for transaction in [&mut relaxed, &mut flushed] {
        assert_eq!(get(transaction, "a").await, None);
        transaction.set(b"a", b"mine");
    }
    relaxed.commit_relaxed().await.expect("the first");
    assert_eq!(flushed.commit().await, Err(CommitError::Conflict));
    let mut late = fixture.store.begin();
    assert!(get(&mut late, "a").await.is_some());
    put(&fixture, &[("a", "other")]).await;
    late.set(b"b", b"1");
    assert_eq!(late.commit_relaxed().await, Err(CommitError::Conflict));
    assert_eq!(value(&fixture, "b").await, None);
}

async fn they_are_checked_like_the_others(fixture: Fixture) {
    let mut transaction = fixture.store.begin();
    transaction.set(b"\xffreserved", b"1");
    let refused = transaction.commit_relaxed().await;
    assert!(matches!(refused, Err(CommitError::Invalid(_))));
    let nothing = fixture.store.begin().commit_relaxed().await;
    assert!(nothing.is_ok());
}
