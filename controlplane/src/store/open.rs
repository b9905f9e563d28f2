//! Opens an embedded store by the name of its engine.

use std::path::Path;

use super::core::EmbeddedStore;
use super::directory::OpenError;
use super::fjall::FjallEngine;
use super::redb::RedbEngine;

/// Which engine keeps the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// fjall: a log-structured tree, fastest commits.
    #[default]
    Fjall,
    /// redb: a copy-on-write B-tree, one file.
    Redb,
}

impl EngineKind {
    /// The name in settings and in the store's format file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Redb => "redb",
        }
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// No engine has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no engine \"{0}\": fjall and redb are known")]
pub struct UnknownEngine(String);

impl std::str::FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        [Self::Fjall, Self::Redb]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// Memory of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Cache of blocks read from the disk, bytes.
    pub cache_bytes: u64,
    /// Rows kept in memory before fjall writes them to a file of their own,
    /// bytes; up to five of these are held. redb has none.
    pub memtable_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            memtable_bytes: 16 << 20,
        }
    }
}

/// Opens the store in `dir`, made if missing. Blocks while journals are replayed.
///
/// # Errors
/// See [`OpenError`].
pub fn open(
    kind: EngineKind,
    dir: &Path,
    options: &EngineOptions,
) -> Result<EmbeddedStore, OpenError> {
    open_at_least(kind, dir, options, 0)
}

/// The same with versions from `least` on, for rows from another store.
///
/// # Errors
/// See [`OpenError`].
pub fn open_at_least(
    kind: EngineKind,
    dir: &Path,
    options: &EngineOptions,
    least: u64,
) -> Result<EmbeddedStore, OpenError> {
    if cfg!(feature = "unsafe-no-flush") {
        tracing::error!("built with unsafe-no-flush: acknowledged data is lost with the power");
    }
    let store = match kind {
        EngineKind::Fjall => EmbeddedStore::new_at_least(FjallEngine::open(dir, options)?, least),
        EngineKind::Redb => EmbeddedStore::new_at_least(RedbEngine::open(dir, options)?, least),
    };
    store.map_err(|error| OpenError::engine(dir, error))
}
