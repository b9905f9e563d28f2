//! Copies of what no UFS has: how often they are there after workers were lost, came back
//! with nothing, or answered late.

mod dropped;
mod late;
mod parts;
mod world;
mod zones;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_engine::io::Disk;
use quickwater_engine::{Copied, FlowError};
use quickwater_proto::*;

use self::world::*;
use crate::scenarios::{content_of, key};
use crate::world::SimBuffer;

fn missing(worker: &Worker) -> u64 {
    worker.shared().holders.missing().0
}

#[test]
fn a_copy_noted_after_its_holder_came_back_empty_is_made_again() {
    in_a_cluster(3, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        cluster.start("c", false);
        cluster.run(&a);
        // The answer to the commit is on its way, while a holder is lost and comes back.
        cluster.metadata.copied_late.set(Duration::from_secs(30));
        let (late, put) = (cluster.clone(), a.clone());
        let blob = Rc::new(Cell::new(None));
        let seen = Rc::clone(&blob);
        cluster.sim.spawn(async move {
            let record = late.put(&put, "k", 2).await.unwrap();
            seen.set(Some(record.extents[0].blob));
        });
        cluster.wait(10).await;
        let b = cluster.start("b", true);
        cluster.wait(10).await;
        assert_eq!(blob.get(), None, "the answer is late");
        cluster.until("the answer", || blob.get().is_some()).await;
        let (blob, bytes) = (blob.get().unwrap(), size_of(2));
        assert!(!b.has_copy(blob, bytes) && a.has_copy(blob, bytes));
        cluster
            .until("three copies", || cluster.having(blob, bytes).len() == 3)
            .await;
        cluster.until("known", || missing(&a) == 0).await;
        let holders = cluster.metadata.holders.borrow()[&key("k")].clone();
        let session = |name| {
            holders
                .iter()
                .find(|at| at.node == node(name))
                .unwrap()
                .session
        };
        assert_eq!((session("b"), session("c")), (2, 1));
    });
}

#[test]
fn what_a_row_says_is_asked_for_in_few_messages() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        let mut blobs = Vec::new();
        for number in 0..300u64 {
            let record = cluster.put(&a, &format!("k{number}"), 1).await.unwrap();
            blobs.push((number, record.extents[0].blob));
        }
        // A new owner knows of them by their rows.
        for (number, blob) in &blobs {
            let copied = Copied {
                bucket: BucketId(1),
                key: key(&format!("k{number}")),
                part: None,
                bytes: size_of(1),
                copies: 2,
                others: [CopyAt {
                    node: node("b"),
                    session: 0,
                }]
                .into(),
            };
            a.shared().holders.note(*blob, copied);
        }
        assert_eq!(missing(&a), 300);
        cluster.run(&a);
        cluster.until("all asked for", || missing(&a) == 0).await;
        let (bodies, messages) = cluster.asked("b");
        assert_eq!(bodies, 300);
        assert!(messages <= 2, "{messages}");
        assert_eq!(a.shared().stats.copies_made.load(Ordering::Relaxed), 0);
        // Half of them are gone there.
        let seat = cluster.start("b", false);
        for (_, blob) in blobs.iter().take(150) {
            seat.disk().forget(*blob, 1);
        }
        cluster
            .until("it is seen", || cluster.asked("b").0 == 300)
            .await;
        cluster.until("all back", || missing(&a) == 0).await;
        for (_, blob) in &blobs {
            assert!(seat.has_copy(*blob, size_of(1)));
        }
        assert_eq!(a.shared().stats.copies_made.load(Ordering::Relaxed), 150);
    });
}

#[test]
fn a_worker_that_does_not_answer_keeps_the_others_bodies_from_nothing() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        let on_b = cluster.put(&a, "b", 1).await.unwrap().extents[0].blob;
        cluster.start("c", false);
        cluster.cut("b", true);
        let on_c = cluster.put(&a, "c", 1).await.unwrap().extents[0].blob;
        cluster.run(&a);
        cluster.cut("b", false);
        // It is in a new session and cannot be asked: it may have nothing.
        cluster.start("b", false);
        cluster.cut("b", true);
        cluster.wait(2).await;
        cluster.lose("c");
        cluster.start("d", false);
        cluster
            .until("back on d", || {
                cluster.having(on_c, size_of(1)).contains(&"d".into())
            })
            .await;
        cluster
            .until("not counted on for ever", || {
                cluster.having(on_b, size_of(1)).contains(&"d".into())
            })
            .await;
        cluster.until("known", || missing(&a) == 0).await;
    });
}

#[test]
fn with_nobody_to_copy_to_it_waits_and_goes_on_at_once() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        let blob = cluster.put(&a, "k", 2).await.unwrap().extents[0].blob;
        cluster.run(&a);
        cluster.lose("b");
        cluster.wait(600).await;
        assert_eq!(a.shared().holders.missing(), (1, size_of(2)));
        let failed = a.shared().stats.copies_failed.load(Ordering::Relaxed);
        assert_eq!(failed, 0, "there was nobody to fail");
        cluster.start("c", false);
        cluster.wait(2).await;
        assert_eq!(cluster.having(blob, size_of(2)), ["a", "c"]);
        assert_eq!(missing(&a), 0);
    });
}

#[test]
fn attempts_become_rarer_and_go_on() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        let blob = cluster.put(&a, "k", 1).await.unwrap().extents[0].blob;
        cluster.run(&a);
        cluster.lose("b");
        cluster.metadata.copies_refused.set(true);
        let c = cluster.start("c", false);
        // What it took in is let go after each attempt.
        cluster.run(&c);
        cluster.wait(600).await;
        let failed = a.shared().stats.copies_failed.load(Ordering::Relaxed);
        assert!((10..60).contains(&failed), "{failed}");
        assert_eq!(missing(&a), 1);
        cluster.metadata.copies_refused.set(false);
        cluster
            .until("copied in the end", || missing(&a) == 0)
            .await;
        assert_eq!(cluster.having(blob, size_of(1)), ["a", "c"]);
    });
}

#[test]
fn what_is_not_current_any_more_is_forgotten() {
    in_a_cluster(3, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        let b = cluster.start("b", false);
        cluster.start("c", false);
        let record = cluster.put(&a, "k", 1).await.unwrap();
        assert_eq!(b.shared().kept.totals().0, 1);
        // It ended while it was on its way to be looked at.
        let persisted = ObjectRecord {
            persist: PersistState::Persisted,
            ..record
        };
        let objects = &cluster.metadata.objects;
        objects.borrow_mut().insert(key("k"), persisted);
        cluster.lose("c");
        cluster.start("d", false);
        cluster.run(&a);
        cluster.run(&b);
        cluster
            .until("forgotten", || a.shared().holders.blobs() == 0)
            .await;
        cluster
            .until("kept by nobody", || b.shared().kept.totals().0 == 0)
            .await;
        assert_eq!(missing(&a), 0);
        assert_eq!(a.shared().stats.copies_made.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn our_own_copy_is_made_again_when_it_is_missed() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        let blob = cluster.put(&a, "k", 2).await.unwrap().extents[0].blob;
        cluster.run(&a);
        a.disk().forget(blob, 3);
        assert!(cluster.read(&a, "k").await == content_of(2));
        cluster
            .until("here again", || a.has_copy(blob, size_of(2)))
            .await;
        cluster.until("known", || missing(&a) == 0).await;
    });
}

#[test]
fn what_is_noted_of_a_slot_that_is_being_taken_stays() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        cluster.start("b", false);
        let record = cluster.put(&a, "k", 1).await.unwrap();
        let blob = record.extents[0].blob;
        a.shared().holders.note(blob, copied(&[]));
        assert_eq!(a.shared().holders.blobs(), 0);
        // Another had the slot meanwhile; its row is read while the copier goes round.
        (0..SLOTS).for_each(|slot| a.shared().rights.set(slot, false));
        a.shared().rights.started();
        cluster.run(&a);
        let (of, sim) = (a.clone(), cluster.sim.clone());
        let look = |_| {
            let (of, sim) = (of.clone(), sim.clone());
            async move {
                let at = CopyAt {
                    node: node("b"),
                    session: 0,
                };
                of.shared().holders.note(blob, copied(&[at]));
                sim.sleep(Duration::from_secs(10)).await;
            }
        };
        let slots: Vec<usize> = (0..SLOTS).collect();
        let pause = || sim.sleep(Duration::from_millis(100));
        a.shared()
            .take_slots(&slots, || sim.now(), look, pause)
            .await;
        assert_eq!(a.shared().holders.blobs(), 1);
        cluster.until("asked for", || missing(&a) == 0).await;
        (0..SLOTS).for_each(|slot| a.shared().rights.set(slot, false));
        cluster
            .until("forgotten", || a.shared().holders.blobs() == 0)
            .await;
    });
}

/// The object `k` of value 1, which these others have.
fn copied(others: &[CopyAt]) -> Copied {
    Copied {
        bucket: BucketId(1),
        key: key("k"),
        part: None,
        bytes: size_of(1),
        copies: others.len() + 1,
        others: others.into(),
    }
}

#[test]
fn an_empty_object_needs_as_many_workers_as_any() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        let refused = cluster.put_empty(&a, "k").await.unwrap_err();
        assert!(refused.to_string().contains("2 copies and 1"), "{refused}");
        assert_eq!(a.shared().stats.copies_refused.load(Ordering::Relaxed), 1);
        cluster.start("b", false);
        cluster.put_empty(&a, "k").await.unwrap();
    });
}

#[test]
fn bytes_of_a_change_that_was_not_made_go_when_their_session_is_over() {
    for made in [false, true] {
        in_a_cluster(1, move |cluster| async move {
            let a = cluster.start("a", false);
            own_all(&a);
            cluster.run(&a);
            cluster.metadata.journaled_unknown.set(Some(made));
            let unknown = cluster.put(&a, "k", 2).await.unwrap_err();
            assert!(matches!(unknown, FlowError::Unknown(_)), "{unknown}");
            let blob = cluster.metadata.blob_of_entry(1);
            assert!(a.has_copy(blob, size_of(2)));
            // A commit of this session may still be on its way.
            cluster.wait(600).await;
            assert!(a.has_copy(blob, size_of(2)));
            cluster.next_session("a");
            a.shared().kept.fence(cluster.sim.now());
            match made {
                false => {
                    cluster
                        .until("gone", || !a.has_copy(blob, size_of(2)))
                        .await
                }
                true => cluster.wait(600).await,
            }
            assert_eq!(a.has_copy(blob, size_of(2)), made);
        });
    }
}

/// A PUT of `k` whose commit is on its way, and is refused in the end; its bytes, and
/// whether it has ended.
async fn refused_later(cluster: &Cluster, worker: &Worker) -> (BlobId, Rc<Cell<bool>>) {
    let (late, put) = (cluster.clone(), worker.clone());
    let ended = Rc::new(Cell::new(false));
    let seen = Rc::clone(&ended);
    cluster.sim.spawn(async move {
        late.put(&put, "k", 2).await.unwrap_err();
        seen.set(true);
    });
    cluster.wait(30).await;
    (cluster.metadata.blob_of_entry(1), ended)
}

#[test]
fn bytes_let_go_with_a_lost_slot_are_never_acked_when_it_is_back() {
    in_a_cluster(1, |cluster| async move {
        let a = cluster.start("a", false);
        a.shared().rights.started();
        own_all(&a);
        cluster.run(&a);
        // The commit waits for a control plane that is away, until the lease is over.
        let away = Duration::from_secs(120);
        cluster.metadata.journaled_waits.set(away);
        let (blob, ended) = refused_later(&cluster, &a).await;
        assert!(a.has_copy(blob, size_of(2)));
        let lost: Vec<usize> = (0..SLOTS).collect();
        a.shared().lose_slots(&lost);
        let left = CopyOf {
            bucket: cluster.bucket.id,
            key: key("k"),
            blob,
            part: None,
            owner: None,
        };
        let now = cluster.sim.now();
        a.shared().kept.keep(left, size_of(2), false, now);
        cluster.next_session("a");
        own_all(&a);
        cluster
            .until("let go", || !a.has_copy(blob, size_of(2)))
            .await;
        assert!(!ended.get(), "the commit comes later");
        cluster.until("refused", || ended.get()).await;
        assert!(cluster.metadata.objects.borrow().is_empty());
        // The slot is as good as before.
        cluster.metadata.journaled_waits.set(Duration::ZERO);
        cluster.put(&a, "k", 3).await.unwrap();
        assert_eq!(cluster.read(&a, "k").await, content_of(3));
    });
}

#[test]
fn copies_let_go_are_never_named_by_a_commit_that_comes_later() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        let b = cluster.start("b", false);
        cluster.run(&a);
        cluster.run(&b);
        // The commit waits for a control plane that is away, until the owner has another
        // session: then it is sent again.
        cluster.metadata.copied_waits.set(Duration::from_secs(120));
        let (blob, ended) = refused_later(&cluster, &a).await;
        // Nobody says that no commit of it is under way: it stays.
        assert_eq!(cluster.having(blob, size_of(2)), ["a", "b"]);
        cluster.next_session("a");
        cluster
            .until("let go", || cluster.having(blob, size_of(2)) == ["a"])
            .await;
        assert!(!ended.get(), "the commit comes later");
        cluster.until("refused", || ended.get()).await;
        let none = a.resolve(&cluster.bucket, &key("k"), true).await;
        assert_eq!(none.unwrap_err(), FlowError::NoSuchKey);
        assert!(cluster.metadata.objects.borrow().is_empty());
    });
}

#[test]
fn a_keeper_in_a_new_session_drops_what_no_row_names() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        let b = cluster.start("b", false);
        let blob = cluster.put(&a, "k", 1).await.unwrap().extents[0].blob;
        // It froze; its copy was made elsewhere, and nobody could tell it.
        let row = vec![CopyAt {
            node: node("a"),
            session: 1,
        }];
        cluster.metadata.holders.borrow_mut().insert(key("k"), row);
        cluster.run(&b);
        cluster.wait(600).await;
        assert!(b.has_copy(blob, size_of(1)), "its owner may still name it");
        cluster.next_session("b");
        b.shared().kept.fence(cluster.sim.now());
        cluster
            .until("gone", || !b.has_copy(blob, size_of(1)))
            .await;
        assert_eq!(b.shared().kept.totals(), (0, 0));
    });
}

#[test]
fn a_second_attempt_at_a_copy_takes_nothing_of_the_first_along() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        let b = cluster.start("b", false);
        let record = cluster.put(&a, "k", 2).await.unwrap();
        let (blob, bytes) = (record.extents[0].blob, size_of(2));
        let of = || CopyOf {
            bucket: BucketId(1),
            key: key("k"),
            blob,
            part: None,
            owner: None,
        };
        // Whole already: refused, and what is there stays.
        assert!(b.keep_copy(of(), bytes).is_err());
        // Another body: one attempt at a time, whichever ends first.
        let other = || CopyOf {
            blob: BlobId(77),
            ..of()
        };
        let first = b.keep_copy(other(), 10).unwrap();
        assert!(b.keep_copy(other(), 10).is_err(), "one is on its way");
        drop(first);
        let mut second = b.keep_copy(other(), 10).unwrap();
        second.write(SimBuffer(vec![7; 10])).await.unwrap();
        assert!(b.keep_copy(other(), 10).is_err());
        second.finish(SimBuffer(vec![1])).await.unwrap();
        assert!(b.keep_copy(other(), 10).is_err());
        assert!(b.has_copy(BlobId(77), 10) && b.has_copy(blob, bytes));
        // One that breaks off forgets what came of it, and nothing else.
        let third = || CopyOf {
            blob: BlobId(78),
            ..of()
        };
        let mut broken = b.keep_copy(third(), 10).unwrap();
        broken.write(SimBuffer(vec![7; 10])).await.unwrap();
        drop(broken);
        assert!(!b.has_copy(BlobId(78), 10));
        assert!(b.has_copy(BlobId(77), 10) && b.has_copy(blob, bytes));
    });
}
