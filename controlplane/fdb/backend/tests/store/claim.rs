//! A store for one process alone: taken once, given back, left behind, lost.

use std::time::{Duration, Instant};

use quickwater_controlplane::store::{CommitError, Store, Transaction};
use quickwater_foundationdb::{ClaimError, FoundationStore};

use crate::support::{Fixture, Kind, is_real, open};

fn again(fixture: &Fixture) -> FoundationStore {
    FoundationStore::open(&fixture.options).expect("a second handle")
}

async fn put(store: &FoundationStore) -> Result<(), CommitError> {
    let mut transaction = store.begin();
    transaction.set(b"k", b"1");
    transaction.commit().await.map(drop)
}

#[tokio::test]
async fn a_living_owner_keeps_its_store_and_may_give_it_back() {
    let fixture = open(Kind::Plain);
    let (first, second) = (fixture.store.clone(), again(&fixture));
    first.claim("node-1").await.expect("nobody has it");
    put(&first).await.expect("its own");
    let refused = second.claim("node-2").await.unwrap_err();
    assert!(
        matches!(&refused, ClaimError::InUse { owner } if owner.starts_with("node-1 (")),
        "{refused}"
    );
    assert!(!first.is_lost());
    first.release().await;
    let began = Instant::now();
    second.claim("node-2").await.expect("given back");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "nothing to wait for"
    );
    put(&second).await.expect("its own");
    assert_eq!(
        put(&first).await,
        Err(CommitError::Unavailable("the metadata was given back"))
    );
    let twice = second.claim("node-2").await.unwrap_err();
    assert!(matches!(
        twice,
        ClaimError::InUse { .. } | ClaimError::Twice
    ));
}

/// The owner stands still: no beat, no commit. When it wakes up, it must not write.
#[tokio::test]
async fn an_owner_that_slept_is_fenced() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    let owner = std::thread::spawn({
        let store = fixture.store.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async { store.claim("sleeper").await.expect("nobody has it") });
            // Its tasks stand still from here on.
            runtime
        }
    });
    let runtime = owner.join().expect("claimed");
    let mut late = fixture.store.begin();
    late.set(b"k", b"late");
    let second = again(&fixture);
    second.claim("next").await.expect("left behind");
    put(&second).await.expect("its own");
    assert!(!fixture.store.is_lost());
    let fenced = late.commit().await;
    assert!(
        matches!(
            fenced,
            Err(CommitError::Unavailable(_) | CommitError::Conflict)
        ),
        "{fenced:?}"
    );
    assert!(put(&fixture.store).await.is_err());
    assert!(fixture.store.is_lost(), "and knows it");
    drop(second);
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_taken_with_faults_too() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    fixture.faults(
        "conflict=100 unknown_applied=200 unknown_lost=100 timeout_late=100 late_ms=20 behind=100 \
         throttled=50 delay=200 delay_ms=3",
    );
    fixture.store.claim("node-1").await.expect("nobody has it");
    fixture.faults("");
    put(&fixture.store).await.expect("its own");
    assert!(!fixture.store.is_lost());
}
