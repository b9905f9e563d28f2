//! Which transactions conflict and which do not.

use quickwater_controlplane::store::{CommitError, KeyRange, Rows, Scan, Store, Transaction};

use super::{get, keys, put, value};
use crate::support::{Fixture, all};

suite!(
    a_transaction_without_commit_changes_nothing,
    the_second_of_two_that_read_and_write_conflicts,
    snapshot_reads_do_not_conflict,
    blind_writes_do_not_conflict,
    readers_see_one_moment,
    a_row_that_appears_in_a_scan_conflicts,
    a_scan_conflicts_only_as_far_as_it_read,
    a_cleared_range_conflicts_with_its_readers,
    conflict_ranges_can_be_named,
    reading_only_never_conflicts,
    commits_are_counted,
);

async fn a_transaction_without_commit_changes_nothing(fixture: Fixture) {
    let mut transaction = fixture.store.begin();
    transaction.set(b"a", b"1");
    drop(transaction);
    let mut transaction = fixture.store.begin();
    transaction.set(b"b", b"1");
    drop(transaction.commit());
    assert_eq!(all(&fixture.store).await, vec![]);
}

async fn the_second_of_two_that_read_and_write_conflicts(fixture: Fixture) {
    put(&fixture, &[("a", "0")]).await;
    let mut first = fixture.store.begin();
    let mut second = fixture.store.begin();
    assert_eq!(get(&mut first, "a").await.as_deref(), Some("0"));
    assert_eq!(get(&mut second, "a").await.as_deref(), Some("0"));
    first.set(b"a", b"1");
    second.set(b"a", b"2");
    first.commit().await.expect("the first");
    assert_eq!(second.commit().await, Err(CommitError::Conflict));
    assert_eq!(value(&fixture, "a").await.as_deref(), Some(b"1".as_slice()));
    // The same for a row that was not there, and for a removal.
    let mut third = fixture.store.begin();
    assert_eq!(get(&mut third, "new").await, None);
    put(&fixture, &[("new", "1")]).await;
    third.set(b"other", b"1");
    assert_eq!(third.commit().await, Err(CommitError::Conflict));
    let mut fourth = fixture.store.begin();
    get(&mut fourth, "a").await;
    let mut remover = fixture.store.begin();
    remover.clear(b"a");
    remover.commit().await.expect("remove");
    fourth.set(b"other", b"1");
    assert_eq!(fourth.commit().await, Err(CommitError::Conflict));
}

async fn snapshot_reads_do_not_conflict(fixture: Fixture) {
    let mut transaction = fixture.store.begin();
    assert_eq!(transaction.get_snapshot(b"a").await, Ok(None));
    let scan = Scan::new(KeyRange::new("a", "z"), 10).snapshot();
    assert_eq!(transaction.scan(scan).await, Ok(Rows::default()));
    put(&fixture, &[("a", "1"), ("b", "1")]).await;
    transaction.set(b"a", b"2");
    transaction.commit().await.expect("no conflict");
}

async fn blind_writes_do_not_conflict(fixture: Fixture) {
    let mut first = fixture.store.begin();
    let mut second = fixture.store.begin();
    first.set(b"a", b"1");
    second.set(b"a", b"2");
    second.commit().await.expect("second");
    first.commit().await.expect("first");
    assert_eq!(value(&fixture, "a").await.as_deref(), Some(b"1".as_slice()));
}

async fn readers_see_one_moment(fixture: Fixture) {
    put(&fixture, &[("a", "old"), ("b", "old"), ("d", "old")]).await;
    let mut reader = fixture.store.begin();
    assert_eq!(get(&mut reader, "a").await.as_deref(), Some("old"));
    for round in 0..20 {
        put(
            &fixture,
            &[("a", "new"), ("b", "new"), ("c", &round.to_string())],
        )
        .await;
        let mut remover = fixture.store.begin();
        remover.clear(b"d");
        remover.commit().await.expect("remove");
    }
    assert_eq!(get(&mut reader, "b").await.as_deref(), Some("old"));
    assert_eq!(get(&mut reader, "c").await, None);
    let scan = Scan::new(KeyRange::prefix(b""), 10);
    assert_eq!(keys(&reader.scan(scan).await.expect("scan")), "a b d");
}

async fn a_row_that_appears_in_a_scan_conflicts(fixture: Fixture) {
    put(&fixture, &[("a", "1"), ("e", "1")]).await;
    for (key, conflicts) in [("c", true), ("z", false), ("e", false), ("d\u{7f}", true)] {
        let mut reader = fixture.store.begin();
        let scan = Scan::new(KeyRange::new("a", "e"), 10);
        reader.scan(scan).await.expect("scan");
        put(&fixture, &[(key, "2")]).await;
        reader.set(b"x", b"1");
        assert_eq!(reader.commit().await.is_err(), conflicts, "{key}");
    }
}

async fn a_scan_conflicts_only_as_far_as_it_read(fixture: Fixture) {
    put(&fixture, &[("a", "1"), ("c", "1"), ("e", "1"), ("g", "1")]).await;
    let cases = [
        (false, "b", true),
        (false, "c", true),
        (false, "d", false),
        (true, "f", true),
        (true, "e", true),
        (true, "d", false),
    ];
    for (reverse, key, conflicts) in cases {
        let mut reader = fixture.store.begin();
        let mut scan = Scan::new(KeyRange::new("a", "z"), 2);
        scan.reverse = reverse;
        let page = reader.scan(scan).await.expect("scan");
        assert!(page.more);
        let mut writer = fixture.store.begin();
        writer.add_write_conflict(KeyRange::point(key.as_bytes()));
        writer.commit().await.expect("touch");
        reader.set(b"x", b"1");
        let refused = reader.commit().await.is_err();
        assert_eq!(refused, conflicts, "{key}, reverse {reverse}");
        let mut cleaner = fixture.store.begin();
        cleaner.clear(b"x");
        cleaner.commit().await.expect("clean");
    }
}

async fn a_cleared_range_conflicts_with_its_readers(fixture: Fixture) {
    put(&fixture, &[("b", "1")]).await;
    for (key, conflicts) in [("b", true), ("c", true), ("a", false), ("d", false)] {
        let mut reader = fixture.store.begin();
        get(&mut reader, key).await;
        let mut writer = fixture.store.begin();
        writer.clear_range(KeyRange::new("b", "d"));
        writer.commit().await.expect("clear");
        reader.set(b"x", b"1");
        assert_eq!(reader.commit().await.is_err(), conflicts, "{key}");
    }
    assert_eq!(value(&fixture, "b").await, None);
}

async fn conflict_ranges_can_be_named(fixture: Fixture) {
    let mut reader = fixture.store.begin();
    reader.add_read_conflict(KeyRange::new("a", "c"));
    let mut writer = fixture.store.begin();
    writer.add_write_conflict(KeyRange::new("b", "d"));
    let version = writer.commit().await.expect("touch");
    reader.set(b"x", b"1");
    assert_eq!(reader.commit().await, Err(CommitError::Conflict));
    assert_eq!(all(&fixture.store).await, vec![]);
    assert!(put(&fixture, &[("a", "1")]).await > version);
}

async fn reading_only_never_conflicts(fixture: Fixture) {
    let written = put(&fixture, &[("a", "1")]).await;
    let mut reader = fixture.store.begin();
    get(&mut reader, "a").await;
    let later = put(&fixture, &[("a", "2")]).await;
    let seen = reader.commit().await.expect("no conflict");
    assert!(
        written < seen && seen < later,
        "{written:?} {seen:?} {later:?}"
    );
}

async fn commits_are_counted(fixture: Fixture) {
    let before = fixture.store.stats();
    put(&fixture, &[("a", "1")]).await;
    let mut reader = fixture.store.begin();
    get(&mut reader, "a").await;
    put(&fixture, &[("a", "2")]).await;
    reader.set(b"a", b"3");
    assert!(reader.commit().await.is_err());
    let after = fixture.store.stats();
    assert_eq!(after.commits - before.commits, 2);
    assert_eq!(after.flushes - before.flushes, 2);
    assert_eq!(after.conflicts - before.conflicts, 1);
}
