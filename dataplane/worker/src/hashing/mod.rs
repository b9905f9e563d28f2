//! The hashing desk of a shard: bodies hand their buffers in and get them back
//! hashed. Absent: which streams go together (`quickwater-hash` decides), and any
//! sharing of a buffer: it belongs to the desk while it is hashed.

mod turn;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use quickwater_hash::{Decision, Kernel, LANES_MAX, Md5, Scheduler, Ticket};

use crate::buffers::PoolBuf;
use turn::Turn;

/// Where the streams of one shard are hashed, side by side.
#[derive(Clone)]
pub(crate) struct HashDesk(Rc<Desk>);

struct Desk {
    scheduler: RefCell<Scheduler<PoolBuf>>,
    /// The task that hashes is there.
    running: Cell<bool>,
    turn: Turn,
}

impl HashDesk {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Desk {
            scheduler: RefCell::new(Scheduler::new(Kernel::detect())),
            running: Cell::new(false),
            turn: Turn::default(),
        }))
    }

    /// The MD5 of a new stream; `more` if it will have any bytes.
    pub(crate) fn stream(&self, more: bool) -> Md5Stream {
        let ticket = self.0.scheduler.borrow_mut().join(more);
        Md5Stream {
            desk: self.clone(),
            ticket: Some(ticket),
        }
    }

    /// Something changed: see to it that a task works if there is work. It runs
    /// after all tasks that are ready now, so that requests that came together
    /// are hashed together.
    fn look(&self) {
        let decision = self.0.scheduler.borrow().decide();
        if decision != Decision::Rest && !self.0.running.replace(true) {
            monoio::spawn(work(self.clone()));
        }
    }
}

/// Hashes until nothing is to be done, one turn for other tasks between slices.
async fn work(desk: HashDesk) {
    let scheduler = &desk.0.scheduler;
    let mut woken = Vec::with_capacity(LANES_MAX);
    let mut decision = scheduler.borrow().decide();
    while decision != Decision::Rest {
        if decision == Decision::Run {
            scheduler.borrow_mut().run(&mut woken);
            woken.drain(..).for_each(std::task::Waker::wake);
            decision = scheduler.borrow().decide();
            if decision != Decision::Rest {
                desk.0.turn.pass().await;
            }
        } else {
            desk.0.turn.pass().await;
            scheduler.borrow_mut().gathered();
        }
        decision = scheduler.borrow().decide();
    }
    desk.0.running.set(false);
}

/// The MD5 of one body. Every buffer handed in comes back, in order. Dropping it
/// gives a buffer that is still there back to its pool.
pub(crate) struct Md5Stream {
    desk: HashDesk,
    /// Gone once finished.
    ticket: Option<Ticket>,
}

impl Md5Stream {
    /// Hands in `next` and returns the buffer before it; `more` if others follow.
    /// The wait is bounded by the hashing of what all streams have handed in.
    pub(crate) async fn exchange(&mut self, next: PoolBuf, more: bool) -> Option<PoolBuf> {
        let previous = self.hashed().await;
        if let Some(ticket) = &self.ticket {
            // It cannot be refused: the one before was collected. If it were, its
            // bytes would be missing from the length that `finish` is held to.
            let mut scheduler = self.desk.0.scheduler.borrow_mut();
            let refused = scheduler.submit(ticket, next, more).err();
            debug_assert!(refused.is_none());
        }
        self.desk.look();
        previous
    }

    /// The last buffer handed in, once hashed.
    pub(crate) async fn hashed(&mut self) -> Option<PoolBuf> {
        poll_fn(|context| {
            let Some(ticket) = &self.ticket else {
                return Poll::Ready(None);
            };
            let waker = context.waker();
            let collected = self.desk.0.scheduler.borrow_mut().collect(ticket, waker);
            if collected.is_pending() {
                self.desk.look();
            }
            collected
        })
        .await
    }

    /// The MD5 of all that was hashed; its length says how much that was.
    pub(crate) fn finish(&mut self) -> Md5 {
        let Some(ticket) = self.ticket.take() else {
            return Md5::new();
        };
        let md5 = self.desk.0.scheduler.borrow_mut().leave(&ticket);
        self.desk.look();
        md5
    }
}

impl Drop for Md5Stream {
    fn drop(&mut self) {
        let left = self.ticket.take();
        if let Some(ticket) = left {
            self.desk.0.scheduler.borrow_mut().leave(&ticket);
            self.desk.look();
        }
    }
}

#[cfg(test)]
mod tests;
