//! Writing a file: staged, checked, described, synced, renamed, directory synced.

use bytes::Bytes;
use quickwater_engine::io::BodyDigests;
use quickwater_proto::{
    ETag, ObjectHeaders, ObjectKey, UfsError, UfsErrorKind, UfsIdentity, UfsObject,
};
use rustix::fs::{FallocateFlags, Timespec, Timestamps, fallocate, fstat, futimens};
use rustix::io::Errno;

use super::attributes::{self, Attributes};
use super::errors::failed;
use super::locks::KeyGuard;
use super::staging::StagedFile;
use super::sync::sync_file;
use super::{Core, Posix, objects};
use crate::mailbox::{Incoming, Piece};

/// Space for files of at least this size is asked for before their bytes come, so
/// that a full UFS says so early.
const ALLOCATE_BYTES_MIN: u64 = 1 << 20;
/// Files up to this size are collected and written in one go.
const COLLECT_BYTES_MAX: u64 = 1 << 20;

impl Posix {
    pub(crate) async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        incoming: Incoming,
    ) -> Result<Option<UfsObject>, UfsError> {
        let size = incoming.size();
        let permit = incoming.permit().clone();
        let Some((body, digests)) = self.receive(incoming).await? else {
            return Ok(None);
        };
        let config = &self.core.context.config;
        let lock = self
            .locks
            .lock(key.as_str(), config.request_timeout)
            .await?;
        let (key, headers) = (key.clone(), headers.clone());
        let publish = self.changing(config.deadline(size), "put", move |core, given_up| {
            let _lock: KeyGuard = lock;
            let root = core.root()?;
            let mut staged = match body {
                Body::Staged(staged) => staged,
                Body::Collected(pieces) => core.stage_pieces(&pieces)?,
            };
            let attributes = Attributes {
                etag: ETag::from_md5(&digests.md5),
                headers,
                checksums: digests.checksums,
            };
            let identity = core.seal(&staged, size, &attributes)?;
            given_up.check()?;
            core.admit(&root, &staged.staging, &permit)?;
            objects::publish(&root, &mut staged, key.as_str())?;
            Ok(attributes::object(identity, Some(attributes)))
        });
        publish.await.map(Some)
    }

    /// Takes all bytes in; `None`: the caller gave up.
    pub(super) async fn receive(
        &self,
        mut incoming: Incoming,
    ) -> Result<Option<(Body, BodyDigests)>, UfsError> {
        let size = incoming.size();
        let mut body = if size <= COLLECT_BYTES_MAX {
            Body::Collected(Vec::new())
        } else {
            let limit = self.core.context.config.request_timeout;
            let begin = move |core: &Core, _: &super::GivenUp| core.stage_sized(size);
            Body::Staged(self.blocking(limit, "make staged file", begin).await?)
        };
        let mut written = 0;
        loop {
            match incoming.next().await? {
                None => return Ok(None),
                Some(Piece::Finish(digests)) => return Ok(Some((body, digests))),
                Some(Piece::Data(data)) => {
                    let length = data.len() as u64;
                    body = self.take_in(body, data, written).await?;
                    written += length;
                }
            }
        }
    }

    async fn take_in(&self, body: Body, data: Bytes, at: u64) -> Result<Body, UfsError> {
        match body {
            Body::Collected(mut pieces) => {
                pieces.push(data);
                Ok(Body::Collected(pieces))
            }
            Body::Staged(staged) => {
                let limit = self.core.context.config.deadline(data.len() as u64);
                self.blocking(limit, "write", move |_, _| {
                    write_all(&staged, &data, at)?;
                    Ok(Body::Staged(staged))
                })
                .await
            }
        }
    }
}

/// A body on its way to its file.
#[derive(Debug)]
pub(super) enum Body {
    Collected(Vec<Bytes>),
    Staged(StagedFile),
}

impl Core {
    fn stage_sized(&self, size: u64) -> Result<StagedFile, UfsError> {
        let staged = self.stage(&*self.root()?)?;
        if size >= ALLOCATE_BYTES_MIN {
            match fallocate(&staged.fd, FallocateFlags::empty(), 0, size) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => {}
                Err(errno) => return Err(failed("reserve space for", &staged.name, errno)),
            }
        }
        Ok(staged)
    }

    pub(super) fn stage_pieces(&self, pieces: &[Bytes]) -> Result<StagedFile, UfsError> {
        let staged = self.stage(&*self.root()?)?;
        let mut at = 0;
        for piece in pieces {
            write_all(&staged, piece, at)?;
            at += piece.len() as u64;
        }
        Ok(staged)
    }

    /// The last steps before a file becomes visible: length compared, time set,
    /// described, synced.
    pub(super) fn seal(
        &self,
        staged: &StagedFile,
        size: u64,
        attributes: &Attributes,
    ) -> Result<UfsIdentity, UfsError> {
        let fail = |errno| failed("finish staged file", &staged.name, errno);
        let time = timespec(self.next_modified_ns());
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        futimens(&staged.fd, &times).map_err(fail)?;
        // Read back: the file system may keep coarser times.
        let identity = attributes::identity(&fstat(&staged.fd).map_err(fail)?);
        if identity.size != size {
            let message = format!("{} bytes are in the file, {size} were sent", identity.size);
            return Err(UfsError::new(UfsErrorKind::Corrupt, message));
        }
        let dropped = &self.context.stats.dropped_attributes;
        attributes::store(&staged.fd, &identity, attributes, dropped).map_err(fail)?;
        sync_file(&staged.fd).map_err(fail)?;
        Ok(identity)
    }
}

fn timespec(nanoseconds: i64) -> Timespec {
    Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    }
}

pub(super) fn write_all(staged: &StagedFile, data: &[u8], at: u64) -> Result<(), UfsError> {
    let mut written = 0;
    while written < data.len() {
        match rustix::io::pwrite(&staged.fd, &data[written..], at + written as u64) {
            Ok(0) => return Err(failed("write", &staged.name, Errno::IO)),
            Ok(bytes) => written += bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("write", &staged.name, errno)),
        }
    }
    Ok(())
}
