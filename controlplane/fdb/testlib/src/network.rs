//! The network thread: whoever calls `fdb_run_network`. All answers come from it.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

const CLIENT_INVALID_OPERATION: i32 = 2000;
const NETWORK_NOT_SETUP: i32 = 2008;
const NETWORK_ALREADY_SETUP: i32 = 2009;
const PLATFORM_ERROR: i32 = 1500;

struct Network {
    /// Until it runs.
    runtime: Option<Runtime>,
    handle: Handle,
    stop: watch::Sender<bool>,
}

static NETWORK: Mutex<Option<Network>> = Mutex::new(None);

pub(crate) fn set_up() -> Result<(), i32> {
    let mut network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    if network.is_some() {
        return Err(NETWORK_ALREADY_SETUP);
    }
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|_| PLATFORM_ERROR)?;
    *network = Some(Network {
        handle: runtime.handle().clone(),
        runtime: Some(runtime),
        stop: watch::channel(false).0,
    });
    Ok(())
}

/// Returns when it is stopped.
pub(crate) fn run() -> Result<(), i32> {
    let (runtime, mut stopped) = {
        let mut network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
        let network = network.as_mut().ok_or(NETWORK_NOT_SETUP)?;
        let runtime = network.runtime.take().ok_or(CLIENT_INVALID_OPERATION)?;
        (runtime, network.stop.subscribe())
    };
    let ended = runtime.block_on(stopped.wait_for(|stopped| *stopped));
    ended.map(drop).map_err(|_| CLIENT_INVALID_OPERATION)
}

pub(crate) fn stop() -> Result<(), i32> {
    let network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    let network = network.as_ref().ok_or(NETWORK_NOT_SETUP)?;
    network.stop.send_replace(true);
    Ok(())
}

/// Runs `work` on the network thread. Nothing comes of it when there is none, as
/// with the real library.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    let network = NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(network) = network.as_ref() {
        network.handle.spawn(work);
    }
}
