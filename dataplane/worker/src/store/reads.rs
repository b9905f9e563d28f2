//! Reads under way on a shard. A read is polled in place, by whoever wants its
//! bytes; one given up, because nobody wants it any more or it takes too long, is
//! kept here until it ends. So a pending operation is never dropped, and a read
//! costs no task and no timer. Absent: what is read.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use monoio::fs::File;

use super::device::{self, Transferred};
use super::segment;
use crate::buffers::PoolBuf;

/// How often at most the keeper looks for overdue reads, while there are any reads.
const STEP_MAX: Duration = Duration::from_millis(250);
/// And at least: this often within the timeout.
const STEPS_MIN: u32 = 4;

type Operation = Pin<Box<dyn Future<Output = Transferred>>>;

/// Somebody waits for a read.
struct Wait {
    begun: u64,
    waker: Option<Waker>,
}

/// The reads of a shard. There are no more of them than buffers.
pub(super) struct Reads {
    step: Duration,
    /// Steps a read may take.
    steps_max: u64,
    now: Cell<u64>,
    waits: RefCell<Vec<Option<Wait>>>,
    free: RefCell<Vec<usize>>,
    given_up: RefCell<Vec<Operation>>,
    keeper: RefCell<Option<Waker>>,
    is_kept: Cell<bool>,
}

impl Reads {
    /// Reads that may take `timeout` each, and up to two steps more.
    pub(super) fn new(timeout: Duration) -> Rc<Self> {
        let shortest = Duration::from_millis(1);
        let step = (timeout / STEPS_MIN).clamp(shortest, STEP_MAX);
        Rc::new(Self {
            step,
            steps_max: timeout.as_nanos().div_ceil(step.as_nanos()) as u64,
            now: Cell::new(0),
            waits: RefCell::default(),
            free: RefCell::default(),
            given_up: RefCell::default(),
            keeper: RefCell::default(),
            is_kept: Cell::new(false),
        })
    }

    /// A read; see [`device::read`]. It begins when polled first, and answers
    /// `None` when it did not end in time.
    pub(super) fn read(
        self: &Rc<Self>,
        file: Rc<File>,
        pin: segment::Pin,
        buf: PoolBuf,
        range: Range<usize>,
        offset: u64,
    ) -> Reading {
        self.wait_for(Box::pin(device::read(file, pin, buf, range, offset)))
    }

    fn wait_for(self: &Rc<Self>, operation: Operation) -> Reading {
        let wait = Some(Wait {
            begun: self.now.get(),
            waker: None,
        });
        let mut waits = self.waits.borrow_mut();
        let place = match self.free.borrow_mut().pop() {
            Some(place) => {
                waits[place] = wait;
                place
            }
            None => {
                waits.push(wait);
                waits.len() - 1
            }
        };
        drop(waits);
        if !self.is_kept.replace(true) {
            monoio::spawn(keep(Rc::clone(self)));
        }
        Reading {
            reads: Rc::clone(self),
            place,
            operation: Some(operation),
        }
    }

    fn is_overdue(&self, wait: &Wait) -> bool {
        self.now.get() - wait.begun > self.steps_max
    }

    /// Notes who waits. `false`: it waited long enough.
    fn wait(&self, place: usize, waker: &Waker) -> bool {
        let mut waits = self.waits.borrow_mut();
        let Some(Some(wait)) = waits.get_mut(place) else {
            return false;
        };
        if self.is_overdue(wait) {
            return false;
        }
        if wait.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            return true;
        }
        let old = wait.waker.replace(waker.clone());
        drop(waits);
        // Outside of the borrow: a waker may be the last hold on a task.
        drop(old);
        true
    }

    fn leave(&self, place: usize) {
        let left = self.waits.borrow_mut().get_mut(place).map(Option::take);
        self.free.borrow_mut().push(place);
        drop(left);
    }

    fn give_up(&self, operation: Operation) {
        self.given_up.borrow_mut().push(operation);
        let keeper = self.keeper.borrow().clone();
        if let Some(keeper) = keeper {
            keeper.wake();
        }
    }

    /// Lets a step of time pass and wakes who waited long enough.
    fn pass(&self) {
        self.now.set(self.now.get() + 1);
        let overdue: Vec<Waker> = {
            let mut waits = self.waits.borrow_mut();
            let overdue = waits.iter_mut().flatten();
            let overdue = overdue.filter(|wait| self.is_overdue(wait));
            overdue.filter_map(|wait| wait.waker.take()).collect()
        };
        for waker in overdue {
            waker.wake();
        }
    }

    fn is_idle(&self) -> bool {
        self.free.borrow().len() == self.waits.borrow().len() && self.given_up.borrow().is_empty()
    }
}

/// Runs as long as there are reads: counts time, and ends what was given up.
async fn keep(reads: Rc<Reads>) {
    let mut given_up = FuturesUnordered::new();
    loop {
        let mut step = pin!(monoio::time::sleep(reads.step));
        poll_fn(|context| {
            let old = reads.keeper.replace(Some(context.waker().clone()));
            drop(old);
            given_up.extend(reads.given_up.take());
            while let Poll::Ready(Some(_ended)) = given_up.poll_next_unpin(context) {}
            step.as_mut().poll(context)
        })
        .await;
        reads.pass();
        if reads.is_idle() && given_up.is_empty() {
            reads.keeper.take();
            reads.is_kept.set(false);
            return;
        }
    }
}

/// A read somebody waits for; may be dropped at any time.
pub(super) struct Reading {
    reads: Rc<Reads>,
    place: usize,
    operation: Option<Operation>,
}

impl Future for Reading {
    type Output = Option<Transferred>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Transferred>> {
        let me = &mut *self;
        let Some(operation) = me.operation.as_mut() else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(ended) = operation.as_mut().poll(context) {
            me.operation = None;
            return Poll::Ready(Some(ended));
        }
        match me.reads.wait(me.place, context.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(None),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // First, so that the keeper does not end in between.
        if let Some(operation) = self.operation.take() {
            self.reads.give_up(operation);
        }
        self.reads.leave(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::FutureExt;

    use super::super::local::{Sender, oneshot};
    use super::*;

    /// An operation that ends when told to, and whether it was dropped early.
    fn operation() -> (Operation, Sender<()>, Rc<Cell<bool>>) {
        let (sender, receiver) = oneshot();
        let ended = Rc::new(Cell::new(false));
        let mark = Rc::clone(&ended);
        let operation = Box::pin(async move {
            receiver.await;
            mark.set(true);
            (PoolBuf::detached(), Ok(()))
        });
        (operation, sender, ended)
    }

    async fn turn() {
        monoio::time::sleep(Duration::from_millis(10)).await;
    }

    #[monoio::test(timer_enabled = true)]
    async fn a_read_that_ends_is_given() {
        let reads = Reads::new(Duration::from_secs(5));
        let (operation, sender, ended) = operation();
        let reading = reads.wait_for(operation);
        monoio::spawn(async move {
            turn().await;
            sender.send(());
        });
        assert!(reading.await.is_some_and(|(_, outcome)| outcome.is_ok()));
        assert!(ended.get() && reads.is_idle());
    }

    #[monoio::test(timer_enabled = true)]
    async fn a_read_nobody_wants_is_kept_until_it_ends() {
        let reads = Reads::new(Duration::from_secs(5));
        let (operation, sender, ended) = operation();
        let mut reading = reads.wait_for(operation);
        assert!((&mut reading).now_or_never().is_none());
        drop(reading);
        turn().await;
        assert!(!sender.is_abandoned(), "a pending operation was dropped");
        sender.send(());
        turn().await;
        assert!(ended.get(), "what was given up is not driven");
    }

    #[monoio::test(timer_enabled = true)]
    async fn a_stuck_read_is_given_up_in_time_and_kept() {
        let reads = Reads::new(Duration::from_millis(40));
        let (operation, sender, ended) = operation();
        let begun = Instant::now();
        assert!(reads.wait_for(operation).await.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(40));
        assert!(!sender.is_abandoned());
        sender.send(());
        turn().await;
        assert!(ended.get());
    }

    #[monoio::test(timer_enabled = true)]
    async fn the_keeper_ends_with_the_reads_and_comes_again() {
        let reads = Reads::new(Duration::from_millis(8));
        for _ in 0..2 {
            let (operation, sender, _) = operation();
            sender.send(());
            assert!(reads.wait_for(operation).await.is_some());
            assert!(reads.is_kept.get());
            turn().await;
            assert!(!reads.is_kept.get());
        }
        assert_eq!(reads.waits.borrow().len(), 1, "places are used again");
    }
}
