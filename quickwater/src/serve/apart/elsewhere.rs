//! What the admin service shows of workers that run elsewhere: as the cluster knows
//! them, or as they say when they are asked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use quickwater_controlplane::cluster::orders::change_of;
use quickwater_controlplane::cluster::{Cluster, History, Part, Rates};
use quickwater_controlplane::jobs::{JobFailure, JobWorker, Retry, StopFlag};
use quickwater_controlplane::rpc::{
    NodeView, PersistChange, PersistFilter, PersistPlace, PersistView,
};
use quickwater_proto::{
    BucketId, BucketName, JobAction, JobOutcome, LeftAlone, NodeId, ObjectKey, PolicyTable,
    WRITE_REPLICAS_MAX, slot_of, slot_of_text,
};
use quickwater_rpc::admin::{self, Condition, Node, PersistTotals, Setting};
use quickwater_rpc::cluster::act::Kind;
use quickwater_rpc::cluster::order::What;
use quickwater_rpc::cluster::{Act, Compare, KeyOf, ListChanges, OrderAnswer, Scope};
use quickwater_worker::metrics::Metrics;
use tokio::runtime::Handle;

use super::super::admin::settings;
use super::expiry::Expiry;
use super::obey::LOOK_WAIT;
use crate::settings::Values;
use crate::store::MetadataStore;

/// Longest wait for one object, or one comparison, of a job.
const ACT_WAIT: Duration = Duration::from_secs(3_600);
/// Longest wait for the queue of a worker that did not show it in time before.
const LATE_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked whether a job is to stop.
const STOP_LOOK: Duration = Duration::from_millis(200);

fn condition(part: Part) -> Condition {
    Condition {
        name: part.name,
        state: part.state,
        detail: part.detail,
    }
}

fn rates(rates: Rates) -> admin::Rates {
    admin::Rates {
        sent_bytes: rates.sent_bytes,
        received_bytes: rates.received_bytes,
        requests: rates.requests,
        persisted_bytes: rates.persisted_bytes,
    }
}

/// The workers of a cluster.
pub(super) struct Workers {
    pub(super) started: Instant,
    pub(super) cluster: Cluster<MetadataStore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) values: Values,
    pub(super) metadata_ttl_ms: u64,
    pub(super) expiry: Expiry,
}

impl NodeView for Workers {
    /// Workers come and go: a write finds out how many there are.
    fn copies_max(&self) -> u8 {
        WRITE_REPLICAS_MAX
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn nodes(&self) -> Vec<Node> {
        let history = self.cluster.history();
        let table = self.cluster.tables().borrow().clone();
        let nodes = self.cluster.nodes().into_iter().map(|(seat, left)| {
            let beat = &seat.beat;
            let clear = table.is_clear_of(&seat.member.node);
            let (member, silent) = (&seat.member, left.is_zero());
            let heard = self.cluster.unheard_for(&seat);
            // What it said before it heard of the drain does not count.
            let drained = member.draining && beat.draining && clear && !beat.holds && !silent;
            let state = match (member.removed, member.gone, silent, member.draining) {
                (true, ..) => "removed".to_owned(),
                (_, true, ..) => "gone".to_owned(),
                (_, _, true, _) => "silent".to_owned(),
                _ if drained => "drained".to_owned(),
                (.., true) => "draining".to_owned(),
                _ => beat.state.clone(),
            };
            Node {
                name: seat.member.node.to_string(),
                s3_address: seat.member.s3_address,
                state,
                shards: seat.member.shards,
                capacity_bytes: seat.member.capacity_bytes,
                used_bytes: seat.beat.used_bytes,
                zone: seat.member.zone,
                advertise: seat.member.advertise,
                slots: u32::try_from(table.owned_by(&seat.member.node)).unwrap_or(u32::MAX),
                lease_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                dirty_bytes: seat.beat.dirty_bytes,
                epoch: seat.beat.epoch,
                changes: seat.beat.changes,
                transient_objects: seat.beat.transient_objects,
                copies_kept: seat.beat.copies_kept,
                parts_held: seat.beat.parts_held,
                draining: seat.member.draining,
                holds: seat.beat.holds,
                drained,
                conditions: seat.beat.parts.into_iter().map(condition).collect(),
                heard_ms: heard.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
                rates: history.latest(seat.member.node.as_str()).map(rates),
            }
        });
        nodes.collect()
    }

    fn history(&self) -> Option<History> {
        Some(self.cluster.history())
    }

    fn counters(&self) -> Vec<(String, f64)> {
        let totals = self.metrics.samples().totals();
        let named = totals.into_iter();
        named
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Of the control plane itself.
    fn conditions(&self) -> Vec<Condition> {
        let (name, state, detail) = self.expiry.condition(SystemTime::now());
        vec![Condition {
            name: name.into(),
            state: state.into(),
            detail,
        }]
    }

    fn settings(&self, defaults: bool) -> Vec<Setting> {
        settings(&self.values, defaults)
    }

    fn default_metadata_ttl_ms(&self) -> u64 {
        self.metadata_ttl_ms
    }

    /// Workers are told at once.
    fn mounts_changed(&self) {
        self.cluster.bucket_changed();
    }

    /// Workers are told at once.
    fn policies_changed(&self, version: u64, _: &PolicyTable) {
        self.cluster.policies_changed(version);
    }
}

/// Changes the UFSs do not have yet, in the queues of all workers.
pub(super) struct Queues {
    cluster: Cluster<MetadataStore>,
    runtime: Handle,
    /// Who did not answer in time, the last time they were asked.
    late: Mutex<HashSet<NodeId>>,
}

impl Queues {
    pub(super) fn new(cluster: Cluster<MetadataStore>, runtime: Handle) -> Self {
        Self {
            cluster,
            runtime,
            late: Mutex::default(),
        }
    }

    /// Asks every worker, all at once; what those say who answer.
    fn ask(&self, what: &What) -> Vec<(NodeId, OrderAnswer)> {
        self.ask_all(what).0
    }

    /// The same with who does not answer, but for workers that were removed.
    fn ask_all(&self, what: &What) -> (Vec<(NodeId, OrderAnswer)>, Vec<NodeId>) {
        self.ask_those(what, |_| true)
    }

    /// The same of some.
    fn ask_those(
        &self,
        what: &What,
        meant: impl Fn(&NodeId) -> bool,
    ) -> (Vec<(NodeId, OrderAnswer)>, Vec<NodeId>) {
        let mut nodes = self.cluster.nodes();
        nodes.retain(|(seat, _)| !seat.member.removed && meant(&seat.member.node));
        let asked = nodes.iter().map(async |(seat, _)| {
            let node = &seat.member.node;
            let given = self.cluster.orders().give(node, what.clone());
            let answered = tokio::time::timeout(self.patience(node), given).await;
            self.note(node, answered.is_err());
            match answered {
                Ok(Ok(answer)) if answer.error.is_empty() => return Ok((node.clone(), answer)),
                Ok(Ok(answer)) => {
                    tracing::warn!(%node, error = answer.error, "a worker does not show its queue");
                }
                Ok(Err(error)) => tracing::debug!(%error, "a worker does not show its queue"),
                Err(_) => tracing::warn!(%node, "a worker does not show its queue in time"),
            }
            Err(node.clone())
        });
        // The trait is not async; the runtime has other threads.
        let answers = tokio::task::block_in_place(|| self.runtime.block_on(join_all(asked)));
        let (mut given, mut unheard) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(answer) => given.push(answer),
                Err(node) => unheard.push(node),
            }
        }
        (given, unheard)
    }

    /// How long an answer is waited for: who was late the last time is not waited for as
    /// long as others again.
    fn patience(&self, node: &NodeId) -> Duration {
        match self.late().contains(node) {
            true => LATE_WAIT,
            false => LOOK_WAIT,
        }
    }

    fn note(&self, node: &NodeId, late: bool) {
        match late {
            true => self.late().insert(node.clone()),
            false => self.late().remove(node),
        };
    }

    fn late(&self) -> MutexGuard<'_, HashSet<NodeId>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum_of(&self, what: &What) -> PersistTotals {
        let (given, unheard) = self.ask_all(what);
        let mut sum = PersistTotals {
            unheard: unheard.iter().map(ToString::to_string).collect(),
            ..PersistTotals::default()
        };
        for totals in given.into_iter().filter_map(|(_, answer)| answer.totals) {
            sum.puts += totals.puts;
            sum.deletes += totals.deletes;
            sum.bytes += totals.bytes;
            sum.running += totals.running;
            sum.failing += totals.failing;
            sum.lost += totals.lost;
            sum.transient_objects += totals.transient_objects;
            sum.transient_bytes += totals.transient_bytes;
            sum.oldest_ms = match (sum.oldest_ms, totals.oldest_ms) {
                (0, oldest) | (oldest, 0) => oldest,
                (one, other) => one.min(other),
            };
            sum.newest_ms = sum.newest_ms.max(totals.newest_ms);
        }
        sum
    }
}

impl PersistView for Queues {
    fn page(
        &self,
        scope: Option<(BucketId, &str)>,
        after: Option<&PersistPlace>,
        filter: Option<PersistFilter>,
        worker: Option<&str>,
        limit: usize,
    ) -> (Vec<PersistChange>, Option<PersistPlace>) {
        let after = after.map(|(bucket, key)| key_of(*bucket, key));
        let list = ListChanges {
            scope: Some(scope_to_wire(scope, 0)),
            after,
            filter: match filter {
                None => 0,
                Some(PersistFilter::Waiting) => 1,
                Some(PersistFilter::Running) => 2,
                Some(PersistFilter::Failing) => 3,
            },
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let meant = |node: &NodeId| worker.is_none_or(|worker| worker == node.as_str());
        let (answers, _) = self.ask_those(&What::List(list), meant);
        let more = answers.iter().any(|(_, answer)| answer.more);
        let mut changes: Vec<_> = answers.iter().flat_map(shown).collect();
        changes.sort_by(|a, b| (a.bucket, &a.key).cmp(&(b.bucket, &b.key)));
        let more = more || changes.len() > limit;
        changes.truncate(limit);
        let last = changes
            .last()
            .map(|change| (change.bucket, change.key.clone()));
        (changes, last.filter(|_| more))
    }

    fn stat(&self, bucket: BucketId, key: &ObjectKey) -> Option<PersistChange> {
        let answers = self.ask(&What::Stat(key_of(bucket, key)));
        answers.iter().flat_map(shown).next()
    }

    fn retry(&self, scope: Option<(BucketId, &str)>) -> (u64, Vec<String>) {
        let (answers, unheard) = self.ask_all(&What::Retry(scope_to_wire(scope, 0)));
        let hurried = answers.iter().map(|(_, answer)| answer.number).sum();
        // One that said goodbye and has nothing that no UFS has is not missed.
        let missed = |node: &NodeId| {
            let mut seats = self.cluster.nodes().into_iter();
            let seat = seats.find(|(seat, _)| seat.member.node == *node);
            seat.is_some_and(|(seat, left)| !left.is_zero() || seat.beat.holds)
        };
        let unheard = unheard.iter().filter(|node| missed(node));
        (hurried, unheard.map(ToString::to_string).collect())
    }

    fn sum(&self, scope: Option<(BucketId, &str)>, until_ms: i64) -> PersistTotals {
        self.sum_of(&What::Sum(scope_to_wire(scope, until_ms)))
    }

    fn totals(&self) -> PersistTotals {
        self.sum_of(&What::Totals(scope_to_wire(None, 0)))
    }

    fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
    }
}

/// What a worker answered of its queue.
fn shown((node, answer): &(NodeId, OrderAnswer)) -> impl Iterator<Item = PersistChange> + '_ {
    let changes = answer.changes.iter();
    changes.filter_map(|change| {
        let change = change_of(change).ok()?;
        let worker = Some(node.clone());
        Some(PersistChange { worker, ..change })
    })
}

fn key_of(bucket: BucketId, key: &ObjectKey) -> KeyOf {
    KeyOf {
        bucket: bucket.0,
        key: key.as_str().to_owned(),
    }
}

fn scope_to_wire(scope: Option<(BucketId, &str)>, until_ms: i64) -> Scope {
    let (bucket, path) = scope.map_or((0, ""), |(bucket, path)| (bucket.0, path));
    Scope {
        all: scope.is_none(),
        bucket,
        path: path.to_owned(),
        until_ms,
    }
}

/// Workers that do what jobs want: for a key its owner, for a path who compares it for
/// listings, too, and asks the owners of the keys.
pub(super) struct Hands(pub(super) Cluster<MetadataStore>);

impl Hands {
    async fn give(
        &self,
        slot: usize,
        what: What,
        stop: &StopFlag,
    ) -> Result<Option<OrderAnswer>, JobFailure> {
        let unreached = |message: String| JobFailure {
            message,
            retry: Retry::Unreached,
        };
        let owner = self.0.tables().borrow().owner(slot).cloned();
        let owner = owner.ok_or_else(|| unreached("no worker owns the key now".into()))?;
        let mut given = std::pin::pin!(self.0.orders().give(&owner, what));
        let deadline = tokio::time::Instant::now() + ACT_WAIT;
        let answer = loop {
            tokio::select! {
                answer = &mut given => break answer,
                () = tokio::time::sleep(STOP_LOOK) => {}
            }
            // What was begun is done to its end; nobody waits for it.
            if stop.is_raised() {
                return Ok(None);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(unreached(format!("worker {owner} took too long")));
            }
        };
        let answer = answer.map_err(|error| unreached(error.to_string()))?;
        match answer.error.as_str() {
            "" => Ok(Some(answer)),
            message => Err(JobFailure {
                message: message.to_owned(),
                retry: match answer.retry {
                    0 => Retry::Final,
                    1 => Retry::BucketGone,
                    2 => Retry::Unreached,
                    _ => Retry::Busy,
                },
            }),
        }
    }
}

#[tonic::async_trait]
impl JobWorker for Hands {
    async fn compare(
        &self,
        name: &BucketName,
        bucket: BucketId,
        path: &str,
        stop: &StopFlag,
    ) -> Result<(), JobFailure> {
        let what = What::Compare(Compare {
            bucket_name: name.to_string(),
            bucket: bucket.0,
            path: path.to_owned(),
        });
        let below = match path.is_empty() || path.ends_with('/') {
            true => path.to_owned(),
            false => format!("{path}/"),
        };
        let slot = slot_of_text(bucket, &below);
        self.give(slot, what, stop).await.map(drop)
    }

    async fn act(
        &self,
        name: &BucketName,
        bucket: BucketId,
        key: &ObjectKey,
        action: JobAction,
        stop: &StopFlag,
    ) -> Result<JobOutcome, JobFailure> {
        let mut act = Act {
            bucket_name: name.to_string(),
            bucket: bucket.0,
            key: key.as_str().to_owned(),
            ..Act::default()
        };
        match action {
            JobAction::Load {
                verify,
                skip_cached,
            } => {
                act.set_kind(Kind::Load);
                (act.verify, act.skip_cached) = (verify, skip_cached);
            }
            JobAction::Free => act.set_kind(Kind::Free),
            JobAction::Delete { through } => {
                act.set_kind(Kind::Delete);
                let bytes = through.map(|version| version.0.to_be_bytes().to_vec());
                act.through = bytes.unwrap_or_default();
            }
        }
        let answer = self
            .give(slot_of(bucket, key), What::Act(act), stop)
            .await?;
        let Some(answer) = answer.filter(|answer| !answer.stopped) else {
            return Ok(JobOutcome::Stopped);
        };
        match answer.left.as_str() {
            "" => Ok(JobOutcome::Done {
                bytes: answer.number,
            }),
            why => LeftAlone::parse(why)
                .map(JobOutcome::Left)
                .ok_or_else(|| JobFailure {
                    message: format!("the worker left it: {why}"),
                    retry: Retry::Final,
                }),
        }
    }
}
