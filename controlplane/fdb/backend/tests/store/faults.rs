//! Each fault of a cluster, alone: what the store answers, and what is there then.

use std::time::Duration;

use quickwater_controlplane::store::{CommitError, KeyRange, Scan, Store, StoreError, Transaction};

use crate::support::{Fixture, Kind, is_real, open};

async fn put(fixture: &Fixture, key: &[u8]) -> Result<(), CommitError> {
    let mut transaction = fixture.store.begin();
    transaction.set(key, b"1");
    transaction.commit().await.map(drop)
}

async fn is_there(fixture: &Fixture, key: &[u8]) -> bool {
    let found = fixture.store.begin().get(key).await;
    found.expect("a read").is_some()
}

#[tokio::test]
async fn commits_end_as_they_must() {
    if is_real() {
        return;
    }
    let cases = [
        ("conflict", Some(CommitError::Conflict), false),
        ("too_old", Some(CommitError::TooOld), false),
        (
            "too_large",
            Some(CommitError::TooLarge("transaction")),
            false,
        ),
        ("behind", None, false),
        ("throttled", None, false),
        ("unknown_lost", Some(CommitError::Unknown), false),
        ("timeout_lost", Some(CommitError::Unknown), false),
        ("cancelled_lost", Some(CommitError::Unknown), false),
        ("changed_lost", Some(CommitError::Unknown), false),
        ("unknown_applied", Some(CommitError::Unknown), true),
        ("timeout_applied", Some(CommitError::Unknown), true),
        ("cancelled_applied", Some(CommitError::Unknown), true),
        ("changed_applied", Some(CommitError::Unknown), true),
    ];
    for (fault, error, applied) in cases {
        let fixture = open(Kind::Plain);
        fixture.faults(&format!("{fault}=1000"));
        let outcome = put(&fixture, b"k").await.expect_err("a fault");
        match error {
            Some(error) => assert_eq!(outcome, error, "{fault}"),
            None => assert!(
                matches!(outcome, CommitError::Again(_)),
                "{fault}: {outcome:?}"
            ),
        }
        assert_eq!(outcome.maybe_committed(), outcome == CommitError::Unknown);
        fixture.faults("");
        assert_eq!(is_there(&fixture, b"k").await, applied, "{fault}");
        put(&fixture, b"k").await.expect("the fault is over");
        let stats = fixture.store.stats();
        assert_eq!(stats.commits, 1);
        assert_eq!(
            stats.conflicts + stats.unknown + stats.refused,
            1,
            "{fault}"
        );
    }
}

#[tokio::test]
async fn a_late_commit_is_unknown_and_comes() {
    if is_real() {
        return;
    }
    for fault in ["timeout_late", "cancelled_late"] {
        let fixture = open(Kind::Plain);
        fixture.faults(&format!("{fault}=1000 late_ms=60"));
        assert_eq!(put(&fixture, b"k").await, Err(CommitError::Unknown));
        for _ in 0..200 {
            if is_there(&fixture, b"k").await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(is_there(&fixture, b"k").await, "{fault}");
    }
}

#[tokio::test]
async fn reads_that_fail_for_now_are_told_apart() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    for fault in ["future", "behind", "changed", "throttled"] {
        fixture.faults(&format!("{fault}=1000"));
        let get = fixture.store.begin().get(b"k").await;
        assert!(matches!(get, Err(StoreError::Again(_))), "{fault}: {get:?}");
        let scan = Scan::new(KeyRange::prefix(b""), 5);
        let scan = fixture.store.begin().scan(scan).await;
        assert!(
            matches!(scan, Err(StoreError::Again(_))),
            "{fault}: {scan:?}"
        );
    }
    fixture.faults("too_old=1000");
    let get = fixture.store.begin().get(b"k").await;
    assert_eq!(get, Err(StoreError::TooOld));
}

/// Two attempts of one change exclude each other by a conflict on a row that neither
/// reads. An attempt whose version to read at came only with its commit could begin
/// after the other one ended, and both would be applied.
#[tokio::test]
async fn a_named_conflict_counts_from_the_moment_it_is_named() {
    let fixture = open(Kind::Plain);
    let mut first = fixture.store.begin();
    let mut second = fixture.store.begin();
    for attempt in [&mut first, &mut second] {
        attempt.add_read_conflict(KeyRange::point(b"operation"));
        attempt.set(b"operation", b"1");
        attempt.add(b"n", 1);
    }
    // The versions are asked for but not waited for yet.
    tokio::time::sleep(Duration::from_millis(50)).await;
    second.commit().await.expect("the first to come");
    assert_eq!(first.commit().await, Err(CommitError::Conflict));
}

#[tokio::test]
async fn who_stops_waiting_does_not_stop_the_commit() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    fixture.faults("delay=1000 delay_ms=100");
    let mut transaction = fixture.store.begin();
    transaction.set(b"k", b"1");
    let commit = transaction.commit();
    let waited = tokio::time::timeout(Duration::from_millis(1), commit).await;
    fixture.faults("");
    for _ in 0..200 {
        if is_there(&fixture, b"k").await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the commit never came, waited {waited:?}");
}
