//! Copies that no row names any more, because others were named in their place before their
//! holders had seen that they were: they go, and what is needed stays.

use super::*;

/// `a` owns the key `k`, of whose body `b` had a copy until it was drained a moment later, and
/// `c` has one by now. Nobody but `a` has looked at what it has.
async fn one_that_was_dropped(cluster: &Cluster) -> (Worker, Worker, BlobId) {
    let a = cluster.start("a", false);
    own_all(&a);
    let b = cluster.start("b", false);
    let blob = cluster.put(&a, "k", 2).await.unwrap().extents[0].blob;
    cluster.start("c", false);
    cluster.drain("b", true);
    cluster.run(&a);
    cluster.until("copied to c", || missing(&a) == 0).await;
    (a, b, blob)
}

/// Whether the row of `k` names a worker.
fn names(cluster: &Cluster, name: &str) -> bool {
    let holders = cluster.metadata.holders.borrow();
    holders[&key("k")].iter().any(|at| at.node == node(name))
}

fn keeps_nothing(worker: &Worker) -> bool {
    worker.shared().kept.totals() == (0, 0)
}

#[test]
fn a_holder_that_was_replaced_before_its_first_look_lets_go() {
    in_a_cluster(2, |cluster| async move {
        let (a, b, blob) = one_that_was_dropped(&cluster).await;
        cluster.run(&b);
        cluster.until("let go", || keeps_nothing(&b)).await;
        assert_eq!(cluster.having(blob, size_of(2)), ["a", "c"]);
        assert!(cluster.read(&a, "k").await == content_of(2));
    });
}

#[test]
fn a_holder_that_was_replaced_while_it_could_not_be_told_lets_go_later() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        let b = cluster.start("b", false);
        let blob = cluster.put(&a, "k", 2).await.unwrap().extents[0].blob;
        cluster.start("c", false);
        cluster.cut("b", true);
        cluster.drain("b", true);
        cluster.run(&a);
        cluster.until("copied to c", || missing(&a) == 0).await;
        cluster.run(&b);
        cluster.wait(600).await;
        assert!(!keeps_nothing(&b), "nobody says that it may go");
        cluster.cut("b", false);
        cluster.until("let go", || keeps_nothing(&b)).await;
        assert_eq!(cluster.having(blob, size_of(2)), ["a", "c"]);
    });
}

#[test]
fn a_holder_that_was_replaced_takes_the_body_in_again_and_keeps_it() {
    in_a_cluster(2, |cluster| async move {
        let (a, b, blob) = one_that_was_dropped(&cluster).await;
        // The only one left to copy to; it is told to look at the same time.
        cluster.drain("b", false);
        cluster.lose("c");
        cluster.run(&b);
        let back = || missing(&a) == 0 && names(&cluster, "b");
        cluster.until("back", back).await;
        cluster.wait(600).await;
        assert!(back());
        assert_eq!(cluster.having(blob, size_of(2)), ["a", "b"]);
    });
}

#[test]
fn a_copy_of_a_change_under_way_stays_however_long_it_takes() {
    in_a_cluster(2, |cluster| async move {
        let a = cluster.start("a", false);
        own_all(&a);
        let b = cluster.start("b", false);
        let blob = cluster.put(&a, "k", 1).await.unwrap().extents[0].blob;
        let c = cluster.start("c", false);
        for worker in [&a, &b, &c] {
            cluster.run(worker);
        }
        // The row is there with this body, and does not name its third copy for long.
        let late = Duration::from_secs(300);
        cluster.metadata.named_waits.set(late);
        cluster.drain("b", true);
        let copied = || c.has_copy(blob, size_of(1));
        cluster.until("copied", copied).await;
        cluster.wait(200).await;
        assert!(copied() && !names(&cluster, "c"));
        assert!(b.has_copy(blob, size_of(1)) && names(&cluster, "b"));
        cluster.until("named", || names(&cluster, "c")).await;
        cluster.metadata.named_waits.set(Duration::ZERO);
        cluster.until("let go", || keeps_nothing(&b)).await;
        cluster.wait(600).await;
        assert_eq!(cluster.having(blob, size_of(1)), ["a", "c"]);
        assert_eq!(missing(&a), 0);
    });
}
