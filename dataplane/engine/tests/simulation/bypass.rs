//! NO_CACHE: the store gets nothing, and gives only what the UFS does not hold.

use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::Shared;
use quickwater_engine::io::Buffer;
use quickwater_proto::*;

use crate::scenarios::*;
use crate::world::*;

pub(crate) fn set(shared: &Shared, mode: PolicyMode) {
    let policy = PathPolicy {
        mode,
        ..PathPolicy::default()
    };
    let rules = [("/sim/**".to_owned(), policy)];
    let table = PolicyTable::new(PathPolicy::default(), rules).unwrap();
    let policies = &shared.policies;
    policies.replace(policies.version() + 1, table);
}

#[test]
fn no_byte_comes_into_the_store() {
    let setup = setup(1, Faults::default(), 10_000);
    let (engine, bucket) = (setup.engines[0].clone(), Arc::clone(&setup.bucket));
    let (disk, ufs) = (setup.disk.clone(), setup.ufs.clone());
    let sim = setup.sim.clone();
    setup.sim.spawn(async move {
        set(engine.shared(), PolicyMode::NoCache);
        ufs.place("there", content_of(10), ObjectHeaders::default());
        // Value 2 is of several chunks.
        for (name, value) in [("a", 1), ("b", 2)] {
            put(&engine, &bucket, name, value).await.unwrap();
            for _ in 0..2 {
                assert_eq!(get(&engine, &bucket, name).await, Ok(Some(value)));
            }
        }
        assert_eq!(get(&engine, &bucket, "there").await, Ok(Some(10)));
        let record = engine.resolve(&bucket, &key("b"), false).await.unwrap();
        let content = content_of(2);
        for range in [0..1, 7..8, 1_000_000..2_400_000, 2_499_999..2_500_000, 5..5] {
            let mut reader = engine.read(&bucket, &key("b"), &record, range.clone());
            let mut bytes = Vec::new();
            while let Some(buffer) = reader.next().await.unwrap() {
                bytes.extend_from_slice(buffer.as_slice());
            }
            assert!(bytes == content[range.start as usize..range.end as usize]);
        }
        assert!(disk.chunks.borrow().is_empty());

        // Other policy, other way; what is there then is not used any more.
        set(engine.shared(), PolicyMode::WriteThrough);
        assert_eq!(get(&engine, &bucket, "b").await, Ok(Some(2)));
        assert_eq!(disk.chunks.borrow().len(), 3);
        set(engine.shared(), PolicyMode::NoCache);
        for chunk in disk.chunks.borrow_mut().values_mut() {
            chunk.fill(0);
        }
        assert_eq!(get(&engine, &bucket, "b").await, Ok(Some(2)));
        // Bytes of old versions are kept for their readers, then go with a later
        // write.
        put(&engine, &bucket, "b", 3).await.unwrap();
        sim.sleep(Duration::from_secs(120)).await;
        put(&engine, &bucket, "b", 4).await.unwrap();
        assert!(
            disk.chunks.borrow().is_empty(),
            "the old copy went with its version"
        );
    });
    setup.sim.run();
}

#[test]
fn keys_are_linearizable_while_policies_change() {
    for seed in 0..SEEDS {
        let faults = Faults {
            disk_forgets: 10,
            disk_full: 10,
            ..Faults::default()
        };
        let setup = setup(seed, faults, 10_000);
        let (engine, sim) = (setup.engines[0].clone(), setup.sim.clone());
        setup.sim.spawn(async move {
            for round in 0..40 {
                let mode = match round % 2 {
                    0 => PolicyMode::NoCache,
                    _ => PolicyMode::WriteThrough,
                };
                set(engine.shared(), mode);
                sim.sleep(Duration::from_millis(sim.below(30))).await;
            }
        });
        run_clients_in(&setup, seed);
    }
}
