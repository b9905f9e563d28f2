//! The handle of all under file systems: every call becomes a task on tokio.
//!
//! No timer and no spawn of the caller's runtime is used: the handle works from
//! any runtime.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quickwater_engine::io::Ufs;
use quickwater_proto::{
    Bucket, BucketId, Checksum, ETag, ObjectHeaders, ObjectKey, PartRecord, UfsError, UfsErrorKind,
    UfsIdentity, UfsObject, UploadId, UploadRecord,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::buffers::ReadBuffers;
use crate::config::UfsConfig;
use crate::location::Location;
use crate::mailbox::{self, Incoming, Listing, Reader, Upload};
use crate::mount::{Backend, Context, Mount, within};
use crate::stats::{UfsOperation, UfsOutcome, UfsStats};

/// Mounts remembered; beyond it those not in use are forgotten.
const MOUNTS_MAX: usize = 1_024;

/// The under file systems of all buckets. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct UfsClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    runtime: Handle,
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

/// What becomes of a call whose caller went away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Orphan {
    /// It changes nothing: stop it.
    Stop,
    /// It may have changed something: let it end.
    Finish,
}

impl UfsClient {
    /// A handle whose work runs on `runtime` (with time and IO enabled).
    #[must_use]
    pub fn new(runtime: Handle, config: UfsConfig) -> Self {
        let context = Context {
            buffers: ReadBuffers::new(config.read_piece_bytes, config.read_memory_bytes),
            stats: Arc::default(),
            config,
        };
        let shared = Shared {
            runtime,
            context: Arc::new(context),
            mounts: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
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
        let mount = Arc::new(Mount::new(location, Arc::clone(&self.shared.context)));
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

    /// Checks a URI and its options without touching the UFS.
    ///
    /// # Errors
    /// [`UfsErrorKind::Invalid`] with a text that says what is wrong.
    pub fn validate(uri: &str, options: &[(String, String)]) -> Result<(), UfsError> {
        Location::parse(uri, options).map(drop)
    }

    fn config(&self) -> &UfsConfig {
        &self.shared.context.config
    }

    fn mount(&self, bucket: &Bucket) -> Result<Arc<Mount>, UfsError> {
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
        let mount = Arc::new(Mount::new(location, Arc::clone(&self.shared.context)));
        mounts.insert(key, Arc::clone(&mount));
        Ok(mount)
    }

    fn forget(&self, bucket: &Bucket) {
        let mut mounts = self
            .shared
            .mounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mounts.remove(&MountKey::of(bucket));
    }

    /// Runs `work` as a task and waits for its answer.
    async fn call<T: Send + 'static>(
        &self,
        operation: UfsOperation,
        deadline: Duration,
        orphan: Orphan,
        work: impl Future<Output = Result<T, UfsError>> + Send + 'static,
    ) -> Result<T, UfsError> {
        let (mut reply, answer) = oneshot::channel();
        let stats = self.stats();
        self.shared.runtime.spawn(async move {
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
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Starts the task of a write. `run` returns `None` when the caller gave up.
    fn start_upload<F, R>(
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
        let (upload, incoming, reply) = mailbox::upload(size, caller_timeout, self.stats());
        self.shared.runtime.spawn(async move {
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

fn ended() -> UfsError {
    UfsError::new(
        UfsErrorKind::Unavailable,
        "the UFS runtime is shutting down",
    )
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

impl Ufs for UfsClient {
    type Upload = Upload;
    type Reader = Reader;
    type Listing = Listing;

    async fn head(&self, bucket: &Bucket, key: &ObjectKey) -> Result<UfsObject, UfsError> {
        let (mount, key) = (self.mount(bucket)?, key.clone());
        let deadline = self.config().request_timeout;
        self.call(UfsOperation::Head, deadline, Orphan::Stop, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.head(&key).await,
                Backend::S3(s3) => s3.head(&key).await,
            }
        })
        .await
    }

    async fn read(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        expect: &UfsIdentity,
        range: Range<u64>,
    ) -> Result<Reader, UfsError> {
        if range.start > range.end || range.end > expect.size {
            let message = format!("range {range:?} of an object of {} bytes", expect.size);
            return Err(UfsError::new(UfsErrorKind::Invalid, message));
        }
        let (mount, key, expect) = (self.mount(bucket)?, key.clone(), expect.clone());
        let config = self.config();
        let (deadline, caller_timeout) = (config.request_timeout, config.caller_timeout);
        let (stats, late) = (self.stats(), self.stats());
        self.call(UfsOperation::Read, deadline, Orphan::Stop, async move {
            let stream = mount.streams.take().await?;
            let length = range.end - range.start;
            let (reader, outgoing) = mailbox::reader(length, caller_timeout, stats);
            let note = move |result: Result<(), UfsError>| {
                if let Err(error) = result {
                    // The opening was counted as such; this is its later failure.
                    late.record(UfsOperation::Read, error.kind.into(), Duration::ZERO);
                }
                drop(stream);
            };
            match mount.backend().await? {
                Backend::Posix(posix) => {
                    let source = posix.open_read(&key, &expect, range).await?;
                    let posix = Arc::clone(posix);
                    tokio::spawn(async move { note(posix.stream(source, outgoing).await) });
                }
                Backend::S3(s3) => {
                    let source = s3.open_read(&key, &expect, range).await?;
                    let s3 = Arc::clone(s3);
                    tokio::spawn(async move { note(s3.stream(source, outgoing).await) });
                }
            }
            Ok(reader)
        })
        .await
    }

    async fn put(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        size: u64,
    ) -> Result<Upload, UfsError> {
        let (mount, key, headers) = (self.mount(bucket)?, key.clone(), headers.clone());
        let run = async move |mount: Arc<Mount>, incoming: Incoming| match mount.backend().await? {
            Backend::Posix(posix) => posix.put(&key, &headers, incoming).await,
            Backend::S3(s3) => s3.put(&key, &headers, incoming).await,
        };
        Ok(self.start_upload(UfsOperation::Put, mount, size, run))
    }

    async fn delete(&self, bucket: &Bucket, key: &ObjectKey) -> Result<(), UfsError> {
        let (mount, key) = (self.mount(bucket)?, key.clone());
        let deadline = self.config().request_timeout;
        self.call(UfsOperation::Delete, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.delete(&key).await,
                Backend::S3(s3) => s3.delete(&key).await,
            }
        })
        .await
    }

    async fn create_upload(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        upload: UploadId,
    ) -> Result<String, UfsError> {
        let (mount, key, headers) = (self.mount(bucket)?, key.clone(), headers.clone());
        let deadline = self.config().request_timeout;
        let operation = UfsOperation::CreateUpload;
        self.call(operation, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.create_upload(upload).await,
                Backend::S3(s3) => s3.create_upload(&key, &headers).await,
            }
        })
        .await
    }

    async fn put_part(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        number: u16,
        size: u64,
    ) -> Result<Upload, UfsError> {
        let (mount, upload) = (self.mount(bucket)?, upload.clone());
        let run = async move |mount: Arc<Mount>, incoming: Incoming| match mount.backend().await? {
            Backend::Posix(posix) => posix.put_part(&upload, number, incoming).await,
            Backend::S3(s3) => s3.put_part(&upload, number, incoming).await,
        };
        Ok(self.start_upload(UfsOperation::PutPart, mount, size, run))
    }

    async fn complete_upload(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        parts: &[PartRecord],
        etag: &ETag,
        checksums: &[Checksum],
    ) -> Result<UfsObject, UfsError> {
        let (mount, upload) = (self.mount(bucket)?, upload.clone());
        let (parts, etag, checksums) = (parts.to_vec(), etag.clone(), checksums.to_vec());
        let size = parts.iter().map(|p| p.size).fold(0, u64::saturating_add);
        // Longer than one request: parts are listed and the result looked at.
        let deadline = self.config().deadline(size).saturating_mul(2);
        let operation = UfsOperation::CompleteUpload;
        self.call(operation, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.complete(&upload, parts, etag, checksums).await,
                Backend::S3(s3) => s3.complete(&upload, &parts, &etag).await,
            }
        })
        .await
    }

    async fn abort_upload(&self, bucket: &Bucket, upload: &UploadRecord) -> Result<(), UfsError> {
        let (mount, upload) = (self.mount(bucket)?, upload.clone());
        let deadline = self.config().request_timeout;
        let operation = UfsOperation::AbortUpload;
        self.call(operation, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.abort_upload(&upload).await,
                Backend::S3(s3) => s3.abort_upload(&upload).await,
            }
        })
        .await
    }

    async fn list(
        &self,
        bucket: &Bucket,
        prefix: &str,
        start_after: &str,
        recursive: bool,
    ) -> Result<Listing, UfsError> {
        let mount = self.mount(bucket)?;
        let stats = self.stats();
        let (prefix, start_after) = (prefix.to_owned(), start_after.to_owned());
        let (listing, pages) = mailbox::listing(self.config().caller_timeout);
        self.shared.runtime.spawn(async move {
            let begun = Instant::now();
            let result = async {
                let _stream = mount.streams.take().await?;
                match mount.backend().await? {
                    Backend::Posix(posix) => {
                        posix.list(prefix, start_after, recursive, &pages).await
                    }
                    Backend::S3(s3) => s3.list(&prefix, &start_after, recursive, &pages).await,
                }
            };
            let result = result.await;
            stats.record(
                UfsOperation::List,
                UfsOutcome::from(&result),
                begun.elapsed(),
            );
            // A caller that went away needs no end.
            let _ = pages.send(result.map(|()| None)).await;
        });
        Ok(listing)
    }

    async fn create_location(&self, bucket: &Bucket) -> Result<(), UfsError> {
        let mount = self.mount(bucket)?;
        let deadline = self.config().request_timeout;
        let operation = UfsOperation::CreateLocation;
        self.call(operation, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.create_location().await,
                Backend::S3(s3) => s3.create_location().await,
            }
        })
        .await
    }

    async fn remove_location(&self, bucket: &Bucket) -> Result<(), UfsError> {
        let mount = self.mount(bucket)?;
        let deadline = self.config().request_timeout.saturating_mul(2);
        let operation = UfsOperation::RemoveLocation;
        let removed = self.call(operation, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.remove_location().await,
                Backend::S3(s3) => s3.remove_location().await,
            }
        });
        removed.await?;
        self.forget(bucket);
        Ok(())
    }
}
