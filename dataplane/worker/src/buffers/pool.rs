//! Who gets the next free buffer: first come, first served, within a deadline.
//!
//! Absent: memory tricks (arena) and IO. Safe to use from any thread; a buffer
//! dropped on another thread wakes its waiter there.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::arena::{ArenaError, Slot, carve};
use super::buffer::PoolBuf;
use super::{LARGE_BYTES, LARGE_STRIDE_BYTES, SMALL_BYTES, SMALL_STRIDE_BYTES};

/// Part of the budget that small buffers get: one in this many bytes.
const SMALL_SHARE: usize = 8;
/// A small request may take a large buffer while more than one in this many of
/// the large ones are free.
const BORROW_SHARE: usize = 4;

/// Settings of a pool.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Bytes of memory for all buffers together.
    pub budget_bytes: usize,
    /// Touch all memory at start instead of at first use.
    pub prefault: bool,
    /// Most tasks that may wait for a buffer; the next is refused at once.
    pub waiters_max: usize,
}

impl PoolConfig {
    /// A pool of `budget_bytes` with the usual other settings.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            prefault: false,
            waiters_max: 4096,
        }
    }
}

/// Why a pool could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError {
    /// Not even the smallest useful pool fits.
    #[error("{budget} bytes for buffers are too few; at least {least} are needed per shard")]
    TooSmall {
        /// Bytes allowed.
        budget: usize,
        /// Bytes needed.
        least: usize,
    },
    /// No memory.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

/// No buffer: none came free in time, too many wait already, or none is that large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no buffer free")]
pub struct Exhausted;

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Large buffers in all.
    pub large_total: usize,
    /// Large buffers free.
    pub large_free: usize,
    /// Small buffers in all.
    pub small_total: usize,
    /// Small buffers free.
    pub small_free: usize,
    /// Tasks waiting.
    pub waiting: usize,
    /// Requests refused so far.
    pub exhausted_total: u64,
}

/// Size class of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// [`SMALL_BYTES`].
    Small,
    /// [`LARGE_BYTES`].
    Large,
}

/// One waiting task. `handed` is set by whoever returns a buffer.
struct Waiter {
    ticket: u64,
    waker: Option<Waker>,
    handed: Option<(Slot, Class)>,
}

/// The free buffers of one class and who waits for them. While somebody waits
/// without having been handed one, `free` is empty.
#[derive(Default)]
struct Shelf {
    total: usize,
    free: Vec<Slot>,
    waiters: VecDeque<Waiter>,
}

impl Shelf {
    fn first_waiting(&self) -> Option<usize> {
        self.waiters.iter().position(|w| w.handed.is_none())
    }
}

struct State {
    large: Shelf,
    small: Shelf,
    next_ticket: u64,
    exhausted_total: u64,
}

impl State {
    fn shelf(&mut self, class: Class) -> &mut Shelf {
        match class {
            Class::Small => &mut self.small,
            Class::Large => &mut self.large,
        }
    }

    /// A free slot fit for `len` bytes, without waiting.
    fn take(&mut self, class: Class) -> Option<(Slot, Class)> {
        if let Some(slot) = self.shelf(class).free.pop() {
            return Some((slot, class));
        }
        if class == Class::Small && self.small.waiters.is_empty() && self.can_lend() {
            return self.large.free.pop().map(|slot| (slot, Class::Large));
        }
        None
    }

    fn can_lend(&self) -> bool {
        self.large.free.len() * BORROW_SHARE > self.large.total
    }

    /// Takes a slot back: to the first waiter, whom the caller wakes, else to
    /// the shelf.
    fn give(&mut self, slot: Slot, class: Class) -> Option<Waker> {
        let lend = class == Class::Large && self.can_lend();
        let own = self.shelf(class).first_waiting();
        let waiter = match own {
            Some(at) => self.shelf(class).waiters.get_mut(at),
            None if lend => {
                let at = self.small.first_waiting();
                at.and_then(|at| self.small.waiters.get_mut(at))
            }
            None => None,
        };
        match waiter {
            Some(waiter) => {
                waiter.handed = Some((slot, class));
                waiter.waker.take()
            }
            None => {
                self.shelf(class).free.push(slot);
                None
            }
        }
    }
}

/// The shared part of a pool.
pub(super) struct Shelves {
    state: Mutex<State>,
    waiters_max: usize,
}

impl Shelves {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; a poisoned one is as good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a slot to the first waiter, else to the shelf.
    pub(super) fn put_back(shelves: &Arc<Self>, slot: Slot, class: Class) {
        let waker = shelves.lock().give(slot, class);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A pool of buffers. Clones share it.
#[derive(Clone)]
pub struct Pool {
    shelves: Arc<Shelves>,
}

impl Pool {
    /// Maps the memory and carves it.
    ///
    /// # Errors
    /// The budget holds less than two large and two small buffers, or there is
    /// no memory.
    pub fn new(config: PoolConfig) -> Result<Self, PoolError> {
        let least = 2 * (LARGE_STRIDE_BYTES + SMALL_STRIDE_BYTES);
        if config.budget_bytes < least {
            return Err(PoolError::TooSmall {
                budget: config.budget_bytes,
                least,
            });
        }
        let small = (config.budget_bytes / SMALL_SHARE / SMALL_STRIDE_BYTES).max(2);
        let large = (config.budget_bytes - small * SMALL_STRIDE_BYTES) / LARGE_STRIDE_BYTES;
        let layout = [(large, LARGE_STRIDE_BYTES), (small, SMALL_STRIDE_BYTES)];
        let mut classes = carve(&layout, config.prefault)?;
        let mut shelf = || {
            let free = classes.pop().unwrap_or_default();
            Shelf {
                total: free.len(),
                free,
                waiters: VecDeque::new(),
            }
        };
        let (small, large) = (shelf(), shelf());
        let state = State {
            large,
            small,
            next_ticket: 0,
            exhausted_total: 0,
        };
        Ok(Self {
            shelves: Arc::new(Shelves {
                state: Mutex::new(state),
                waiters_max: config.waiters_max,
            }),
        })
    }

    /// An empty buffer for `len` bytes if one is free now and nobody waits.
    #[must_use]
    pub fn try_acquire(&self, len: usize) -> Option<PoolBuf> {
        let class = class_for(len)?;
        let taken = self.shelves.lock().take(class);
        let (slot, class) = taken?;
        Some(PoolBuf::new(slot, Arc::clone(&self.shelves), class))
    }

    /// An empty buffer for `len` bytes, waiting for at most `timeout` in order
    /// of arrival. Needs a monoio runtime with its timer when it has to wait.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub async fn acquire(&self, len: usize, timeout: Duration) -> Result<PoolBuf, Exhausted> {
        let class = class_for(len).ok_or(Exhausted)?;
        let entered = self.enter(class);
        let outcome = match entered {
            Ok(Entered::Got(buf)) => return Ok(buf),
            // A timer may be dropped at any moment; so may our own queue place.
            Ok(Entered::Queued(place)) => monoio::time::timeout(timeout, place).await.ok(),
            Err(Exhausted) => None,
        };
        outcome.ok_or_else(|| {
            self.shelves.lock().exhausted_total += 1;
            Exhausted
        })
    }

    pub(super) fn enter(&self, class: Class) -> Result<Entered, Exhausted> {
        let mut state = self.shelves.lock();
        if let Some((slot, class)) = state.take(class) {
            let buf = PoolBuf::new(slot, Arc::clone(&self.shelves), class);
            return Ok(Entered::Got(buf));
        }
        if state.large.waiters.len() + state.small.waiters.len() >= self.shelves.waiters_max {
            return Err(Exhausted);
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.shelf(class).waiters.push_back(Waiter {
            ticket,
            waker: None,
            handed: None,
        });
        Ok(Entered::Queued(Place {
            shelves: Arc::clone(&self.shelves),
            class,
            ticket,
        }))
    }

    /// How full it is now.
    #[must_use]
    pub fn available(&self) -> PoolStats {
        let state = self.shelves.lock();
        PoolStats {
            large_total: state.large.total,
            large_free: state.large.free.len(),
            small_total: state.small.total,
            small_free: state.small.free.len(),
            waiting: state.large.waiters.len() + state.small.waiters.len(),
            exhausted_total: state.exhausted_total,
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({:?})", self.available())
    }
}

fn class_for(len: usize) -> Option<Class> {
    match len {
        0..=SMALL_BYTES => Some(Class::Small),
        _ if len <= LARGE_BYTES => Some(Class::Large),
        _ => None,
    }
}

pub(super) enum Entered {
    Got(PoolBuf),
    Queued(Place),
}

/// A place in the queue. Dropping it leaves the queue; a buffer already handed
/// to it goes on to the next.
pub(super) struct Place {
    shelves: Arc<Shelves>,
    class: Class,
    ticket: u64,
}

impl Future for Place {
    type Output = PoolBuf;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PoolBuf> {
        let mut state = self.shelves.lock();
        let waiters = &mut state.shelf(self.class).waiters;
        let Some(at) = waiters.iter().position(|w| w.ticket == self.ticket) else {
            return Poll::Pending; // polled again after it was ready
        };
        let waiter = &mut waiters[at];
        if let Some((slot, class)) = waiter.handed.take() {
            waiters.remove(at);
            drop(state);
            let shelves = Arc::clone(&self.shelves);
            return Poll::Ready(PoolBuf::new(slot, shelves, class));
        }
        waiter.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let handed = {
            let mut state = self.shelves.lock();
            let waiters = &mut state.shelf(self.class).waiters;
            let at = waiters.iter().position(|w| w.ticket == self.ticket);
            at.and_then(|at| waiters.remove(at)).and_then(|w| w.handed)
        };
        if let Some((slot, class)) = handed {
            Shelves::put_back(&self.shelves, slot, class);
        }
    }
}
