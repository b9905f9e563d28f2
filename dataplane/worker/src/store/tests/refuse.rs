//! Directories the store must not touch, and settings that make no sense.

use super::*;
use crate::store::OpenError;

fn open(config: StoreConfig) -> OpenError {
    match Store::open(config) {
        Ok(_) => panic!("the store opened"),
        Err(error) => error,
    }
}

#[test]
fn a_store_in_use_is_refused_with_the_pid() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(config(dir.path())).unwrap();
    let error = open(config(dir.path()));
    let pid = std::process::id().to_string();
    assert!(
        matches!(&error, OpenError::InUse { pid: p, .. } if *p == pid),
        "{error}"
    );
    drop(first);
    assert!(Store::open(config(dir.path())).is_ok());
}

#[test]
fn another_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(config(dir.path())).unwrap());
    let path = dir.path().join("store/FORMAT");
    let text = std::fs::read_to_string(&path).unwrap();
    let other = text.replace("quickwater-store 1", "quickwater-store 2");
    std::fs::write(&path, &other).unwrap();
    let error = open(config(dir.path()));
    assert!(matches!(&error, OpenError::OtherVersion { found, .. } if found == "2"));
    assert!(error.to_string().contains("format 2"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
}

#[test]
fn another_segment_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(config(dir.path())).unwrap());
    let error = open(StoreConfig {
        segment_bytes: Some(2 * SEGMENT),
        ..config(dir.path())
    });
    assert!(
        matches!(error, OpenError::OtherSetting { found: SEGMENT, .. }),
        "{error}"
    );
    let unsaid = StoreConfig {
        segment_bytes: None,
        ..config(dir.path())
    };
    assert_eq!(Store::open(unsaid).unwrap().segment_bytes(), SEGMENT);
}

#[test]
fn segments_without_a_format_are_never_formatted_over() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(config(dir.path())).unwrap());
    std::fs::remove_file(dir.path().join("store/FORMAT")).unwrap();
    std::fs::create_dir_all(dir.path().join("store/shard-000")).unwrap();
    let error = open(config(dir.path()));
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
}

#[test]
fn a_format_that_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(config(dir.path())).unwrap());
    let path = dir.path().join("store/FORMAT");
    for text in [
        "",
        "hello",
        "quickwater-store 1\n",
        "quickwater-store 1\nsegment-bytes x\n",
    ] {
        std::fs::write(&path, text).unwrap();
        assert!(
            matches!(open(config(dir.path())), OpenError::NotAStore { .. }),
            "{text}"
        );
    }
}

#[test]
fn a_capacity_too_small_is_refused_with_the_least() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(StoreConfig::new(dir.path(), 3 * SEGMENT, 1));
    assert!(
        error.to_string().contains(&(4 * SEGMENT).to_string()),
        "{error}"
    );
    for bytes in [1, MIB, SEGMENT + 1, 8 << 30] {
        let error = open(StoreConfig {
            segment_bytes: Some(bytes),
            // A place for each: a process that another test forks meanwhile may hold the
            // lock of the last one a moment longer.
            ..config(&dir.path().join(bytes.to_string()))
        });
        assert!(matches!(error, OpenError::Invalid(_)), "{error}");
    }
}

#[test]
fn segment_sizes_follow_the_capacity() {
    let choose = |capacity, shards| StoreConfig::new("x", capacity, shards).choose_segment_bytes();
    assert_eq!(choose(64 * MIB, 1), 4 * MIB);
    assert_eq!(choose(4 << 30, 2), 64 * MIB);
    assert_eq!(choose(16 << 30, 2), 256 * MIB);
    assert_eq!(choose(1 << 40, 32), 1 << 30);
}

#[test]
fn secrets_are_private_and_differ() {
    use std::os::unix::fs::PermissionsExt;
    let texts = [(); 2].map(|()| {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(config(dir.path())).unwrap());
        let path = dir.path().join("store/FORMAT");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::read_to_string(path).unwrap()
    });
    assert_ne!(texts[0], texts[1]);
}
