//! Programs and maps that outlive who loaded them, in a BPF file system: loaded by a
//! process with the rights for it, used by a worker that has none.
//!
//! Below the root is a directory named after the programs of the binary, so that nobody
//! takes those of another version for its own, and in it one for each of them. All are for
//! the owner and the group of who loaded them. A worker locks the directory that it uses:
//! the counters are for one process.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, fstatfs};

use crate::{Unavailable, object};

/// Longest wait for another process that looks at a directory, or is about to end.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);
const CLAIM_PAUSE: Duration = Duration::from_millis(20);
/// BPF_FS_MAGIC of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o660;

/// A directory in a BPF file system.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

/// What is pinned in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// `balance-SHARDSxDOORS` or `connect`.
    pub name: String,
    /// Name of the programs it is from.
    pub version: String,
    /// Whether these are the programs of this binary.
    pub is_own: bool,
    /// Whether a process uses it.
    pub is_used: bool,
    /// What it is for, if that is told: service and local address.
    pub notes: Vec<(String, String)>,
}

/// The use of a pinned directory, until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Claim(#[expect(dead_code, reason = "the lock lies with it")] File);

impl Pins {
    /// Below this directory; nothing is done.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Pins {
            root: root.to_owned(),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directories of programs that were loaded for workers; beside them are those that
    /// workers keep themselves ([`crate::pins_of`]).
    fn versions(&self) -> io::Result<Vec<String>> {
        let mut all = directories(&self.root)?;
        all.retain(|name| !name.starts_with(crate::forwarding::PINS_PREFIX));
        Ok(all)
    }

    /// All that is pinned, by version and name; empty if the directory is not there.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Pinned>> {
        let own = object::version();
        let mut all = Vec::new();
        for version in self.versions()? {
            for name in directories(&self.root.join(&version))? {
                let path = self.root.join(&version).join(&name);
                all.push(Pinned {
                    is_own: own.as_ref() == Some(&version),
                    is_used: claim(&path).as_ref().is_err_and(is_taken),
                    notes: notes(&path)?,
                    version: version.clone(),
                    name,
                });
            }
        }
        all.sort_by(|one, other| (&one.version, &one.name).cmp(&(&other.version, &other.name)));
        Ok(all)
    }

    /// Removes all that is listed, of whatever version: what hangs on cgroups is detached
    /// by that, what hangs on listeners goes with these.
    ///
    /// # Errors
    /// A process uses some of it: nothing is removed. Or a file cannot be removed.
    pub fn clear(&self) -> Result<(), Unavailable> {
        let refused = Unavailable::refused("removing what is pinned");
        let all = self.list().map_err(&refused)?;
        if let Some(used) = all.iter().find(|pinned| pinned.is_used) {
            return Err(Unavailable::Used {
                name: used.name.clone(),
            });
        }
        for version in self.versions().map_err(&refused)? {
            remove_all(&self.root.join(version)).map_err(&refused)?;
        }
        Ok(())
    }

    /// A new, empty directory for what this binary's programs are used for.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf, Unavailable> {
        let version = object::version().ok_or(Unavailable::NotBuilt)?;
        let made = || -> io::Result<PathBuf> {
            make_directory(&self.root)?;
            require_bpf(&self.root)?;
            make_directory(&self.root.join(&version))?;
            let own = self.root.join(&version).join(name);
            make_directory(&own)?;
            Ok(own)
        };
        made().map_err(Unavailable::refused(
            "making a directory of pinned programs",
        ))
    }

    /// The directory of this binary's programs with this name, for the caller alone. Waits
    /// two seconds at most.
    pub(crate) fn claim(&self, name: &str) -> Result<(PathBuf, Claim), Unavailable> {
        let version = object::version().ok_or(Unavailable::NotBuilt)?;
        let own = self.root.join(version).join(name);
        let until = Instant::now() + CLAIM_TIMEOUT;
        let mut claimed = claim(&own);
        while claimed.as_ref().is_err_and(is_taken) && Instant::now() < until {
            std::thread::sleep(CLAIM_PAUSE);
            claimed = claim(&own);
        }
        match claimed {
            Ok(claim) => Ok((own, claim)),
            Err(error) if is_taken(&error) => Err(Unavailable::Used { name: name.into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.missing(name)),
            // Who may not even look into the directory has nothing to do with it.
            Err(error) if directories(&self.root).is_err() => Err(Unavailable::NotPinned {
                found: error.to_string(),
            }),
            Err(error) => Err(Unavailable::refused("opening what is pinned")(error)),
        }
    }

    /// What there is instead.
    fn missing(&self, name: &str) -> Unavailable {
        let root = self.root.display();
        let found = match self.list() {
            Ok(all) if all.is_empty() => format!("nothing is pinned in {root}"),
            Ok(all) => match all.iter().find(|pinned| pinned.is_own) {
                Some(other) => format!("{root} has {}, not {name}", other.name),
                None => format!("what is pinned in {root} is of another version of Quickwater"),
            },
            Err(error) => format!("{root}: {error}"),
        };
        Unavailable::NotPinned { found }
    }
}

/// Gives the group what the owner has, once all of the directory is pinned.
pub(crate) fn share(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::set_permissions(entry.path(), Permissions::from_mode(FILE_MODE))?;
        }
    }
    Ok(())
}

/// Keeps a word beside what is pinned: such a file system has links, and no text.
pub(crate) fn note(path: &Path, name: &str, word: &str) -> io::Result<()> {
    symlink(word, path.join(name))
}

/// A word that was kept.
pub(crate) fn noted(path: &Path, name: &str) -> io::Result<String> {
    let word = fs::read_link(path.join(name))?;
    Ok(word.to_string_lossy().into_owned())
}

fn notes(path: &Path) -> io::Result<Vec<(String, String)>> {
    let mut notes = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let word = noted(path, &name)?;
            notes.push((name, word));
        }
    }
    notes.sort();
    Ok(notes)
}

fn claim(path: &Path) -> io::Result<Claim> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    let directory = options.open(path)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(Claim(directory))
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn require_bpf(path: &Path) -> io::Result<()> {
    let kind = fstatfs(File::open(path)?)?.f_type;
    match kind as u64 & u64::from(u32::MAX) == BPF_FS_MAGIC {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{} is in no BPF file system (mount -t bpf bpf /sys/fs/bpf)",
            path.display()
        ))),
    }
}

/// Names of the directories in this one; none if it is not there.
fn directories(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// A directory of a BPF file system with all in it, which is never deep.
fn remove_all(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()? {
        match entry.file_type()?.is_dir() {
            true => remove_all(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_no_bpf_file_system_is_refused() {
        let dir = std::env::temp_dir().join(format!("quickwater-pins-{}", std::process::id()));
        let made = make_directory(&dir).and_then(|()| require_bpf(&dir));
        fs::remove_dir(&dir).unwrap();
        assert!(made.unwrap_err().to_string().contains("mount -t bpf"));
    }

    #[test]
    fn what_workers_keep_themselves_stays() {
        let root = std::env::temp_dir().join(format!("quickwater-kept-{}", std::process::id()));
        let kept = crate::pins_of(&root, "e0", 9000);
        fs::create_dir_all(kept.join("forwards")).unwrap();
        fs::create_dir_all(root.join("other-version").join("connect")).unwrap();
        let pins = Pins::below(&root);
        let names: Vec<String> = pins.list().unwrap().into_iter().map(|p| p.name).collect();
        let cleared = pins.clear();
        let left = directories(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(names, ["connect"]);
        cleared.unwrap();
        assert_eq!(left.unwrap(), ["handoff-e0-9000"]);
    }

    #[test]
    fn nothing_is_pinned_where_there_is_no_directory() {
        let pins = Pins::below(Path::new("/nonexistent/quickwater"));
        assert_eq!(pins.list().unwrap(), []);
        pins.clear().unwrap();
        let why = pins.claim("connect").map(|_| ()).unwrap_err();
        let is_calm = matches!(why, Unavailable::NotPinned { .. } | Unavailable::NotBuilt);
        assert!(is_calm, "{why}");
    }
}
