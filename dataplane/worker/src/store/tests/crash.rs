//! kill -9 at any moment: what was acked as flushed is there and exact.
//!
//! The test binary runs itself as the victim; its output is the list of acks.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use Durability::{Cached, Flushed};

/// Names the directory when this process is the victim.
pub(super) const VICTIM: &str = "QUICKWATER_STORE_VICTIM";
/// The test that is the victim.
pub(super) const VICTIM_TEST: &str = "store::tests::crash::victim";
const CYCLES: u32 = 12;
/// However slow the machine is, there is something to lose.
const ACKS_PER_CYCLE_MIN: usize = 24;
/// Longest wait for a victim.
const VICTIM_DEADLINE: Duration = Duration::from_secs(60);
pub(super) const WRITERS: u32 = 8;
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

/// A running victim and what it acked.
pub(super) struct Victim {
    child: Child,
    acked: Arc<Mutex<Vec<u32>>>,
    reader: JoinHandle<()>,
}

/// Starts a victim and waits for its first ack.
pub(super) fn spawn_victim(test: &str, dir: &Path, cycle: u32) -> Victim {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(VICTIM, dir)
        .env("CYCLE", cycle.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acked = Arc::new(Mutex::new(Vec::new()));
    let reader = std::thread::spawn({
        let acked = Arc::clone(&acked);
        move || {
            for line in lines.map_while(Result::ok) {
                let index = line
                    .rsplit_once("acked ")
                    .and_then(|(_, n)| n.parse::<u32>().ok());
                acked.lock().unwrap().extend(index);
            }
        }
    });
    let victim = Victim {
        child,
        acked,
        reader,
    };
    victim.wait_for(1);
    victim
}

impl Victim {
    /// Indexes acked until now.
    pub(super) fn acked_so_far(&self) -> Vec<u32> {
        self.acked.lock().unwrap().clone()
    }

    /// Waits until it acked so many.
    fn wait_for(&self, acks: usize) {
        let began = Instant::now();
        while self.acked.lock().unwrap().len() < acks {
            assert!(!self.reader.is_finished(), "the victim ended by itself");
            assert!(began.elapsed() < VICTIM_DEADLINE, "no {acks} acks in time");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it and returns the indexes it acked in all.
    pub(super) fn kill(mut self) -> Vec<u32> {
        self.child.kill().unwrap();
        assert!(!self.child.wait().unwrap().success());
        self.reader.join().unwrap();
        let acked = self.acked.lock().unwrap();
        acked.clone()
    }
}

/// Opens the store and counts which of the acked records are lost. Wrong bytes
/// are a failure at once, as is damage among what is known.
pub(super) fn check_acked(dir: &Path, cycle: u32, acked: &[u32]) -> usize {
    session(config(dir), async |store, shard| {
        let mut lost = 0;
        for &index in acked {
            let id = chunk(u128::from(cycle), index);
            lost += usize::from(!has(&shard, id, len_of(cycle, index)).await);
        }
        // Nothing half-written is known, and nothing known is wrong.
        for id in store.pinned() {
            let len = len_of(id.blob.0 as u32, id.index);
            assert!(has(&shard, id, len).await, "cycle {cycle}: {id:?}");
        }
        assert_eq!(count(&store.stats().damaged_records), 0);
        lost
    })
}

#[test]
fn acked_records_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for cycle in 1..=CYCLES {
        let victim = spawn_victim(VICTIM_TEST, dir.path(), cycle);
        std::thread::sleep(Duration::from_millis(20 + u64::from(cycle) * 37 % 200));
        victim.wait_for(ACKS_PER_CYCLE_MIN);
        let acked = victim.kill();
        // The last few of every writer were not released by the victim.
        let last: Vec<_> = acked
            .iter()
            .rev()
            .take(3 * WRITERS as usize)
            .copied()
            .collect();
        assert_eq!(
            check_acked(dir.path(), cycle, &last),
            0,
            "lost in cycle {cycle}"
        );
    }
}
