//! A measurement: pages of 1,001 rows out of one bucket of many objects. Absent:
//! HTTP, XML, the comparison with the UFS. Run it alone, in release, a process per
//! size, so that the memory is that of the size:
//! `LISTING_OBJECTS=1000000 cargo test --release -p quickwater-controlplane --test listing -- --ignored --nocapture`

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod objects;

use std::path::Path;
use std::time::{Duration, Instant};

use quickwater_controlplane::Namespace;
use quickwater_controlplane::store::{EmbeddedStore, EngineKind, EngineOptions, open};
use quickwater_proto::BucketId;

use objects::{fill, key};

/// What `serve` gives the engine out of its default memory, 1 GiB.
const OPTIONS: EngineOptions = EngineOptions {
    cache_bytes: 60 << 20,
    memtable_bytes: 12 << 20,
};
const BUCKET: BucketId = BucketId(7);
/// Rows of a LIST of 1,000 keys.
const PAGE_ROWS: usize = 1_001;
/// Rows read after a jump over a common prefix.
const FEW_ROWS: usize = 16;
const PAGES: usize = 2_000;
/// Pages of common prefixes of 1,000 keys each, and what is asked for in one.
const FOLDER_PAGES: usize = 50;
const FOLDERS: usize = 1_000;
const FOLDER_KEYS: u64 = 1_000;
/// Longest wait for flushes and compactions to end.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(60);

#[test]
#[ignore = "a measurement"]
fn pages_of_a_big_bucket() {
    let objects = std::env::var("LISTING_OBJECTS").unwrap_or_else(|_| "100000".into());
    let objects: u64 = objects.parse().unwrap();
    assert!(objects > PAGE_ROWS as u64);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(EngineKind::Fjall, dir.path(), &OPTIONS).unwrap();
    let opened = resident();
    let began = Instant::now();
    runtime.block_on(fill(&store, BUCKET, objects)).unwrap();
    let filled_in = began.elapsed();
    wait_until_quiet();
    let filled = resident();
    let namespace = Namespace::new(store);
    // Warms the block cache as far as it goes, and the code.
    runtime.block_on(measure(&namespace, objects, PAGE_ROWS, PAGES / 10));
    let pages = runtime.block_on(measure(&namespace, objects, PAGE_ROWS, PAGES));
    let seeks = runtime.block_on(measure(&namespace, objects, FEW_ROWS, PAGES));
    runtime.block_on(measure_folders(&namespace, objects, 2));
    let folders = runtime.block_on(measure_folders(&namespace, objects, FOLDER_PAGES));
    eprintln!(
        "{objects} objects, filled in {:.0} s, {} MB on the disk",
        filled_in.as_secs_f64(),
        bytes_below(dir.path()) / 1_000_000,
    );
    eprintln!("  {PAGE_ROWS} rows: {pages}");
    eprintln!("  {FEW_ROWS} rows: {seeks}");
    eprintln!("  up to {FOLDERS} folders of {FOLDER_KEYS} keys: {folders}");
    eprintln!(
        "  resident MB: {opened} opened, {filled} filled, {} listed, peak {}",
        resident(),
        status_mb("VmHWM:"),
    );
}

/// Pages that begin at random keys and are full.
async fn measure(
    namespace: &Namespace<EmbeddedStore>,
    objects: u64,
    rows: usize,
    pages: usize,
) -> Times {
    let mut random = 0x853c_49e6_748f_ea9b_u64;
    let mut times = Vec::with_capacity(pages);
    let cpu = thread_cpu();
    for _ in 0..pages {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let first = (random >> 16) % (objects - rows as u64 + 1);
        let from = key(first).unwrap();
        let start = Instant::now();
        let page = namespace
            .scan(BUCKET, "", from.as_str(), rows)
            .await
            .unwrap();
        times.push(start.elapsed());
        assert_eq!(page.entries.len(), rows);
        assert_eq!(page.entries[0].0, from);
        assert_eq!(
            page.entries[rows - 1].0,
            key(first + rows as u64 - 1).unwrap()
        );
    }
    let cpu = (thread_cpu() - cpu) / pages as u32;
    times.sort();
    Times { times, cpu }
}

/// Pages of common prefixes, from the first on.
async fn measure_folders(
    namespace: &Namespace<EmbeddedStore>,
    objects: u64,
    pages: usize,
) -> Times {
    let folders = FOLDERS.min((objects / FOLDER_KEYS) as usize);
    let mut times = Vec::with_capacity(pages);
    let cpu = thread_cpu();
    for _ in 0..pages {
        let start = Instant::now();
        let page = namespace.scan_folded(BUCKET, "train/", "", "/", folders);
        let page = page.await.unwrap();
        times.push(start.elapsed());
        assert_eq!(page.entries.len(), folders);
        let last = (folders as u64 - 1) * FOLDER_KEYS;
        assert_eq!(page.entries[folders - 1].0, key(last).unwrap());
    }
    let cpu = (thread_cpu() - cpu) / pages as u32;
    times.sort();
    Times { times, cpu }
}

/// How long pages took.
struct Times {
    /// Sorted.
    times: Vec<Duration>,
    /// Per page, with the checks of what was read.
    cpu: Duration,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at =
            |share: usize| self.times[(self.times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let cpu = self.cpu.as_secs_f64() * 1e3;
        write!(
            f,
            "p50 {:.3} ms, p99 {:.3} ms, CPU {cpu:.3} ms",
            at(50),
            at(99)
        )
    }
}

/// CPU time of this thread, which runs the scans.
fn thread_cpu() -> Duration {
    schedstat(Path::new("/proc/thread-self"))
}

/// Waits until the engine's threads have nothing to do for a second.
fn wait_until_quiet() {
    let all = || -> Duration {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks.map(|task| schedstat(&task.unwrap().path())).sum()
    };
    let began = Instant::now();
    while began.elapsed() < QUIET_WAIT_MAX {
        let before = all();
        std::thread::sleep(Duration::from_secs(1));
        if all() - before < Duration::from_millis(20) {
            return;
        }
    }
    eprintln!("not quiet after {QUIET_WAIT_MAX:?}: figures include compactions");
}

/// Time on a CPU so far: the first field, nanoseconds.
fn schedstat(task: &Path) -> Duration {
    let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Resident memory that is not of files, MB.
fn resident() -> u64 {
    status_mb("RssAnon:")
}

/// A line of `/proc/self/status`, there in KiB, as MB.
fn status_mb(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1_024 / 1_000_000
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            dir if dir.is_dir() => bytes_below(&entry.path()),
            file => file.len(),
        })
        .sum()
}
