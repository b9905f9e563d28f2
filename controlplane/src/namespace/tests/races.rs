//! Many tasks on the same rows: outcomes must be those of some order, and the
//! order is that of the versions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quickwater_proto::MetadataError;
use tokio::task::JoinSet;

use super::*;
use crate::store::{FaultPlan, FaultyStore};

const TASKS: u16 = 8;
const STEPS: u16 = 25;

/// What the tasks saw, by version: who wrote it, and how often it was the one
/// replaced or removed.
#[derive(Default)]
struct History {
    written: BTreeMap<Version, String>,
    ended: BTreeMap<Version, String>,
}

impl History {
    fn wrote(&mut self, version: Version, etag: &str) {
        let twice = self.written.insert(version, etag.into());
        assert_eq!(twice, None, "a version is given once");
    }

    fn ended(&mut self, record: &ObjectRecord) {
        let twice = self
            .ended
            .insert(record.version, record.etag.as_str().into());
        assert_eq!(twice, None, "a version ends once");
    }
}

async fn step<S: Store>(
    namespace: &Namespace<S>,
    id: BucketId,
    (task, number): (u16, u16),
    history: &Mutex<History>,
) {
    let key = key("k");
    if (task + number) % 3 == 0 {
        let removed = namespace
            .remove_object(id, &key, &PutCondition::None)
            .await
            .unwrap();
        if let Some(removed) = removed {
            history.lock().unwrap().ended(&removed);
        }
        return;
    }
    let etag = format!("{task}-{number}");
    let record = if number % 2 == 0 {
        object(&etag)
    } else {
        large_object(&etag)
    };
    let done = namespace
        .commit_object(id, &key, &record, &PutCondition::None)
        .await
        .unwrap();
    let mut history = history.lock().unwrap();
    history.wrote(done.version, &etag);
    if let Some(replaced) = done.replaced {
        assert!(replaced.version < done.version);
        history.ended(&replaced);
    }
}

/// Writes and removes one key from many tasks and checks the chain of versions.
async fn race<S: Store>(namespace: Namespace<S>, other: Memory, id: BucketId) {
    let history = Arc::new(Mutex::new(History::default()));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (namespace, history) = (namespace.clone(), Arc::clone(&history));
        tasks.spawn(async move {
            for number in 0..STEPS {
                step(&namespace, id, (task, number), &history).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Commits that land late are over, too.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let current = other.object(id, &key("k")).await.unwrap();
    let objects = u64::from(current.is_some());
    {
        let mut history = history.lock().unwrap();
        if let Some(current) = current {
            history.ended(&current);
        }
        assert!(!history.written.is_empty());
        assert_eq!(
            history.written, history.ended,
            "every version ends exactly once"
        );
    }
    let usage = other.usage(id).await.unwrap();
    assert_eq!((usage.objects, usage.bytes), (objects, objects * 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_has_one_history() {
    let (namespace, id) = with_bucket().await;
    race(namespace.clone(), namespace, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_has_one_history_under_faults() {
    for seed in 0..6 {
        let (other, id) = with_bucket().await;
        let plan = FaultPlan {
            conflict: 30,
            unknown_applied: 100,
            unknown_lost: 100,
            delayed: 200,
            delay_max: Duration::from_millis(1),
            ..FaultPlan::default()
        };
        let store = FaultyStore::new(other.store().clone(), plan, seed);
        race(Namespace::new(store.clone()), other, id).await;
        assert!(store.injected() > 20, "faults were met");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn complete_and_abort_have_one_winner() {
    let (namespace, id) = with_bucket().await;
    let (mut completes, mut aborts) = (0, 0);
    for round in 0..60 {
        let upload = upload("k", round);
        namespace.create_upload(id, &upload).await.unwrap();
        namespace.put_part(id, &upload, &part(1)).await.unwrap();
        let mut tasks = JoinSet::new();
        for task in 0..4 {
            let (namespace, upload) = (namespace.clone(), upload.clone());
            tasks.spawn(async move { end(&namespace, id, &upload, task % 2 == 0).await });
        }
        let late = namespace.put_part(id, &upload, &part(2)).await;
        assert!(matches!(late, Ok(None) | Err(MetadataError::NoSuchUpload)));
        let winners: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}");
        let object = namespace
            .remove_object(id, &key("k"), &PutCondition::None)
            .await
            .unwrap();
        let remembered = namespace.completed(id, &key("k"), upload.id).await.unwrap();
        assert_eq!(
            (object.is_some(), remembered.is_some()),
            (winners[0], winners[0])
        );
        completes += u32::from(winners[0]);
        aborts += u32::from(!winners[0]);
    }
    let left = rows(&namespace).await;
    assert!(
        !left.iter().any(|key| matches!(key[0], 0x20 | 0x21)),
        "uploads leave no rows"
    );
    assert_eq!(completes + aborts, 60);
}

/// Whether it completed the upload; none: another ended it.
async fn end(
    namespace: &Memory,
    id: BucketId,
    upload: &UploadRecord,
    complete: bool,
) -> Option<bool> {
    let result = match complete {
        true => {
            let record = completed(vec![part(1)]);
            let none = PutCondition::None;
            namespace
                .complete_upload(id, upload, &record, &none)
                .await
                .map(|_| true)
        }
        false => namespace
            .abort_upload(id, &upload.key, upload.id)
            .await
            .map(|_| false),
    };
    match result {
        Ok(completed) => Some(completed),
        Err(error) => {
            assert_eq!(error, MetadataError::NoSuchUpload);
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_is_removed_or_written_never_both() {
    let namespace = namespace();
    for round in 0..40 {
        let id = namespace.create_bucket(&bucket("one")).await.unwrap().id;
        let mut writers = JoinSet::new();
        for task in 0..4 {
            let namespace = namespace.clone();
            writers.spawn(async move {
                let none = PutCondition::None;
                let key = key(&format!("k{task}"));
                namespace
                    .commit_object(id, &key, &object("a"), &none)
                    .await
                    .map(|_| ())
            });
        }
        let removed = namespace.delete_bucket(id, true).await;
        let written = writers.join_all().await;
        let wanted = match removed {
            Ok(()) => Err(MetadataError::NoSuchBucket),
            Err(error) => {
                assert_eq!(error, MetadataError::BucketNotEmpty);
                Ok(())
            }
        };
        // A write may be acked before a removal is refused, not before one that
        // succeeds.
        assert!(
            written.iter().all(|one| *one == wanted),
            "round {round}: {written:?}"
        );
        if wanted.is_ok() {
            namespace.delete_bucket(id, false).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_makes_a_bucket() {
    let namespace = namespace();
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let namespace = namespace.clone();
        let bucket = bucket(&format!("bucket-{}", task % 2));
        tasks.spawn(async move { namespace.create_bucket(&bucket).await });
    }
    let made: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(made.len(), 2);
    assert_ne!(made[0].id, made[1].id);
    assert_eq!(namespace.buckets().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn absent_lets_one_writer_through() {
    let (namespace, id) = with_bucket().await;
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let namespace = namespace.clone();
        tasks.spawn(async move {
            let record = object(&format!("{task}"));
            let absent = PutCondition::Absent;
            namespace
                .commit_object(id, &key("k"), &record, &absent)
                .await
        });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let failed = results.into_iter().filter_map(Result::err);
    assert!(
        failed
            .into_iter()
            .all(|error| error == MetadataError::ConditionFailed)
    );
}
