use quickwater_proto::{MetadataError, OpenedUpload};

use super::*;

fn opened(text: &str, id: u128, version: Option<u128>) -> OpenedUpload {
    OpenedUpload {
        id: UploadId(id),
        key: key(text),
        version: version.map(Version),
        ufs_upload: None,
        begun_ms: 10,
        asked_ms: 20,
        asked: 1,
    }
}

#[tokio::test]
async fn what_was_opened_is_listed_until_it_is_forgotten() {
    let (namespace, bucket) = with_bucket().await;
    let notes = [
        opened("a", 2, None),
        opened("a", 3, Some(7)),
        opened("b", 1, None),
    ];
    for note in &notes {
        namespace.note_opened(bucket, note).await.unwrap();
    }
    let named = OpenedUpload {
        ufs_upload: Some("n".into()),
        ..notes[1].clone()
    };
    namespace.note_opened(bucket, &named).await.unwrap();

    let first = namespace.opened(None, 2).await.unwrap();
    assert_eq!(first, [(bucket, notes[0].clone()), (bucket, named.clone())]);
    let (_, last) = &first[1];
    let after = Some((bucket, &last.key, last.id));
    let rest = namespace.opened(after, 2).await.unwrap();
    assert_eq!(rest, [(bucket, notes[2].clone())]);

    for _ in 0..2 {
        namespace
            .forget_opened(bucket, &named.key, named.id)
            .await
            .unwrap();
    }
    assert_eq!(namespace.opened(None, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_row_of_an_upload_takes_the_place_of_the_note() {
    let (namespace, bucket) = with_bucket().await;
    namespace
        .note_opened(bucket, &opened("k", 1, None))
        .await
        .unwrap();
    namespace
        .note_opened(bucket, &opened("k", 2, None))
        .await
        .unwrap();
    namespace
        .create_upload(bucket, &upload("k", 1))
        .await
        .unwrap();
    let left = namespace.opened(None, 9).await.unwrap();
    assert_eq!(left, [(bucket, opened("k", 2, None))]);
}

#[tokio::test]
async fn notes_go_with_their_bucket() {
    let (namespace, bucket) = with_bucket().await;
    let note = opened("k", 1, None);
    namespace.note_opened(bucket, &note).await.unwrap();
    namespace.delete_bucket(bucket, true).await.unwrap();
    let refused = namespace.note_opened(bucket, &note).await;
    assert_eq!(refused, Err(MetadataError::NoSuchBucket));
    namespace.sweep().await.unwrap();
    assert!(namespace.opened(None, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_that_is_handed_over_names_the_one_of_the_ufs() {
    let (namespace, bucket) = with_bucket().await;
    let before = UploadRecord {
        ufs_upload: UploadRecord::HELD_BACK.into(),
        ..upload("k", 1)
    };
    namespace.create_upload(bucket, &before).await.unwrap();
    for number in [1, 2] {
        let stored = namespace.put_part(bucket, &before, &part(number)).await;
        stored.unwrap();
    }
    for id in [7, 8] {
        let note = opened("k", id, None);
        namespace.note_opened(bucket, &note).await.unwrap();
    }

    let after = upload("k", 1);
    let over = namespace.hand_over(bucket, &after, UploadId(7)).await;
    assert_eq!(over, Ok(()));
    let row = namespace.upload(bucket, &key("k"), UploadId(1)).await;
    assert_eq!(row, Ok(Some(after.clone())));
    let left = namespace.opened(None, 9).await.unwrap();
    assert_eq!(left, [(bucket, opened("k", 8, None))]);
    // What was there is held, what comes is as it says.
    namespace.put_part(bucket, &after, &part(3)).await.unwrap();
    let parts = namespace.parts(bucket, &key("k"), UploadId(1), 0, 9).await;
    let held: Vec<_> = parts.unwrap().iter().map(|part| part.held).collect();
    assert_eq!(held, [true, true, false]);

    let (ended, id) = (key("k"), UploadId(1));
    namespace.abort_upload(bucket, &ended, id).await.unwrap();
    let over = namespace.hand_over(bucket, &after, UploadId(8)).await;
    assert_eq!(over, Err(MetadataError::NoSuchUpload));
}
