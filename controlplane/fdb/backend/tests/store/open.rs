//! What opening a store says, and that stores share a cluster.

use std::time::Duration;

use quickwater_controlplane::store::{Store, StoreError, Transaction};
use quickwater_foundationdb::{FoundationStore, OpenError, Options};

use crate::support::{Kind, all, is_real, open, open_with_prefix};

#[test]
fn what_is_missing_is_named() {
    let fixture = open(Kind::Plain);
    let missing = Options {
        cluster_file: "/nonexistent/fdb.cluster".into(),
        ..fixture.options.clone()
    };
    let error = FoundationStore::open(&missing).unwrap_err();
    assert!(matches!(error, OpenError::ClusterFile { .. }));
    assert!(error.to_string().contains("/nonexistent/fdb.cluster"));
    let another = Options {
        client_library: "/nonexistent/libfdb_c.so".into(),
        ..fixture.options.clone()
    };
    let error = FoundationStore::open(&another).unwrap_err().to_string();
    assert!(error.contains("is loaded already"), "{error}");
}

#[test]
fn a_cluster_file_without_a_cluster_is_refused() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    let dir = tempfile::tempdir().unwrap();
    let cluster_file = dir.path().join("fdb.cluster");
    std::fs::write(&cluster_file, "nonsense").unwrap();
    let options = Options {
        cluster_file,
        ..fixture.options.clone()
    };
    let error = FoundationStore::open(&options).unwrap_err().to_string();
    assert!(
        error.ends_with("Invalid connection string (1510)"),
        "{error}"
    );
}

#[tokio::test]
async fn the_cluster_answers() {
    let fixture = open(Kind::Plain);
    let first = fixture.store.ping(Duration::from_secs(5)).await.unwrap();
    let mut transaction = fixture.store.begin();
    transaction.set(b"a", b"1");
    transaction.commit().await.unwrap();
    assert!(fixture.store.ping(Duration::from_secs(5)).await.unwrap() > first);
    if is_real() {
        return;
    }
    fixture.faults("delay=1000 delay_ms=100000");
    let silent = fixture.store.ping(Duration::from_millis(20)).await;
    assert!(matches!(silent, Err(StoreError::Unavailable(text)) if text.contains("20 ms")));
    fixture.faults("behind=1000");
    let behind = fixture.store.ping(Duration::from_millis(200)).await;
    assert!(matches!(behind, Err(StoreError::Again(_))));
    // For moments as a rule.
    fixture.faults("behind=500 throttled=300 seed=2");
    let late = fixture.store.ping(Duration::from_secs(60)).await;
    assert!(late.is_ok(), "{late:?}");
}

#[tokio::test]
async fn stores_behind_different_prefixes_do_not_meet() {
    let first = open_with_prefix("one/");
    let options = Options {
        key_prefix: "other/".parse().unwrap(),
        ..first.options.clone()
    };
    let second = FoundationStore::open(&options).unwrap();
    for (store, value) in [(&first.store, b"1"), (&second, b"2")] {
        let mut transaction = store.begin();
        transaction.clear_range(quickwater_controlplane::store::KeyRange::prefix(b""));
        transaction.set(b"k", value);
        transaction.set(b"l", value);
        transaction.commit().await.unwrap();
    }
    assert_eq!(
        all(&first.store).await,
        [
            (b"k".to_vec(), b"1".to_vec()),
            (b"l".to_vec(), b"1".to_vec())
        ]
    );
    assert_eq!(all(&second).await.len(), 2);
    assert_eq!(
        first.store.key_bytes_max() + first.options.key_prefix.bytes(),
        10_000
    );
}
