//! A full store makes room: cold goes, hot and pinned stay, progress is sure.

use super::*;
use crate::store::record::UNIT_BYTES;
use Durability::{Cached, Flushed};

const LEN: usize = 200_000;

#[test]
fn old_chunks_make_room_and_none_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        // Five times the capacity, mixed sizes.
        let lens = [LEN, 3000, 1 << 20, 66_000];
        let total = 5 * 16 * SEGMENT as usize / (LEN + 3000 + (1 << 20) + 66_000) * 4;
        for index in 0..total as u32 {
            put_len(&shard, chunk(9, index), lens[index as usize % 4], Cached).await;
        }
        let mut here = 0;
        for index in 0..total as u32 {
            here += usize::from(has(&shard, chunk(9, index), lens[index as usize % 4]).await);
        }
        assert_eq!(here, store.chunks());
        assert!(here > total / 8 && here < total / 4, "{here} of {total}");
        assert!(has(&shard, chunk(9, total as u32 - 1), lens[(total - 1) % 4]).await);
        let stats = store.stats();
        assert_eq!(count(&stats.damaged_records), 0);
        assert!(count(&stats.evicted_records) > 0 && count(&stats.recycled_segments) > 16);
        assert!(count(&stats.live_bytes) <= store.capacity_bytes());
        assert_eq!(segment_files(dir.path()).len(), 16);
    });
}

#[test]
fn what_is_read_often_stays() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for index in 0..4 {
            put_len(&shard, chunk(1, index), LEN, Cached).await;
        }
        for index in 0..1000 {
            put_len(&shard, chunk(2, index), LEN, Cached).await;
            for hot in 0..4 {
                assert!(
                    has(&shard, chunk(1, hot), LEN).await,
                    "lost {hot} at {index}"
                );
            }
        }
        assert!(!shard.contains(chunk(2, 0)));
        assert!(count(&store.stats().reinserted_bytes) > 0);
    });
}

#[test]
fn spare_chunks_go_however_often_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for index in 0..4 {
            put_len(&shard, chunk(1, index), LEN, Cached).await;
            shard.make_spare(chunk(1, index));
            // Again: counted once.
            shard.make_spare(chunk(1, index));
        }
        put_len(&shard, chunk(3, 0), LEN, Flushed).await;
        shard.make_spare(chunk(3, 0));
        let spare = |store: &Store| count(&store.stats().spare_bytes);
        let each = spare(&store) / 4;
        assert!(
            each >= LEN as u64 && spare(&store) == 4 * each,
            "pinned ones are not spare"
        );
        shard.drop_spare(chunk(1, 0));
        shard.drop_spare(chunk(3, 0));
        assert!(!shard.contains(chunk(1, 0)) && shard.contains(chunk(3, 0)));
        // Written anew it is a chunk like any.
        put_len(&shard, chunk(1, 1), LEN, Cached).await;
        assert_eq!(spare(&store), 2 * each);
        for index in 0..1000 {
            put_len(&shard, chunk(2, index), LEN, Cached).await;
            for read in 1..4 {
                has(&shard, chunk(1, read), LEN).await;
            }
        }
        assert_eq!(spare(&store), 0);
        assert!(shard.contains(chunk(1, 1)), "read often, and not spare");
        assert!(!shard.contains(chunk(1, 2)) && !shard.contains(chunk(1, 3)));
    });
}

#[test]
fn a_store_where_all_is_hot_still_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for index in 0..1000 {
            put_len(&shard, chunk(2, index), LEN, Cached).await;
            assert!(has(&shard, chunk(2, index), LEN).await);
        }
        let stats = store.stats();
        let written = 1000 * LEN as u64;
        assert!(count(&stats.reinserted_bytes) < written / 2);
    });
}

#[test]
fn pinned_chunks_outlive_any_pressure() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        // One pinned record in every segment and more: a third of all.
        for index in 0..300u32 {
            let durability = if index % 3 == 0 && index < 200 {
                Flushed
            } else {
                Cached
            };
            put_len(&shard, chunk(1, index), 100_000, durability).await;
        }
        for index in 0..1500 {
            put_len(&shard, chunk(2, index), 100_000, Cached).await;
        }
        for index in (0..200).step_by(3) {
            assert!(has(&shard, chunk(1, index), 100_000).await, "lost {index}");
        }
        assert!(!shard.contains(chunk(1, 1)));
        assert_eq!(store.pinned().len(), 67);
        store.release(BlobId(1), 300);
        assert_eq!(
            (store.pinned().len(), count(&store.stats().pinned_bytes)),
            (0, 0)
        );
        for index in 2000..3000 {
            put_len(&shard, chunk(2, index), 100_000, Cached).await;
        }
        assert!(!shard.contains(chunk(1, 0)));
    });
}

#[test]
fn a_store_full_of_pinned_chunks_says_so_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        let mut stored = 0;
        let full = loop {
            let id = chunk(1, stored);
            match put(&shard, id, &content(id, LEN), Flushed).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 1000);
        };
        assert_eq!(full, DiskError::Full);
        assert!(u64::from(stored) * LEN as u64 > 12 * SEGMENT, "{stored}");
        assert!(!store.stats().is_suspect());
        for index in 0..stored {
            assert!(has(&shard, chunk(1, index), LEN).await, "lost {index}");
        }
        let id = chunk(3, 0);
        assert_eq!(
            put(&shard, id, &content(id, LEN), Cached).await,
            Err(DiskError::Full)
        );
        store.release(BlobId(1), stored / 2);
        put_len(&shard, chunk(3, 1), LEN, Flushed).await;
        for index in stored / 2..stored {
            assert!(has(&shard, chunk(1, index), LEN).await, "lost {index}");
        }
    });
}

#[test]
fn reads_under_eviction_are_right_or_missing() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        let reader = monoio::spawn({
            let shard = shard.clone();
            async move {
                let (mut hits, mut at) = (0, 0u32);
                for _ in 0..4000 {
                    at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    hits += u32::from(has(&shard, chunk(1, at % 1000), 70_000).await);
                    monoio::time::sleep(Duration::ZERO).await;
                }
                hits
            }
        });
        for index in 0..3000 {
            put_len(&shard, chunk(1, index % 1000), 70_000, Cached).await;
        }
        assert!(reader.await > 0);
        assert_eq!(count(&store.stats().damaged_records), 0);
    });
}

#[test]
fn too_many_records_are_evicted_though_the_disk_has_room() {
    const RECORDS_MAX: usize = 1_500;
    // One unit each; a lap in use and one that is prepared meanwhile come on top.
    let lap = SEGMENT as usize / UNIT_BYTES;
    let dir = tempfile::tempdir().unwrap();
    let few = StoreConfig {
        records_max: RECORDS_MAX as u64,
        ..config(dir.path())
    };
    session(few, async |store, shard| {
        put_len(&shard, chunk(7, 0), 100, Flushed).await;
        for index in 0..8 * lap as u32 {
            put_len(&shard, chunk(1, index), 100, Cached).await;
            let records = store.core.index.len();
            assert!(records <= RECORDS_MAX + 2 * lap, "{records} at {index}");
        }
        assert!(store.core.index.len() > RECORDS_MAX / 2);
        assert!(count(&store.stats().evicted_records) > 0);
        // What nobody else has stays, as does what came last.
        assert!(has(&shard, chunk(7, 0), 100).await);
        assert!(has(&shard, chunk(1, 8 * lap as u32 - 1), 100).await);
    });
}
