//! Telling shards to stop, from any thread. Absent: what stopping means.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Asks shards to stop, from any thread. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    inner: Arc<StopInner>,
}

#[derive(Debug, Default)]
struct StopInner {
    requested: AtomicBool,
    /// One per task that waits, so a few per shard.
    wakers: Mutex<Vec<Waker>>,
}

impl Stop {
    /// Not requested yet.
    #[must_use]
    pub fn new() -> Self {
        Stop::default()
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
