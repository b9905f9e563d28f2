//! Group commit, overload and a failing disk, with an engine that waits at a
//! gate.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use quickwater_controlplane::store::limits::QUEUE_TRANSACTIONS_MAX;
use quickwater_controlplane::store::{
    CommitError, CommitVersion, EmbeddedStore, EmbeddedTransaction, KeyRange, Store, Transaction,
};
use tokio::task::JoinSet;

use crate::support::{GatedEngine, all};

type Commits = JoinSet<Result<CommitVersion, CommitError>>;

fn gated() -> (GatedEngine, EmbeddedStore) {
    let engine = GatedEngine::default();
    let store = EmbeddedStore::new(engine.clone()).expect("a store");
    (engine, store)
}

/// Queues a commit, and leaves its answer to a task.
async fn queue(commits: &mut Commits, transaction: EmbeddedTransaction) {
    poll(commits, transaction.commit()).await;
}

async fn poll(
    commits: &mut Commits,
    commit: impl Future<Output = Result<CommitVersion, CommitError>> + Send + 'static,
) {
    let mut commit = Box::pin(commit);
    match poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await {
        Poll::Ready(answer) => commits.spawn(async move { answer }),
        Poll::Pending => commits.spawn(commit),
    };
}

/// Queues commits of one row each, when the first is at the gate the others.
async fn start(engine: &GatedEngine, store: &EmbeddedStore, count: u32) -> Commits {
    let before = engine.batches();
    let mut commits = JoinSet::new();
    for row in 0..count {
        let mut transaction = store.begin();
        transaction.set(&row.to_be_bytes(), b"1");
        queue(&mut commits, transaction).await;
        if row == 0 {
            engine.batch_after(before).await;
        }
    }
    commits
}

#[tokio::test]
async fn what_waits_during_a_flush_shares_the_next() {
    let (engine, store) = gated();
    engine.close();
    let commits = start(&engine, &store, 500).await;
    engine.open();
    let versions = commits.join_all().await;
    assert!(versions.iter().all(Result::is_ok));
    let stats = store.stats();
    assert_eq!((stats.commits, stats.flushes), (500, 2));
    assert_eq!(all(&store).await.len(), 500);
}

#[tokio::test]
async fn conflicts_are_found_within_a_group() {
    let (engine, store) = gated();
    let mut readers = Vec::new();
    for row in 0..10_u8 {
        let mut transaction = store.begin();
        transaction.get(b"shared").await.expect("read");
        transaction.set(b"shared", &[row]);
        transaction.add(b"commits", 1);
        readers.push(transaction);
    }
    engine.close();
    let first = start(&engine, &store, 1).await;
    let mut commits = Commits::new();
    for transaction in readers {
        queue(&mut commits, transaction).await;
    }
    engine.open();
    let outcomes = commits.join_all().await;
    first.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let refused = |outcome: &&Result<_, _>| **outcome == Err(CommitError::Conflict);
    assert_eq!(outcomes.iter().filter(refused).count(), 9);
    assert_eq!(store.stats().flushes, 2);
    let rows = all(&store).await;
    assert_eq!(rows[1].1, 1_i64.to_le_bytes());
}

#[tokio::test]
async fn a_group_is_applied_in_order() {
    let (engine, store) = gated();
    engine.close();
    let first = start(&engine, &store, 1).await;
    let mut outcomes = Vec::new();
    for step in 0..6 {
        let mut transaction = store.begin();
        match step {
            0 => transaction.add(b"n", 5),
            1 => transaction.add(b"n", 6),
            2 => transaction.clear_range(KeyRange::new("m", "o")),
            3 => transaction.add(b"n", 7),
            4 => transaction.set(b"m", b"kept"),
            _ => transaction.clear(b"m2"),
        }
        let mut commit = Commits::new();
        queue(&mut commit, transaction).await;
        outcomes.push(commit);
    }
    engine.open();
    let mut versions = Vec::new();
    for commit in outcomes {
        versions.extend(commit.join_all().await);
    }
    first.join_all().await;
    let versions: Result<Vec<_>, _> = versions.into_iter().collect();
    assert!(versions.expect("commits").is_sorted_by(|a, b| a < b));
    assert_eq!(store.stats().flushes, 2);
    let rows = all(&store).await;
    assert_eq!(rows[1], (b"m".to_vec(), b"kept".to_vec()));
    assert_eq!(rows[2], (b"n".to_vec(), 7_i64.to_le_bytes().to_vec()));
}

#[tokio::test]
async fn nothing_is_visible_before_it_is_durable() {
    let (engine, store) = gated();
    engine.close();
    let commits = start(&engine, &store, 3).await;
    assert_eq!(all(&store).await, vec![]);
    engine.open();
    commits.join_all().await;
    assert_eq!(all(&store).await.len(), 3);
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    let (engine, store) = gated();
    engine.close();
    let commits = start(&engine, &store, QUEUE_TRANSACTIONS_MAX as u32 + 1).await;
    for _ in 0..3 {
        let mut transaction = store.begin();
        transaction.set(b"one more", b"1");
        let refused = transaction.commit().await;
        assert!(matches!(refused, Err(CommitError::Unavailable(_))));
    }
    engine.open();
    assert!(commits.join_all().await.iter().all(Result::is_ok));
    let mut transaction = store.begin();
    transaction.set(b"one more", b"1");
    transaction.commit().await.expect("room again");
}

#[tokio::test]
async fn queued_bytes_are_limited() {
    let (engine, store) = gated();
    engine.close();
    let first = start(&engine, &store, 1).await;
    let mut commits = Commits::new();
    for row in 0..8_u8 {
        let mut transaction = store.begin();
        for part in 0..90 {
            transaction.set(&[row, part], &[0; 100_000]);
        }
        queue(&mut commits, transaction).await;
    }
    engine.open();
    let outcomes = commits.join_all().await;
    first.join_all().await;
    let accepted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(accepted, 7, "64 MiB hold seven of 9 MB");
    assert_eq!(all(&store).await.len(), 1 + 7 * 90);
}

#[tokio::test]
async fn a_dropped_answer_does_not_undo_the_commit() {
    let (engine, store) = gated();
    engine.close();
    let mut commits = start(&engine, &store, 5).await;
    commits.shutdown().await;
    engine.open();
    let mut transaction = store.begin();
    transaction.set(b"last", b"1");
    transaction.commit().await.expect("commit");
    assert_eq!(all(&store).await.len(), 6);
}

#[tokio::test]
async fn after_a_failed_batch_nothing_is_committed_and_reads_go_on() {
    let (engine, store) = gated();
    let mut transaction = store.begin();
    transaction.set(b"before", b"1");
    transaction.commit().await.expect("commit");
    engine.close();
    let commits = start(&engine, &store, 20).await;
    engine.set_broken(true);
    engine.open();
    let outcomes = commits.join_all().await;
    let count = |error: &CommitError| {
        let is = |outcome: &&Result<_, _>| **outcome == Err(error.clone());
        outcomes.iter().filter(is).count()
    };
    assert_eq!(count(&CommitError::Unknown), 1, "{outcomes:?}");
    let refused = |outcome: &&Result<_, _>| matches!(outcome, Err(CommitError::Unavailable(_)));
    assert_eq!(outcomes.iter().filter(refused).count(), 19);
    assert!(store.has_failed());
    assert_eq!(store.stats().unknown, 1);
    // The disk is well again, but what it holds is not known.
    engine.set_broken(false);
    let mut transaction = store.begin();
    assert!(transaction.get(b"before").await.expect("read").is_some());
    transaction.set(b"after", b"1");
    let refused = transaction.commit().await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))));
    assert_eq!(all(&store).await.len(), 1);
}

#[tokio::test]
async fn a_closing_store_commits_what_it_took() {
    let (engine, store) = gated();
    engine.close();
    let commits = start(&engine, &store, 10).await;
    let late = store.begin();
    let closing = std::thread::spawn(move || drop(store));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!closing.is_finished());
    engine.open();
    assert!(commits.join_all().await.iter().all(Result::is_ok));
    closing.join().expect("closed");
    let mut late = late;
    late.set(b"late", b"1");
    let refused = late.commit().await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))));
}

#[tokio::test]
async fn one_flushed_commit_flushes_its_group() {
    let (engine, store) = gated();
    let before = store.stats();
    engine.close();
    let first = start(&engine, &store, 1).await;
    let mut commits = Commits::new();
    for row in 0..5_u8 {
        let mut transaction = store.begin();
        transaction.set(&[b'r', row], b"1");
        poll(&mut commits, transaction.commit_relaxed()).await;
    }
    let mut transaction = store.begin();
    transaction.set(b"flushed", b"1");
    queue(&mut commits, transaction).await;
    engine.open();
    assert!(first.join_all().await.iter().all(Result::is_ok));
    assert!(commits.join_all().await.iter().all(Result::is_ok));
    assert_eq!(all(&store).await.len(), 7);
    let stats = store.stats();
    // Nothing that was relaxed is left for a flush of its own.
    drop(store);
    assert_eq!(stats.commits - before.commits, 7);
    assert_eq!(engine.flushes(), 0, "{stats:?}");
}

#[tokio::test]
async fn a_closing_store_flushes_relaxed_commits() {
    let (engine, store) = gated();
    let mut transaction = store.begin();
    transaction.set(b"a", b"1");
    transaction.commit_relaxed().await.expect("commit");
    assert_eq!(engine.flushes(), 0);
    drop(store);
    assert_eq!(engine.flushes(), 1);
}

#[tokio::test]
async fn a_failed_flush_ends_commits() {
    let (engine, store) = gated();
    let mut transaction = store.begin();
    transaction.set(b"a", b"1");
    transaction.commit_relaxed().await.expect("commit");
    engine.set_broken(true);
    let began = std::time::Instant::now();
    while !store.has_failed() {
        assert!(began.elapsed() < Duration::from_secs(5), "not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    engine.set_broken(false);
    let mut transaction = store.begin();
    assert!(transaction.get(b"a").await.expect("read").is_some());
    transaction.set(b"b", b"1");
    let refused = transaction.commit_relaxed().await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))));
}
