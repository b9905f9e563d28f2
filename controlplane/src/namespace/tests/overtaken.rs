//! Two changes at once, one of them exactly between the other's reads and its
//! commit.

use std::future::Future;

use quickwater_proto::MetadataError;

use super::hooked::{Fate, HookedStore};
use super::*;

/// The change under test goes through `slow`; the one that overtakes it through
/// `fast`. There is a bucket with an upload "k" that has part 1.
struct Race {
    slow: Namespace<HookedStore>,
    fast: Memory,
    id: BucketId,
}

const ID: UploadId = UploadId(1);
const NONE: PutCondition = PutCondition::None;

impl Race {
    async fn begin() -> Self {
        let (fast, id) = with_bucket().await;
        fast.create_upload(id, &upload("k", 1)).await.unwrap();
        fast.put_part(id, &upload("k", 1), &part(1)).await.unwrap();
        let slow = Namespace::new(HookedStore::new(fast.store().clone()));
        Self { slow, fast, id }
    }

    /// Before the next commit of `slow`, `change` is made and succeeds.
    fn overtake<F, T>(&self, change: impl FnOnce(Memory, BucketId) -> F)
    where
        F: Future<Output = Result<T, MetadataError>> + Send + 'static,
    {
        let change = change(self.fast.clone(), self.id);
        let succeeds = async move { drop(change.await.unwrap()) };
        self.slow.store().next_commit(Fate::Overtaken, succeeds);
    }

    async fn complete(&self) -> Result<(), MetadataError> {
        let record = completed(vec![part(1)]);
        let done = self
            .slow
            .complete_upload(self.id, &upload("k", 1), &record, &NONE)
            .await;
        done.map(|_| ())
    }

    async fn part_rows(&self) -> usize {
        rows(&self.fast)
            .await
            .iter()
            .filter(|key| key[0] == 0x21)
            .count()
    }

    async fn exists(&self) -> bool {
        self.fast
            .object(self.id, &key("k"))
            .await
            .unwrap()
            .is_some()
    }
}

async fn complete(fast: Memory, id: BucketId) -> Result<(), MetadataError> {
    let record = completed(vec![part(1)]);
    fast.complete_upload(id, &upload("k", 1), &record, &NONE)
        .await
        .map(|_| ())
}

async fn abort(fast: Memory, id: BucketId) -> Result<(), MetadataError> {
    fast.abort_upload(id, &key("k"), ID).await.map(|_| ())
}

async fn another_part(fast: Memory, id: BucketId) -> Result<(), MetadataError> {
    fast.put_part(id, &upload("k", 1), &part(2))
        .await
        .map(|_| ())
}

async fn same_part(fast: Memory, id: BucketId) -> Result<(), MetadataError> {
    let newer = PartRecord {
        blob: BlobId(77),
        ..part(1)
    };
    fast.put_part(id, &upload("k", 1), &newer).await.map(|_| ())
}

async fn put_object(fast: Memory, id: BucketId) -> Result<(), MetadataError> {
    fast.commit_object(id, &key("k"), &object("a"), &NONE)
        .await
        .map(|_| ())
}

async fn remove_bucket(fast: Memory, id: BucketId) -> Result<(), MetadataError> {
    fast.delete_bucket(id, false).await
}

#[tokio::test]
async fn a_part_does_not_outlive_its_upload() {
    let race = Race::begin().await;
    race.overtake(complete);
    let late = race.slow.put_part(race.id, &upload("k", 1), &part(2)).await;
    assert_eq!(late, Err(MetadataError::NoSuchUpload));
    assert!(race.exists().await);
    assert_eq!(race.part_rows().await, 0);

    let race = Race::begin().await;
    race.overtake(abort);
    let late = race.slow.put_part(race.id, &upload("k", 1), &part(2)).await;
    assert_eq!(late, Err(MetadataError::NoSuchUpload));
    assert_eq!(race.part_rows().await, 0);
}

#[tokio::test]
async fn a_part_replaced_meanwhile_is_not_completed() {
    let race = Race::begin().await;
    race.overtake(same_part);
    assert_eq!(race.complete().await, Err(MetadataError::InvalidPart));
    assert!(!race.exists().await);
}

#[tokio::test]
async fn a_part_added_meanwhile_is_forgotten_with_the_rest() {
    let race = Race::begin().await;
    race.overtake(another_part);
    assert_eq!(race.complete().await, Ok(()));
    assert_eq!(race.part_rows().await, 0);

    let race = Race::begin().await;
    race.overtake(another_part);
    let parts = race.slow.abort_upload(race.id, &key("k"), ID).await;
    assert_eq!(
        parts,
        Ok(vec![part(1), part(2)]),
        "to be freed, all of them"
    );
    assert_eq!(race.part_rows().await, 0);
}

#[tokio::test]
async fn an_upload_ends_once() {
    let race = Race::begin().await;
    race.overtake(abort);
    assert_eq!(race.complete().await, Err(MetadataError::NoSuchUpload));
    assert!(!race.exists().await);

    let race = Race::begin().await;
    race.overtake(complete);
    let late = race.slow.abort_upload(race.id, &key("k"), ID).await;
    assert_eq!(late, Err(MetadataError::NoSuchUpload));
    assert!(race.exists().await);

    let race = Race::begin().await;
    race.overtake(complete);
    assert_eq!(race.complete().await, Err(MetadataError::NoSuchUpload));
}

#[tokio::test]
async fn nothing_gets_into_a_bucket_removed_meanwhile() {
    let gone = MetadataError::NoSuchBucket;
    let race = Race::begin().await;
    race.overtake(remove_bucket);
    let late = race
        .slow
        .commit_object(race.id, &key("k"), &object("a"), &NONE)
        .await;
    assert_eq!(late.unwrap_err(), gone);
    assert!(!race.exists().await);

    let race = Race::begin().await;
    race.overtake(remove_bucket);
    assert_eq!(
        race.slow
            .create_upload(race.id, &upload("k", 2))
            .await
            .unwrap_err(),
        gone
    );

    let race = Race::begin().await;
    race.overtake(remove_bucket);
    let late = race.slow.put_part(race.id, &upload("k", 1), &part(2)).await;
    assert_eq!(late.unwrap_err(), gone);

    let race = Race::begin().await;
    race.overtake(remove_bucket);
    assert_eq!(race.complete().await.unwrap_err(), gone);
    assert!(race.fast.sweep().await.unwrap().trash > 0);
    assert!(!race.exists().await);
    assert_eq!(race.part_rows().await, 0);
}

#[tokio::test]
async fn a_bucket_filled_meanwhile_is_not_removed() {
    let race = Race::begin().await;
    abort(race.fast.clone(), race.id).await.unwrap();
    race.overtake(put_object);
    let refused = race.slow.delete_bucket(race.id, true).await;
    assert_eq!(refused, Err(MetadataError::BucketNotEmpty));
    assert!(race.exists().await);

    race.fast
        .remove_object(race.id, &key("k"), &NONE)
        .await
        .unwrap();
    race.overtake(|fast, id| async move { fast.create_upload(id, &upload("z", 2)).await });
    let refused = race.slow.delete_bucket(race.id, true).await;
    assert_eq!(refused, Err(MetadataError::BucketNotEmpty));
    assert!(race.fast.bucket(&name("one")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_condition_is_decided_at_the_commit() {
    let race = Race::begin().await;
    race.overtake(put_object);
    let absent = PutCondition::Absent;
    let refused = race
        .slow
        .commit_object(race.id, &key("k"), &object("b"), &absent)
        .await;
    assert_eq!(refused, Err(MetadataError::ConditionFailed));

    race.overtake(put_object);
    let replaced = race
        .slow
        .commit_object(race.id, &key("k"), &object("b"), &NONE)
        .await;
    let replaced = replaced.unwrap().replaced.unwrap();
    assert_eq!(replaced.etag, ETag::new("a"), "the one that overtook");
}

#[tokio::test]
async fn buckets_made_meanwhile_are_seen() {
    let race = Race::begin().await;
    race.overtake(|fast, _| async move { fast.create_bucket(&bucket("two")).await });
    let taken = race.slow.create_bucket(&bucket("two")).await;
    assert_eq!(taken, Err(MetadataError::BucketExists));

    race.overtake(|fast, _| async move {
        fast.create_bucket(&Bucket {
            ufs: "file:///x/y".into(),
            ..bucket("inner")
        })
        .await
    });
    let outer = Bucket {
        ufs: "file:///x".into(),
        ..bucket("outer")
    };
    let refused = race.slow.create_bucket(&outer).await;
    assert!(matches!(refused, Err(MetadataError::LocationOverlaps(_))));
}
