//! A directory that is full, read-only, without attributes, or busy.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use quickwater_engine::io::{Ufs, UfsUpload};
use quickwater_proto::{ObjectHeaders, UfsErrorKind};
use tempfile::TempDir;

use super::support::{block_on, bucket, client, content, get, key, names, put};
use crate::UfsConfig;

/// A mounted file system, unmounted when dropped.
struct Mounted(TempDir);

impl Mounted {
    /// `None` (said loudly) when this process may not mount.
    fn new(kind: &str, options: &str) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", kind, "-o", options, "none"])
            .arg(home.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(home)),
            other => {
                eprintln!("SKIPPED: cannot mount {kind}: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.path())
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_file_system_says_so_and_recovers() {
    let Some(home) = Mounted::new("tmpfs", "size=4m") else {
        return;
    };
    let ufs = client(UfsConfig::default());
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    block_on(async {
        put(&ufs, &bucket, "kept", &content(1 << 20, 1))
            .await
            .unwrap();
        let error = put(&ufs, &bucket, "large", &content(8 << 20, 2))
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NoSpace, "{error}");
        put(&ufs, &bucket, "b", &content(1 << 20, 3)).await.unwrap();
        put(&ufs, &bucket, "c", &content(1 << 20, 3)).await.unwrap();
        put(&ufs, &bucket, "d", &content(900 << 10, 3))
            .await
            .unwrap();
        let error = put(&ufs, &bucket, "kept", &content((1 << 20) - 1, 4))
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NoSpace, "{error}");
        assert_eq!(
            get(&ufs, &bucket, "kept").await.unwrap(),
            content(1 << 20, 1),
            "untouched"
        );
        ufs.delete(&bucket, &key("b")).await.unwrap();
        put(&ufs, &bucket, "kept", &content((1 << 20) - 1, 4))
            .await
            .unwrap();
        assert_eq!(names(&ufs, &bucket, "", "", true).await, ["c", "d", "kept"]);
    });
}

#[test]
fn a_read_only_file_system_is_read_and_refuses_writes() {
    let Some(home) = Mounted::new("tmpfs", "size=4m") else {
        return;
    };
    std::fs::write(home.path().join("a"), "old").unwrap();
    home.remount("ro");
    let ufs = client(UfsConfig::default());
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    block_on(async {
        assert_eq!(get(&ufs, &bucket, "a").await.unwrap(), b"old");
        assert_eq!(names(&ufs, &bucket, "", "", true).await, ["a"]);
        for name in ["a", "new/x"] {
            let error = put(&ufs, &bucket, name, b"new").await.unwrap_err();
            assert_eq!(error.kind, UfsErrorKind::AccessDenied, "{error}");
        }
        let error = ufs.delete(&bucket, &key("a")).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::AccessDenied);
        let report = ufs.check(&bucket, true).await.unwrap();
        assert_eq!(report.writable, Some(false));
        home.remount("rw");
        put(&ufs, &bucket, "a", b"new").await.unwrap();
    });
}

#[test]
fn a_file_system_without_attributes_is_fine() {
    let Some(home) = Mounted::new("ramfs", "mode=755") else {
        return;
    };
    let ufs = client(UfsConfig::default());
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    block_on(async {
        let made = put(&ufs, &bucket, "a", b"data").await.unwrap();
        assert!(made.etag.as_md5().is_some());
        let seen = ufs.head(&bucket, &key("a")).await.unwrap();
        assert_eq!(seen.identity, made.identity);
        if ufs.stats().dropped_attributes.load(Ordering::Relaxed) == 0 {
            eprintln!("SKIPPED: ramfs keeps attributes here");
            return;
        }
        assert!(seen.etag.as_str().ends_with("-1"));
        let report = ufs.check(&bucket, true).await.unwrap();
        assert_eq!((report.writable, report.remarks.len()), (Some(true), 1));
    });
}

#[test]
fn headers_too_large_for_attributes_do_not_fail_the_write() {
    let home = tempfile::tempdir().unwrap();
    let ufs = client(UfsConfig::default());
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    let headers = ObjectHeaders {
        content_disposition: Some("x".repeat(200_000)),
        ..ObjectHeaders::default()
    };
    block_on(async {
        let mut upload = ufs.put(&bucket, &key("a"), &headers, 1).await.unwrap();
        upload.send(Bytes::from_static(b"x")).await.unwrap();
        let made = upload.finish(&super::support::digests(b"x")).await.unwrap();
        let seen = ufs.head(&bucket, &key("a")).await.unwrap();
        assert_eq!(seen.etag, made.etag, "the ETag fits");
        assert_eq!(seen.headers, ObjectHeaders::default());
    });
}

#[test]
fn writers_and_deleters_of_one_directory_do_not_disturb_each_other() {
    let home = tempfile::tempdir().unwrap();
    let ufs = client(UfsConfig::default());
    let bucket = Arc::new(bucket(&format!("file://{}", home.path().display()), &[]));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ufs, bucket) = (ufs.clone(), Arc::clone(&bucket));
            scope.spawn(move || {
                block_on(async {
                    for round in 0..40 {
                        // All in one directory that comes and goes, and a file
                        // whose path is that directory.
                        for name in [format!("d/e/{thread}"), format!("d/e/{thread}/f")] {
                            let data = format!("{thread} {round}");
                            put(&ufs, &bucket, &name, data.as_bytes()).await.unwrap();
                            assert_eq!(
                                get(&ufs, &bucket, &name).await.unwrap(),
                                data.as_bytes(),
                                "{name}"
                            );
                        }
                        put(&ufs, &bucket, "d/e", b"shared").await.unwrap();
                        for name in [format!("d/e/{thread}"), format!("d/e/{thread}/f")] {
                            ufs.delete(&bucket, &key(&name)).await.unwrap();
                            let error = get(&ufs, &bucket, &name).await.unwrap_err();
                            assert_eq!(error.kind, UfsErrorKind::NotFound, "{name}");
                        }
                        let shared = loop {
                            match get(&ufs, &bucket, "d/e").await {
                                // Between the look and the read another wrote it.
                                Err(error) if error.kind == UfsErrorKind::Changed => {}
                                found => break found.unwrap(),
                            }
                        };
                        assert_eq!(shared, b"shared");
                    }
                });
            });
        }
    });
    block_on(async {
        assert_eq!(names(&ufs, &bucket, "", "", true).await, ["d/e"]);
        ufs.delete(&bucket, &key("d/e")).await.unwrap();
    });
    assert!(!home.path().join("d").exists());
}

#[test]
fn an_object_that_is_moved_aside_while_it_is_written_is_not_lost() {
    let home = tempfile::tempdir().unwrap();
    let ufs = client(UfsConfig::default());
    let bucket = Arc::new(bucket(&format!("file://{}", home.path().display()), &[]));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for child in ["a/b", "a/c/d"] {
            let (ufs, bucket, done) = (ufs.clone(), Arc::clone(&bucket), &done);
            scope.spawn(move || {
                block_on(async {
                    while !done.load(Ordering::Relaxed) {
                        put(&ufs, &bucket, child, b"child").await.unwrap();
                        ufs.delete(&bucket, &key(child)).await.unwrap();
                    }
                });
            });
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            block_on(async {
                for round in 0..400 {
                    let data = format!("round {round}");
                    put(&ufs, &bucket, "a", data.as_bytes()).await.unwrap();
                    let found = get(&ufs, &bucket, "a").await;
                    assert_eq!(found.unwrap(), data.as_bytes());
                }
            });
        }));
        done.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
}
