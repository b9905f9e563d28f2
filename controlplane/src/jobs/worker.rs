//! Who acts on the objects of jobs: the data plane, or a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quickwater_proto::{BucketId, BucketName, JobAction, JobOutcome, ObjectKey};
use tokio::sync::Notify;

use super::{ATTEMPTS_BUSY_MAX, ATTEMPTS_MAX};

/// What another attempt may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the answer is final.
    Final,
    /// The bucket is not there any more.
    BucketGone,
    /// The UFS or the service was out of reach.
    Unreached,
    /// The UFS or the service is overloaded: there is no hurry.
    Busy,
}

impl Retry {
    /// Most attempts.
    pub(super) const fn attempts_max(self) -> u32 {
        match self {
            Self::Final | Self::BucketGone => 1,
            Self::Unreached => ATTEMPTS_MAX,
            Self::Busy => ATTEMPTS_BUSY_MAX,
        }
    }
}

/// Why it could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// For people.
    pub message: String,
    /// Whether to try again.
    pub retry: Retry,
}

/// Acts on objects. Every call has a deadline of its own.
#[tonic::async_trait]
pub trait JobWorker: Send + Sync + 'static {
    /// Compares the keys of a path (itself and those below) with the UFS, so that
    /// the metadata knows what is there.
    async fn compare(
        &self,
        name: &BucketName,
        bucket: BucketId,
        path: &str,
        stop: &StopFlag,
    ) -> Result<(), JobFailure>;

    /// Acts on one object.
    async fn act(
        &self,
        name: &BucketName,
        bucket: BucketId,
        key: &ObjectKey,
        action: JobAction,
        stop: &StopFlag,
    ) -> Result<JobOutcome, JobFailure>;
}

/// Tells a job to stop; clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct StopFlag {
    raised: Arc<AtomicBool>,
    changed: Arc<Notify>,
}

impl StopFlag {
    /// Tells it.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Whether it was told.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// The flag itself, for those who cannot wait on this one.
    #[must_use]
    pub fn shared(&self) -> &Arc<AtomicBool> {
        &self.raised
    }

    /// Runs `work` until it ends or the flag is raised (`None`).
    pub(crate) async fn unless<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut raised = std::pin::pin!(self.changed.notified());
        // From here on no call of `raise` is missed.
        raised.as_mut().enable();
        if self.is_raised() {
            return None;
        }
        tokio::select! {
            output = work => Some(output),
            () = raised => None,
        }
    }
}
