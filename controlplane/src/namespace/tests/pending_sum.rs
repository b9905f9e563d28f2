//! Sums over pending rows: of a path, of a time, of all buckets.

use super::*;
use crate::namespace::PendingSum;

const NONE: PutCondition = PutCondition::None;

async fn put(namespace: &Memory, id: BucketId, name: &str, persist: PersistState) {
    let record = ObjectRecord {
        persist,
        ..object("a")
    };
    namespace
        .commit_object(id, &key(name), &record, &NONE)
        .await
        .unwrap();
}

fn sum(puts: u64, deletes: u64, (oldest_ms, newest_ms): (i64, i64)) -> PendingSum {
    PendingSum {
        puts,
        deletes,
        bytes: 7 * puts,
        oldest_ms: (puts + deletes > 0).then_some(oldest_ms),
        newest_ms: (puts + deletes > 0).then_some(newest_ms),
        ..PendingSum::default()
    }
}

#[tokio::test]
async fn rows_are_summed_by_path_and_time() {
    let (namespace, clock) = with_clock();
    let one = namespace.create_bucket(&bucket("one")).await.unwrap().id;
    let two = namespace.create_bucket(&bucket("two")).await.unwrap().id;
    let now_ms = clock.0.load(Ordering::Relaxed);
    let none = namespace.pending_sum(None, now_ms).await.unwrap();
    assert_eq!(none, PendingSum::default());
    for name in ["run", "run/a", "run/b", "run-2/a", "s"] {
        put(&namespace, one, name, PersistState::NotPersisted).await;
    }
    put(&namespace, one, "run/held", PersistState::Transient).await;
    put(&namespace, one, "run/kept", PersistState::Persisted).await;
    put(&namespace, two, "run/a", PersistState::NotPersisted).await;
    clock.advance(5_000);
    let (later, gone) = (now_ms + 5_000, key("run/gone"));
    let (both, early) = ((now_ms, later), (now_ms, now_ms));
    let removed = namespace.remove_object_pending(one, &gone, &NONE).await;
    removed.unwrap();
    for (scope, until_ms, expected) in [
        (Some((one, "run")), later, sum(3, 1, both)),
        (Some((one, "run")), now_ms, sum(3, 0, early)),
        (Some((one, "run/")), later, sum(2, 1, both)),
        (Some((one, "run/gone")), later, sum(0, 1, (later, later))),
        (Some((one, "ru")), later, sum(0, 0, both)),
        (Some((one, "")), later, sum(5, 1, both)),
        (Some((two, "")), later, sum(1, 0, early)),
        (None, later, sum(6, 1, both)),
        (None, now_ms - 1, sum(0, 0, both)),
    ] {
        let found = namespace.pending_sum(scope, until_ms).await.unwrap();
        assert_eq!(found, expected, "{scope:?} {until_ms}");
    }
}
