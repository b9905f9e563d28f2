//! What the queue gives out, when, and in which order.

use super::*;

const BUCKET: BucketId = BucketId(1);

fn queue() -> PersistQueue {
    PersistQueue::new(PersistConfig {
        retry_initial: Duration::from_secs(1),
        retry_max: Duration::from_secs(60),
        running_max: 3,
        bucket_running_max: 2,
        running_chunks_max: 8,
        changes_max: 100,
        memory_bytes: 1 << 20,
        part_bytes: 1 << 20,
    })
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn place(key: &str) -> Place {
    (BUCKET, ObjectKey::new(key).unwrap())
}

fn put(version: u128) -> PendingRecord {
    PendingRecord {
        version: Version(version),
        change: PendingChange::Put { size: 10 },
        since_ms: version as i64,
        superseded: false,
    }
}

fn delete(version: u128) -> PendingRecord {
    PendingRecord {
        change: PendingChange::Delete,
        ..put(version)
    }
}

fn fail(late: Option<u64>) -> Outcome {
    Outcome::Failed {
        error: "no".into(),
        late: late.map(at),
    }
}

#[test]
fn large_objects_wait_for_memory_in_their_order_and_small_ones_pass() {
    let queue = PersistQueue::new(PersistConfig {
        bucket_running_max: 10,
        running_max: 10,
        running_chunks_max: 8,
        ..PersistConfig::default()
    });
    let sized = |version, size| PendingRecord {
        change: PendingChange::Put { size },
        ..put(version)
    };
    // Of 8 chunks of memory the first takes 5, however large it is.
    for (version, key, mib) in [(1, "a", 1000), (2, "b", 4), (3, "c", 1)] {
        queue.enqueue(place(key), sized(version, mib << 20), at(0), None);
    }
    queue.enqueue(place("d"), put(4), at(0), None);
    let first = queue.take(at(0)).unwrap();
    assert_eq!(first.place, place("a"));
    // `c` would have room, but not before `b`; `d` needs none.
    assert_eq!(queue.take(at(0)).unwrap().place, place("d"));
    assert!(queue.take(at(0)).is_none());
    queue.finish(&place("a"), Version(1), Outcome::Ended, at(1));
    assert_eq!(queue.take(at(1)).unwrap().place, place("b"));
    assert_eq!(queue.take(at(1)).unwrap().place, place("c"));
    // Larger than all memory there may be: alone it is sent.
    queue.finish(&place("b"), Version(2), Outcome::Ended, at(1));
    queue.finish(&place("c"), Version(3), Outcome::Ended, at(1));
    let tight = PersistQueue::new(PersistConfig {
        running_chunks_max: 2,
        ..PersistConfig::default()
    });
    tight.enqueue(place("e"), sized(5, 1 << 30), at(0), None);
    assert!(tight.take(at(0)).is_some());
}

#[test]
fn changes_go_out_oldest_first_one_per_key_and_within_the_limits() {
    let queue = queue();
    for (number, key) in ["a", "b", "c"].into_iter().enumerate() {
        queue.enqueue(place(key), put(number as u128 + 1), at(0), None);
    }
    queue.enqueue((BucketId(2), place("x").1), put(9), at(0), None);
    let first = queue.take(at(0)).unwrap();
    let second = queue.take(at(0)).unwrap();
    assert_eq!((first.place, second.place), (place("a"), place("b")));
    // Bucket 1 sends two at a time; another bucket goes on.
    assert_eq!(queue.take(at(0)).unwrap().place.0, BucketId(2));
    assert!(queue.take(at(0)).is_none());
    assert_eq!(queue.totals().running, 3);
    queue.finish(&place("a"), Version(1), Outcome::Ended, at(0));
    assert_eq!(queue.take(at(0)).unwrap().place, place("c"));
    let totals = queue.totals();
    assert_eq!((totals.puts, totals.bytes), (3, 30));
    assert_eq!(totals.oldest_ms, Some(2));
}

#[test]
fn a_newer_change_waits_for_the_one_being_sent_and_then_goes_at_once() {
    let queue = queue();
    queue.enqueue(place("a"), put(1), at(0), None);
    let work = queue.take(at(0)).unwrap();
    queue.enqueue(place("a"), put(2), at(1), None);
    assert!(queue.take(at(1)).is_none());
    queue.finish(&work.place, Version(1), Outcome::Ended, at(2));
    let work = queue.take(at(2)).unwrap();
    assert_eq!((work.pending.version, work.unanswered), (Version(2), None));
    queue.finish(&work.place, Version(2), Outcome::Ended, at(2));
    assert_eq!(queue.totals(), QueueTotals::default());
}

#[test]
fn an_unanswered_request_holds_back_other_changes_of_its_key_only() {
    let queue = queue();
    queue.enqueue(place("a"), put(1), at(0), None);
    queue.take(at(0)).unwrap();
    queue.finish(&place("a"), Version(1), fail(Some(900)), at(0));
    // The same change may be sent again: it can do no harm.
    let work = queue.take(at(2)).unwrap();
    assert_eq!(work.unanswered, Some(at(900)));
    queue.enqueue(place("a"), delete(2), at(3), None);
    queue.finish(&place("a"), Version(1), Outcome::Ended, at(3));
    queue.hurry(BUCKET, &place("a").1, at(4));
    assert!(queue.take(at(899)).is_none());
    assert_eq!(queue.take(at(900)).unwrap().pending, delete(2));
}

#[test]
fn what_was_acked_while_an_older_request_may_live_is_kept_until_that_is_dead() {
    let queue = queue();
    queue.enqueue(place("a"), put(1), at(0), None);
    queue.take(at(0)).unwrap();
    queue.finish(&place("a"), Version(1), fail(Some(900)), at(0));
    let work = queue.take(at(2)).unwrap();
    let settling = Outcome::Settling {
        until: work.unanswered.unwrap(),
        until_ms: 7,
    };
    queue.finish(&place("a"), Version(1), settling, at(3));
    let pending = queue.pending(BUCKET, &place("a").1).unwrap();
    assert_eq!(pending.change, PendingChange::Settling { until_ms: 7 });
    assert_eq!(queue.totals().puts, 0);
    queue.enqueue(place("a"), put(2), at(4), None);
    assert!(queue.take(at(899)).is_none());
    assert_eq!(queue.take(at(900)).unwrap().pending.version, Version(2));
}

#[test]
fn a_held_object_keeps_the_fence_of_what_it_replaced() {
    let queue = queue();
    let held = |superseded| PendingRecord {
        change: PendingChange::Hold { size: 10 },
        superseded,
        ..put(2)
    };
    let (bucket, key) = place("a");
    queue.load(bucket, key.clone(), held(false), (at(0), 0), Some(at(900)));
    assert_eq!(queue.pending(bucket, &key), None);
    queue.load(bucket, key.clone(), held(true), (at(0), 0), None);
    assert_eq!(queue.pending(bucket, &key), None, "nothing outlived us");
    queue.load(bucket, key.clone(), held(true), (at(0), 0), Some(at(900)));
    queue.enqueue(place("a"), put(3), at(1), None);
    queue.hurry(bucket, &key, at(2));
    assert!(queue.take(at(899)).is_none());
    assert_eq!(queue.take(at(900)).unwrap().pending.version, Version(3));
}

#[test]
fn who_hurries_a_change_wakes_nobody_when_it_is_due_already() {
    use futures_util::FutureExt;
    let queue = queue();
    queue.enqueue(place("a"), put(1), at(5), None);
    let (bucket, key) = place("a");
    let woken = queue.listen();
    queue.hurry(bucket, &key, at(6));
    assert_eq!(queue.retry_all(&QueueScope::bucket(bucket), at(6)), 0);
    assert!(
        woken.now_or_never().is_none(),
        "or it would wake itself for ever"
    );
    queue.take(at(6)).unwrap();
    queue.finish(&place("a"), Version(1), fail(None), at(6));
    let woken = queue.listen();
    queue.hurry(bucket, &key, at(6));
    assert!(woken.now_or_never().is_some());
    assert!(queue.take(at(6)).is_some());
}

#[test]
fn failures_are_tried_again_for_ever_with_growing_waits() {
    let queue = queue();
    queue.enqueue(place("a"), put(1), at(0), None);
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..40 {
        queue.take(now).unwrap();
        queue.finish(&place("a"), Version(1), fail(None), now);
        let due = queue.next_due().unwrap();
        waits.push(due - now);
        now = due;
    }
    assert!(waits[0] >= at(1) / 2 && waits[0] <= at(1));
    assert!(waits[20..].iter().all(|w| *w >= at(30) && *w <= at(60)));
    let shown = queue.stat(BUCKET, &place("a").1, now).unwrap();
    assert_eq!((shown.attempts, shown.error.as_deref()), (40, Some("no")));
    assert_eq!(queue.retry_all(&QueueScope::bucket(BUCKET), now - at(1)), 1);
    assert!(queue.take(now - at(1)).is_some());
}

#[test]
fn an_attempt_under_way_when_all_is_hurried_is_followed_by_the_next_at_once() {
    let queue = queue();
    let all = QueueScope::bucket(BUCKET);
    for (version, key) in [(1, "a"), (2, "b")] {
        queue.enqueue(place(key), put(version), at(0), None);
        queue.take(at(0)).unwrap();
    }
    // It is not waiting, so it is not counted; another path is not hurried.
    let other = QueueScope::path(BUCKET, "b");
    assert_eq!(queue.retry_all(&other, at(1)), 0);
    assert_eq!(queue.retry_all(&QueueScope::bucket(BucketId(2)), at(1)), 0);
    queue.finish(&place("a"), Version(1), fail(None), at(2));
    assert!(queue.take(at(2)).is_none());
    queue.finish(&place("b"), Version(2), fail(None), at(2));
    assert_eq!(queue.take(at(2)).unwrap().place, place("b"));
    // Once: what fails again waits as ever.
    queue.finish(&place("b"), Version(2), fail(None), at(2));
    assert!(queue.take(at(2)).is_none());
    assert_eq!(
        queue.stat(BUCKET, &place("b").1, at(2)).unwrap().attempts,
        2
    );
    // A request without an answer keeps its time, whoever is in a hurry.
    assert_eq!(queue.retry_all(&all, at(2)), 2);
    queue.take(at(2)).unwrap();
    queue.take(at(2)).unwrap();
    queue.retry_all(&all, at(3));
    queue.enqueue(place("a"), put(3), at(3), None);
    queue.finish(&place("a"), Version(1), fail(Some(900)), at(4));
    queue.finish(&place("b"), Version(2), Outcome::Ended, at(4));
    assert!(queue.take(at(899)).is_none());
    assert_eq!(queue.take(at(900)).unwrap().pending.version, Version(3));
}

#[test]
fn deletes_are_found_by_prefix() {
    let queue = queue();
    queue.enqueue(place("a/b/c"), delete(1), at(0), None);
    queue.enqueue(place("a/c"), put(2), at(0), None);
    for (prefix, there) in [
        ("", true),
        ("a/", true),
        ("a/b/", true),
        ("a/c", false),
        ("b", false),
    ] {
        assert_eq!(queue.deletes_below(BUCKET, prefix), there, "{prefix}");
    }
    assert!(!queue.deletes_below(BucketId(2), ""));
    queue.enqueue(place("a/b/c"), put(3), at(0), None);
    assert!(!queue.deletes_below(BUCKET, ""));
}

#[test]
fn a_restart_does_not_know_what_was_sent() {
    let queue = queue();
    let fence = Some(at(900));
    // This very change may have been sent; another one must wait, it may not.
    queue.load(BUCKET, place("a").1, put(1), (at(0), 0), fence);
    assert_eq!(queue.take(at(0)).unwrap().unanswered, Some(at(900)));
    // An older change may have been sent.
    let superseded = PendingRecord {
        superseded: true,
        ..put(2)
    };
    queue.load(BUCKET, place("b").1, superseded, (at(0), 0), fence);
    let held = PendingRecord {
        change: PendingChange::Hold { size: 1 },
        ..put(3)
    };
    queue.load(BUCKET, place("c").1, held, (at(0), 0), fence);
    assert_eq!(queue.totals().puts, 2);
    assert!(queue.take(at(899)).is_none());
    assert!(queue.take(at(900)).is_some());
}

#[test]
fn what_fails_when_it_is_anothers_is_forgotten_unless_it_came_back() {
    let queue = queue();
    queue.enqueue(place("a"), put(1), at(0), None);
    let work = queue.take(at(0)).unwrap();
    // Its slot was lost while it was sent.
    queue.forget(|_, _| true);
    assert_eq!((queue.totals().puts, queue.totals().running), (1, 1));
    queue.leave(&work, fail(Some(900)), at(1));
    assert_eq!(queue.totals(), QueueTotals::default());
    assert!(queue.slots().is_empty() && queue.take(at(3600)).is_none());
    // The same, and the slot came back before the attempt ended.
    queue.enqueue(place("a"), put(1), at(0), None);
    let work = queue.take(at(0)).unwrap();
    queue.forget(|_, _| true);
    queue.load(BUCKET, place("a").1, put(1), (at(1), 0), Some(at(10)));
    assert!(queue.take(at(1)).is_none(), "one at a time");
    queue.leave(&work, fail(Some(900)), at(2));
    assert_eq!((queue.totals().puts, queue.totals().running), (1, 0));
    let again = queue.take(at(60)).unwrap();
    assert_eq!(
        again.unanswered,
        Some(at(900)),
        "what it sent is not forgotten"
    );
    // And with a newer change: nothing may overtake what was sent.
    queue.leave(&again, fail(None), at(61));
    queue.enqueue(place("a"), put(2), at(62), None);
    let older = queue.take(at(62)).unwrap();
    queue.enqueue(place("a"), put(3), at(62), None);
    queue.leave(&older, fail(Some(900)), at(63));
    assert!(queue.take(at(899)).is_none());
    assert_eq!(queue.take(at(900)).unwrap().pending.version, Version(3));
}

fn keys(page: &QueuePage) -> Vec<&str> {
    page.changes.iter().map(|c| c.key.as_str()).collect()
}

#[test]
fn the_queue_is_shown_by_path_and_state_in_pages() {
    let queue = queue();
    let other = (BucketId(2), place("a").1);
    queue.enqueue(other.clone(), put(1), at(0), None);
    for (number, key) in ["d", "d/1", "d/2", "d2", "e"].into_iter().enumerate() {
        queue.enqueue(place(key), put(number as u128 + 2), at(1), None);
    }
    queue.take(at(0)).unwrap();
    queue.finish(&other, Version(1), fail(None), at(1));
    assert_eq!(queue.take(at(1)).unwrap().place, place("d"));

    let page = |scope: &QueueScope, state, after: Option<&Place>, limit| {
        queue.page(scope, after, state, limit, at(1))
    };
    let all = QueueScope::everything();
    assert_eq!(
        keys(&page(&all, None, None, 99)),
        ["d", "d/1", "d/2", "d2", "e", "a"]
    );
    let first = page(&all, None, None, 2);
    assert_eq!(
        (keys(&first), &first.next),
        (vec!["d", "d/1"], &Some(place("d/1")))
    );
    let rest = page(&all, None, first.next.as_ref(), 99);
    assert_eq!(
        (keys(&rest), rest.next.is_none()),
        (vec!["d/2", "d2", "e", "a"], true)
    );

    let path = |path| QueueScope::path(BUCKET, path);
    assert_eq!(keys(&page(&path("d"), None, None, 99)), ["d", "d/1", "d/2"]);
    assert_eq!(keys(&page(&path("d/"), None, None, 99)), ["d/1", "d/2"]);
    assert_eq!(keys(&page(&path(""), None, None, 99)).len(), 5);
    assert_eq!(
        keys(&page(&QueueScope::prefix(BUCKET, "d"), None, None, 99)).len(),
        4
    );
    assert!(
        page(&path(&"x".repeat(2_000)), None, None, 99)
            .changes
            .is_empty()
    );

    let running = page(&all, Some(QueuedState::Running), None, 99);
    assert_eq!(keys(&running), ["d"]);
    let failing = page(&all, Some(QueuedState::Failing), None, 99);
    assert_eq!(
        (failing.changes[0].bucket, failing.changes[0].attempts),
        (BucketId(2), 1)
    );
    assert_eq!(
        keys(&page(&all, Some(QueuedState::Waiting), None, 99)).len(),
        4
    );
    assert!(queue.any_of(BUCKET) && queue.any_of(BucketId(2)) && !queue.any_of(BucketId(3)));
}

#[test]
fn sums_count_what_the_ufs_lacks_since_then() {
    let queue = queue();
    for number in 1..=40 {
        queue.enqueue(place(&format!("k/{number}")), put(number), at(0), None);
    }
    queue.enqueue(place("k/gone"), delete(50), at(0), None);
    queue.enqueue(place("other"), put(60), at(0), None);
    queue.take(at(0)).unwrap();
    queue.take(at(0)).unwrap();
    queue.finish(&place("k/1"), Version(1), fail(None), at(0));
    let until_ms = 5_000;
    let settling = Outcome::Settling {
        until: at(5),
        until_ms,
    };
    queue.finish(&place("k/2"), Version(2), settling, at(0));
    let sum = queue.sum(&QueueScope::path(BUCKET, "k"), i64::MAX);
    let expected = QueueSum {
        puts: 39,
        deletes: 1,
        bytes: 390,
        running: 0,
        failing: 1,
        lost: 0,
        newest_ms: Some(50),
    };
    assert_eq!(sum, expected);
    let early = queue.sum(&QueueScope::path(BUCKET, "k"), 10);
    assert_eq!(
        (early.puts, early.deletes, early.newest_ms),
        (9, 0, Some(10))
    );
    assert_eq!(
        queue.sum(&QueueScope::bucket(BucketId(7)), i64::MAX),
        QueueSum::default()
    );
}

#[test]
fn a_look_is_bounded_and_goes_on_where_it_stopped() {
    let queue = PersistQueue::new(PersistConfig::default());
    for number in 0..10_000 {
        queue.enqueue(place(&format!("{number:05}")), put(1), at(9), None);
    }
    let last = QueueScope::everything();
    let page = queue.page(&last, None, Some(QueuedState::Failing), 5, at(0));
    assert!(page.changes.is_empty() && page.next == Some(place("04095")));
    assert_eq!(queue.sum(&last, 1).puts, 10_000);
    assert_eq!(
        queue.retry_all(&QueueScope::prefix(BUCKET, "07"), at(0)),
        1_000
    );
    assert!(
        queue
            .take(at(0))
            .unwrap()
            .place
            .1
            .as_str()
            .starts_with("07")
    );
}

#[test]
fn a_lane_without_a_past_is_small() {
    assert!(size_of::<Lane>() <= 96, "{}", size_of::<Lane>());
    let queue = queue();
    let (key, now) = (place("k"), at(1));
    queue.enqueue(key.clone(), put(1), now, None);
    assert!(queue.state().lanes[&key].past.is_none());
}

#[test]
fn as_many_changes_are_taken_as_memory_is_left_for() {
    const CHANGES: u64 = 50;
    let each = CHANGE_BYTES + 4;
    let queue = PersistQueue::new(PersistConfig {
        memory_bytes: CHANGES * each + memory::NEXT_BYTES - 1,
        ..PersistConfig::default()
    });
    for number in 0..CHANGES {
        assert!(queue.has_room());
        queue.enqueue(place(&format!("k-{number:02}")), put(1), at(1), None);
        // A newer change of the key takes the place of the older one.
        queue.enqueue(place(&format!("k-{number:02}")), put(2), at(1), None);
        assert_eq!(queue.totals().memory_bytes, (number + 1) * each);
    }
    assert!(!queue.has_room());
    let work = queue.take(at(1)).unwrap();
    queue.finish(&work.place, Version(2), Outcome::Ended, at(1));
    assert!(queue.has_room());
}

#[test]
fn a_text_of_an_error_is_cut_and_counted() {
    let queue = queue();
    let plain = CHANGE_BYTES + 1;
    queue.enqueue(place("k"), put(1), at(1), None);
    for attempt in 1..4 {
        let now = at(attempt * 100);
        let work = queue.take(now).unwrap();
        let error = "\u{e4}".repeat(attempt as usize * 10_000);
        let failed = Outcome::Failed { error, late: None };
        queue.finish(&work.place, Version(1), failed, now);
        let shown = queue.stat(BUCKET, &work.place.1, now).unwrap();
        assert_eq!(shown.error.unwrap().len(), memory::ERROR_BYTES_MAX);
        let past = size_of::<lanes::Past>() + memory::ERROR_BYTES_MAX;
        assert_eq!(queue.totals().memory_bytes, plain + past as u64);
    }
    let work = queue.take(at(1_000)).unwrap();
    queue.finish(&work.place, Version(1), Outcome::Ended, at(1_000));
    assert_eq!(queue.totals(), QueueTotals::default());
}

#[test]
fn the_oldest_is_told_while_others_of_its_age_end() {
    let queue = queue();
    for key in ["a", "b"] {
        queue.enqueue(place(key), put(5), at(1), None);
    }
    queue.enqueue(place("c"), put(9), at(1), None);
    for oldest in [5, 5, 9] {
        assert_eq!(queue.totals().oldest_ms, Some(oldest));
        let work = queue.take(at(1)).unwrap();
        let version = work.pending.version;
        queue.finish(&work.place, version, Outcome::Ended, at(1));
    }
    assert_eq!(queue.totals().oldest_ms, None);
    assert!(queue.state().ages.is_empty());
}

/// `cargo test --release -p quickwater-engine --lib a_million -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn a_million_changes() {
    const CHANGES: u64 = 1_000_000;
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1_024
    };
    let queue = PersistQueue::new(PersistConfig::default());
    let (before, began) = (resident(), std::time::Instant::now());
    // Odd and no multiple of 5: keys come in mixed order.
    let mixed = |number: u64| number * 618_033_989 % CHANGES;
    for number in 0..CHANGES {
        let key = place(&format!(
            "train/shard-000000/sample-{:010}.jpg",
            mixed(number)
        ));
        // 10,000 a second.
        let pending = PendingRecord {
            since_ms: (number / 10) as i64,
            ..put(number.into())
        };
        queue.enqueue(key, pending, Duration::from_micros(number * 100), None);
    }
    let each = |took: Duration| took.as_nanos() / u128::from(CHANGES);
    let bytes = (resident() - before) / CHANGES;
    let counted = queue.totals().memory_bytes / CHANGES;
    eprintln!(
        "{bytes} bytes ({counted} counted) and {} ns to enqueue each",
        each(began.elapsed())
    );
    let began = std::time::Instant::now();
    while let Some(work) = queue.take(at(1_000)) {
        queue.finish(&work.place, work.pending.version, Outcome::Ended, at(1_000));
    }
    eprintln!("{} ns to take and end each", each(began.elapsed()));
    assert_eq!(queue.totals(), QueueTotals::default());
}

#[test]
fn slots_with_something_to_send_are_known_and_let_go() {
    let queue = queue();
    let slot = |key: &str| slot_of(BUCKET, &place(key).1);
    queue.enqueue(place("a"), put(1), at(0), None);
    queue.enqueue(place("b"), delete(2), at(0), None);
    assert_eq!(
        queue.slots(),
        [(slot("a"), false), (slot("b"), false)].into()
    );
    let work = queue.take(at(1)).unwrap();
    assert_eq!(work.place, place("a"));
    assert!(queue.slots()[&slot("a")]);
    // Replaced while it is sent: both count.
    queue.enqueue(place("a"), put(3), at(1), None);
    queue.finish(&place("a"), Version(1), Outcome::Ended, at(2));
    assert!(!queue.slots()[&slot("a")]);
    queue.let_go(|given| given == slot("b"));
    assert_eq!(queue.slots().len(), 1);
    assert_eq!((queue.totals().puts, queue.totals().deletes), (1, 0));
    // What is sent in a slot that was lost is heard of no more.
    let work = queue.take(at(3)).unwrap();
    queue.let_go(|_| true);
    assert!(queue.slots()[&slot("a")], "it is still on its way");
    queue.finish(&work.place, work.pending.version, fail(None), at(4));
    assert!(queue.slots().is_empty());
    assert_eq!(queue.totals(), QueueTotals::default());
    // What only settles holds nothing.
    let until_ms = 9_000;
    let settling = PendingRecord {
        change: PendingChange::Settling { until_ms },
        ..put(4)
    };
    queue.enqueue(place("a"), settling, at(5), None);
    assert!(queue.slots().is_empty());
}

/// Tries a change, and finds that nobody has its bytes.
fn miss(queue: &PersistQueue, version: u128, gone: Gone, now: Duration) {
    let work = queue.take(now).unwrap();
    assert_eq!(work.pending.version, Version(version));
    let error = "nobody".into();
    let outcome = Outcome::Missing { error, gone };
    queue.finish(&work.place, Version(version), outcome, now);
}

#[test]
fn what_nobody_has_is_replaced_once_nothing_of_it_can_be_under_way() {
    for gone in [Gone::Away, Gone::Lost] {
        let queue = queue();
        let (bucket, key) = place("a");
        queue.load(bucket, key.clone(), put(1), (at(0), 0), Some(at(10)));
        let stands = |now| queue.stands(bucket, &key, at(now));
        assert_eq!(stands(0), Stands::Waits, "it was not tried");
        miss(&queue, 1, gone, at(0));
        assert_eq!(stands(9), Stands::Fenced(at(10)));
        assert!(queue.replace(bucket, &key, at(9)).is_err());
        assert_eq!(stands(10), Stands::Replaceable);
        let replacing = queue.replace(bucket, &key, at(10)).unwrap().unwrap();
        // Its bytes come back: not now.
        queue.hurry(bucket, &key, at(11));
        assert!(queue.take(at(500)).is_none());
        assert!(queue.pending(bucket, &key).is_some());
        replacing.done();
        assert!(queue.pending(bucket, &key).is_none() && queue.take(at(500)).is_none());
        assert_eq!((queue.totals().puts, queue.totals().memory_bytes), (0, 0));
    }
}

#[test]
fn what_was_not_replaced_is_sent_after_all_and_never_before_the_other_is_dead() {
    let queue = queue();
    let (bucket, key) = place("a");
    queue.enqueue(place("a"), put(1), at(0), None);
    miss(&queue, 1, Gone::Away, at(0));
    let replacing = queue.replace(bucket, &key, at(1)).unwrap().unwrap();
    drop(replacing);
    assert!(queue.take(at(2)).is_some(), "it was refused");
    queue.finish(&place("a"), Version(1), fail(None), at(2));
    assert_eq!(
        queue.stands(bucket, &key, at(2)),
        Stands::Waits,
        "it has bytes"
    );
    miss(&queue, 1, Gone::Lost, at(60));
    let replacing = queue.replace(bucket, &key, at(61)).unwrap().unwrap();
    // Slots that went and came back meanwhile have it queued anew.
    queue.load(bucket, key.clone(), put(1), (at(62), 0), None);
    assert!(queue.take(at(62)).is_none());
    replacing.late(at(900));
    queue.hurry(bucket, &key, at(63));
    assert!(queue.take(at(899)).is_none());
    assert_eq!(queue.stands(bucket, &key, at(63)), Stands::Fenced(at(900)));
    assert_eq!(queue.take(at(900)).unwrap().pending.version, Version(1));
}

#[test]
fn what_is_lost_is_seldom_tried() {
    let queue = queue();
    let (bucket, key) = place("a");
    queue.enqueue(place("a"), put(1), at(0), None);
    miss(&queue, 1, Gone::Lost, at(0));
    assert!(queue.take(at(29)).is_none());
    let sum = |queue: &PersistQueue| queue.sum(&QueueScope::everything(), 9);
    assert_eq!((sum(&queue).failing, sum(&queue).lost), (1, 1));
    // Unless somebody has brought it, or may have.
    queue.hurry(bucket, &key, at(29));
    miss(&queue, 1, Gone::Lost, at(29));
    queue.enqueue(place("b"), put(2), at(29), None);
    assert_eq!(queue.take(at(29)).unwrap().place, place("b"));
    queue.finish(&place("b"), Version(2), fail(None), at(29));
    queue.retry_gone(at(29));
    assert_eq!(queue.take(at(29)).unwrap().place, place("a"));
    assert!(queue.take(at(29)).is_none());
    queue.finish(&place("a"), Version(1), fail(None), at(29));
    assert_eq!((sum(&queue).failing, sum(&queue).lost), (2, 0));
}
