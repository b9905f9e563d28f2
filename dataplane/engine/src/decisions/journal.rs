//! Numbers of journal entries, and up to which all of them are settled. Absent:
//! the entries.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Gives out the sequence of the journal, shared by all shards.
pub struct Journal(Mutex<State>);

struct State {
    next: u64,
    open: BTreeSet<u64>,
}

impl Journal {
    /// Numbers begin after `last`, the largest one ever seen.
    pub(crate) fn new(last: u64) -> Self {
        Self(Mutex::new(State {
            next: last + 1,
            open: BTreeSet::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for an entry that is about to be written.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state();
        let sequence = state.next;
        state.next += 1;
        state.open.insert(sequence);
        sequence
    }

    /// The entry is committed, or is known never to be.
    pub(crate) fn settle(&self, sequence: u64) {
        self.state().open.remove(&sequence);
    }

    /// Every entry up to this number is settled.
    #[must_use]
    pub fn through(&self) -> u64 {
        let state = self.state();
        state.open.first().map_or(state.next - 1, |first| first - 1)
    }

    /// Goes on after `last`, the largest number found at start.
    pub fn resume(&self, last: u64) {
        let mut state = self.state();
        state.next = state.next.max(last + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_means_all_before_are_settled_too() {
        let journal = Journal::new(10);
        assert_eq!(journal.through(), 10);
        let (a, b, c) = (journal.begin(), journal.begin(), journal.begin());
        assert_eq!((a, b, c), (11, 12, 13));
        journal.settle(b);
        assert_eq!(journal.through(), 10);
        journal.settle(a);
        assert_eq!(journal.through(), 12);
        journal.settle(c);
        assert_eq!(journal.through(), 13);
        journal.resume(5);
        assert_eq!(journal.begin(), 14);
    }
}
