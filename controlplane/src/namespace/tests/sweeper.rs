use super::*;
use crate::namespace::{COMPLETED_KEEP_MS, Swept};

const MINUTE_MS: i64 = 60_000;

async fn operations(namespace: &Memory) -> usize {
    let mut transaction = namespace.store().begin();
    let range = KeyRange::prefix(&[0x30]);
    transaction
        .scan(Scan::new(range, 10_000))
        .await
        .unwrap()
        .rows
        .len()
}

#[tokio::test]
async fn operations_are_forgotten_after_three_minutes() {
    let (namespace, clock) = with_clock();
    let id = namespace.create_bucket(&bucket("one")).await.unwrap().id;
    for _ in 0..30 {
        put(&namespace, id, "k", &object("a")).await;
    }
    clock.advance(3 * MINUTE_MS);
    put(&namespace, id, "k", &object("b")).await;
    assert_eq!(namespace.sweep().await, Ok(Swept::default()));
    assert_eq!(operations(&namespace).await, 32);
    clock.advance(MINUTE_MS);
    let swept = namespace.sweep().await.unwrap();
    assert_eq!(
        swept,
        Swept {
            operations: 31,
            ..Swept::default()
        }
    );
    assert_eq!(operations(&namespace).await, 1);
    assert!(namespace.object(id, &key("k")).await.unwrap().is_some());
}

#[tokio::test]
async fn completed_uploads_are_forgotten_after_a_day() {
    let (namespace, clock) = with_clock();
    let id = namespace.create_bucket(&bucket("one")).await.unwrap().id;
    for number in 0..40 {
        namespace
            .create_upload(id, &upload("k", number))
            .await
            .unwrap();
        namespace
            .put_part(id, &upload("k", number), &part(1))
            .await
            .unwrap();
        let record = completed(vec![part(1)]);
        let none = PutCondition::None;
        namespace
            .complete_upload(id, &upload("k", number), &record, &none)
            .await
            .unwrap();
    }
    let known = async || {
        namespace
            .completed(id, &key("k"), UploadId(7))
            .await
            .unwrap()
    };
    clock.advance(COMPLETED_KEEP_MS - 1);
    assert_eq!(namespace.sweep().await.unwrap().completed, 0);
    assert_eq!(known().await, Some(ETag::new("completed-1")));
    clock.advance(1);
    assert_eq!(known().await, None, "expired, swept or not");
    assert_eq!(namespace.sweep().await.unwrap().completed, 40);
    let left = rows(&namespace).await;
    assert!(!left.iter().any(|key| matches!(key[0], 0x22 | 0x23)));
    assert!(namespace.object(id, &key("k")).await.unwrap().is_some());
}

#[tokio::test]
async fn removed_buckets_leave_nothing() {
    let (namespace, clock) = with_clock();
    let kept = namespace.create_bucket(&bucket("kept")).await.unwrap().id;
    put(&namespace, kept, "k", &large_object("a")).await;
    let bare = rows(&namespace).await;
    let id = namespace.create_bucket(&bucket("one")).await.unwrap().id;
    for number in 0..1_200 {
        put(&namespace, id, &format!("k{number}"), &object("a")).await;
    }
    put(&namespace, id, "large", &large_object("a")).await;
    namespace.create_upload(id, &upload("k", 1)).await.unwrap();
    namespace
        .put_part(id, &upload("k", 1), &part(1))
        .await
        .unwrap();
    namespace.delete_bucket(id, false).await.unwrap();

    let swept = namespace.sweep().await.unwrap();
    assert!(swept.trash >= 1_200 + 4 && !swept.more, "{swept:?}");
    assert_eq!(rows(&namespace).await, bare);
    assert_eq!(namespace.sweep().await.unwrap().trash, 0);
    clock.advance(20 * MINUTE_MS);
    namespace.sweep().await.unwrap();
    assert_eq!(operations(&namespace).await, 0);
}
