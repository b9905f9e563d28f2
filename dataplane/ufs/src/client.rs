//! The handle of all under file systems: every call becomes a task on tokio.
//!
//! No timer and no spawn of the caller's runtime is used: the handle works from
//! any runtime.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use quickwater_proto::{Bucket, BucketId, UfsError, UfsErrorKind, UfsObject};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::buffers::ReadBuffers;
use crate::config::UfsConfig;
use crate::identities::{Identities, Remembered};
use crate::location::Location;
use crate::mailbox::{self, Incoming, Upload};
use crate::mount::{Backend, Context, Mount, within};
use crate::standing::{Permit, Standing};
use crate::stats::{UfsOperation, UfsOutcome, UfsStats};

/// Mounts remembered; beyond it those not in use are forgotten.
const MOUNTS_MAX: usize = 1_024;

/// The under file systems of all buckets. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct UfsClient {
    shared: Arc<Shared>,
    runtime: Handle,
}

#[derive(Debug)]
struct Shared {
    context: Arc<Context>,
    mounts: Mutex<HashMap<MountKey, Arc<Mount>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct MountKey {
    bucket: BucketId,
    uri: String,
    options: Vec<(String, String)>,
}

/// What [`UfsClient::check`] found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UfsReport {
    /// A write probe succeeded; `None`: not tried.
    pub writable: Option<bool>,
    /// Remarks for an administrator, one line each.
    pub remarks: Vec<String>,
}

/// What time it was at a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreClock {
    /// As the store said, in whole seconds.
    pub date: SystemTime,
    /// By our clock, when that came.
    pub at: SystemTime,
    /// From when it was asked until then.
    pub took: Duration,
}

/// What becomes of a call whose caller went away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphan {
    /// It changes nothing: stop it.
    Stop,
    /// It may have changed something: let it end.
    Finish,
}

impl UfsClient {
    /// A handle whose work runs on `runtime` (with time and IO enabled). It knows
    /// marked directories again as long as it lives.
    #[must_use]
    pub fn new(runtime: Handle, config: UfsConfig) -> Self {
        Self::with_identities(runtime, config, Arc::new(Remembered::default()))
    }

    /// The same with a lasting memory of marked directories.
    #[must_use]
    pub fn with_identities(
        runtime: Handle,
        config: UfsConfig,
        identities: Arc<dyn Identities>,
    ) -> Self {
        Self::with_context(runtime, config, identities, None)
    }

    /// Of a worker among others, which changes nothing that `standing` forbids.
    #[must_use]
    pub fn among_others(
        runtime: Handle,
        config: UfsConfig,
        identities: Arc<dyn Identities>,
        standing: Arc<Standing>,
    ) -> Self {
        Self::with_context(runtime, config, identities, Some(standing))
    }

    fn with_context(
        runtime: Handle,
        config: UfsConfig,
        identities: Arc<dyn Identities>,
        standing: Option<Arc<Standing>>,
    ) -> Self {
        let context = Context {
            buffers: ReadBuffers::new(config.read_piece_bytes, config.read_memory_bytes),
            stats: Arc::default(),
            identities,
            standing,
            config,
        };
        let shared = Shared {
            context: Arc::new(context),
            mounts: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            runtime,
        }
    }

    /// The same mounts, limits and counters; the work of this handle runs on another
    /// runtime. (Connections of an S3 store belong to the one that opened them.)
    #[must_use]
    pub fn on(&self, runtime: Handle) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            runtime,
        }
    }

    /// Counters of all mounts.
    #[must_use]
    pub fn stats(&self) -> Arc<UfsStats> {
        Arc::clone(&self.shared.context.stats)
    }

    /// Names of the top-level directories (POSIX) or common prefixes (S3) under a
    /// URI, in byte order: the buckets found under the default UFS.
    ///
    /// # Errors
    /// The UFS cannot be reached or refuses, or the URI is invalid.
    pub async fn list_locations(
        &self,
        root_uri: &str,
        options: &[(String, String)],
    ) -> Result<Vec<String>, UfsError> {
        let location = Location::parse(root_uri, options)?;
        let mount = Arc::new(Mount::new(location, None, Arc::clone(&self.shared.context)));
        let deadline = self.config().request_timeout.saturating_mul(4);
        let operation = UfsOperation::ListLocations;
        self.call(operation, deadline, Orphan::Stop, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.list_locations().await,
                Backend::S3(s3) => s3.list_locations().await,
            }
        })
        .await
    }

    /// Looks whether a bucket's location can be listed and, with `write_probe`,
    /// written. The probe leaves nothing behind.
    ///
    /// # Errors
    /// The location cannot be reached or listed.
    pub async fn check(&self, bucket: &Bucket, write_probe: bool) -> Result<UfsReport, UfsError> {
        let mount = self.mount(bucket)?;
        let deadline = self.config().request_timeout.saturating_mul(2);
        self.call(UfsOperation::Check, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.check(write_probe).await,
                Backend::S3(s3) => s3.check(write_probe).await,
            }
        })
        .await
    }

    /// What time it is at a bucket's store; `None`: it does not say, or it is a directory,
    /// whose clock nobody asks.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn clock(&self, bucket: &Bucket) -> Result<Option<StoreClock>, UfsError> {
        let mount = self.mount(bucket)?;
        let deadline = self.config().request_timeout;
        self.call(UfsOperation::Check, deadline, Orphan::Stop, async move {
            match mount.backend().await? {
                Backend::Posix(_) => Ok(None),
                Backend::S3(s3) => s3.clock().await,
            }
        })
        .await
    }

    /// Whether a bucket's directory is there, and the one it was written to. An S3
    /// location is not asked.
    ///
    /// # Errors
    /// [`UfsErrorKind::Unavailable`] with a text that says what to do.
    pub async fn look(&self, bucket: &Bucket) -> Result<(), UfsError> {
        let mount = self.mount(bucket)?;
        let deadline = self.config().request_timeout;
        self.call(UfsOperation::Check, deadline, Orphan::Stop, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.look().await,
                Backend::S3(_) => Ok(()),
            }
        })
        .await
    }

    /// Takes the directory that is at a bucket's location now for the right one, and
    /// marks it where it can.
    ///
    /// # Errors
    /// There is none, or it cannot be marked; [`UfsErrorKind::Invalid`]: the location
    /// is no directory.
    pub async fn accept(&self, bucket: &Bucket) -> Result<(), UfsError> {
        let mount = self.mount(bucket)?;
        let deadline = self.config().request_timeout;
        self.call(UfsOperation::Check, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.accept().await,
                Backend::S3(_) => Err(UfsError::new(
                    UfsErrorKind::Invalid,
                    "only a file:// location has a mark that could be accepted",
                )),
            }
        })
        .await
    }

    /// Why the directory at a bucket's location is not the one it was written to;
    /// `None`: it is, or nobody has looked yet.
    #[must_use]
    pub fn trouble(&self, bucket: &Bucket) -> Option<String> {
        let mounts = self.shared.mounts.lock();
        let mounts = mounts.unwrap_or_else(PoisonError::into_inner);
        mounts.get(&MountKey::of(bucket))?.trouble()
    }

    /// Buckets whose directory is not the one they were written to.
    #[must_use]
    pub fn misplaced(&self) -> Vec<BucketId> {
        let mounts = self.shared.mounts.lock();
        let mounts = mounts.unwrap_or_else(PoisonError::into_inner);
        let misplaced = mounts.iter().filter(|(_, mount)| mount.trouble().is_some());
        misplaced.map(|(key, _)| key.bucket).collect()
    }

    /// Checks a URI and its options without touching the UFS.
    ///
    /// # Errors
    /// [`UfsErrorKind::Invalid`] with a text that says what is wrong.
    pub fn validate(uri: &str, options: &[(String, String)]) -> Result<(), UfsError> {
        Location::parse(uri, options).map(drop)
    }

    /// The runtime the work is done on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn config(&self) -> &UfsConfig {
        &self.shared.context.config
    }

    /// The right to make a change, as of now.
    pub(crate) fn permit(&self) -> Permit {
        Permit::taken(self.shared.context.standing.as_ref())
    }

    pub(crate) fn mount(&self, bucket: &Bucket) -> Result<Arc<Mount>, UfsError> {
        let key = MountKey::of(bucket);
        let mut mounts = self
            .shared
            .mounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mount) = mounts.get(&key) {
            return Ok(Arc::clone(mount));
        }
        if mounts.len() >= MOUNTS_MAX {
            mounts.retain(|_, mount| Arc::strong_count(mount) > 1);
        }
        let location = Location::of(bucket)?;
        // Id 0: not a bucket yet.
        let owner = (bucket.id != BucketId(0)).then(|| (bucket.id, bucket.name.clone()));
        let mount = Mount::new(location, owner, Arc::clone(&self.shared.context));
        let mount = Arc::new(mount);
        mounts.insert(key, Arc::clone(&mount));
        Ok(mount)
    }

    pub(crate) fn forget(&self, bucket: &Bucket) {
        let mut mounts = self
            .shared
            .mounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mounts.remove(&MountKey::of(bucket));
    }

    /// Runs `work` as a task and waits for its answer.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        operation: UfsOperation,
        deadline: Duration,
        orphan: Orphan,
        work: impl Future<Output = Result<T, UfsError>> + Send + 'static,
    ) -> Result<T, UfsError> {
        let (mut reply, answer) = oneshot::channel();
        let stats = self.stats();
        self.runtime.spawn(async move {
            let begun = Instant::now();
            let work = within(deadline, operation.name(), work);
            let result = if orphan == Orphan::Stop {
                tokio::select! {
                    result = work => Some(result),
                    () = reply.closed() => None,
                }
            } else {
                Some(work.await)
            };
            let outcome = result
                .as_ref()
                .map_or(UfsOutcome::Aborted, UfsOutcome::from);
            stats.record(operation, outcome, begun.elapsed());
            if let Some(result) = result {
                // A caller that went away needs no answer.
                let _ = reply.send(result);
            }
        });
        answer.await.unwrap_or_else(|_| Err(ended(orphan)))
    }

    /// Starts the task of a write. `run` returns `None` when the caller gave up.
    pub(crate) fn start_upload<F, R>(
        &self,
        operation: UfsOperation,
        mount: Arc<Mount>,
        size: u64,
        run: F,
    ) -> Upload
    where
        F: FnOnce(Arc<Mount>, Incoming) -> R + Send + 'static,
        R: Future<Output = Result<Option<UfsObject>, UfsError>> + Send + 'static,
    {
        let stats = self.stats();
        let caller_timeout = self.config().caller_timeout;
        let (upload, incoming, reply) =
            mailbox::upload(size, caller_timeout, self.stats(), self.permit());
        self.runtime.spawn(async move {
            let begun = Instant::now();
            let result = async {
                let _stream = mount.streams.take().await?;
                run(Arc::clone(&mount), incoming).await
            };
            let result = result.await;
            let outcome = match &result {
                Ok(None) => UfsOutcome::Aborted,
                other => UfsOutcome::from(other),
            };
            stats.record(operation, outcome, begun.elapsed());
            if let Some(result) = result.transpose() {
                // A caller that went away needs no answer.
                let _ = reply.send(result);
            }
        });
        upload
    }
}

fn ended(orphan: Orphan) -> UfsError {
    let kind = match orphan {
        Orphan::Stop => UfsErrorKind::Unavailable,
        // Nobody will say what became of it.
        Orphan::Finish => UfsErrorKind::Timeout,
    };
    UfsError::new(kind, "the UFS runtime is shutting down")
}

impl MountKey {
    fn of(bucket: &Bucket) -> Self {
        Self {
            bucket: bucket.id,
            uri: bucket.ufs.clone(),
            options: bucket.options.clone(),
        }
    }
}
