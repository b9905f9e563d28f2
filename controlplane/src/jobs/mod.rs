//! Jobs: load, free and delete of all objects of a path, kept in the metadata so
//! that they go on after a restart. Here is what a job is, who runs when, and how
//! one walks over its keys. Absent: data bytes; a [`JobWorker`] acts on objects.

mod job;
mod run;
mod service;
mod stats;
#[cfg(test)]
mod tests;
mod worker;

use std::time::Duration;

pub use job::{Job, JobError, JobKind, JobState, Tally};
pub use service::{Jobs, JobsConfig, NewJob, StartError};
pub use stats::JobStats;
pub use worker::{JobFailure, JobWorker, Retry, StopFlag};

/// Failed objects a job names.
pub const ERRORS_KEPT: usize = 20;
/// Longest text kept of a failure, bytes; the rest is cut off.
pub const ERROR_BYTES_MAX: usize = 300;
/// Objects between two notes of how far a job is, at most.
pub const PAGE_OBJECTS: usize = 256;
/// Bytes of objects between two notes, one object apart.
pub const PAGE_BYTES: u64 = 4 << 30;
/// Attempts at one object, or at a listing of the UFS.
pub const ATTEMPTS_MAX: u32 = 3;
/// The same where the answer is to slow down.
pub const ATTEMPTS_BUSY_MAX: u32 = 12;
/// Wait before the second attempt; four times that before the third, and so on.
pub const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait before an attempt.
pub const ATTEMPT_PAUSE_MAX: Duration = Duration::from_secs(8);
/// Objects in a row that the UFS or the service was out of reach for: then a job
/// ends. What it could not do is told, and it can be started again.
pub const UNREACHED_MAX: u32 = 100;
