//! Two workers over one directory: what one of them asks for too late changes nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::io::{Ufs, UfsUpload};
use quickwater_proto::{Bucket, NodeId, ObjectHeaders, UfsErrorKind, UploadId};
use tempfile::TempDir;

use super::fake::{Fake, Script};
use super::support::{
    among_others, block_on, bucket, client, composite_etag, content, digests, get, impatient, key,
    put, put_part, upload_record,
};
use crate::{Standing, UfsClient, UfsConfig};

const LARGE: usize = 3 << 20;

fn noon() -> Duration {
    Duration::from_secs(12 * 3600)
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A worker in its first session, with a lease.
fn worker(name: &str) -> (UfsClient, Arc<Standing>) {
    let standing = Standing::new(node(name), noon);
    standing.opened(1, true);
    standing.granted(noon() + Duration::from_secs(1));
    let ufs = among_others(UfsConfig::default(), Arc::clone(&standing));
    (ufs, standing)
}

fn directory() -> (TempDir, Bucket) {
    let home = tempfile::tempdir().unwrap();
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    (home, bucket)
}

fn folders(home: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(home.path().join(".quickwater/tmp")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
        .into_iter()
        .map(|n| n.into_string().unwrap())
        .collect()
}

/// As if it were frozen between its last look at the lease and the rename: it believes
/// in its session until the end.
#[test]
fn a_rename_of_a_session_that_is_over_comes_to_nothing() {
    let (home, bucket) = directory();
    let ((first, _), (second, standing)) = (worker("n1"), worker("n2"));
    let old = content(LARGE, 1);
    block_on(async {
        put(&first, &bucket, "small", b"before").await.unwrap();
        let headers = ObjectHeaders::default();
        let size = old.len() as u64;
        let mut late = first.put(&bucket, &key("k"), &headers, size).await.unwrap();
        for piece in old.chunks(1 << 20) {
            late.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        standing.heard([(node("n1"), 1)]);
        put(&second, &bucket, "k", b"new").await.unwrap();
        let refused = late.finish(&digests(&old)).await.unwrap_err();
        assert!(
            matches!(
                refused.kind,
                UfsErrorKind::Throttled | UfsErrorKind::Unavailable
            ),
            "{refused}"
        );
        assert_eq!(get(&first, &bucket, "k").await.unwrap(), b"new");
        assert_eq!(get(&first, &bucket, "small").await.unwrap(), b"before");
    });
    let left = folders(&home);
    assert!(
        left.iter().all(|name| name.starts_with("n2.1.")),
        "{left:?}"
    );
}

#[test]
fn a_worker_that_was_taken_for_over_writes_again_in_its_next_session() {
    let (home, bucket) = directory();
    let ((first, ousted), (second, standing)) = (worker("n1"), worker("n2"));
    block_on(async {
        put(&first, &bucket, "a", b"1").await.unwrap();
        standing.heard([(node("n1"), 1)]);
        put(&second, &bucket, "b", b"2").await.unwrap();
        let refused = put(&first, &bucket, "b", b"old").await.unwrap_err();
        assert_eq!(refused.kind, UfsErrorKind::Throttled, "{refused}");
        let refused = first.delete(&bucket, &key("b")).await.unwrap_err();
        assert_eq!(refused.kind, UfsErrorKind::Throttled, "{refused}");
        assert!(ousted.is_ousted(), "it is to ask for another session");
        assert_eq!(get(&first, &bucket, "b").await.unwrap(), b"2");
        ousted.opened(2, true);
        put(&first, &bucket, "b", b"3").await.unwrap();
        assert_eq!(get(&second, &bucket, "b").await.unwrap(), b"3");
        first.delete(&bucket, &key("b")).await.unwrap();
        put(&second, &bucket, "a", b"4").await.unwrap();
    });
    let left = folders(&home);
    let of = |start: &str| left.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!(
        (of("n1.2."), of("n2.1."), left.len()),
        (1, 1, 2),
        "{left:?}"
    );
}

/// A change that began before a time without a lease is not made after it, even if the
/// worker has a lease and the slot again.
#[test]
fn nothing_of_before_a_lapse_is_published() {
    let (_home, bucket) = directory();
    let (ufs, standing) = worker("n1");
    let old = content(LARGE, 1);
    block_on(async {
        let headers = ObjectHeaders::default();
        let mut put_small = ufs.put(&bucket, &key("s"), &headers, 3).await.unwrap();
        let size = old.len() as u64;
        let mut put_large = ufs.put(&bucket, &key("l"), &headers, size).await.unwrap();
        put_small.send(Bytes::from_static(b"old")).await.unwrap();
        for piece in old.chunks(1 << 20) {
            put_large.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        standing.opened(2, true);
        for (upload, body) in [(put_small, &b"old"[..]), (put_large, &old[..])] {
            let refused = upload.finish(&digests(body)).await.unwrap_err();
            assert_eq!(refused.kind, UfsErrorKind::Throttled, "{refused}");
        }
        for name in ["s", "l"] {
            let missing = ufs.head(&bucket, &key(name)).await.unwrap_err();
            assert_eq!(missing.kind, UfsErrorKind::NotFound);
        }
        put(&ufs, &bucket, "s", b"new").await.unwrap();
    });
}

/// What was being written when a session went on without a break is not lost.
#[test]
fn a_session_without_a_lapse_takes_its_writes_along() {
    let (_home, bucket) = directory();
    let ((ufs, standing), (other, others)) = (worker("n1"), worker("n2"));
    let body = content(LARGE, 1);
    block_on(async {
        let headers = ObjectHeaders::default();
        let size = body.len() as u64;
        let mut late = ufs.put(&bucket, &key("k"), &headers, size).await.unwrap();
        for piece in body.chunks(1 << 20) {
            late.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        standing.opened(2, false);
        others.heard([(node("n1"), 0), (node("n3"), 9)]);
        put(&other, &bucket, "other", b"x").await.unwrap();
        late.finish(&digests(&body)).await.unwrap();
        assert_eq!(get(&other, &bucket, "k").await.unwrap(), body);
    });
}

#[test]
fn parts_and_completes_of_a_session_that_is_over_come_to_nothing() {
    let (_home, bucket) = directory();
    let ((first, _), (second, standing)) = (worker("n1"), worker("n2"));
    block_on(async {
        let headers = ObjectHeaders::default();
        let id = UploadId(7);
        let name = first.create_upload(&bucket, &key("k"), &headers, id).await;
        let upload = upload_record("k", name.unwrap(), headers);
        let part = put_part(&first, &bucket, &upload, 1, b"part")
            .await
            .unwrap();
        let mut late = first.put_part(&bucket, &upload, 1, 3).await.unwrap();
        late.send(Bytes::from_static(b"old")).await.unwrap();
        standing.heard([(node("n1"), 1)]);
        put(&second, &bucket, "k", b"new").await.unwrap();
        assert!(late.finish(&digests(b"old")).await.is_err());
        let parts = [part];
        let etag = composite_etag(&parts);
        let complete = first.complete_upload(&bucket, &upload, &parts, &etag, &[]);
        assert!(complete.await.is_err());
        assert_eq!(get(&second, &bucket, "k").await.unwrap(), b"new");
        let complete = second.complete_upload(&bucket, &upload, &parts, &etag, &[]);
        complete.await.unwrap();
        assert_eq!(get(&second, &bucket, "k").await.unwrap(), b"part");
    });
}

#[test]
fn among_others_all_is_removed_that_is_there_and_nothing_else() {
    let (home, bucket) = directory();
    let (ufs, _standing) = worker("n1");
    block_on(async {
        for name in ["a", "d/e/f", "d//", "g"] {
            put(&ufs, &bucket, name, name.as_bytes()).await.unwrap();
        }
        // Moved aside, because its path became a directory.
        put(&ufs, &bucket, "a/b", b"below").await.unwrap();
        for name in ["a", "d/e/f", "d//", "missing", "d"] {
            ufs.delete(&bucket, &key(name)).await.unwrap();
            let missing = ufs.head(&bucket, &key(name)).await.unwrap_err();
            assert_eq!(missing.kind, UfsErrorKind::NotFound, "{name}");
        }
        assert_eq!(get(&ufs, &bucket, "a/b").await.unwrap(), b"below");
        assert_eq!(get(&ufs, &bucket, "g").await.unwrap(), b"g");
    });
    assert!(!home.path().join("d").exists(), "no empty directories");
    let folder = folders(&home).remove(0);
    let staged = std::fs::read_dir(home.path().join(".quickwater/tmp").join(folder));
    assert_eq!(staged.unwrap().count(), 1, "only the lock");
}

/// Locks are not seen by other hosts on every file system: they say nothing of workers.
#[test]
fn the_folder_of_a_worker_outlives_its_lock() {
    let (home, bucket) = directory();
    let folder = home.path().join(".quickwater/tmp/n9.4.00ff");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("lock"), "").unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(48 * 3600);
    let opened = std::fs::File::open(&folder).unwrap();
    opened.set_modified(long_ago).unwrap();
    let (ufs, standing) = worker("n1");
    block_on(put(&ufs, &bucket, "a", b"1")).unwrap();
    assert!(folder.exists(), "its session may go on");
    standing.heard([(node("n9"), 4)]);
    block_on(put(&ufs, &bucket, "a", b"2")).unwrap();
    assert!(!folder.exists());
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("lock"), "").unwrap();
    let opened = std::fs::File::open(&folder).unwrap();
    opened.set_modified(long_ago).unwrap();
    block_on(put(&client(UfsConfig::default()), &bucket, "a", b"3")).unwrap();
    assert!(!folder.exists(), "who is alone goes by the lock");
}

/// A store has no such fence: what is not sent yet is not sent.
#[test]
fn nothing_is_sent_to_a_store_without_the_lease_it_began_with() {
    let fake = Fake::start(Script::Close);
    let store = bucket(
        "s3://bkt/pre",
        &[("endpoint", &fake.endpoint), ("credentials", "anonymous")],
    );
    let standing = Standing::new(node("n1"), noon);
    standing.opened(1, true);
    let ufs = among_others(impatient(), Arc::clone(&standing));
    let body = content(LARGE, 1);
    block_on(async {
        let without = ufs.delete(&store, &key("k")).await.unwrap_err();
        assert_eq!(without.kind, UfsErrorKind::Throttled, "no lease: {without}");
        let without = put(&ufs, &store, "k", b"x").await.unwrap_err();
        assert_eq!(without.kind, UfsErrorKind::Throttled, "no lease: {without}");
        let upload = upload_record("k", "md5:id".into(), ObjectHeaders::default());
        let etag = digests(b"x").md5;
        let etag = quickwater_proto::ETag::from_md5(&etag);
        let complete = ufs.complete_upload(&store, &upload, &[], &etag, &[]);
        let without = complete.await.unwrap_err();
        assert_eq!(without.kind, UfsErrorKind::Throttled, "no lease: {without}");
        assert_eq!(fake.requests(), 0);
        standing.granted(noon() + Duration::from_secs(1));
        let headers = ObjectHeaders::default();
        let size = body.len() as u64;
        let mut late = ufs.put(&store, &key("k"), &headers, size).await.unwrap();
        for piece in body.chunks(1 << 20) {
            late.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        standing.opened(2, true);
        assert!(late.finish(&digests(&body)).await.is_err());
        assert_eq!(fake.complete_bodies(), 0, "its last piece was kept back");
    });
}
