//! Flipped, torn, misplaced, stale and forged bytes never leave the store.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::store::record::{Head, Place, Secrets, UNIT_BYTES};
use Durability::{Cached, Flushed};

const LENS: [usize; 5] = [0, 10_240, 65_535, 65_536, 700_000];

fn fill(dir: &Path, chunks: u32) {
    session(config(dir), async |_, shard| {
        for index in 0..chunks {
            put_len(&shard, chunk(5, index), LENS[index as usize % 5], Flushed).await;
        }
    });
}

/// Reads everything; the answer is how many chunks are there, all of them right.
async fn survivors(shard: &ShardStore, chunks: u32) -> u32 {
    let mut here = 0;
    for index in 0..chunks {
        let len = LENS[index as usize % 5];
        here += u32::from(has(shard, chunk(5, index), len).await);
        if len > 0 {
            // A range must not see damage as data either.
            let range = len as u32 / 2..len as u32;
            if let Some(part) = get(shard, chunk(5, index), range).await.unwrap() {
                assert!(part == content(chunk(5, index), len)[len / 2..]);
            }
        }
    }
    here
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

fn flip(path: &Path, offset: u64, mask: u8) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ mask], offset).unwrap();
    file.sync_all().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn flipped_bytes_cost_at_most_their_record(
        which in 0usize..3,
        offset in 0u64..SEGMENT,
        mask in 1u8..,
        open in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), 40);
        let files = segment_files(dir.path());
        let path = &files[which % files.len()];
        if !open {
            flip(path, offset, mask);
        }
        session(config(dir.path()), async |_, shard| {
            if open {
                flip(path, offset, mask);
            }
            // Header and footer are not needed for reads; a record is one chunk.
            assert!(survivors(&shard, 40).await >= 39);
        });
    }

    #[test]
    fn torn_runs_never_yield_wrong_bytes(
        which in 0usize..3,
        first in 0u64..SEGMENT / 4096,
        units in 1u64..64,
        fill_with in any::<u8>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), 40);
        let files = segment_files(dir.path());
        let units = units.min(SEGMENT / 4096 - first);
        let torn = vec![fill_with; (units * 4096) as usize];
        overwrite(&files[which % files.len()], first * 4096, &torn);
        session(config(dir.path()), async |_, shard| {
            survivors(&shard, 40).await;
            // And the store still works.
            put_len(&shard, chunk(6, 0), 100_000, Flushed).await;
            assert!(has(&shard, chunk(6, 0), 100_000).await);
        });
    }

    #[test]
    fn heads_with_any_byte_changed_do_not_decode(at in 0usize..144, mask in 1u8..) {
        let secrets = Secrets { mark: [1; 16], seed: [2; 16] };
        let place = Place { segment: 3, generation: 4, offset: 5 };
        let data = content(chunk(1, 0), 1 << 20);
        let head = Head::new(place, chunk(1, 0), true, &data);
        let mut bytes = [0u8; UNIT_BYTES];
        let len = head.encode(&secrets, &mut bytes);
        prop_assert_eq!(Head::decode(&secrets, &bytes), Some(head));
        bytes[at % len] ^= mask;
        prop_assert_eq!(Head::decode(&secrets, &bytes), None);
    }

    #[test]
    fn garbage_does_not_decode(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let secrets = Secrets { mark: [1; 16], seed: [2; 16] };
        prop_assert_eq!(Head::decode(&secrets, &bytes), None);
    }
}

#[test]
fn a_damaged_record_is_counted_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(1, 0), 100_000, Cached).await;
        flip(&segment_files(dir.path())[0], 4096 + 4096 + 70_000, 1);
        // The first block is intact and is served; the second is not.
        assert!(get(&shard, chunk(1, 0), 0..10).await.unwrap().is_some());
        assert_eq!(get(&shard, chunk(1, 0), 70_000..70_001).await, Ok(None));
        assert!(!shard.contains(chunk(1, 0)));
        assert_eq!(count(&store.stats().damaged_records), 1);
        assert_eq!(count(&store.stats().live_bytes), 0);
    });
}

/// A write that went to the wrong place: another chunk's intact block.
#[test]
fn a_misplaced_block_is_found() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        put_len(&shard, chunk(1, 0), 131_072, Cached).await;
        put_len(&shard, chunk(1, 1), 131_072, Cached).await;
        let path = &segment_files(dir.path())[0];
        let file = OpenOptions::new().read(true).open(path).unwrap();
        let mut block = vec![0; 65_536];
        // Second block of chunk 0 over its first, and over chunk 1's second.
        file.read_exact_at(&mut block, 4096 + 4096 + 65_536)
            .unwrap();
        overwrite(path, 4096 + 4096, &block);
        let second = 4096 + 4096 + 131_072 + 4096 + 65_536;
        overwrite(path, second, &block);
        assert_eq!(get(&shard, chunk(1, 0), 0..10).await, Ok(None));
        assert_eq!(get(&shard, chunk(1, 1), 65_536..65_537).await, Ok(None));
    });
}

/// A whole record copied to where another should be: its head names its place.
#[test]
fn a_misplaced_record_is_found() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        for index in 0..2 {
            put_len(&shard, chunk(1, index), 4000, Cached).await;
        }
        let path = &segment_files(dir.path())[0];
        let file = OpenOptions::new().read(true).open(path).unwrap();
        let mut unit = [0; UNIT_BYTES];
        file.read_exact_at(&mut unit, 4096).unwrap();
        overwrite(path, 8192, &unit);
        assert_eq!(get(&shard, chunk(1, 1), 0..10).await, Ok(None));
        assert!(has(&shard, chunk(1, 0), 4000).await);
    });
}

/// Clients may send anything, even records copied off the disk or made with
/// full knowledge of the format: a scan must not take them for records.
#[test]
fn forged_records_inside_data_never_validate() {
    let dir = tempfile::tempdir().unwrap();
    let evil = chunk(0xE71, 0);
    session(config(dir.path()), async |_, shard| {
        put_len(&shard, chunk(1, 0), 1000, Flushed).await;
        let path = &segment_files(dir.path())[0];
        let file = OpenOptions::new().read(true).open(path).unwrap();
        let (mut header, mut stolen) = ([0; UNIT_BYTES], [0; UNIT_BYTES]);
        file.read_exact_at(&mut header, 0).unwrap();
        file.read_exact_at(&mut stolen, 4096).unwrap();
        let generation = u64::from_le_bytes(header[32..40].try_into().unwrap());
        // The store's mark is known, the seed is not.
        let secrets = Secrets {
            mark: header[8..24].try_into().unwrap(),
            seed: [0; 16],
        };
        let mut data = vec![0; 1 << 20];
        for (at, unit) in data.chunks_exact_mut(UNIT_BYTES).enumerate() {
            // This record begins at unit 2, its data at unit 3.
            let place = Place {
                segment: 0,
                generation,
                offset: 3 + at as u32,
            };
            if at % 2 == 0 {
                Head::new(place, evil, true, b"evil").encode(&secrets, unit);
            } else {
                unit.copy_from_slice(&stolen);
            }
        }
        put(&shard, chunk(2, 0), &data, Flushed).await.unwrap();
        // Tear the record that holds them, so that the scan looks inside.
        flip(path, 2 * 4096 + 100, 0xff);
    });
    session(config(dir.path()), async |store, shard| {
        assert!(!shard.contains(evil) && !shard.contains(chunk(2, 0)));
        assert!(has(&shard, chunk(1, 0), 1000).await);
        assert_eq!(store.chunks(), 1);
    });
}

/// Bytes of the lap before, behind the place where a new lap ended.
#[test]
fn records_of_the_lap_before_never_validate() {
    let dir = tempfile::tempdir().unwrap();
    let small = || StoreConfig {
        capacity_bytes: 4 * SEGMENT,
        ..config(dir.path())
    };
    session(small(), async |_, shard| {
        for index in 0..100 {
            put_len(&shard, chunk(1, index), 500_000, Cached).await;
        }
    });
    let known = session(small(), async |store, shard| {
        // Whatever is known verifies: nothing stale was taken in.
        for index in 0..100 {
            has(&shard, chunk(1, index), 500_000).await;
        }
        assert_eq!(count(&store.stats().damaged_records), 0);
        store.chunks()
    });
    assert!(known < 33, "{known}");
}

#[test]
fn a_lost_header_costs_nothing_but_a_scan() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 40);
    for path in segment_files(dir.path()) {
        overwrite(&path, 0, &[0; UNIT_BYTES]);
    }
    session(config(dir.path()), async |_, shard| {
        assert_eq!(survivors(&shard, 40).await, 40);
        for index in 0..200 {
            put_len(&shard, chunk(6, index), 100_000, Cached).await;
        }
        assert_eq!(survivors(&shard, 40).await, 40);
    });
}
