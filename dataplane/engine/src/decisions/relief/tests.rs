//! Turns and pauses of buckets, and where looks go on.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const ONE: BucketId = BucketId(1);
const TWO: BucketId = BucketId(2);
const SIX: BucketId = BucketId(6);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn weight(bytes: u64) -> Weight {
    (bytes, UploadId(bytes.into()))
}

/// What is chosen of a bucket with uploads of these sizes.
fn chosen(relief: &Relief, bucket: BucketId, now: Duration, sizes: &[u64]) -> Option<u64> {
    let mut best = relief.due(bucket, now)?;
    for bytes in sizes {
        best.see(weight(*bytes), &key("k"));
    }
    best.chosen().map(|candidate| candidate.upload.0)
}

#[test]
fn who_fails_is_passed_over_for_ever_longer() {
    let relief = Relief::default();
    let (mut now, mut pauses) = (SECOND, Vec::new());
    for _ in 0..40 {
        assert!(relief.take(ONE, now));
        relief.failed(ONE, weight(5), now);
        assert!(relief.due(ONE, now).is_none() && !relief.take(ONE, now));
        assert!(relief.due(TWO, now).is_some(), "another bucket");
        let mut pause = SECOND;
        while relief.due(ONE, now + pause).is_none() {
            pause += SECOND;
        }
        pauses.push(pause);
        now += pause;
    }
    assert_eq!(pauses[..3], [2 * SECOND, 4 * SECOND, 8 * SECOND]);
    assert_eq!(pauses[39], 60 * SECOND);
    assert!(relief.take(ONE, now));
    relief.failed(ONE, weight(5), now);
    relief.hurry();
    assert!(relief.take(ONE, now), "somebody knows better");
    relief.succeeded(ONE);
    assert!(relief.take(ONE, now));
}

#[test]
fn one_at_a_time_has_the_turn_of_a_bucket() {
    let relief = Relief::default();
    assert!(relief.take(ONE, SECOND));
    assert!(!relief.take(ONE, SECOND) && relief.due(ONE, SECOND).is_none());
    assert!(relief.take(TWO, SECOND));
    relief.vanished(ONE);
    assert!(relief.take(ONE, SECOND), "no failure of the UFS");
}

#[test]
fn the_next_smaller_upload_of_a_bucket_has_the_next_turn() {
    let (relief, sizes) = (Relief::default(), [3, 9, 5]);
    let mut now = SECOND;
    for expected in [9, 5, 3, 9] {
        assert_eq!(chosen(&relief, ONE, now, &sizes), Some(expected));
        assert!(relief.take(ONE, now));
        relief.failed(ONE, weight(expected), now);
        now += 60 * SECOND;
    }
    assert!(relief.take(ONE, now));
    relief.succeeded(ONE);
    assert_eq!(chosen(&relief, ONE, now, &sizes), Some(9));
    assert_eq!(chosen(&relief, ONE, now, &[]), None);
}

#[test]
fn a_bucket_that_failed_comes_after_those_that_did_not() {
    let relief = Relief::default();
    relief.failed(ONE, weight(9), SECOND);
    let candidate = |bucket, bytes| {
        let mut best = relief.due(bucket, 9 * SECOND).unwrap();
        best.see(weight(bytes), &key("k"));
        best.chosen().unwrap()
    };
    let (failed, small, large) = (candidate(ONE, 9), candidate(TWO, 1), candidate(SIX, 2));
    assert!(large.rank() < small.rank() && small.rank() < failed.rank());
}

#[test]
fn a_look_goes_on_where_the_last_one_ended() {
    let relief = Relief::default();
    let all = || vec![SIX, ONE, TWO];
    let from_first = vec![(ONE, None), (TWO, None), (SIX, None)];
    assert_eq!(relief.round(all()), from_first);
    let place = Some((key("k"), UploadId(7)));
    relief.go_on_at(TWO, place.clone());
    let expected = vec![(TWO, place.clone()), (SIX, None), (ONE, None), (TWO, None)];
    assert_eq!(relief.round(all()), expected);
    assert_eq!(relief.round(all()), from_first, "that one came to its end");
    relief.go_on_at(TWO, None);
    assert_eq!(relief.round(all()), [(TWO, None), (SIX, None), (ONE, None)]);
    // The bucket is gone meanwhile, or all of them are.
    relief.go_on_at(BucketId(4), place.clone());
    assert_eq!(relief.round(all()), [(SIX, None), (ONE, None), (TWO, None)]);
    relief.go_on_at(BucketId(9), place.clone());
    assert_eq!(relief.round(all()), from_first);
    relief.go_on_at(TWO, place);
    assert_eq!(relief.round(Vec::new()), []);
}
