//! Opens a store: library, network thread, cluster file. Waits for no server.

use std::path::PathBuf;
use std::time::Duration;

use foundationdb::options::DatabaseOption;
use foundationdb::{Database, FdbError};

use crate::keys::KeyPrefix;
use crate::network::{self, NetworkError};
use crate::store::FoundationStore;

/// Longest a transaction of the client library lives, from its creation to the
/// answer to its commit; without it calls would wait for ever for a cluster that
/// is away.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The client library, `libfdb_c.so` of version 7.3 or newer.
    pub client_library: PathBuf,
    /// The cluster file. Must be writable: the library keeps the coordinators in
    /// it up to date.
    pub cluster_file: PathBuf,
    /// What all keys begin with.
    pub key_prefix: KeyPrefix,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The library does not work.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The cluster file cannot be read.
    #[error("the FoundationDB cluster file {path} cannot be read: {source}")]
    ClusterFile {
        /// As it was given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The library refuses the database.
    #[error("FoundationDB with cluster file {path}: {reason} ({code})")]
    Database {
        /// The cluster file.
        path: PathBuf,
        /// What the library said.
        reason: &'static str,
        /// Its error code.
        code: i32,
    },
    /// The path of the cluster file is not UTF-8.
    #[error("the path of the FoundationDB cluster file {0} is not UTF-8")]
    Path(PathBuf),
}

impl FoundationStore {
    /// Opens the store. The first in a process decides on the client library.
    ///
    /// # Errors
    /// See [`OpenError`]. That no server answers is no error yet: see
    /// [`FoundationStore::ping`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let path = &options.cluster_file;
        // The library says much less about why.
        std::fs::File::open(path).map_err(|source| OpenError::ClusterFile {
            path: path.clone(),
            source,
        })?;
        let text = path.to_str().ok_or_else(|| OpenError::Path(path.clone()))?;
        network::start(&options.client_library)?;
        let refused = |error: FdbError| OpenError::Database {
            path: path.clone(),
            reason: error.message(),
            code: error.code(),
        };
        let database = Database::from_path(text).map_err(refused)?;
        let timeout_ms = i32::try_from(TRANSACTION_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
        database
            .set_option(DatabaseOption::TransactionTimeout(timeout_ms))
            .map_err(refused)?;
        Ok(Self::new(database, options.key_prefix.clone()))
    }
}
