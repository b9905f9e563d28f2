//! Memory of a shard's documents (XML, in and out): counted, limited, waited for in
//! order. Absent: pooled buffers, which objects use, and what documents say.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use async_lock::Mutex;
use event_listener::Event;

use crate::waiting::Waiting;

/// A document that takes no more than this is not counted, bytes: the connection
/// itself takes more.
pub const DOCUMENT_BYTES_FREE: usize = 4 << 10;
/// Most requests that wait, for each mebibyte they wait for.
const WAITING_PER_MIB: usize = 16;
/// Most requests that wait, besides.
const WAITING_LEAST: usize = 64;

/// What the documents of a shard may take.
#[derive(Debug)]
pub struct DocumentMemory {
    limit: usize,
    used: Cell<usize>,
    wait_max: Duration,
    waiting: Cell<usize>,
    waiting_max: usize,
    /// Held by whoever is first in line.
    first: Mutex<()>,
    freed: Event,
}

impl DocumentMemory {
    /// Allows `limit` bytes, for which nobody waits longer than `wait_max`.
    #[must_use]
    pub fn new(limit: usize, wait_max: Duration) -> Rc<Self> {
        Rc::new(Self {
            limit,
            used: Cell::new(0),
            wait_max,
            waiting: Cell::new(0),
            waiting_max: WAITING_LEAST + limit / (1 << 20) * WAITING_PER_MIB,
            first: Mutex::new(()),
            freed: Event::new(),
        })
    }

    /// Takes `bytes`, or all there is if that is less, until the charge is dropped.
    /// `None`: it could not be had in time, or too many wait already.
    pub async fn charge(self: &Rc<Self>, bytes: usize) -> Option<DocumentCharge> {
        let bytes = bytes.min(self.limit);
        if bytes <= DOCUMENT_BYTES_FREE {
            return Some(self.taken(0));
        }
        if self.waiting.get() == 0 && self.fits(bytes) {
            return Some(self.taken(bytes));
        }
        if self.waiting.get() >= self.waiting_max {
            return None;
        }
        let _waiting = Waiting::counted(&self.waiting);
        monoio::time::timeout(self.wait_max, self.queue(bytes))
            .await
            .ok()
    }

    /// Takes `bytes` if they are there now, past those who wait: for little, and for a
    /// moment.
    pub(crate) fn try_charge(self: &Rc<Self>, bytes: usize) -> Option<DocumentCharge> {
        self.fits(bytes).then(|| self.taken(bytes))
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    async fn queue(self: &Rc<Self>, bytes: usize) -> DocumentCharge {
        let _first = self.first.lock().await;
        while !self.fits(bytes) {
            // One thread: nothing is freed between the question and the listening.
            self.freed.listen().await;
        }
        self.taken(bytes)
    }

    fn fits(&self, bytes: usize) -> bool {
        self.used.get().saturating_add(bytes) <= self.limit
    }

    fn taken(self: &Rc<Self>, bytes: usize) -> DocumentCharge {
        self.used.set(self.used.get() + bytes);
        DocumentCharge {
            memory: Rc::clone(self),
            bytes,
        }
    }
}

/// Memory taken from a [`DocumentMemory`].
#[derive(Debug)]
pub struct DocumentCharge {
    memory: Rc<DocumentMemory>,
    bytes: usize,
}

impl DocumentCharge {
    /// Changes what is taken to `bytes`. `false`: there is not that much, and nothing
    /// changed. A document larger than all there is passes when it is the only one.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        let bytes = match bytes {
            0..=DOCUMENT_BYTES_FREE => 0,
            more => more,
        };
        let others = self.memory.used.get() - self.bytes;
        if bytes > self.bytes && others > 0 && others.saturating_add(bytes) > self.memory.limit {
            return false;
        }
        let shrunk = bytes < self.bytes;
        self.memory.used.set(others + bytes);
        self.bytes = bytes;
        if shrunk {
            self.memory.freed.notify(1);
        }
        true
    }
}

impl Drop for DocumentCharge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.used.set(self.memory.used.get() - self.bytes);
            self.memory.freed.notify(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;
    const WAIT: Duration = Duration::from_millis(20);

    #[monoio::test(timer_enabled = true)]
    async fn the_limit_holds_and_memory_comes_back() {
        let memory = DocumentMemory::new(LIMIT, WAIT);
        let first = memory.charge(LIMIT / 2).await.unwrap();
        let second = memory.charge(LIMIT / 2).await.unwrap();
        assert!(memory.charge(5000).await.is_none(), "nothing is left");
        assert!(memory.try_charge(5000).is_none());
        assert!(memory.charge(DOCUMENT_BYTES_FREE).await.is_some(), "small");
        drop(first);
        assert!(memory.charge(5000).await.is_some());
        drop(second);
        assert_eq!((memory.used.get(), memory.waiting()), (0, 0));
    }

    #[monoio::test(timer_enabled = true)]
    async fn those_that_wait_are_served_in_order() {
        let memory = DocumentMemory::new(LIMIT, Duration::from_secs(9));
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let all = memory.charge(LIMIT).await.unwrap();
        let tasks: Vec<_> = [LIMIT, 5000, 6000]
            .into_iter()
            .map(|bytes| {
                let (memory, order) = (Rc::clone(&memory), Rc::clone(&order));
                monoio::spawn(async move {
                    let charge = memory.charge(bytes).await.unwrap();
                    order.borrow_mut().push(bytes);
                    drop(charge);
                })
            })
            .collect();
        monoio::time::sleep(WAIT).await;
        assert_eq!(memory.waiting(), 3);
        drop(all);
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [LIMIT, 5000, 6000]);
        assert_eq!(memory.used.get(), 0);
    }

    #[monoio::test(timer_enabled = true)]
    async fn what_is_too_large_passes_alone() {
        let memory = DocumentMemory::new(LIMIT, WAIT);
        let mut huge = memory.charge(9 * LIMIT).await.unwrap();
        assert!(huge.resize(9 * LIMIT), "alone");
        assert!(huge.resize(LIMIT / 2));
        let mut other = memory.charge(LIMIT / 4).await.unwrap();
        assert!(!huge.resize(LIMIT), "not beside another");
        assert!(other.resize(100), "small documents are free");
        assert!(huge.resize(LIMIT));
        drop((huge, other));
        assert_eq!(memory.used.get(), 0);
    }
}
