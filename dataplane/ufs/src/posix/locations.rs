//! The location itself: made, removed, looked at.

use std::io;
use std::path::Path;
use std::sync::PoisonError;

use bytes::Bytes;
use quickwater_proto::{ETag, ObjectHeaders, UfsError, UfsErrorKind};
use rustix::fs::{Dir, FileType, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Attributes};
use super::errors::failed;
use super::keys::RESERVED;
use super::listing::Merge;
use super::root::Root;
use super::sync::sync_directory;
use super::walk::Query;
use super::{Core, Posix};
use crate::client::UfsReport;

impl Posix {
    pub(crate) async fn create_location(&self) -> Result<(), UfsError> {
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "create location", |core, _| {
            make_directory(&core.path)?;
            core.root().map(drop)
        })
        .await
    }

    pub(crate) async fn remove_location(&self) -> Result<(), UfsError> {
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "remove location", |core, _| core.remove_location())
            .await
    }

    pub(crate) async fn list_locations(&self) -> Result<Vec<String>, UfsError> {
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "list locations", |core, _| {
            let root = core.root()?;
            directories(&root).map_err(|e| failed("list", root.path.display(), e))
        })
        .await
    }

    pub(crate) async fn check(&self, write_probe: bool) -> Result<UfsReport, UfsError> {
        let limit = self.core.context.config.request_timeout;
        self.blocking(limit, "check", move |core, _| core.check(write_probe))
            .await
    }
}

impl Core {
    fn remove_location(&self) -> Result<(), UfsError> {
        match std::fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(UfsError::new(
                    UfsErrorKind::NotFound,
                    "the location is not there",
                ));
            }
            _ => {}
        }
        let everything = Query {
            prefix: String::new(),
            start_after: String::new(),
            recursive: true,
        };
        if !Merge::new(&everything).page(self, 1)?.is_empty() {
            return Err(not_empty(&self.path));
        }
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.staging = None;
            state.root = None;
        }
        let reserved = self.path.join(RESERVED);
        match std::fs::remove_dir_all(&reserved) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_failed("remove", &reserved, &error));
            }
            _ => {}
        }
        remove_empty(&self.path)?;
        // One that is made at this path is another directory.
        self.keep(None)?;
        sync_parent(&self.path)
    }

    fn check(&self, write_probe: bool) -> Result<UfsReport, UfsError> {
        let root = self.root()?;
        directories(&root).map_err(|e| failed("list", root.path.display(), e))?;
        let mut report = UfsReport {
            writable: None,
            remarks: Vec::new(),
        };
        if write_probe {
            match self.probe(&root) {
                Ok(true) => report.writable = Some(true),
                Ok(false) => {
                    report.writable = Some(true);
                    report.remarks.push(
                        "the file system keeps no extended attributes: headers and MD5 ETags \
                         live in our metadata only"
                            .into(),
                    );
                }
                Err(error) => {
                    report.writable = Some(false);
                    report.remarks.push(error.to_string());
                }
            }
        }
        Ok(report)
    }

    /// Writes and removes a staged file; whether its attributes were kept.
    fn probe(&self, root: &Root) -> Result<bool, UfsError> {
        let staged = self.stage_pieces(&[Bytes::from_static(b"probe")])?;
        let wanted = Attributes {
            etag: ETag::from_md5(&[0; 16]),
            headers: ObjectHeaders::default(),
            checksums: Vec::new(),
        };
        let identity = self.seal(&staged, 5, &wanted)?;
        let kept = attributes::load(&staged.fd, &identity)
            .map_err(|e| failed("read attributes in", root.path.display(), e))?;
        Ok(kept == Some(wanted))
    }
}

fn not_empty(path: &Path) -> UfsError {
    let message = format!("'{}' is not empty", path.display());
    UfsError::new(UfsErrorKind::Invalid, message)
}

fn io_failed(what: &str, path: &Path, error: &io::Error) -> UfsError {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    failed(what, path.display(), errno)
}

/// Makes a directory and those above it, and puts their entries on disk.
fn make_directory(path: &Path) -> Result<(), UfsError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(io_failed("make directory", path, &error)),
    }
}

fn sync_parent(path: &Path) -> Result<(), UfsError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let synced = rustix::fs::open(
        parent,
        OFlags::RDONLY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .and_then(|fd| sync_directory(&fd));
    synced.map_err(|e| failed("sync directory", parent.display(), e))
}

/// Removes a directory that holds nothing but empty directories.
fn remove_empty(path: &Path) -> Result<(), UfsError> {
    let fail = |error: io::Error| io_failed("remove", path, &error);
    let mut found = vec![path.to_owned()];
    let mut at = 0;
    while let Some(folder) = found.get(at).cloned() {
        at += 1;
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if !entry.file_type().map_err(fail)?.is_dir() {
                return Err(not_empty(path));
            }
            found.push(entry.path());
        }
    }
    for folder in found.iter().rev() {
        match std::fs::remove_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                return Err(not_empty(path));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != path => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(())
}

/// Names of the directories right below the root, in byte order.
fn directories(root: &Root) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(root.as_fd())? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name == "." || name == ".." || name == RESERVED {
            continue;
        }
        let directory = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown | FileType::Symlink => root.open_directory(name).is_ok(),
            _ => false,
        };
        if directory {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}
