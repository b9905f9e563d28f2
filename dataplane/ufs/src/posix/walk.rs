//! Listing one tree in key order, without recursion and without open handles.
//!
//! A frame per directory on the way down holds its names, sorted by what they
//! add to the key. Of a directory with very many names a window is held at a
//! time and the directory is read again for the next one, so memory is bounded.

use std::sync::atomic::AtomicU64;

use quickwater_proto::{ETag, KEY_BYTES_MAX, UfsEntry, UfsIdentity};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, statat};
use rustix::io::Errno;

use super::attributes;
use super::keys::{RESERVED, SIDE_ROOT, Tree, decode, plain_directory, side_directory};
use super::objects::is_placeholder;
use super::probe::holds_a_key;
use super::root::Root;
use crate::stats::count;

/// Names of one directory held at a time.
const WINDOW: usize = if cfg!(test) { 16 } else { 200_000 };
/// Largest attribute record read in a listing; larger ones give no ETag.
const RECORD_BYTES: usize = 8 << 10;

/// What is listed.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) prefix: String,
    pub(super) start_after: String,
    pub(super) recursive: bool,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// What it adds to the key.
    pub(super) part: Vec<u8>,
    pub(super) name: String,
    pub(super) directory: bool,
}

#[derive(Debug)]
struct Frame {
    /// Path below the root of the mount.
    path: String,
    /// What the key begins with below it.
    key: Vec<u8>,
    /// In reverse order.
    entries: Vec<Entry>,
    /// More names follow the window.
    more: bool,
    /// The last part taken: where the next window begins.
    last: Vec<u8>,
    /// Inodes, to see a link that leads to a directory above itself.
    inode: (u64, u64),
}

/// A listing of one tree in progress.
#[derive(Debug)]
pub(super) struct Walk {
    tree: Tree,
    query: Query,
    stack: Vec<Frame>,
    /// Handle of the directory last used, by path.
    open: Option<(String, OwnedFd)>,
    begun: bool,
}

impl Walk {
    pub(super) fn new(tree: Tree, query: Query) -> Self {
        Self {
            tree,
            query,
            stack: Vec::new(),
            open: None,
            begun: false,
        }
    }

    /// The next entry in key order.
    pub(super) fn next(
        &mut self,
        root: &Root,
        skipped: &AtomicU64,
    ) -> Result<Option<UfsEntry>, Errno> {
        if !self.begun {
            self.begin(root, skipped)?;
            self.begun = true;
        }
        while let Some(frame) = self.stack.last_mut() {
            let Some(entry) = frame.entries.pop() else {
                if frame.more {
                    self.refill(root, skipped)?;
                } else {
                    self.stack.pop();
                }
                continue;
            };
            frame.last.clone_from(&entry.part);
            if let Some(found) = self.visit(root, entry, skipped)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Goes straight down to the directory the prefix names.
    fn begin(&mut self, root: &Root, skipped: &AtomicU64) -> Result<(), Errno> {
        let mut path = match self.tree {
            Tree::Plain => String::new(),
            Tree::Side => SIDE_ROOT.to_owned(),
        };
        let prefix = self.query.prefix.clone().into_bytes();
        let mut covered = 0;
        loop {
            let down = match self.tree {
                Tree::Plain => plain_directory(&prefix[covered..]),
                Tree::Side => side_directory(&prefix[covered..]),
            };
            let Some((name, bytes)) = down else { break };
            let odd = name.is_empty() || name == "." || name == ".." || name.contains('\0');
            if self.tree == Tree::Plain && (odd || (path.is_empty() && name == RESERVED)) {
                return Ok(());
            }
            path = join(&path, &name);
            covered += bytes;
        }
        self.push(root, path, prefix[..covered].to_vec(), skipped)
    }

    fn push(
        &mut self,
        root: &Root,
        path: String,
        key: Vec<u8>,
        skipped: &AtomicU64,
    ) -> Result<(), Errno> {
        let fd = match self.directory(root, &path) {
            Ok(fd) => fd,
            // Gone meanwhile, a file, or a link that leads out: not listed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG) => {
                return Ok(());
            }
            Err(errno) => return Err(errno),
        };
        let stat = fstat(fd)?;
        let inode = (stat.st_dev, stat.st_ino);
        if self.stack.iter().any(|f| f.inode == inode) {
            return Ok(());
        }
        self.stack.push(Frame {
            path,
            key,
            entries: Vec::new(),
            more: true,
            last: Vec::new(),
            inode,
        });
        self.refill(root, skipped)
    }

    /// Reads the next window of names of the topmost directory.
    fn refill(&mut self, root: &Root, skipped: &AtomicU64) -> Result<(), Errno> {
        let Some(frame) = self.stack.last() else {
            return Ok(());
        };
        let path = frame.path.clone();
        let first = frame.last.is_empty();
        let fd = match self.directory(root, &path) {
            Ok(fd) => Dir::read_from(fd)?,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.stack.pop();
                return Ok(());
            }
            Err(errno) => return Err(errno),
        };
        let mut entries = Vec::new();
        let mut more = false;
        for found in fd {
            let found = found?;
            let name = found.file_name().to_bytes();
            if name == b"." || name == b".." || (path.is_empty() && name == RESERVED.as_bytes()) {
                continue;
            }
            let Some(entry) = entry(self.tree, root, &path, name, found.file_type())? else {
                count(skipped, u64::from(first));
                continue;
            };
            if self.wanted(&entry) {
                entries.push(entry);
            }
            if entries.len() >= 2 * WINDOW {
                keep_first(&mut entries);
                more = true;
            }
        }
        if more {
            // What came after the last cut may lie behind names that were cut off.
            keep_first(&mut entries);
        }
        entries.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(frame) = self.stack.last_mut() {
            frame.entries = entries;
            frame.more = more;
        }
        Ok(())
    }

    /// Whether an entry of the topmost directory lies in the window to come and
    /// may hold keys that are asked for.
    fn wanted(&self, entry: &Entry) -> bool {
        let Some(frame) = self.stack.last() else {
            return false;
        };
        if entry.part <= frame.last && !frame.last.is_empty() {
            return false;
        }
        let mut key = frame.key.clone();
        key.extend(&entry.part);
        let prefix = self.query.prefix.as_bytes();
        let fits = key.starts_with(prefix) || (entry.directory && prefix.starts_with(&key));
        let after = self.query.start_after.as_bytes();
        let late = key.as_slice() > after || (entry.directory && after.starts_with(&key));
        fits && late && key.len() <= KEY_BYTES_MAX
    }

    /// Turns an entry into a line of the listing, or goes down.
    fn visit(
        &mut self,
        root: &Root,
        entry: Entry,
        skipped: &AtomicU64,
    ) -> Result<Option<UfsEntry>, Errno> {
        let Some(frame) = self.stack.last() else {
            return Ok(None);
        };
        let path = join(&frame.path, &entry.name);
        let mut key = frame.key.clone();
        key.extend(&entry.part);
        if !entry.directory {
            return self.object(root, &entry.name, key, skipped);
        }
        let below_prefix = key.len() > self.query.prefix.len() && key.ends_with(b"/");
        if self.query.recursive || !below_prefix {
            self.push(root, path, key, skipped)?;
            return Ok(None);
        }
        let Ok(prefix) = String::from_utf8(key) else {
            return Ok(None);
        };
        let holds = holds_a_key(root, self.tree, path, &prefix, &self.query.start_after)?;
        Ok(holds.then_some(UfsEntry::Prefix(prefix)))
    }

    fn object(
        &mut self,
        root: &Root,
        name: &str,
        key: Vec<u8>,
        skipped: &AtomicU64,
    ) -> Result<Option<UfsEntry>, Errno> {
        let Ok(key) = String::from_utf8(key) else {
            count(skipped, 1);
            return Ok(None);
        };
        let Some(frame) = self.stack.last() else {
            return Ok(None);
        };
        let path = frame.path.clone();
        let Some(stat) = self.stat(root, &path, name)? else {
            return Ok(None);
        };
        if self.tree == Tree::Side && is_placeholder(&stat) {
            return Ok(None);
        }
        let identity = attributes::identity(&stat);
        let etag = self.etag(root, &path, name, &identity);
        Ok(Some(UfsEntry::Object {
            key,
            identity,
            etag: Some(etag),
        }))
    }

    /// `None`: it vanished, or is no file any more.
    fn stat(&mut self, root: &Root, path: &str, name: &str) -> Result<Option<Stat>, Errno> {
        let gone = |errno| matches!(errno, Errno::NOENT | Errno::NOTDIR);
        let folder = match self.directory(root, path) {
            Ok(folder) => folder,
            Err(errno) if gone(errno) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let mut stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) if gone(errno) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            match root.open_at(&join(path, name), OFlags::PATH, Mode::empty()) {
                Ok(fd) => stat = fstat(fd)?,
                Err(_) => return Ok(None),
            }
        }
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(regular.then_some(stat))
    }

    /// The ETag a HEAD would show. The attribute is read by way of `/proc`, which
    /// is half the cost of opening the file; without `/proc` (or for a link) the
    /// file is opened.
    fn etag(&mut self, root: &Root, path: &str, name: &str, identity: &UfsIdentity) -> ETag {
        let mut record = Vec::with_capacity(RECORD_BYTES);
        if let Ok(folder) = self.directory(root, path) {
            let fd = std::os::fd::AsRawFd::as_raw_fd(folder);
            let by_proc = format!("/proc/self/fd/{fd}/{name}");
            let spare = rustix::buffer::spare_capacity(&mut record);
            let read = rustix::fs::lgetxattr(&*by_proc, attributes::NAME, spare);
            if matches!(
                read,
                Err(Errno::NOENT | Errno::PERM | Errno::ACCESS | Errno::RANGE)
            ) {
                return self.etag_of_open(root, &join(path, name), identity);
            }
        }
        attributes::decode(&record, identity)
            .map_or_else(|| attributes::opaque_etag(identity), |known| known.etag)
    }

    fn etag_of_open(&self, root: &Root, path: &str, identity: &UfsIdentity) -> ETag {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let known = root
            .open_at(path, flags, Mode::empty())
            .and_then(|fd| attributes::load(&fd, identity));
        match known {
            Ok(Some(known)) => known.etag,
            Ok(None) | Err(_) => attributes::opaque_etag(identity),
        }
    }

    fn directory(&mut self, root: &Root, path: &str) -> Result<&OwnedFd, Errno> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            self.open = Some((path.to_owned(), root.open_directory(path)?));
        }
        self.open.as_ref().map(|(_, fd)| fd).ok_or(Errno::NOENT)
    }
}

/// Keeps the first names of a window that has become too large.
fn keep_first(entries: &mut Vec<Entry>) {
    if entries.len() > WINDOW {
        entries.select_nth_unstable(WINDOW);
        entries.truncate(WINDOW);
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

/// A name as an entry; `None`: not a key's, or neither file nor directory.
pub(super) fn entry(
    tree: Tree,
    root: &Root,
    path: &str,
    name: &[u8],
    kind: FileType,
) -> Result<Option<Entry>, Errno> {
    let Ok(text) = str::from_utf8(name) else {
        return Ok(None);
    };
    let directory = match kind {
        FileType::RegularFile => false,
        FileType::Directory => true,
        FileType::Unknown | FileType::Symlink => match resolve(root, path, text)? {
            Some(directory) => directory,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(decode(tree, name, directory).map(|part| Entry {
        part,
        name: text.to_owned(),
        directory,
    }))
}

/// Whether what a name leads to is a directory; `None`: nothing to list.
fn resolve(root: &Root, path: &str, name: &str) -> Result<Option<bool>, Errno> {
    let opened = root.open_at(&join(path, name), OFlags::PATH, Mode::empty());
    let stat = match opened {
        Ok(fd) => fstat(fd)?,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::ACCESS) => {
            return Ok(None);
        }
        Err(errno) => return Err(errno),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(false),
        FileType::Directory => Some(true),
        _ => None,
    })
}
