//! Marks of directories: kept identities, other directories, those that cannot be
//! marked, and an identity that cannot be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quickwater_engine::io::Ufs;
use quickwater_proto::{BucketId, UfsErrorKind};

use super::support::{block_on, bucket, client_with, get, key, names, put};
use crate::identities::{Identities, Remembered};

const MARK: &str = ".quickwater/identity";

/// A memory that outlives clients, and fails when told to.
#[derive(Debug, Default)]
struct Kept {
    inner: Remembered,
    broken: AtomicBool,
}

impl Kept {
    fn check(&self) -> Result<(), String> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err("the metadata are away".into()),
            false => Ok(()),
        }
    }
}

impl Identities for Kept {
    fn identity(&self, bucket: BucketId) -> Result<Option<String>, String> {
        self.check()?;
        self.inner.identity(bucket)
    }

    fn keep(&self, bucket: BucketId, identity: Option<&str>) -> Result<(), String> {
        self.check()?;
        self.inner.keep(bucket, identity)
    }
}

#[test]
fn a_directory_is_known_again_and_another_one_is_not() {
    let home = tempfile::tempdir().unwrap();
    let (path, away) = (home.path().join("mnt"), home.path().join("away"));
    std::fs::create_dir(&path).unwrap();
    let bucket = bucket(&format!("file://{}", path.display()), &[]);
    let kept = Arc::new(Kept::default());
    block_on(async {
        let first = client_with(kept.clone());
        assert_eq!(names(&first, &bucket, "", "", true).await, [""; 0]);
        assert_eq!(kept.identity(bucket.id), Ok(None), "reading marks nothing");
        put(&first, &bucket, "k", b"v").await.unwrap();
        let identity = kept.identity(bucket.id).unwrap().unwrap();
        let mark = std::fs::read_to_string(path.join(MARK)).unwrap();
        assert!(mark.contains(&identity));
        drop(first);

        // As after a start before the file system is mounted.
        std::fs::rename(&path, &away).unwrap();
        std::fs::create_dir(&path).unwrap();
        let second = client_with(kept.clone());
        for _ in 0..2 {
            let errors = [
                put(&second, &bucket, "new", b"v").await.err(),
                get(&second, &bucket, "k").await.err(),
                second.delete(&bucket, &key("k")).await.err(),
                second.remove_location(&bucket).await.err(),
                second.look(&bucket).await.err(),
            ];
            for error in errors {
                assert_eq!(error.unwrap().kind, UfsErrorKind::Unavailable);
            }
        }
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "left alone");
        let trouble = second.trouble(&bucket).unwrap();
        assert!(trouble.contains("mount accept test-bucket"), "{trouble}");
        assert_eq!(second.misplaced(), [bucket.id]);

        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&away, &path).unwrap();
        assert_eq!(get(&second, &bucket, "k").await.unwrap(), b"v");
        assert_eq!(
            (second.trouble(&bucket), second.misplaced()),
            (None, vec![])
        );

        // The mark of another directory, and one that cannot be read.
        for (text, says) in [
            (mark.replace(&identity, &"0".repeat(32)), "another"),
            ("?".into(), "cannot be read"),
        ] {
            std::fs::write(path.join(MARK), text).unwrap();
            let next = client_with(kept.clone());
            assert!(get(&next, &bucket, "k").await.is_err());
            assert!(next.trouble(&bucket).unwrap().contains(says));
        }
        let next = client_with(kept.clone());
        next.accept(&bucket).await.unwrap();
        assert_eq!(get(&next, &bucket, "k").await.unwrap(), b"v");
        let accepted = kept.identity(bucket.id).unwrap().unwrap();
        assert_ne!(accepted, identity);
        let mark = std::fs::read_to_string(path.join(MARK)).unwrap();
        assert!(mark.contains(&accepted), "the damaged one was replaced");
    });
}

#[test]
fn the_mark_of_others_is_taken_over() {
    let home = tempfile::tempdir().unwrap();
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    let (one, two) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
    block_on(async {
        put(&client_with(one.clone()), &bucket, "k", b"v")
            .await
            .unwrap();
        // By reading already: from then on it is protected.
        get(&client_with(two.clone()), &bucket, "k").await.unwrap();
        assert_eq!(one.identity(bucket.id), two.identity(bucket.id));
        std::fs::remove_file(home.path().join(MARK)).unwrap();
        let error = get(&client_with(two), &bucket, "k").await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Unavailable);
    });
}

#[test]
fn nothing_is_written_while_the_identity_cannot_be_kept() {
    let home = tempfile::tempdir().unwrap();
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    let kept = Arc::new(Kept::default());
    block_on(async {
        let ufs = client_with(kept.clone());
        assert_eq!(names(&ufs, &bucket, "", "", true).await, [""; 0]);
        kept.broken.store(true, Ordering::Relaxed);
        let error = put(&ufs, &bucket, "k", b"v").await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Unavailable);
        assert!(!home.path().join("k").exists());
        kept.broken.store(false, Ordering::Relaxed);
        put(&ufs, &bucket, "k", b"v").await.unwrap();
        assert!(kept.identity(bucket.id).unwrap().is_some());
    });
}

#[test]
fn emptied_while_open_it_is_marked_again() {
    let home = tempfile::tempdir().unwrap();
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    let kept = Arc::new(Kept::default());
    block_on(async {
        let ufs = client_with(kept.clone());
        put(&ufs, &bucket, "k", b"v").await.unwrap();
        let mark = std::fs::read(home.path().join(MARK)).unwrap();
        std::fs::remove_dir_all(home.path().join(".quickwater")).unwrap();
        put(&ufs, &bucket, "k", b"w").await.unwrap();
        assert_eq!(std::fs::read(home.path().join(MARK)).unwrap(), mark);
        assert_eq!(get(&client_with(kept), &bucket, "k").await.unwrap(), b"w");
    });
}
