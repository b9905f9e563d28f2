//! The test server, which services that share a database need: the same answers as
//! the database in the library.

use std::time::Duration;

use quickwater_controlplane::store::{CommitError, Store, StoreError, Transaction};

use crate::support::{is_real, open_in_server};
use crate::{histories, model};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_through_the_server_are_serializable() {
    if is_real() {
        return;
    }
    let fixture = open_in_server();
    fixture.faults(
        "conflict=20 unknown_applied=30 unknown_lost=30 timeout_late=30 late_ms=20 behind=10 \
         delay=100 delay_ms=2 page_rows=4",
    );
    let histories = histories::run(&fixture.store).await;
    fixture.faults("");
    tokio::time::sleep(Duration::from_millis(60)).await;
    histories::check(&fixture.store, histories).await;
}

#[test]
fn the_server_agrees_with_the_model() {
    if !is_real() {
        model::check(30, open_in_server);
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_no_answer() {
    if is_real() {
        return;
    }
    let fixture = open_in_server();
    // Nobody listens there.
    let options = quickwater_foundationdb::Options {
        cluster_file: fixture.options.cluster_file.with_file_name("gone.cluster"),
        ..fixture.options.clone()
    };
    std::fs::write(&options.cluster_file, "test:remote@127.0.0.1:1").unwrap();
    let store = quickwater_foundationdb::FoundationStore::open(&options).unwrap();
    let mut transaction = store.begin();
    let read = transaction.get(b"k").await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    let mut transaction = store.begin();
    transaction.set(b"k", b"1");
    assert_eq!(transaction.commit().await, Err(CommitError::Unknown));
}
