//! In how many zones copies end, whoever comes, goes or refuses.

use super::*;

fn made(worker: &Worker) -> u64 {
    worker.shared().stats.copies_made.load(Ordering::Relaxed)
}

fn failed(worker: &Worker) -> u64 {
    worker.shared().stats.copies_failed.load(Ordering::Relaxed)
}

fn misplaced(worker: &Worker) -> u64 {
    worker.shared().holders.misplaced()
}

fn names(cluster: &Cluster, name: &str) -> bool {
    let rows = cluster.metadata.holders.borrow();
    rows[&key("k")].iter().any(|at| at.node == node(name))
}

/// `a` owns all, in zone 1, as are the others of these names.
fn in_zone_one(cluster: &Cluster, others: &[&str]) -> Worker {
    let a = cluster.start("a", false);
    cluster.place("a", "1");
    own_all(&a);
    for other in others {
        cluster.start(other, false);
        cluster.place(other, "1");
    }
    cluster.run(&a);
    a
}

#[test]
fn one_copy_more_is_made_in_a_zone_that_came_later() {
    in_a_cluster(2, |cluster| async move {
        let a = in_zone_one(&cluster, &["b"]);
        let blob = cluster.put(&a, "k", 2).await.unwrap().extents[0].blob;
        cluster.wait(100).await;
        assert_eq!((made(&a), misplaced(&a)), (0, 0), "there is one zone");
        cluster.start("c", false);
        cluster.place("c", "2");
        let there = || {
            assert_eq!(missing(&a), 0, "its number is enough");
            cluster.having(blob, size_of(2)) == ["a", "b", "c"] && names(&cluster, "c")
        };
        cluster.until("in two zones", there).await;
        cluster.until("known", || misplaced(&a) == 0).await;
        // No more zones than copies.
        cluster.start("d", false);
        cluster.place("d", "3");
        cluster.wait(100).await;
        assert_eq!((made(&a), failed(&a), misplaced(&a)), (1, 0, 0));
    });
}

#[test]
fn a_zone_that_refused_gets_its_copy_when_it_does_no_more() {
    in_a_cluster(2, |cluster| async move {
        let a = in_zone_one(&cluster, &["c"]);
        for name in ["b", "d"] {
            cluster.start(name, false);
            cluster.place(name, "2");
        }
        let blob = cluster.put(&a, "k", 2).await.unwrap().extents[0].blob;
        assert_eq!(cluster.having(blob, size_of(2)), ["a", "b"]);
        cluster.cut("d", true);
        cluster.lose("b");
        // It is not waited for.
        let soon = || cluster.having(blob, size_of(2)) == ["a", "c"];
        cluster.until("two copies", soon).await;
        cluster.until("named", || missing(&a) == 0).await;
        assert_eq!(misplaced(&a), 1);
        cluster.wait(600).await;
        assert_eq!((missing(&a), misplaced(&a)), (0, 1));
        assert!(failed(&a) < 60, "{}", failed(&a));
        cluster.cut("d", false);
        cluster.until("known", || misplaced(&a) == 0).await;
        assert_eq!(cluster.having(blob, size_of(2)), ["a", "c", "d"]);
        assert!(names(&cluster, "d") && missing(&a) == 0);
        assert_eq!(made(&a), 2);
    });
}

#[test]
fn who_refuses_one_is_not_asked_for_all() {
    in_a_cluster(2, |cluster| async move {
        let a = in_zone_one(&cluster, &["b"]);
        let bodies = 500;
        for number in 0..bodies {
            cluster.put(&a, &format!("k{number}"), 1).await.unwrap();
        }
        cluster.start("c", false);
        cluster.place("c", "2");
        cluster.cut("c", true);
        cluster.until("seen", || misplaced(&a) == bodies).await;
        cluster.wait(600).await;
        assert!(failed(&a) < 100, "{}", failed(&a));
        // What lacks copies does not wait for it.
        cluster.start("d", false);
        cluster.place("d", "1");
        cluster.lose("b");
        cluster
            .until("copied again", || missing(&a) == bodies)
            .await;
        let now = cluster.sim.now();
        cluster.until("whole", || missing(&a) == 0).await;
        let took = cluster.sim.now() - now;
        assert!(took < Duration::from_secs(60), "{took:?}");
        cluster.cut("c", false);
        cluster.until("known", || misplaced(&a) == 0).await;
        assert_eq!((missing(&a), made(&a)), (0, 2 * bodies));
    });
}

#[test]
fn a_worker_that_was_away_gets_what_it_let_go_of() {
    in_a_cluster(2, |cluster| async move {
        let a = in_zone_one(&cluster, &["c"]);
        let b = cluster.start("b", false);
        cluster.place("b", "2");
        cluster.run(&b);
        let blob = cluster.put(&a, "k", 1).await.unwrap().extents[0].blob;
        cluster.lose("b");
        cluster.until("missed", || missing(&a) == 1).await;
        cluster.until("two copies", || missing(&a) == 0).await;
        assert_eq!((made(&a), misplaced(&a)), (1, 0), "its zone is gone");
        // The row does not name it any more.
        cluster.find("b");
        cluster.until("seen", || misplaced(&a) == 1).await;
        cluster.until("known", || misplaced(&a) == 0).await;
        assert_eq!(cluster.having(blob, size_of(1)), ["a", "b", "c"]);
        assert!(names(&cluster, "b") && missing(&a) == 0);
    });
}

#[test]
fn what_an_attempt_before_left_there_is_not_in_the_way() {
    in_a_cluster(2, |cluster| async move {
        let a = in_zone_one(&cluster, &["b"]);
        let blob = cluster.put(&a, "k", 1).await.unwrap().extents[0].blob;
        let c = cluster.start("c", false);
        cluster.run(&c);
        // It was flushed after its owner had stopped waiting, and had said so.
        let of = CopyOf {
            bucket: cluster.bucket.id,
            key: key("k"),
            blob,
            part: None,
            owner: Some(CopyAt {
                node: node("a"),
                session: 1,
            }),
        };
        let mut late = c.keep_copy(of, size_of(1)).unwrap();
        late.write(SimBuffer(content_of(1))).await.unwrap();
        late.finish(SimBuffer(vec![1])).await.unwrap();
        cluster.place("c", "2");
        cluster.until("seen", || misplaced(&a) == 1).await;
        cluster.until("known", || misplaced(&a) == 0).await;
        assert!(names(&cluster, "c") && c.has_copy(blob, size_of(1)));
    });
}
