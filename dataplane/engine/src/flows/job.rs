//! The shard's side of jobs: takes what they want done, one object at a time,
//! and answers. Absent: retries, counting, and which objects a job has.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use quickwater_proto::{Bucket, JobAction, JobOutcome, ObjectKey};

use crate::decisions::job_tasks::{JobAnswer, JobTask, JobWork};
use crate::decisions::slots::Slots;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Environment, Peers};

/// Longest sleep of a shard with no task; also how soon a stop is seen.
const IDLE: Duration = Duration::from_secs(1);

impl<W: World> Engine<W>
where
    W::Disk: Clone,
{
    /// Does what jobs want, one task after the other, until `stop` says so. Run as
    /// many as tasks may run on this shard at a time.
    pub async fn run_job_tasks(&self, stop: impl Fn() -> bool) {
        let tasks = &self.shared().jobs;
        while !stop() {
            let added = tasks.listen();
            if let Some(task) = tasks.take() {
                self.run_task(task).await;
                continue;
            }
            let timer = std::pin::pin!(self.environment().sleep(IDLE));
            select(added, timer).await;
        }
    }

    async fn run_task(&self, task: JobTask) {
        if task.is_stopped() {
            return task.answer(Ok(JobOutcome::Stopped));
        }
        let answer = match self.bucket(&task.name).await {
            Ok(bucket) if bucket.id == task.bucket => self.work(&bucket, &task).await,
            // Another one of that name.
            Ok(_) => Err(FlowError::NoSuchBucket),
            Err(error) => Err(error),
        };
        task.answer(answer);
    }

    async fn work(&self, bucket: &Arc<Bucket>, task: &JobTask) -> JobAnswer {
        let stop = || task.is_stopped();
        match &task.work {
            JobWork::Compare { path } => self.compare_path(bucket, path).await,
            JobWork::Object { key, action } => match *action {
                JobAction::Load {
                    verify,
                    skip_cached,
                } => self.load(bucket, key, verify, skip_cached, &stop).await,
                JobAction::Free => self.free(bucket, key).await,
                JobAction::Delete { through } => self.delete_for_job(bucket, key, through).await,
            },
        }
    }

    /// Compares the key itself and what is below it with the UFS. What it finds of others'
    /// keys their owners judge.
    async fn compare_path(&self, bucket: &Arc<Bucket>, path: &str) -> JobAnswer {
        if path.is_empty() || path.ends_with('/') {
            self.compare_below(bucket, path).await?;
            return Ok(JobOutcome::Done { bytes: 0 });
        }
        let key = ObjectKey::new(path).map_err(|error| FlowError::Invalid(error.0))?;
        match self.shared().rights.owns(Slots::of_key(bucket.id, &key)) {
            true => self.look_again(bucket, &[key]).await?,
            false => self.peers().look_again(bucket, vec![key]).await?,
        }
        self.compare_below(bucket, &format!("{path}/")).await?;
        Ok(JobOutcome::Done { bytes: 0 })
    }
}
