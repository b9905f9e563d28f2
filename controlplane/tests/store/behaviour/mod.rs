//! One behaviour for every store: what `FoundationDB` promises, and its limits.
//! Each store's tests take this in, with a `support` of their own that has the
//! fixture and the macro `suite`.

use quickwater_controlplane::store::{CommitVersion, Rows, Store, Transaction};

use crate::support::Fixture;

mod atomics;
mod conflicts;
mod limits;
mod own_writes;
mod relaxed;
mod scans;

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

async fn get(transaction: &mut impl Transaction, key: &str) -> Option<String> {
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
