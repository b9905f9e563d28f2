//! Commits with a journal outside: visible, known to a replay, made once.

use quickwater_proto::{MetadataError, PendingChange};

use super::hooked::{Fate, HookedStore};
use super::*;
use crate::keyspace;
use crate::namespace::{Replayed, Usage};

fn dirty(etag: &str) -> ObjectRecord {
    ObjectRecord {
        persist: PersistState::NotPersisted,
        ..object(etag)
    }
}

fn entry<S: Store>(
    namespace: &Namespace<S>,
    id: BucketId,
    record: &ObjectRecord,
    sequence: u64,
) -> bytes::Bytes {
    let entry = namespace.journal_entry(id, &key("k"), record, sequence);
    entry.unwrap()
}

async fn etag(namespace: &Memory, id: BucketId) -> Option<String> {
    let found = namespace.object(id, &key("k")).await.unwrap();
    found.map(|record| record.etag.as_str().to_owned())
}

#[tokio::test]
async fn a_journaled_commit_is_visible_and_pending() {
    let (namespace, id) = with_bucket().await;
    for (sequence, record) in [
        (1, dirty("a")),
        (2, {
            ObjectRecord {
                persist: PersistState::NotPersisted,
                ..large_object("b")
            }
        }),
    ] {
        let before = namespace.object(id, &key("k")).await.unwrap();
        let entry = entry(&namespace, id, &record, sequence);
        let done = namespace.commit_journaled(&entry).await.unwrap();
        assert_eq!(done.replaced, before);
        let expected = ObjectRecord {
            version: done.version,
            ..record
        };
        let current = namespace.object(id, &key("k")).await.unwrap();
        assert_eq!(current, Some(expected));
        let pending = namespace.pending(id, &key("k")).await.unwrap().unwrap();
        assert_eq!(pending.version, done.version);
        assert_eq!(pending.change, PendingChange::Put { size: 7 });
        assert_eq!(pending.superseded, sequence == 2);
    }
    let usage = Usage {
        objects: 1,
        bytes: 7,
    };
    assert_eq!(namespace.usage(id).await, Ok(usage));
}

#[tokio::test]
async fn a_replay_commits_what_was_lost_and_only_that() {
    let (namespace, id) = with_bucket().await;
    let lost = entry(&namespace, id, &dirty("lost"), 1);
    let Replayed::Committed(done) = namespace.replay(&lost).await.unwrap() else {
        panic!("it was not committed before");
    };
    assert_eq!(done.replaced, None);
    let current = namespace.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!(current.version, done.version);
    // Of an older change that was lost with it a request may have been sent.
    let pending = namespace.pending(id, &key("k")).await.unwrap().unwrap();
    assert!(pending.superseded);
    assert_eq!(namespace.replay(&lost).await, Ok(Replayed::Known));
    let again = namespace.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!(again, current);
}

#[tokio::test]
async fn a_replay_does_not_bring_back_what_was_replaced_or_removed() {
    let (namespace, id) = with_bucket().await;
    let first = entry(&namespace, id, &dirty("first"), 1);
    let second = entry(&namespace, id, &dirty("second"), 2);
    namespace.commit_journaled(&first).await.unwrap();
    namespace.commit_journaled(&second).await.unwrap();
    assert_eq!(namespace.replay(&first).await, Ok(Replayed::Known));
    assert_eq!(etag(&namespace, id).await.as_deref(), Some("second"));
    let removed = namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await;
    assert!(removed.unwrap().is_some());
    for entry in [&first, &second] {
        assert_eq!(namespace.replay(entry).await, Ok(Replayed::Known));
    }
    assert_eq!(etag(&namespace, id).await, None);
}

#[tokio::test]
async fn a_replay_into_a_removed_bucket_does_nothing() {
    let (namespace, id) = with_bucket().await;
    let entry = entry(&namespace, id, &dirty("a"), 1);
    namespace.delete_bucket(id, true).await.unwrap();
    assert_eq!(namespace.replay(&entry).await, Ok(Replayed::BucketGone));
    let refused = namespace.commit_journaled(&entry).await;
    assert_eq!(refused, Err(MetadataError::NoSuchBucket));
}

#[tokio::test]
async fn it_is_noted_whose_the_journal_is() {
    let (namespace, _) = with_bucket().await;
    assert_eq!(namespace.journal_of().await, Ok(None));
    for store in [b"one", b"two"] {
        namespace.set_journal_of(store).await.unwrap();
        assert_eq!(
            namespace.journal_of().await,
            Ok(Some(store.to_vec().into()))
        );
    }
}

#[tokio::test]
async fn the_note_only_rises_and_frees_operations() {
    let (namespace, id) = with_bucket().await;
    assert_eq!(namespace.journal_through().await, Ok(0));
    let entries: Vec<_> = (1..=40)
        .map(|sequence| entry(&namespace, id, &dirty("a"), sequence))
        .collect();
    for entry in &entries {
        namespace.commit_journaled(entry).await.unwrap();
    }
    namespace.set_journal_through(30).await.unwrap();
    namespace.set_journal_through(20).await.unwrap();
    assert_eq!(namespace.journal_through().await, Ok(30));
    assert_eq!(namespace.sweep().await.unwrap().operations, 30);
    for entry in &entries[30..] {
        assert_eq!(namespace.replay(entry).await, Ok(Replayed::Known));
    }
}

#[tokio::test]
async fn entries_that_say_nothing_are_refused() {
    let (namespace, id) = with_bucket().await;
    let good = entry(&namespace, id, &dirty("a"), 1);
    let mut other = good.to_vec();
    other[0] = 9;
    for bad in [&[][..], &good[..good.len() / 2], &other] {
        let refused = namespace.replay(bad).await;
        assert!(matches!(refused, Err(MetadataError::Unavailable(_))));
    }
    let mut huge = dirty("a");
    huge.headers.user = vec![("x".into(), "y".repeat(70_000))];
    let refused = namespace.journal_entry(id, &key("k"), &huge, 1);
    assert!(matches!(refused, Err(MetadataError::TooLarge(_))));
}

#[tokio::test]
async fn an_unknown_outcome_is_settled_by_the_operation() {
    for fate in [Fate::Applied, Fate::Lost, Fate::Late] {
        let (other, id) = with_bucket().await;
        let store = HookedStore::new(other.store().clone());
        let namespace = Namespace::new(store.clone());
        let entry = entry(&namespace, id, &dirty("mine"), 1);
        store.next_commit(fate, async {});
        let done = namespace.commit_journaled(&entry).await.unwrap();
        assert_eq!(done.replaced, None);
        let current = other.object(id, &key("k")).await.unwrap().unwrap();
        assert_eq!(current.version, done.version);
        if fate == Fate::Late {
            store.land().await.unwrap_err();
        }
        assert_eq!(other.replay(&entry).await, Ok(Replayed::Known));
        let mut transaction = other.store().begin();
        let rows = Scan::new(keyspace::journaled_through(0, u64::MAX), 9);
        assert!(transaction.scan(rows).await.unwrap().rows.len() <= 1);
    }
}
