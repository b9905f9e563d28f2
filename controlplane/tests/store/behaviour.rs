//! One behaviour for every engine: what `FoundationDB` promises, and its limits.

use std::time::Duration;

use crate::support::{Fixture, Kind, all, open};
use quickwater_controlplane::store::limits::{
    CLEARED_ROWS_MAX, KEY_BYTES_MAX, TRANSACTION_AGE_MAX, VALUE_BYTES_MAX,
};
use quickwater_controlplane::store::{
    CommitError, CommitVersion, EmbeddedTransaction, EngineKind, KeyRange, Rows, Scan, Store,
    StoreError, Transaction,
};

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        suite!(@engine memory, Kind::Memory, $($name),*);
        suite!(@engine fjall, Kind::Disk(EngineKind::Fjall), $($name),*);
        suite!(@engine redb, Kind::Disk(EngineKind::Redb), $($name),*);
    };
    (@engine $engine:ident, $kind:expr, $($name:ident),*) => {
        mod $engine {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name(open($kind)).await;
                }
            )*
        }
    };
}

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
    own_writes_are_read,
    own_writes_are_scanned,
    own_writes_read_back_do_not_conflict,
    ranges_are_cleared_in_order_with_other_writes,
    scans_keep_order_and_limits,
    pages_put_together_are_the_whole,
    empty_and_inverted_ranges_hold_nothing,
    numbers_are_added,
    additions_do_not_conflict_with_each_other,
    versionstamps_are_the_commit_version,
    versionstamps_rise,
    a_versionstamp_needs_room,
    keys_and_values_have_limits,
    a_transaction_has_a_limit,
    system_keys_are_refused,
    old_transactions_end,
    what_is_old_is_counted_from_the_first_read,
    commits_are_counted,
);

async fn put(fixture: &Fixture, rows: &[(&str, &str)]) -> CommitVersion {
    let mut transaction = fixture.store.begin();
    for (key, value) in rows {
        transaction.set(key.as_bytes(), value.as_bytes());
    }
    transaction.commit().await.expect("commit")
}

async fn value(fixture: &Fixture, key: &str) -> Option<Vec<u8>> {
    let found = fixture.store.begin().get(key.as_bytes()).await;
    found.expect("a read").map(|value| value.to_vec())
}

async fn get(transaction: &mut EmbeddedTransaction, key: &str) -> Option<String> {
    let found = transaction.get(key.as_bytes()).await.expect("a read");
    found.map(|value| String::from_utf8(value.to_vec()).expect("text"))
}

fn keys(page: &Rows) -> String {
    let keys: Vec<_> = page
        .rows
        .iter()
        .map(|row| String::from_utf8_lossy(&row.key))
        .collect();
    keys.join(" ")
}

fn number(value: &[u8]) -> i64 {
    i64::from_le_bytes(value.try_into().expect("eight bytes"))
}

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

async fn own_writes_are_read(fixture: Fixture) {
    put(&fixture, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
    let mut transaction = fixture.store.begin();
    transaction.set(b"a", b"2");
    transaction.clear(b"b");
    assert_eq!(get(&mut transaction, "a").await.as_deref(), Some("2"));
    assert_eq!(get(&mut transaction, "b").await, None);
    assert_eq!(get(&mut transaction, "c").await.as_deref(), Some("1"));
    transaction.clear_range(KeyRange::new("a", "d"));
    transaction.set(b"c", b"3");
    assert_eq!(get(&mut transaction, "a").await, None);
    assert_eq!(get(&mut transaction, "c").await.as_deref(), Some("3"));
    assert_eq!(
        transaction.get_snapshot(b"c").await,
        Ok(Some(b"3".as_slice().into()))
    );
    transaction.add(b"n", 5);
    transaction.add(b"n", -7);
    let sum = transaction.get(b"n").await.expect("read").expect("a row");
    assert_eq!(number(&sum), -2);
    transaction.commit().await.expect("commit");
    assert_eq!(all(&fixture.store).await.len(), 2);
}

async fn own_writes_are_scanned(fixture: Fixture) {
    put(
        &fixture,
        &[("b", "1"), ("d", "1"), ("f", "1"), ("h", "1"), ("j", "1")],
    )
    .await;
    let mut transaction = fixture.store.begin();
    transaction.clear_range(KeyRange::new("c", "g"));
    transaction.set(b"a", b"2");
    transaction.set(b"e", b"2");
    transaction.set(b"h", b"2");
    transaction.clear(b"j");
    transaction.add(b"k", 1);
    let whole = Scan::new(KeyRange::new("a", "z"), 100);
    let page = transaction.scan(whole.clone()).await.expect("scan");
    assert_eq!(keys(&page), "a b e h k");
    assert_eq!(page.rows[3].value, "2");
    assert!(!page.more);
    let page = transaction
        .scan(whole.clone().reverse())
        .await
        .expect("scan");
    assert_eq!(keys(&page), "k h e b a");
    let page = transaction
        .scan(Scan::new(KeyRange::new("b", "h"), 2).reverse())
        .await
        .expect("scan");
    assert_eq!(keys(&page), "e b");
    transaction.commit().await.expect("commit");
    let mut after = fixture.store.begin();
    let page = after.scan(whole).await.expect("scan");
    assert_eq!(keys(&page), "a b e h k");
}

async fn own_writes_read_back_do_not_conflict(fixture: Fixture) {
    let mut transaction = fixture.store.begin();
    transaction.set(b"a", b"1");
    get(&mut transaction, "a").await;
    put(&fixture, &[("a", "2")]).await;
    transaction.commit().await.expect("its own row");
    // What an addition read came from the store.
    let mut transaction = fixture.store.begin();
    transaction.add(b"a", 1);
    transaction.get(b"a").await.expect("read");
    put(&fixture, &[("a", "3")]).await;
    assert_eq!(transaction.commit().await, Err(CommitError::Conflict));
}

async fn ranges_are_cleared_in_order_with_other_writes(fixture: Fixture) {
    put(
        &fixture,
        &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")],
    )
    .await;
    let mut transaction = fixture.store.begin();
    transaction.set(b"b", b"lost");
    transaction.add(b"c", 40);
    transaction.clear_range(KeyRange::new("b", "d"));
    transaction.add(b"c", 2);
    transaction.clear_range(KeyRange::new("d", "e"));
    transaction.set(b"bb", b"kept");
    transaction.commit().await.expect("commit");
    let rows = all(&fixture.store).await;
    let keys: Vec<_> = rows
        .iter()
        .map(|(key, _)| String::from_utf8_lossy(key))
        .collect();
    assert_eq!(keys, ["a", "bb", "c", "e"]);
    assert_eq!(number(&rows[2].1), 2);
}

async fn scans_keep_order_and_limits(fixture: Fixture) {
    let names: Vec<String> = (0..300).map(|n| format!("k{n:03}")).collect();
    let mut transaction = fixture.store.begin();
    for name in names.iter().rev() {
        transaction.set(name.as_bytes(), &[7; 96]);
    }
    transaction.commit().await.expect("commit");
    let mut reader = fixture.store.begin();
    let whole = KeyRange::prefix(b"k");
    let page = reader
        .scan(Scan::new(whole.clone(), 300))
        .await
        .expect("scan");
    assert_eq!(keys(&page), names.join(" "));
    let page = reader
        .scan(Scan::new(whole.clone(), 301).reverse())
        .await
        .expect("scan");
    assert!(!page.more);
    assert_eq!(page.rows.len(), 300);
    assert_eq!(page.rows[0].key, "k299");
    let mut bytes = Scan::new(whole.clone(), 300);
    bytes.bytes_max = 250;
    let page = reader.scan(bytes.clone()).await.expect("scan");
    assert_eq!((keys(&page).as_str(), page.more), ("k000 k001 k002", true));
    bytes.bytes_max = 0;
    let page = reader.scan(bytes).await.expect("scan");
    assert_eq!(page.rows.len(), 1, "the first row is always given");
    let none = reader.scan(Scan::new(whole, 0)).await.expect("scan");
    assert_eq!((none.rows.len(), none.more), (0, true));
    let some = Scan::new(KeyRange::new("k010", "k013"), 100);
    assert_eq!(
        keys(&reader.scan(some).await.expect("scan")),
        "k010 k011 k012"
    );
}

async fn pages_put_together_are_the_whole(fixture: Fixture) {
    for chunk in 0..10 {
        let mut transaction = fixture.store.begin();
        for n in 0..250 {
            transaction.set(format!("row/{chunk}/{n}").as_bytes(), &[1; 300]);
        }
        transaction.commit().await.expect("commit");
    }
    let rows = all(&fixture.store).await;
    assert_eq!(rows.len(), 2_500);
    assert!(rows.is_sorted());
}

async fn empty_and_inverted_ranges_hold_nothing(fixture: Fixture) {
    put(&fixture, &[("b", "1")]).await;
    for range in [KeyRange::new("b", "b"), KeyRange::new("c", "a")] {
        let mut transaction = fixture.store.begin();
        let scan = Scan::new(range.clone(), 10);
        assert_eq!(transaction.scan(scan.clone()).await, Ok(Rows::default()));
        assert_eq!(transaction.scan(scan.reverse()).await, Ok(Rows::default()));
        transaction.add_read_conflict(range.clone());
        transaction.clear_range(range);
        put(&fixture, &[("b", "2")]).await;
        transaction.set(b"x", b"1");
        transaction.commit().await.expect("nothing was read");
    }
    assert!(value(&fixture, "b").await.is_some());
}

async fn numbers_are_added(fixture: Fixture) {
    put(
        &fixture,
        &[("short", "\u{1}"), ("long", "\u{2}\0\0\0\0\0\0\0more")],
    )
    .await;
    for key in ["none", "short", "long"] {
        let mut transaction = fixture.store.begin();
        transaction.add(key.as_bytes(), 3);
        transaction.commit().await.expect("commit");
    }
    let mut wrapping = fixture.store.begin();
    wrapping.add(b"wrap", i64::MAX);
    wrapping.add(b"wrap", 1);
    wrapping.commit().await.expect("commit");
    for (key, sum) in [("none", 3), ("short", 4), ("long", 5), ("wrap", i64::MIN)] {
        let value = value(&fixture, key).await.expect("a row");
        assert_eq!(number(&value), sum, "{key}");
    }
}

async fn additions_do_not_conflict_with_each_other(fixture: Fixture) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let store = fixture.store.clone();
        tasks.spawn(async move {
            let mut transaction = store.begin();
            transaction.add(b"n", 1);
            transaction.add(b"m", -1);
            transaction.commit().await.expect("no conflict");
        });
    }
    tasks.join_all().await;
    assert_eq!(number(&value(&fixture, "n").await.expect("a row")), 64);
    assert_eq!(number(&value(&fixture, "m").await.expect("a row")), -64);
}

async fn versionstamps_are_the_commit_version(fixture: Fixture) {
    let mut transaction = fixture.store.begin();
    transaction.set_versionstamped_value(b"a", b"<0123456789>", 1);
    assert_eq!(transaction.get(b"a").await, Err(StoreError::Unreadable));
    let scan = Scan::new(KeyRange::prefix(b""), 10);
    assert_eq!(transaction.scan(scan).await, Err(StoreError::Unreadable));
    let version = transaction.commit().await.expect("commit");
    let value = value(&fixture, "a").await.expect("a row");
    assert_eq!(value[1..11], *version.as_bytes());
    assert_eq!((value[0], value[11]), (b'<', b'>'));
}

async fn versionstamps_rise(fixture: Fixture) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..32_u8 {
        let store = fixture.store.clone();
        tasks.spawn(async move {
            let mut versions = Vec::new();
            for round in 0..4_u8 {
                let mut transaction = store.begin();
                transaction.set_versionstamped_value(&[b's', task, round], &[0; 10], 0);
                versions.push(transaction.commit().await.expect("commit"));
            }
            assert!(versions.is_sorted_by(|a, b| a < b));
            versions
        });
    }
    let mut versions: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    versions.sort();
    let mut unique = versions.clone();
    unique.dedup();
    assert_eq!(unique.len(), 128);
    let mut stored: Vec<_> = all(&fixture.store)
        .await
        .into_iter()
        .map(|(_, value)| CommitVersion(value.try_into().expect("ten bytes")))
        .collect();
    stored.sort();
    assert_eq!(stored, versions);
}

async fn a_versionstamp_needs_room(fixture: Fixture) {
    for (template, offset) in [(&[0_u8; 10][..], 1), (&[0; 9], 0), (&[0; 20], usize::MAX)] {
        let mut transaction = fixture.store.begin();
        transaction.set(b"b", b"1");
        transaction.set_versionstamped_value(b"a", template, offset);
        let refused = transaction.commit().await;
        assert!(
            matches!(refused, Err(CommitError::Invalid(_))),
            "{refused:?}"
        );
    }
    assert_eq!(all(&fixture.store).await, vec![]);
}

async fn keys_and_values_have_limits(fixture: Fixture) {
    let key = vec![b'k'; KEY_BYTES_MAX + 1];
    let value = vec![1; VALUE_BYTES_MAX + 1];
    let mut transaction = fixture.store.begin();
    transaction.set(&key[1..], &value[1..]);
    assert!(transaction.get(&key[1..]).await.expect("read").is_some());
    assert_eq!(transaction.get(&key).await, Err(StoreError::KeyTooLarge));
    transaction.commit().await.expect("at the limits");
    let mut transaction = fixture.store.begin();
    transaction.set(&key, b"");
    assert_eq!(
        transaction.commit().await,
        Err(CommitError::TooLarge("key"))
    );
    let mut transaction = fixture.store.begin();
    transaction.set(b"a", &value);
    transaction.set(b"b", b"1");
    assert_eq!(
        transaction.commit().await,
        Err(CommitError::TooLarge("value"))
    );
    assert_eq!(all(&fixture.store).await.len(), 1);
}

async fn a_transaction_has_a_limit(fixture: Fixture) {
    for (rows, fits) in [(94_u8, true), (109, false)] {
        let mut transaction = fixture.store.begin();
        for row in 0..rows {
            transaction.set(&[b'a', row], &[1; VALUE_BYTES_MAX]);
        }
        match transaction.commit().await {
            Ok(_) => assert!(fits, "{rows} rows"),
            Err(error) => {
                assert!(!fits, "{rows} rows");
                assert_eq!(error, CommitError::TooLarge("transaction"));
            }
        }
    }
    assert_eq!(all(&fixture.store).await.len(), 94);
    let mut transaction = fixture.store.begin();
    transaction.clear_range(KeyRange::prefix(b"a"));
    transaction.commit().await.expect("a range is small");
    assert_eq!(all(&fixture.store).await, vec![]);
}

async fn system_keys_are_refused(fixture: Fixture) {
    let mut transaction = fixture.store.begin();
    for key in [&b""[..], b"\xff", b"\xff/version"] {
        assert_eq!(transaction.get(key).await, Err(StoreError::ReservedKey));
        let mut writer = fixture.store.begin();
        writer.set(key, b"1");
        assert!(matches!(
            writer.commit().await,
            Err(CommitError::Invalid(_))
        ));
    }
    let range = KeyRange::new("a", b"\xff\x01".as_slice());
    let refused = transaction.scan(Scan::new(range.clone(), 1)).await;
    assert_eq!(refused, Err(StoreError::ReservedKey));
    let mut writer = fixture.store.begin();
    writer.clear_range(range);
    assert!(matches!(
        writer.commit().await,
        Err(CommitError::Invalid(_))
    ));
    put(&fixture, &[("a", "1")]).await;
    assert_eq!(
        all(&fixture.store).await.len(),
        1,
        "system rows stay hidden"
    );
}

async fn old_transactions_end(fixture: Fixture) {
    let mut reader = fixture.store.begin();
    let mut writer = fixture.store.begin();
    let mut blind = fixture.store.begin();
    get(&mut reader, "a").await;
    get(&mut writer, "a").await;
    writer.set(b"b", b"1");
    blind.set(b"c", b"1");
    fixture.clock.advance(TRANSACTION_AGE_MAX);
    get(&mut reader, "a").await;
    fixture.clock.advance(Duration::from_millis(1));
    assert_eq!(reader.get(b"a").await, Err(StoreError::TooOld));
    assert_eq!(reader.get_snapshot(b"a").await, Err(StoreError::TooOld));
    let scan = Scan::new(KeyRange::prefix(b""), 1);
    assert_eq!(reader.scan(scan).await, Err(StoreError::TooOld));
    assert_eq!(writer.commit().await, Err(CommitError::TooOld));
    blind.commit().await.expect("it read nothing");
}

async fn what_is_old_is_counted_from_the_first_read(fixture: Fixture) {
    put(&fixture, &[("a", "1")]).await;
    for round in 0..30 {
        let mut transaction = fixture.store.begin();
        fixture.clock.advance(Duration::from_secs(1));
        get(&mut transaction, "a").await;
        fixture.clock.advance(Duration::from_millis(round * 150));
        if round % 2 == 0 {
            put(&fixture, &[("b", "1")]).await;
        }
        transaction.set(b"c", b"1");
        transaction.commit().await.expect("young enough");
    }
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

/// Only the embedded store has this limit, and it is above the engines.
#[tokio::test]
async fn a_range_clear_removes_a_limited_number_of_rows() {
    let fixture = open(Kind::Memory);
    let total = CLEARED_ROWS_MAX as u32 + 1;
    for chunk in 0..=total / 20_000 {
        let mut transaction = fixture.store.begin();
        for row in (chunk * 20_000..total).take(20_000) {
            transaction.set(format!("r{row:06}").as_bytes(), b"");
        }
        transaction.commit().await.expect("commit");
    }
    let mut transaction = fixture.store.begin();
    transaction.clear_range(KeyRange::prefix(b"r"));
    assert!(matches!(
        transaction.commit().await,
        Err(CommitError::TooLarge(_))
    ));
    let mut transaction = fixture.store.begin();
    transaction.clear_range(KeyRange::new("r000001", "s"));
    transaction.commit().await.expect("at the limit");
    assert_eq!(all(&fixture.store).await.len(), 1);
}
