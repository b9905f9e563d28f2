//! What a store says and keeps when it is opened again.

use quickwater_controlplane::store::{
    CommitVersion, EngineKind, OpenError, Store, Transaction, UnknownEngine, open,
};

use crate::support::{SMALL, all};

const KINDS: [EngineKind; 2] = [EngineKind::Fjall, EngineKind::Redb];

#[tokio::test]
async fn rows_stay_and_versions_rise() {
    for kind in KINDS {
        let dir = tempfile::tempdir().expect("a directory");
        let mut last = CommitVersion([0; 10]);
        for round in 0..5_u8 {
            let store = open(kind, dir.path(), &SMALL).expect("open");
            let rows = all(&store).await;
            assert_eq!(rows.len(), usize::from(round) * 300, "{kind}");
            for row in 0..300_u16 {
                let mut transaction = store.begin();
                let key = [&[round][..], &row.to_be_bytes()].concat();
                transaction.set(&key, &[round; 400]);
                let version = transaction.commit().await.expect("commit");
                assert!(version > last, "{kind}: {version:?} after {last:?}");
                last = version;
            }
        }
    }
}

#[tokio::test]
async fn relaxed_commits_stay_when_the_store_is_closed() {
    for kind in KINDS {
        let dir = tempfile::tempdir().expect("a directory");
        for round in 0..3_u8 {
            let store = open(kind, dir.path(), &SMALL).expect("open");
            assert_eq!(all(&store).await.len(), usize::from(round) * 100, "{kind}");
            for row in 0..100_u8 {
                let mut transaction = store.begin();
                transaction.set(&[round, row], &[round; 400]);
                transaction.commit_relaxed().await.expect("commit");
            }
        }
    }
}

#[tokio::test]
async fn a_store_is_opened_once_at_a_time() {
    for kind in KINDS {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(kind, dir.path(), &SMALL).expect("open");
        let error = open(kind, dir.path(), &SMALL).expect_err("in use");
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        drop(store);
        open(kind, dir.path(), &SMALL).expect("free again");
    }
}

#[tokio::test]
async fn another_engine_is_refused() {
    for (kind, other) in [(KINDS[0], KINDS[1]), (KINDS[1], KINDS[0])] {
        let dir = tempfile::tempdir().expect("a directory");
        drop(open(kind, dir.path(), &SMALL).expect("open"));
        let error = open(other, dir.path(), &SMALL).expect_err("another engine");
        let OpenError::Format {
            found, expected, ..
        } = error
        else {
            panic!("{error}");
        };
        assert!(found.ends_with(kind.name()) && expected.ends_with(other.name()));
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    for kind in KINDS {
        let dir = tempfile::tempdir().expect("a directory");
        drop(open(kind, dir.path(), &SMALL).expect("open"));
        let data = dir.path().join("data");
        let file = if data.is_dir() {
            data.join("version")
        } else {
            data
        };
        std::fs::write(file, [0x5a; 10_000]).expect("write");
        let error = open(kind, dir.path(), &SMALL).expect_err("garbage");
        assert!(matches!(error, OpenError::Engine { .. }), "{error}");
    }
}

#[test]
fn engines_have_names() {
    for kind in KINDS {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let unknown: Result<EngineKind, UnknownEngine> = "rocksdb".parse();
    assert!(unknown.is_err());
    assert_eq!(EngineKind::default(), EngineKind::Fjall);
}
