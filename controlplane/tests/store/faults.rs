//! The faulty store does what it says, no more.

use std::time::Duration;

use quickwater_controlplane::store::{
    CommitError, EmbeddedStore, Fault, FaultPlan, FaultyStore, Store, Transaction,
};

use crate::support::all;

async fn put(store: &impl Store, key: &[u8]) -> Result<(), CommitError> {
    let mut transaction = store.begin();
    transaction.set(key, b"1");
    transaction.commit().await.map(drop)
}

#[tokio::test]
async fn scripted_faults_come_in_order() {
    let inner = EmbeddedStore::in_memory().expect("a store");
    let store = FaultyStore::new(inner.clone(), FaultPlan::default(), 1);
    store.script([
        Fault::Conflict,
        Fault::UnknownApplied,
        Fault::UnknownLost,
        Fault::Nothing,
        Fault::Unavailable,
        Fault::UnknownAppliedLater(Duration::from_millis(200)),
    ]);
    assert_eq!(put(&store, b"a").await, Err(CommitError::Conflict));
    assert_eq!(put(&store, b"b").await, Err(CommitError::Unknown));
    assert_eq!(put(&store, b"c").await, Err(CommitError::Unknown));
    assert_eq!(put(&store, b"d").await, Ok(()));
    let refused = put(&store, b"e").await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))));
    assert_eq!(put(&store, b"f").await, Err(CommitError::Unknown));
    assert_eq!(put(&store, b"g").await, Ok(()));
    let keys: Vec<_> = all(&inner).await.into_iter().map(|row| row.0).collect();
    assert_eq!(keys, [b"b", b"d", b"g"]);
    assert_eq!(store.injected(), 5);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if inner.begin().get(b"f").await.expect("read").is_some() {
            return;
        }
    }
    panic!("the late commit never came");
}

#[tokio::test]
async fn the_plan_is_kept_and_repeats_with_the_seed() {
    let plan = FaultPlan {
        conflict: 100,
        unknown_applied: 50,
        unknown_lost: 50,
        unavailable: 50,
        read_unavailable: 100,
        again: 10,
        delayed: 10,
        delay_max: Duration::from_micros(100),
    };
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let inner = EmbeddedStore::in_memory().expect("a store");
        let store = FaultyStore::new(inner, plan, seed);
        let mut outcomes = String::new();
        for row in 0..1_000_u32 {
            outcomes.push(match put(&store, &row.to_be_bytes()).await {
                Ok(()) => '.',
                Err(CommitError::Conflict) => 'c',
                Err(CommitError::Unknown) => 'u',
                Err(_) => 'x',
            });
            let read = store.begin().get(b"a").await;
            outcomes.push(if read.is_ok() { '.' } else { 'r' });
        }
        let count = |fault| outcomes.matches(fault).count();
        assert!((60..140).contains(&count('c')), "{} conflicts", count('c'));
        assert!((60..140).contains(&count('u')), "{} unknown", count('u'));
        assert!((60..140).contains(&count('r')), "{} reads", count('r'));
        assert!((20..80).contains(&count('x')), "{} unavailable", count('x'));
        runs.push(outcomes);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn transactions_that_only_read_are_not_refused() {
    let inner = EmbeddedStore::in_memory().expect("a store");
    let plan = FaultPlan {
        unavailable: 1_000,
        ..FaultPlan::default()
    };
    let store = FaultyStore::new(inner, plan, 1);
    let mut transaction = store.begin();
    transaction.get(b"a").await.expect("read");
    transaction.commit().await.expect("nothing to refuse");
    assert!(put(&store, b"a").await.is_err());
}
