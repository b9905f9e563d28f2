//! `job load|free|list|status|stop`, and the job behind `fs rm -r`.

mod follow;
mod show;

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::{Subcommand, ValueEnum};
use quickwater_rpc::admin::{
    Job, JobListRequest, JobStartRequest, JobStatusRequest, JobStopRequest,
};
use serde_json::json;

use super::exit::Kind;
use super::fs::split;
use super::output::table;
use super::remote::{Remote, Target, explain};

#[derive(Debug, Subcommand)]
pub(super) enum JobVerb {
    /// Bring the objects of a path into the cache
    #[command(after_help = LOAD_HELP)]
    Load {
        /// /BUCKET, or /BUCKET/KEY and all below it
        #[arg(long, value_name = "PATH")]
        path: String,
        /// Compare every object with the UFS now and read back every cached byte;
        /// what does not hold is fetched again
        #[arg(long)]
        verify: bool,
        /// Only objects that are not wholly cached
        #[arg(long)]
        skip_if_exists: bool,
        /// Wait for the end and show how far it is
        #[arg(long)]
        progress: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Drop cached bytes of a path that the UFS has too
    #[command(after_help = FREE_HELP)]
    Free {
        /// /BUCKET, or /BUCKET/KEY and all below it
        #[arg(long, value_name = "PATH")]
        path: String,
        /// Wait for the end and show how far it is
        #[arg(long)]
        progress: bool,
        #[command(flatten)]
        target: Target,
    },
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  quickwater job list --dir ./data\n  quickwater job list --state failed --output json"
    )]
    List {
        /// Only those in this state
        #[arg(long, value_enum, value_name = "STATE")]
        state: Option<State>,
        #[command(flatten)]
        target: Target,
    },
    /// Show one job: what it did, what it left and what failed
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Number of the job
        id: u64,
        /// Wait for the end and show how far it is
        #[arg(long)]
        progress: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Stop a job; what it has done stays done
    #[command(after_help = "Examples:\n  quickwater job stop 12 --dir ./data")]
    Stop {
        /// Number of the job
        id: u64,
        #[command(flatten)]
        target: Target,
    },
}

/// States by which jobs are chosen.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum State {
    /// Until fewer jobs run
    Waiting,
    /// Being done
    Running,
    /// Ended, nothing failed
    Done,
    /// Ended, something failed
    Failed,
    /// Told to stop
    Stopped,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

const LOAD_HELP: &str = "\
Starts a job and prints its number; the same job is not started twice. Objects are
read through the cache as by a GET, a few at a time (setting jobs.concurrency). A job
goes on after a restart of the service. Loading more than the cache holds evicts what
was loaded first. With --progress: exits with 1 when something failed, or when there
is nothing at PATH (a bucket may be empty).

Examples:
  quickwater job load --path /corpus/2026 --progress --dir ./data
  quickwater job load --path /corpus --skip-if-exists
  quickwater job load --path /models/llama/ --verify --progress";

const FREE_HELP: &str = "\
Data that is not in the UFS (not persisted yet, TRANSIENT) is never dropped; the job
tells how many objects were kept for it. Space comes back at once.

Examples:
  quickwater job free --path /corpus/2025 --progress --dir ./data";

const STATUS_HELP: &str = "\
With --progress: exits with 0 when nothing failed, else with 1; with 1 also when a load
found nothing at its path (a bucket may be empty).

Examples:
  quickwater job status 12 --dir ./data
  quickwater job status 12 --progress";

pub(super) fn run(verb: JobVerb) -> Result<ExitCode> {
    match verb {
        JobVerb::Load {
            path,
            verify,
            skip_if_exists,
            progress,
            target,
        } => {
            let request = JobStartRequest {
                verify,
                skip_if_exists,
                ..request("load", &path)?
            };
            start(request, progress, &target)
        }
        JobVerb::Free {
            path,
            progress,
            target,
        } => start(request("free", &path)?, progress, &target),
        JobVerb::List { state, target } => list(state, &target),
        JobVerb::Status {
            id,
            progress,
            target,
        } => status(id, progress, &target),
        JobVerb::Stop { id, target } => stop(id, &target),
    }
}

/// `fs rm -r`.
pub(super) fn delete(path: &str, follow: bool, target: &Target) -> Result<ExitCode> {
    start(request("delete", path)?, follow, target)
}

fn request(kind: &str, path: &str) -> Result<JobStartRequest> {
    match split(path) {
        ("", _) => Err(
            anyhow!("'{path}' names no bucket; write /BUCKET or /BUCKET/KEY").context(Kind::Usage),
        ),
        (bucket, below) => Ok(JobStartRequest {
            kind: kind.to_owned(),
            bucket: bucket.to_owned(),
            path: below.to_owned(),
            ..JobStartRequest::default()
        }),
    }
}

fn start(request: JobStartRequest, follow: bool, target: &Target) -> Result<ExitCode> {
    let output = target.output;
    let (job, existing) = target.with(|mut remote| async move {
        let reply = remote.job_start(request).await;
        let reply = reply.map_err(|s| explain(&s))?.into_inner();
        let job = reply.job.context("the service answered without the job")?;
        Ok((job, reply.existing))
    })?;
    if follow {
        let job = follow::run(job.id, target)?;
        output.show(&show::json(&job), || show::text(&job))?;
        return Ok(show::exit_code(&job));
    }
    let mut json = show::json(&job);
    json["existing"] = json!(existing);
    output.show(&json, || {
        let id = job.id;
        let what = if existing { "runs already" } else { "started" };
        format!("job {id} {what}; follow it with `quickwater job status {id} --progress`\n")
    })
}

fn list(state: Option<State>, target: &Target) -> Result<ExitCode> {
    let state = state.map_or("", State::name).to_owned();
    let jobs = target.with(|mut remote| async move {
        let reply = remote.job_list(JobListRequest { state }).await;
        Ok(reply.map_err(|s| explain(&s))?.into_inner().jobs)
    })?;
    let json = json!({ "jobs": jobs.iter().map(show::json).collect::<Vec<_>>() });
    target.output.show(&json, || match jobs.is_empty() {
        true => "no jobs\n".into(),
        false => {
            let heading = [
                "ID", "KIND", "STATE", "DONE", "LEFT", "FAILED", "CREATED", "PATH",
            ];
            let mut rows = vec![heading.map(str::to_owned).to_vec()];
            rows.extend(jobs.iter().map(show::row));
            table(&rows)
        }
    })
}

fn status(id: u64, progress: bool, target: &Target) -> Result<ExitCode> {
    if progress {
        let job = follow::run(id, target)?;
        target.output.show(&show::json(&job), || show::text(&job))?;
        return Ok(show::exit_code(&job));
    }
    let job = target.with(|mut remote| async move { look(&mut remote, id).await })?;
    target.output.show(&show::json(&job), || show::text(&job))
}

async fn look(remote: &mut Remote, id: u64) -> Result<Job> {
    let reply = remote.job_status(JobStatusRequest { id }).await;
    let job = reply.map_err(|s| explain(&s))?.into_inner().job;
    job.context("the service answered without the job")
}

fn stop(id: u64, target: &Target) -> Result<ExitCode> {
    let job = target.with(|mut remote| async move {
        let reply = remote.job_stop(JobStopRequest { id }).await;
        let job = reply.map_err(|s| explain(&s))?.into_inner().job;
        job.context("the service answered without the job")
    })?;
    target
        .output
        .show(&show::json(&job), || show::stopped(&job))
}
