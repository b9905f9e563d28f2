//! Counters of jobs since the start of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::job::JobKind;

/// Counters, one of each for every kind of [`JobKind::NAMES`].
#[derive(Debug, Default)]
pub struct JobStats {
    /// Jobs that run now.
    pub running: [AtomicU64; 3],
    /// Objects done.
    pub done: [AtomicU64; 3],
    /// Objects left as they were.
    pub left: [AtomicU64; 3],
    /// Objects that failed.
    pub failed: [AtomicU64; 3],
    /// Bytes of objects done; of a free, bytes dropped.
    pub bytes: [AtomicU64; 3],
}

impl JobStats {
    /// Counts a job as running until the guard is dropped.
    pub(super) fn run(&self, kind: JobKind) -> Running<'_> {
        let counter = &self.running[kind.index()];
        counter.fetch_add(1, Relaxed);
        Running(counter)
    }
}

/// A job that runs.
pub(super) struct Running<'a>(&'a AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
