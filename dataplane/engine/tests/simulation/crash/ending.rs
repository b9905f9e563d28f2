//! One change after another whose end is not heard of: the metadata has ended it,
//! its answer is lost again and again. Absent: all other faults.

use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::{QueueTotals, Shared};
use quickwater_proto::*;

use super::Faults;
use super::node::{begin_background, new_shards, recover};
use super::run::Outside;
use crate::scenarios::key;

/// Long enough for several attempts.
const WHILE: Duration = Duration::from_secs(15);

fn all_write_back(shared: &Shared) {
    let policy = PathPolicy {
        mode: PolicyMode::WriteBack,
        ..PathPolicy::default()
    };
    let table = PolicyTable::new(policy, Vec::new()).unwrap();
    shared
        .policies
        .replace(shared.policies.version() + 1, table);
}

/// Writes and deletes a key, with a while after each.
async fn put_and_delete(outside: Outside) {
    let shards = new_shards(&outside);
    let shared = Arc::clone(shards[0].shared());
    recover(&outside, &shared).await;
    all_write_back(&shared);
    begin_background(&outside, &shards);

    outside.put(&shards[0], "a", 1).await.unwrap();
    outside.sim.sleep(WHILE).await;
    let sent = outside.ufs.journal().len();
    assert_eq!(sent, 1, "what the UFS has acked is not sent again");
    assert!(outside.disk.pinned().is_empty(), "its bytes may be evicted");
    assert_eq!(outside.get(&shards[1], "a").await, Ok(Some(1_000)));

    let (bucket, key) = (&outside.bucket, key("a"));
    let deleted = shards[1].delete(bucket, &key, &PutCondition::None);
    deleted.await.unwrap();
    outside.sim.sleep(WHILE).await;
    let sent = outside.ufs.journal().len();
    assert_eq!(sent, 2, "nobody would wait for a second delete");

    outside.faults.set(Faults::default());
    outside.sim.sleep(WHILE).await;
    assert_eq!(shared.persist.totals(), QueueTotals::default());
    assert_eq!(outside.ufs.journal().len(), 2);
    outside.busy.set(0);
}

#[test]
fn what_has_ended_is_not_told_again() {
    for seed in 0..50 {
        let lost = Faults {
            end_unknown: 100,
            ..Faults::default()
        };
        let outside = Outside::new(seed, lost);
        outside.busy.set(1);
        outside.sim.spawn(put_and_delete(outside.clone()));
        outside.sim.run_while(|| outside.busy.get() > 0);
        assert_eq!(outside.busy.get(), 0, "seed {seed} hangs");
    }
}
