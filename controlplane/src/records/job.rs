//! Job rows.

use std::collections::BTreeMap;

use quickwater_proto::{BucketId, BucketName, LeftAlone, Version};
use quickwater_rpc::records as wire;

use super::{RecordError, VERSION_BYTES, damaged, decode, encode};
use crate::jobs::{Job, JobError, JobKind, JobState, Tally};

const ROW: &str = "job";

/// Makes a job row. The number is in its key.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_job(job: &Job) -> Result<Vec<u8>, RecordError> {
    let (kind, verify, skip_cached) = match job.kind {
        JobKind::Load {
            verify,
            skip_cached,
        } => (wire::JobKind::JobLoad, verify, skip_cached),
        JobKind::Free => (wire::JobKind::JobFree, false, false),
        JobKind::Delete => (wire::JobKind::JobDelete, false, false),
    };
    let row = wire::JobRow {
        kind: kind.into(),
        verify,
        skip_cached,
        bucket: job.bucket.0,
        bucket_name: job.bucket_name.as_str().to_owned(),
        path: job.path.clone(),
        state: state_to_wire(job.state).into(),
        stopping: job.stopping,
        created_ms: job.created_ms,
        started_ms: job.started_ms,
        ended_ms: job.ended_ms,
        through: job.through.map_or_else(Vec::new, |version| {
            version.0.to_be_bytes()[16 - VERSION_BYTES..].to_vec()
        }),
        found: Some(tally_to_wire(job.found)),
        done: Some(tally_to_wire(job.done)),
        failed: job.failed,
        left: job.left.iter().map(left_to_wire).collect(),
        position: job.position.clone(),
        errors: job.errors.iter().map(error_to_wire).collect(),
        unlisted: job.unlisted,
    };
    encode(ROW, &row)
}

/// Reads the row of the job of that number.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_job(id: u64, value: &[u8]) -> Result<Job, RecordError> {
    let row: wire::JobRow = decode(ROW, value)?;
    Ok(Job {
        id,
        kind: kind(&row)?,
        bucket: BucketId(row.bucket),
        bucket_name: BucketName::new(&row.bucket_name).map_err(|error| damaged(ROW, error))?,
        path: row.path,
        state: state(row.state)?,
        stopping: row.stopping,
        created_ms: row.created_ms,
        started_ms: row.started_ms,
        ended_ms: row.ended_ms,
        through: version(&row.through)?,
        found: tally(row.found),
        done: tally(row.done),
        failed: row.failed,
        left: left(row.left)?,
        position: row.position,
        errors: row.errors.into_iter().map(error).collect(),
        unlisted: row.unlisted,
    })
}

fn kind(row: &wire::JobRow) -> Result<JobKind, RecordError> {
    match wire::JobKind::try_from(row.kind) {
        Ok(wire::JobKind::JobLoad) => Ok(JobKind::Load {
            verify: row.verify,
            skip_cached: row.skip_cached,
        }),
        Ok(wire::JobKind::JobFree) => Ok(JobKind::Free),
        Ok(wire::JobKind::JobDelete) => Ok(JobKind::Delete),
        Ok(wire::JobKind::JobUnspecified) | Err(_) => Err(damaged(ROW, "unknown kind")),
    }
}

const fn state_to_wire(state: JobState) -> wire::JobState {
    match state {
        JobState::Waiting => wire::JobState::JobWaiting,
        JobState::Running => wire::JobState::JobRunning,
        JobState::Done => wire::JobState::JobDone,
        JobState::Failed => wire::JobState::JobFailed,
        JobState::Stopped => wire::JobState::JobStopped,
    }
}

fn state(number: i32) -> Result<JobState, RecordError> {
    let found = JobState::ALL
        .into_iter()
        .find(|state| i32::from(state_to_wire(*state)) == number);
    found.ok_or_else(|| damaged(ROW, "unknown state"))
}

fn version(bytes: &[u8]) -> Result<Option<Version>, RecordError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut version = [0; 16];
    if bytes.len() != VERSION_BYTES {
        return Err(damaged(ROW, "version of the wrong length"));
    }
    version[16 - VERSION_BYTES..].copy_from_slice(bytes);
    Ok(Some(Version(u128::from_be_bytes(version))))
}

const fn tally_to_wire(tally: Tally) -> wire::JobTally {
    wire::JobTally {
        objects: tally.objects,
        bytes: tally.bytes,
    }
}

fn tally(tally: Option<wire::JobTally>) -> Tally {
    tally.map_or_else(Tally::default, |tally| Tally {
        objects: tally.objects,
        bytes: tally.bytes,
    })
}

fn left_to_wire((why, objects): (&LeftAlone, &u64)) -> wire::JobLeft {
    wire::JobLeft {
        why: why.as_str().to_owned(),
        objects: *objects,
    }
}

fn left(rows: Vec<wire::JobLeft>) -> Result<BTreeMap<LeftAlone, u64>, RecordError> {
    let one = |row: wire::JobLeft| match LeftAlone::parse(&row.why) {
        Some(why) => Ok((why, row.objects)),
        None => Err(damaged(ROW, "unknown reason")),
    };
    rows.into_iter().map(one).collect()
}

fn error_to_wire(error: &JobError) -> wire::JobError {
    wire::JobError {
        key: error.key.clone(),
        message: error.message.clone(),
    }
}

fn error(row: wire::JobError) -> JobError {
    JobError {
        key: row.key,
        message: row.message,
    }
}
