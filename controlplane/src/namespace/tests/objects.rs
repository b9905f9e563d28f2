use quickwater_proto::{Committed, MetadataError};

use super::*;
use crate::namespace::Usage;

#[tokio::test]
async fn an_object_is_read_as_committed() {
    let (namespace, id) = with_bucket().await;
    assert_eq!(namespace.object(id, &key("k")).await, Ok(None));
    for record in [
        object("a"),
        large_object("b"),
        completed((1..=500).map(part).collect()),
    ] {
        let version = put(&namespace, id, "k", &record).await;
        let read = namespace.object(id, &key("k")).await.unwrap().unwrap();
        assert_eq!(read, ObjectRecord { version, ..record });
    }
    assert_eq!(namespace.object(BucketId(99), &key("k")).await, Ok(None));
}

#[tokio::test]
async fn versions_grow_and_tell_what_was_replaced() {
    let (namespace, id) = with_bucket().await;
    let first = put(&namespace, id, "k", &large_object("a")).await;
    let committed = namespace
        .commit_object(id, &key("k"), &object("b"), &PutCondition::None)
        .await
        .unwrap();
    assert!(committed.version > first && first > Version(0));
    let replaced = Some(ObjectRecord {
        version: first,
        ..large_object("a")
    });
    assert_eq!(
        committed,
        Committed {
            version: committed.version,
            replaced
        }
    );

    let removed = namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await
        .unwrap();
    assert_eq!(
        removed,
        Some(ObjectRecord {
            version: committed.version,
            ..object("b")
        })
    );
    assert_eq!(namespace.object(id, &key("k")).await, Ok(None));
    let again = namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await;
    assert_eq!(again, Ok(None));
    assert!(put(&namespace, id, "k", &object("c")).await > committed.version);
}

#[tokio::test]
async fn conditions_on_nothing() {
    let (namespace, id) = with_bucket().await;
    let commit = async |condition| {
        let result = namespace
            .commit_object(id, &key("k"), &object("a"), &condition)
            .await;
        result.map(|_| ())
    };
    let none = Err(MetadataError::NoSuchObject);
    assert_eq!(commit(PutCondition::Match(ETag::new("a"))).await, none);
    assert_eq!(commit(PutCondition::Present).await, none);
    assert_eq!(commit(PutCondition::Version(Version(1))).await, none);
    assert_eq!(namespace.object(id, &key("k")).await, Ok(None));
    assert_eq!(commit(PutCondition::Absent).await, Ok(()));
    let remove = namespace
        .remove_object(id, &key("x"), &PutCondition::Present)
        .await;
    assert_eq!(remove, Err(MetadataError::NoSuchObject));
    assert_eq!(
        namespace
            .remove_object(id, &key("x"), &PutCondition::Absent)
            .await,
        Ok(None)
    );
}

#[tokio::test]
async fn conditions_on_an_object() {
    let (namespace, id) = with_bucket().await;
    let version = put(&namespace, id, "k", &object("a")).await;
    let before = namespace.object(id, &key("k")).await.unwrap();
    let commit = async |condition| {
        let result = namespace
            .commit_object(id, &key("k"), &object("b"), &condition)
            .await;
        result.map(|committed| committed.version)
    };
    let failed = Err(MetadataError::ConditionFailed);
    assert_eq!(commit(PutCondition::Absent).await, failed);
    assert_eq!(commit(PutCondition::Match(ETag::new("b"))).await, failed);
    assert_eq!(
        commit(PutCondition::Version(Version(version.0 + 1))).await,
        failed
    );
    let remove = namespace
        .remove_object(id, &key("k"), &PutCondition::Absent)
        .await;
    assert_eq!(remove, Err(MetadataError::ConditionFailed));
    assert_eq!(namespace.object(id, &key("k")).await.unwrap(), before);

    let second = commit(PutCondition::Match(ETag::new("a"))).await.unwrap();
    let third = commit(PutCondition::Version(second)).await.unwrap();
    assert_eq!(commit(PutCondition::Version(second)).await, failed);
    let fourth = commit(PutCondition::Present).await.unwrap();
    assert!(version < second && second < third && third < fourth);
}

#[tokio::test]
async fn replaced_details_leave_nothing_behind() {
    let (namespace, id) = with_bucket().await;
    let bare = rows(&namespace).await;
    put(&namespace, id, "k", &large_object("a")).await;
    put(&namespace, id, "k", &large_object("b")).await;
    let details = rows(&namespace)
        .await
        .iter()
        .filter(|key| key[0] == 0x11)
        .count();
    assert_eq!(details, 1);
    put(&namespace, id, "k", &object("c")).await;
    assert!(!rows(&namespace).await.iter().any(|key| key[0] == 0x11));
    put(&namespace, id, "k", &large_object("d")).await;
    namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await
        .unwrap();
    let left: Vec<_> = rows(&namespace)
        .await
        .into_iter()
        .filter(|key| key[0] != 0x40)
        .collect();
    assert_eq!(left, bare);
}

#[tokio::test]
async fn too_large_a_record_changes_nothing() {
    let (namespace, id) = with_bucket().await;
    let mut record = object("a");
    record.headers.content_type = Some("x".repeat(5 << 20));
    let refused = namespace
        .commit_object(id, &key("k"), &record, &PutCondition::None)
        .await;
    assert!(matches!(refused, Err(MetadataError::TooLarge(_))));
    assert_eq!(namespace.object(id, &key("k")).await, Ok(None));
}

#[tokio::test]
async fn usage_counts_objects_and_bytes() {
    let (namespace, id) = with_bucket().await;
    assert_eq!(namespace.usage(id).await, Ok(Usage::default()));
    for number in 0..20u64 {
        let record = ObjectRecord {
            size: number,
            ..object("a")
        };
        put(&namespace, id, &format!("k{number}"), &record).await;
    }
    put(
        &namespace,
        id,
        "k19",
        &ObjectRecord {
            size: 1,
            ..object("b")
        },
    )
    .await;
    namespace
        .remove_object(id, &key("k18"), &PutCondition::None)
        .await
        .unwrap();
    let bytes = (0..18).sum::<u64>() + 1;
    assert_eq!(namespace.usage(id).await, Ok(Usage { objects: 19, bytes }));
    for number in 0..20 {
        let key = key(&format!("k{number}"));
        namespace
            .remove_object(id, &key, &PutCondition::None)
            .await
            .unwrap();
    }
    assert_eq!(namespace.usage(id).await, Ok(Usage::default()));
}

#[tokio::test]
async fn a_damaged_row_is_an_error_and_no_missing_object() {
    let (namespace, id) = with_bucket().await;
    put(&namespace, id, "k", &object("a")).await;
    let mut transaction = namespace.store().begin();
    transaction.set(&crate::keyspace::object(id, &key("k")), &[9, 9, 9]);
    transaction.commit().await.unwrap();
    let unavailable = |error| matches!(error, MetadataError::Unavailable(_));
    assert!(unavailable(
        namespace.object(id, &key("k")).await.unwrap_err()
    ));
    assert!(unavailable(
        namespace.scan(id, "", "", 10).await.unwrap_err()
    ));
    let none = PutCondition::None;
    assert!(unavailable(
        namespace
            .commit_object(id, &key("k"), &object("b"), &none)
            .await
            .unwrap_err()
    ));
}
