//! Jobs and the shards that do what they want: the worker of the control plane's
//! jobs, and their metrics. Absent: what a job is, what is done to an object.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use quickwater_controlplane::Namespace;
use quickwater_controlplane::jobs::{
    JobFailure, JobKind, JobStats, JobWorker, Jobs, JobsConfig, Retry, StopFlag,
};
use quickwater_controlplane::namespace::JobLimits;
use quickwater_engine::{FlowError, Shared};
use quickwater_proto::{BucketId, BucketName, JobAction, JobOutcome, ObjectKey};
use quickwater_worker::metrics::{Metric, Metrics};

use crate::settings::{JobsSettings, Settings};
use crate::store::MetadataStore;

/// Of a shard's large buffers tasks may use one in this many loops: each loop holds
/// a few, and the rest is for clients.
const BUFFERS_PER_TASK: usize = 8;

/// The jobs of this service, to be run.
pub(super) fn jobs(
    namespace: Namespace<MetadataStore>,
    shared: Arc<Shared>,
    settings: &JobsSettings,
    metrics: &Metrics,
) -> Jobs<MetadataStore> {
    let config = JobsConfig {
        running_max: settings.running_max,
        concurrency: settings.concurrency,
        limits: JobLimits {
            kept_max: settings.kept_max,
            keep: settings.keep,
        },
    };
    let jobs = Jobs::new(namespace, Arc::new(Shards(shared)), config);
    collect(metrics, jobs.stats());
    jobs
}

/// Tasks of jobs at a time on one shard.
pub(super) fn tasks_per_shard(settings: &Settings, large_buffers: usize) -> usize {
    let jobs = &settings.jobs;
    let all = jobs.running_max * jobs.concurrency;
    let share = all.div_ceil(settings.store.threads.max(1));
    share.min(large_buffers / BUFFERS_PER_TASK).max(1)
}

/// Reports what jobs do.
pub(super) fn collect(metrics: &Metrics, stats: Arc<JobStats>) {
    metrics.collect(move |samples| {
        for (at, kind) in JobKind::NAMES.into_iter().enumerate() {
            samples.count(
                Metric::JobsRunning,
                &[kind],
                stats.running[at].load(Relaxed),
            );
            let objects = Metric::JobObjects;
            samples.count(objects, &[kind, "done"], stats.done[at].load(Relaxed));
            samples.count(objects, &[kind, "left"], stats.left[at].load(Relaxed));
            samples.count(objects, &[kind, "failed"], stats.failed[at].load(Relaxed));
            samples.count(Metric::JobBytes, &[kind], stats.bytes[at].load(Relaxed));
        }
    });
}

/// The shards of this process.
pub(super) struct Shards(Arc<Shared>);

impl Shards {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

#[tonic::async_trait]
impl JobWorker for Shards {
    async fn compare(
        &self,
        name: &BucketName,
        bucket: BucketId,
        path: &str,
        stop: &StopFlag,
    ) -> Result<(), JobFailure> {
        let compared = self.0.jobs.compare(name, bucket, path, stop.shared());
        compared.await.map(drop).map_err(failure)
    }

    async fn act(
        &self,
        name: &BucketName,
        bucket: BucketId,
        key: &ObjectKey,
        action: JobAction,
        stop: &StopFlag,
    ) -> Result<JobOutcome, JobFailure> {
        let acted = self.0.jobs.act(name, bucket, key, action, stop.shared());
        acted.await.map_err(failure)
    }
}

fn failure(error: FlowError) -> JobFailure {
    let retry = match &error {
        FlowError::NoSuchBucket => Retry::BucketGone,
        FlowError::SlowDown(_)
        | FlowError::NoRoom(_)
        | FlowError::Fenced(_)
        | FlowError::NotHere(_) => Retry::Busy,
        FlowError::Unavailable(_)
        | FlowError::Unknown(_)
        | FlowError::Unsettled(_)
        | FlowError::Changed => Retry::Unreached,
        _ => Retry::Final,
    };
    let message = error.to_string();
    JobFailure { message, retry }
}
