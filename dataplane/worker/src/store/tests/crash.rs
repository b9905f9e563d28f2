//! kill -9 at any moment: what was acked as flushed is there and exact.
//!
//! The test binary runs itself as the victim; its output is the list of acks.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;
use Durability::{Cached, Flushed};

/// Names the directory when this process is the victim.
const VICTIM: &str = "QUICKWATER_STORE_VICTIM";
const CYCLES: u32 = 12;
const WRITERS: u32 = 8;
const LENS: [usize; 6] = [0, 4000, 10_240, 65_536, 300_000, 1 << 20];

fn len_of(cycle: u32, index: u32) -> usize {
    LENS[(cycle + index) as usize % LENS.len()]
}

/// Not a test of its own: the process that is killed.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else {
        return;
    };
    let (dir, cycle) = (PathBuf::from(dir), std::env::var("CYCLE").unwrap());
    let cycle: u32 = cycle.parse().unwrap();
    session(config(&dir), async |store, shard| {
        // As after any restart: what is on disk is pinned until somebody who
        // knows says that it is not needed.
        for id in store.pinned() {
            shard.shard.core.release(id);
        }
        let writers = (0..WRITERS).map(|writer| {
            let shard = shard.clone();
            monoio::spawn(async move {
                for turn in 0..100_000 {
                    let index = turn * WRITERS + writer;
                    let id = chunk(u128::from(cycle), index);
                    put_len(&shard, id, len_of(cycle, index), Flushed).await;
                    // One line is one write: never half an ack.
                    let line = format!("acked {index}\n");
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                    // Old ones go, so that segments are recycled all the time.
                    if turn >= 6 {
                        release(&shard, cycle, index - 6 * WRITERS);
                    }
                    let clean = chunk(1 << 64, index + (cycle << 20));
                    put_len(&shard, clean, 30_000, Cached).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await;
        }
    });
}

fn release(shard: &ShardStore, cycle: u32, index: u32) {
    shard.shard.core.release(chunk(u128::from(cycle), index));
}

/// Runs a victim for `millis` and returns the indexes it acked.
fn run_and_kill(dir: &Path, cycle: u32, millis: u64) -> Vec<u32> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::tests::crash::victim",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(VICTIM, dir)
        .env("CYCLE", cycle.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acked = Vec::new();
    let index = |line: &str| {
        line.rsplit_once("acked ")
            .and_then(|(_, n)| n.parse::<u32>().ok())
    };
    while acked.is_empty() {
        let line = lines.next().expect("the victim ended by itself").unwrap();
        acked.extend(index(&line));
    }
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap()
    });
    acked.extend(lines.filter_map(|line| index(&line.unwrap())));
    assert!(!killer.join().unwrap().success());
    acked
}

#[test]
fn acked_records_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut total = 0;
    for cycle in 1..=CYCLES {
        let acked = run_and_kill(dir.path(), cycle, 20 + u64::from(cycle) * 37 % 200);
        total += acked.len();
        session(config(dir.path()), async |store, shard| {
            // The last few of every writer were never released by the victim.
            for &index in acked.iter().rev().take(6 * WRITERS as usize / 2) {
                let id = chunk(u128::from(cycle), index);
                let len = len_of(cycle, index);
                assert!(has(&shard, id, len).await, "cycle {cycle}: lost {index}");
            }
            // Nothing half-written is known, and nothing known is wrong.
            for id in store.pinned() {
                let len = len_of(id.blob.0 as u32, id.index);
                assert!(has(&shard, id, len).await, "cycle {cycle}: {id:?}");
            }
            assert_eq!(count(&store.stats().damaged_records), 0);
        });
    }
    assert!(total > CYCLES as usize * 20, "only {total} acks");
}
