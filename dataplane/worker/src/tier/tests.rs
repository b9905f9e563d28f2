//! The tier as the store uses it.

use quickwater_proto::BlobId;

use super::*;
use crate::buffers::{Pool, PoolConfig};

fn chunk(n: u64) -> ChunkId {
    let high = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ChunkId {
        blob: BlobId(u128::from(high) << 64 | u128::from(n)),
        index: 0,
    }
}

fn bytes(n: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64 * 31 + n * 7) as u8).collect()
}

fn read(tier: &Tier, pool: &Pool, n: u64, len: usize) -> Option<Vec<u8>> {
    let mut buffer = pool.try_acquire(len).unwrap();
    let found = tier.read(chunk(n), &(0..len), &mut buffer);
    assert_eq!(buffer.len(), if found { len } else { 0 });
    found.then(|| buffer.as_slice().to_vec())
}

#[test]
fn gives_back_what_entered_whatever_comes_and_goes() {
    let tier = Tier::new(4 << 20).unwrap();
    let pool = Pool::new(PoolConfig::new(8 << 20)).unwrap();
    let len = |n: u64| 1 + (n as usize * 7919) % OBJECT_BYTES_MAX;
    let mut here = 0;
    for n in 0..3000 {
        tier.offer(chunk(n), &bytes(n, len(n)));
        if n % 5 == 0 {
            tier.forget(chunk(n));
            assert_eq!(read(&tier, &pool, n, len(n)), None);
        }
        for old in [n, n / 2, n.saturating_sub(40)] {
            if let Some(found) = read(&tier, &pool, old, len(old)) {
                assert_eq!(found, bytes(old, len(old)), "{old} at {n}");
                here += 1;
            }
        }
    }
    assert!(here > 2400, "{here} hits");
    let stats = tier.stats();
    let held = stats.bytes.load(Ordering::Relaxed);
    assert!((2 << 20..=4 << 20).contains(&held), "{held} bytes held");
    assert!(stats.evictions.load(Ordering::Relaxed) > 1000);
}

#[test]
fn every_cell_comes_back() {
    let tier = Tier::new(2 << 20).unwrap();
    (0..500).for_each(|n| tier.offer(chunk(n), &bytes(n, 5000)));
    (0..500).for_each(|n| tier.forget(chunk(n)));
    for part in &tier.inner.parts {
        let part = part.read().unwrap();
        assert_eq!(
            part.cells.free_count(),
            (1 << 20) / (CELL_BYTES + CELL_OVERHEAD_BYTES)
        );
    }
    let stats = tier.stats();
    assert_eq!(stats.bytes.load(Ordering::Relaxed), 0);
    assert_eq!(stats.objects.load(Ordering::Relaxed), 0);
}

#[test]
fn holds_whole_small_objects_only() {
    let tier = Tier::new(4 << 20).unwrap();
    let pool = Pool::new(PoolConfig::new(8 << 20)).unwrap();
    let second = ChunkId {
        index: 1,
        ..chunk(1)
    };
    tier.offer(second, b"the end of a large one");
    assert!(!tier.contains(second));
    tier.offer(chunk(2), &bytes(2, OBJECT_BYTES_MAX + 1));
    assert!(!tier.contains(chunk(2)));
    tier.offer(chunk(3), b"whole");
    assert_eq!(read(&tier, &pool, 3, 5).unwrap(), b"whole");
    assert_eq!(read(&tier, &pool, 3, 4).unwrap(), b"whol");
    assert_eq!(read(&tier, &pool, 3, 6), None, "beyond its end");
    let mut buffer = pool.try_acquire(5).unwrap();
    assert!(tier.read(chunk(3), &(1..3), &mut buffer));
    assert_eq!(buffer.as_slice(), b"ho");
}

#[test]
fn without_a_budget_it_is_empty() {
    let tier = Tier::new(0).unwrap();
    assert!(!tier.may_hold(chunk(1), 10));
    tier.offer(chunk(1), b"0123456789");
    tier.forget(chunk(1));
    assert!(!tier.contains(chunk(1)));
}

/// The bookkeeping of the smallest objects must fit what is set aside for it.
#[test]
fn the_bookkeeping_fits_its_share() {
    let cells = 10_000;
    let entries = cells / 2;
    let nodes = entries * (policy::NODE_BYTES + size_of::<Chain>());
    // A table of one word and one byte per slot, at most half empty after it grew.
    let table = (entries * 8 / 7).next_power_of_two() * 5;
    let vacant = entries * 4;
    let ghosts = entries.next_power_of_two() * 8;
    let links = cells * 4;
    // Vectors may have grown to twice what they hold.
    let most = 2 * nodes + table + 2 * vacant + ghosts + links;
    assert!(
        most <= cells * CELL_OVERHEAD_BYTES,
        "{} bytes a cell",
        most / cells
    );
}
