//! Loads the client library, once per process.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::forward::{Forwards, LOADED};

/// Why the client library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No shared library, or one that is missing something itself.
    #[error("cannot load the FoundationDB client library {path}: {reason}")]
    Library {
        /// As it was given.
        path: PathBuf,
        /// What the dynamic linker said.
        reason: String,
    },
    /// It is not a client library, or of a version too old.
    #[error("the FoundationDB client library {path} lacks {symbol}")]
    Symbol {
        /// As it was given.
        path: PathBuf,
        /// The function that is missing.
        symbol: &'static str,
    },
    /// A process can have one.
    #[error("the FoundationDB client library {loaded} is loaded already, not {path}")]
    Another {
        /// The one that is loaded.
        loaded: PathBuf,
        /// The one asked for.
        path: PathBuf,
    },
}

/// The path of the library that is loaded.
static PATH: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Loads the library at `path`; again with the same path does nothing. A name
/// without a slash is looked up as the dynamic linker does. Never unloaded: the
/// library's threads may run until the process ends.
///
/// # Errors
/// See [`LoadError`]; nothing is loaded then.
pub fn load(path: &Path) -> Result<(), LoadError> {
    let mut loaded = PATH.lock().unwrap_or_else(PoisonError::into_inner);
    match loaded.as_ref() {
        Some(before) if before == path => return Ok(()),
        Some(before) => {
            return Err(LoadError::Another {
                loaded: before.clone(),
                path: path.to_path_buf(),
            });
        }
        None => {}
    }
    let forwards = Forwards::open(path)?;
    // Under the lock and only once: it cannot be set already.
    LOADED.get_or_init(|| forwards);
    *loaded = Some(path.to_path_buf());
    Ok(())
}

/// Whether a library is loaded.
#[must_use]
pub fn is_loaded() -> bool {
    LOADED.get().is_some()
}
