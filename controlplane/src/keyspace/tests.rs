use proptest::prelude::*;

use super::*;

const BUCKET_1: BucketId = BucketId(1);

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Keys made of the characters where orders go wrong.
fn tricky() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        Just('\0'),
        Just('\u{1}'),
        Just('/'),
        Just('a'),
        Just('\u{7f}'),
        Just('\u{ff}'),
        Just('\u{ffff}'),
        Just('\u{10ffff}'),
        any::<char>(),
    ];
    prop::collection::vec(character, 1..12).prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn objects_sort_as_their_s3_keys(a in tricky(), b in tricky()) {
        let (x, y) = (object(BUCKET_1, &key(&a)), object(BUCKET_1, &key(&b)));
        prop_assert_eq!(x.cmp(&y), a.as_bytes().cmp(b.as_bytes()));
    }

    #[test]
    fn uploads_sort_by_key_and_then_id(
        a in tricky(), b in tricky(), i in any::<u128>(), j in any::<u128>(),
    ) {
        for (i, j) in [(i, j), (u128::MAX, 0), (0, u128::MAX)] {
            let x = upload(BUCKET_1, &key(&a), UploadId(i));
            let y = upload(BUCKET_1, &key(&b), UploadId(j));
            prop_assert_eq!(x.cmp(&y), (a.as_bytes(), i).cmp(&(b.as_bytes(), j)));
        }
    }

    #[test]
    fn object_keys_round_trip(bucket in any::<u64>(), text in tricky()) {
        let built = object(BucketId(bucket), &key(&text));
        prop_assert_eq!(parse_object(&built), Some((BucketId(bucket), key(&text))));
    }

    #[test]
    fn pending_keys_round_trip_and_page_in_order(
        bucket in any::<u64>(), text in tricky(), after in tricky(), other in any::<u64>(),
    ) {
        let row = pending(BucketId(bucket), &key(&text));
        prop_assert_eq!(parse_pending(&row), Some((BucketId(bucket), key(&text))));
        prop_assert!(pendings(None).contains(&row));
        prop_assert!(bucket_pendings(BucketId(bucket)).contains(&row));
        for other in [other, bucket] {
            let later = (bucket, text.as_bytes()) > (other, after.as_bytes());
            let range = pendings(Some((BucketId(other), &key(&after))));
            prop_assert_eq!(range.contains(&row), later);
        }
    }

    #[test]
    fn an_object_range_holds_exactly_its_prefix(
        text in tricky(), prefix in tricky(), from in tricky(),
    ) {
        let range = objects(BUCKET_1, &prefix, &from);
        let wanted = text.starts_with(&prefix) && text.as_bytes() >= from.as_bytes();
        prop_assert_eq!(range.contains(&object(BUCKET_1, &key(&text))), wanted);
        let own = objects(BUCKET_1, &text[..0], &text);
        prop_assert!(own.contains(&object(BUCKET_1, &key(&text))));
        prop_assert!(!own.contains(&object(BucketId(2), &key(&text))));
    }

    #[test]
    fn an_upload_range_begins_after_its_marker(
        text in tricky(), marker in tricky(), prefix in tricky(), id in any::<u128>(),
        marker_id in proptest::option::of(any::<u128>()),
    ) {
        let row = upload(BUCKET_1, &key(&text), UploadId(id));
        let after = Some((marker.as_str(), marker_id.map(UploadId)));
        let later = match marker_id {
            Some(marker_id) => (text.as_bytes(), id) > (marker.as_bytes(), marker_id),
            None => text.as_bytes() > marker.as_bytes(),
        };
        prop_assert_eq!(uploads(BUCKET_1, "", after).contains(&row), later);
        let wanted = later && text.starts_with(&prefix);
        prop_assert_eq!(uploads(BUCKET_1, &prefix, after).contains(&row), wanted);
        prop_assert_eq!(uploads(BUCKET_1, &prefix, None).contains(&row), text.starts_with(&prefix));
        prop_assert!(all_uploads(BUCKET_1).contains(&row));
    }

    #[test]
    fn expiry_keys_round_trip_and_sort_by_time(
        ms in 0i64.., now in 0i64.., bucket in any::<u64>(), id in any::<u128>(),
    ) {
        let row = completed_expiry(ms, BucketId(bucket), UploadId(id));
        prop_assert_eq!(parse_completed_expiry(&row), Some((BucketId(bucket), UploadId(id))));
        let due = completed_expired(shard(id), now);
        prop_assert_eq!(due.contains(&row), ms <= now);
    }

    #[test]
    fn operations_sort_by_minute(minute in any::<u64>(), before in any::<u64>(), id in any::<u128>()) {
        let range = operations_before(shard(id), before);
        prop_assert_eq!(range.contains(&operation(minute, id)), minute < before);
    }

    #[test]
    fn journaled_operations_sort_by_sequence(sequence in any::<u64>(), through in any::<u64>(), id in any::<u128>()) {
        for through in [through, sequence, u64::MAX] {
            let range = journaled_through(shard(id), through);
            prop_assert_eq!(range.contains(&journaled(sequence, id)), sequence <= through);
        }
        let other = (shard(id) + 1) % SHARDS;
        prop_assert!(!journaled_through(other, u64::MAX).contains(&journaled(sequence, id)));
    }

    #[test]
    fn taking_apart_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40), table in any::<u8>()) {
        let mut key = vec![table];
        key.extend(bytes);
        let _ = parse_object(&key);
        let _ = parse_pending(&key);
        let _ = parse_trash(&key);
        let _ = parse_completed_expiry(&key);
    }
}

#[test]
fn parts_sort_by_number_and_begin_after() {
    let id = UploadId(u128::MAX);
    let range = parts(BUCKET_1, id, 255);
    assert!(!range.contains(&part(BUCKET_1, id, 255)));
    assert!(range.contains(&part(BUCKET_1, id, 256)));
    assert!(range.contains(&part(BUCKET_1, id, u16::MAX)));
    assert!(!range.contains(&part(BucketId(2), UploadId(0), 1)));
    assert!(parts(BUCKET_1, id, 0).contains(&part(BUCKET_1, id, 1)));
}

#[test]
fn the_rows_of_a_bucket_are_its_own() {
    let mine = bucket_rows(BUCKET_1);
    let holds = |row: &[u8]| mine.iter().any(|range| range.contains(row));
    let rows = |bucket| {
        [
            object(bucket, &key("k")),
            detail(bucket, 1, 0),
            upload(bucket, &key("k"), UploadId(1)),
            part(bucket, UploadId(1), 1),
            completed(bucket, UploadId(1)),
            opened(bucket, &key("k"), UploadId(1)),
            counter(bucket, Counter::Objects, 15),
            pending(bucket, &key("k")),
        ]
    };
    assert!(rows(BUCKET_1).iter().all(|row| holds(row)));
    assert!(!rows(BucketId(2)).iter().any(|row| holds(row)));
    assert!(!holds(&bucket_id(BUCKET_1)) && !holds(&trash(BUCKET_1)));
}

#[test]
fn no_two_tables_share_a_key() {
    let name = BucketName::new("abc").unwrap();
    let keys = [
        last_bucket_id(),
        bucket(&name),
        bucket_id(BUCKET_1),
        trash(BUCKET_1),
        completed_expiry(1, BUCKET_1, UploadId(1)),
        opened(BUCKET_1, &key("k"), UploadId(1)),
        operation(1, 1),
        journaled(1, 1),
        pending(BUCKET_1, &key("k")),
    ];
    let tables: std::collections::BTreeSet<u8> = keys.iter().map(|key| key[0]).collect();
    assert_eq!(tables.len(), keys.len());
    assert!(trashes().contains(&trash(BucketId(u64::MAX))));
    assert_eq!(parse_trash(&trash(BUCKET_1)), Some(BUCKET_1));
    assert!(buckets().contains(&bucket(&name)));
    assert!(counters(BUCKET_1, Counter::Bytes).contains(&counter(BUCKET_1, Counter::Bytes, 0)));
    assert!(!counters(BUCKET_1, Counter::Bytes).contains(&counter(BUCKET_1, Counter::Objects, 0)));
}
