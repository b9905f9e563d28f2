//! Admission: how many bodies may stream at once on a shard, so that each is
//! sure of its buffers. Who finds no place in time is told to slow down.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_lock::{Semaphore, SemaphoreGuardArc};
use futures_util::future::{Either, select};

/// Buffers a stream may hold at once: those being read or filled, one held back,
/// and those on their way to the UFS.
pub(crate) const BUFFERS_PER_STREAM: usize = 6;
/// Bodies up to this size take small buffers and no permit, bytes.
pub(crate) const SMALL_BODY_MAX: u64 = 64 * 1024;
/// Reads ahead of a lone stream.
const DEPTH_ALONE: usize = 4;
/// Reads ahead when several streams share the disk.
const DEPTH_SHARED: usize = 2;
/// Up to this many streams a stream counts as alone.
const ALONE_MAX: usize = 2;

/// The places of a shard.
#[derive(Clone)]
pub(crate) struct Permits {
    places: Arc<Semaphore>,
    /// Requests that wait for a place.
    waiting: Rc<Cell<usize>>,
    streams: Rc<Cell<usize>>,
    waiting_max: usize,
    wait_max: Duration,
}

/// A place; given back when dropped.
pub(crate) struct Permit {
    _place: SemaphoreGuardArc,
    streams: Rc<Cell<usize>>,
}

impl Permits {
    pub(crate) fn new(large_buffers: usize, wait_max: Duration) -> Self {
        let places = (large_buffers / BUFFERS_PER_STREAM).max(1);
        Self {
            places: Arc::new(Semaphore::new(places)),
            waiting: Rc::default(),
            streams: Rc::default(),
            waiting_max: 4 * places + 64,
            wait_max,
        }
    }

    /// A place for a large body; `None` when none came free in time.
    pub(crate) async fn enter(&self) -> Option<Permit> {
        if let Some(place) = self.places.try_acquire_arc() {
            return Some(self.seated(place));
        }
        if self.waiting.get() >= self.waiting_max {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        let turn = std::pin::pin!(self.places.acquire_arc());
        let patience = std::pin::pin!(monoio::time::sleep(self.wait_max));
        let place = match select(turn, patience).await {
            Either::Left((place, _)) => Some(place),
            Either::Right(((), _)) => None,
        };
        self.waiting.set(self.waiting.get() - 1);
        place.map(|place| self.seated(place))
    }

    fn seated(&self, place: SemaphoreGuardArc) -> Permit {
        self.streams.set(self.streams.get() + 1);
        Permit {
            _place: place,
            streams: Rc::clone(&self.streams),
        }
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Store reads one stream should keep under way now.
    pub(crate) fn depth(&self) -> usize {
        if self.streams.get() <= ALONE_MAX {
            DEPTH_ALONE
        } else {
            DEPTH_SHARED
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.streams.set(self.streams.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[monoio::test(timer_enabled = true)]
    async fn places_are_bounded_and_come_back() {
        let permits = Permits::new(2 * BUFFERS_PER_STREAM, Duration::from_millis(20));
        let first = permits.enter().await.unwrap();
        assert_eq!(permits.depth(), DEPTH_ALONE);
        let _second = permits.enter().await.unwrap();
        assert!(permits.enter().await.is_none(), "no third place");
        drop(first);
        assert!(permits.enter().await.is_some());
        assert_eq!(permits.waiting.get(), 0);
    }
}
