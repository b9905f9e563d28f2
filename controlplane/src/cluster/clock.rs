//! The clock leases are counted by: it runs on while the machine sleeps.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine was started (`CLOCK_BOOTTIME`, see `clock_gettime(2)`): a
/// worker that slept must find its lease over.
#[must_use]
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Where a cluster takes the time from; tests turn it.
#[derive(Clone)]
pub(super) struct LeaseClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl LeaseClock {
    /// The machine's, see [`boottime`].
    pub(super) fn boottime() -> Self {
        Self(Arc::new(boottime))
    }

    /// Another one.
    #[cfg(test)]
    pub(super) fn of(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for LeaseClock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "LeaseClock({:?})", self.now())
    }
}
