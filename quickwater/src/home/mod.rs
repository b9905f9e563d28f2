//! The directory of a node: its lock, format, credentials, token and run file.
//!
//! Absent on purpose: what is inside `store`, `metadata` and `ufs`; those rooms
//! guard their own.

pub(crate) mod credentials;
mod files;
mod last_start;
mod run;
mod secret;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

pub(crate) use credentials::Credentials;
pub(crate) use last_start::{LastStart, Verb};
pub(crate) use run::{RunFile, state_of};
pub(crate) use secret::Secret;

/// Version of the layout of the directory.
const FORMAT: &str = "quickwater-dir 1";
/// Largest small text file we read back, bytes.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;
/// What to do about a token that the service cannot take.
pub(crate) const TOKEN_ADVICE: &str = "put 32 to 1024 visible ASCII characters there (`openssl rand -hex 32`) and restart; a file that is mounted there (on Kubernetes that of control.adminTokenSecret) is to be mended where it comes from, one of the service's own may be removed: the next start makes a new one";
/// Random bytes behind an admin token.
const TOKEN_BYTES: usize = 32;

/// An opened, locked directory. The lock goes with the value (or the process).
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Home {
    /// Makes the directory if needed, locks it and checks its format.
    ///
    /// # Errors
    /// It cannot be made or written, another process holds it, or it was written
    /// by another version.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let show = dir.display();
        std::fs::create_dir_all(dir).with_context(|| {
            format!(
                "cannot make the directory {show}; choose another with --dir or fix its permissions"
            )
        })?;
        let lock = lock(dir)?;
        check_format(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the metadata lives.
    pub(crate) fn metadata_dir(&self) -> PathBuf {
        self.dir.join("metadata")
    }

    /// The admin token, made at the first call.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn admin_token(&self) -> Result<Secret> {
        let path = token_path(&self.dir);
        if !path.exists() {
            let mut bytes = [0u8; TOKEN_BYTES];
            getrandom::fill(&mut bytes).context("no randomness from the operating system")?;
            files::write_private(&path, &format!("{}\n", hex::encode(bytes)))?;
        }
        read_token(&path)
    }
}

/// Writes a small file whole and durably, readable by the owner only.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_note(path: &Path, text: &str) -> Result<()> {
    files::write_private(path, &format!("{text}\n"))
}

/// Writes a file whole and durably, readable by the owner only.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    files::write_atomic(path, bytes, 0o600)
}

/// Where the admin token of a directory is.
pub(crate) fn token_path(dir: &Path) -> PathBuf {
    dir.join("admin-token")
}

/// The admin token of a directory, for those who call its service. `otherwise`: how else the
/// caller takes one, to be told when the file is not for this user.
///
/// # Errors
/// It cannot be read; the text says what to do.
pub(crate) fn token_of(dir: &Path, otherwise: &str) -> Result<Secret> {
    let error = match read_token(&token_path(dir)) {
        Ok(token) => return Ok(token),
        Err(error) => error,
    };
    let kind = error.root_cause().downcast_ref::<io::Error>();
    let advice = match kind.map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => {
            "the first start of `quickwater serve` or `control` there makes it, and the next one if it was removed; a worker has none, its control plane has".to_owned()
        }
        Some(io::ErrorKind::PermissionDenied) => {
            format!("it is for the service's user: run this as that user (sudo -u USER) or as root{otherwise}")
        }
        _ => return Err(error),
    };
    Err(anyhow!("{error:#}; {advice}"))
}

/// Reads an admin token file.
///
/// # Errors
/// It cannot be read or is empty.
pub(crate) fn read_token(path: &Path) -> Result<Secret> {
    let text = files::read_small(path)
        .with_context(|| format!("cannot read the admin token {}", path.display()))?;
    let token = text.trim();
    if token.is_empty() {
        bail!(
            "the admin token file {} is empty; {TOKEN_ADVICE}",
            path.display()
        );
    }
    Ok(Secret::new(token))
}

/// Takes the lock file, which holds the pid of its owner.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| {
            format!("cannot write in the directory {}; choose another with --dir or fix its permissions", dir.display())
        })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The pid is a courtesy; an unreadable file changes nothing.
            let _ = (&mut file).take(32).read_to_string(&mut pid);
            bail!(
                "the directory {} is in use by another quickwater process (pid {}); stop it or choose another --dir",
                dir.display(),
                pid.trim()
            );
        }
        Err(std::fs::TryLockError::Error(e)) => {
            return Err(e).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn check_format(dir: &Path) -> Result<()> {
    let path = dir.join("FORMAT");
    if !path.exists() {
        return files::write_atomic(&path, format!("{FORMAT}\n").as_bytes(), 0o644);
    }
    let found =
        files::read_small(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if found.trim() != FORMAT {
        bail!(
            "{} says format '{}', this program reads '{FORMAT}'; use the version that wrote the directory, or an empty one",
            path.display(),
            found.trim().escape_debug()
        );
    }
    Ok(())
}
