use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use quickwater_proto::{
    BlobId, BucketId, CopyAt, Neighbour, NodeId, ObjectKey, PendingChange, PendingRecord, Version,
};
use quickwater_simulation::Sim;

use crate::shared::EngineConfig;

use super::*;

const BUCKET: BucketId = BucketId(1);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn slot(name: &str) -> usize {
    slot_of(BUCKET, &key(name))
}

/// A worker that owns the slots of these keys.
fn owning(keys: &[&str]) -> Arc<Shared> {
    let shared = Shared::leased(EngineConfig::least());
    shared.rights.started();
    for key in keys {
        shared.rights.set(slot(key), true);
    }
    shared
}

fn queue(shared: &Shared, name: &str, change: PendingChange) {
    let pending = PendingRecord {
        version: Version(1),
        change,
        since_ms: 0,
        superseded: false,
    };
    let persist = &shared.persist;
    persist.load(BUCKET, key(name), pending, (Duration::ZERO, 0), None);
}

/// Bytes of a key, and another worker that has them too, if it is told of.
fn bytes(shared: &Shared, blob: u128, name: &str, others: &[&str]) {
    shared.anchor(BlobId(blob), slot(name));
    let at = |node: &&str| CopyAt {
        node: NodeId::new(node).unwrap(),
        session: 5,
    };
    let copied = Copied {
        bucket: BUCKET,
        key: key(name),
        part: None,
        bytes: 10,
        copies: others.len() + 1,
        others: others.iter().map(at).collect(),
    };
    shared.holders.note(BlobId(blob), copied);
}

fn neighbour(name: &str, live: bool) -> Neighbour {
    Neighbour {
        node: NodeId::new(name).unwrap(),
        address: String::new(),
        zone: String::new(),
        capacity_bytes: 1,
        session: 5,
        live,
        draining: false,
    }
}

/// Gives the slots of these keys away while the store keeps these blobs; those that stay.
async fn give(sim: &Sim, shared: &Shared, keys: &[&str], kept: &[u128]) -> Vec<usize> {
    let stay = || shared.must_stay(|| kept.iter().map(|blob| BlobId(*blob)).collect());
    let lost = keys.iter().map(|key| slot(key)).collect();
    let patience = sim.sleep(Duration::from_secs(5));
    shared.give_slots(lost, stay, || sim.now(), patience).await
}

fn run(sim: &Sim, story: impl Future<Output = ()> + 'static) {
    let ended = Rc::new(RefCell::new(false));
    let told = Rc::clone(&ended);
    sim.spawn(async move {
        story.await;
        *told.borrow_mut() = true;
    });
    sim.run();
    assert!(*ended.borrow(), "it did not come to its end");
}

#[test]
fn only_what_nobody_else_has_stays() {
    let sim = Sim::new(1);
    let clock = sim.clone();
    run(&sim, async move {
        let keys = ["alone", "copied", "ended", "deleted", "clean"];
        let shared = owning(&keys);
        shared
            .holders
            .meet(&[neighbour("there", true), neighbour("dead", false)], None);
        bytes(&shared, 1, "alone", &["dead"]);
        bytes(&shared, 2, "copied", &["there"]);
        bytes(&shared, 3, "ended", &[]);
        for (name, change) in [
            ("alone", PendingChange::Put { size: 10 }),
            ("copied", PendingChange::Put { size: 10 }),
            ("deleted", PendingChange::Delete),
        ] {
            queue(&shared, name, change);
        }
        let kept = give(&clock, &shared, &keys, &[1, 2]).await;
        assert_eq!(kept, [slot("alone")]);
        for name in keys {
            assert_eq!(shared.rights.owns(slot(name)), name == "alone", "{name}");
        }
        // What was pending of the others is in their rows.
        let totals = shared.persist.totals();
        assert_eq!((totals.puts, totals.deletes), (1, 0));
        // Their next owner may ask for the bytes.
        assert_eq!(shared.kept.slots(), [slot("copied")].into());
        assert_eq!(shared.holders.blobs(), 1);
        let told = shared.holders.take_ended();
        assert_eq!(told[&NodeId::new("there").unwrap()], [BlobId(2)]);
        assert!(shared.must_stay(|| [BlobId(1), BlobId(2)].into()) == [slot("alone")].into());
    });
}

#[test]
fn what_a_change_under_way_leaves_keeps_its_slot() {
    let sim = Sim::new(1);
    let clock = sim.clone();
    run(&sim, async move {
        let shared = owning(&["late", "clean"]);
        let (of, time) = (Arc::clone(&shared), clock.clone());
        let guard = shared.slots.lock(slot("late")).await;
        let writing = async move {
            time.sleep(Duration::from_secs(1)).await;
            assert!(!of.rights.owns(slot("late")), "nothing else begins");
            assert!(!of.rights.is_foreign(slot("late")), "nor is thrown away");
            bytes(&of, 1, "late", &[]);
            drop(guard);
        };
        let giving = give(&clock, &shared, &["late", "clean"], &[1]);
        let (kept, ()) = futures_util::future::join(giving, writing).await;
        assert_eq!(kept, [slot("late")]);
        assert!(shared.rights.owns(slot("late")), "it goes on");
        assert!(shared.rights.is_foreign(slot("clean")));
    });
}

#[test]
fn what_takes_too_long_does_not_keep_the_others() {
    let sim = Sim::new(1);
    let clock = sim.clone();
    run(&sim, async move {
        let keys = ["a", "slow", "b", "slower", "c"];
        let shared = owning(&keys);
        let slow = shared.slots.lock(slot("slow")).await;
        let slower = shared.slots.lock(slot("slower")).await;
        let begun = clock.now();
        let kept = give(&clock, &shared, &keys, &[]).await;
        assert_eq!(kept, [slot("slow"), slot("slower")]);
        let taken = clock.now() - begun;
        assert_eq!(taken, Duration::from_secs(5), "once for all");
        // They are ours as before: what is under way there is waited for the next time.
        for key in keys {
            let is_slow = key.starts_with("slow");
            assert_eq!(shared.rights.owns(slot(key)), is_slow, "{key}");
        }
        drop((slow, slower));
        let kept = give(&clock, &shared, &["slow", "slower"], &[]).await;
        assert!(kept.is_empty() && shared.rights.owned() == 0);
    });
}

#[test]
fn giving_that_is_broken_off_gives_nothing() {
    let sim = Sim::new(1);
    let clock = sim.clone();
    run(&sim, async move {
        let shared = owning(&["busy", "other"]);
        queue(&shared, "other", PendingChange::Delete);
        let writing = shared.slots.lock(slot("busy")).await;
        let giving = Box::pin(give(&clock, &shared, &["busy", "other"], &[]));
        let ended = select(giving, Box::pin(clock.sleep(Duration::from_secs(1)))).await;
        assert_eq!(shared.rights.owned(), 0, "nothing begins there meanwhile");
        drop(ended);
        assert_eq!(shared.rights.owned(), 2);
        assert_eq!(shared.persist.totals().deletes, 1);
        drop(writing);
        let kept = give(&clock, &shared, &["busy", "other"], &[]).await;
        assert!(kept.is_empty() && shared.rights.owned() == 0);
    });
}

#[test]
fn a_slot_whose_change_is_being_sent_stays() {
    let sim = Sim::new(1);
    let clock = sim.clone();
    run(&sim, async move {
        let shared = owning(&["sent", "waits"]);
        queue(&shared, "sent", PendingChange::Delete);
        let work = shared.persist.take(clock.now()).unwrap();
        queue(&shared, "waits", PendingChange::Delete);
        let kept = give(&clock, &shared, &["sent", "waits"], &[]).await;
        assert_eq!(kept, [slot("sent")]);
        assert_eq!(shared.persist.totals().deletes, 1);
        let version = work.pending.version;
        let ended = crate::decisions::persist_queue::Outcome::Ended;
        shared
            .persist
            .finish(&work.place, version, ended, clock.now());
        let kept = give(&clock, &shared, &["sent"], &[]).await;
        assert!(kept.is_empty() && !shared.rights.owns(slot("sent")));
    });
}
