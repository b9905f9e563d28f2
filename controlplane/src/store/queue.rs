//! The bounded queue in front of the committer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::limits::{
    GROUP_BYTES_MAX, GROUP_TRANSACTIONS_MAX, QUEUE_BYTES_MAX, QUEUE_TRANSACTIONS_MAX,
};

/// Transactions that wait, in order of arrival.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// What came of waiting for a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<T> {
    /// At least one, in order of arrival.
    Group(Vec<T>),
    /// The deadline passed.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<Entry<T>>,
    bytes: usize,
    next: u64,
    closed: Option<&'static str>,
}

#[derive(Debug)]
struct Entry<T> {
    ticket: Ticket,
    bytes: usize,
    item: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            next: 0,
            closed: None,
        };
        Self {
            state: Mutex::new(state),
            arrived: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Appends, or says why not.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<Ticket, &'static str> {
        let mut state = self.lock();
        if let Some(reason) = state.closed {
            return Err(reason);
        }
        if state.waiting.len() >= QUEUE_TRANSACTIONS_MAX || state.bytes + bytes > QUEUE_BYTES_MAX {
            return Err("too many commits wait");
        }
        let ticket = Ticket(state.next);
        state.next += 1;
        state.bytes += bytes;
        state.waiting.push_back(Entry {
            ticket,
            bytes,
            item,
        });
        drop(state);
        self.arrived.notify_one();
        Ok(ticket)
    }

    /// Takes the next group, waiting for one, at most until `deadline`.
    pub(super) fn take_group(&self, deadline: Option<Instant>) -> Taken<T> {
        let mut state = self.lock();
        while state.waiting.is_empty() {
            if state.closed.is_some() {
                return Taken::Closed;
            }
            state = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Taken::Nothing,
                Some(left) => {
                    let waited = self.arrived.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .arrived
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        let mut group = Vec::with_capacity(state.waiting.len().min(GROUP_TRANSACTIONS_MAX));
        let mut bytes = 0;
        while let Some(entry) = state.waiting.front() {
            bytes += entry.bytes;
            if group.len() == GROUP_TRANSACTIONS_MAX
                || (bytes > GROUP_BYTES_MAX && !group.is_empty())
            {
                break;
            }
            state.bytes -= entry.bytes;
            group.extend(state.waiting.pop_front().map(|entry| entry.item));
        }
        Taken::Group(group)
    }

    /// Takes a transaction out again. `false` when it is no longer waiting.
    pub(super) fn withdraw(&self, ticket: Ticket) -> bool {
        let mut state = self.lock();
        let found = state
            .waiting
            .binary_search_by_key(&ticket.0, |entry| entry.ticket.0);
        let Some(entry) = found.ok().and_then(|index| state.waiting.remove(index)) else {
            return false;
        };
        state.bytes -= entry.bytes;
        true
    }

    /// Takes nothing more in; what waits can still be taken out.
    pub(super) fn close(&self, reason: &'static str) {
        self.lock().closed.get_or_insert(reason);
        self.arrived.notify_all();
    }

    /// Takes nothing more in and gives up what waits.
    pub(super) fn fail(&self, reason: &'static str) -> Vec<T> {
        let mut state = self.lock();
        state.closed = Some(reason);
        state.bytes = 0;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.arrived.notify_all();
        waiting.into_iter().map(|entry| entry.item).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_order_and_limits() {
        let queue = Queue::default();
        for item in 0..GROUP_TRANSACTIONS_MAX + 3 {
            queue.push(item, 1).expect("room");
        }
        let first = (0..GROUP_TRANSACTIONS_MAX).collect::<Vec<_>>();
        assert_eq!(queue.take_group(None), Taken::Group(first));
        let rest = (GROUP_TRANSACTIONS_MAX..GROUP_TRANSACTIONS_MAX + 3).collect();
        assert_eq!(queue.take_group(None), Taken::Group(rest));
        assert_eq!(queue.take_group(Some(Instant::now())), Taken::Nothing);
        queue.push(1, GROUP_BYTES_MAX - 1).expect("room");
        queue.push(2, 2).expect("room");
        queue.push(3, 2 * GROUP_BYTES_MAX).expect("room");
        assert_eq!(queue.take_group(None), Taken::Group(vec![1]));
        assert_eq!(queue.take_group(None), Taken::Group(vec![2]));
        assert_eq!(queue.take_group(None), Taken::Group(vec![3]));
        queue.close("over");
        assert_eq!(queue.take_group(None), Taken::Closed);
        assert_eq!(queue.push(4, 1), Err("over"));
    }

    #[test]
    fn it_refuses_beyond_its_limits_and_recovers() {
        let queue = Queue::default();
        let ticket = queue.push(0, QUEUE_BYTES_MAX).expect("room");
        assert!(queue.push(1, 1).is_err());
        assert!(queue.withdraw(ticket));
        assert!(!queue.withdraw(ticket));
        for item in 0..QUEUE_TRANSACTIONS_MAX {
            queue.push(item, 1).expect("room");
        }
        assert!(queue.push(0, 1).is_err());
        assert_eq!(queue.fail("broken").len(), QUEUE_TRANSACTIONS_MAX);
        assert_eq!(queue.push(0, 1), Err("broken"));
        assert_eq!(queue.take_group(None), Taken::Closed);
    }
}
