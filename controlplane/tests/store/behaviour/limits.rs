//! `FoundationDB`'s limits on sizes, keys and age.

use std::time::Duration;

use quickwater_controlplane::store::limits::{KEY_BYTES_MAX, TRANSACTION_AGE_MAX, VALUE_BYTES_MAX};
use quickwater_controlplane::store::{CommitError, KeyRange, Scan, Store, StoreError, Transaction};

use super::{get, put};
use crate::support::{Fixture, all};

/// A clock that cannot be stopped is this close to where it should be.
const MARGIN: Duration = Duration::from_millis(700);

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
    let longest = &key[..fixture.key_bytes_max()];
    let mut transaction = fixture.store.begin();
    transaction.set(longest, &value[1..]);
    assert!(transaction.get(longest).await.expect("read").is_some());
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
    fixture.advance(TRANSACTION_AGE_MAX - MARGIN).await;
    get(&mut reader, "a").await;
    fixture.advance(2 * MARGIN).await;
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
        fixture.advance(Duration::from_secs(1)).await;
        get(&mut transaction, "a").await;
        fixture.advance(Duration::from_millis(round * 125)).await;
        if round % 2 == 0 {
            put(&fixture, &[("b", "1")]).await;
        }
        transaction.set(b"c", b"1");
        transaction.commit().await.expect("young enough");
    }
}
