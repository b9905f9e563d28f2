//! Ctrl-C and SIGTERM: the first ends the run with a report, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::BenchError;

/// Exit code after a second signal (128 + SIGINT).
const EXIT_CODE: i32 = 130;

/// Whether the run is to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by the first signal.
    pub(super) fn on_signals() -> Result<Self, BenchError> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the flag is not set yet when the first signal asks.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                EXIT_CODE,
                Arc::clone(&stop.0),
            )
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.0)))
            .map_err(BenchError::io("handling signals"))?;
        }
        Ok(stop)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }
}
