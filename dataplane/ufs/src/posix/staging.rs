//! Files that are being written: `.quickwater/tmp/<instance>/`, never visible.
//!
//! Every open mount has its own folder with a locked file `lock` in it, and of a worker
//! among others its name says of which session (see `fence`). Whoever
//! opens the mount later removes the folders whose lock is free: their owner is
//! dead. Where files cannot be locked, folders untouched for a day are removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quickwater_proto::{UfsError, UfsErrorKind};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;

use super::errors::failed;
use super::fence;
use super::root::{Blocked, Root};
use crate::standing::{Standing, refused};

/// Folder of all staging folders.
pub(super) const TMP: &str = ".quickwater/tmp";
/// Name of the lock file.
const LOCK: &str = "lock";
/// Age of a staging folder without a lock that is removed.
const UNLOCKED_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Attempts to lock our own file, and the pause between them.
const LOCK_ATTEMPTS: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Staged files are made with the rights the umask leaves.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// The staging folder of one open mount.
#[derive(Debug)]
pub(super) struct Staging {
    folder: OwnedFd,
    /// The folder above.
    above: OwnedFd,
    instance: String,
    /// Whose it is among others.
    session: Option<u64>,
    /// Held for its lock.
    _lock: OwnedFd,
    next: AtomicU64,
}

/// A file that is being written; removed when dropped before it is published.
#[derive(Debug)]
pub(super) struct StagedFile {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
    pub(super) staging: Arc<Staging>,
    published: bool,
}

impl Staging {
    /// Makes a staging folder.
    pub(super) fn open(root: &Root, standing: Option<&Standing>) -> Result<Self, UfsError> {
        let random = instance_name()?;
        let session = match standing.map(Standing::session) {
            Some(0) => return Err(refused("this worker has no session yet")),
            _ if standing.is_some_and(Standing::is_ousted) => {
                return Err(refused("another worker took this session for over"));
            }
            session => session,
        };
        let instance = match (standing, session) {
            (Some(standing), Some(session)) => {
                fence::folder_name(standing.node(), session, &random)
            }
            _ => random,
        };
        let path = format!("{TMP}/{instance}");
        let fail = |errno| failed("make staging folder", &path, errno);
        let folder =
            root.make_parent(&format!("{path}/{LOCK}"))
                .map_err(|blocked| match blocked {
                    Blocked::File(_) => fail(Errno::NOTDIR),
                    Blocked::Failed(error) => error,
                })?;
        let above = root.open_directory(TMP).map_err(fail)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let lock = openat(&folder, LOCK, flags, FILE_MODE).map_err(fail)?;
        lock_own(&lock).map_err(fail)?;
        Ok(Self {
            folder,
            above,
            instance,
            session,
            _lock: lock,
            next: AtomicU64::new(0),
        })
    }

    /// Removes the staging folders of the dead.
    pub(super) fn remove_dead(&self, root: &Root, standing: Option<&Standing>) {
        remove_dead(root, &self.instance, standing.is_some());
    }

    /// Whether its session is over: nothing may come out of it any more.
    pub(super) fn is_over(&self, standing: Option<&Standing>) -> bool {
        match (standing, self.session) {
            (Some(standing), Some(session)) => standing.is_over(standing.node(), session),
            _ => false,
        }
    }

    /// A file to remove another one by; `None`: there are no others.
    pub(super) fn grave(self: &Arc<Self>) -> Result<Option<StagedFile>, Errno> {
        self.session.map(|_| self.create()).transpose()
    }

    /// Makes an empty staged file.
    pub(super) fn create(self: &Arc<Self>) -> Result<StagedFile, Errno> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number:016x}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(&self.folder, &*name, flags, FILE_MODE)?;
        Ok(StagedFile {
            fd,
            name,
            staging: Arc::clone(self),
            published: false,
        })
    }

    /// The folder, to rename from.
    pub(super) fn folder(&self) -> &OwnedFd {
        &self.folder
    }
}

impl Drop for Staging {
    /// What cannot be removed is removed by whoever opens the mount next.
    fn drop(&mut self) {
        let removed = unlinkat(&self.folder, LOCK, AtFlags::empty())
            .and_then(|()| unlinkat(&self.above, &*self.instance, AtFlags::REMOVEDIR));
        tracing::trace!(instance = self.instance, ?removed, "staging folder closed");
    }
}

impl StagedFile {
    /// Says that the file has got its final name.
    pub(super) fn published(&mut self) {
        self.published = true;
    }

    /// Whether the file still has its staging name.
    pub(super) fn exists(&self) -> bool {
        rustix::fs::statat(&self.staging.folder, &*self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        if let Err(errno) = unlinkat(&self.staging.folder, &*self.name, AtFlags::empty())
            && errno != Errno::NOENT
        {
            tracing::warn!(error = %errno, "a staged file stays until the next start");
        }
    }
}

/// Locks our own lock file. Somebody who looks for the dead may hold it for a
/// moment. A file system without locks is fine: age decides there.
fn lock_own(lock: &OwnedFd) -> Result<(), Errno> {
    for _ in 0..LOCK_ATTEMPTS {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Ok(()) => return Ok(()),
            Err(errno) => {
                tracing::debug!(error = %errno, "staging folder cannot be locked");
                return Ok(());
            }
        }
    }
    Err(Errno::WOULDBLOCK)
}

fn instance_name() -> Result<String, UfsError> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random)
        .map_err(|e| UfsError::new(UfsErrorKind::Other, format!("no randomness: {e}")))?;
    Ok(hex::encode(random))
}

/// Removes the staging folders whose owner is dead. Trouble here is logged: it
/// costs space, not correctness.
fn remove_dead(root: &Root, own: &str, among_others: bool) {
    let names = match names_in(root, TMP) {
        Ok(names) => names,
        Err(errno) => {
            tracing::warn!(error = %errno, "staging folders not looked through");
            return;
        }
    };
    // Of workers it is known whose session is over, whatever their locks look like here.
    let known = |name: &str| among_others && fence::owner_of(name).is_some();
    for name in names.iter().filter(|n| *n != own && !known(n)) {
        let path = format!("{TMP}/{name}");
        match is_dead(root, &path) {
            Ok(true) => {
                if let Err(errno) = remove_folder(root, &path) {
                    tracing::warn!(error = %errno, path, "dead staging folder not removed");
                }
            }
            Ok(false) => {}
            Err(errno) => tracing::warn!(error = %errno, path, "staging folder not checked"),
        }
    }
}

fn is_dead(root: &Root, path: &str) -> Result<bool, Errno> {
    let folder = root.open_directory(path)?;
    match openat(&folder, LOCK, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(lock) => match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // The folder is a moment older than its lock.
            Ok(()) => older_than(&folder, Duration::from_secs(1)),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(_) => older_than(&folder, UNLOCKED_AGE_MAX),
        },
        Err(Errno::NOENT) => Ok(older_than(&folder, UNLOCKED_AGE_MAX)? || is_empty(&folder)?),
        Err(errno) => Err(errno),
    }
}

fn is_empty(folder: &OwnedFd) -> Result<bool, Errno> {
    // Only one that is older than the making of a lock takes.
    Ok(older_than(folder, Duration::from_secs(60))? && entries(folder)?.is_empty())
}

/// Whether nothing was made or removed in a folder for so long.
pub(super) fn older_than(folder: &OwnedFd, age: Duration) -> Result<bool, Errno> {
    let modified = super::attributes::identity(&rustix::fs::fstat(folder)?).modified_ns;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let passed = u64::try_from(now.saturating_sub(modified)).unwrap_or(0);
    Ok(Duration::from_nanos(passed) > age)
}

/// Names in a folder; none if it is not there.
pub(super) fn names_in(root: &Root, path: &str) -> Result<Vec<String>, Errno> {
    match root.open_directory(path) {
        Ok(folder) => entries(&folder),
        Err(Errno::NOENT) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

fn entries(folder: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes a folder of ours with the files in it; not being there is success.
pub(super) fn remove_folder(root: &Root, path: &str) -> Result<(), Errno> {
    let folder = match root.open_directory(path) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for name in entries(&folder)? {
        match unlinkat(&folder, &*name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    let (parent, name) = super::root::split(path);
    let parent = root.open_directory(parent)?;
    match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => super::sync::sync_directory(&parent),
        Err(errno) => Err(errno),
    }
}
