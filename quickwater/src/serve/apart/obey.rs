//! What a worker does when the control plane gives an order: shows and hurries its queue
//! of changes, acts on objects for jobs.

use std::time::Duration;

use quickwater_controlplane::cluster::orders::{change_to_wire, scope_of};
use quickwater_controlplane::jobs::{JobFailure, JobWorker as _, Retry, StopFlag};
use quickwater_controlplane::rpc::{PersistFilter, PersistView as _};
use quickwater_proto::{BucketId, BucketName, JobAction, JobOutcome, ObjectKey, Version};
use quickwater_rpc::admin::PersistTotals;
use quickwater_rpc::cluster::act::Kind;
use quickwater_rpc::cluster::order::What;
use quickwater_rpc::cluster::{Act, Compare, KeyOf, ListChanges, OrderAnswer, Scope, Totals};

use super::super::jobs::Shards;
use super::super::pending::Pending;
use super::body::Body;

/// An answer that nothing was done.
pub(super) fn refused(why: impl ToString, retry: u32) -> OrderAnswer {
    OrderAnswer {
        error: why.to_string(),
        retry,
        ..OrderAnswer::default()
    }
}

/// Carries out an order.
pub(super) async fn obey(body: &Body, what: What) -> OrderAnswer {
    let queue = Pending::new(std::sync::Arc::clone(&body.shared), body.start);
    match what {
        What::List(list) => self::list(&queue, &list),
        What::Stat(key) => stat(&queue, &key),
        What::Retry(scope) => OrderAnswer {
            number: queue.retry(scope_of(&scope)).0,
            ..OrderAnswer::default()
        },
        What::Sum(scope) => sum(&queue, &scope),
        What::Totals(_) => totals(queue.totals()),
        What::Compare(compare) => self::compare(body, compare).await,
        What::Act(act) => self::act(body, act).await,
    }
}

fn list(queue: &Pending, list: &ListChanges) -> OrderAnswer {
    let scope = list.scope.clone().unwrap_or_default();
    let after = list.after.as_ref();
    let after = after.and_then(|at| Some((BucketId(at.bucket), ObjectKey::new(&at.key).ok()?)));
    let filter = match list.filter {
        1 => Some(PersistFilter::Waiting),
        2 => Some(PersistFilter::Running),
        3 => Some(PersistFilter::Failing),
        _ => None,
    };
    let limit = list.limit as usize;
    let (changes, next) = queue.page(scope_of(&scope), after.as_ref(), filter, None, limit);
    let changes = changes.iter().map(change_to_wire);
    match changes.collect::<Result<Vec<_>, _>>() {
        Ok(changes) => OrderAnswer {
            changes,
            more: next.is_some(),
            ..OrderAnswer::default()
        },
        Err(error) => refused(error, 0),
    }
}

fn stat(queue: &Pending, key: &KeyOf) -> OrderAnswer {
    let Ok(name) = ObjectKey::new(&key.key) else {
        return refused("not a key", 0);
    };
    let found = queue.stat(BucketId(key.bucket), &name);
    match found.as_ref().map(change_to_wire).transpose() {
        Ok(found) => OrderAnswer {
            changes: found.into_iter().collect(),
            ..OrderAnswer::default()
        },
        Err(error) => refused(error, 0),
    }
}

fn sum(queue: &Pending, scope: &Scope) -> OrderAnswer {
    totals(queue.sum(scope_of(scope), scope.until_ms))
}

fn totals(totals: PersistTotals) -> OrderAnswer {
    OrderAnswer {
        totals: Some(Totals {
            puts: totals.puts,
            deletes: totals.deletes,
            bytes: totals.bytes,
            running: totals.running,
            failing: totals.failing,
            lost: totals.lost,
            oldest_ms: totals.oldest_ms,
            transient_objects: totals.transient_objects,
            transient_bytes: totals.transient_bytes,
            newest_ms: totals.newest_ms,
        }),
        ..OrderAnswer::default()
    }
}

async fn compare(body: &Body, compare: Compare) -> OrderAnswer {
    let Ok(name) = BucketName::new(&compare.bucket_name) else {
        return refused("not a bucket", 0);
    };
    let hands = Shards::new(std::sync::Arc::clone(&body.shared));
    let (bucket, stop) = (BucketId(compare.bucket), StopFlag::default());
    match hands.compare(&name, bucket, &compare.path, &stop).await {
        Ok(()) => OrderAnswer::default(),
        Err(failure) => failed(failure),
    }
}

async fn act(body: &Body, act: Act) -> OrderAnswer {
    let names = (BucketName::new(&act.bucket_name), ObjectKey::new(&act.key));
    let (Ok(name), Ok(key)) = names else {
        return refused("not a key", 0);
    };
    let through = <[u8; 16]>::try_from(act.through.as_slice()).ok();
    let action = match act.kind() {
        Kind::Load => JobAction::Load {
            verify: act.verify,
            skip_cached: act.skip_cached,
        },
        Kind::Free => JobAction::Free,
        // A bound that is not understood must not be taken for none.
        Kind::Delete if through.is_some() || act.through.is_empty() => JobAction::Delete {
            through: through.map(|bytes| Version(u128::from_be_bytes(bytes))),
        },
        Kind::Delete | Kind::None => return refused("not an action", 0),
    };
    let hands = Shards::new(std::sync::Arc::clone(&body.shared));
    let stop = StopFlag::default();
    let acted = hands.act(&name, BucketId(act.bucket), &key, action, &stop);
    match acted.await {
        Ok(JobOutcome::Done { bytes }) => OrderAnswer {
            number: bytes,
            ..OrderAnswer::default()
        },
        Ok(JobOutcome::Left(why)) => OrderAnswer {
            left: why.as_str().to_owned(),
            ..OrderAnswer::default()
        },
        Ok(JobOutcome::Stopped) => OrderAnswer {
            stopped: true,
            ..OrderAnswer::default()
        },
        Err(failure) => failed(failure),
    }
}

fn failed(failure: JobFailure) -> OrderAnswer {
    let retry = match failure.retry {
        Retry::Final => 0,
        Retry::BucketGone => 1,
        Retry::Unreached => 2,
        Retry::Busy => 3,
    };
    refused(failure.message, retry)
}

/// How long the queue of a worker is waited for.
pub(super) const LOOK_WAIT: Duration = Duration::from_secs(10);
