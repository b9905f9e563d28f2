//! The client library's network thread: started once, stopped when the process
//! exits. Absent: databases and transactions.
#![expect(
    unsafe_code,
    reason = "the library demands that its thread is stopped before the process exits"
)]

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use foundationdb::FdbError;
use foundationdb::api::{FdbApiBuilder, NetworkAutoStop};
use foundationdb_sys::{FDB_API_VERSION, LoadError, fdb_get_max_api_version, load};

/// Why there is no network thread.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no client library, or it is no such thing.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The library is older than this program.
    #[error(
        "the FoundationDB client library supports API versions up to {supported}, not {FDB_API_VERSION} (7.3)"
    )]
    ApiVersion {
        /// The newest it has.
        supported: i32,
    },
    /// The library does not start.
    #[error("the FoundationDB client library does not start: {reason} ({code})")]
    Start {
        /// What the library said.
        reason: &'static str,
        /// Its error code.
        code: i32,
    },
    /// It did not start before, and can be tried once only.
    #[error("the FoundationDB client library did not start; only a new process can try again")]
    FailedBefore,
}

enum Network {
    NotStarted,
    Running(NetworkAutoStop),
    Over,
}

static NETWORK: Mutex<Network> = Mutex::new(Network::NotStarted);

/// Loads the library and starts its thread, unless that was done.
pub(crate) fn start(client_library: &Path) -> Result<(), NetworkError> {
    let mut network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    load(client_library)?;
    match *network {
        Network::Running(_) => return Ok(()),
        Network::Over => return Err(NetworkError::FailedBefore),
        Network::NotStarted => {}
    }
    // SAFETY: asks for a number; a library is loaded.
    let supported = unsafe { fdb_get_max_api_version() };
    if supported < i32::try_from(FDB_API_VERSION).unwrap_or(i32::MAX) {
        return Err(NetworkError::ApiVersion { supported });
    }
    *network = Network::Over;
    let builder = FdbApiBuilder::default().build().map_err(start_error)?;
    // SAFETY: `stop` runs when the process exits, whoever calls `exit`.
    let running = unsafe {
        let running = builder.boot().map_err(start_error)?;
        libc::atexit(stop);
        running
    };
    *network = Network::Running(running);
    Ok(())
}

/// Stops the thread and waits for its end.
extern "C" fn stop() {
    let mut network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Network::Running(running) = std::mem::replace(&mut *network, Network::Over) {
        drop(running);
    }
}

fn start_error(error: FdbError) -> NetworkError {
    NetworkError::Start {
        reason: error.message(),
        code: error.code(),
    }
}
