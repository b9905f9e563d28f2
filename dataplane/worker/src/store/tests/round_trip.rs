//! What was written is read: sizes, ranges, many at once, both drivers.

use super::*;
use Durability::{Cached, Flushed};
use futures_util::future::join_all;

const LENS: [usize; 14] = [
    0, 1, 4015, 4016, 4017, 4095, 4096, 10_240, 65_535, 65_536, 65_537, 131_072, 1_048_575,
    1_048_576,
];

async fn round_trips(dir: &Path) {
    let store = Store::open(config(dir)).unwrap();
    let shard = store.shard(0, pool());
    for (blob, durability) in [(1, Cached), (2, Flushed)] {
        for (index, len) in LENS.into_iter().enumerate() {
            let id = chunk(blob, index as u32);
            assert!(!shard.contains(id) && get(&shard, id, 0..0).await == Ok(None));
            put_len(&shard, id, len, durability).await;
            assert!(shard.contains(id) && has(&shard, id, len).await, "{len}");
        }
    }
    assert_eq!(store.chunks(), 2 * LENS.len());
    assert_eq!(count(&store.stats().damaged_records), 0);
    let free = shard.pool().available();
    assert!(shard.settle(LONG).await);
    assert!(free.large_free + 1 >= free.large_total && free.waiting == 0);
}

#[test]
fn every_size_comes_back_on_io_uring() {
    let dir = tempfile::tempdir().unwrap();
    run(round_trips(dir.path()));
}

#[test]
fn every_size_comes_back_on_the_legacy_driver() {
    let dir = tempfile::tempdir().unwrap();
    run_legacy(round_trips(dir.path()));
}

#[test]
fn every_range_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for len in [1usize, 5000, 65_536, 400_000, 1_048_576] {
            let id = chunk(3, len as u32);
            let data = content(id, len);
            put(&shard, id, &data, Cached).await.unwrap();
            let points = [0, 1, 4095, 65_536, 65_537, 196_608, 333_333, len - 1, len];
            for begin in points.into_iter().filter(|p| *p <= len) {
                for end in points.into_iter().filter(|p| (begin..=len).contains(p)) {
                    let got = get(&shard, id, begin as u32..end as u32).await.unwrap();
                    assert!(
                        got.as_deref() == Some(&data[begin..end]),
                        "{len}: {begin}..{end}"
                    );
                }
            }
            let beyond = get(&shard, id, 0..len as u32 + 1).await;
            assert_eq!(beyond, Ok(None));
        }
        assert_eq!(count(&store.stats().damaged_records), 0);
    });
}

#[test]
fn a_far_range_reads_little() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(1, 0), 1 << 20, Cached).await;
        let before = count(&store.stats().read_bytes);
        assert!(
            get(&shard, chunk(1, 0), 900_000..900_001)
                .await
                .unwrap()
                .is_some()
        );
        assert_eq!(count(&store.stats().read_bytes) - before, (64 << 10) + 4096);
    });
}

#[test]
fn ranges_are_read_without_a_second_buffer() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        let id = chunk(1, 0);
        put_len(&shard, id, 1 << 20, Cached).await;
        let free = shard.pool().available();
        // Leave one large buffer only: head and data must share it.
        let mut held: Vec<_> = (0..free.large_free - 1)
            .map(|_| shard.pool().try_acquire(1 << 20))
            .collect();
        while let Some(small) = shard.pool().try_acquire(1) {
            held.push(Some(small));
        }
        let got = get(&shard, id, 700_000..900_000).await.unwrap().unwrap();
        assert!(got == content(id, 1 << 20)[700_000..900_000]);
    });
}

#[test]
fn a_buffer_that_begins_elsewhere_is_stored_too() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        for len in [100, 70_000, 1 << 20] {
            let id = chunk(4, len as u32);
            let mut buffer = shard.buffer(len).await.unwrap();
            buffer.set_range(4242..4242 + len);
            buffer.as_mut_slice().copy_from_slice(&content(id, len));
            let (buffer, outcome) = shard.write(id, buffer, Cached).await;
            assert!(outcome.is_ok() && buffer.as_slice() == content(id, len));
            assert!(has(&shard, id, len).await);
        }
    });
}

#[test]
fn many_writers_share_writes_and_flushes() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        let lens = [0, 100, 10_240, 50_000, 65_536, 300_000];
        let writers = (0..64u32).map(|writer| {
            let shard = shard.clone();
            async move {
                for turn in 0..4 {
                    let id = chunk(u128::from(writer), turn);
                    let len = lens[(writer + turn) as usize % lens.len()];
                    put_len(&shard, id, len, Flushed).await;
                    assert!(has(&shard, id, len).await);
                }
            }
        });
        join_all(writers).await;
        let stats = store.stats();
        assert_eq!(count(&stats.records), 256);
        assert!(count(&stats.groups) < 128, "{}", count(&stats.groups));
        assert!(count(&stats.flushes) <= count(&stats.groups));
        assert_eq!(store.chunks(), 256);
    });
}

#[test]
fn cached_writes_are_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(1, 0), 10, Cached).await;
        assert_eq!(count(&store.stats().flushes), 0);
        put_len(&shard, chunk(1, 1), 10, Flushed).await;
        assert_eq!(count(&store.stats().flushes), 1);
    });
}

#[test]
fn forgotten_chunks_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for index in 0..3 {
            put_len(&shard, chunk(1, index), 5000, Flushed).await;
        }
        shard.forget(BlobId(1), 2);
        assert!(!shard.contains(chunk(1, 0)) && !has(&shard, chunk(1, 1), 5000).await);
        assert!(has(&shard, chunk(1, 2), 5000).await);
        assert_eq!(count(&store.stats().live_bytes), 8192);
        assert_eq!(count(&store.stats().pinned_bytes), 8192);
        assert_eq!(store.pinned(), [chunk(1, 2)]);
    });
}

#[test]
fn every_shard_reads_what_another_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig {
        shards: 2,
        ..config(dir.path())
    })
    .unwrap();
    let threads: Vec<_> = (0..2u32)
        .map(|me| {
            let store = store.clone();
            std::thread::spawn(move || {
                run(async {
                    let shard = store.shard(me as usize, pool());
                    for index in 0..40 {
                        put_len(&shard, chunk(u128::from(me), index), 20_000, Cached).await;
                    }
                    let other = chunk(u128::from(1 - me), 39);
                    for _ in 0..10_000 {
                        if shard.contains(other) {
                            break;
                        }
                        monoio::time::sleep(Duration::from_millis(1)).await;
                    }
                    for index in 0..40 {
                        assert!(has(&shard, chunk(u128::from(1 - me), index), 20_000).await);
                    }
                    assert!(shard.settle(LONG).await);
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(segment_files(dir.path()).len(), 4);
}
