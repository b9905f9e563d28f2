//! A job as it is kept, and how it changes. No IO, no clock.

use std::collections::BTreeMap;

use quickwater_proto::{BucketId, BucketName, JobAction, LeftAlone, Version};

use super::{ERROR_BYTES_MAX, ERRORS_KEPT};

/// What a job does to every object of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Brings it into the cache.
    Load {
        /// Compare it with the UFS and with its checksums.
        verify: bool,
        /// Pass over what is cached.
        skip_cached: bool,
    },
    /// Drops its cached bytes.
    Free,
    /// Deletes it.
    Delete,
}

impl JobKind {
    /// Names of all kinds, in the order of [`JobKind::index`].
    pub const NAMES: [&'static str; 3] = ["load", "free", "delete"];

    /// Its place among the kinds.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Load { .. } => 0,
            Self::Free => 1,
            Self::Delete => 2,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Until fewer jobs run.
    Waiting,
    /// Being done.
    Running,
    /// Every object was done or rightly left alone.
    Done,
    /// It ended, and something failed.
    Failed,
    /// It was told to stop.
    Stopped,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Waiting,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Stopped,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether it will not change any more.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Stopped)
    }
}

/// A number of objects and of their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Bytes of all.
    pub bytes: u64,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.objects = self.objects.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// An object that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError {
    /// Its key; empty: the path as a whole.
    pub key: String,
    /// Why.
    pub message: String,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number, from 1; later ones are larger.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// In which bucket.
    pub bucket: BucketId,
    /// The bucket's name.
    pub bucket_name: BucketName,
    /// Within the bucket: the key itself and those below `path/`; with a `/` at
    /// its end, or empty, all that begin with it.
    pub path: String,
    /// Where it is in its life.
    pub state: JobState,
    /// It was told to stop.
    pub stopping: bool,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Milliseconds since the Unix epoch; 0: not yet.
    pub started_ms: i64,
    /// Milliseconds since the Unix epoch; 0: not yet.
    pub ended_ms: i64,
    /// A delete means what was committed up to here. `None`: what is there is still
    /// to be found and counted.
    pub through: Option<Version>,
    /// What was there when it began.
    pub found: Tally,
    /// What was done.
    pub done: Tally,
    /// Objects that failed.
    pub failed: u64,
    /// Objects that were left as they were.
    pub left: BTreeMap<LeftAlone, u64>,
    /// All keys up to this one were handled.
    pub position: String,
    /// The first that failed, at most [`ERRORS_KEPT`].
    pub errors: Vec<JobError>,
    /// The UFS could not be listed: what only the UFS knows was not found.
    pub unlisted: bool,
}

impl Job {
    /// What is to be done to each object.
    #[must_use]
    pub fn action(&self) -> JobAction {
        match self.kind {
            JobKind::Load {
                verify,
                skip_cached,
            } => JobAction::Load {
                verify,
                skip_cached,
            },
            JobKind::Free => JobAction::Free,
            // Before the count nothing is meant.
            JobKind::Delete => JobAction::Delete {
                through: Some(self.through.unwrap_or_default()),
            },
        }
    }

    /// Whether it does the same as another.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (self.kind, self.bucket, &self.path) == (other.kind, other.bucket, &other.path)
    }

    /// The key that is the path itself, unless only keys below it are meant.
    #[must_use]
    pub fn own_key(&self) -> Option<&str> {
        let path = self.path.as_str();
        (!path.is_empty() && !path.ends_with('/')).then_some(path)
    }

    /// What the keys below the path begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        match self.own_key() {
            Some(path) => format!("{path}/"),
            None => self.path.clone(),
        }
    }

    /// Objects handled so far.
    #[must_use]
    pub fn handled(&self) -> u64 {
        let left: u64 = self.left.values().sum();
        self.done.objects + self.failed + left
    }

    /// Something was left alone.
    pub fn leave(&mut self, why: LeftAlone, objects: u64) {
        if objects > 0 {
            *self.left.entry(why).or_default() += objects;
        }
    }

    /// Something failed.
    pub fn fail(&mut self, key: &str, message: &str) {
        self.failed = self.failed.saturating_add(1);
        self.note(key, message);
    }

    /// Notes a failure without counting an object.
    pub fn note(&mut self, key: &str, message: &str) {
        if self.errors.len() < ERRORS_KEPT {
            let end = message.floor_char_boundary(ERROR_BYTES_MAX);
            self.errors.push(JobError {
                key: key.to_owned(),
                message: message[..end].to_owned(),
            });
        }
    }

    /// It came to the end of its keys. What was found and never came up is gone:
    /// by others, or by this job shortly before the service was killed.
    pub fn finish(&mut self, now_ms: i64) {
        // A wish to stop that came too late.
        self.stopping = false;
        self.found.objects = self.found.objects.max(self.handled());
        let missing = self.found.objects.saturating_sub(self.handled());
        self.leave(LeftAlone::Gone, missing);
        self.end(now_ms);
    }

    /// Too many objects in a row could not be reached. The reason is said even when
    /// there is no room for more.
    pub fn give_up(&mut self, unreached: u32) {
        self.errors.truncate(ERRORS_KEPT - 1);
        let text = format!(
            "gave up after {unreached} objects in a row could not be reached; start it again later"
        );
        self.note("", &text);
    }

    /// It ends, wherever it is.
    pub fn end(&mut self, now_ms: i64) {
        self.state = match (self.stopping, self.failed == 0 && self.errors.is_empty()) {
            (true, _) => JobState::Stopped,
            (false, true) => JobState::Done,
            (false, false) => JobState::Failed,
        };
        self.ended_ms = now_ms;
    }
}
