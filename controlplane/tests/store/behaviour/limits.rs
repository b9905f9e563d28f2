//! `FoundationDB`'s limits on sizes, keys and age.

use std::time::Duration;

use quickwater_controlplane::store::limits::{
    CLEARED_ROWS_MAX, KEY_BYTES_MAX, TRANSACTION_AGE_MAX, VALUE_BYTES_MAX,
};
use quickwater_controlplane::store::{
    CommitError, EngineKind, KeyRange, Scan, Store, StoreError, Transaction,
};

use super::{get, put};
use crate::support::{Fixture, Kind, all, open};

suite!(
    keys_and_values_have_limits,
    a_transaction_has_a_limit,
    system_keys_are_refused,
    old_transactions_end,
    what_is_old_is_counted_from_the_first_read,
);

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
