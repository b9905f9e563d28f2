//! Data pinned first, then one flushed entry of the journal that answers for all.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;

use super::crash::{VICTIM, WRITERS};
use super::*;
use crate::store::{Fate, JournalError, Reconciled};
use Durability::{Cached, Flushed, Pinned};
use futures_util::future::join;
use quickwater_engine::io::JOURNAL_CHUNK;

/// One chunk or several; the longest spans groups and often segments.
const SIZES: [u64; 6] = [10_240, 200_000, MIB + 77, 70_000, 5 * MIB / 2, 4000];

pub(super) fn entry_of(blob: u128) -> ChunkId {
    chunk(blob, JOURNAL_CHUNK)
}

/// Index and length of the chunks of a blob.
fn chunks_of(size: u64) -> impl DoubleEndedIterator<Item = (u32, usize)> {
    let len = move |index: u64| (size - index * MIB).min(MIB) as usize;
    (0..size.div_ceil(MIB)).map(move |index| (index as u32, len(index)))
}

/// What a WRITE_BACK PUT does to the store.
pub(super) async fn put_blob(shard: &ShardStore, blob: u128, size: u64) {
    let mut chunks = chunks_of(size);
    let (last, last_len) = chunks.next_back().unwrap();
    for (index, len) in chunks {
        put_len(shard, chunk(blob, index), len, Pinned).await;
    }
    let last = put_len(shard, chunk(blob, last), last_len, Pinned);
    join(last, put_len(shard, entry_of(blob), 300, Flushed)).await;
}

async fn has_blob(shard: &ShardStore, blob: u128, size: u64) -> bool {
    for (index, len) in chunks_of(size) {
        if !has(shard, chunk(blob, index), len).await {
            return false;
        }
    }
    true
}

fn size_of_blob(blob: u128) -> u64 {
    SIZES[(blob % SIZES.len() as u128) as usize]
}

fn blob_of(cycle: u32, index: u32) -> u128 {
    u128::from(cycle) << 32 | u128::from(index)
}

/// The test that is the victim of a power cut.
pub(super) const VICTIM_TEST: &str = "store::tests::write_back::victim";

/// Not a test of its own: the process that is killed.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else {
        return;
    };
    let cycle: u32 = std::env::var("CYCLE").unwrap().parse().unwrap();
    session(config(&PathBuf::from(dir)), async |store, shard| {
        let writers = (0..WRITERS).map(|writer| {
            let (shard, store) = (shard.clone(), store.clone());
            monoio::spawn(async move {
                for turn in 0..100_000 {
                    let index = turn * WRITERS + writer;
                    let blob = blob_of(cycle, index);
                    put_blob(&shard, blob, size_of_blob(blob)).await;
                    let line = format!("acked {index}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    if turn >= 2 {
                        let old = BlobId(blob_of(cycle, index - 2 * WRITERS));
                        store.release(old, 3);
                    }
                    let clean = chunk(1 << 100 | blob, 0);
                    put_len(&shard, clean, 200_000, Cached).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await;
        }
    });
}

/// Lost and checked of the last two blobs each writer had acked: older ones may
/// have been released and evicted.
pub(super) fn lost_blobs(dir: &Path, cycle: u32, acked: &[u32]) -> (usize, usize) {
    let mut of_writer = HashMap::<u32, usize>::new();
    let last = acked.iter().rev().filter(|index| {
        let seen = of_writer.entry(*index % WRITERS).or_default();
        *seen += 1;
        *seen <= 2
    });
    let last: Vec<_> = last.map(|index| blob_of(cycle, *index)).collect();
    let checked = last.len();
    let lost = session(config(dir), async |store, shard| {
        let entries: Result<Vec<_>, JournalError> = store.journal().unwrap().collect();
        let entries = entries.unwrap();
        for entry in &entries {
            assert!(entry.data == content(entry_of(entry.blob.0), 300));
            // Acked or not: what is said to be here can be read.
            let size = size_of_blob(entry.blob.0);
            if store.holds(entry.blob, size) {
                assert!(has_blob(&shard, entry.blob.0, size).await, "{entry:?}");
            }
        }
        let is_lost = |blob: &&u128| {
            let known = entries.iter().any(|entry| entry.blob.0 == **blob);
            !known || !store.holds(BlobId(**blob), size_of_blob(**blob))
        };
        let lost = last.iter().filter(is_lost).count();
        assert_eq!(count(&store.stats().damaged_records), 0);
        store.forget_unknown(|_| false);
        assert!(store.pinned().is_empty() && count(&store.stats().pinned_bytes) == 0);
        lost
    });
    (lost, checked)
}

#[test]
fn a_pinned_write_waits_for_no_flush() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(1, 0), MIB as usize, Pinned).await;
        put_len(&shard, chunk(1, 1), 10_000, Pinned).await;
        let stats = store.stats();
        assert_eq!(count(&stats.flushes), 0);
        assert_eq!((store.pinned().len(), count(&stats.pinned_records)), (2, 2));
        put_len(&shard, entry_of(1), 300, Flushed).await;
        assert_eq!(count(&stats.flushes), 1);
    });
}

#[test]
fn data_and_entry_queued_together_are_one_write_and_one_flush() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(9, 0), 100, Cached).await;
        // The header of the spare segment is written, too.
        assert!(shard.settle(LONG).await);
        let stats = store.stats();
        let before = (count(&stats.groups), count(&stats.write_ops));
        put_blob(&shard, 1, 10_240).await;
        let after = (count(&stats.groups), count(&stats.write_ops));
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
        assert_eq!(count(&stats.flushes), 1);
        // A long chunk is written from where it lies, at the same time.
        put_blob(&shard, 2, 300_000).await;
        assert_eq!(count(&stats.groups), after.0 + 1);
        assert_eq!(count(&stats.write_ops), after.1 + 2);
        assert_eq!(count(&stats.flushes), 2);
    });
}

#[test]
#[cfg(not(feature = "unsafe-no-flush"))]
fn a_failed_flush_of_a_full_segment_fails_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        put_len(&shard, chunk(1, 0), 100, Flushed).await;
    });
    session(config(dir.path()), async |store, shard| {
        // Segment 0, written on, takes every write and refuses to be flushed.
        let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
        let null = std::rc::Rc::new(monoio::fs::File::from_std(null).unwrap());
        shard.shard.files.borrow_mut().insert(0, null);
        for index in 0..3 {
            put_len(&shard, chunk(2, index), MIB as usize, Pinned).await;
        }
        assert!(!store.stats().is_suspect());
        // The next goes to another segment, whose own flush would succeed.
        let id = entry_of(2);
        let failed = put(&shard, id, &content(id, MIB as usize), Flushed).await;
        assert_eq!(failed, Err(DiskError::Suspect));
        assert!(store.stats().is_suspect() && !shard.contains(id));
    });
}

#[test]
fn a_pinned_write_nobody_waits_for_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for (index, durability) in [(0, Pinned), (1, Flushed), (2, Cached)] {
            let id = chunk(1, index);
            assert!(super::faults::leave(put_len(&shard, id, 300_000, durability)).await);
        }
        assert!(shard.settle(LONG).await);
        assert!(store.pinned().is_empty());
        assert_eq!(count(&store.stats().pinned_records), 0);
        assert!(shard.contains(chunk(1, 2)));
    });
}

#[test]
fn release_and_forget_drop_the_entry_too() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for blob in [1, 2] {
            put_blob(&shard, blob, 2 * MIB).await;
        }
        shard.release(BlobId(1), 2);
        shard.forget(BlobId(2), 2);
        assert!(store.holds(BlobId(1), 2 * MIB) && !store.holds(BlobId(2), 2 * MIB));
        assert!(!shard.contains(entry_of(1)) && !shard.contains(entry_of(2)));
        assert_eq!(count(&store.stats().pinned_bytes), 0);
        assert_eq!(store.chunks(), 2);
    });
}

#[test]
fn the_journal_is_listed_after_a_restart_and_reconciled() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        for blob in 0..40 {
            put_blob(&shard, blob, SIZES[blob as usize % 4]).await;
        }
        // A write that was never acked, and one that lost a chunk.
        put_len(&shard, chunk(100, 0), 10_000, Pinned).await;
        put_len(&shard, chunk(101, 1), 10_000, Pinned).await;
        put_len(&shard, entry_of(101), 70_000, Flushed).await;
        shard.release(BlobId(0), 1);
    });
    session(config(dir.path()), async |store, shard| {
        let before = count(&store.stats().read_ops);
        let mut found: Vec<_> = store.journal().unwrap().map(Result::unwrap).collect();
        let reads = count(&store.stats().read_ops) - before;
        assert!(reads < 35, "{reads} reads for {} entries", found.len());
        found.sort_by_key(|entry| entry.blob.0);
        let blobs: Vec<_> = found.iter().map(|entry| entry.blob.0).collect();
        assert_eq!(blobs, (0..40).chain([101]).collect::<Vec<_>>());
        for entry in &found {
            let len = if entry.blob.0 == 101 { 70_000 } else { 300 };
            assert!(entry.data == content(entry_of(entry.blob.0), len));
        }
        assert!((0..40).all(|blob| store.holds(BlobId(blob), SIZES[blob as usize % 4])));
        assert!(!store.holds(BlobId(3), SIZES[3] + 1) && !store.holds(BlobId(3), 0x1_0000_0000));
        assert!(!store.holds(BlobId(101), MIB + 10_000));
        let pinned = store.pinned();
        assert!(pinned.is_sorted_by_key(|chunk| (chunk.blob.0, chunk.index)));
        assert_eq!(pinned.len(), 50 + 40 + 1 + 2);

        let done = store.reconcile(|blob| match blob.0 {
            0..10 => Fate::Keep,
            10..40 => Fate::Release,
            _ => Fate::Forget,
        });
        let kept = 10 + 12;
        let expected = Reconciled {
            kept,
            released: 38,
            forgotten: 30 + 3,
        };
        assert_eq!(done, expected);
        assert_eq!(count(&store.stats().pinned_records), kept);
        assert_eq!(store.journal().unwrap().count(), 10);
        assert!(has_blob(&shard, 11, SIZES[3]).await && !shard.contains(chunk(100, 0)));
        store.forget_unknown(|blob| blob.0 == 2);
        assert_eq!(store.pinned(), [chunk(2, 0), chunk(2, 1), entry_of(2)]);
    });
}

#[test]
fn a_damaged_entry_is_an_error_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for blob in 1..=5 {
            put_blob(&shard, blob, 4000).await;
        }
        let at = shard.shard.core.index.get(entry_of(3)).unwrap();
        let path = &segment_files(dir.path())[at.segment as usize];
        let file = OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"x", u64::from(at.offset) * 4096 + 100)
            .unwrap();
        file.sync_all().unwrap();
        let mut found: Vec<_> = store
            .journal()
            .unwrap()
            .map(|entry| match entry {
                Ok(entry) => (entry.blob.0, true),
                Err(JournalError::Damaged { blob }) => (blob.0, false),
                Err(other) => panic!("{other}"),
            })
            .collect();
        found.sort_unstable();
        let expected = [(1, true), (2, true), (3, false), (4, true), (5, true)];
        assert_eq!(found, expected);
    });
}
