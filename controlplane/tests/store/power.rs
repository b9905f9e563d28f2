//! Power cuts, made up: of what was written to the journal after its last flush
//! any page may be missing. Flushed commits are all there, relaxed ones as the
//! first in order.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quickwater_controlplane::store::{
    EmbeddedStore, EngineKind, EngineOptions, KeyRange, OpenError, Store, Transaction, open,
};

use crate::support::rows;

const PAGE: usize = 4096;
const CUTS: u64 = 40;
/// More than these tests write, less than the journal is preallocated.
const JOURNAL_BYTES_MAX: u64 = 1 << 20;
/// Longer than what of a batch has no checksum.
const DAMAGE: usize = 20;

/// A number below `limit` (splitmix64).
fn below(random: &mut u64, limit: u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % limit
}

fn newest_journal(dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(dir.join("data")).expect("list");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .max_by_key(number)
        .expect("a journal")
}

/// The journal as far as these tests write it.
fn read(journal: &Path) -> Vec<u8> {
    let file = std::fs::File::open(journal).expect("open");
    let mut bytes = Vec::new();
    file.take(JOURNAL_BYTES_MAX)
        .read_to_end(&mut bytes)
        .expect("read");
    bytes
}

/// Where the journal ends: behind it is only preallocation, and the last byte of a
/// batch is not zero.
fn end_of(journal: &Path) -> usize {
    let bytes = read(journal);
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("list") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else if path.extension().is_some_and(|extension| extension == "jnl") {
            std::fs::write(target, read(&path)).expect("write");
        } else {
            std::fs::copy(path, target).expect("copy");
        }
    }
}

/// Commits rows 0, 1, 2, ... in order, one in `flushed_in` of them flushed; how
/// many, which was flushed last as which of how many, and where the journal ended
/// then.
async fn write(
    store: &EmbeddedStore,
    dir: &Path,
    first: u64,
    random: &mut u64,
    flushed_in: u64,
) -> (u64, Option<(u64, u64)>, usize) {
    let mut flushed = (None, end_of(&newest_journal(dir)));
    let mut flushes = 0;
    let count = 1 + below(random, 30);
    for number in first..first + count {
        let mut transaction = store.begin();
        let size = below(random, 9_000) as usize;
        transaction.set(&number.to_be_bytes(), &vec![number as u8 | 1; size]);
        transaction.add(b"n", 1);
        if below(random, flushed_in) == 0 {
            transaction.commit().await.expect("commit");
            flushes += 1;
            flushed = (Some((number, flushes)), end_of(&newest_journal(dir)));
        } else {
            transaction.commit_relaxed().await.expect("commit");
        }
    }
    (first + count, flushed.0, flushed.1)
}

/// Takes pages of the journal from `flushed` on.
fn cut_power(journal: &Path, flushed: usize, random: &mut u64) {
    let mut bytes = read(journal);
    let mut at = flushed;
    while at < bytes.len() {
        let next = (at / PAGE + 1) * PAGE;
        let end = next.min(bytes.len());
        if below(random, 4) == 0 {
            bytes[at..end].fill(0);
        }
        at = end;
    }
    std::fs::write(journal, bytes).expect("write");
}

async fn count(store: &EmbeddedStore) -> u64 {
    let found = rows(store, KeyRange::new(vec![0], vec![1])).await;
    for (number, (key, _)) in (0_u64..).zip(&found) {
        assert_eq!(
            *key,
            number.to_be_bytes(),
            "a commit in the middle is missing"
        );
    }
    let counter = rows(store, KeyRange::point(b"n")).await;
    let counted = counter.first().map_or(vec![0; 8], |row| row.1.clone());
    assert_eq!(counted, (found.len() as u64).to_le_bytes());
    found.len() as u64
}

#[tokio::test]
async fn a_power_cut_leaves_the_first_commits_and_all_flushed_ones() {
    let mut lost = 0;
    for seed in 0..CUTS {
        let mut random = seed;
        let dir = tempfile::tempdir().expect("a directory");
        let mut current = dir.path().join("0");
        let mut done = 0;
        // The journal goes on over several cuts.
        for cut in 1..4 {
            let options = EngineOptions::default();
            let store = open(EngineKind::Fjall, &current, &options).expect("open");
            assert_eq!(count(&store).await, done);
            let flushed_in = [2, 8, 1_000][(seed % 3) as usize];
            let (written, flushed, end) =
                write(&store, &current, done, &mut random, flushed_in).await;
            let flushes = flushed.map_or(0, |(_, count)| count);
            let after = dir.path().join(cut.to_string());
            copy(&current, &after);
            let unasked = store.stats().flushes > flushes;
            drop(store);
            if unasked {
                // A busy machine: more is flushed by now than was asked for.
                break;
            }
            cut_power(&newest_journal(&after), end, &mut random);
            let store = open(EngineKind::Fjall, &after, &options).expect("reopen");
            let left = count(&store).await;
            assert!(left >= done && left <= written);
            assert!(flushed.is_none_or(|(last, _)| left > last), "seed {seed}");
            lost += written - left;
            done = left;
            current = after;
        }
    }
    assert!(lost > 20, "only {lost} commits were lost");
}

#[tokio::test]
async fn damage_to_flushed_commits_is_refused_whatever_follows() {
    for seed in 0..10 {
        let mut random = seed;
        let dir = tempfile::tempdir().expect("a directory");
        let (first, second) = (dir.path().join("0"), dir.path().join("1"));
        let options = EngineOptions::default();
        let store = open(EngineKind::Fjall, &first, &options).expect("open");
        let (done, _, _) = write(&store, &first, 0, &mut random, 1_000).await;
        let (done, _, end) = write(&store, &first, done, &mut random, 1).await;
        write(&store, &first, done, &mut random, 1_000).await;
        copy(&first, &second);
        let journal = newest_journal(&second);
        let mut bytes = read(&journal);
        let at = below(&mut random, (end - DAMAGE) as u64) as usize;
        bytes[at..at + DAMAGE]
            .iter_mut()
            .for_each(|byte| *byte ^= 1);
        std::fs::write(&journal, &bytes).expect("write");
        let refused = open(EngineKind::Fjall, &second, &options).expect_err("damage");
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
        assert_eq!(read(&journal), bytes);
    }
}

#[tokio::test]
async fn a_relaxed_commit_is_flushed_soon() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(EngineKind::Fjall, dir.path(), &EngineOptions::default()).expect("open");
    let before = store.stats();
    let mut transaction = store.begin();
    transaction.set(b"a", b"1");
    transaction.commit_relaxed().await.expect("commit");
    let answered = store.stats();
    assert_eq!(answered.flushes, before.flushes);
    assert_eq!(answered.batches, before.batches + 1);
    let began = Instant::now();
    while store.stats().flushes == before.flushes {
        assert!(began.elapsed() < Duration::from_secs(5), "never flushed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // And once is enough.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(store.stats().flushes, before.flushes + 1);
}

#[tokio::test]
async fn many_relaxed_bytes_are_flushed_before_their_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(EngineKind::Fjall, dir.path(), &EngineOptions::default()).expect("open");
    for number in 0..60_u64 {
        let mut transaction = store.begin();
        transaction.set(&number.to_be_bytes(), &[7; 90_000]);
        transaction.commit_relaxed().await.expect("commit");
    }
    let stats = store.stats();
    assert!(stats.flushes >= 1 && stats.flushes < 10, "{stats:?}");
}
