//! What only the embedded store limits, or can be measured to the millisecond only
//! there; it is above the engines.

use std::time::Duration;

use quickwater_controlplane::store::limits::{CLEARED_ROWS_MAX, TRANSACTION_AGE_MAX};
use quickwater_controlplane::store::{CommitError, KeyRange, Store, StoreError, Transaction};

use crate::support::{Kind, all, open};

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

#[tokio::test]
async fn a_transaction_is_too_old_a_moment_after_its_time() {
    let fixture = open(Kind::Memory);
    let mut reader = fixture.store.begin();
    assert_eq!(reader.get(b"a").await, Ok(None));
    fixture.clock.advance(TRANSACTION_AGE_MAX);
    assert_eq!(reader.get(b"a").await, Ok(None));
    fixture.clock.advance(Duration::from_millis(1));
    assert_eq!(reader.get(b"a").await, Err(StoreError::TooOld));
}
