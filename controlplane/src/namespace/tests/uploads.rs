use quickwater_proto::MetadataError;

use super::*;

const ID: UploadId = UploadId(1);

/// A bucket with an upload of "k" that has these parts.
async fn with_parts(numbers: impl IntoIterator<Item = u16>) -> (Memory, BucketId) {
    let (namespace, id) = with_bucket().await;
    namespace.create_upload(id, &upload("k", 1)).await.unwrap();
    for number in numbers {
        namespace
            .put_part(id, &upload("k", 1), &part(number))
            .await
            .unwrap();
    }
    (namespace, id)
}

async fn complete(
    namespace: &Memory,
    id: BucketId,
    parts: Vec<PartRecord>,
) -> Result<Option<ObjectRecord>, MetadataError> {
    let record = completed(parts);
    let none = PutCondition::None;
    let committed = namespace
        .complete_upload(id, &upload("k", 1), &record, &none)
        .await;
    committed.map(|committed| committed.replaced)
}

#[tokio::test]
async fn an_upload_is_found_by_key_and_id() {
    let (namespace, id) = with_parts([]).await;
    let found = namespace.upload(id, &key("k"), ID).await;
    assert_eq!(found, Ok(Some(upload("k", 1))));
    assert_eq!(namespace.upload(id, &key("other"), ID).await, Ok(None));
    assert_eq!(namespace.upload(id, &key("k"), UploadId(2)).await, Ok(None));
    let taken = namespace.create_upload(id, &upload("k", 1)).await;
    assert!(matches!(taken, Err(MetadataError::Unavailable(_))));
}

#[tokio::test]
async fn parts_come_in_order_and_are_replaced() {
    let (namespace, id) = with_parts([300, 2, 10_000, 1]).await;
    let numbers = async |after, limit| {
        let parts = namespace
            .parts(id, &key("k"), ID, after, limit)
            .await
            .unwrap();
        parts.iter().map(|part| part.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(0, 1_000).await, [1, 2, 300, 10_000]);
    assert_eq!(numbers(1, 2).await, [2, 300]);
    assert!(numbers(10_000, 1_000).await.is_empty());
    assert!(numbers(0, 0).await.is_empty());

    let newer = PartRecord { size: 1, ..part(2) };
    let replaced = namespace.put_part(id, &upload("k", 1), &newer).await;
    assert_eq!(replaced, Ok(Some(part(2))));
    assert_eq!(
        namespace.parts(id, &key("k"), ID, 1, 1).await,
        Ok(vec![newer])
    );
    assert_eq!(
        namespace.put_part(id, &upload("k", 1), &part(3)).await,
        Ok(None)
    );
    let wrong_key = namespace.parts(id, &key("other"), ID, 0, 10).await;
    assert_eq!(wrong_key, Err(MetadataError::NoSuchUpload));
}

#[tokio::test]
async fn part_numbers_are_bounded() {
    let (namespace, id) = with_parts([]).await;
    for number in [0, 10_001] {
        let bad = PartRecord { number, ..part(1) };
        let refused = namespace.put_part(id, &upload("k", 1), &bad).await;
        assert_eq!(refused, Err(MetadataError::InvalidPart));
    }
}

#[tokio::test]
async fn completing_makes_one_object_and_ends_the_upload() {
    let (namespace, id) = with_parts([1, 2, 3]).await;
    put(&namespace, id, "k", &object("before")).await;
    assert_eq!(namespace.completed(id, &key("k"), ID).await, Ok(None));
    let replaced = complete(&namespace, id, vec![part(1), part(3)])
        .await
        .unwrap();
    assert_eq!(replaced.unwrap().etag, ETag::new("before"));

    let read = namespace.object(id, &key("k")).await.unwrap().unwrap();
    let wanted = completed(vec![part(1), part(3)]);
    assert_eq!(
        read,
        ObjectRecord {
            version: read.version,
            ..wanted
        }
    );
    assert_eq!(namespace.upload(id, &key("k"), ID).await, Ok(None));
    let gone = MetadataError::NoSuchUpload;
    assert_eq!(
        namespace.parts(id, &key("k"), ID, 0, 10).await.unwrap_err(),
        gone
    );
    let stale = namespace.put_part(id, &upload("k", 1), &part(2)).await;
    assert_eq!(stale.unwrap_err(), gone);
    assert_eq!(
        complete(&namespace, id, vec![part(1)]).await.unwrap_err(),
        gone
    );
    assert_eq!(
        namespace.abort_upload(id, &key("k"), ID).await.unwrap_err(),
        gone
    );

    let remembered = namespace.completed(id, &key("k"), ID).await;
    assert_eq!(remembered, Ok(Some(ETag::new("completed-1"))));
    assert_eq!(namespace.completed(id, &key("other"), ID).await, Ok(None));
    assert!(
        !rows(&namespace).await.iter().any(|key| key[0] == 0x21),
        "no part rows stay"
    );
}

#[tokio::test]
async fn a_part_list_must_match_what_is_stored() {
    let (namespace, id) = with_parts([1, 2]).await;
    let other_etag = PartRecord {
        etag: ETag::new("x"),
        ..part(2)
    };
    let other_blob = PartRecord {
        blob: BlobId(9),
        ..part(2)
    };
    let lists = [
        vec![],
        vec![part(3)],
        vec![part(2), part(1)],
        vec![part(1), part(1)],
        vec![part(1), other_etag],
        vec![other_blob],
    ];
    for list in lists {
        let refused = complete(&namespace, id, list.clone()).await;
        assert_eq!(refused, Err(MetadataError::InvalidPart), "{list:?}");
    }
    assert_eq!(namespace.object(id, &key("k")).await, Ok(None));
    assert_eq!(
        namespace.parts(id, &key("k"), ID, 0, 10).await,
        Ok(vec![part(1), part(2)])
    );
}

#[tokio::test]
async fn a_condition_that_fails_leaves_the_upload() {
    let (namespace, id) = with_parts([1]).await;
    put(&namespace, id, "k", &object("before")).await;
    let record = completed(vec![part(1)]);
    let complete = async |condition| {
        namespace
            .complete_upload(id, &upload("k", 1), &record, &condition)
            .await
    };
    let refused = complete(PutCondition::Absent).await;
    assert_eq!(refused, Err(MetadataError::ConditionFailed));
    assert_eq!(
        namespace.upload(id, &key("k"), ID).await,
        Ok(Some(upload("k", 1)))
    );
    assert!(
        complete(PutCondition::Match(ETag::new("before")))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn aborting_returns_the_parts_and_ends_the_upload() {
    let (namespace, id) = with_parts([2, 1]).await;
    let parts = namespace.abort_upload(id, &key("k"), ID).await;
    assert_eq!(parts, Ok(vec![part(1), part(2)]));
    assert_eq!(namespace.upload(id, &key("k"), ID).await, Ok(None));
    assert_eq!(namespace.completed(id, &key("k"), ID).await, Ok(None));
    let again = namespace.abort_upload(id, &key("k"), ID).await;
    assert_eq!(again, Err(MetadataError::NoSuchUpload));
    let stale = namespace.put_part(id, &upload("k", 1), &part(3)).await;
    assert_eq!(stale, Err(MetadataError::NoSuchUpload));
    assert_eq!(namespace.object(id, &key("k")).await, Ok(None));
}

#[tokio::test]
async fn uploads_are_listed_by_key_and_id() {
    let (namespace, id) = with_bucket().await;
    let all = [
        ("a", 5),
        ("a", u128::MAX),
        ("a\0b", 1),
        ("a/b", 2),
        ("b", 0),
        ("b/\u{10ffff}", 3),
    ];
    for (text, number) in all.iter().rev() {
        namespace
            .create_upload(id, &upload(text, *number))
            .await
            .unwrap();
    }
    let list = async |prefix, after, limit| {
        let found = namespace.uploads(id, prefix, after, limit).await.unwrap();
        found
            .iter()
            .map(|u| (u.key.as_str().to_owned(), u.id.0))
            .collect::<Vec<_>>()
    };
    let some = |range: &[(&str, u128)]| -> Vec<_> {
        range
            .iter()
            .map(|(text, number)| ((*text).to_owned(), *number))
            .collect()
    };
    assert_eq!(list("", None, 100).await, some(&all));
    assert_eq!(list("", None, 3).await, some(&all[..3]));
    assert_eq!(list("a/", None, 100).await, some(&all[3..4]));
    assert_eq!(list("", Some(("a", None)), 100).await, some(&all[2..]));
    assert_eq!(
        list("", Some(("a", Some(UploadId(5)))), 100).await,
        some(&all[1..])
    );
    assert_eq!(
        list("a", Some(("a/b", Some(UploadId(2)))), 100).await,
        some(&[])
    );
    assert_eq!(list("b", Some(("a", None)), 1).await, some(&all[4..5]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_parts_become_one_object() {
    let (namespace, id) = with_parts([]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..100 {
        let namespace = namespace.clone();
        tasks.spawn(async move {
            for number in 1..=100 {
                let part = part(first * 100 + number);
                namespace
                    .put_part(id, &upload("k", 1), &part)
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let parts = namespace.parts(id, &key("k"), ID, 0, 20_000).await.unwrap();
    assert_eq!(parts.len(), 10_000);
    complete(&namespace, id, parts.clone()).await.unwrap();
    let read = namespace.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!(
        read,
        ObjectRecord {
            version: read.version,
            ..completed(parts)
        }
    );
    let replaced = namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await
        .unwrap();
    assert_eq!(replaced, Some(read));
}
