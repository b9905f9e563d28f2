//! The directory of an embedded store: one process at a time, one format, and no
//! half-made store is ever taken for a whole one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Number of the layout below; another number is refused.
const FORMAT_VERSION: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_WORD: &str = "quickwater-metadata";
/// Longest format file that is read, bytes.
const FORMAT_BYTES_MAX: u64 = 256;
const LOCK_FILE: &str = "LOCK";
/// There from the first file of a new store until the store is whole.
const CREATING_FILE: &str = "CREATING";

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store in this one, has it open.
    #[error("{dir} is in use by another process")]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// It was made by another version or for another engine.
    #[error("{dir} holds \"{found}\", this program reads \"{expected}\"")]
    Format {
        /// The store's directory.
        dir: PathBuf,
        /// What its format file says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// The directory holds files but no store.
    #[error("{dir} is neither empty nor a metadata store (found {found})")]
    NotAStore {
        /// The directory.
        dir: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// This process may not write there, or nobody may.
    #[error("{dir} is not writable: {source}")]
    NotWritable {
        /// The store's directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another failure of the file system.
    #[error("{dir}: {source}")]
    Io {
        /// The store's directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The engine did not open what is there.
    #[error("the engine cannot open {dir}: {reason}")]
    Engine {
        /// The store's directory.
        dir: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// Committed data is damaged. Nothing was changed.
    #[error("{dir} is damaged: {reason}")]
    Damaged {
        /// The store's directory.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
}

impl OpenError {
    pub(super) fn io(dir: &Path, source: std::io::Error) -> Self {
        let dir = dir.to_path_buf();
        match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { dir, source }
            }
            ErrorKind::InvalidData => Self::Engine {
                dir,
                reason: source.to_string(),
            },
            _ => Self::Io { dir, source },
        }
    }

    pub(super) fn engine(dir: &Path, reason: impl ToString) -> Self {
        Self::Engine {
            dir: dir.to_path_buf(),
            reason: reason.to_string(),
        }
    }
}

/// A store's directory, locked until it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    format: String,
    _lock: File,
}

impl Directory {
    /// Locks the directory, made if missing, and checks that it holds a store for
    /// `engine` or nothing.
    pub(super) fn open(path: &Path, engine: &str) -> Result<Self, OpenError> {
        let format = format!("{FORMAT_WORD} {FORMAT_VERSION} {engine}");
        let io = |source| OpenError::io(path, source);
        std::fs::create_dir_all(path).map_err(io)?;
        let directory = Self {
            path: path.to_path_buf(),
            format,
            _lock: lock(path)?,
        };
        match directory.read_format()? {
            Some(found) if found == directory.format && directory.engine_path().exists() => {
                Ok(directory)
            }
            Some(found) if found == directory.format => Err(OpenError::Damaged {
                reason: format!("{} is missing", directory.engine_path().display()),
                dir: directory.path,
            }),
            Some(found) => Err(OpenError::Format {
                dir: directory.path,
                found,
                expected: directory.format,
            }),
            None => directory.begin_creation().map(|()| directory),
        }
    }

    /// Where the engine keeps its files.
    pub(super) fn engine_path(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The store is whole: from now on it is never wiped.
    pub(super) fn finish_creation(&self) -> Result<(), OpenError> {
        let io = |source| OpenError::io(&self.path, source);
        if self.read_format()?.is_some() {
            return Ok(());
        }
        let temporary = self.path.join("FORMAT.new");
        let mut file = File::create(&temporary).map_err(io)?;
        file.write_all(format!("{}\n", self.format).as_bytes())
            .map_err(io)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&temporary, self.path.join(FORMAT_FILE)).map_err(io)?;
        self.sync()?;
        remove(&self.path.join(CREATING_FILE)).map_err(io)?;
        self.sync()
    }

    fn read_format(&self) -> Result<Option<String>, OpenError> {
        let path = self.path.join(FORMAT_FILE);
        let io = |source| OpenError::io(&self.path, source);
        match File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                let mut limited = std::io::Read::take(file, FORMAT_BYTES_MAX);
                std::io::Read::read_to_end(&mut limited, &mut bytes).map_err(io)?;
                Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(error)),
        }
    }

    /// Makes room for a new store: removes what an interrupted creation left, and
    /// refuses files of anybody else.
    fn begin_creation(&self) -> Result<(), OpenError> {
        let io = |source| OpenError::io(&self.path, source);
        let creating = self.path.join(CREATING_FILE);
        if creating.try_exists().map_err(io)? {
            remove(&self.engine_path()).map_err(io)?;
        } else if let Some(found) = self.foreign_file().map_err(io)? {
            return Err(OpenError::NotAStore {
                dir: self.path.clone(),
                found,
            });
        }
        File::create(&creating)
            .and_then(|file| file.sync_all())
            .map_err(io)?;
        self.sync()
    }

    fn foreign_file(&self) -> std::io::Result<Option<String>> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if name != LOCK_FILE {
                return Ok(Some(name.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }

    fn sync(&self) -> Result<(), OpenError> {
        let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
        synced.map_err(|source| OpenError::io(&self.path, source))
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::io(path, source);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = options.open(path.join(LOCK_FILE)).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            dir: path.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Removes a file or a directory, if there.
fn remove(path: &Path) -> std::io::Result<()> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Directory, OpenError> {
        Directory::open(path, "fjall")
    }

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path()).expect("new");
        assert!(matches!(open(dir.path()), Err(OpenError::InUse { .. })));
        drop(first);
        open(dir.path()).expect("free again");
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        open(dir.path())
            .expect("new")
            .finish_creation()
            .expect("whole");
        let missing = open(dir.path()).expect_err("no data");
        assert!(matches!(missing, OpenError::Damaged { .. }), "{missing}");
        std::fs::create_dir(dir.path().join("data")).expect("a store");
        open(dir.path()).expect("the same");
        let other = Directory::open(dir.path(), "redb").expect_err("another engine");
        assert!(matches!(other, OpenError::Format { .. }), "{other}");
        std::fs::write(dir.path().join(FORMAT_FILE), "quickwater-metadata 2 fjall").expect("write");
        let other = open(dir.path()).expect_err("another version");
        assert!(
            other.to_string().contains("quickwater-metadata 2 fjall"),
            "{other}"
        );
        std::fs::write(dir.path().join(FORMAT_FILE), [0xff; 4096]).expect("write");
        assert!(matches!(open(dir.path()), Err(OpenError::Format { .. })));
    }

    #[test]
    fn an_interrupted_creation_starts_again_and_a_whole_store_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        drop(open(dir.path()).expect("new"));
        std::fs::create_dir(&data).expect("half a store");
        let directory = open(dir.path()).expect("again");
        assert!(!data.exists());
        std::fs::create_dir(&data).expect("a store");
        directory.finish_creation().expect("whole");
        // As if the power had gone before the marker was removed.
        std::fs::write(dir.path().join(CREATING_FILE), "").expect("write");
        drop(directory);
        open(dir.path()).expect("whole");
        assert!(data.exists());
    }

    #[test]
    fn files_of_others_are_not_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("thesis.tex"), "years").expect("write");
        assert!(matches!(open(dir.path()), Err(OpenError::NotAStore { .. })));
        assert!(dir.path().join("thesis.tex").exists());
        let error = open(&dir.path().join("thesis.tex")).expect_err("a file");
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
    }

    #[test]
    fn not_writable_is_told_apart() {
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            let error = OpenError::io(Path::new("/x"), kind.into());
            assert!(matches!(error, OpenError::NotWritable { .. }));
        }
    }
}
