//! A transaction reads what it wrote itself.

use quickwater_controlplane::store::{CommitError, KeyRange, Scan, Store, Transaction};

use super::{get, keys, number, put};
use crate::support::{Fixture, all};

suite!(
    own_writes_are_read,
    own_writes_are_scanned,
    own_writes_read_back_do_not_conflict,
    ranges_are_cleared_in_order_with_other_writes,
);

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
