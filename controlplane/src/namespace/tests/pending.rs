//! Pending changes: one per key, written with the change, ended with its version.

use quickwater_proto::{
    ChangeOf, MetadataError, NodeId, PendingChange, PendingPage, PendingRecord, UfsIdentity,
};

use super::hooked::{Fate, HookedStore};
use super::*;
use crate::namespace::{MountError, Usage};

const NONE: PutCondition = PutCondition::None;

fn dirty(etag: &str) -> ObjectRecord {
    ObjectRecord {
        persist: PersistState::NotPersisted,
        ..object(etag)
    }
}

fn identity() -> UfsIdentity {
    UfsIdentity {
        size: 7,
        modified_ns: 3,
        token: "inode 5".into(),
    }
}

async fn clocked() -> (Memory, StoppedClock, BucketId) {
    let (namespace, clock) = with_clock();
    let made = namespace.create_bucket(&bucket("one")).await.unwrap();
    (namespace, clock, made.id)
}

async fn pending(namespace: &Memory, id: BucketId) -> Option<PendingRecord> {
    namespace.pending(id, &key("k")).await.unwrap()
}

/// Ends the change without more ado.
async fn end(namespace: &Memory, id: BucketId, version: Version) -> bool {
    namespace
        .end_pending(id, &key("k"), version, Some(&identity()), None)
        .await
        .unwrap()
}

/// Ends the change, but for a request that may be applied until then.
async fn settle(namespace: &Memory, id: BucketId, version: Version, until_ms: i64) {
    let settled = namespace
        .end_pending(id, &key("k"), version, Some(&identity()), Some(until_ms))
        .await;
    assert_eq!(settled, Ok(true));
}

async fn remove_pending(namespace: &Memory, id: BucketId) -> (Version, Option<ObjectRecord>) {
    namespace
        .remove_object_pending(id, &key("k"), &NONE)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_put_that_is_not_persisted_is_pending_with_its_version() {
    let (namespace, clock, id) = clocked().await;
    let now_ms = clock.0.load(Ordering::Relaxed);
    assert_eq!(pending(&namespace, id).await, None);
    let version = put(&namespace, id, "k", &dirty("a")).await;
    let expected = PendingRecord {
        version,
        change: PendingChange::Put { size: 7 },
        since_ms: now_ms,
        superseded: false,
    };
    assert_eq!(pending(&namespace, id).await, Some(expected));
    let current = namespace.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!(
        (current.version, current.persist),
        (version, PersistState::NotPersisted)
    );
}

#[tokio::test]
async fn a_newer_change_takes_the_place_and_keeps_the_age() {
    let (namespace, clock, id) = clocked().await;
    let now_ms = clock.0.load(Ordering::Relaxed);
    let first = put(&namespace, id, "k", &dirty("a")).await;
    clock.advance(5_000);
    let second = put(&namespace, id, "k", &dirty("b")).await;
    let found = pending(&namespace, id).await.unwrap();
    assert_eq!((found.version, found.since_ms), (second, now_ms));
    assert!(found.superseded && first < second);
    clock.advance(5_000);
    let (third, removed) = remove_pending(&namespace, id).await;
    assert_eq!(removed.unwrap().version, second);
    let found = pending(&namespace, id).await.unwrap();
    assert_eq!(found.change, PendingChange::Delete);
    assert_eq!((found.version, found.since_ms), (third, now_ms));
    assert!(!end(&namespace, id, second).await);
    assert_eq!(pending(&namespace, id).await, Some(found));
    assert!(end(&namespace, id, third).await);
    assert!(!end(&namespace, id, third).await);
    assert_eq!(pending(&namespace, id).await, None);
}

#[tokio::test]
async fn a_persisted_record_ends_the_change() {
    let (namespace, id) = with_bucket().await;
    put(&namespace, id, "k", &dirty("a")).await;
    put(&namespace, id, "k", &object("b")).await;
    assert_eq!(pending(&namespace, id).await, None);
    remove_pending(&namespace, id).await;
    put(&namespace, id, "k", &object("b")).await;
    assert_eq!(pending(&namespace, id).await, None);
}

#[tokio::test]
async fn a_transient_record_is_held_and_nothing_is_told_of_it() {
    let (namespace, id) = with_bucket().await;
    put(&namespace, id, "k", &dirty("a")).await;
    let transient = ObjectRecord {
        persist: PersistState::Transient,
        ..object("b")
    };
    let version = put(&namespace, id, "k", &transient).await;
    let held = pending(&namespace, id).await.unwrap();
    let size = transient.size;
    assert_eq!(held.change, PendingChange::Hold { size });
    assert_eq!((held.version, held.superseded), (version, true));
    assert!(!end(&namespace, id, version).await);
    let (_, removed) = remove_pending(&namespace, id).await;
    assert_eq!(removed.unwrap().version, version);
    let gone = pending(&namespace, id).await.unwrap();
    // A request of what was replaced by the held one may still be applied.
    assert_eq!(
        (gone.change, gone.superseded),
        (PendingChange::Delete, true)
    );
}

#[tokio::test]
async fn a_held_change_of_which_nothing_was_sent_supersedes_nothing() {
    let (namespace, id) = with_bucket().await;
    let transient = ObjectRecord {
        persist: PersistState::Transient,
        ..object("b")
    };
    put(&namespace, id, "k", &transient).await;
    assert!(!pending(&namespace, id).await.unwrap().superseded);
    put(&namespace, id, "k", &dirty("a")).await;
    assert!(!pending(&namespace, id).await.unwrap().superseded);
}

#[tokio::test]
async fn a_persisted_record_leaves_a_settling_request_noted() {
    let (namespace, id) = with_bucket().await;
    let version = put(&namespace, id, "k", &dirty("a")).await;
    settle(&namespace, id, version, 99).await;
    // Tags, or another content that appeared in the UFS.
    put(&namespace, id, "k", &object("a")).await;
    let found = pending(&namespace, id).await.unwrap();
    assert_eq!(found.change, PendingChange::Settling { until_ms: 99 });
    assert!(end(&namespace, id, version).await);
    assert_eq!(pending(&namespace, id).await, None);
}

#[tokio::test]
async fn an_acked_put_is_persisted_under_its_version() {
    let (namespace, id) = with_bucket().await;
    for record in [dirty("a"), {
        ObjectRecord {
            persist: PersistState::NotPersisted,
            ..large_object("b")
        }
    }] {
        let version = put(&namespace, id, "k", &record).await;
        assert!(end(&namespace, id, version).await);
        let expected = ObjectRecord {
            version,
            ufs: Some(identity()),
            persist: PersistState::Persisted,
            ..record
        };
        let current = namespace.object(id, &key("k")).await.unwrap();
        assert_eq!(current, Some(expected));
        assert_eq!(pending(&namespace, id).await, None);
        let usage = Usage {
            objects: 1,
            bytes: 7,
        };
        assert_eq!(namespace.usage(id).await, Ok(usage));
    }
}

#[tokio::test]
async fn the_ack_of_an_older_put_leaves_the_newer_one_alone() {
    let (namespace, id) = with_bucket().await;
    let first = put(&namespace, id, "k", &dirty("a")).await;
    let second = put(&namespace, id, "k", &dirty("b")).await;
    assert!(!end(&namespace, id, first).await);
    let current = namespace.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!((current.version, current.ufs), (second, None));
    assert_eq!(current.persist, PersistState::NotPersisted);
}

#[tokio::test]
async fn a_key_settles_until_it_is_ended_again() {
    let (namespace, clock, id) = clocked().await;
    let version = put(&namespace, id, "k", &dirty("a")).await;
    settle(&namespace, id, version, 99).await;
    let found = pending(&namespace, id).await.unwrap();
    assert_eq!(found.change, PendingChange::Settling { until_ms: 99 });
    assert_eq!(found.version, version);
    let current = namespace.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!(current.persist, PersistState::Persisted);
    // A later change is superseding, but the UFS was not behind before it.
    clock.advance(7_000);
    let later = put(&namespace, id, "k", &dirty("b")).await;
    let found = pending(&namespace, id).await.unwrap();
    assert!(found.superseded);
    assert_eq!(found.since_ms, clock.0.load(Ordering::Relaxed));
    assert!(!end(&namespace, id, version).await);
    settle(&namespace, id, later, 100).await;
    assert!(end(&namespace, id, later).await);
    assert_eq!(pending(&namespace, id).await, None);
}

#[tokio::test]
async fn a_delete_of_what_is_not_there_is_pending_too() {
    let (namespace, id) = with_bucket().await;
    let (version, removed) = remove_pending(&namespace, id).await;
    assert_eq!(removed, None);
    let found = pending(&namespace, id).await.unwrap();
    assert_eq!(
        (found.version, found.change),
        (version, PendingChange::Delete)
    );
    let refused = namespace
        .remove_object_pending(id, &key("k"), &PutCondition::Present)
        .await;
    assert_eq!(refused, Err(MetadataError::NoSuchObject));
    assert_eq!(pending(&namespace, id).await, Some(found));
}

#[tokio::test]
async fn a_removal_ends_the_put_but_not_what_settles() {
    let (namespace, id) = with_bucket().await;
    put(&namespace, id, "k", &dirty("a")).await;
    namespace.remove_object(id, &key("k"), &NONE).await.unwrap();
    assert_eq!(pending(&namespace, id).await, None);
    let version = put(&namespace, id, "k", &dirty("a")).await;
    settle(&namespace, id, version, 99).await;
    namespace.remove_object(id, &key("k"), &NONE).await.unwrap();
    let found = pending(&namespace, id).await.unwrap();
    assert_eq!(found.change, PendingChange::Settling { until_ms: 99 });
}

#[tokio::test]
async fn pages_go_in_order_of_bucket_and_key() {
    let (namespace, one) = with_bucket().await;
    let two = namespace.create_bucket(&bucket("two")).await.unwrap().id;
    for (id, text) in [(two, "a"), (one, "b/c"), (one, "b"), (two, "z")] {
        put(&namespace, id, text, &dirty("a")).await;
    }
    put(&namespace, one, "clean", &object("a")).await;
    let mut seen = Vec::new();
    let mut after: Option<(BucketId, ObjectKey)> = None;
    loop {
        let marker = after.as_ref().map(|(bucket, key)| (*bucket, key));
        let page = namespace.pending_changes(marker, 1).await.unwrap();
        assert_eq!(page.entries.len(), 1);
        let (bucket, key, _) = page.entries[0].clone();
        seen.push((bucket, key.as_str().to_owned()));
        after = Some((bucket, key));
        if !page.more {
            break;
        }
    }
    let expected = [(one, "b"), (one, "b/c"), (two, "a"), (two, "z")];
    assert_eq!(
        seen,
        expected.map(|(id, text)| (id, text.to_owned())).to_vec()
    );
    let nothing = namespace
        .pending_changes(Some((two, &key("z"))), 10)
        .await
        .unwrap();
    assert_eq!(nothing, PendingPage::default());
}

#[tokio::test]
async fn a_bucket_whose_deletes_are_pending_is_not_empty() {
    let (namespace, id) = with_bucket().await;
    put(&namespace, id, "k", &dirty("a")).await;
    let (version, _) = remove_pending(&namespace, id).await;
    let refused = namespace.delete_bucket(id, true).await;
    assert_eq!(refused, Err(MetadataError::BucketNotEmpty));
    settle(&namespace, id, version, 99).await;
    let refused = namespace.delete_bucket(id, true).await;
    assert_eq!(refused, Err(MetadataError::BucketNotEmpty));
    assert!(end(&namespace, id, version).await);
    assert_eq!(namespace.delete_bucket(id, true).await, Ok(()));
}

#[tokio::test]
async fn what_no_ufs_has_acked_is_not_ended_with_a_request_of_another_change() {
    let (namespace, id) = with_bucket().await;
    let version = put(&namespace, id, "k", &dirty("a")).await;
    let key = key("k");
    let noted = namespace.note_request(id, &key, 9).await.unwrap();
    assert_eq!(noted, version, "its row says so");
    for settling in [None, Some(99)] {
        let ending = namespace.end_pending(id, &key, noted, None, settling);
        assert!(!ending.await.unwrap());
        let row = pending(&namespace, id).await.unwrap();
        assert!(matches!(row.change, PendingChange::Put { .. }), "{row:?}");
        assert!(row.superseded);
    }
}

#[tokio::test]
async fn a_forced_removal_sweeps_pending_changes() {
    let (namespace, id) = with_bucket().await;
    let version = put(&namespace, id, "k", &dirty("a")).await;
    namespace.delete_bucket(id, false).await.unwrap();
    let refused = namespace
        .end_pending(id, &key("k"), version, None, None)
        .await;
    assert_eq!(refused, Err(MetadataError::NoSuchBucket));
    namespace.sweep().await.unwrap();
    let left = namespace.pending_changes(None, 10).await.unwrap();
    assert_eq!(left, PendingPage::default());
}

#[tokio::test]
async fn a_completed_upload_is_pending_like_a_put() {
    let (namespace, id) = with_bucket().await;
    let upload = upload("k", 1);
    namespace.create_upload(id, &upload).await.unwrap();
    namespace.put_part(id, &upload, &part(1)).await.unwrap();
    let record = ObjectRecord {
        persist: PersistState::NotPersisted,
        ..super::completed(vec![part(1)])
    };
    let done = namespace.complete_upload(id, &upload, &record, &NONE).await;
    let found = pending(&namespace, id).await.unwrap();
    assert_eq!(found.version, done.unwrap().version);
    assert_eq!(found.change, PendingChange::Put { size: record.size });
}

#[tokio::test]
async fn what_became_of_the_change_of_a_copy_is_in_its_row() {
    let (namespace, id) = with_bucket().await;
    let body = ObjectRecord {
        extents: vec![Extent {
            blob: BlobId(5),
            size: 7,
        }],
        size: 7,
        ..dirty("a")
    };
    let (k, node) = (key("k"), NodeId::new("n1").unwrap());
    let state = async |blob| {
        let asked = namespace.unnamed_copy(id, &k, (BlobId(blob), &node), None);
        asked.await.unwrap()
    };
    assert_eq!(state(5).await, Some(ChangeOf::Unknown));
    let version = put(&namespace, id, "k", &body).await;
    assert_eq!(state(5).await, Some(ChangeOf::Pending));
    assert_eq!(state(6).await, Some(ChangeOf::Unknown));
    assert!(end(&namespace, id, version).await);
    assert_eq!(state(5).await, Some(ChangeOf::Ended));
    put(&namespace, id, "k", &dirty("b")).await;
    assert_eq!(state(5).await, Some(ChangeOf::Unknown));
}

/// The outcome of ending is unknown, and a newer put comes before the retry.
#[tokio::test]
async fn an_end_of_unknown_outcome_never_touches_a_newer_change() {
    for (fate, ended) in [(Fate::Applied, true), (Fate::Lost, false)] {
        let (other, id) = with_bucket().await;
        let store = HookedStore::new(other.store().clone());
        let namespace = Namespace::new(store.clone());
        let first = put(&other, id, "k", &dirty("a")).await;
        let writer = other.clone();
        store.next_commit(fate, async move {
            put(&writer, id, "k", &dirty("b")).await;
        });
        let answer = namespace
            .end_pending(id, &key("k"), first, Some(&identity()), None)
            .await;
        assert_eq!(answer, Ok(ended));
        let current = other.object(id, &key("k")).await.unwrap().unwrap();
        assert_eq!(current.persist, PersistState::NotPersisted);
        let found = pending(&other, id).await.unwrap();
        assert_eq!((found.version, found.superseded), (current.version, !ended));
    }
}

#[tokio::test]
async fn a_mount_whose_ufs_is_behind_stays() {
    let (namespace, _) = with_clock();
    let mounted = namespace.add_mount(&bucket("one")).await.unwrap();
    let version = put(&namespace, mounted.id, "k", &dirty("a")).await;
    let refused = namespace.remove_mount(&mounted.name).await;
    assert!(
        matches!(refused, Err(MountError::Pending(_))),
        "{refused:?}"
    );
    assert!(end(&namespace, mounted.id, version).await);
    namespace.remove_mount(&mounted.name).await.unwrap();
}

fn settling(until_ms: i64) -> Option<PendingChange> {
    Some(PendingChange::Settling { until_ms })
}

async fn change(namespace: &Memory, id: BucketId) -> Option<PendingChange> {
    pending(namespace, id).await.map(|pending| pending.change)
}

#[tokio::test]
async fn a_request_under_way_is_noted_until_the_commit_after_its_answer() {
    let (namespace, _, id) = clocked().await;
    const FOR_EVER: i64 = i64::MAX;
    let note = async |until_ms| {
        let noted = namespace.note_request(id, &key("k"), until_ms).await;
        noted.unwrap()
    };
    assert_eq!(settling(FOR_EVER), Some(PendingChange::UNDER_WAY));
    note(FOR_EVER).await;
    assert_eq!(change(&namespace, id).await, settling(FOR_EVER));
    put(&namespace, id, "k", &object("a")).await;
    assert_eq!(change(&namespace, id).await, None, "the commit ends it");
    for there in [true, false] {
        note(FOR_EVER).await;
        let removed = namespace.remove_object(id, &key("k"), &NONE).await.unwrap();
        assert_eq!(removed.is_some(), there);
        assert_eq!(change(&namespace, id).await, None, "a removal ends it");
    }
    // One without an answer stays, whatever is committed, until it is ended.
    let version = note(FOR_EVER).await;
    settle(&namespace, id, version, 99).await;
    put(&namespace, id, "k", &object("b")).await;
    namespace.remove_object(id, &key("k"), &NONE).await.unwrap();
    assert_eq!(change(&namespace, id).await, settling(99));
    let again = note(100).await;
    assert!(again > version);
    assert!(!end(&namespace, id, version).await, "another request since");
    assert!(end(&namespace, id, again).await);
    assert_eq!(change(&namespace, id).await, None);
}

#[tokio::test]
async fn a_request_that_is_noted_leaves_what_is_pending() {
    let (namespace, _, id) = clocked().await;
    let held = ObjectRecord {
        persist: PersistState::Transient,
        ..object("a")
    };
    let version = put(&namespace, id, "k", &held).await;
    let noted = namespace.note_request(id, &key("k"), 99).await;
    assert_eq!(noted, Ok(version));
    let found = pending(&namespace, id).await.unwrap();
    assert!(matches!(found.change, PendingChange::Hold { .. }));
    assert!(found.superseded, "the next start waits for it");
    let gone = BucketId(id.0 + 1);
    let noted = namespace.note_request(gone, &key("k"), 99).await;
    assert_eq!(noted, Err(MetadataError::NoSuchBucket));
}
