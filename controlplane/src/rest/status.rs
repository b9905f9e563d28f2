//! `GET /api/v1/status`: what the status page shows, in one JSON document. And
//! `POST /api/v1/conf/test`: which policy a path has. Both only look.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use quickwater_rpc::admin::admin_server::Admin as _;
use quickwater_rpc::admin::{
    Job, JobListRequest, JobTally, Mount, MountListRequest, Node, PathConfigTestReply,
    PathConfigTestRequest, PersistChange, PersistListReply, PersistListRequest, PersistTotals,
    StatusRequest,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::{Request, Status};

use super::conf::{Desk, Failure, admit, refuse, respond};
use crate::cluster::{History, Rates};
use crate::rpc::AdminService;
use crate::store::Store;

/// Changes that are looked through for the oldest ones.
const LOOKED_THROUGH: u32 = 1_000;
/// Oldest changes shown.
const OLDEST: usize = 20;
/// Latest jobs shown.
const JOBS: usize = 50;
/// Longest that a document is waited for, the wait for its turn included.
const GATHER_WAIT_MAX: Duration = Duration::from_secs(25);
/// Largest request taken, bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Steps of each worker's traffic that are shown: all that are kept,
const WORKER_STEPS: usize = 120;
/// or, of many workers, fewer: their numbers are most of the document, which browsers get
/// every two seconds.
const WORKER_STEPS_OF_MANY: usize = 24;
/// So many are many.
const MANY_WORKERS: usize = 100;
/// Counters shown; rates come of two looks at them. Absent where nothing counts them.
const COUNTERS: [&str; 6] = [
    "quickwater_s3_bytes_sent_total",
    "quickwater_s3_bytes_received_total",
    "quickwater_s3_http_requests_total",
    "quickwater_persist_bytes_total",
    "quickwater_ufs_read_bytes_total",
    "quickwater_ufs_written_bytes_total",
];

pub(super) async fn get<S: Store>(
    State(desk): State<Desk<S>>,
    request: axum::extract::Request,
) -> Response {
    let (head, _) = request.into_parts();
    let answer = async {
        admit(&desk.token, &head.headers)?;
        document(&desk).await
    };
    finish(answer.await)
}

pub(super) async fn test_path<S: Store>(
    State(desk): State<Desk<S>>,
    request: axum::extract::Request,
) -> Response {
    let (head, body) = request.into_parts();
    let answer = async {
        admit(&desk.token, &head.headers)?;
        let bytes = to_bytes(body, REQUEST_BYTES_MAX).await;
        let asked: Value = bytes
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let path = asked["path"].as_str().ok_or_else(|| {
            Failure::BadRequest("write {\"path\": \"/bucket/key\"}, 8 KiB at most".into())
        })?;
        let request = PathConfigTestRequest {
            path: path.to_owned(),
            document: String::new(),
        };
        let reply = desk.service.path_config_test(Request::new(request));
        Ok(tested(&reply.await?.into_inner()))
    };
    finish(answer.await)
}

fn finish(answer: Result<Value, Failure>) -> Response {
    match answer {
        Ok(value) => respond(StatusCode::OK, None, format!("{value}\n")),
        Err(failure) => refuse(failure),
    }
}

/// What is shown, gathered anew. In a cluster every worker is asked for its queue, so one
/// call does it at a time, however many pages are open.
async fn document<S: Store>(desk: &Desk<S>) -> Result<Value, Failure> {
    let service = desk.service.clone();
    let gathering = async move { gather(&service).await };
    in_turn(GATHER_WAIT_MAX, Arc::clone(&desk.turn), gathering).await
}

/// Does some work when it is its turn, and waits for its end no longer than `wait`.
async fn in_turn<T: Send + 'static>(
    wait: Duration,
    turn: Arc<Mutex<()>>,
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    // A task of its own, which ends when nobody waits for it any more: views that ask
    // workers hold the thread they are polled on, and with it any timer beside them.
    let mut task = JoinSet::new();
    task.spawn(async move {
        let _turn = turn.lock().await;
        work.await
    });
    match tokio::time::timeout(wait, task.join_next()).await {
        Ok(Some(Ok(answer))) => answer,
        Ok(_) => Err(Status::internal("the look at workers and metadata broke off").into()),
        Err(_) => {
            let late = "workers or metadata did not answer in time";
            Err(Status::deadline_exceeded(late).into())
        }
    }
}

async fn gather<S: Store>(service: &AdminService<S>) -> Result<Value, Failure> {
    let status = service.status(Request::new(StatusRequest {})).await?;
    let status = status.into_inner();
    let mounts = service
        .mount_list(Request::new(MountListRequest {}))
        .await?;
    let jobs = service.job_list(Request::new(JobListRequest::default()));
    let mut jobs = jobs.await?.into_inner().jobs;
    jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
    jobs.truncate(JOBS);
    let queue = match status.nodes.is_empty() {
        // A cluster before its first worker: there is nobody to ask.
        true => PersistListReply::default(),
        false => {
            let asked = PersistListRequest {
                page_size: LOOKED_THROUGH,
                ..PersistListRequest::default()
            };
            service
                .persist_list(Request::new(asked))
                .await?
                .into_inner()
        }
    };
    let policies = service.policies(None).await?;
    let history = service.views.node.history();
    let counter = |name: &str| Some((name.to_owned(), json!(status.counters.get(name)?)));
    let counters: serde_json::Map<_, _> = COUNTERS.into_iter().filter_map(counter).collect();
    Ok(json!({
        "version": status.version,
        "uptime_ms": status.uptime_ms,
        "nodes": status.nodes.iter().map(|n| node(n, history.as_ref())).collect::<Vec<_>>(),
        "counters": counters,
        "traffic": history.as_ref().map(traffic),
        "mounts": mounts.into_inner().mounts.iter().map(mount).collect::<Vec<_>>(),
        "jobs": jobs.iter().map(job).collect::<Vec<_>>(),
        "persist": {
            "totals": totals(&queue.totals.unwrap_or_default()),
            "looked_through": queue.changes.len(),
            "all": queue.next_page_token.is_empty(),
            "oldest": oldest(queue.changes),
        },
        "policies": { "version": policies.version, "document": policies.text },
    }))
}

/// Those that wait longest, of what was looked through.
fn oldest(mut changes: Vec<PersistChange>) -> Vec<Value> {
    changes.sort_by_key(|change| change.since_ms);
    changes.truncate(OLDEST);
    changes.iter().map(change).collect()
}

fn change(change: &PersistChange) -> Value {
    json!({
        "bucket": change.bucket,
        "key": change.key,
        "state": change.state,
        "bytes": change.bytes,
        "since_ms": change.since_ms,
        "running": change.running,
        "attempts": change.attempts,
        "due_in_ms": change.due_in_ms,
        "error": change.error,
    })
}

fn totals(totals: &PersistTotals) -> Value {
    json!({
        "puts": totals.puts,
        "deletes": totals.deletes,
        "bytes": totals.bytes,
        "running": totals.running,
        "failing": totals.failing,
        "oldest_ms": totals.oldest_ms,
        "transient_objects": totals.transient_objects,
        "transient_bytes": totals.transient_bytes,
        "unheard": totals.unheard,
    })
}

fn node(node: &Node, history: Option<&History>) -> Value {
    let steps = history.and_then(|history| history.workers.get(&node.name));
    json!({
        "name": node.name,
        "state": node.state,
        "s3_address": node.s3_address,
        "advertise": node.advertise,
        "zone": node.zone,
        "slots": node.slots,
        "epoch": node.epoch,
        "lease_ms": node.lease_ms,
        "capacity_bytes": node.capacity_bytes,
        "used_bytes": node.used_bytes,
        "dirty_bytes": node.dirty_bytes,
        "changes": node.changes,
        "transient_objects": node.transient_objects,
        "copies_kept": node.copies_kept,
        "parts_held": node.parts_held,
        "heard_ms": node.heard_ms,
        "traffic": steps.map(|steps| rates(latest(steps, worker_steps(history)))),
    })
}

/// How many steps of each worker are shown.
fn worker_steps(history: Option<&History>) -> usize {
    match history.map_or(0, |history| history.workers.len()) {
        0..MANY_WORKERS => WORKER_STEPS,
        _ => WORKER_STEPS_OF_MANY,
    }
}

fn latest(steps: &[Option<Rates>], count: usize) -> &[Option<Rates>] {
    steps
        .get(steps.len().saturating_sub(count)..)
        .unwrap_or_default()
}

/// What all workers moved together.
fn traffic(history: &History) -> Value {
    let mut all = rates(&history.sum());
    all["missing"] = json!(history.missing());
    all["worker_steps"] = json!(worker_steps(Some(history)));
    all["step_ms"] = json!(history.step.as_millis() as u64);
    all
}

/// Per second, whole; null for a step that nobody told of.
fn rates(steps: &[Option<Rates>]) -> Value {
    let all = |of: fn(&Rates) -> f64| {
        let each = steps.iter().map(|step| step.as_ref().map(of));
        each.map(|rate| rate.map(|rate| rate.round() as u64))
            .collect::<Vec<_>>()
    };
    let one_decimal = |rate: f64| (rate * 10.0).round() / 10.0;
    let requests = steps
        .iter()
        .map(|step| step.map(|r| one_decimal(r.requests)));
    json!({
        "sent_bytes": all(|r| r.sent_bytes),
        "received_bytes": all(|r| r.received_bytes),
        "requests": requests.collect::<Vec<_>>(),
        "persisted_bytes": all(|r| r.persisted_bytes),
    })
}

/// Without its options: they are not needed, and may name where secrets are.
fn mount(mount: &Mount) -> Value {
    json!({ "bucket": mount.bucket, "uri": mount.uri, "trouble": mount.trouble })
}

fn job(job: &Job) -> Value {
    json!({
        "id": job.id,
        "kind": job.kind,
        "bucket": job.bucket,
        "path": job.path,
        "state": job.state,
        "created_ms": job.created_ms,
        "found": job.found.as_ref().map(tally),
        "done": job.done.as_ref().map(tally),
        "failed": job.failed,
        "left": job.left.values().sum::<u64>(),
    })
}

fn tally(tally: &JobTally) -> Value {
    json!({ "objects": tally.objects, "bytes": tally.bytes })
}

fn tested(reply: &PathConfigTestReply) -> Value {
    json!({
        "policy_mode": reply.policy_mode,
        "write_replicas": reply.write_replicas,
        "on_dirty_limit": reply.on_dirty_limit,
        "rule": reply.rule,
        "rule_path": reply.rule_path,
        "description": reply.description,
        "version": reply.version,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::Instant;
    use tonic::Code;

    use super::*;

    fn is_late<T>(answer: Result<T, Failure>) -> bool {
        matches!(answer, Err(Failure::Call(status)) if status.code() == Code::DeadlineExceeded)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_turn_longer_than_allowed() {
        let turn = Arc::new(Mutex::new(()));
        let taken = turn.lock().await;
        let begun = Instant::now();
        let waited = in_turn(GATHER_WAIT_MAX, Arc::clone(&turn), async { Ok(()) }).await;
        assert!(is_late(waited));
        assert_eq!(begun.elapsed().as_secs(), GATHER_WAIT_MAX.as_secs());
        drop(taken);
        let again = in_turn(GATHER_WAIT_MAX, turn, async { Ok(()) }).await;
        assert!(again.is_ok(), "who gave up does not take a turn later");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_too_long_is_ended_and_leaves_its_turn() {
        let turn = Arc::new(Mutex::new(()));
        let never = std::future::pending::<Result<(), Failure>>();
        assert!(is_late(
            in_turn(GATHER_WAIT_MAX, Arc::clone(&turn), never).await
        ));
        let next = in_turn(GATHER_WAIT_MAX, turn, async { Ok(()) }).await;
        assert!(next.is_ok());
    }

    /// As views do that ask workers: the thread is theirs until they have an answer.
    #[test]
    fn work_that_holds_its_thread_does_not_hold_who_waits() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (release, held) = mpsc::channel::<()>();
        let work = async move {
            tokio::task::block_in_place(|| held.recv().ok());
            Ok(())
        };
        let waited = in_turn(Duration::from_millis(50), Arc::default(), work);
        let answer = runtime.block_on(waited);
        drop(release);
        assert!(is_late(answer));
    }
}
