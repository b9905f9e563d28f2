//! One mount: its backend, opened on first use, and the turns its calls take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quickwater_proto::{BucketId, BucketName, ObjectKey, UfsError, UfsErrorKind};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::buffers::ReadBuffers;
use crate::config::UfsConfig;
use crate::identities::Identities;
use crate::location::Location;
use crate::posix::Posix;
use crate::s3::S3;
use crate::standing::Standing;
use crate::stats::UfsStats;

/// What all mounts of a client share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: UfsConfig,
    pub(crate) stats: Arc<UfsStats>,
    pub(crate) buffers: ReadBuffers,
    pub(crate) identities: Arc<dyn Identities>,
    /// Of a worker among others; none: there are no others.
    pub(crate) standing: Option<Arc<Standing>>,
}

/// The kinds of UFS there are.
#[derive(Debug)]
pub(crate) enum Backend {
    Posix(Arc<Posix>),
    S3(Arc<S3>),
}

/// One mount.
#[derive(Debug)]
pub(crate) struct Mount {
    location: Location,
    /// Whose it is; none: only looked at.
    bucket: Option<(BucketId, BucketName)>,
    context: Arc<Context>,
    /// Requests or file system calls.
    turns: Arc<Turns>,
    /// Open writes, reads and listings.
    pub(crate) streams: Turns,
    backend: OnceCell<Backend>,
}

impl Mount {
    pub(crate) fn new(
        location: Location,
        bucket: Option<(BucketId, BucketName)>,
        context: Arc<Context>,
    ) -> Self {
        let config = &context.config;
        Self {
            turns: Arc::new(Turns::new("calls", config.concurrency, config)),
            streams: Turns::new("streams", config.streams_max, config),
            location,
            bucket,
            context,
            backend: OnceCell::new(),
        }
    }

    /// The backend, opened if this is its first use.
    pub(crate) async fn backend(&self) -> Result<&Backend, UfsError> {
        self.backend.get_or_try_init(|| self.open()).await
    }

    /// Whether a key fits, by the location and, once it is open, the file system.
    pub(crate) fn can_hold(&self, key: &ObjectKey) -> Result<(), UfsError> {
        match (&self.location, self.backend.get()) {
            (Location::S3(s3), _) => crate::s3::full_key(&s3.prefix, key).map(drop),
            (Location::Posix { .. }, Some(Backend::Posix(posix))) => posix.can_hold(key),
            (Location::Posix { .. }, _) => Ok(()),
        }
    }

    /// Smallest part but for the last of an upload, bytes.
    pub(crate) fn part_bytes_min(&self) -> u64 {
        match &self.location {
            Location::S3(s3) => s3.part_bytes_min,
            Location::Posix { .. } => 0,
        }
    }

    /// Why the directory at its path is not the one its bucket was written to; `None`
    /// as long as nobody has looked.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self.backend.get() {
            Some(Backend::Posix(posix)) => posix.trouble(),
            Some(Backend::S3(_)) | None => None,
        }
    }

    #[cfg(test)]
    pub(crate) fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    async fn open(&self) -> Result<Backend, UfsError> {
        let context = Arc::clone(&self.context);
        let turns = Arc::clone(&self.turns);
        match &self.location {
            Location::Posix { root } => Ok(Backend::Posix(Arc::new(Posix::new(
                root.clone(),
                self.bucket.clone(),
                context,
                turns,
            )))),
            Location::S3(s3) => Ok(Backend::S3(Arc::new(S3::open(s3, context, turns).await?))),
        }
    }
}

/// A bounded number of turns with a bounded queue in front.
#[derive(Debug)]
pub(crate) struct Turns {
    what: &'static str,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue_max: usize,
    queue_timeout: Duration,
}

impl Turns {
    fn new(what: &'static str, count: usize, config: &UfsConfig) -> Self {
        Self {
            what,
            free: Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            queue_max: config.queue_max,
            queue_timeout: config.queue_timeout,
        }
    }

    /// Waits for a turn; it ends when the permit is dropped.
    pub(crate) async fn take(&self) -> Result<OwnedSemaphorePermit, UfsError> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Place::in_queue(&self.waiting, self.queue_max)
            .ok_or_else(|| self.throttled("the queue is full"))?;
        match timeout(self.queue_timeout, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(self.throttled("no turn in time")),
        }
    }

    fn throttled(&self, why: &str) -> UfsError {
        let message = format!("too many {} at once on this mount: {why}", self.what);
        UfsError::new(UfsErrorKind::Throttled, message)
    }
}

/// A counted place in a queue.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn in_queue(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for `work` at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, UfsError>>,
) -> Result<T, UfsError> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        let message = format!("no answer to {what} within {} ms", limit.as_millis());
        Err(UfsError::new(UfsErrorKind::Timeout, message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(count: usize, queue_max: usize) -> Turns {
        let config = UfsConfig {
            queue_max,
            queue_timeout: Duration::from_millis(30),
            ..UfsConfig::default()
        };
        Turns::new("calls", count, &config)
    }

    #[tokio::test]
    async fn a_full_queue_throttles_at_once_and_a_long_one_in_time() {
        let turns = turns(1, 1);
        let held = turns.take().await.unwrap();
        let waiting = turns.take();
        let second = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let begun = std::time::Instant::now();
            let error = turns.take().await.unwrap_err();
            assert_eq!(error.kind, UfsErrorKind::Throttled);
            assert!(
                begun.elapsed() < Duration::from_millis(20),
                "refused at once"
            );
        };
        let (first, ()) = tokio::join!(waiting, second);
        assert_eq!(first.unwrap_err().kind, UfsErrorKind::Throttled);
        drop(held);
        drop(turns.take().await.unwrap());
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
    }
}
