//! Checks that can be judged without the machine they run on.

use std::time::{Duration, SystemTime};

use super::*;

#[test]
fn kernel_releases_are_read() {
    assert_eq!(machine::version_of("6.18.0-generic"), Some((6, 18)));
    assert_eq!(machine::version_of("5.10.0+"), Some((5, 10)));
    assert_eq!(machine::version_of("odd"), None);
}

#[test]
fn an_unset_clock_fails() {
    let verdict = |seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        machine::clock(time).verdict
    };
    assert_eq!(verdict(0), Verdict::Fail);
    assert_eq!(verdict(1_800_000_000), Verdict::Ok);
    assert_eq!(verdict(5_000_000_000), Verdict::Fail);
}

fn settings(dir: &std::path::Path, capacity: &str) -> Settings {
    let mut values = crate::settings::Values::defaults();
    let flag = |name: &str, text: &str| {
        let key = crate::settings::keys::find(name).unwrap();
        let source = crate::settings::Source::Flag(key.flag.into());
        (key, vec![text.to_owned()], source)
    };
    let dir = dir.to_str().unwrap();
    values.lay(vec![
        flag("dir", dir),
        flag("store.capacity", capacity),
        flag("store.threads", "1"),
    ]);
    Settings::from_values(&values).unwrap()
}

#[test]
fn disk_checks_leave_nothing_behind() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let checks = disk::checks(&settings(dir.path(), "64MiB"));
    let names: Vec<&str> = checks.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["directory", "O_DIRECT", "flush", "space"]);
    assert!(checks.iter().all(|c| !c.found.is_empty()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_cache_larger_than_the_disk_fails_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let checks = disk::checks(&settings(dir.path(), "1000000TiB"));
    let space = checks.last().unwrap();
    assert_eq!(space.verdict, Verdict::Fail);
    assert!(space.advice.contains("store.capacity"));
}

#[test]
fn the_text_counts_verdicts_and_shows_advice() {
    let checks = [Check::ok("a", "fine"), Check::fail("b", "bad", "mend it")];
    let text = text(&checks);
    assert!(text.contains("-> mend it"));
    assert!(text.ends_with("1 ok, 0 warnings, 1 failures\n"));
}
