//! Multipart uploads: `.quickwater/uploads/<id>/<part number>`, one file a part.

use std::time::Duration;

use quickwater_proto::{
    Checksum, ETag, PartRecord, UfsError, UfsErrorKind, UfsObject, UploadId, UploadRecord,
};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, copy_file_range, fstat, openat, renameat};
use rustix::io::Errno;

use super::attributes::{self, Attributes};
use super::errors::failed;
use super::root::{Blocked, Root};
use super::staging::{StagedFile, names_in, older_than, remove_folder};
use super::sync::sync_directory;
use super::write::{Body, write_all};
use super::{Core, GivenUp, Posix, objects};
use crate::mailbox::Incoming;
use crate::standing::Permit;

/// Folder of all uploads.
const UPLOADS: &str = ".quickwater/uploads";
/// Bytes copied at once where the kernel cannot copy between files.
const COPY_BYTES: usize = 1 << 20;
/// Most bytes of one `copy_file_range`, so that a cancelled copy ends soon.
const COPY_RANGE_BYTES: u64 = 64 << 20;

impl Posix {
    pub(crate) async fn create_upload(&self, upload: UploadId) -> Result<String, UfsError> {
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "create upload", move |core, _| {
            let name = upload.to_string();
            let root = core.root()?;
            // Also removes what is left of dead uploads when this is the first write.
            core.staging(&root)?;
            root.make_parent(&format!("{UPLOADS}/{name}/part"))
                .map_err(unblocked)?;
            Ok(name)
        })
        .await
    }

    pub(crate) async fn put_part(
        &self,
        upload: &UploadRecord,
        number: u16,
        incoming: Incoming,
    ) -> Result<Option<UfsObject>, UfsError> {
        let size = incoming.size();
        let permit = incoming.permit().clone();
        let folder = folder_of(upload)?;
        let config = &self.core.context.config;
        let limit = config.request_timeout;
        self.blocking(limit, "open upload", {
            let folder = folder.clone();
            move |core, _| open_folder(&*core.root()?, &folder).map(drop)
        })
        .await?;
        let Some((body, digests)) = self.receive(incoming).await? else {
            return Ok(None);
        };
        // Parts of one number are written one after the other.
        let lock = self
            .locks
            .lock(&format!("{folder}/{number}"), limit)
            .await?;
        let publish = self.changing(config.deadline(size), "put part", move |core, given_up| {
            let _lock = lock;
            let root = core.root()?;
            let mut staged = match body {
                Body::Staged(staged) => staged,
                Body::Collected(pieces) => core.stage_pieces(&pieces)?,
            };
            let attributes = Attributes {
                etag: ETag::from_md5(&digests.md5),
                headers: quickwater_proto::ObjectHeaders::default(),
                checksums: digests.checksums,
            };
            let identity = core.seal(&staged, size, &attributes)?;
            given_up.check()?;
            core.admit(&root, &staged.staging, &permit)?;
            publish_part(&root, &folder, &mut staged, number)?;
            Ok(attributes::object(identity, Some(attributes)))
        });
        publish.await.map(Some)
    }

    pub(crate) async fn complete(
        &self,
        upload: &UploadRecord,
        parts: Vec<PartRecord>,
        (etag, checksums): (ETag, Vec<Checksum>),
        permit: Permit,
    ) -> Result<UfsObject, UfsError> {
        let folder = folder_of(upload)?;
        let upload = upload.clone();
        let size = parts.iter().map(|p| p.size).fold(0, u64::saturating_add);
        let config = &self.core.context.config;
        let lock = self
            .locks
            .lock(upload.key.as_str(), config.request_timeout)
            .await?;
        self.changing(
            config.deadline(size),
            "complete upload",
            move |core, given_up| {
                let _lock = lock;
                let attributes = Attributes {
                    etag,
                    headers: upload.headers.clone(),
                    checksums,
                };
                core.complete(
                    &upload,
                    &folder,
                    &parts,
                    (size, attributes),
                    (given_up, &permit),
                )
            },
        )
        .await
    }

    pub(crate) async fn abort_upload(&self, upload: &UploadRecord) -> Result<(), UfsError> {
        let folder = folder_of(upload)?;
        let limit = self.core.context.config.request_timeout;
        let lock = self.locks.lock(upload.key.as_str(), limit).await?;
        self.blocking(limit, "abort upload", move |core, _| {
            let _lock = lock;
            remove_folder(&*core.root()?, &folder).map_err(|e| failed("remove", &folder, e))
        })
        .await
    }
}

impl Core {
    fn complete(
        &self,
        upload: &UploadRecord,
        folder: &str,
        parts: &[PartRecord],
        (size, attributes): (u64, Attributes),
        (given_up, permit): (&GivenUp, &Permit),
    ) -> Result<UfsObject, UfsError> {
        let key = upload.key.as_str();
        let root = self.root()?;
        let opened = match open_folder(&root, folder) {
            Ok(opened) => opened,
            Err(error) if error.kind == UfsErrorKind::NotFound => {
                return self.completed_before(key, size, &attributes, error);
            }
            Err(error) => return Err(error),
        };
        let mut staged = self.stage(&root)?;
        let mut at = 0;
        for part in parts {
            append(&opened, part, &mut staged, at, given_up)?;
            at += part.size;
        }
        let identity = self.seal(&staged, size, &attributes)?;
        given_up.check()?;
        self.admit(&root, &staged.staging, permit)?;
        objects::publish(&root, &mut staged, key)?;
        // The object is there; a folder that stays is removed by age.
        if let Err(errno) = remove_folder(&root, folder) {
            tracing::warn!(error = %errno, folder, "parts of a completed upload stay");
        }
        Ok(attributes::object(identity, Some(attributes)))
    }

    /// A repeat after an unknown outcome: the parts are gone, so either the object
    /// is there, with the ETag and the headers it was to get, or the upload was aborted.
    fn completed_before(
        &self,
        key: &str,
        size: u64,
        expected: &Attributes,
        no_upload: UfsError,
    ) -> Result<UfsObject, UfsError> {
        match self.head(key) {
            Ok(object)
                if object.identity.size == size
                    && object.etag == expected.etag
                    && object.headers == expected.headers =>
            {
                Ok(object)
            }
            Ok(_) => Err(no_upload),
            Err(error) if error.kind == UfsErrorKind::NotFound => Err(no_upload),
            Err(error) => Err(error),
        }
    }
}

/// The staging folder; the name comes from the metadata and is checked again.
fn folder_of(upload: &UploadRecord) -> Result<String, UfsError> {
    let name = &upload.ufs_upload;
    if UploadId::parse(name).is_none_or(|id| id.to_string() != *name) {
        let message = format!("'{name}' is no upload of a file:// UFS");
        return Err(UfsError::new(UfsErrorKind::NotFound, message));
    }
    Ok(format!("{UPLOADS}/{name}"))
}

fn part_name(number: u16) -> String {
    format!("{number:05}")
}

fn open_folder(root: &Root, folder: &str) -> Result<OwnedFd, UfsError> {
    root.open_directory(folder)
        .map_err(|e| failed("open upload", folder, e))
}

fn unblocked(blocked: Blocked) -> UfsError {
    match blocked {
        Blocked::File(path) => failed("make directory", path, Errno::NOTDIR),
        Blocked::Failed(error) => error,
    }
}

fn publish_part(
    root: &Root,
    folder: &str,
    staged: &mut StagedFile,
    number: u16,
) -> Result<(), UfsError> {
    let opened = open_folder(root, folder)?;
    let fail = |errno| failed("publish part of", folder, errno);
    renameat(
        staged.staging.folder(),
        &*staged.name,
        &opened,
        part_name(number),
    )
    .map_err(fail)?;
    staged.published();
    sync_directory(&opened).map_err(fail)
}

/// Copies a part to its place in the object.
fn append(
    folder: &OwnedFd,
    part: &PartRecord,
    staged: &mut StagedFile,
    at: u64,
    given_up: &GivenUp,
) -> Result<(), UfsError> {
    let fail = |errno| failed("copy part", part.number, errno);
    let invalid = |why: &str| {
        let message = format!("part {} {why}", part.number);
        Err(UfsError::new(UfsErrorKind::Invalid, message))
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match openat(folder, part_name(part.number), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return invalid("was not uploaded"),
        Err(errno) => return Err(fail(errno)),
    };
    let identity = attributes::identity(&fstat(&file).map_err(fail)?);
    if identity.size != part.size {
        return invalid("has another length in the UFS");
    }
    if let Some(known) = attributes::load(&file, &identity).map_err(fail)?
        && known.etag != part.etag
    {
        return invalid("has another ETag in the UFS");
    }
    copy(&file, part, staged, at, given_up)
}

fn copy(
    file: &OwnedFd,
    part: &PartRecord,
    staged: &mut StagedFile,
    at: u64,
    given_up: &GivenUp,
) -> Result<(), UfsError> {
    let mut done = 0;
    while done < part.size {
        given_up.check()?;
        let (mut from, mut to) = (done, at + done);
        let length = (part.size - done).min(COPY_RANGE_BYTES);
        // At most COPY_RANGE_BYTES, which is a usize.
        let length = usize::try_from(length).unwrap_or(COPY_BYTES);
        match copy_file_range(file, Some(&mut from), &staged.fd, Some(&mut to), length) {
            Ok(0) => return Err(shorter(part)),
            Ok(bytes) => done += bytes as u64,
            Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::PERM) => {
                done += copy_by_hand(file, part, staged, (done, at + done))?;
            }
            Err(errno) => return Err(failed("copy part", part.number, errno)),
        }
    }
    Ok(())
}

fn copy_by_hand(
    file: &OwnedFd,
    part: &PartRecord,
    staged: &StagedFile,
    (from, to): (u64, u64),
) -> Result<u64, UfsError> {
    let mut buffer = Vec::with_capacity(COPY_BYTES);
    let read = rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), from)
        .map_err(|e| failed("copy part", part.number, e))?;
    if read == 0 {
        return Err(shorter(part));
    }
    write_all(staged, &buffer, to)?;
    Ok(read as u64)
}

fn shorter(part: &PartRecord) -> UfsError {
    let message = format!("part {} ended before its length", part.number);
    UfsError::new(UfsErrorKind::Corrupt, message)
}

/// Removes uploads nobody touched for `age`. Trouble here is logged: it costs
/// space, not correctness.
pub(super) fn remove_old(root: &Root, age: Duration) {
    let removed = names_in(root, UPLOADS).map(|names| {
        for name in names {
            let path = format!("{UPLOADS}/{name}");
            let old = root
                .open_directory(&path)
                .and_then(|folder| older_than(&folder, age));
            let done = match old {
                Ok(true) => remove_folder(root, &path),
                Ok(false) => Ok(()),
                Err(errno) => Err(errno),
            };
            if let Err(errno) = done {
                tracing::warn!(error = %errno, path, "old upload not removed");
            }
        }
    });
    if let Err(errno) = removed {
        tracing::warn!(error = %errno, "uploads not looked through");
    }
}
