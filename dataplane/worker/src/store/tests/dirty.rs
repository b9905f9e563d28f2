//! The limit on pinned data: exact, shared by all shards, and never a dead end.

use super::write_back::{entry_of, put_blob};
use super::*;
use Durability::{Cached, Flushed, Pinned};

const UNIT: u64 = 4096;

fn with_ratio(dir: &Path, dirty_ratio: f64) -> StoreConfig {
    StoreConfig {
        dirty_ratio,
        ..config(dir)
    }
}

fn pinned(store: &Store) -> u64 {
    count(&store.stats().pinned_bytes)
}

fn reserved(store: &Store) -> (u64, u64) {
    let stats = store.stats();
    (count(&stats.reserved_bytes), count(&stats.reserved_records))
}

#[test]
fn reserved_and_pinned_bytes_share_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    session(with_ratio(dir.path(), 0.25), async |store, shard| {
        assert_eq!(store.dirty_limit_bytes(), 16 * MIB);
        let whole = MIB + UNIT;
        let held: Vec<_> = std::iter::from_fn(|| shard.reserve(MIB, 1).ok()).collect();
        // A chunk, its head and an entry of the journal each.
        assert_eq!(held.len() as u64, 16 * MIB / (whole + UNIT));
        assert_eq!(held[0].bytes(), whole + UNIT);
        let sum = held.len() as u64 * (whole + UNIT);
        assert_eq!(reserved(&store), (sum, 2 * held.len() as u64));
        assert_eq!(shard.reserve(MIB, 1).unwrap_err(), DiskError::DirtyFull);
        assert_eq!(count(&store.stats().dirty_refused), 2);
        drop(held);
        assert_eq!(reserved(&store), (0, 0));

        for blob in 0..7 {
            put_blob(&shard, blob, 2 * MIB).await;
        }
        assert_eq!(pinned(&store), 7 * (2 * whole + UNIT));
        assert!(shard.reserve(MIB, 1).is_ok());
        assert_eq!(shard.reserve(2 * MIB, 2).unwrap_err(), DiskError::DirtyFull);
        shard.release(BlobId(3), 2);
        assert!(shard.reserve(2 * MIB, 2).is_ok());
        // Clean copies do not count.
        put_len(&shard, chunk(9, 0), MIB as usize, Cached).await;
        assert_eq!(pinned(&store), 6 * (2 * whole + UNIT));
        let absurd = shard.reserve(u64::MAX, u32::MAX).unwrap_err();
        assert_eq!(absurd, DiskError::DirtyFull);
    });
}

#[test]
fn what_was_reserved_is_what_is_pinned() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        for size in [1, 4000, 10_240, 65_536, 300_000, MIB, 2 * MIB + 5] {
            let kept = shard.reserve(size, size.div_ceil(MIB) as u32).unwrap();
            let before = pinned(&store);
            put_blob(&shard, u128::from(size), size).await;
            assert_eq!(pinned(&store) - before, kept.bytes(), "{size}");
        }
    });
}

#[test]
fn the_number_of_pinned_records_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let few = StoreConfig {
        records_max: 20,
        ..config(dir.path())
    };
    session(few, async |store, shard| {
        for blob in 0..4 {
            put_blob(&shard, blob, 100).await;
        }
        let last = shard.reserve(100, 1).unwrap();
        assert_eq!(shard.reserve(0, 0).unwrap_err(), DiskError::DirtyFull);
        drop(last);
        shard.forget(BlobId(0), 1);
        assert!(shard.reserve(3 * MIB, 3).is_ok());
        assert_eq!(count(&store.stats().pinned_records), 6);
    });
}

#[test]
fn a_ratio_that_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for ratio in [-0.1, 1.1, f64::NAN] {
        let refused = Store::open(with_ratio(dir.path(), ratio)).err().unwrap();
        assert!(refused.to_string().contains("0 to 1"), "{refused}");
    }
}

#[test]
fn a_suspect_store_reserves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        let cause = std::io::Error::other("test");
        shard.shard.core.suspect("testing", &cause);
        assert_eq!(shard.reserve(1, 1).unwrap_err(), DiskError::Suspect);
        assert_eq!(reserved(&store), (0, 0));
    });
}

/// Each thread reserves, pins, gives the reservation back and releases later.
#[test]
fn many_shards_together_stay_below_the_limit() {
    const SHARDS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        shards: SHARDS,
        dirty_ratio: 0.1,
        capacity_bytes: 32 * SEGMENT,
        ..config(dir.path())
    };
    let store = Store::open(config).unwrap();
    let work = |number: usize| {
        let store = store.clone();
        move || run(fill_and_release(store, number))
    };
    let threads = (0..SHARDS).map(|number| std::thread::spawn(work(number)));
    let refused: usize = threads
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    assert!(refused > 0);
    assert_eq!(count(&store.stats().dirty_refused), refused as u64);
    assert_eq!((reserved(&store), pinned(&store)), ((0, 0), 0));
    assert_eq!(count(&store.stats().pinned_records), 0);
}

async fn fill_and_release(store: Store, number: usize) -> usize {
    let shard = store.shard(number, pool());
    let (mut refused, mut held) = (0, std::collections::VecDeque::new());
    for turn in 0..150 {
        let blob = (number as u128) << 32 | turn;
        let size = [10_240, 2 * MIB, 300_000, 4000][turn as usize % 4];
        match shard.reserve(size, size.div_ceil(MIB) as u32) {
            Ok(reservation) => {
                put_blob(&shard, blob, size).await;
                assert!(pinned(&store) <= store.dirty_limit_bytes());
                drop(reservation);
                held.push_back(blob);
            }
            Err(error) => {
                assert_eq!(error, DiskError::DirtyFull);
                refused += 1;
                if let Some(old) = held.pop_front() {
                    shard.release(BlobId(old), 2);
                }
            }
        }
    }
    assert!(shard.settle(LONG).await);
    held.into_iter()
        .for_each(|old| shard.release(BlobId(old), 2));
    refused
}

/// Pins to the limit, spread over all segments, then writes clean chunks many
/// times the capacity: none may be refused, nor any pinned one lost.
fn pressed(config: &StoreConfig) {
    let blobs = session(config.clone(), async |store, shard| {
        let mut blobs = 0;
        while let Ok(_kept) = shard.reserve(100_000, 1) {
            put_blob(&shard, blobs, 100_000).await;
            blobs += 1;
            let noise = [1, 100_000, 300_000][blobs as usize % 3];
            put_len(&shard, chunk(1 << 100, blobs as u32), noise, Cached).await;
        }
        let limit = store.dirty_limit_bytes();
        assert!(pinned(&store) > limit - 2 * 100_000, "{limit}");
        blobs
    });
    // Twice, as a restart comes at any time.
    for turn in 1..3u128 {
        session(config.clone(), async |store, shard| {
            let chunks = 3 * config.capacity_bytes / 400_000;
            for index in 0..chunks {
                let id = chunk(turn << 100, index as u32);
                put_len(&shard, id, 400_000, Cached).await;
            }
            for blob in 0..blobs {
                assert!(has(&shard, chunk(blob, 0), 100_000).await, "{blob}");
                assert!(has(&shard, entry_of(blob), 300).await, "{blob}");
            }
            let stats = store.stats();
            assert_eq!(count(&stats.full) + count(&stats.damaged_records), 0);
            assert_eq!(count(&stats.pinned_records), 2 * blobs as u64);
        });
    }
}

#[test]
fn a_store_pinned_to_its_limit_still_takes_clean_chunks() {
    let dir = tempfile::tempdir().unwrap();
    pressed(&with_ratio(dir.path(), 0.3));
}

#[test]
fn so_does_the_smallest_store() {
    let dir = tempfile::tempdir().unwrap();
    let smallest = StoreConfig {
        capacity_bytes: 4 * SEGMENT,
        ..with_ratio(dir.path(), 0.3)
    };
    pressed(&smallest);
}

#[test]
fn and_takes_dirty_ones_when_some_were_released() {
    let dir = tempfile::tempdir().unwrap();
    session(with_ratio(dir.path(), 0.3), async |store, shard| {
        let mut oldest = 0;
        for blob in 0..600 {
            let kept = loop {
                match shard.reserve(200_000, 1) {
                    Ok(kept) => break kept,
                    Err(error) => assert_eq!(error, DiskError::DirtyFull),
                }
                shard.release(BlobId(oldest), 1);
                oldest += 1;
            };
            put_len(&shard, chunk(blob, 0), 200_000, Pinned).await;
            put_len(&shard, entry_of(blob), 300, Flushed).await;
            drop(kept);
        }
        assert!(oldest > 400);
        for blob in oldest..600 {
            assert!(has(&shard, chunk(blob, 0), 200_000).await, "{blob}");
        }
        assert_eq!(count(&store.stats().full), 0);
    });
}
