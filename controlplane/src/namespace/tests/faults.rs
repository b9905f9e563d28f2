//! Unknown outcomes: settled by the retry, never applied twice, never bringing
//! back what somebody else has replaced since.

use quickwater_proto::MetadataError;

use super::hooked::{Fate, HookedStore};
use super::*;
use crate::keyspace::{self, Counter};
use crate::namespace::mutate::{Mutation, Operation, Step};
use crate::namespace::{Stop, Usage};
use crate::store::{CommitError, Fault, FaultPlan, FaultyStore};

/// A namespace with unknown outcomes, one beside it without, and a bucket.
async fn hooked() -> (Namespace<HookedStore>, HookedStore, Memory, BucketId) {
    let (other, id) = with_bucket().await;
    let store = HookedStore::new(other.store().clone());
    (Namespace::new(store.clone()), store, other, id)
}

async fn put_by_other(other: Memory, id: BucketId) {
    put(&other, id, "k", &object("other")).await;
}

async fn etag(namespace: &Memory, id: BucketId) -> Option<String> {
    let found = namespace.object(id, &key("k")).await.unwrap();
    found.map(|record| record.etag.as_str().to_owned())
}

#[tokio::test]
async fn an_applied_put_does_not_come_back_over_a_later_one() {
    let (namespace, store, other, id) = hooked().await;
    let first = put(&other, id, "k", &object("first")).await;
    store.next_commit(Fate::Applied, put_by_other(other.clone(), id));
    let none = PutCondition::None;
    let mine = namespace
        .commit_object(id, &key("k"), &object("mine"), &none)
        .await
        .unwrap();
    assert_eq!(mine.replaced.unwrap().version, first);
    let current = other.object(id, &key("k")).await.unwrap().unwrap();
    assert_eq!(current.etag, ETag::new("other"));
    assert!(first < mine.version && mine.version < current.version);
    assert_eq!(
        other.usage(id).await,
        Ok(Usage {
            objects: 1,
            bytes: 7
        })
    );
}

#[tokio::test]
async fn an_applied_put_does_not_resurrect_a_deleted_object() {
    let (namespace, store, other, id) = hooked().await;
    let remover = other.clone();
    store.next_commit(Fate::Applied, async move {
        let removed = remover
            .remove_object(id, &key("k"), &PutCondition::None)
            .await
            .unwrap();
        assert_eq!(removed.unwrap().etag, ETag::new("mine"));
    });
    put(&namespace, id, "k", &object("mine")).await;
    assert_eq!(etag(&other, id).await, None);
    assert_eq!(other.usage(id).await, Ok(Usage::default()));
}

#[tokio::test]
async fn a_lost_put_is_made_again() {
    let (namespace, store, other, id) = hooked().await;
    store.next_commit(Fate::Lost, put_by_other(other.clone(), id));
    let none = PutCondition::None;
    let mine = namespace
        .commit_object(id, &key("k"), &large_object("mine"), &none)
        .await
        .unwrap();
    assert_eq!(mine.replaced.unwrap().etag, ETag::new("other"));
    assert_eq!(etag(&other, id).await.as_deref(), Some("mine"));
    assert_eq!(
        other.usage(id).await,
        Ok(Usage {
            objects: 1,
            bytes: 7
        })
    );
}

#[tokio::test]
async fn a_late_commit_loses_against_its_own_retry() {
    let (namespace, store, other, id) = hooked().await;
    store.next_commit(Fate::Late, async {});
    let version = put(&namespace, id, "k", &large_object("mine")).await;
    put(&other, id, "k", &object("other")).await;
    assert_eq!(store.land().await, Err(CommitError::Conflict));
    assert_eq!(etag(&other, id).await.as_deref(), Some("other"));
    assert!(version < other.object(id, &key("k")).await.unwrap().unwrap().version);
    assert_eq!(
        other.usage(id).await,
        Ok(Usage {
            objects: 1,
            bytes: 7
        })
    );
}

#[tokio::test]
async fn a_retry_that_is_refused_is_final() {
    let (namespace, store, other, id) = hooked().await;
    store.next_commit(Fate::Late, put_by_other(other.clone(), id));
    let absent = PutCondition::Absent;
    let refused = namespace
        .commit_object(id, &key("k"), &object("mine"), &absent)
        .await;
    assert_eq!(refused, Err(MetadataError::ConditionFailed));
    assert_eq!(store.land().await, Err(CommitError::Conflict));
    assert_eq!(etag(&other, id).await.as_deref(), Some("other"));
}

#[tokio::test]
async fn a_late_delete_does_not_remove_a_later_put() {
    let (namespace, store, other, id) = hooked().await;
    put(&other, id, "k", &object("first")).await;
    let meanwhile = other.clone();
    store.next_commit(Fate::Late, async move {
        meanwhile
            .remove_object(id, &key("k"), &PutCondition::None)
            .await
            .unwrap();
    });
    let removed = namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await;
    assert_eq!(removed, Ok(None));
    put(&other, id, "k", &object("other")).await;
    assert_eq!(store.land().await, Err(CommitError::Conflict));
    assert_eq!(etag(&other, id).await.as_deref(), Some("other"));
}

#[tokio::test]
async fn an_applied_delete_answers_what_it_removed() {
    let (namespace, store, other, id) = hooked().await;
    put(&other, id, "k", &object("first")).await;
    store.next_commit(Fate::Applied, put_by_other(other.clone(), id));
    let removed = namespace
        .remove_object(id, &key("k"), &PutCondition::None)
        .await
        .unwrap();
    assert_eq!(removed.unwrap().etag, ETag::new("first"));
    assert_eq!(etag(&other, id).await.as_deref(), Some("other"));
}

#[tokio::test]
async fn applied_changes_are_not_refused_as_repeats() {
    let (namespace, store, other, id) = hooked().await;
    let applied = || store.next_commit(Fate::Applied, async {});
    applied();
    let made = namespace.create_bucket(&bucket("two")).await.unwrap();
    assert_eq!(other.bucket(&name("two")).await, Ok(Some(made.clone())));
    applied();
    namespace.delete_bucket(made.id, true).await.unwrap();
    applied();
    namespace.create_upload(id, &upload("k", 1)).await.unwrap();
    applied();
    assert_eq!(
        namespace.put_part(id, &upload("k", 1), &part(1)).await,
        Ok(None)
    );
    applied();
    let record = completed(vec![part(1)]);
    let none = PutCondition::None;
    namespace
        .complete_upload(id, &upload("k", 1), &record, &none)
        .await
        .unwrap();
    assert_eq!(etag(&other, id).await.as_deref(), Some("completed-1"));

    namespace.create_upload(id, &upload("k", 2)).await.unwrap();
    namespace
        .put_part(id, &upload("k", 2), &part(4))
        .await
        .unwrap();
    applied();
    let parts = namespace.abort_upload(id, &key("k"), UploadId(2)).await;
    assert_eq!(parts, Ok(vec![part(4)]));
}

async fn faulty(plan: FaultPlan) -> (Namespace<FaultyStore<EmbeddedStore>>, Memory, BucketId) {
    let (other, id) = with_bucket().await;
    let mut namespace = Namespace::new(FaultyStore::new(other.store().clone(), plan, 1));
    namespace.attempts_max = 4;
    (namespace, other, id)
}

#[tokio::test]
async fn what_cannot_be_settled_is_said_to_be_unknown() {
    let plan = FaultPlan {
        unknown_lost: 1_000,
        ..FaultPlan::default()
    };
    let (namespace, other, id) = faulty(plan).await;
    let none = PutCondition::None;
    let unknown = namespace
        .commit_object(id, &key("k"), &object("a"), &none)
        .await;
    assert!(matches!(unknown, Err(MetadataError::Unknown(_))));
    assert_eq!(etag(&other, id).await, None);
    assert_eq!(namespace.store().injected(), 4, "attempts are bounded");
}

#[tokio::test]
async fn unavailable_after_unknown_is_unknown() {
    let plan = FaultPlan {
        unavailable: 1_000,
        ..FaultPlan::default()
    };
    let (namespace, other, id) = faulty(plan).await;
    namespace.store().script([Fault::UnknownLost]);
    let none = PutCondition::None;
    let unknown = namespace
        .commit_object(id, &key("k"), &object("a"), &none)
        .await;
    assert!(matches!(unknown, Err(MetadataError::Unknown(_))));
    let unavailable = namespace
        .commit_object(id, &key("k"), &object("a"), &none)
        .await;
    assert!(matches!(unavailable, Err(MetadataError::Unavailable(_))));
    assert_eq!(etag(&other, id).await, None);
}

#[tokio::test]
async fn endless_conflicts_and_failing_reads_are_unavailable() {
    let plan = FaultPlan {
        conflict: 1_000,
        ..FaultPlan::default()
    };
    let (namespace, _, id) = faulty(plan).await;
    let error = namespace
        .create_upload(id, &upload("k", 1))
        .await
        .unwrap_err();
    assert!(matches!(error, MetadataError::Unavailable(_)));
    assert_eq!(namespace.store().injected(), 4);

    let plan = FaultPlan {
        read_unavailable: 1_000,
        ..FaultPlan::default()
    };
    let (namespace, _, id) = faulty(plan).await;
    let unavailable = |error| matches!(error, MetadataError::Unavailable(_));
    assert!(unavailable(
        namespace.object(id, &key("k")).await.unwrap_err()
    ));
    assert!(unavailable(
        namespace.scan(id, "", "", 1).await.unwrap_err()
    ));
    assert!(unavailable(namespace.buckets().await.unwrap_err()));
    assert!(unavailable(
        namespace.delete_bucket(id, true).await.unwrap_err()
    ));
}

/// A change that reads nothing: only its operation row can tell attempts apart.
struct Blind(BucketId);

impl Mutation for Blind {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        transaction.add(&keyspace::counter(self.0, Counter::Objects, 0), 1);
        Ok(Step::Commit(()))
    }
}

#[tokio::test]
async fn a_change_that_reads_nothing_is_applied_once() {
    let (namespace, store, other, id) = hooked().await;
    store.next_commit(Fate::Late, async {});
    namespace.mutate(&Blind(id)).await.unwrap();
    assert_eq!(store.land().await, Err(CommitError::Conflict));
    assert_eq!(other.usage(id).await.unwrap().objects, 1);
    for fate in [Fate::Applied, Fate::Lost] {
        store.next_commit(fate, async {});
        namespace.mutate(&Blind(id)).await.unwrap();
    }
    assert_eq!(other.usage(id).await.unwrap().objects, 3);
}
