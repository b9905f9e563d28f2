//! Telling shards to stop, from any thread. Absent: what stopping means.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Requests in flight have this long at least, if the grace is not shorter.
const GRACE_LEAST: Duration = Duration::from_secs(5);

/// Asks shards to stop, from any thread. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    inner: Arc<StopInner>,
}

#[derive(Debug, Default)]
struct StopInner {
    requested: AtomicBool,
    /// Less than the longest grace by this many milliseconds.
    used_ms: AtomicU64,
    /// One per task that waits, so a few per shard.
    wakers: Mutex<Vec<Waker>>,
}

impl Stop {
    /// Not requested yet.
    #[must_use]
    pub fn new() -> Self {
        Stop::default()
    }

    /// Requests it, after this much of the grace was used otherwise.
    pub fn request_after(&self, used: Duration) {
        let used = u64::try_from(used.as_millis()).unwrap_or(u64::MAX);
        self.inner.used_ms.store(used, Ordering::Release);
        self.request();
    }

    /// What is left of a grace.
    #[must_use]
    pub fn grace_of(&self, whole: Duration) -> Duration {
        let used = Duration::from_millis(self.inner.used_ms.load(Ordering::Acquire));
        whole.saturating_sub(used).max(whole.min(GRACE_LEAST))
    }

    /// Requests it; a second time changes nothing.
    pub fn request(&self) {
        let mut wakers = self.wakers();
        self.inner.requested.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *wakers);
        drop(wakers);
        for waker in waiting {
            waker.wake();
        }
    }

    /// Whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.load(Ordering::Acquire)
    }

    /// Waits until it is requested: the one wait without a deadline.
    pub async fn requested(&self) {
        std::future::poll_fn(|context| {
            let mut wakers = self.wakers();
            if self.is_requested() {
                return Poll::Ready(());
            }
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.inner
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_before_is_taken_from_the_grace() {
        let seconds = Duration::from_secs;
        let stop = Stop::new();
        assert_eq!(stop.grace_of(seconds(25)), seconds(25));
        stop.request_after(seconds(15));
        assert!(stop.is_requested());
        assert_eq!(stop.grace_of(seconds(25)), seconds(10));
        assert_eq!(stop.grace_of(seconds(12)), seconds(5));
        assert_eq!(stop.grace_of(seconds(2)), seconds(2));
    }
}
