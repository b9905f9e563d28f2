//! How many requests wait for something of a shard. Absent: what they wait for.

use std::cell::Cell;

/// Counts one who waits, also when the request is dropped meanwhile.
pub(crate) struct Waiting<'p>(&'p Cell<usize>);

impl<'p> Waiting<'p> {
    pub(crate) fn counted(count: &'p Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
