//! Lost metadata are made again: the newest change of a key wins, whatever the order
//! in which changes are found and however often.

use proptest::prelude::*;
use quickwater_proto::PendingChange;

use super::*;
use crate::dump;
use crate::namespace::{Change, RebuildError, Restored, Usage};
use crate::records::{JournalEntry, Known};
use crate::store::{FaultPlan, FaultyStore};

fn dirty(etag: &str, persist: PersistState) -> ObjectRecord {
    ObjectRecord {
        persist,
        ..large_object(etag)
    }
}

fn known(entry: &JournalEntry, has_ended: bool, source: u32) -> Change {
    let known = Known {
        after: entry.after,
        sequence: entry.sequence,
        has_ended,
        source,
        blob: BlobId(entry.operation),
        is_note: false,
        at: 0,
    };
    (entry.bucket, entry.key.clone(), known)
}

/// The entry of a PUT, as committed.
async fn put(from: &Memory, id: BucketId, name: &str, etag: &str, sequence: u64) -> JournalEntry {
    let record = dirty(etag, PersistState::NotPersisted);
    let entry = from.journal_entry(id, &key(name), &record, sequence);
    let entry = entry.unwrap();
    from.commit_journaled(&entry).await.unwrap();
    JournalEntry::decode(&entry).unwrap()
}

/// The note of a DELETE, as committed.
async fn delete(from: &Memory, id: BucketId, name: &str, sequence: u64) -> JournalEntry {
    let name = key(name);
    let removed = from.remove_object_pending(id, &name, &PutCondition::None);
    let (version, _) = removed.await.unwrap();
    let note = from
        .commit_note(id, &name, None, version, sequence)
        .unwrap();
    JournalEntry::decode(&note).unwrap()
}

async fn names(from: &Memory) -> Vec<u8> {
    let mut bytes = Vec::new();
    dump::export_names(from.store(), &mut bytes).await.unwrap();
    bytes
}

/// Everything, from the beginning.
async fn rebuild<S: Store>(
    to: &Namespace<S>,
    names: &[u8],
    changes: &[Change],
    entries: &[JournalEntry],
) {
    to.begin_rebuild(Some(&mut &*names), "n1").await.unwrap();
    to.enter_known(changes).await.unwrap();
    restore(to, entries).await;
    to.end_rebuild(b"store", 99).await.unwrap();
    to.check_format().await.unwrap();
}

async fn restore<S: Store>(to: &Namespace<S>, entries: &[JournalEntry]) -> Restored {
    let newest = to.known_changes(None, 1_000).await.unwrap();
    let live = newest.iter().filter(|(_, _, known)| !known.has_ended);
    let live: Vec<_> = live
        .map(|(_, _, known)| {
            let entry = entries.iter().find(|e| BlobId(e.operation) == known.blob);
            entry.unwrap().clone()
        })
        .collect();
    to.restore(&live).await.unwrap()
}

async fn etag(namespace: &Memory, id: BucketId, name: &str) -> Option<String> {
    let found = namespace.object(id, &key(name)).await.unwrap();
    found.map(|record| record.etag.as_str().to_owned())
}

#[tokio::test]
async fn what_was_pending_is_pending_again() {
    let (from, id) = with_bucket().await;
    let made = put(&from, id, "put", "a", 1).await;
    let gone = delete(&from, id, "gone", 2).await;
    let held = dirty("b", PersistState::Transient);
    let name = key("held");
    let committed = from.commit_object(id, &name, &held, &PutCondition::None);
    let version = committed.await.unwrap().version;
    let held_note = from.commit_note(id, &name, Some(&held), version, 3);
    let held_note = JournalEntry::decode(&held_note.unwrap()).unwrap();
    let entries = [made, gone, held_note];
    let changes: Vec<_> = entries.iter().map(|e| known(e, false, 0)).collect();

    let to = namespace();
    rebuild(&to, &names(&from).await, &changes, &entries).await;
    assert_eq!(to.buckets().await, from.buckets().await);
    for name in ["put", "held", "gone"] {
        let (old, new) = (
            from.object(id, &key(name)).await.unwrap(),
            to.object(id, &key(name)).await.unwrap(),
        );
        let version = new.as_ref().map(|new| new.version);
        assert_eq!(
            old.map(|old| ObjectRecord {
                version: version.unwrap(),
                ..old
            }),
            new,
            "{name}"
        );
        let (old, new) = (
            from.pending(id, &key(name)).await.unwrap().unwrap(),
            to.pending(id, &key(name)).await.unwrap().unwrap(),
        );
        assert_eq!(new.change, old.change, "{name}");
        // Requests of changes that nobody knows of any more may be under way.
        assert!(new.superseded);
        if new.change != PendingChange::Delete {
            assert_eq!(Some(new.version), version, "{name}");
        }
    }
    let usage = Usage {
        objects: 2,
        bytes: 14,
    };
    assert_eq!(to.usage(id).await, Ok(usage));
    assert_eq!(to.journal_through().await, Ok(99));
    assert_eq!(
        to.journal_of().await.unwrap().as_deref(),
        Some(&b"store"[..])
    );
    // A new bucket gets a number that no entry has.
    let new = to.create_bucket(&bucket("two")).await.unwrap();
    assert!(new.id > id);
}

#[tokio::test]
async fn the_newest_wins_also_when_it_has_ended() {
    let (from, id) = with_bucket().await;
    let names = names(&from).await;
    let old = put(&from, id, "k", "old", 1).await;
    let new = put(&from, id, "k", "new", 2).await;
    let gone = delete(&from, id, "d", 4).await;
    let before = put(&from, id, "d", "before", 3).await;
    let entries = [old.clone(), new.clone(), gone.clone(), before.clone()];
    for (changes, wins) in [
        (
            vec![known(&old, false, 0), known(&new, false, 0)],
            Some("new"),
        ),
        (
            vec![known(&new, false, 0), known(&old, false, 0)],
            Some("new"),
        ),
        // The UFS has the new one: it is right, and nothing older is sent over it.
        (vec![known(&new, true, 0), known(&old, false, 0)], None),
        (
            vec![known(&old, true, 0), known(&new, false, 0)],
            Some("new"),
        ),
        // A copy of an entry that has ended.
        (vec![known(&new, false, 0), known(&new, true, 0)], None),
    ] {
        let to = namespace();
        rebuild(&to, &names, &changes, &entries).await;
        assert_eq!(etag(&to, id, "k").await.as_deref(), wins, "{changes:?}");
        let pending = to.pending(id, &key("k")).await.unwrap();
        assert_eq!(pending.is_some(), wins.is_some());
    }
}

#[tokio::test]
async fn the_order_of_commits_decides_among_workers() {
    let (first, id) = with_bucket().await;
    let names = names(&first).await;
    // Another process on the same store; its journal counts by itself.
    let second = Namespace::new(first.store().clone());
    let old = put(&first, id, "k", "old", 500).await;
    second.begin_order().await.unwrap();
    let new = put(&second, id, "k", "new", 1).await;
    assert!(new.after > old.after);
    let entries = [old.clone(), new.clone()];
    let to = namespace();
    let changes = [known(&old, false, 0), known(&new, false, 1)];
    rebuild(&to, &names, &changes, &entries).await;
    assert_eq!(etag(&to, id, "k").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn one_that_was_cut_goes_on_and_others_are_refused() {
    let (from, id) = with_bucket().await;
    let names = names(&from).await;
    let entries = [
        put(&from, id, "a", "a", 1).await,
        put(&from, id, "b", "b", 2).await,
    ];
    let changes: Vec<_> = entries.iter().map(|e| known(e, false, 0)).collect();
    let to = namespace();
    assert!(!to.begin_rebuild(Some(&mut &*names), "n1").await.unwrap());
    to.enter_known(&changes[..1]).await.unwrap();
    assert_eq!(restore(&to, &entries).await.made, 1);
    let refused = to.check_format().await.unwrap_err().to_string();
    assert!(refused.contains("unfinished rebuild"), "{refused}");
    // Cut here. What was entered by one choice is not mixed with another.
    let other = to.begin_rebuild(Some(&mut &*names), "n1, n2").await;
    let other = other.unwrap_err().to_string();
    assert!(
        other.contains("begun of n1, and this one is of n1, n2:"),
        "{other}"
    );
    assert_eq!(to.known_changes(None, 10).await.unwrap().len(), 1);
    assert!(to.begin_rebuild(Some(&mut &*names), "n1").await.unwrap());
    to.enter_known(&changes).await.unwrap();
    let restored = restore(&to, &entries).await;
    assert_eq!((restored.made, restored.known), (1, 1));
    to.end_rebuild(b"store", 2).await.unwrap();
    to.check_format().await.unwrap();
    assert!(to.known_changes(None, 10).await.unwrap().is_empty());
    assert_eq!(to.usage(id).await.unwrap().objects, 2);
    let again = to.begin_rebuild(Some(&mut &*names), "n1").await;
    assert!(matches!(again, Err(RebuildError::NotEmpty)));
}

#[tokio::test]
async fn errors_that_pass_do_not_end_it() {
    let (from, id) = with_bucket().await;
    let names = names(&from).await;
    let mut entries = Vec::new();
    for number in 0..20 {
        entries.push(put(&from, id, &format!("k{number}"), "etag", number + 1).await);
    }
    let changes: Vec<_> = entries.iter().map(|e| known(e, false, 0)).collect();
    let plan = FaultPlan {
        again: 200,
        conflict: 100,
        unknown_applied: 100,
        unknown_lost: 100,
        ..FaultPlan::default()
    };
    for seed in 0..4 {
        let below = namespace();
        let store = FaultyStore::new(below.store().clone(), plan, seed);
        rebuild(&Namespace::new(store.clone()), &names, &changes, &entries).await;
        assert!(store.injected() > 0);
        assert_eq!(below.usage(id).await.unwrap().objects, 20);
        assert_eq!(etag(&below, id, "k7").await.as_deref(), Some("etag"));
        assert!(below.known_changes(None, 1).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn damaged_names_and_removed_buckets() {
    let (from, id) = with_bucket().await;
    let entry = put(&from, id, "a", "a", 1).await;
    from.delete_bucket(id, false).await.unwrap();
    let mut names = names(&from).await;
    let to = namespace();
    to.begin_rebuild(Some(&mut &*names), "n1").await.unwrap();
    assert_eq!(to.last_bucket().await.unwrap(), id.0);
    assert_eq!(to.bucket_name(id).await, Ok(None));
    let restored = to.restore(&[entry]).await.unwrap();
    assert_eq!((restored.made, restored.homeless), (0, 1));
    let last = names.len() - 1;
    names[last] ^= 1;
    let refused = namespace().begin_rebuild(Some(&mut &*names), "n1").await;
    assert!(matches!(refused, Err(RebuildError::Rows(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is found in whatever order, and twice.
    #[test]
    fn any_order_gives_the_same(
        changes in proptest::collection::vec((0..4u8, any::<bool>()), 1..24),
        order in any::<prop::sample::Index>(), batch in 1..8usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (from, id) = with_bucket().await;
            let names = names(&from).await;
            let mut entries = Vec::new();
            let mut found = Vec::new();
            for ((name, ended), sequence) in changes.into_iter().zip(1..) {
                let name = format!("k{name}");
                let entry = put(&from, id, &name, &format!("e{sequence}"), sequence).await;
                found.push(known(&entry, ended, 0));
                entries.push(entry);
            }
            let mut expected = std::collections::BTreeMap::new();
            for (_, key, known) in &found {
                expected.insert(key.as_str().to_owned(), *known);
            }
            let at = order.index(found.len());
            found.rotate_left(at);
            found.extend(found.clone());
            let to = namespace();
            to.begin_rebuild(Some(&mut &*names), "n1").await.unwrap();
            for some in found.chunks(batch) {
                to.enter_known(some).await.unwrap();
            }
            let newest = to.known_changes(None, 100).await.unwrap();
            let newest = newest.into_iter().map(|(_, key, known)| (key.as_str().to_owned(), known));
            assert_eq!(newest.collect::<std::collections::BTreeMap<_, _>>(), expected);
        });
    }
}

#[tokio::test]
async fn a_cluster_goes_on_with_those_that_told() {
    use crate::cluster::{Cluster, Past, Position, Rebuilt, RegisterError};
    use crate::records::{Member, Witness};
    use quickwater_proto::NodeId;

    let node = |name: &str| NodeId::new(name).unwrap();
    let (from, id) = with_bucket().await;
    let made = put(&from, id, "made", "a", 1).await;
    let lost = put(&from, id, "lost", "b", 2).await;
    let to = namespace();
    let names = names(&from).await;
    let blobs = [(BlobId(7), 2), (BlobId(7), 0), (BlobId(8), 1)];
    // Cut, and begun again.
    for _ in 0..2 {
        to.begin_rebuild(Some(&mut &*names), "n1").await.unwrap();
        let changes = [known(&made, false, 0), known(&lost, false, 1)];
        to.enter_known(&changes).await.unwrap();
        to.enter_blobs(&blobs).await.unwrap();
        assert_eq!(to.stores_of(BlobId(7)).await.unwrap(), [0, 2]);
        assert_eq!(to.stores_of(BlobId(9)).await.unwrap(), [0; 0]);
        let held = [
            (made.clone(), vec![node("n1"), node("n2")]),
            (lost.clone(), vec![]),
        ];
        to.restore_held(&held).await.unwrap();
    }
    assert!(to.check_format().await.is_err(), "unfinished");
    let holders = to.holders(id, &key("made")).await.unwrap();
    assert_eq!(holders, [node("n1"), node("n2")]);
    assert!(to.holders(id, &key("lost")).await.unwrap().is_empty());
    let seen = Some(Position {
        term: 5,
        version: 9,
    });
    let rebuilt = Rebuilt {
        name: "c".into(),
        epoch: 30,
        session: 4,
        witnesses: vec![Witness {
            node: node("n1"),
            directory: vec![1; 16],
            seen,
        }],
        missing: vec![node("n3")],
    };
    to.end_rebuild_of_cluster(&rebuilt).await.unwrap();
    to.check_format().await.unwrap();
    assert!(to.known_changes(None, 1).await.unwrap().is_empty());
    assert!(to.stores_of(BlobId(7)).await.unwrap().is_empty());

    let lease = std::time::Duration::from_secs(30);
    let cluster = Cluster::open(to.clone(), lease).await.unwrap();
    assert_eq!(cluster.name(), "c");
    assert_eq!(cluster.tables().borrow().epoch, 31);
    let member = |name: &str, directory: u8| Member {
        node: node(name),
        advertise: "here:1".into(),
        zone: String::new(),
        capacity_bytes: 1 << 30,
        s3_address: "here:2".into(),
        store: vec![directory; 16],
        shards: 1,
        version: "0".into(),
        gone: false,
        draining: false,
        removed: false,
        lease_ms: 0,
    };
    let past = Past {
        cluster: "c".into(),
        seen,
        begins: true,
        ..Past::default()
    };
    // It did not tell: what it has may be old, and it may be the only one who has it.
    let late = cluster.register(member("n2", 2), &past).await;
    assert!(matches!(late, Err(RegisterError::Older { .. })), "{late:?}");
    let copied = cluster.register(member("n1", 3), &past).await;
    assert!(
        matches!(copied, Err(RegisterError::Older { .. })),
        "{copied:?}"
    );
    let admitted = cluster.register(member("n1", 1), &past).await.unwrap();
    assert!(admitted.session > 4 && !admitted.undone, "{admitted:?}");
}
