//! The keys written within a span of versions, for the conflict window. Pure.

use std::cmp::Ordering;
use std::time::Duration;

use super::transaction::KeyRange;

/// Keys written one after another.
#[derive(Debug)]
pub(super) struct Generation {
    /// When it was begun.
    pub(super) began: Duration,
    /// The version that was current then; all writes in it are later.
    pub(super) after: u64,
    /// The keys, end to end: one allocation for all.
    text: Vec<u8>,
    writes: Vec<Write>,
    order: Order,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    version: u64,
    fingerprint: u64,
    /// Of the key in the text.
    start: usize,
    end: usize,
}

/// How the writes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Version,
    Key,
}

impl Generation {
    /// An empty one, begun when `after` was current.
    pub(super) fn new(began: Duration, after: u64) -> Self {
        Self {
            began,
            after,
            text: Vec::new(),
            writes: Vec::new(),
            order: Order::Version,
        }
    }

    /// Adds a write, not older than any before. Returns the bytes it takes.
    pub(super) fn record(&mut self, version: u64, fingerprint: u64, key: &[u8]) -> usize {
        let start = self.text.len();
        self.text.extend_from_slice(key);
        self.writes.push(Write {
            version,
            fingerprint,
            start,
            end: self.text.len(),
        });
        key.len() + size_of::<Write>()
    }

    /// Gives back what room it has left: nothing more is recorded.
    pub(super) fn close(&mut self) {
        self.text.shrink_to_fit();
        self.writes.shrink_to_fit();
    }

    /// Memory it takes, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.writes.len() * size_of::<Write>()
    }

    /// The fingerprint of each key with the version of its write.
    pub(super) fn writes(&self) -> impl Iterator<Item = (u64, u64)> {
        self.writes
            .iter()
            .map(|write| (write.fingerprint, write.version))
    }

    /// Puts the writes of a closed one in order of their keys, for fast searches.
    /// Left to the first search: most are never searched.
    pub(super) fn sort(&mut self) {
        if self.order == Order::Version {
            let text = &self.text;
            self.writes
                .sort_unstable_by(|a, b| key(text, a).cmp(key(text, b)));
            self.order = Order::Key;
        }
    }

    /// Whether a key of `range` was written after the version.
    pub(super) fn is_written(&self, range: &KeyRange, after: u64) -> bool {
        let is_before = |write: &Write| match self.order {
            Order::Version => write.version <= after,
            Order::Key => key(&self.text, write).cmp(&range.start) == Ordering::Less,
        };
        let first = self.writes.partition_point(is_before);
        let rest = self.writes.get(first..).unwrap_or_default().iter();
        match self.order {
            Order::Version => rest
                .map(|write| key(&self.text, write))
                .any(|key| range.contains(key)),
            Order::Key => rest
                .take_while(|write| key(&self.text, write) < range.end.as_ref())
                .any(|write| write.version > after),
        }
    }
}

fn key<'a>(text: &'a [u8], write: &Write) -> &'a [u8] {
    text.get(write.start..write.end).unwrap_or_default()
}
