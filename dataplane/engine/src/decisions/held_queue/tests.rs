//! Turns, pauses and relief of handed-over uploads.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn queue() -> HeldQueue {
    HeldQueue::new(PersistConfig {
        retry_initial: SECOND,
        retry_max: 60 * SECOND,
        ..PersistConfig::default()
    })
}

fn upload(bucket: u32, number: u128) -> HandedOver {
    HandedOver {
        bucket: BucketId(bucket.into()),
        key: ObjectKey::new(&format!("dir/{number}")).unwrap(),
        id: UploadId(number),
    }
}

fn taken(queue: &HeldQueue, now: Duration) -> Vec<HandedOver> {
    std::iter::from_fn(|| queue.take(now)).collect()
}

#[test]
fn turns_are_bounded_for_all_and_for_one_bucket() {
    let queue = queue();
    for number in 0..10 {
        queue.add(upload(1, number));
    }
    let first = taken(&queue, SECOND);
    assert_eq!(first, [upload(1, 0), upload(1, 1)], "in order of arrival");
    assert_eq!(queue.next_due(), None, "none of this bucket has a turn");
    for bucket in 2..5 {
        queue.add(upload(bucket, 20));
    }
    assert_eq!(taken(&queue, SECOND), [upload(2, 20), upload(3, 20)]);
    queue.finish(&first[0], Turn::Ended, SECOND);
    assert_eq!(taken(&queue, SECOND), [upload(1, 2)]);
}

#[test]
fn who_fails_waits_ever_longer_and_progress_forgives() {
    let queue = queue();
    queue.add(upload(1, 1));
    let mut now = Duration::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(taken(&queue, now), [upload(1, 1)]);
        queue.finish(&upload(1, 1), Turn::Failed { sent: false }, now);
        let due = queue.next_due().unwrap();
        assert_eq!(queue.take(due - Duration::from_millis(1)), None);
        pauses.push(due - now);
        now = due;
    }
    assert!(pauses[0] >= SECOND / 2 && pauses[0] <= SECOND, "{pauses:?}");
    assert!(pauses[8] >= 30 * SECOND && pauses[8] <= 60 * SECOND);
    assert_eq!(taken(&queue, now).len(), 1);
    queue.finish(&upload(1, 1), Turn::Failed { sent: true }, now);
    assert!(queue.next_due().unwrap() - now <= SECOND);
}

#[test]
fn a_part_that_comes_meanwhile_is_seen_to() {
    let queue = queue();
    queue.add(upload(1, 1));
    queue.add(upload(1, 1));
    assert_eq!(taken(&queue, SECOND).len(), 1, "once");
    queue.add(upload(1, 1));
    assert_eq!(queue.take(SECOND), None, "not twice at a time");
    queue.finish(&upload(1, 1), Turn::Ended, SECOND);
    assert_eq!(taken(&queue, SECOND).len(), 1);
    queue.finish(&upload(1, 1), Turn::Ended, SECOND);
    assert_eq!((queue.take(9 * SECOND), queue.next_due()), (None, None));
    assert!(!queue.is_moving());
}

#[test]
fn who_waits_is_hurried_by_path() {
    let queue = queue();
    for number in 1..4 {
        queue.add(upload(number, u128::from(number)));
        let _ = taken(&queue, SECOND);
        let of = upload(number, u128::from(number));
        queue.finish(&of, Turn::Failed { sent: false }, SECOND);
    }
    assert_eq!(queue.take(SECOND), None);
    let scope = QueueScope::path(BucketId(2), "dir");
    assert_eq!(queue.hurry(&scope, SECOND), 1);
    assert_eq!(taken(&queue, SECOND), [upload(2, 2)]);
    assert_eq!(queue.hurry(&QueueScope::path(BucketId(1), "di"), SECOND), 0);
    assert_eq!(queue.hurry(&QueueScope::everything(), SECOND), 2);
    assert_eq!(taken(&queue, SECOND), [upload(1, 1), upload(3, 3)]);
    // The turn under way then is followed by the next at once, and by no other.
    for follows in [vec![upload(2, 2)], vec![]] {
        queue.finish(&upload(2, 2), Turn::Failed { sent: false }, SECOND);
        assert_eq!(taken(&queue, SECOND), follows);
    }
}

#[test]
fn one_upload_after_the_other_makes_room() {
    let queue = queue();
    assert!(!queue.take_relief(SECOND), "nobody asked");
    queue.want_room();
    assert!(queue.take_relief(SECOND));
    queue.want_room();
    assert!(!queue.take_relief(2 * SECOND), "it may have been refused");
    queue.end_relief(Relieved::Made, 2 * SECOND);
    queue.add(upload(1, 1));
    queue.want_room();
    assert!(!queue.take_relief(9 * SECOND), "the first is being sent");
    let _ = taken(&queue, 9 * SECOND);
    queue.finish(&upload(1, 1), Turn::Failed { sent: false }, 9 * SECOND);
    queue.want_room();
    assert!(queue.take_relief(9 * SECOND), "that one may fail for ever");
}

#[test]
fn a_ufs_that_does_not_answer_leaves_room_making_to_others() {
    let queue = queue();
    let asked = |second: u32| {
        queue.want_room();
        queue.take_relief(second * SECOND)
    };
    assert!(asked(3) && !asked(5) && asked(6) && asked(9) && asked(12));
    assert!(!asked(60), "so many at a time");
    queue.end_relief(Relieved::Nothing, 60 * SECOND);
    assert!(!asked(62) && asked(63) && !asked(90));
    queue.end_relief(Relieved::NothingYet, 90 * SECOND);
    assert!(asked(91), "the rest is looked at sooner");
}
