//! Order, limits and pages of scans.

use quickwater_controlplane::store::{KeyRange, Rows, Scan, Store, Transaction};

use super::{keys, put, value};
use crate::support::{Fixture, all};

suite!(
    scans_keep_order_and_limits,
    pages_put_together_are_the_whole,
    empty_and_inverted_ranges_hold_nothing,
);

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
