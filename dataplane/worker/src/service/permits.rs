//! Admission: how many bodies may stream at once on a shard, so that each is
//! sure of its buffers. Who finds no place in time is told to slow down.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use async_lock::Mutex;
use event_listener::Event;

use crate::waiting::Waiting;

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

/// The places of a shard. Given in the order of asking: who asks again as soon as it
/// was served must not pass those who wait, or some of them wait for ever.
#[derive(Clone)]
pub(crate) struct Permits(Rc<Places>);

struct Places {
    free: Cell<usize>,
    /// Held by whoever is first in line.
    first: Mutex<()>,
    freed: Event,
    waiting: Cell<usize>,
    streams: Cell<usize>,
    waiting_max: usize,
    wait_max: Duration,
}

/// A place; given back when dropped.
pub(crate) struct Permit(Rc<Places>);

impl Permits {
    pub(crate) fn new(large_buffers: usize, wait_max: Duration) -> Self {
        Self::of(large_buffers / BUFFERS_PER_STREAM, wait_max)
    }

    /// So many places, one at least.
    pub(crate) fn of(places: usize, wait_max: Duration) -> Self {
        let places = places.max(1);
        Self(Rc::new(Places {
            free: Cell::new(places),
            first: Mutex::new(()),
            freed: Event::new(),
            waiting: Cell::new(0),
            streams: Cell::new(0),
            waiting_max: 4 * places + 64,
            wait_max,
        }))
    }

    /// A place for a large body; `None` when none came free in time.
    pub(crate) async fn enter(&self) -> Option<Permit> {
        let places = &self.0;
        if places.waiting.get() == 0 && places.free.get() > 0 {
            return Some(self.seated());
        }
        if places.waiting.get() >= places.waiting_max {
            return None;
        }
        let _waiting = Waiting::counted(&places.waiting);
        monoio::time::timeout(places.wait_max, self.queue())
            .await
            .ok()
    }

    async fn queue(&self) -> Permit {
        let _first = self.0.first.lock().await;
        while self.0.free.get() == 0 {
            // One thread: nothing is freed between the question and the listening.
            self.0.freed.listen().await;
        }
        self.seated()
    }

    fn seated(&self) -> Permit {
        let places = &self.0;
        places.free.set(places.free.get() - 1);
        places.streams.set(places.streams.get() + 1);
        Permit(Rc::clone(places))
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.get()
    }

    /// Store reads one stream should keep under way now.
    pub(crate) fn depth(&self) -> usize {
        if self.0.streams.get() <= ALONE_MAX {
            DEPTH_ALONE
        } else {
            DEPTH_SHARED
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.free.set(self.0.free.get() + 1);
        self.0.freed.notify(1);
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
        assert_eq!(permits.waiting(), 0);
    }

    #[monoio::test(timer_enabled = true)]
    async fn nobody_passes_those_who_wait() {
        let permits = Permits::new(BUFFERS_PER_STREAM, Duration::from_secs(60));
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let held = permits.enter().await.unwrap();
        let tasks = (0..4).map(|number| {
            let (permits, order) = (permits.clone(), Rc::clone(&order));
            monoio::spawn(async move {
                // Each asks again at once, as a client does that is always busy.
                for turn in 0..3 {
                    let place = permits.enter().await.unwrap();
                    order.borrow_mut().push((turn, number));
                    monoio::time::sleep(Duration::from_millis(1)).await;
                    drop(place);
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        while permits.waiting() < 4 {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(held);
        for task in tasks {
            task.await;
        }
        let turns: Vec<_> = (0..3).flat_map(|t| (0..4).map(move |n| (t, n))).collect();
        assert_eq!(*order.borrow(), turns);
        assert_eq!((permits.waiting(), permits.0.free.get()), (0, 1));
    }

    #[monoio::test(timer_enabled = true)]
    async fn who_gives_up_loses_no_place() {
        let permits = Permits::new(BUFFERS_PER_STREAM, Duration::from_secs(60));
        let held = permits.enter().await.unwrap();
        let gone = monoio::time::timeout(Duration::from_millis(5), permits.enter()).await;
        assert!(gone.is_err());
        assert_eq!(permits.waiting(), 0);
        drop(held);
        assert!(permits.enter().await.is_some());
    }
}
