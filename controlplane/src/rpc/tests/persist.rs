//! What is not in the UFS yet, over gRPC.

use quickwater_proto::{NodeId, PendingChange, PendingRecord};
use quickwater_rpc::admin::{
    PersistListRequest, PersistRetryRequest, PersistStatRequest, PersistSumRequest, PersistTotals,
};

use super::*;
use crate::cluster::{ClusterError, LeavingPage, RefusedWorker};

const NOW_MS: i64 = 5_000;

/// A queue of which every change is a fact; what was hurried is written down.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) changes: Mutex<Vec<PersistChange>>,
    asked: Mutex<Vec<(Option<PersistFilter>, String)>>,
}

impl PersistView for World {
    fn page(
        &self,
        scope: Option<(BucketId, &str)>,
        after: Option<&PersistPlace>,
        filter: Option<PersistFilter>,
        worker: Option<&str>,
        limit: usize,
    ) -> (Vec<PersistChange>, Option<PersistPlace>) {
        let place = |change: &PersistChange| (change.bucket, change.key.clone());
        let prefix = scope.map_or("", |(_, prefix)| prefix).to_owned();
        self.pending.asked.lock().unwrap().push((filter, prefix));
        let mut left = self.pending.changes.lock().unwrap().clone();
        left.retain(|c| {
            scope.is_none_or(|(b, prefix)| c.bucket == b && c.key.as_str().starts_with(prefix))
                && after.is_none_or(|after| place(c) > *after)
                && worker.is_none_or(|one| c.worker.as_ref().is_none_or(|of| of.as_str() == one))
        });
        let more = left.len() > limit;
        left.truncate(limit);
        let next = left.last().filter(|_| more).map(place);
        (left, next)
    }

    fn stat(&self, bucket: BucketId, key: &ObjectKey) -> Option<PersistChange> {
        let changes = self.pending.changes.lock().unwrap();
        let mut found = changes
            .iter()
            .filter(|c| c.bucket == bucket && c.key == *key);
        found.next().cloned()
    }

    fn retry(&self, scope: Option<(BucketId, &str)>) -> (u64, Vec<String>) {
        let asked = (None, scope.map_or("/", |(_, path)| path).to_owned());
        self.pending.asked.lock().unwrap().push(asked);
        (7, vec!["n2".into()])
    }

    fn sum(&self, scope: Option<(BucketId, &str)>, until_ms: i64) -> PersistTotals {
        let changes = self.pending.changes.lock().unwrap();
        let within = |c: &PersistChange| {
            scope
                .is_none_or(|(bucket, path)| c.bucket == bucket && c.key.as_str().starts_with(path))
        };
        let since = changes.iter().filter(|c| within(c));
        let since = since.map(|c| c.pending.since_ms);
        let summed: Vec<i64> = since.filter(|since_ms| *since_ms <= until_ms).collect();
        PersistTotals {
            puts: summed.len() as u64,
            newest_ms: summed.iter().copied().max().unwrap_or(0),
            ..PersistTotals::default()
        }
    }

    fn totals(&self) -> PersistTotals {
        PersistTotals {
            puts: self.pending.changes.lock().unwrap().len() as u64,
            oldest_ms: 1,
            ..PersistTotals::default()
        }
    }

    fn now_ms(&self) -> i64 {
        NOW_MS
    }
}

pub(super) fn change(bucket: BucketId, key: &str, change: PendingChange) -> PersistChange {
    PersistChange {
        bucket,
        key: ObjectKey::new(key).unwrap(),
        pending: PendingRecord {
            version: Version(0xAB),
            change,
            since_ms: 1_000,
            superseded: false,
        },
        running: false,
        attempts: 0,
        error: None,
        due_in: Duration::ZERO,
        worker: None,
    }
}

fn listing(bucket: &str, prefix: &str, page_size: u32) -> PersistListRequest {
    PersistListRequest {
        bucket: bucket.into(),
        prefix: prefix.into(),
        page_size,
        ..PersistListRequest::default()
    }
}

#[tokio::test]
async fn pending_changes_are_listed_in_pages_with_their_state() {
    let served = Served::start().await;
    let id = served.bucket("data").await;
    let put = PendingChange::Put { size: 9 };
    *served.world.pending.changes.lock().unwrap() = vec![
        PersistChange {
            attempts: 3,
            error: Some("refused".into()),
            due_in: Duration::from_millis(1_500),
            ..change(id, "a", put)
        },
        PersistChange {
            running: true,
            worker: Some(NodeId::new("n7").unwrap()),
            ..change(id, "b/1", put)
        },
        change(id, "b/2", PendingChange::Delete),
        change(id, "b/3", PendingChange::Settling { until_ms: 9 }),
        // Its bucket was removed.
        change(BucketId(u64::MAX), "z", put),
    ];
    let mut client = served.client();
    let (mut shown, mut request) = (Vec::new(), listing("", "", 2));
    loop {
        let page = client.persist_list(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.changes.len() <= 2);
        assert_eq!(page.totals.unwrap().puts, 5);
        shown.extend(page.changes);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let states: Vec<_> = shown
        .iter()
        .map(|c| (c.key.as_str(), c.state.as_str()))
        .collect();
    let expected = [
        ("a", "NOT_PERSISTED"),
        ("b/1", "PERSISTING"),
        ("b/2", "DELETING"),
        ("b/3", "SETTLING"),
    ];
    assert_eq!(states, expected);
    let first = &shown[0];
    assert_eq!(
        (first.bucket.as_str(), first.worker.as_str()),
        ("data", "n1")
    );
    assert_eq!(
        (first.bytes, first.attempts, first.due_in_ms),
        (9, 3, 1_500)
    );
    assert_eq!((first.error.as_str(), first.since_ms), ("refused", 1_000));
    assert_eq!(first.version, "0000000000000000000000ab");
    assert_eq!(shown[1].worker, "n7");

    let below = client.persist_list(listing("data", "b/", 0)).await.unwrap();
    assert_eq!(below.into_inner().changes.len(), 3);
    let failing = PersistListRequest {
        state: "failing".into(),
        worker: "n1".into(),
        ..PersistListRequest::default()
    };
    client.persist_list(failing).await.unwrap();
    let asked = served.world.pending.asked.lock().unwrap().pop();
    assert_eq!(asked, Some((Some(PersistFilter::Failing), String::new())));
}

#[tokio::test]
async fn what_cannot_be_listed_is_told() {
    let served = Served::start().await;
    let mut client = served.client();
    let state = PersistListRequest {
        state: "lost".into(),
        ..PersistListRequest::default()
    };
    let worker = PersistListRequest {
        worker: "n9".into(),
        ..PersistListRequest::default()
    };
    let token = PersistListRequest {
        page_token: "x".into(),
        ..PersistListRequest::default()
    };
    for (request, code, text) in [
        (state, Code::InvalidArgument, "waiting, running or failing"),
        (worker, Code::NotFound, "there is: n1"),
        (token, Code::InvalidArgument, "page token"),
        (listing("", "p", 0), Code::InvalidArgument, "needs a bucket"),
        (listing("none", "", 0), Code::NotFound, "no bucket 'none'"),
    ] {
        let error = client.persist_list(request).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.message().contains(text), "{}", error.message());
    }
    let mut stranger = AdminClient::new(served.channel.clone());
    let refused = stranger.persist_list(listing("", "", 0)).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let refused = stranger.persist_retry(PersistRetryRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn one_key_is_shown_whether_it_is_pending_or_not() {
    let served = Served::start().await;
    let id = served.bucket("data").await;
    let key = ObjectKey::new("there").unwrap();
    served
        .namespace
        .commit_object(id, &key, &object(), &PutCondition::None)
        .await
        .unwrap();
    let gone = change(id, "gone", PendingChange::Delete);
    served.world.pending.changes.lock().unwrap().push(gone);
    let mut client = served.client();
    let stat = |key: &str| PersistStatRequest {
        bucket: "data".into(),
        key: key.into(),
    };
    let there = client.persist_stat(stat("there")).await.unwrap();
    let there = there.into_inner();
    assert_eq!((there.state.as_str(), there.bytes), ("PERSISTED", 3));
    assert!(there.change.is_none());
    let gone = client
        .persist_stat(stat("gone"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(gone.state, "DELETING");
    assert_eq!(gone.change.unwrap().since_ms, 1_000);
    let none = client.persist_stat(stat("none")).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    assert!(none.message().contains("/data/none"), "{}", none.message());
    let empty = client.persist_stat(stat("")).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_path_is_hurried_and_summed_up_to_a_time() {
    let served = Served::start().await;
    let id = served.bucket("data").await;
    let put = PendingChange::Put { size: 9 };
    let mut later = change(id, "p/2", put);
    later.pending.since_ms = NOW_MS + 2;
    *served.world.pending.changes.lock().unwrap() = vec![change(id, "p/1", put)];
    let mut client = served.client();
    let retry = PersistRetryRequest {
        bucket: "data".into(),
        path: "p".into(),
    };
    let reply = client.persist_retry(retry).await.unwrap().into_inner();
    assert_eq!((reply.hurried, reply.unheard), (7, vec!["n2".to_owned()]));
    let asked = served.world.pending.asked.lock().unwrap().pop();
    assert_eq!(asked, Some((None, "p".into())));
    let mut sum = PersistSumRequest {
        bucket: "data".into(),
        path: "p".into(),
        until_ms: 0,
    };
    let reply = client.persist_sum(sum.clone()).await.unwrap().into_inner();
    assert_eq!((reply.until_ms, reply.pending.unwrap().puts), (NOW_MS, 1));
    // Taken in before it was asked, by a clock that is ahead of ours.
    served.world.pending.changes.lock().unwrap().push(later);
    let reply = client.persist_sum(sum.clone()).await.unwrap().into_inner();
    let counted = reply.pending.unwrap();
    assert_eq!((reply.until_ms, counted.puts), (NOW_MS + 2, 2));
    sum.until_ms = NOW_MS + 1;
    let reply = client.persist_sum(sum.clone()).await.unwrap().into_inner();
    assert_eq!(
        (reply.until_ms, reply.pending.unwrap().puts),
        (NOW_MS + 1, 1)
    );
    let everything = PersistSumRequest::default();
    let reply = client.persist_sum(everything).await.unwrap().into_inner();
    assert_eq!(reply.pending.unwrap().puts, 2);
    let retry = PersistRetryRequest::default();
    client.persist_retry(retry).await.unwrap();
    let asked = served.world.pending.asked.lock().unwrap().pop();
    assert_eq!(asked, Some((None, "/".into())));
    sum.bucket = String::new();
    let nowhere = client.persist_sum(sum.clone()).await.unwrap_err();
    assert_eq!(nowhere.code(), Code::InvalidArgument);
    sum.bucket = "none".into();
    let missing = client.persist_sum(sum).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
}

#[tokio::test]
async fn a_sum_says_whether_anything_is_there() {
    let served = Served::start().await;
    let id = served.bucket("data").await;
    let name = ObjectKey::new("dir/k").unwrap();
    let record = object();
    let made = served
        .namespace
        .commit_object(id, &name, &record, &PutCondition::None);
    made.await.unwrap();
    let mut client = served.client();
    let there = ["", "dir", "dir/", "dir/k"];
    let nowhere = ["d", "dir/kk", "dir/k/", "none"];
    let all = there.map(|path| (path, true)).into_iter();
    for (path, found) in all.chain(nowhere.map(|path| (path, false))) {
        let sum = PersistSumRequest {
            bucket: "data".into(),
            path: path.into(),
            until_ms: 0,
        };
        let reply = client.persist_sum(sum).await.unwrap().into_inner();
        assert_eq!(reply.found, found, "{path}");
    }
}

#[tokio::test]
async fn objects_are_shown_with_their_state() {
    let served = Served::start().await;
    let id = served.bucket("data").await;
    let put = PendingChange::Put { size: 3 };
    for (key, persist) in [
        ("held", PersistState::Transient),
        ("sending", PersistState::NotPersisted),
        ("sending too", PersistState::NotPersisted),
        ("there", PersistState::Persisted),
        ("waiting", PersistState::NotPersisted),
    ] {
        let record = ObjectRecord {
            persist,
            ..object()
        };
        let name = ObjectKey::new(key).unwrap();
        let made = served
            .namespace
            .commit_object(id, &name, &record, &PutCondition::None);
        made.await.unwrap();
        if persist == PersistState::NotPersisted {
            let pending = PersistChange {
                running: key.starts_with("sending"),
                ..change(id, key, put)
            };
            served.world.pending.changes.lock().unwrap().push(pending);
        }
    }
    let mut client = served.client();
    let request = FsListRequest {
        bucket: "data".into(),
        ..FsListRequest::default()
    };
    served.world.pending.asked.lock().unwrap().clear();
    let listed = client.fs_list(request).await.unwrap().into_inner().entries;
    let asked = std::mem::take(&mut *served.world.pending.asked.lock().unwrap());
    assert_eq!(asked, [(Some(PersistFilter::Running), String::new())]);
    let states: Vec<_> = listed.iter().map(|e| e.persist_state.as_str()).collect();
    assert_eq!(
        states,
        [
            "TRANSIENT",
            "PERSISTING",
            "PERSISTING",
            "PERSISTED",
            "NOT_PERSISTED"
        ]
    );
    let stat = FsStatRequest {
        bucket: "data".into(),
        key: "sending".into(),
    };
    let shown = client.fs_stat(stat).await.unwrap().into_inner();
    assert_eq!(shown.persist_state, "PERSISTING");
}

/// A cluster of which nothing is asked here.
struct Nobody;

#[tonic::async_trait]
impl ClusterView for Nobody {
    async fn drain(&self, _: &NodeId, _: bool) -> Result<bool, ClusterError> {
        Ok(false)
    }
    async fn remove(&self, _: &NodeId) -> Result<(), ClusterError> {
        Ok(())
    }
    fn refused_workers(&self) -> Vec<RefusedWorker> {
        Vec::new()
    }
    async fn accept_older(&self, _: bool) -> Result<Vec<RefusedWorker>, ClusterError> {
        Ok(Vec::new())
    }
    async fn goes_with(
        &self,
        _: &NodeId,
        _: Option<(BucketId, &ObjectKey)>,
    ) -> Result<LeavingPage, ClusterError> {
        Ok(LeavingPage::default())
    }
}

#[tokio::test]
async fn what_no_queue_tells_of_is_counted_by_its_rows() {
    let served = Served::start_with(Some(Arc::new(Nobody))).await;
    let id = served.bucket("data").await;
    let record = ObjectRecord {
        persist: PersistState::NotPersisted,
        ..object()
    };
    for key in ["a", "b"] {
        let name = ObjectKey::new(key).unwrap();
        let made = served
            .namespace
            .commit_object(id, &name, &record, &PutCondition::None);
        made.await.unwrap();
    }
    let mut client = served.client();
    let sum = |until_ms| PersistSumRequest {
        until_ms,
        ..PersistSumRequest::default()
    };
    // The rows are dated by the real clock, which is far ahead of the one of the view.
    let reply = client.persist_sum(sum(0)).await.unwrap().into_inner();
    let found = reply.pending.unwrap();
    assert_eq!((found.puts, found.bytes), (2, 6));
    assert_eq!(reply.until_ms, found.newest_ms);
    assert!(reply.until_ms > NOW_MS);
    let again = client.persist_sum(sum(reply.until_ms)).await.unwrap();
    assert_eq!(again.into_inner().pending.unwrap().puts, 2);
    let listed = client.persist_list(listing("", "", 0)).await.unwrap();
    assert_eq!(listed.into_inner().totals.unwrap().puts, 2);
}
