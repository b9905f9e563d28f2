//! Jobs for admins: start, list, status, stop, and the delete of one object.
//! Absent: rules of jobs (`crate::jobs`), but for policies that forbid one.

use quickwater_proto::{ObjectKey, PolicyMode};
use quickwater_rpc::admin::{
    FsRemoveReply, FsRemoveRequest, Job as Wire, JobError, JobListReply, JobListRequest,
    JobStartReply, JobStartRequest, JobTally,
};
use tonic::Status;

use super::{AdminService, status};
use crate::jobs::{Job, JobFailure, JobKind, JobState, NewJob, Retry, StartError, Tally};
use crate::policies::Document;
use crate::store::Store;

impl<S: Store> AdminService<S> {
    pub(super) async fn start_job(
        &self,
        request: JobStartRequest,
    ) -> Result<JobStartReply, Status> {
        let kind = kind(&request)?;
        let bucket = self.bucket(&request.bucket).await?;
        if !request.path.is_empty() {
            ObjectKey::new(&request.path).map_err(status::invalid_name)?;
        }
        self.allow(kind, &request).await?;
        let new = NewJob {
            kind,
            bucket: &bucket,
            path: &request.path,
        };
        let (job, existing) = self.jobs.start(new).await.map_err(not_started)?;
        Ok(JobStartReply {
            job: Some(wire(job)),
            existing,
        })
    }

    /// Refuses what could not be done to a single object.
    async fn allow(&self, kind: JobKind, request: &JobStartRequest) -> Result<(), Status> {
        let stored = self.policies(None).await.map_err(status::policy)?;
        let document = Document::parse(&stored.text, None);
        let document = document.map_err(|error| status::policy(error.into()))?;
        let (rule, _) = document.decide(&request.bucket, &request.path);
        let path = format!("/{}/{}", request.bucket, request.path);
        match (kind, rule.policy.mode) {
            (JobKind::Load { .. }, PolicyMode::NoCache) => Err(Status::failed_precondition(
                format!("the policy of {path} is NO_CACHE: nothing of it is ever cached"),
            )),
            (JobKind::Delete, PolicyMode::ReadOnly) => Err(Status::failed_precondition(format!(
                "the policy of {path} is READ_ONLY: nothing of it may be deleted"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) async fn list_jobs(&self, request: JobListRequest) -> Result<JobListReply, Status> {
        let state = match request.state.as_str() {
            "" => None,
            name => Some(state(name)?),
        };
        let jobs = self.jobs.list().await.map_err(status::metadata)?;
        let asked = jobs
            .into_iter()
            .filter(|job| state.is_none_or(|state| job.state == state));
        let short = |job: Job| {
            wire(Job {
                errors: Vec::new(),
                ..job
            })
        };
        Ok(JobListReply {
            jobs: asked.map(short).collect(),
        })
    }

    pub(super) async fn job_status(&self, id: u64) -> Result<Option<Wire>, Status> {
        let found = self.jobs.get(id).await.map_err(status::metadata)?;
        found.map(wire).map(Some).ok_or_else(|| no_job(id))
    }

    pub(super) async fn stop_job(&self, id: u64) -> Result<Option<Wire>, Status> {
        let found = self.jobs.stop(id).await.map_err(status::metadata)?;
        found.map(wire).map(Some).ok_or_else(|| no_job(id))
    }

    pub(super) async fn remove_object(
        &self,
        request: FsRemoveRequest,
    ) -> Result<FsRemoveReply, Status> {
        let bucket = self.bucket(&request.bucket).await?;
        let key = ObjectKey::new(&request.key).map_err(status::invalid_name)?;
        let removed = self.jobs.remove_object(&bucket, &key).await;
        let deleted = removed.map_err(not_removed)?;
        Ok(FsRemoveReply { deleted })
    }
}

fn kind(request: &JobStartRequest) -> Result<JobKind, Status> {
    let plain = !request.verify && !request.skip_if_exists;
    match request.kind.as_str() {
        "load" => Ok(JobKind::Load {
            verify: request.verify,
            skip_cached: request.skip_if_exists,
        }),
        "free" if plain => Ok(JobKind::Free),
        "delete" if plain => Ok(JobKind::Delete),
        "free" | "delete" => Err(Status::invalid_argument(
            "verify and skip_if_exists are options of a load",
        )),
        other => Err(Status::invalid_argument(format!(
            "no kind of job '{other}'; load, free or delete"
        ))),
    }
}

fn state(name: &str) -> Result<JobState, Status> {
    let found = JobState::ALL.into_iter().find(|state| state.name() == name);
    found.ok_or_else(|| {
        Status::invalid_argument(format!(
            "no state '{name}'; waiting, running, done, failed or stopped"
        ))
    })
}

fn not_started(error: StartError) -> Status {
    match error {
        StartError::TooMany(_) => Status::resource_exhausted(error.to_string()),
        StartError::Metadata(error) => status::metadata(error),
    }
}

/// What came of it may be unknown when another attempt could help.
fn not_removed(failure: JobFailure) -> Status {
    match failure.retry {
        Retry::BucketGone => Status::not_found(failure.message),
        Retry::Unreached => Status::aborted(failure.message),
        Retry::Busy => Status::unavailable(failure.message),
        Retry::Final => Status::failed_precondition(failure.message),
    }
}

fn no_job(id: u64) -> Status {
    Status::not_found(format!("no job {id}; it never was, or is no longer kept"))
}

fn wire(job: Job) -> Wire {
    let (verify, skip_if_exists) = match job.kind {
        JobKind::Load {
            verify,
            skip_cached,
        } => (verify, skip_cached),
        JobKind::Free | JobKind::Delete => (false, false),
    };
    let left = job.left.iter();
    Wire {
        id: job.id,
        kind: job.kind.name().to_owned(),
        bucket: job.bucket_name.as_str().to_owned(),
        path: job.path,
        verify,
        skip_if_exists,
        state: job.state.name().to_owned(),
        stopping: job.stopping && !job.state.is_end(),
        created_ms: job.created_ms,
        started_ms: job.started_ms,
        ended_ms: job.ended_ms,
        found: job.through.map(|_| tally(job.found)),
        done: Some(tally(job.done)),
        failed: job.failed,
        left: left
            .map(|(why, objects)| (why.as_str().to_owned(), *objects))
            .collect(),
        errors: job.errors.into_iter().map(error).collect(),
        position: job.position,
        unlisted: job.unlisted,
    }
}

const fn tally(tally: Tally) -> JobTally {
    JobTally {
        objects: tally.objects,
        bytes: tally.bytes,
    }
}

fn error(error: crate::jobs::JobError) -> JobError {
    JobError {
        key: error.key,
        message: error.message,
    }
}
