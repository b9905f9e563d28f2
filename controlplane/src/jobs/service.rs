//! Jobs as others see them: start, list, look, stop. Absent: how one runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quickwater_proto::{Bucket, JobAction, JobOutcome, LeftAlone, MetadataError, ObjectKey};
use tokio::sync::Notify;

use super::job::{Job, JobKind, JobState, Tally};
use super::run::Run;
use super::stats::JobStats;
use super::worker::{JobFailure, JobWorker, StopFlag};
use crate::Namespace;
use crate::namespace::JobLimits;
use crate::store::Store;

/// Longest wait before the jobs that are kept are looked through again.
const LOOK_PAUSE: Duration = Duration::from_secs(10);
/// Wait before a job goes on whose progress could not be noted.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// Limits of jobs.
#[derive(Debug, Clone, Copy)]
pub struct JobsConfig {
    /// Jobs that run at a time, at least 1; others wait.
    pub running_max: usize,
    /// Objects of one job at a time, at least 1.
    pub concurrency: usize,
    /// What is kept.
    pub limits: JobLimits,
}

/// A wish for a job.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    /// What it does.
    pub kind: JobKind,
    /// In which bucket.
    pub bucket: &'a Bucket,
    /// As [`Job::path`].
    pub path: &'a str,
}

/// Why a job does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// As many as may be kept wait or run.
    #[error("{0} jobs wait or run; stop some or wait")]
    TooMany(usize),
    /// The metadata cannot be read or written.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// All jobs of a service. Clones are the same.
pub struct Jobs<S>(Arc<Inner<S>>);

pub(super) struct Inner<S> {
    pub(super) namespace: Namespace<S>,
    pub(super) worker: Arc<dyn JobWorker>,
    pub(super) config: JobsConfig,
    pub(super) stats: Arc<JobStats>,
    running: Mutex<HashMap<u64, Live>>,
    wake: Notify,
}

/// A job that runs, as of now.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) job: Arc<Mutex<Job>>,
    pub(super) stop: StopFlag,
}

impl Live {
    pub(super) fn new(job: Job) -> Self {
        let stop = StopFlag::default();
        if job.stopping {
            stop.raise();
        }
        Self {
            job: Arc::new(Mutex::new(job)),
            stop,
        }
    }

    /// Looks at the job or changes it.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Job) -> R) -> R {
        change(&mut self.job.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S> Clone for Jobs<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Store> Jobs<S> {
    /// The jobs kept in `namespace`, for `worker` to do. Nothing runs before
    /// [`Jobs::run`].
    #[must_use]
    pub fn new(namespace: Namespace<S>, worker: Arc<dyn JobWorker>, config: JobsConfig) -> Self {
        Self(Arc::new(Inner {
            namespace,
            worker,
            config,
            stats: Arc::default(),
            running: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Arc<JobStats> {
        Arc::clone(&self.0.stats)
    }

    /// Begins a job, or answers the one that does the same already (`true`).
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(&self, new: NewJob<'_>) -> Result<(Job, bool), StartError> {
        let job = Job {
            id: 0,
            kind: new.kind,
            bucket: new.bucket.id,
            bucket_name: new.bucket.name.clone(),
            path: new.path.to_owned(),
            state: JobState::Waiting,
            stopping: false,
            created_ms: 0,
            started_ms: 0,
            ended_ms: 0,
            through: None,
            found: Tally::default(),
            done: Tally::default(),
            failed: 0,
            left: Default::default(),
            position: String::new(),
            errors: Vec::new(),
            unlisted: false,
        };
        let kept_max = self.0.config.limits.kept_max;
        let created = self.0.namespace.create_job(&job, kept_max).await?;
        let (job, existing) = created.ok_or(StartError::TooMany(kept_max))?;
        self.0.wake.notify_one();
        Ok((self.as_of_now(job), existing))
    }

    /// All jobs that are kept, newest first.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn list(&self) -> Result<Vec<Job>, MetadataError> {
        let jobs = self.0.namespace.jobs().await?;
        Ok(jobs.into_iter().rev().map(|j| self.as_of_now(j)).collect())
    }

    /// One job.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn get(&self, id: u64) -> Result<Option<Job>, MetadataError> {
        let job = self.0.namespace.job(id).await?;
        Ok(job.map(|job| self.as_of_now(job)))
    }

    /// Tells a job to stop. `None`: there is no such job.
    ///
    /// # Errors
    /// As any change of the metadata.
    pub async fn stop(&self, id: u64) -> Result<Option<Job>, MetadataError> {
        let Some(job) = self.0.namespace.stop_job(id).await? else {
            return Ok(None);
        };
        if let Some(live) = self.live(id) {
            live.with(|job| job.stopping = true);
            live.stop.raise();
        }
        Ok(Some(self.as_of_now(job)))
    }

    /// Deletes one object; whether there was one.
    ///
    /// # Errors
    /// As the worker says.
    pub async fn remove_object(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<bool, JobFailure> {
        let action = JobAction::Delete { through: None };
        let stop = StopFlag::default();
        let act = self
            .0
            .worker
            .act(&bucket.name, bucket.id, key, action, &stop);
        Ok(act.await? != JobOutcome::Left(LeftAlone::Gone))
    }

    /// Runs jobs, oldest first, for ever; those that a restart cut off go on.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.schedule().await {
                tracing::warn!(%error, "jobs cannot be looked through; tried again later");
            }
            // Either way it is time to look again.
            let _ = tokio::time::timeout(LOOK_PAUSE, self.0.wake.notified()).await;
        }
    }

    async fn schedule(&self) -> Result<(), MetadataError> {
        let namespace = &self.0.namespace;
        namespace.forget_jobs(self.0.config.limits.keep).await?;
        let mut jobs = namespace.jobs().await?;
        jobs.retain(|job| !job.state.is_end());
        // Stable: oldest first among those that ran and among those that wait.
        jobs.sort_by_key(|job| job.state == JobState::Waiting);
        for job in jobs {
            self.launch(job);
        }
        Ok(())
    }

    /// Runs a job unless it runs already or too many do.
    fn launch(&self, job: Job) {
        let id = job.id;
        let live = {
            let mut running = self.running();
            let full = running.len() >= self.0.config.running_max.max(1);
            if full || running.contains_key(&id) {
                return;
            }
            let live = Live::new(job);
            running.insert(id, live.clone());
            live
        };
        let jobs = self.clone();
        tokio::spawn(async move {
            let run = Run::new(Arc::clone(&jobs.0), live);
            if let Err(error) = run.run().await {
                tracing::warn!(job = id, %error, "the job cannot be noted; it goes on later");
                tokio::time::sleep(TROUBLE_PAUSE).await;
            }
            jobs.running().remove(&id);
            jobs.0.wake.notify_one();
        });
    }

    fn as_of_now(&self, job: Job) -> Job {
        match self.live(job.id) {
            Some(live) if !job.state.is_end() => Job {
                stopping: job.stopping,
                ..live.with(|job| job.clone())
            },
            _ => job,
        }
    }

    fn live(&self, id: u64) -> Option<Live> {
        self.running().get(&id).cloned()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Live>> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
