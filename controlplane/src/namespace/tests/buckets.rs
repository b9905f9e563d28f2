use quickwater_proto::MetadataError;

use super::*;

#[tokio::test]
async fn a_bucket_is_found_by_name_until_it_is_removed() {
    let namespace = namespace();
    assert_eq!(namespace.bucket(&name("one")).await, Ok(None));
    let made = namespace.create_bucket(&bucket("one")).await.unwrap();
    assert_eq!(
        made,
        Bucket {
            id: made.id,
            ..bucket("one")
        }
    );
    assert_ne!(made.id, BucketId(0));
    assert_eq!(namespace.bucket(&name("one")).await, Ok(Some(made.clone())));
    namespace.delete_bucket(made.id, true).await.unwrap();
    assert_eq!(namespace.bucket(&name("one")).await, Ok(None));
    let again = namespace.delete_bucket(made.id, true).await;
    assert_eq!(again, Err(MetadataError::NoSuchBucket));
}

#[tokio::test]
async fn a_name_is_taken_once_and_ids_are_never_used_again() {
    let namespace = namespace();
    let first = namespace.create_bucket(&bucket("one")).await.unwrap();
    let taken = namespace.create_bucket(&bucket("one")).await;
    assert_eq!(taken, Err(MetadataError::BucketExists));
    namespace.delete_bucket(first.id, true).await.unwrap();
    let second = namespace.create_bucket(&bucket("one")).await.unwrap();
    assert!(second.id > first.id);
}

#[tokio::test]
async fn buckets_come_in_order_of_name() {
    let namespace = namespace();
    for text in ["b-2", "a.z", "b-10", "abc"] {
        namespace.create_bucket(&bucket(text)).await.unwrap();
    }
    let buckets = namespace.buckets().await.unwrap();
    let names: Vec<_> = buckets.iter().map(|bucket| bucket.name.as_str()).collect();
    assert_eq!(names, ["a.z", "abc", "b-10", "b-2"]);
}

#[tokio::test]
async fn locations_must_not_overlap() {
    let namespace = namespace();
    namespace.create_bucket(&bucket("one")).await.unwrap();
    for uri in [
        "file:///ufs/one",
        "file:///ufs/one/deep",
        "file:///ufs",
        "file:///",
    ] {
        let nested = Bucket {
            ufs: uri.into(),
            ..bucket("two")
        };
        let error = namespace.create_bucket(&nested).await.unwrap_err();
        let MetadataError::LocationOverlaps(text) = error else {
            panic!("{error:?} for {uri}")
        };
        assert!(text.contains("'one'") && text.contains(uri), "{text}");
    }
    namespace.create_bucket(&bucket("one-two")).await.unwrap();
    assert_eq!(namespace.bucket(&name("two")).await, Ok(None));
}

#[tokio::test]
async fn only_an_empty_bucket_is_deleted() {
    let (namespace, id) = with_bucket().await;
    put(&namespace, id, "k", &object("a")).await;
    let refused = namespace.delete_bucket(id, true).await;
    assert_eq!(refused, Err(MetadataError::BucketNotEmpty));
    namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await
        .unwrap();

    namespace.create_upload(id, &upload("k", 1)).await.unwrap();
    let refused = namespace.delete_bucket(id, true).await;
    assert_eq!(refused, Err(MetadataError::BucketNotEmpty));
    namespace
        .abort_upload(id, &key("k"), UploadId(1))
        .await
        .unwrap();
    assert_eq!(namespace.delete_bucket(id, true).await, Ok(()));
}

#[tokio::test]
async fn nothing_is_written_into_a_removed_bucket() {
    let (namespace, id) = with_bucket().await;
    put(&namespace, id, "k", &object("a")).await;
    namespace.create_upload(id, &upload("k", 1)).await.unwrap();
    namespace.delete_bucket(id, false).await.unwrap();

    let gone = MetadataError::NoSuchBucket;
    let none = PutCondition::None;
    let record = completed(vec![part(1)]);
    let upload = upload("k", 1);
    let committed = namespace
        .commit_object(id, &key("k"), &object("b"), &none)
        .await;
    assert_eq!(committed.unwrap_err(), gone);
    let removed = namespace.remove_object(id, &key("k"), &none).await;
    assert_eq!(removed.unwrap_err(), gone);
    assert_eq!(
        namespace.create_upload(id, &upload).await.unwrap_err(),
        gone
    );
    assert_eq!(
        namespace.put_part(id, &upload, &part(1)).await.unwrap_err(),
        gone
    );
    let completed = namespace.complete_upload(id, &upload, &record, &none).await;
    assert_eq!(completed.unwrap_err(), gone);
    let aborted = namespace.abort_upload(id, &key("k"), UploadId(1)).await;
    assert_eq!(aborted.unwrap_err(), gone);
    assert_eq!(namespace.set_bucket_tags(id, &[]).await.unwrap_err(), gone);

    let again = namespace.create_bucket(&bucket("one")).await.unwrap();
    assert_eq!(namespace.object(again.id, &key("k")).await, Ok(None));
}

#[tokio::test]
async fn tags_are_replaced_as_a_whole() {
    let (namespace, id) = with_bucket().await;
    let tags = vec![
        ("a".to_owned(), "1".to_owned()),
        ("b".to_owned(), String::new()),
    ];
    namespace.set_bucket_tags(id, &tags).await.unwrap();
    let found = namespace.bucket(&name("one")).await.unwrap().unwrap();
    assert_eq!(
        found,
        Bucket {
            id,
            tags,
            ..bucket("one")
        }
    );
    namespace.set_bucket_tags(id, &[]).await.unwrap();
    assert_eq!(
        namespace.bucket(&name("one")).await.unwrap().unwrap().tags,
        []
    );

    let large = [("x".to_owned(), "y".repeat(70_000))];
    let error = namespace.set_bucket_tags(id, &large).await.unwrap_err();
    assert!(matches!(error, MetadataError::TooLarge(_)));
}

#[tokio::test]
async fn the_directory_of_a_bucket_is_kept_until_it_is_removed() {
    let namespace = namespace();
    let made = namespace.create_bucket(&bucket("one")).await.unwrap();
    assert_eq!(namespace.directory(made.id).await, Ok(None));
    for identity in ["aa", "bb"] {
        let set = namespace.set_directory(made.id, Some(identity)).await;
        assert_eq!(set, Ok(()));
        let kept = namespace.directory(made.id).await;
        assert_eq!(kept, Ok(Some(identity.to_owned())));
    }
    namespace.set_directory(made.id, None).await.unwrap();
    assert_eq!(namespace.directory(made.id).await, Ok(None));
    namespace.set_directory(made.id, Some("cc")).await.unwrap();
    namespace.delete_bucket(made.id, true).await.unwrap();
    assert_eq!(namespace.directory(made.id).await, Ok(None));
    let late = namespace.set_directory(made.id, Some("dd")).await;
    assert_eq!(late, Err(MetadataError::NoSuchBucket));
    assert_eq!(namespace.set_directory(made.id, None).await, Ok(()));
}
