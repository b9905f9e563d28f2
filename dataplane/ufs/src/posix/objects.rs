//! Finding, publishing and removing objects: the plain path first, then the side
//! path. No staging of bytes here.
//!
//! Where both paths hold a file (only after a crash between two steps) the plain
//! one counts; a write of the plain one and a delete remove the other.

use quickwater_proto::{UfsError, UfsErrorKind};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::errors::failed;
use super::keys::{SIDE_ROOT, plain_path, side_path};
use super::root::{Blocked, Root, split};
use super::staging::StagedFile;
use super::sync::sync_directory;

/// Attempts of a step that races with others making or removing directories.
const RACE_RETRIES: usize = 64;

/// Looks at each of the two paths before an object is said not to be there.
const LOOKS: usize = 3;

/// An object's open file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

/// Whether a file of the side tree only keeps a place for one that is about to be
/// moved there (see [`relocate`]).
pub(super) fn is_placeholder(stat: &Stat) -> bool {
    stat.st_size == 0 && stat.st_mode & 0o777 == 0
}

pub(super) fn not_found(key: &str) -> UfsError {
    UfsError::new(UfsErrorKind::NotFound, format!("no object '{key}'"))
}

/// Opens an object for reading.
pub(super) fn open(root: &Root, key: &str) -> Result<Found, UfsError> {
    let plain = plain_path(key);
    let side = side_path(key);
    // A file may move between the two paths between two looks.
    for path in [plain, Some(side.as_str())].repeat(LOOKS) {
        let Some(path) = path else { continue };
        match open_regular(root, path) {
            Ok(Some(found)) => {
                if !(path == side && is_placeholder(&found.stat)) {
                    return Ok(found);
                }
            }
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            // A placeholder has no rights.
            Err(Errno::ACCESS) if path == side && plain.is_some() => {}
            Err(errno) => return Err(failed("open", key, errno)),
        }
        if plain.is_none() {
            break;
        }
    }
    Err(not_found(key))
}

/// `None`: there is something, but no regular file.
fn open_regular(root: &Root, path: &str) -> Result<Option<Found>, Errno> {
    // Not blocking: a FIFO would wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match root.open_at(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        // Sockets and dangling devices.
        Err(Errno::NXIO | Errno::NODEV | Errno::ISDIR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let stat = fstat(&fd)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then_some(Found { fd, stat }))
}

/// Gives a staged, synced file its place and syncs the directory: the moment the
/// object becomes visible. Replaces what is there.
pub(super) fn publish(root: &Root, staged: &mut StagedFile, key: &str) -> Result<(), UfsError> {
    let side = side_path(key);
    for _ in 0..RACE_RETRIES {
        let done = match plain_path(key) {
            Some(path) => match place(root, staged, path)? {
                Placed::IsDirectory => place(root, staged, &side)?,
                other => other,
            },
            None => place(root, staged, &side)?,
        };
        match done {
            Placed::Done { plain } => {
                if plain {
                    remove_stale(root, staged, &side).map_err(|e| failed("remove", key, e))?;
                }
                return Ok(());
            }
            Placed::Retry => {}
            Placed::IsDirectory => return Err(in_the_way(key)),
        }
    }
    let message = format!("directories above '{key}' are made and removed all the time");
    Err(UfsError::new(UfsErrorKind::Throttled, message))
}

/// After an object got its plain path: removes an older version from its side
/// path. It may also be the very object: moved aside again just now.
fn remove_stale(root: &Root, staged: &StagedFile, side: &str) -> Result<(), Errno> {
    if !is_there(root, side)? {
        return Ok(());
    }
    let _moves = root.lock_moves()?;
    let own = fstat(&staged.fd)?;
    let found = match root.open_at(side, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => fstat(fd)?,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino) {
        return Ok(());
    }
    let grave = staged.staging.grave()?;
    remove_at(root, side, grave.as_ref())
}

fn is_there(root: &Root, path: &str) -> Result<bool, Errno> {
    match root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn in_the_way(key: &str) -> UfsError {
    let message = format!("a directory is in the way of '{key}'");
    UfsError::new(UfsErrorKind::Unsupported, message)
}

enum Placed {
    Done { plain: bool },
    IsDirectory,
    Retry,
}

fn place(root: &Root, staged: &mut StagedFile, path: &str) -> Result<Placed, UfsError> {
    let parent = match root.make_parent(path) {
        Ok(parent) => parent,
        Err(Blocked::File(file)) => {
            relocate(root, &file)?;
            return Ok(Placed::Retry);
        }
        // A directory was removed as empty while we went down.
        Err(Blocked::Failed(error)) if error.kind == UfsErrorKind::NotFound => {
            return Ok(Placed::Retry);
        }
        Err(Blocked::Failed(error)) => return Err(error),
    };
    let name = split(path).1;
    match renameat(staged.staging.folder(), &*staged.name, &parent, name) {
        Ok(()) => {
            staged.published();
            sync_directory(&parent).map_err(|e| failed("sync directory of", path, e))?;
            Ok(Placed::Done {
                plain: !path.starts_with(SIDE_ROOT),
            })
        }
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => Ok(Placed::IsDirectory),
        Err(Errno::NOENT) if staged.exists() => Ok(Placed::Retry),
        Err(Errno::NOENT) => {
            let message = format!("the staged file of '{path}' was removed by somebody");
            Err(UfsError::new(UfsErrorKind::Unavailable, message))
        }
        Err(errno) => Err(failed("rename to", path, errno)),
    }
}

/// Moves the object at `path` to its side path, because its plain path has to
/// become a directory.
///
/// The rename is atomic and takes whatever version is current. An empty file
/// without rights keeps the place first (invisible, and it may stay if nothing is
/// left to move): a rename of a *directory* (somebody was
/// faster) then fails with `ENOTDIR` instead of moving all that is in it.
fn relocate(root: &Root, path: &str) -> Result<(), UfsError> {
    let fail = |errno| failed("move aside", path, errno);
    let _moves = root.lock_moves().map_err(fail)?;
    let (parent_path, name) = split(path);
    let parent = match root.open_directory(parent_path) {
        Ok(parent) => parent,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(fail(errno)),
    };
    match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(()),
            _ => {
                let message = format!("'{path}' is neither a file nor a directory");
                return Err(UfsError::new(UfsErrorKind::Unsupported, message));
            }
        },
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(fail(errno)),
    }
    let side = side_path(path);
    let side_parent = match root.make_parent(&side) {
        Ok(fd) => fd,
        Err(Blocked::Failed(error)) if error.kind == UfsErrorKind::NotFound => return Ok(()),
        Err(Blocked::Failed(error)) => return Err(error),
        Err(Blocked::File(_)) => return Err(in_the_way(path)),
    };
    let side_name = split(&side).1;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match openat(&side_parent, side_name, flags, Mode::empty()) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(fail(errno)),
    }
    match renameat(&parent, name, &side_parent, side_name) {
        Ok(()) => {
            sync_directory(&side_parent).map_err(fail)?;
            sync_directory(&parent).map_err(fail)
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(fail(errno)),
    }
}

/// Removes an object wherever it lies; not being there is success.
///
/// `grave`: a file of a session's folder that the object is renamed to, which fails once
/// that folder is gone. None: nobody else changes the directory.
pub(super) fn remove(root: &Root, key: &str, grave: Option<&StagedFile>) -> Result<(), UfsError> {
    let side = side_path(key);
    let plain = plain_path(key);
    // The side path again at the end: a file may have been moved there meanwhile.
    for path in [Some(side.as_str()), plain, plain.and(Some(side.as_str()))]
        .into_iter()
        .flatten()
    {
        remove_at(root, path, grave).map_err(|e| failed("remove", key, e))?;
    }
    Ok(())
}

/// Removes the file at `path`, syncs and removes directories left empty.
fn remove_at(root: &Root, path: &str, grave: Option<&StagedFile>) -> Result<(), Errno> {
    let (parent_path, name) = split(path);
    let parent = match root.open_directory(parent_path) {
        Ok(parent) => parent,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::XDEV | Errno::LOOP) => {
            return Ok(());
        }
        Err(errno) => return Err(errno),
    };
    match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if !is_object(root, path, &stat) => return Ok(()),
        Ok(_) => {}
        Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let taken = match grave {
        Some(grave) => bury(&parent, name, grave),
        None => unlinkat(&parent, name, AtFlags::empty()),
    };
    match taken {
        Ok(()) => {}
        // A directory took its place.
        Err(Errno::ISDIR | Errno::NOTDIR) => return Ok(()),
        Err(Errno::NOENT) if grave.is_none_or(StagedFile::exists) => return Ok(()),
        Err(Errno::NOENT) => return Err(Errno::STALE),
        Err(errno) => return Err(errno),
    }
    sync_directory(&parent)?;
    root.prune_above(path);
    Ok(())
}

/// Renames an entry over a file of ours, which is there so that no directory can be
/// moved by it.
fn bury(parent: &OwnedFd, name: &str, grave: &StagedFile) -> Result<(), Errno> {
    match renameat(parent, name, grave.staging.folder(), &*grave.name) {
        // Below another mount: nothing can be published there.
        Err(Errno::XDEV) => unlinkat(parent, name, AtFlags::empty()),
        done => done,
    }
}

/// Whether an entry is shown as an object: a regular file, or a link to one.
fn is_object(root: &Root, path: &str, stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => true,
        FileType::Symlink => matches!(open_regular(root, path), Ok(Some(_))),
        _ => false,
    }
}
