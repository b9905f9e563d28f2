//! kill -9 in the middle of commits: everything acknowledged is there, nothing is
//! there in part, versions never go back.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quickwater_controlplane::store::{
    CommitVersion, EmbeddedStore, EngineKind, KeyRange, Store, Transaction, open,
};

use crate::support::{SMALL, rows};

/// Tells the child what to do: engine and directory.
const ENGINE: &str = "QUICKWATER_TEST_CRASH_ENGINE";
const DIR: &str = "QUICKWATER_TEST_CRASH_DIR";
const WRITERS: u8 = 8;
const KILLS: u32 = 12;
/// The child ends by itself when nobody kills it.
const CHILD_LIFE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn fjall_keeps_what_it_acknowledged() {
    survive(EngineKind::Fjall).await;
}

#[tokio::test]
async fn redb_keeps_what_it_acknowledged() {
    survive(EngineKind::Redb).await;
}

async fn survive(kind: EngineKind) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = 0;
    for round in 0..KILLS {
        run_and_kill(kind, dir.path(), 150 + u64::from(round) * 61 % 400);
        let store = open(kind, &dir.path().join("store"), &SMALL).expect("reopen");
        acknowledged += check(&store, dir.path()).await;
    }
    assert!(acknowledged > 200, "only {acknowledged} commits in all");
}

fn run_and_kill(kind: EngineKind, dir: &Path, after_ms: u64) {
    let acks = dir.join("acks");
    std::fs::write(&acks, "").expect("acks");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "crash::child", "--ignored"])
        .env(ENGINE, kind.name())
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let began = Instant::now();
    while std::fs::metadata(&acks).expect("acks").len() == 0 {
        assert!(began.elapsed() < CHILD_LIFE, "the child commits nothing");
        assert!(child.try_wait().expect("child").is_none(), "the child died");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(after_ms));
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the crash tests"]
async fn child() {
    let (Ok(engine), Ok(dir)) = (std::env::var(ENGINE), std::env::var(DIR)) else {
        return;
    };
    let dir = Path::new(&dir);
    let kind = engine.parse().expect("an engine");
    let store = open(kind, &dir.join("store"), &SMALL).expect("open");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let acks = OpenOptions::new().append(true).open(dir.join("acks"));
        let relaxed = kind == EngineKind::Fjall;
        writers.spawn(write(store.clone(), writer, relaxed, acks.expect("acks")));
    }
    tokio::time::sleep(CHILD_LIFE).await;
}

/// Not a test of its own: for power cuts made from outside, after which nothing
/// that [`child`] noted (in a file that kept its power) may be missing. Stop the
/// child (SIGSTOP) before the cut: when ext4 is shut down under a running
/// fdatasync, that call may still answer success for what is lost.
#[tokio::test]
#[ignore = "started after a power cut made from outside"]
async fn verify() {
    let (Ok(engine), Ok(dir)) = (std::env::var(ENGINE), std::env::var(DIR)) else {
        return;
    };
    let dir = Path::new(&dir);
    let kind = engine.parse().expect("an engine");
    let store = open(kind, &dir.join("store"), &SMALL).expect("reopen");
    let acknowledged = check(&store, dir).await;
    eprintln!("{acknowledged} acknowledged commits are there");
}

/// Commits rows 0, 1, 2, ... of a writer, each with an index row, a counter and a
/// versionstamp, and notes each acknowledgement.
async fn write(store: EmbeddedStore, writer: u8, relaxed: bool, mut acks: std::fs::File) {
    let mut sequence = rows(&store, KeyRange::prefix(&[b'r', writer])).await.len() as u64;
    loop {
        let mut transaction = store.begin();
        let number = sequence.to_be_bytes();
        let row = [&[b'r', writer][..], &number].concat();
        let index = [b"i".as_slice(), &number, &[writer]].concat();
        assert_eq!(transaction.get(&row).await, Ok(None));
        transaction.set(&row, &content(writer, sequence));
        transaction.set(&index, b"");
        transaction.add(b"n", 1);
        transaction.set_versionstamped_value(&[b"v".as_slice(), &row].concat(), &[0; 10], 0);
        // A queue of one: the row before goes.
        if let Some(before) = sequence.checked_sub(1) {
            transaction.clear(&[&[b'q', writer][..], &before.to_be_bytes()].concat());
        }
        transaction.set(&[&[b'q', writer][..], &number].concat(), b"");
        // The end of a process takes neither kind from fjall.
        match relaxed && !sequence.is_multiple_of(3) {
            true => transaction.commit_relaxed().await.expect("commit"),
            false => transaction.commit().await.expect("commit"),
        };
        acks.write_all(format!("{writer} {sequence}\n").as_bytes())
            .expect("ack");
        sequence += 1;
    }
}

fn content(writer: u8, sequence: u64) -> Vec<u8> {
    let seed = sequence.wrapping_mul(251).wrapping_add(u64::from(writer));
    let length = 300 + (seed % 200) as usize;
    seed.to_le_bytes()
        .into_iter()
        .cycle()
        .take(length)
        .collect()
}

/// Compares the store with the acknowledgements; how many there were.
async fn check(store: &EmbeddedStore, dir: &Path) -> u64 {
    let text = std::fs::read_to_string(dir.join("acks")).expect("acks");
    let mut acked = BTreeMap::new();
    for line in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let (writer, sequence) = line.trim().split_once(' ').expect("two numbers");
        let writer: u8 = writer.parse().expect("a writer");
        acked.insert(writer, sequence.parse::<u64>().expect("a sequence"));
    }
    let mut total = 0;
    for writer in 0..WRITERS {
        let prefix = [b'r', writer];
        let found = rows(store, KeyRange::prefix(&prefix)).await;
        for (sequence, (key, value)) in (0_u64..).zip(&found) {
            assert_eq!(key[2..], sequence.to_be_bytes(), "a row is missing");
            assert_eq!(*value, content(writer, sequence));
        }
        if let Some(last) = acked.get(&writer) {
            let count = found.len() as u64;
            // The one after the last was in flight.
            assert!(
                (last + 1..=last + 2).contains(&count),
                "{count} rows, {last} acked"
            );
        }
        let queued = rows(store, KeyRange::prefix(&[b'q', writer])).await;
        assert_eq!(queued.len(), usize::from(!found.is_empty()));
        check_versions(store, writer, found.len()).await;
        total += found.len();
    }
    assert_eq!(rows(store, KeyRange::prefix(b"i")).await.len(), total);
    let counter = rows(store, KeyRange::point(b"n")).await;
    assert_eq!(counter[0].1, (total as i64).to_le_bytes());
    text.lines().count() as u64
}

/// Versionstamps rise with the sequence, also over crashes.
async fn check_versions(store: &EmbeddedStore, writer: u8, count: usize) {
    let stamps = rows(store, KeyRange::prefix(&[b'v', b'r', writer])).await;
    assert_eq!(stamps.len(), count);
    let versions: Vec<_> = stamps
        .into_iter()
        .map(|(_, stamp)| CommitVersion(stamp.try_into().expect("ten bytes")))
        .collect();
    assert!(versions.is_sorted_by(|a, b| a < b));
}
