//! Metadata comes back as it was, or not at all.

use super::*;
use crate::namespace::{FormatError, Namespace};
use crate::store::{EmbeddedStore, Fault, FaultPlan, FaultyStore, MemoryEngine};

async fn filled(rows: u32) -> EmbeddedStore {
    let store = EmbeddedStore::in_memory().unwrap();
    Namespace::new(store.clone()).check_format().await.unwrap();
    for chunk in 0..rows.div_ceil(500) {
        let mut transaction = store.begin();
        for row in (chunk * 500..rows).take(500) {
            transaction.set(format!("row/{row:06}").as_bytes(), &[7; 300]);
        }
        transaction.commit().await.unwrap();
    }
    store
}

async fn rows(store: &impl Store) -> Vec<Row> {
    let mut range = KeyRange::new(FIRST_KEY, END_KEY);
    let mut all = Vec::new();
    loop {
        let (rows, more) = page(store, &range, PAGE_ROWS).await.unwrap();
        all.extend(rows);
        match all.last() {
            Some(last) if more => range.start = successor(&last.key),
            _ => return all,
        }
    }
}

/// A store whose versions are larger than those of `from`.
async fn empty_after(from: &EmbeddedStore) -> EmbeddedStore {
    let least = version(from).await.unwrap();
    EmbeddedStore::new_at_least(MemoryEngine::default(), least + 1).unwrap()
}

#[tokio::test]
async fn all_rows_come_back_with_faults_too() {
    let from = filled(3_300).await;
    let mut file = Vec::new();
    let count = export(&from, &mut file).await.unwrap();
    assert_eq!(verify(&file[..]).unwrap(), version(&from).await.unwrap());
    let inner = empty_after(&from).await;
    let to = FaultyStore::new(inner.clone(), FaultPlan::default(), 3);
    to.script([
        Fault::UnknownApplied,
        Fault::Nothing,
        Fault::UnknownLost,
        Fault::Conflict,
    ]);
    assert_eq!(import(&to, &file[..]).await.unwrap(), count);
    assert_eq!(rows(&inner).await, rows(&from).await);
    assert_eq!(rows(&inner).await.len() as u64, count);
    Namespace::new(inner).check_format().await.unwrap();
}

#[tokio::test]
async fn what_passes_ends_neither_an_export_nor_an_import() {
    let from = filled(3_300).await;
    let plan = FaultPlan {
        again: 300,
        unknown_applied: 200,
        unknown_lost: 200,
        ..FaultPlan::default()
    };
    let mut injected = 0;
    for seed in 0..20 {
        let behind = FaultyStore::new(from.clone(), plan, seed);
        let mut file = Vec::new();
        let count = export(&behind, &mut file).await.unwrap();
        let inner = empty_after(&from).await;
        let to = FaultyStore::new(inner.clone(), plan, seed);
        assert_eq!(import(&to, &file[..]).await.unwrap(), count);
        injected += behind.injected().min(1) + to.injected().min(1);
        assert_eq!(rows(&inner).await, rows(&from).await);
    }
    assert!(injected > 30, "{injected}");
}

#[tokio::test]
async fn a_damaged_file_is_noticed_before_anything_is_written() {
    let mut file = Vec::new();
    export(&filled(40).await, &mut file).await.unwrap();
    for end in [0, 10, 30, file.len() / 2, file.len() - 1] {
        let cut = verify(&file[..end]).unwrap_err();
        assert!(matches!(cut, DumpError::Damaged(_)), "{end}: {cut}");
    }
    for at in (0..file.len()).step_by(7) {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        // The version in front counts in the sum, too.
        assert!(verify(&damaged[..]).is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn half_an_import_is_no_metadata() {
    let from = filled(3_300).await;
    let mut file = Vec::new();
    export(&from, &mut file).await.unwrap();
    let to = empty_after(&from).await;
    let cut = import(&to, &file[..file.len() / 2]).await.unwrap_err();
    assert!(matches!(cut, DumpError::Damaged(_)));
    let refused = Namespace::new(to.clone()).check_format().await.unwrap_err();
    assert!(matches!(refused, FormatError::Unfinished(_)), "{refused}");
    let again = import(&to, &file[..]).await.unwrap_err();
    assert!(matches!(again, DumpError::NotEmpty));
}

#[tokio::test]
async fn versions_never_go_back() {
    let from = EmbeddedStore::new_at_least(MemoryEngine::default(), 9_000_000).unwrap();
    Namespace::new(from.clone()).check_format().await.unwrap();
    let mut file = Vec::new();
    export(&from, &mut file).await.unwrap();
    let behind = import(&EmbeddedStore::in_memory().unwrap(), &file[..]).await;
    assert!(matches!(behind, Err(DumpError::Behind { needs, .. }) if needs > 9_000_000));
}
