//! The life of objects and uploads in a directory.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quickwater_engine::io::{Ufs, UfsReader, UfsUpload};
use quickwater_proto::{
    Bucket, Checksum, ChecksumAlgorithm, ChecksumKind, ETag, ObjectHeaders, UfsEntry, UfsErrorKind,
    UploadId,
};
use tempfile::TempDir;

use super::support::{
    block_on, bucket, client, composite_etag, content, digests, get, key, list, names, put,
    put_part, put_with, read, send_all, upload_record,
};
use crate::{UfsClient, UfsConfig, UfsOperation, UfsOutcome};

fn setup() -> (TempDir, UfsClient, Bucket) {
    let home = tempfile::tempdir().unwrap();
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    (home, client(UfsConfig::default()), bucket)
}

fn headers() -> ObjectHeaders {
    ObjectHeaders {
        content_type: Some("text/plain".into()),
        cache_control: Some("no-store".into()),
        user: vec![("owner".into(), "ü".into())],
        ..ObjectHeaders::default()
    }
}

/// Files in all staging folders but the locks.
fn staged(home: &Path) -> usize {
    let Ok(folders) = std::fs::read_dir(home.join(".quickwater/tmp")) else {
        return 0;
    };
    folders
        .flat_map(|f| std::fs::read_dir(f.unwrap().path()).unwrap())
        .filter(|f| f.as_ref().unwrap().file_name() != "lock")
        .count()
}

#[test]
fn sizes_ranges_headers_and_checksums() {
    let (home, ufs, bucket) = setup();
    block_on(async {
        for size in [0, 1, 10 << 10, 1 << 20, (1 << 20) + 1, (3 << 20) + 17] {
            let data = content(size, 3);
            let name = format!("size/{size}");
            let made = put_with(&ufs, &bucket, &name, &data, &headers())
                .await
                .unwrap();
            assert_eq!(made.etag, ETag::from_md5(&digests(&data).md5));
            let seen = ufs.head(&bucket, &key(&name)).await.unwrap();
            assert_eq!(seen, made, "HEAD shows what PUT answered");
            assert_eq!(seen.headers, headers());
            assert_eq!(std::fs::read(home.path().join(&name)).unwrap(), data);
            let size = size as u64;
            for range in [0..size, 0..size.min(1), size / 3..size / 2, size..size] {
                let wanted = &data[range.start as usize..range.end as usize];
                let found = read(&ufs, &bucket, &name, &seen.identity, range)
                    .await
                    .unwrap();
                assert_eq!(found, wanted);
            }
        }
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Crc32c,
            kind: ChecksumKind::FullObject,
            value: vec![1, 2, 3, 4],
        };
        let mut upload = ufs.put(&bucket, &key("sum"), &headers(), 1).await.unwrap();
        upload.send(Bytes::from_static(b"x")).await.unwrap();
        let mut sums = digests(b"x");
        sums.checksums.push(checksum.clone());
        upload.finish(&sums).await.unwrap();
        let seen = ufs.head(&bucket, &key("sum")).await.unwrap();
        assert_eq!(seen.checksums, [checksum]);
        for entry in list(&ufs, &bucket, "", "", true).await.unwrap() {
            let UfsEntry::Object {
                key: name,
                identity,
                etag,
            } = entry
            else {
                panic!()
            };
            let seen = ufs.head(&bucket, &key(&name)).await.unwrap();
            assert_eq!(
                (seen.identity, Some(seen.etag)),
                (identity, etag),
                "as HEAD"
            );
        }
    });
    assert_eq!(staged(home.path()), 0);
    let stats = ufs.stats();
    assert_eq!(stats.requests(UfsOperation::Put, UfsOutcome::Ok), 7);
    assert!(stats.read_bytes.load(Ordering::Relaxed) > 4 << 20);
    assert!(stats.written_bytes.load(Ordering::Relaxed) > 4 << 20);
}

#[test]
fn nothing_is_seen_of_writes_that_do_not_finish() {
    let (home, ufs, bucket) = setup();
    block_on(async {
        put(&ufs, &bucket, "a", b"old").await.unwrap();
        for size in [3u64, 3 << 20] {
            let begin = || async {
                let headers = ObjectHeaders::default();
                let mut upload = ufs.put(&bucket, &key("a"), &headers, size).await.unwrap();
                upload.send(Bytes::from_static(b"ne")).await.unwrap();
                upload
            };
            begin().await.abort().await;
            assert_eq!(staged(home.path()), 0, "an abort cleans up");
            drop(begin().await);
            let error = begin().await.finish(&digests(b"ne")).await.unwrap_err();
            assert_eq!(error.kind, UfsErrorKind::Invalid, "too short");
        }
        let mut upload = ufs.put(&bucket, &key("a"), &headers(), 1).await.unwrap();
        let error = async {
            upload.send(Bytes::from_static(b"longer")).await?;
            upload.finish(&digests(b"longer")).await
        };
        assert_eq!(
            error.await.unwrap_err().kind,
            UfsErrorKind::Invalid,
            "too long"
        );
        assert_eq!(get(&ufs, &bucket, "a").await.unwrap(), b"old");
    });
    for _ in 0..100 {
        if staged(home.path()) == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("a dropped write left its file");
}

#[test]
fn changes_made_by_others_are_noticed() {
    let (home, ufs, bucket) = setup();
    block_on(async {
        let data = content(3 << 20, 1);
        let made = put_with(&ufs, &bucket, "a", &data, &headers())
            .await
            .unwrap();
        let file = home.path().join("a");
        std::fs::write(&file, "other").unwrap();
        let error = read(&ufs, &bucket, "a", &made.identity, 0..10)
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Changed);
        let seen = ufs.head(&bucket, &key("a")).await.unwrap();
        assert_ne!(seen.identity, made.identity);
        assert!(seen.etag.as_str().ends_with("-1") && seen.etag.as_md5().is_none());
        assert_eq!(
            seen.headers,
            ObjectHeaders::default(),
            "they were of the old content"
        );

        let made = put(&ufs, &bucket, "b", &data).await.unwrap();
        let mut reader = ufs
            .read(&bucket, &key("b"), &made.identity, 0..3 << 20)
            .await
            .unwrap();
        reader.next().await.unwrap().unwrap();
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(home.path().join("b"))
            .unwrap();
        file.set_len(100).unwrap();
        let ended = loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a changed file must not end well"),
                Err(error) => break error,
            }
        };
        assert_eq!(ended.kind, UfsErrorKind::Changed);

        let made = put(&ufs, &bucket, "c", &data).await.unwrap();
        let mut reader = ufs
            .read(&bucket, &key("c"), &made.identity, 0..3 << 20)
            .await
            .unwrap();
        let mut all = reader.next().await.unwrap().unwrap().to_vec();
        put(&ufs, &bucket, "c", b"new").await.unwrap();
        while let Some(piece) = reader.next().await.unwrap() {
            all.extend_from_slice(&piece);
        }
        assert_eq!(all, data, "a replaced file is read to its end");
        std::fs::remove_file(home.path().join("c")).unwrap();
        let error = ufs.head(&bucket, &key("c")).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
    });
}

#[test]
fn multipart_uploads() {
    let (home, ufs, bucket) = setup();
    block_on(async {
        let id = UploadId(0xfeed);
        let name = ufs
            .create_upload(&bucket, &key("big"), &headers(), id)
            .await
            .unwrap();
        let upload = upload_record("big", name.clone(), headers());
        let data = [content(5 << 20, 1), content(2 << 20, 2), content(3, 3)];
        put_part(&ufs, &bucket, &upload, 2, b"replaced")
            .await
            .unwrap();
        let mut parts = Vec::new();
        for (number, data) in [1, 2, 7].into_iter().zip(&data) {
            parts.push(
                put_part(&ufs, &bucket, &upload, number, data)
                    .await
                    .unwrap(),
            );
        }
        assert_eq!(
            names(&ufs, &bucket, "", "", true).await,
            [""; 0],
            "parts are invisible"
        );
        let etag = composite_etag(&parts);
        let mut wrong = parts.clone();
        wrong[1].size += 1;
        let error = ufs
            .complete_upload(&bucket, &upload, &wrong, &etag, &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Invalid);
        wrong = parts.clone();
        wrong[0].etag = ETag::from_md5(&[0; 16]);
        let error = ufs
            .complete_upload(&bucket, &upload, &wrong, &etag, &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Invalid);
        let made = ufs
            .complete_upload(&bucket, &upload, &parts, &etag, &[])
            .await
            .unwrap();
        assert_eq!(ufs.head(&bucket, &key("big")).await.unwrap(), made);
        assert_eq!(
            (made.etag.clone(), made.headers.clone()),
            (etag.clone(), headers())
        );
        assert_eq!(get(&ufs, &bucket, "big").await.unwrap(), data.concat());
        assert!(!home.path().join(".quickwater/uploads").join(&name).exists());
        let again = ufs
            .complete_upload(&bucket, &upload, &parts, &etag, &[])
            .await
            .unwrap();
        assert_eq!(again, made, "a repeat answers the same");
        put(&ufs, &bucket, "big", b"newer").await.unwrap();
        let error = ufs
            .complete_upload(&bucket, &upload, &parts, &etag, &[])
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
        assert_eq!(
            get(&ufs, &bucket, "big").await.unwrap(),
            b"newer",
            "and reverts nothing"
        );

        let name = ufs
            .create_upload(&bucket, &key("x"), &headers(), UploadId(9))
            .await
            .unwrap();
        let upload = upload_record("x", name, headers());
        put_part(&ufs, &bucket, &upload, 1, b"x").await.unwrap();
        ufs.abort_upload(&bucket, &upload).await.unwrap();
        ufs.abort_upload(&bucket, &upload).await.unwrap();
        let error = put_part(&ufs, &bucket, &upload, 1, b"x").await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
        let strange = upload_record("x", "../../etc".into(), headers());
        let error = put_part(&ufs, &bucket, &strange, 1, b"x")
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
    });
}

#[test]
fn links_are_followed_inside_only() {
    let (home, ufs, bucket) = setup();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let root = home.path();
    std::fs::create_dir(root.join("dir")).unwrap();
    std::fs::write(root.join("dir/file"), "inside").unwrap();
    symlink("dir/file", root.join("to-file")).unwrap();
    symlink("dir", root.join("to-dir")).unwrap();
    symlink(".", root.join("dir/loop")).unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    symlink(outside.path().join("secret"), root.join("out-file")).unwrap();
    let up = format!(
        "../{}/secret",
        outside.path().file_name().unwrap().to_str().unwrap()
    );
    symlink(up, root.join("up")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    block_on(async {
        assert_eq!(get(&ufs, &bucket, "to-file").await.unwrap(), b"inside");
        assert_eq!(get(&ufs, &bucket, "to-dir/file").await.unwrap(), b"inside");
        for escape in ["out/secret", "out-file", "up"] {
            let error = get(&ufs, &bucket, escape).await.unwrap_err();
            assert_eq!(error.kind, UfsErrorKind::Unsupported, "{escape}");
        }
        let shown = names(&ufs, &bucket, "", "", true).await;
        assert_eq!(shown, ["dir/file", "to-dir/file", "to-file"]);
        assert!(put(&ufs, &bucket, "out/new", b"x").await.is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        put(&ufs, &bucket, "out-file", b"mine").await.unwrap();
        assert_eq!(
            std::fs::read(outside.path().join("secret")).unwrap(),
            b"secret"
        );
        ufs.delete(&bucket, &key("to-dir")).await.unwrap();
        assert!(
            root.join("to-dir").exists(),
            "a link to a directory is no object"
        );
    });
}

#[test]
fn names_that_are_no_keys_are_skipped() {
    use std::os::unix::ffi::OsStrExt;
    let (home, ufs, bucket) = setup();
    std::fs::write(home.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
    std::fs::write(home.path().join("good"), "x").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        home.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    block_on(async {
        assert_eq!(names(&ufs, &bucket, "", "", true).await, ["good"]);
        let error = get(&ufs, &bucket, "fifo").await.unwrap_err();
        assert_eq!(
            error.kind,
            UfsErrorKind::NotFound,
            "and nobody waits for its other end"
        );
    });
    assert_eq!(ufs.stats().skipped_names.load(Ordering::Relaxed), 2);
}

#[test]
fn locations_are_made_listed_checked_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let ufs = client(UfsConfig::default());
    let root = format!("file://{}", home.path().display());
    let bucket = bucket(&format!("{root}/deep/er"), &[]);
    block_on(async {
        let error = ufs.check(&bucket, false).await.unwrap_err();
        assert_eq!(
            error.kind,
            UfsErrorKind::Unavailable,
            "missing is not empty"
        );
        ufs.create_location(&bucket).await.unwrap();
        ufs.create_location(&bucket).await.unwrap();
        let report = ufs.check(&bucket, true).await.unwrap();
        assert_eq!(report.writable, Some(true));
        assert_eq!(ufs.check(&bucket, false).await.unwrap().writable, None);
        assert_eq!(names(&ufs, &bucket, "", "", true).await, [""; 0]);
        put(&ufs, &bucket, "a/b", b"x").await.unwrap();
        let error = ufs.remove_location(&bucket).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Invalid);
        ufs.delete(&bucket, &key("a/b")).await.unwrap();
        assert_eq!(ufs.list_locations(&root, &[]).await.unwrap(), ["deep"]);
        std::fs::create_dir(home.path().join("deep/er/empty")).unwrap();
        ufs.remove_location(&bucket).await.unwrap();
        assert!(!home.path().join("deep/er").exists());
        let error = ufs.remove_location(&bucket).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
        let error = list(&ufs, &bucket, "", "", true).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Unavailable);
        ufs.create_location(&bucket).await.unwrap();
        put(&ufs, &bucket, "again", b"x").await.unwrap();
        // Replaced behind our back: somebody has to say that this is meant.
        std::fs::rename(home.path().join("deep/er"), home.path().join("gone")).unwrap();
        std::fs::create_dir(home.path().join("deep/er")).unwrap();
        let error = list(&ufs, &bucket, "", "", true).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Unavailable);
        ufs.accept(&bucket).await.unwrap();
        assert_eq!(names(&ufs, &bucket, "", "", true).await, [""; 0]);
        put(&ufs, &bucket, "new", b"x").await.unwrap();
        assert_eq!(names(&ufs, &bucket, "", "", true).await, ["new"]);
    });
}

#[test]
fn staged_files_of_the_dead_are_removed_and_others_stay() {
    let (home, first, bucket) = setup();
    let second = client(UfsConfig::default());
    block_on(async {
        let headers = ObjectHeaders::default();
        let data = content(3 << 20, 4);
        let mut upload = first
            .put(&bucket, &key("slow"), &headers, 3 << 20)
            .await
            .unwrap();
        upload
            .send(Bytes::copy_from_slice(&data[..1 << 20]))
            .await
            .unwrap();
        upload
            .send(Bytes::copy_from_slice(&data[1 << 20..2 << 20]))
            .await
            .unwrap();
        let tmp = home.path().join(".quickwater/tmp");
        while staged(home.path()) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let dead = tmp.join("00dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("lock"), "").unwrap();
        std::fs::write(dead.join("0001"), "left").unwrap();
        let day = std::time::Duration::from_secs(24 * 3600);
        let old = std::time::SystemTime::now() - 2 * day;
        std::fs::File::open(&dead)
            .unwrap()
            .set_modified(old)
            .unwrap();
        let upload_folder = home.path().join(".quickwater/uploads");
        std::fs::create_dir_all(upload_folder.join(UploadId(1).to_string())).unwrap();
        let forgotten = upload_folder.join(UploadId(2).to_string());
        std::fs::create_dir_all(&forgotten).unwrap();
        std::fs::write(forgotten.join("00001"), "left").unwrap();
        std::fs::File::open(&forgotten)
            .unwrap()
            .set_modified(old - 40 * day)
            .unwrap();
        put(&second, &bucket, "other", b"x").await.unwrap();
        assert!(!dead.exists(), "its owner is dead");
        assert!(!forgotten.exists(), "nobody touched it for long");
        assert!(upload_folder.join(UploadId(1).to_string()).exists());
        assert!(staged(home.path()) > 0, "that owner lives");
        upload
            .send(Bytes::copy_from_slice(&data[2 << 20..]))
            .await
            .unwrap();
        upload.finish(&digests(&data)).await.unwrap();
        assert_eq!(get(&second, &bucket, "slow").await.unwrap(), data);
        let upload = first.put(&bucket, &key("last"), &headers, 1).await.unwrap();
        std::fs::remove_dir_all(&tmp).unwrap();
        send_all(upload, b"x").await.unwrap();
    });
}
