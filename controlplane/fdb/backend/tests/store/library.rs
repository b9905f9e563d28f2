//! What the metadata store takes for granted of a client library, asked of it
//! directly: the list to be checked against a real cluster. What is not used yet
//! (watches, selectors, retries by the library) is here as well, so that the test
//! library stays as the real one.

use std::time::{Duration, Instant};

use foundationdb::future::FdbSlice;
use foundationdb::options::{
    ConflictRangeType, DatabaseOption, MutationType, StreamingMode, TransactionOption,
};
use foundationdb::{Database, FdbError, KeySelector, RangeOption, Transaction};

use crate::support::{Fixture, Kind, is_real, open};

/// Longest wait for a watch.
const WATCH_MAX: Duration = Duration::from_secs(10);

fn database(fixture: &Fixture) -> Database {
    let path = fixture.options.cluster_file.to_str().expect("text");
    Database::from_path(path).expect("a database")
}

/// A key behind the fixture's prefix.
fn key(fixture: &Fixture, name: &str) -> Vec<u8> {
    let prefix = fixture.options.key_prefix.as_bytes();
    [prefix, b"library/", name.as_bytes()].concat()
}

async fn put(database: &Database, key: &[u8], value: &[u8]) {
    let transaction = database.create_trx().expect("a transaction");
    transaction.set(key, value);
    transaction.commit().await.expect("a commit");
}

fn text(value: Option<FdbSlice>) -> Option<String> {
    value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
}

async fn commit_code(transaction: Transaction) -> i32 {
    match transaction.commit().await {
        Ok(_) => 0,
        Err(error) => error.code(),
    }
}

#[tokio::test]
async fn limits_end_with_their_codes() {
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    let longest = vec![b'k'; 10_001];
    for (name, value, code) in [(&longest[..], 1, 2102), (&b"k"[..], 100_001, 2103)] {
        let transaction = database.create_trx().unwrap();
        let name = if name.len() > 1 {
            name.to_vec()
        } else {
            key(&fixture, "k")
        };
        transaction.set(&name, &vec![1; value]);
        assert_eq!(commit_code(transaction).await, code);
    }
    for (rows, code) in [(94_u8, 0), (109, 2101)] {
        let transaction = database.create_trx().unwrap();
        for row in 0..rows {
            transaction.set(&key(&fixture, &format!("large/{row}")), &[1; 100_000]);
        }
        assert_eq!(commit_code(transaction).await, code, "{rows} rows");
    }
    let transaction = database.create_trx().unwrap();
    transaction.clear_range(&key(&fixture, "large/"), &key(&fixture, "large0"));
    assert_eq!(commit_code(transaction).await, 0);
    let transaction = database.create_trx().unwrap();
    transaction.set(b"\xff/reserved", b"1");
    assert_eq!(commit_code(transaction).await, 2004);
}

#[tokio::test]
async fn a_versionstamp_is_the_committed_version_and_an_order() {
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    let name = key(&fixture, "stamped");
    let transaction = database.create_trx().unwrap();
    let template = [&b"<0123456789>"[..], &1_u32.to_le_bytes()].concat();
    transaction.atomic_op(&name, &template, MutationType::SetVersionstampedValue);
    let unreadable = transaction
        .get(&name, false)
        .await
        .err()
        .map(FdbError::code);
    assert_eq!(unreadable, Some(1036));
    let stamp = transaction.get_versionstamp();
    let committed = transaction.commit().await.unwrap();
    let version = committed.committed_version().unwrap();
    let stamp = stamp.await.unwrap();
    assert_eq!(stamp[..8], version.to_be_bytes());
    let reader = database.create_trx().unwrap();
    let value = reader.get(&name, false).await.unwrap().unwrap();
    assert_eq!(value[..], [&b"<"[..], &stamp, b">"].concat());
    // A transaction that wrote nothing has none.
    let stamp = reader.get_versionstamp();
    let committed = reader.commit().await.unwrap();
    assert_eq!(committed.committed_version().unwrap(), -1);
    assert_eq!(stamp.await.err().map(FdbError::code), Some(2021));
}

#[tokio::test]
async fn reads_at_a_version_to_come_are_refused() {
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    let transaction = database.create_trx().unwrap();
    let version = transaction.get_read_version().await.unwrap();
    let transaction = database.create_trx().unwrap();
    transaction.set_read_version(version + 1_000_000_000);
    let read = transaction.get(&key(&fixture, "k"), false).await;
    assert_eq!(read.err().map(FdbError::code), Some(1009));
}

#[tokio::test]
async fn a_watch_fires_when_its_row_changes() {
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    let name = key(&fixture, "watched");
    put(&database, &name, b"1").await;
    let transaction = database.create_trx().unwrap();
    let watch = transaction.watch(&name);
    transaction.commit().await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), watch);
    assert!(early.await.is_err(), "nothing has changed");
    let transaction = database.create_trx().unwrap();
    let watch = transaction.watch(&name);
    transaction.commit().await.unwrap();
    put(&database, &name, b"2").await;
    tokio::time::timeout(WATCH_MAX, watch)
        .await
        .expect("in time")
        .unwrap();
    if is_real() {
        return;
    }
    for (fault, code) in [
        ("watch_spurious=1000", None),
        ("watch_lost=1000", Some(1101)),
    ] {
        fixture.faults(fault);
        let transaction = database.create_trx().unwrap();
        let watch = transaction.watch(&name);
        transaction.commit().await.unwrap();
        let fired = tokio::time::timeout(WATCH_MAX, watch)
            .await
            .expect("in time");
        assert_eq!(fired.err().map(FdbError::code), code, "{fault}");
    }
}

#[tokio::test]
async fn selectors_stand_for_keys() {
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    for name in ["b", "d", "f", "h"] {
        put(&database, &key(&fixture, name), name.as_bytes()).await;
    }
    let transaction = database.create_trx().unwrap();
    let at = |name: &str| key(&fixture, name);
    let cases = [
        (KeySelector::first_greater_or_equal(at("d")), "d"),
        (KeySelector::first_greater_or_equal(at("c")), "d"),
        (KeySelector::first_greater_than(at("d")), "f"),
        (KeySelector::last_less_than(at("d")), "b"),
        (KeySelector::last_less_or_equal(at("d")), "d"),
        (KeySelector::last_less_or_equal(at("e")), "d"),
        (KeySelector::new(at("b").into(), false, 3), "f"),
        (KeySelector::new(at("h").into(), false, -1), "d"),
    ];
    for (selector, found) in cases {
        let key = transaction.get_key(&selector, false).await.unwrap();
        assert_eq!(key[..], at(found), "{selector:?}");
    }
    let option = RangeOption {
        mode: StreamingMode::WantAll,
        ..RangeOption::from((
            KeySelector::last_less_than(at("d")),
            KeySelector::first_greater_than(at("f")),
        ))
    };
    let rows = transaction.get_range(&option, 1, true).await.unwrap();
    let values: Vec<_> = rows.iter().map(|row| row.value().to_vec()).collect();
    assert_eq!(values, [b"b", b"d", b"f"]);
}

#[tokio::test]
async fn retries_wait_and_begin_anew() {
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    let name = key(&fixture, "retried");
    put(&database, &name, b"0").await;
    let transaction = database.create_trx().unwrap();
    assert_eq!(
        text(transaction.get(&name, false).await.unwrap()).as_deref(),
        Some("0")
    );
    put(&database, &name, b"1").await;
    transaction.set(&name, b"lost");
    let refused = transaction.commit().await.expect_err("a conflict");
    assert_eq!(refused.code(), 1020);
    assert!(refused.is_retryable_not_committed() && !refused.is_maybe_committed());
    let began = Instant::now();
    let transaction = refused.on_error().await.unwrap();
    assert!(is_real() || began.elapsed() >= Duration::from_millis(10));
    assert_eq!(
        text(transaction.get(&name, false).await.unwrap()).as_deref(),
        Some("1")
    );
    // What makes no sense to try again stays an error.
    let limit = FdbError::from_code(2101);
    assert_eq!(
        transaction.on_error(limit).await.err().map(FdbError::code),
        Some(2101)
    );
    assert!(FdbError::from_code(1021).is_maybe_committed());
    assert!(
        !FdbError::from_code(1031).is_retryable(),
        "why the store knows better"
    );
}

#[tokio::test]
async fn a_transaction_ends_by_its_timeout() {
    if is_real() {
        return;
    }
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    database
        .set_option(DatabaseOption::TransactionTimeout(80))
        .unwrap();
    fixture.faults("delay=1000 delay_ms=100000");
    let name = key(&fixture, "slow");
    let began = Instant::now();
    let transaction = database.create_trx().unwrap();
    let read = transaction.get(&name, false).await;
    assert_eq!(read.err().map(FdbError::code), Some(1031));
    let transaction = database.create_trx().unwrap();
    transaction.set(&name, b"1");
    assert_eq!(commit_code(transaction).await, 1031);
    let transaction = database.create_trx().unwrap();
    transaction
        .set_option(TransactionOption::Timeout(30))
        .unwrap();
    let read = transaction.get(&name, false).await;
    assert_eq!(read.err().map(FdbError::code), Some(1031));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_conflict_range_alone_reads_at_the_commit() {
    // Why the store asks for the version when a conflict is named.
    let fixture = open(Kind::Plain);
    let database = database(&fixture);
    let (name, end) = (key(&fixture, "named"), key(&fixture, "named\0"));
    let transaction = database.create_trx().unwrap();
    transaction
        .add_conflict_range(&name, &end, ConflictRangeType::Read)
        .unwrap();
    transaction.set(&name, b"mine");
    put(&database, &name, b"other").await;
    assert_eq!(
        commit_code(transaction).await,
        0,
        "it began after the other"
    );
    let transaction = database.create_trx().unwrap();
    transaction.get_read_version().await.unwrap();
    transaction
        .add_conflict_range(&name, &end, ConflictRangeType::Read)
        .unwrap();
    transaction.set(&name, b"mine");
    put(&database, &name, b"other").await;
    assert_eq!(commit_code(transaction).await, 1020);
}
