//! What survives a restart: everything written, with other shard counts too.

use super::*;
use Durability::{Cached, Flushed};

/// Ends without any goodbye: only the runtime and the files are dropped.
fn write_some(config: StoreConfig, blob: u128, chunks: Range<u32>, len: usize) {
    session(config, async |_, shard| {
        for index in chunks {
            put_len(&shard, chunk(blob, index), len, Flushed).await;
        }
    });
}

async fn all_there(shard: &ShardStore, blob: u128, chunks: Range<u32>, len: usize) {
    for index in chunks {
        assert!(has(shard, chunk(blob, index), len).await, "{blob}/{index}");
    }
}

#[test]
fn sealed_and_open_segments_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    // 12 segments' worth: most are sealed, the last is open.
    write_some(config(dir.path()), 1, 0..40, 1 << 20);
    session(config(dir.path()), async |store, shard| {
        assert_eq!(store.chunks(), 40);
        let stats = store.stats();
        assert_eq!(count(&stats.recovered_records), 40);
        assert!(count(&stats.scanned_segments) <= 2);
        all_there(&shard, 1, 0..40, 1 << 20).await;
        assert_eq!(store.pinned().len(), 40);
    });
}

#[test]
fn an_open_segment_is_written_on() {
    let dir = tempfile::tempdir().unwrap();
    for turn in 0..60 {
        write_some(config(dir.path()), 1, turn * 5..turn * 5 + 5, 10_000);
    }
    session(config(dir.path()), async |store, shard| {
        all_there(&shard, 1, 0..300, 10_000).await;
        assert_eq!(count(&store.stats().damaged_records), 0);
    });
    // 300 records of 12 KiB fill one segment; a spare or two beside it.
    assert!(segment_files(dir.path()).len() <= 3);
}

#[test]
fn restart_after_many_laps_finds_the_last_only() {
    let dir = tempfile::tempdir().unwrap();
    for turn in 0..6u32 {
        session(config(dir.path()), async |store, shard| {
            for index in 0..150 {
                put_len(&shard, chunk(u128::from(turn), index), 300_000, Cached).await;
            }
            assert_eq!(count(&store.stats().damaged_records), 0);
        });
        session(config(dir.path()), async |store, shard| {
            let mut here = 0;
            for old in 0..=turn {
                for index in 0..150 {
                    here += usize::from(has(&shard, chunk(u128::from(old), index), 300_000).await);
                }
            }
            assert_eq!(here, store.chunks());
            assert_eq!(count(&store.stats().damaged_records), 0);
            assert!(has(&shard, chunk(u128::from(turn), 149), 300_000).await);
        });
    }
}

#[test]
fn another_number_of_shards_reads_it_all() {
    let dir = tempfile::tempdir().unwrap();
    let with = |shards| StoreConfig {
        shards,
        ..config(dir.path())
    };
    for (turn, shards) in [3usize, 1, 2].into_iter().enumerate() {
        let store = Store::open(with(shards)).unwrap();
        for number in 0..shards {
            run(async {
                let shard = store.shard(number, pool());
                for old in 0..turn as u32 {
                    all_there(&shard, u128::from(old), 0..10, 50_000).await;
                }
                for index in (0..10).filter(|i| i % shards == number) {
                    let id = chunk(turn as u128, index as u32);
                    put_len(&shard, id, 50_000, Cached).await;
                }
                assert!(shard.settle(LONG).await);
            });
        }
        assert_eq!(store.chunks(), 10 * (turn + 1));
    }
    // The one shard left uses the segments of all: the store stays in bounds.
    session(with(1), async |_, shard| {
        for index in 0..500 {
            put_len(&shard, chunk(77, index), 300_000, Cached).await;
        }
        assert!(has(&shard, chunk(77, 499), 300_000).await);
    });
    assert_eq!(segment_files(dir.path()).len(), 16);
}

#[test]
fn a_smaller_capacity_drops_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        for index in 0..50 {
            put_len(&shard, chunk(1, index), 1 << 20, Cached).await;
        }
    });
    let small = StoreConfig {
        capacity_bytes: 6 * SEGMENT,
        ..config(dir.path())
    };
    session(small, async |store, shard| {
        assert!(has(&shard, chunk(1, 49), 1 << 20).await && !shard.contains(chunk(1, 0)));
        assert_eq!(store.capacity_bytes(), 6 * SEGMENT);
    });
    assert!(segment_files(dir.path()).len() <= 6);
}

#[test]
fn a_pinned_copy_moved_by_eviction_is_found_after_restart() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(1, 0), 50_000, Flushed).await;
        for index in 0..300 {
            put_len(&shard, chunk(2, index), 1 << 20, Cached).await;
        }
        assert!(count(&store.stats().reinserted_bytes) >= 50_000);
    });
    session(config(dir.path()), async |store, shard| {
        assert!(has(&shard, chunk(1, 0), 50_000).await);
        assert_eq!(store.pinned(), [chunk(1, 0)]);
    });
}

#[test]
fn zeroing_ahead_changes_nothing_but_speed() {
    let dir = tempfile::tempdir().unwrap();
    let zeroing = || StoreConfig {
        zero_ahead: true,
        ..config(dir.path())
    };
    session(zeroing(), async |store, shard| {
        assert!(shard.settle(LONG).await);
        for index in 0..20 {
            put_len(&shard, chunk(1, index), 1 << 20, Cached).await;
        }
        assert!(count(&store.stats().zeroed_bytes) >= SEGMENT);
    });
    session(zeroing(), async |_, shard| {
        all_there(&shard, 1, 0..20, 1 << 20).await
    });
}

#[test]
fn half_made_segments_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    write_some(config(dir.path()), 1, 0..3, 1000);
    let half = dir.path().join("store/shard-000/seg-000009");
    std::fs::write(&half, b"short").unwrap();
    session(config(dir.path()), async |_, shard| {
        assert!(!half.exists());
        all_there(&shard, 1, 0..3, 1000).await;
    });
}
