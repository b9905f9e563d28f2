//! The store's clock: the machine's, moved on by tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quickwater_controlplane::store::{Clock, MonotonicClock};

/// Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestClock {
    machine: MonotonicClock,
    ahead_ms: Arc<AtomicU64>,
}

impl TestClock {
    pub(crate) fn advance(&self, by_ms: u64) {
        self.ahead_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        self.machine.now() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }
}
