//! Failing devices, full disks, callers that leave, buffers that run out.

use std::fs::{File, OpenOptions};
use std::rc::Rc;

use super::*;
use Durability::{Cached, Flushed};

/// Makes the shard use `file` for segment 0.
fn replace_file(shard: &ShardStore, file: File) {
    let file = Rc::new(monoio::fs::File::from_std(file).unwrap());
    shard.shard.files.borrow_mut().insert(0, file);
}

fn store_with_one_chunk(dir: &Path) {
    session(config(dir), async |_, shard| {
        put_len(&shard, chunk(1, 0), 100_000, Flushed).await;
    });
}

async fn suspect_after(store: &Store, shard: &ShardStore, durability: Durability) {
    let id = chunk(2, 0);
    let data = content(id, 10_000);
    let failed = put(shard, id, &data, durability).await;
    assert!(matches!(failed, Err(DiskError::Io(_))), "{failed:?}");
    assert!(store.stats().is_suspect() && !shard.contains(id));
    let refused = put(shard, id, &data, Cached).await;
    assert_eq!(refused, Err(DiskError::Suspect));
    assert!(count(&store.stats().io_errors) >= 1);
}

#[test]
fn a_failed_write_makes_the_store_suspect_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    store_with_one_chunk(dir.path());
    session(config(dir.path()), async |store, shard| {
        let path = &segment_files(dir.path())[0];
        // Opened for reading only: writes fail with EBADF.
        replace_file(&shard, File::open(path).unwrap());
        suspect_after(&store, &shard, Cached).await;
        assert!(has(&shard, chunk(1, 0), 100_000).await);
    });
}

#[test]
#[cfg(not(feature = "unsafe-no-flush"))]
fn a_failed_flush_makes_the_store_suspect() {
    let dir = tempfile::tempdir().unwrap();
    store_with_one_chunk(dir.path());
    session(config(dir.path()), async |store, shard| {
        // Takes every write and refuses to be flushed (EINVAL).
        let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
        replace_file(&shard, null);
        put_len(&shard, chunk(3, 0), 100, Cached).await;
        suspect_after(&store, &shard, Flushed).await;
    });
}

#[test]
fn a_failed_read_is_an_error_not_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    store_with_one_chunk(dir.path());
    session(config(dir.path()), async |store, shard| {
        let path = &segment_files(dir.path())[0];
        let blind = OpenOptions::new().write(true).open(path).unwrap();
        replace_file(&shard, blind);
        let failed = get(&shard, chunk(1, 0), 0..10).await;
        assert!(matches!(failed, Err(DiskError::Io(_))), "{failed:?}");
        assert!(!store.stats().is_suspect() && shard.contains(chunk(1, 0)));
        assert_eq!(count(&store.stats().io_errors), 1);
    });
}

#[test]
fn a_file_cut_short_is_a_damaged_record() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(1, 0), 100_000, Cached).await;
        let path = &segment_files(dir.path())[0];
        OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(8192)
            .unwrap();
        assert_eq!(get(&shard, chunk(1, 0), 0..100_000).await, Ok(None));
        assert_eq!(count(&store.stats().damaged_records), 1);
    });
}

#[test]
fn callers_may_leave_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |store, shard| {
        put_len(&shard, chunk(1, 0), 1 << 20, Cached).await;
        for index in 0..50 {
            let id = chunk(2, index);
            let write = put_len(&shard, id, 300_000, Flushed);
            assert!(leave(write).await);
            assert!(leave(get(&shard, chunk(1, 0), 0..1 << 20)).await);
        }
        assert!(shard.settle(LONG).await);
        monoio::time::sleep(Duration::from_millis(50)).await;
        let free = shard.pool().available();
        // The batch buffer stays with the shard.
        assert_eq!((free.large_free, free.waiting), (free.large_total - 1, 0));
        for index in 0..50 {
            has(&shard, chunk(2, index), 300_000).await;
        }
        assert_eq!(count(&store.stats().damaged_records), 0);
    });
}

/// Polls once and drops; `true` when it was not ready.
pub(super) async fn leave<T>(future: impl Future<Output = T>) -> bool {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let pending = future.as_mut().poll(context).is_pending();
        std::task::Poll::Ready(pending)
    })
    .await
}

#[test]
fn no_buffer_is_an_answer_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let hasty = StoreConfig {
        buffer_timeout: Duration::from_millis(20),
        ..config(dir.path())
    };
    session(hasty, async |_, shard| {
        put_len(&shard, chunk(1, 0), 1 << 20, Cached).await;
        let held: Vec<_> = std::iter::from_fn(|| shard.pool().try_acquire(1 << 20)).collect();
        assert_eq!(
            get(&shard, chunk(1, 0), 0..1 << 20).await,
            Err(DiskError::Overloaded)
        );
        assert!(matches!(
            shard.buffer(1 << 20).await,
            Err(DiskError::Overloaded)
        ));
        drop(held);
        assert!(has(&shard, chunk(1, 0), 1 << 20).await);
    });
}

#[test]
fn a_buffer_that_is_no_chunk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    session(config(dir.path()), async |_, shard| {
        let gone = crate::buffers::PoolBuf::detached();
        let (_, outcome) = shard.write(chunk(1, 0), gone, Cached).await;
        assert!(matches!(outcome, Err(DiskError::Io(_))));
        let mut long = shard.buffer(1 << 20).await.unwrap();
        long.set_range(0..(1 << 20) + 1);
        let (_, outcome) = shard.write(chunk(1, 0), long, Cached).await;
        assert!(matches!(outcome, Err(DiskError::Io(_))));
    });
}

/// A small file system of its own; unmounted on drop.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None`: not allowed to mount here.
    fn tmpfs(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path());
        let done = mount.status().is_ok_and(|status| status.success());
        done.then(|| Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
        assert!(gone.unwrap().success());
    }
}

#[test]
fn a_disk_smaller_than_the_capacity_is_full_not_broken() {
    // Room for five segments of sixteen.
    let Some(disk) = Mounted::tmpfs(5 * SEGMENT + MIB) else {
        eprintln!("SKIPPED: mounting is not allowed here");
        return;
    };
    session(config(disk.0.path()), async |store, shard| {
        // Evicts instead of growing.
        for index in 0..60 {
            put_len(&shard, chunk(1, index), 1 << 20, Cached).await;
        }
        assert!(has(&shard, chunk(1, 59), 1 << 20).await);
        assert!(!store.stats().is_suspect());
        // Pinned data leave nothing to evict.
        let mut stored = 0;
        let full = loop {
            let id = chunk(2, stored);
            match put(&shard, id, &content(id, 1 << 20), Flushed).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full, DiskError::Full);
        assert!(
            !store.stats().is_suspect() && (6..20).contains(&stored),
            "{stored}"
        );
        shard.forget(BlobId(2), stored);
        put_len(&shard, chunk(3, 0), 1 << 20, Flushed).await;
    });
}
