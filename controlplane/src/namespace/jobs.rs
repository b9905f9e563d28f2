//! Jobs as they are kept: begun, noted, stopped, forgotten. Absent: who runs them.

use std::time::Duration;

use quickwater_proto::{MetadataError, Version};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step};
use super::read::{Get, all_rows};
use super::{Namespace, Stop, record_error};
use crate::jobs::{Job, JobState};
use crate::keyspace;
use crate::records::{decode_job, encode_job};
use crate::store::{Row, Store, Transaction};

/// Most jobs kept, whatever is configured.
const KEPT_MAX: usize = 10_000;

/// How many jobs are kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    /// Jobs kept in all; the oldest that have ended go first.
    pub kept_max: usize,
    /// How long one that has ended is kept.
    pub keep: Duration,
}

/// What became of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is kept.
    Kept {
        /// Somebody wants the job stopped.
        stopping: bool,
        /// The commit of the note.
        version: Version,
    },
    /// The job has ended already, or is gone.
    Ended,
}

impl<S: Store> Namespace<S> {
    /// Begins a job (its number is given here) or answers one that does the same
    /// and has not ended (`true`). `None`: as many as may be kept wait or run.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], or as any change.
    pub async fn create_job(
        &self,
        job: &Job,
        kept_max: usize,
    ) -> Result<Option<(Job, bool)>, MetadataError> {
        let kept_max = kept_max.clamp(1, KEPT_MAX);
        let now_ms = self.clock.wall_ms();
        let create = CreateJob {
            job,
            kept_max,
            now_ms,
        };
        Ok(self.mutate(&create).await?.0)
    }

    /// All jobs that are kept, oldest first.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn jobs(&self) -> Result<Vec<Job>, MetadataError> {
        let (rows, _) = self.rows(keyspace::jobs(), KEPT_MAX).await?;
        rows.iter()
            .map(|row| decode_row(row).map_err(stop_error))
            .collect()
    }

    /// One job.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn job(&self, id: u64) -> Result<Option<Job>, MetadataError> {
        let value = self.read(&Get(&keyspace::job(id))).await?;
        value
            .map(|value| decode_job(id, &value).map_err(record_error))
            .transpose()
    }

    /// Notes how far a job is; a wish to stop it stays noted.
    ///
    /// # Errors
    /// As any change.
    pub async fn save_job(&self, job: &Job) -> Result<Saved, MetadataError> {
        let (stopping, version) = self.mutate(&SaveJob { job }).await?;
        match (stopping, version) {
            (None, _) => Ok(Saved::Ended),
            (Some(stopping), Some(version)) => Ok(Saved::Kept { stopping, version }),
            (Some(_), None) => Err(MetadataError::Unknown("no version was given".into())),
        }
    }

    /// Notes that a job is to stop; one that waits is stopped with it, one that has
    /// ended stays as it is. `None`: there is no such job.
    ///
    /// # Errors
    /// As any change.
    pub async fn stop_job(&self, id: u64) -> Result<Option<Job>, MetadataError> {
        let now_ms = self.clock.wall_ms();
        Ok(self.mutate(&StopJob { id, now_ms }).await?.0)
    }

    /// Forgets jobs that ended longer ago than they are kept; how many.
    ///
    /// # Errors
    /// As any change.
    pub async fn forget_jobs(&self, keep: Duration) -> Result<usize, MetadataError> {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.clock.wall_ms().saturating_sub(keep_ms);
        let old = |job: &Job| job.state.is_end() && job.ended_ms < before_ms;
        if !self.jobs().await?.iter().any(old) {
            return Ok(0);
        }
        Ok(self.mutate(&ForgetJobs { before_ms }).await?.0)
    }

    /// Wall time, milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.wall_ms()
    }
}

fn decode_row(row: &Row) -> Result<Job, Stop> {
    let id = keyspace::parse_job(&row.key);
    let id = id.ok_or_else(|| MetadataError::Unavailable("unreadable job key".into()))?;
    Ok(decode_job(id, &row.value)?)
}

fn stop_error(stop: Stop) -> MetadataError {
    match stop {
        Stop::Refused(error) => error,
        Stop::Store(error) => MetadataError::Unavailable(error.to_string()),
    }
}

async fn all_jobs<T: Transaction>(transaction: &mut T) -> Result<Vec<Job>, Stop> {
    let rows = all_rows(transaction, keyspace::jobs(), KEPT_MAX, false).await?;
    rows.iter().map(decode_row).collect()
}

async fn current<T: Transaction>(transaction: &mut T, id: u64) -> Result<Option<Job>, Stop> {
    let row = transaction.get(&keyspace::job(id)).await?;
    Ok(row.map(|row| decode_job(id, &row)).transpose()?)
}

struct CreateJob<'a> {
    job: &'a Job,
    kept_max: usize,
    now_ms: i64,
}

impl Mutation for CreateJob<'_> {
    type Answer = Option<(Job, bool)>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        require_bucket(transaction, self.job.bucket).await?;
        let jobs = all_jobs(transaction).await?;
        let same = |job: &&Job| !job.state.is_end() && !job.stopping && job.is_like(self.job);
        if let Some(same) = jobs.iter().find(same) {
            return Ok(Step::Nothing(Some((same.clone(), true))));
        }
        let excess = (jobs.len() + 1).saturating_sub(self.kept_max);
        let ended: Vec<&Job> = jobs.iter().filter(|job| job.state.is_end()).collect();
        if ended.len() < excess {
            return Ok(Step::Nothing(None));
        }
        for old in ended.into_iter().take(excess) {
            transaction.clear(&keyspace::job(old.id));
        }
        let job = Job {
            id: next_number(transaction).await?,
            created_ms: self.now_ms,
            ..self.job.clone()
        };
        transaction.set(&keyspace::job(job.id), &encode_job(&job)?);
        Ok(Step::Commit(Some((job, false))))
    }
}

async fn next_number<T: Transaction>(transaction: &mut T) -> Result<u64, Stop> {
    let damaged = || {
        tracing::error!("the row of the last job's number is damaged");
        MetadataError::Unavailable("the row of the last job's number is damaged".into())
    };
    let key = keyspace::last_job();
    let last = match transaction.get(&key).await? {
        Some(last) => u64::from_be_bytes(<[u8; 8]>::try_from(&last[..]).map_err(|_| damaged())?),
        None => 0,
    };
    let number = last.checked_add(1).ok_or_else(damaged)?;
    transaction.set(&key, &number.to_be_bytes());
    Ok(number)
}

struct SaveJob<'a> {
    job: &'a Job,
}

impl Mutation for SaveJob<'_> {
    /// Whether it is to stop; `None`: it has ended.
    type Answer = Option<bool>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        let kept = match current(transaction, self.job.id).await? {
            Some(kept) if !kept.state.is_end() => kept,
            Some(_) | None => return Ok(Step::Nothing(None)),
        };
        let stopping = kept.stopping || self.job.stopping;
        let job = Job {
            stopping,
            ..self.job.clone()
        };
        transaction.set(&keyspace::job(job.id), &encode_job(&job)?);
        Ok(Step::Commit(Some(stopping)))
    }
}

struct StopJob {
    id: u64,
    now_ms: i64,
}

impl Mutation for StopJob {
    type Answer = Option<Job>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        let Some(mut job) = current(transaction, self.id).await? else {
            return Ok(Step::Nothing(None));
        };
        if job.state.is_end() || job.stopping {
            return Ok(Step::Nothing(Some(job)));
        }
        job.stopping = true;
        if job.state == JobState::Waiting {
            job.end(self.now_ms);
        }
        transaction.set(&keyspace::job(job.id), &encode_job(&job)?);
        Ok(Step::Commit(Some(job)))
    }
}

struct ForgetJobs {
    before_ms: i64,
}

impl Mutation for ForgetJobs {
    type Answer = usize;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<usize>, Stop> {
        let jobs = all_jobs(transaction).await?;
        let old = jobs
            .iter()
            .filter(|job| job.state.is_end() && job.ended_ms < self.before_ms);
        let mut forgotten = 0;
        for job in old {
            transaction.clear(&keyspace::job(job.id));
            forgotten += 1;
        }
        Ok(match forgotten {
            0 => Step::Nothing(0),
            many => Step::Commit(many),
        })
    }
}
