//! What was begun, said or asked before others had a slot, and arrives after it.

use std::pin::pin;

use futures_util::FutureExt;

use super::*;

#[test]
fn a_change_that_was_begun_before_its_slot_was_lost_is_not_made() {
    in_a_cluster(1, |cluster| async move {
        let a = cluster.start("a", false);
        a.shared().rights.started();
        own_all(&a);
        let before = cluster.put(&a, "k", 1).await.unwrap();
        let tags = || vec![("t".to_owned(), "1".to_owned())];
        let tagged = |k| {
            let objects = cluster.metadata.objects.borrow();
            objects
                .get(&key(k))
                .is_some_and(|record| record.tags == tags())
        };
        // It looks at what is there, under the lock of the slot.
        a.shared().forget_objects();
        let bucket = &cluster.bucket;
        let of = key("k");
        let mut late = pin!(a.set_tags(bucket, &of, tags()));
        assert!(late.as_mut().now_or_never().is_none());
        let all: Vec<usize> = (0..SLOTS).collect();
        a.shared().lose_slots(&all);
        // By the table it is this worker's again: only its lock is not.
        own_all(&a);
        late.await.unwrap_err();
        assert!(!tagged("k"));
        let now = cluster.metadata.objects.borrow()[&key("k")].version;
        assert_eq!(now, before.version);
        // What takes the lock next is as good as any.
        for slot in a.shared().stuck() {
            a.shared().release(slot);
        }
        a.set_tags(bucket, &of, tags()).await.unwrap();
        assert!(tagged("k"));
    });
}

/// `a` owns the key `k`, of whose body `b` has a copy; `c`, the second of the answer, came later.
async fn one_that_may_get_a_copy(cluster: &Cluster) -> (Worker, Worker, BlobId) {
    let a = cluster.start("a", false);
    own_all(&a);
    cluster.start("b", false);
    let blob = cluster.put(&a, "k", 2).await.unwrap().extents[0].blob;
    let c = cluster.start("c", false);
    cluster.run(&a);
    cluster.run(&c);
    (a, c, blob)
}

#[test]
fn a_copier_names_nobody_by_what_it_knew_before_others_had_the_slot() {
    in_a_cluster(2, |cluster| async move {
        let (a, c, blob) = one_that_may_get_a_copy(&cluster).await;
        cluster.metadata.named_waits.set(Duration::from_secs(5));
        cluster.lose("b");
        let tick = Duration::from_micros(10);
        while !c.shared().kept.has(blob) {
            cluster.sim.sleep(tick).await;
        }
        assert!(!c.has_copy(blob, size_of(2)), "it is on its way");
        // Another has the slot, and gives it back.
        let of = slot_of(cluster.bucket.id, &key("k"));
        a.shared().note_taken(of, cluster.sim.now()).await;
        let failed = || a.shared().stats.copies_failed.load(Ordering::Relaxed);
        cluster.until("refused", || failed() > 0).await;
        let row = cluster.metadata.holders.borrow()[&key("k")].clone();
        assert!(row.iter().all(|at| at.node != node("c")), "{row:?}");
        // By what is known now it is done.
        cluster.until("again", || missing(&a) == 0).await;
        let row = cluster.metadata.holders.borrow()[&key("k")].clone();
        assert!(row.iter().any(|at| at.node == node("c")), "{row:?}");
        assert!(c.has_copy(blob, size_of(2)));
    });
}

#[test]
fn a_late_word_of_a_failed_attempt_takes_no_copy_that_is_named() {
    in_a_cluster(2, |cluster| async move {
        let (a, c, blob) = one_that_may_get_a_copy(&cluster).await;
        // Between the copy and the row that names it, its holder is told to look.
        cluster.metadata.named_waits.set(Duration::from_secs(5));
        cluster.lose("b");
        let here = || c.has_copy(blob, size_of(2));
        cluster.until("copied", here).await;
        c.look_at_copies(&[blob]);
        cluster.until("let go", || !here()).await;
        let named = || {
            let holders = cluster.metadata.holders.borrow();
            holders[&key("k")].iter().any(|at| at.node == node("c"))
        };
        cluster.until("named all the same", named).await;
        cluster.metadata.named_waits.set(Duration::ZERO);
        cluster.until("copied again", here).await;
        cluster.until("known", || missing(&a) == 0).await;
        // What is said of it now changes nothing.
        c.look_at_copies(&[blob]);
        cluster.wait(600).await;
        assert!(here() && missing(&a) == 0);
    });
}
