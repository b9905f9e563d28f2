//! Reads all rows of any store.

use quickwater_controlplane::store::{KeyRange, Row, Scan, Store, Transaction, successor};

/// Every row of the store, whatever the limits of one scan.
pub(crate) async fn all(store: &impl Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows(store, KeyRange::prefix(b"")).await
}

/// Every row of a range.
pub(crate) async fn rows(store: &impl Store, mut range: KeyRange) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut transaction = store.begin();
    let mut found = Vec::new();
    loop {
        let page = transaction
            .scan(Scan::new(range.clone(), 1_000).snapshot())
            .await
            .expect("a page");
        found.extend(
            page.rows
                .iter()
                .map(|row| (row.key.to_vec(), row.value.to_vec())),
        );
        match page.rows.last() {
            Some(Row { key, .. }) if page.more => {
                range.start = successor(key);
            }
            _ => return found,
        }
    }
}
