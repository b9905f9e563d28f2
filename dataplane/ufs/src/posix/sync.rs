//! The only place that syncs: the feature `unsafe-no-flush` removes it here.

use rustix::fd::AsFd;
use rustix::io::Errno;

/// Puts a file's content and attributes on disk.
pub(super) fn sync_file(fd: impl AsFd) -> Result<(), Errno> {
    sync(fd)
}

/// Puts a directory's entries on disk.
pub(super) fn sync_directory(fd: impl AsFd) -> Result<(), Errno> {
    match sync(fd) {
        // Some network file systems cannot sync a directory and need not.
        Err(Errno::INVAL) => Ok(()),
        done => done,
    }
}

fn sync(fd: impl AsFd) -> Result<(), Errno> {
    if cfg!(feature = "unsafe-no-flush") {
        return Ok(());
    }
    rustix::io::retry_on_intr(|| rustix::fs::fsync(fd.as_fd()))
}
