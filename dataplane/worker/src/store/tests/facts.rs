//! What the store tells of its entries and notes when the metadata are lost.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use super::write_back::{entry_of, put_blob};
use super::*;
use crate::store::{Fate, Gaps};
use Durability::{Cached, Flushed, Pinned};
use quickwater_engine::io::NOTE_CHUNK;

fn note_of(blob: u128) -> ChunkId {
    chunk(blob, NOTE_CHUNK)
}

/// What a store tells: whether it has ended, by blob and kind.
fn told(store: &Store) -> BTreeMap<(u128, bool), bool> {
    let mut found = BTreeMap::new();
    for fact in store.facts().unwrap() {
        let fact = fact.unwrap();
        let before = found.insert((fact.blob.0, fact.is_note), fact.has_ended);
        assert_eq!(before, None, "told twice");
    }
    found
}

fn live(store: &Store) -> Vec<(u128, bool)> {
    let all = told(store).into_iter();
    all.filter_map(|(what, ended)| (!ended).then_some(what))
        .collect()
}

#[test]
fn what_ended_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for blob in 1..=4 {
            put_blob(&shard, blob, 10_240).await;
        }
        put_len(&shard, note_of(9), 100, Pinned).await;
        put_len(&shard, note_of(10), 100, Pinned).await;
        store.release(BlobId(1), 1);
        store.forget(BlobId(2), 1);
        store.forget(BlobId(9), 0);
        // Voided: it must never be applied.
        put(&shard, entry_of(3), &[], Flushed).await.unwrap();
        assert!(!store.knows_what_ended(), "nobody has said so yet");
        store.note_settled(77);
        store.trust_marks();
        assert!(store.sync_marks(LONG));
    });
    let store = Store::open(config(dir.path())).unwrap();
    assert!(store.knows_what_ended());
    assert_eq!(store.settled_through(), 77);
    assert_eq!(live(&store), [(3, false), (4, false), (10, true)]);
    let ended: Vec<_> = told(&store).into_keys().collect();
    assert_eq!(ended.len(), 6, "what ended is told as such: {ended:?}");
    let mut facts = store.facts().unwrap();
    let voided = facts.read(BlobId(3), false).unwrap().unwrap();
    assert!(voided.data.is_empty() && !voided.has_ended);
    let kept = facts.read(BlobId(4), false).unwrap().unwrap();
    assert_eq!(kept.data, content(entry_of(4), 300));
    assert_eq!(facts.check(BlobId(4), 10_240), 0);
    assert_eq!(facts.check(BlobId(4), 10_241), 1, "of another length");
    assert!(facts.read(BlobId(4), true).is_none());
    assert_eq!(store.gaps().unwrap(), Gaps::default());
}

/// What is void, by blob and kind.
fn void(store: &Store) -> Vec<(u128, bool)> {
    let facts = store.facts().unwrap().map(Result::unwrap);
    let void = facts.filter(|fact| fact.is_void);
    let mut void: Vec<_> = void
        .inspect(|fact| assert!(fact.has_ended))
        .map(|fact| (fact.blob.0, fact.is_note))
        .collect();
    void.sort_unstable();
    void
}

#[test]
fn what_was_never_committed_is_known_from_what_ended() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for blob in 1..=6 {
            put_blob(&shard, blob, 10_240).await;
        }
        for blob in [11, 12] {
            put_len(&shard, note_of(blob), 100, Pinned).await;
        }
        store.release(BlobId(1), 1);
        store.forget(BlobId(2), 1);
        // A copy whose commit was seen.
        store.release(BlobId(3), 1);
        store.forget(BlobId(3), 1);
        store.release(BlobId(11), 0);
        store.forget(BlobId(12), 0);
        store.trust_marks();
        assert!(store.sync_marks(LONG));
    });
    let store = Store::open(config(dir.path())).unwrap();
    assert_eq!(void(&store), [(2, false), (12, true)]);
    assert_eq!(live(&store), [(4, false), (5, false), (6, false)]);
    drop(store);
    // Cut before anybody knew what becomes of 5; 6 is in the UFS by now.
    session(config(dir.path()), async |store, _| {
        store.reconcile(|blob| match blob.0 {
            4 => Fate::Keep,
            6 => Fate::Release,
            _ => Fate::Forget,
        });
        store.trust_marks();
        assert!(store.sync_marks(LONG));
    });
    let store = Store::open(config(dir.path())).unwrap();
    assert_eq!(live(&store), [(4, false)]);
    // Whatever no row names hides nothing that one does.
    let all = [1, 2, 3, 5].map(|blob| (blob, false));
    assert_eq!(void(&store), [&all[..], &[(11, true), (12, true)]].concat());
    drop(store);
    // A row that names it after all: older metadata were put back.
    session(config(dir.path()), async |store, _| {
        store.reconcile(|blob| match blob.0 {
            2 | 4 => Fate::Keep,
            _ => Fate::Forget,
        });
        assert!(store.sync_marks(LONG));
    });
    let store = Store::open(config(dir.path())).unwrap();
    assert_eq!(live(&store), [(2, false), (4, false)]);
}

/// Their segments are filled side by side, so their order says nothing.
#[test]
fn of_notes_that_several_shards_wrote_the_last_one_stays() {
    for last in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let two = || StoreConfig {
            segment_bytes: Some(SEGMENT),
            zero_ahead: false,
            ..StoreConfig::new(dir.path(), 16 * SEGMENT, 2)
        };
        session(two(), async |store, shard| {
            let other = store.shard(1, pool());
            let shards = [&shard, &other];
            // Each has begun a segment before the note moves between them.
            for (at, shard) in shards.iter().enumerate() {
                put_len(shard, note_of(20 + at as u128), 100, Pinned).await;
            }
            put_len(shards[last], note_of(9), 100, Pinned).await;
            put_len(shards[1 - last], note_of(9), 200, Pinned).await;
            put_len(shards[last], note_of(9), 300, Pinned).await;
            put_len(shards[1 - last], note_of(10), 100, Pinned).await;
            store.forget(BlobId(10), 0);
            assert!(store.sync_marks(LONG));
            assert!(other.settle(LONG).await);
        });
        let store = Store::open(two()).unwrap();
        assert_eq!(live(&store), [(9, true), (20, true), (21, true)]);
        let mut facts = store.facts().unwrap();
        let note = facts.read(BlobId(9), true).unwrap().unwrap();
        assert_eq!(note.data, content(note_of(9), 300));
    }
}

/// A store for two shards whose notes begin with their order.
fn two_shards(dir: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: Some(SEGMENT),
        zero_ahead: false,
        note_order: |note| {
            let order = note.first_chunk().map(|order| u64::from_le_bytes(*order));
            order.map(|order| (order, 0))
        },
        ..StoreConfig::new(dir, 16 * SEGMENT, 2)
    }
}

/// Writes the note of that order beside a blob.
async fn put_note(shard: &ShardStore, blob: u128, order: u64) {
    let note = [&order.to_le_bytes()[..], &[7; 500]].concat();
    put(shard, note_of(blob), &note, Pinned).await.unwrap();
}

/// The order of the note that is told of a blob, whether it has ended, and is void.
fn note_told(store: &Store, blob: u128) -> (u64, bool, bool) {
    let fact = store.facts().unwrap().read(BlobId(blob), true);
    let fact = fact.unwrap().unwrap();
    let order = u64::from_le_bytes(*fact.data.first_chunk().unwrap());
    (order, fact.has_ended, fact.is_void)
}

/// Both files of marks.
fn marks(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = ["marks", "voids"].map(|name| dir.join("store").join(name));
    let read = files.map(|path| (path.clone(), std::fs::read(path).unwrap()));
    read.to_vec()
}

/// What was noted since they were read was never flushed.
fn lose_marks_since(before: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in before {
        std::fs::write(path, bytes).unwrap();
    }
}

/// Drives the shards' segments on.
async fn roll(shards: &[&ShardStore], from: u128) {
    for number in 0..8 {
        let id = chunk(1 << 100 | from | number, 0);
        put_len(
            shards[number as usize % shards.len()],
            id,
            MIB as usize,
            Cached,
        )
        .await;
    }
}

/// The marks of the older ones are lost, in every order of two shards: the newest counts,
/// ended or not, and a start marks the others for good.
#[test]
fn of_notes_the_newest_counts_though_marks_are_lost() {
    for case in 0..8u32 {
        let of = |turn: u32| (case >> turn & 1) as usize;
        let dir = tempfile::tempdir().unwrap();
        let before = session(two_shards(dir.path()), async |store, first| {
            let second = store.shard(1, pool());
            let shards = [&first, &second];
            // Each has begun a segment before the notes move between them.
            for shard in shards {
                put_note(shard, 20, 1).await;
            }
            store.trust_marks();
            assert!(store.sync_marks(LONG));
            let before = marks(dir.path());
            for turn in 0..3 {
                put_note(shards[of(turn)], 9, u64::from(turn) + 1).await;
                put_note(shards[of(turn)], 10, u64::from(turn) + 1).await;
                if turn == 1 && case % 3 == 0 {
                    roll(&shards, 0).await;
                }
            }
            assert!(second.settle(LONG).await);
            before
        });
        lose_marks_since(&before);
        // A start with metadata that still want the change of 9 and not that of 10.
        session(two_shards(dir.path()), async |store, _| {
            assert_eq!(note_told(&store, 9), (3, false, false), "case {case}");
            store.reconcile(|blob| match blob.0 {
                9 => Fate::Keep,
                _ => Fate::Release,
            });
            store.trust_marks();
            assert!(store.sync_marks(LONG));
        });
        session(two_shards(dir.path()), async |store, _| {
            assert_eq!(note_told(&store, 9), (3, false, false), "case {case}");
            assert_eq!(note_told(&store, 10), (3, true, false), "case {case}");
            // Told to the UFS some time later.
            store.release(BlobId(9), 0);
            assert!(store.sync_marks(LONG));
        });
        let store = Store::open(two_shards(dir.path())).unwrap();
        assert_eq!(note_told(&store, 9), (3, true, false), "case {case}");
        assert_eq!(live(&store), [], "case {case}");
        assert!(
            store.core.outlived.lock().unwrap().is_empty(),
            "all are marked"
        );
    }
}

/// Nobody asked the metadata in between: what ended last hides what was before it.
#[test]
fn a_note_that_ended_hides_an_older_one_whose_mark_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    session(two_shards(dir.path()), async |store, first| {
        let second = store.shard(1, pool());
        store.trust_marks();
        put_note(&second, 20, 1).await;
        put_note(&first, 9, 1).await;
        assert!(store.sync_marks(LONG));
        let before = marks(dir.path());
        put_note(&second, 9, 2).await;
        assert!(store.sync_marks(LONG));
        lose_marks_since(&before);
        // The mark of a later second.
        store.release(BlobId(9), 0);
        assert!(store.sync_marks(LONG) && second.settle(LONG).await);
    });
    let store = Store::open(two_shards(dir.path())).unwrap();
    assert_eq!(note_told(&store, 9), (2, true, false));
    assert_eq!(live(&store), [(20, true)]);
}

/// The newest is evicted after it ended: none of the others comes back, whichever laps its
/// segments go through.
#[test]
fn outlived_notes_stay_so_through_laps() {
    let dir = tempfile::tempdir().unwrap();
    let open = || StoreConfig {
        note_order: two_shards(dir.path()).note_order,
        ..config(dir.path())
    };
    for lap in 0..3u128 {
        let before = session(open(), async |store, shard| {
            store.reconcile(|_| Fate::Release);
            store.trust_marks();
            // Pinned, so that an eviction moves them.
            put_note(&shard, 9, 10 * lap as u64 + 1).await;
            roll(&[&shard], lap << 20).await;
            assert!(store.sync_marks(LONG));
            let before = marks(dir.path());
            put_note(&shard, 9, 10 * lap as u64 + 2).await;
            before
        });
        lose_marks_since(&before);
        session(open(), async |store, shard| {
            assert_eq!(note_told(&store, 9).0, 10 * lap as u64 + 2);
            store.reconcile(|_| Fate::Keep);
            store.trust_marks();
            store.release(BlobId(9), 0);
            for turn in 0..5 + lap {
                roll(&[&shard], lap << 20 | turn << 10 | 1 << 90).await;
                assert!(store.sync_marks(LONG));
                assert_eq!(live(&store), []);
            }
        });
        let store = Store::open(open()).unwrap();
        assert_eq!(live(&store), [], "lap {lap}");
    }
}

/// An entry that says that its commit must never be made outlives the entry, also where an
/// eviction left a copy of it behind.
#[test]
fn an_entry_that_was_called_off_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let before = session(two_shards(dir.path()), async |store, first| {
        let second = store.shard(1, pool());
        put_blob(&second, 1, 10_240).await;
        put_blob(&first, 2, 10_240).await;
        store.trust_marks();
        assert!(store.sync_marks(LONG));
        let before = marks(dir.path());
        // Into the segment that was begun first, the entry lies in the other.
        put(&second, entry_of(2), &[], Flushed).await.unwrap();
        assert!(second.settle(LONG).await);
        before
    });
    lose_marks_since(&before);
    session(two_shards(dir.path()), async |store, _| {
        let mut facts = store.facts().unwrap();
        let told = facts.read(BlobId(2), false).unwrap().unwrap();
        assert!(told.data.is_empty());
        store.trust_marks();
        assert!(store.sync_marks(LONG));
    });
    let store = Store::open(two_shards(dir.path())).unwrap();
    assert!(store.core.outlived.lock().unwrap().is_empty());
}

/// Laps, evictions, moves, releases, restarts: nothing live is told as ended, and
/// nothing that ended as live.
#[test]
fn it_stays_known_through_laps() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected: Vec<(u128, bool)> = Vec::new();
    for cycle in 0..4u128 {
        expected = session(config(dir.path()), async |store, shard| {
            let kept: Vec<_> = expected.iter().map(|(blob, _)| *blob).collect();
            store.reconcile(|blob| match kept.contains(&blob.0) {
                true => Fate::Keep,
                false => Fate::Forget,
            });
            store.trust_marks();
            let mut expected = expected;
            for number in 0..60u128 {
                let blob = cycle * 1_000 + number;
                put_blob(&shard, blob, 30_000 + 9_000 * (number as u64 % 7)).await;
                put_len(&shard, note_of(blob), 5_000, Pinned).await;
                // Clean data that drive the segments round.
                put_len(&shard, chunk(1 << 100 | blob, 0), MIB as usize, Cached).await;
                expected.extend([(blob, false), (blob, true)]);
                if number % 3 != 0 {
                    store.release(BlobId(blob), 1);
                    expected.retain(|(other, _)| *other != blob);
                }
                if number % 10 == 9 && !expected.is_empty() {
                    let (old, _) = expected[expected.len() / 2];
                    store.forget(BlobId(old), 1);
                    expected.retain(|(other, _)| *other != old);
                }
            }
            assert!(shard.settle(LONG).await && store.sync_marks(LONG));
            expected
        });
        expected.sort_unstable();
        let store = Store::open(config(dir.path())).unwrap();
        assert_eq!(live(&store), expected, "cycle {cycle}");
        assert_eq!(store.gaps().unwrap(), Gaps::default());
    }
    let laps = session(config(dir.path()), async |store, _| {
        store.core.laps.load(std::sync::atomic::Ordering::Relaxed)
    });
    assert!(laps > 32, "no segment was used again: {laps} laps");
}

#[test]
fn gaps_are_told() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for blob in 1..=3 {
            put_blob(&shard, blob, 3 * MIB).await;
        }
        store.trust_marks();
        assert!(store.sync_marks(LONG));
    });
    let files = segment_files(dir.path());
    let first = std::fs::read(&files[0]).unwrap();
    std::fs::remove_file(&files[0]).unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    let missing = Gaps {
        missing: vec![0],
        ..Gaps::default()
    };
    assert_eq!(store.gaps().unwrap(), missing);
    drop(store);
    // A start that goes on without it does not miss it.
    let store = Store::open(config(dir.path())).unwrap();
    store.trust_marks();
    assert!(store.sync_marks(LONG));
    assert_eq!(store.gaps().unwrap(), Gaps::default());
    drop(store);
    std::fs::write(&files[0], first).unwrap();
    let marks = std::fs::File::options()
        .write(true)
        .open(dir.path().join("store/marks"));
    marks.unwrap().write_all_at(b"x", 512 + 300).unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    assert_eq!(store.gaps().unwrap().unmarked, [0]);
}

/// In a segment that was not full, what does not verify is told until a start has
/// dealt with it.
#[test]
fn torn_entries_are_told() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_blob(&shard, 1, 10_240).await;
        put_blob(&shard, 2, 10_240).await;
        store.trust_marks();
        assert!(store.sync_marks(LONG));
    });
    let needle = &content(entry_of(2), 300)[..32];
    let path = &segment_files(dir.path())[0];
    let bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(32).position(|w| w == needle).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damaged", at as u64).unwrap();
    let torn = |store: &Store| {
        let torn = store.facts().unwrap().torn();
        torn.iter().map(|torn| torn.blob).collect::<Vec<_>>()
    };
    let store = Store::open(config(dir.path())).unwrap();
    assert_eq!(torn(&store), [BlobId(2)]);
    assert_eq!(live(&store), [(1, false)]);
    store.trust_marks();
    assert!(store.sync_marks(LONG));
    drop(store);
    let store = Store::open(config(dir.path())).unwrap();
    assert_eq!(torn(&store), []);
}
