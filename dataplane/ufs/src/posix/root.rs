//! The directory a mount lies in, and how to move below it without leaving it.
//!
//! Paths are resolved with `openat2(2)` and `RESOLVE_BENEATH |
//! RESOLVE_NO_MAGICLINKS`: no `..`, no absolute and no magic link leads out.
//! Relative symbolic links that stay inside are followed. Where the kernel (or a
//! container's system call filter) has no `openat2`, paths are walked name by
//! name and no link is followed at all.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{UfsError, UfsErrorKind};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, flock, mkdirat, openat, openat2,
};
use rustix::io::Errno;

use super::errors::failed;
use super::keys::NAME_BYTES_MAX;
use super::sync::sync_directory;

/// Directories are made with the rights the umask leaves.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o777);
/// Locked around moves between the two trees.
const MOVES_LOCK: &str = ".quickwater/moves";
const LOCK_MODE: Mode = Mode::from_raw_mode(0o666);
/// Attempts to lock it, and the pause between them.
const LOCK_ATTEMPTS: usize = 2_000;
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// Attempts when a resolution raced with a rename (`EAGAIN`).
const RACE_RETRIES: usize = 16;

/// An open root.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    fd: OwnedFd,
    device: u64,
    inode: u64,
    openat2: bool,
    /// Longest name its file system takes, bytes.
    pub(super) name_bytes_max: usize,
    /// Its mark is known to be there and right.
    pub(super) marked: AtomicBool,
    /// Directories we made whose entry may not be on disk yet.
    fresh: Mutex<HashSet<String>>,
    moves: Mutex<()>,
    /// Up to which news of sessions that are over their folders were removed here.
    pub(super) fenced: Mutex<u64>,
}

/// The right to move objects between the two trees.
#[derive(Debug)]
pub(super) struct MovesGuard<'a> {
    /// Held for its lock.
    _file: OwnedFd,
    _inner: MutexGuard<'a, ()>,
}

/// What is found at the path of an open root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The directory that is open.
    Current,
    /// Another directory of the same file system.
    Replaced,
    /// A directory of another file system.
    OtherDevice,
}

/// Why a parent directory could not be had.
#[derive(Debug)]
pub(super) enum Blocked {
    /// This path is a file, where a directory is needed.
    File(String),
    /// Anything else.
    Failed(UfsError),
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, UfsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| missing(path, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| missing(path, e))?;
        let probe = openat2(&fd, ".", flags, Mode::empty(), resolve());
        Ok(Self {
            path: path.to_owned(),
            device: stat.st_dev,
            inode: stat.st_ino,
            openat2: !matches!(probe, Err(Errno::NOSYS | Errno::PERM)),
            name_bytes_max: name_bytes_max(&fd),
            fd,
            marked: AtomicBool::new(false),
            fresh: Mutex::default(),
            moves: Mutex::default(),
            fenced: Mutex::default(),
        })
    }

    /// What the path names now.
    ///
    /// # Errors
    /// Nothing: it is gone.
    pub(super) fn place(&self) -> Result<Place, UfsError> {
        let stat = rustix::fs::stat(&self.path).map_err(|e| missing(&self.path, e))?;
        if stat.st_dev != self.device {
            return Ok(Place::OtherDevice);
        }
        match stat.st_ino == self.inode {
            true => Ok(Place::Current),
            false => Ok(Place::Replaced),
        }
    }

    /// Whether both are the same directory, as it was when they were opened.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Opens `path`, relative to the root; empty: the root itself.
    pub(super) fn open_at(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if path.is_empty() {
            return openat(&self.fd, ".", flags, mode);
        }
        if !self.openat2 {
            return self.walk(path, flags, mode);
        }
        for _ in 0..RACE_RETRIES {
            match openat2(&self.fd, path, flags, mode, resolve()) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }

    pub(super) fn open_directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// As `openat2` with no link followed.
    fn walk(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, name) = split(path);
        let mut at = openat(&self.fd, ".", step, Mode::empty())?;
        for segment in parent.split('/').filter(|s| !s.is_empty()) {
            at = openat(&at, segment, step, Mode::empty())?;
        }
        openat(&at, name, flags | OFlags::NOFOLLOW, mode)
    }

    /// Opens the directory that holds `path` and makes it and those above it if
    /// needed. On return the entries of all of them are on disk.
    pub(super) fn make_parent(&self, path: &str) -> Result<OwnedFd, Blocked> {
        let (parent, _) = split(path);
        match self.open_directory(parent) {
            Ok(fd) => {
                self.sync_fresh_above(parent).map_err(Blocked::Failed)?;
                Ok(fd)
            }
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_directories(parent),
            Err(errno) => Err(Blocked::Failed(failed("open directory", parent, errno))),
        }
    }

    fn make_directories(&self, path: &str) -> Result<OwnedFd, Blocked> {
        let fail = |at: &str, errno| Blocked::Failed(failed("make directory", at, errno));
        let mut above = self.open_directory("").map_err(|e| fail(".", e))?;
        for end in ends(path) {
            let here = &path[..end];
            let mut opened = self.open_directory(here);
            if matches!(opened, Err(Errno::NOENT)) {
                self.make_one(&above, here).map_err(Blocked::Failed)?;
                opened = self.open_directory(here);
            }
            above = match opened {
                Ok(fd) => fd,
                Err(Errno::NOTDIR) => return Err(Blocked::File(here.to_owned())),
                // ENOENT here: it vanished again; the caller tries once more.
                Err(errno) => return Err(fail(here, errno)),
            };
        }
        self.sync_fresh_above(path).map_err(Blocked::Failed)?;
        Ok(above)
    }

    /// Makes one directory and syncs its parent. If another call was faster, its
    /// note (or ours) makes `sync_fresh_above` sync.
    fn make_one(&self, above: &OwnedFd, path: &str) -> Result<(), UfsError> {
        self.note_fresh(path, true);
        let made = mkdirat(above, split(path).1, DIRECTORY_MODE);
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(()),
            Err(errno) => {
                self.note_fresh(path, false);
                return Err(failed("make directory", path, errno));
            }
        }
        sync_directory(above).map_err(|e| failed("sync directory", path, e))?;
        self.note_fresh(path, false);
        Ok(())
    }

    fn note_fresh(&self, path: &str, fresh: bool) {
        let mut set = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh {
            set.insert(path.to_owned());
        } else {
            set.remove(path);
        }
    }

    /// Syncs the entries of `path` and of the directories above it that another
    /// call has made and not synced yet.
    fn sync_fresh_above(&self, path: &str) -> Result<(), UfsError> {
        if self
            .fresh
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
        {
            return Ok(());
        }
        for end in ends(path) {
            let here = &path[..end];
            let fresh = self
                .fresh
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(here);
            if fresh {
                let (parent, _) = split(here);
                let fd = self.open_directory(parent);
                let synced = fd.and_then(|fd| sync_directory(&fd));
                synced.map_err(|e| failed("sync directory", parent, e))?;
                self.note_fresh(here, false);
            }
        }
        Ok(())
    }

    /// Removes the directories above `path` that are empty, up to the root.
    pub(super) fn prune_above(&self, path: &str) {
        let mut here = split(path).0;
        while !here.is_empty() && here != super::keys::RESERVED && here != super::keys::SIDE_ROOT {
            let (parent, name) = split(here);
            let removed = self
                .open_at(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                .and_then(|fd| rustix::fs::unlinkat(&fd, name, AtFlags::REMOVEDIR));
            // Not empty, or in use otherwise: it stays, as empty directories may.
            if removed.is_err() {
                return;
            }
            here = parent;
        }
    }

    /// Keeps others, on this machine and elsewhere, from moving objects between
    /// their plain and side paths until it is dropped. Only needed around moves.
    pub(super) fn lock_moves(&self) -> Result<MovesGuard<'_>, Errno> {
        let inner = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        let file = self.open_at(MOVES_LOCK, flags, LOCK_MODE)?;
        for _ in 0..LOCK_ATTEMPTS {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                // A file system without locks: the lock within this process is left.
                Ok(()) | Err(_) => {
                    return Ok(MovesGuard {
                        _file: file,
                        _inner: inner,
                    });
                }
            }
        }
        Err(Errno::TIMEDOUT)
    }

    /// The open root, for calls on its own entries.
    pub(super) fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS
}

/// As the file system says; what it does not say is taken to be usual.
fn name_bytes_max(fd: &OwnedFd) -> usize {
    let said = rustix::fs::fstatfs(fd).map_or(0, |stat| stat.f_namelen);
    match usize::try_from(said) {
        Ok(bytes) if bytes > 0 => bytes,
        _ => NAME_BYTES_MAX,
    }
}

/// A missing root is an outage, not an empty bucket.
fn missing(path: &Path, errno: Errno) -> UfsError {
    let mut error = failed("open the UFS directory", path.display(), errno);
    if error.kind == UfsErrorKind::NotFound || error.kind == UfsErrorKind::Unsupported {
        error.kind = UfsErrorKind::Unavailable;
    }
    error
}

/// Directory and name of a path.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Ends of the segments of a path: `a/bc` has 1 and 4.
fn ends(path: &str) -> impl Iterator<Item = usize> {
    let slashes = path.match_indices('/').map(|(at, _)| at);
    let last = (!path.is_empty()).then_some(path.len());
    slashes.chain(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_openat2_no_link_is_followed() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("dir")).unwrap();
        std::fs::write(home.path().join("dir/file"), "x").unwrap();
        std::os::unix::fs::symlink("dir", home.path().join("link")).unwrap();
        std::os::unix::fs::symlink("file", home.path().join("dir/link")).unwrap();
        let mut root = Root::open(home.path()).unwrap();
        let open = |root: &Root, path: &str| root.open_at(path, OFlags::RDONLY, Mode::empty());
        assert!(root.openat2, "this kernel has it");
        for path in ["dir/file", "link/file", "dir/link"] {
            assert!(open(&root, path).is_ok(), "{path}");
        }
        root.openat2 = false;
        assert!(open(&root, "dir/file").is_ok());
        for path in ["link/file", "dir/link"] {
            assert!(open(&root, path).is_err(), "{path}");
        }
        drop(root.make_parent("new/deep/file").unwrap());
        assert!(home.path().join("new/deep").is_dir());
        assert!(matches!(root.make_parent("dir/file/x"), Err(Blocked::File(f)) if f == "dir/file"));
        root.prune_above("new/deep/file");
        assert!(!home.path().join("new").exists());
        assert!(root.fresh.lock().unwrap().is_empty(), "all was synced");
    }

    #[test]
    fn ends_of_paths() {
        assert_eq!(ends("a/bc").collect::<Vec<_>>(), [1, 4]);
        assert_eq!(ends("").count(), 0);
    }
}
