//! The calls of the engine, each handed to the backend of its mount.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_engine::io::Ufs;
use quickwater_proto::{
    Bucket, Checksum, ETag, ObjectHeaders, ObjectKey, PartRecord, UfsError, UfsErrorKind,
    UfsIdentity, UfsObject, UfsPartSeen, UfsUploadSeen, UploadId, UploadRecord,
};

use crate::client::{Orphan, UfsClient};
use crate::mailbox::{self, Incoming, Listing, Reader, Upload};
use crate::mount::{Backend, Mount};
use crate::stats::{UfsOperation, UfsOutcome};

/// A key of so many bytes fits everywhere: encoded, a name of 139 (eCryptfs takes 143).
const SHORT_KEY_BYTES: usize = 46;
/// The prefix in a URI of so many bytes leaves room for it.
const SHORT_URI_BYTES: usize = 512;

impl Ufs for UfsClient {
    type Upload = Upload;
    type Reader = Reader;
    type Listing = Listing;

    fn can_hold(&self, bucket: &Bucket, key: &ObjectKey) -> Result<(), UfsError> {
        if key.as_str().len() <= SHORT_KEY_BYTES && bucket.ufs.len() <= SHORT_URI_BYTES {
            return Ok(());
        }
        self.mount(bucket)?.can_hold(key)
    }

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
        let permit = self.permit();
        let (mount, key) = (self.mount(bucket)?, key.clone());
        let deadline = self.config().request_timeout;
        self.call(UfsOperation::Delete, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => posix.delete(&key, permit).await,
                Backend::S3(s3) => s3.delete(&key, &permit).await,
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

    /// The folder of an upload of a directory is ours to name.
    fn upload_name(&self, bucket: &Bucket, upload: UploadId) -> Option<String> {
        is_directory(bucket).then(|| upload.to_string())
    }

    fn put_bytes_max(&self, bucket: &Bucket) -> u64 {
        match is_directory(bucket) {
            true => u64::MAX,
            false => self.config().single_put_bytes_max,
        }
    }

    fn part_bytes_min(&self, bucket: &Bucket) -> Result<u64, UfsError> {
        Ok(self.mount(bucket)?.part_bytes_min())
    }

    /// What a directory gets has no far way to go.
    fn resumes(&self, bucket: &Bucket) -> bool {
        !is_directory(bucket)
    }

    async fn open_uploads(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Vec<UfsUploadSeen>, UfsError> {
        let (mount, key) = (self.mount(bucket)?, key.clone());
        let deadline = self.config().request_timeout.saturating_mul(2);
        let operation = UfsOperation::ListUploads;
        self.call(operation, deadline, Orphan::Stop, async move {
            match mount.backend().await? {
                // Their names are known, so nobody looks for them.
                Backend::Posix(_) => Ok(Vec::new()),
                Backend::S3(s3) => s3.open_uploads(&key).await,
            }
        })
        .await
    }

    fn names(&self, name: &str, seen: &UfsUploadSeen) -> bool {
        crate::s3::id_of(name) == seen.name
    }

    async fn uploaded_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
    ) -> Result<Vec<UfsPartSeen>, UfsError> {
        let (mount, upload) = (self.mount(bucket)?, upload.clone());
        let deadline = self.config().request_timeout.saturating_mul(2);
        let operation = UfsOperation::ListParts;
        self.call(operation, deadline, Orphan::Stop, async move {
            match mount.backend().await? {
                Backend::Posix(_) => Ok(Vec::new()),
                Backend::S3(s3) => s3.uploaded_parts(&upload).await,
            }
        })
        .await
    }

    async fn put_in_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        size: u64,
        part_bytes: u64,
        sent: Vec<UfsPartSeen>,
    ) -> Result<Upload, UfsError> {
        let (mount, upload) = (self.mount(bucket)?, upload.clone());
        let run = async move |mount: Arc<Mount>, incoming: Incoming| match mount.backend().await? {
            Backend::Posix(_) => Err(UfsError::new(
                UfsErrorKind::Unsupported,
                "a directory takes objects of any size in one piece",
            )),
            Backend::S3(s3) => {
                let put = s3.put_in_parts(&upload, part_bytes, &sent, incoming);
                put.await
            }
        };
        Ok(self.start_upload(UfsOperation::PutInParts, mount, size, run))
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
        let permit = self.permit();
        let (mount, upload) = (self.mount(bucket)?, upload.clone());
        let (parts, etag, checksums) = (parts.to_vec(), etag.clone(), checksums.to_vec());
        let size = parts.iter().map(|p| p.size).fold(0, u64::saturating_add);
        // Longer than one request: parts are listed and the result looked at.
        let deadline = self.config().deadline(size).saturating_mul(2);
        let operation = UfsOperation::CompleteUpload;
        self.call(operation, deadline, Orphan::Finish, async move {
            match mount.backend().await? {
                Backend::Posix(posix) => {
                    let complete = posix.complete(&upload, parts, (etag, checksums), permit);
                    complete.await
                }
                Backend::S3(s3) => s3.complete(&upload, &parts, &etag, &permit).await,
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
        self.runtime().spawn(async move {
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

    fn late_max(&self, _bucket: &Bucket) -> Duration {
        self.config().late_max
    }

    /// A file system call ends with the process that made it, and whoever may not make
    /// it any more finds what it was to publish gone (`posix/fence.rs`).
    fn outlives_us(&self, bucket: &Bucket) -> bool {
        !is_directory(bucket)
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

fn is_directory(bucket: &Bucket) -> bool {
    bucket.ufs.starts_with("file:")
}
