//! What one transaction wants to write, and how its own reads see it. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::check;
use super::limits::TRANSACTION_BYTES_MAX;
use super::transaction::{CommitError, CommitVersion, KeyRange};

/// Bytes charged for a write or a conflict range beside its keys and values, as
/// `FoundationDB` does for the range and the mutation around them.
const OVERHEAD_BYTES: usize = 24;

/// What becomes of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    Set(Bytes),
    Clear,
    /// Added to whatever is there at commit.
    Add(i64),
    Stamp {
        template: Bytes,
        offset: usize,
    },
}

/// What a transaction knows of a key without the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// Untouched: the store's value counts.
    Unknown,
    /// Written or removed.
    Known(Option<Bytes>),
    /// The store's value plus this.
    Added(i64),
    /// Versionstamped.
    Unreadable,
}

/// The writes of a transaction: first the ranges are cleared, then the keys are
/// written. A range cleared later has removed the keys it covers.
#[derive(Debug, Default)]
pub(super) struct WriteSet {
    keys: BTreeMap<Bytes, Write>,
    /// Disjoint, start to end.
    cleared: BTreeMap<Bytes, Bytes>,
    conflicts: Vec<KeyRange>,
    bytes: usize,
    error: Option<CommitError>,
}

impl WriteSet {
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) {
        if self.accept(key, value.len()) {
            let value = Write::Set(Bytes::copy_from_slice(value));
            self.keys.insert(Bytes::copy_from_slice(key), value);
        }
    }

    pub(super) fn clear(&mut self, key: &[u8]) {
        if self.accept(key, 0) {
            self.keys.insert(Bytes::copy_from_slice(key), Write::Clear);
        }
    }

    pub(super) fn add(&mut self, key: &[u8], delta: i64) {
        if !self.accept(key, size_of::<i64>()) {
            return;
        }
        let write = match self.local(key) {
            Local::Unknown => Write::Add(delta),
            Local::Added(before) => Write::Add(before.wrapping_add(delta)),
            Local::Known(value) => Write::Set(sum(value.as_deref(), delta)),
            Local::Unreadable => {
                return self.fail(CommitError::Invalid("add to a versionstamped row"));
            }
        };
        self.keys.insert(Bytes::copy_from_slice(key), write);
    }

    pub(super) fn stamp(&mut self, key: &[u8], template: &[u8], offset: usize) {
        if let Err(error) = check::stampable(template.len(), offset) {
            return self.fail(error);
        }
        if self.accept(key, template.len()) {
            let template = Bytes::copy_from_slice(template);
            self.keys.insert(
                Bytes::copy_from_slice(key),
                Write::Stamp { template, offset },
            );
        }
    }

    pub(super) fn clear_range(&mut self, range: KeyRange) {
        if !self.accept_range(&range) {
            return;
        }
        let covered = range.start.clone()..range.end.clone();
        self.keys.extract_if(covered, |_, _| true).for_each(drop);
        self.insert_cleared(range);
    }

    pub(super) fn add_conflict(&mut self, range: KeyRange) {
        if self.accept_range(&range) {
            self.conflicts.push(range);
        }
    }

    /// Charges affected data. `false` once there is too much of it.
    pub(super) fn charge(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes + OVERHEAD_BYTES);
        if self.bytes > TRANSACTION_BYTES_MAX {
            self.fail(CommitError::TooLarge("transaction"));
        }
        self.error.is_none()
    }

    /// The first mistake made.
    pub(super) fn error(&self) -> Option<&CommitError> {
        self.error.as_ref()
    }

    /// Affected data so far, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.cleared.is_empty() && self.conflicts.is_empty()
    }

    /// What is known of `key`.
    pub(super) fn local(&self, key: &[u8]) -> Local {
        match self.keys.get(key) {
            Some(Write::Set(value)) => Local::Known(Some(value.clone())),
            Some(Write::Clear) => Local::Known(None),
            Some(Write::Add(delta)) => Local::Added(*delta),
            Some(Write::Stamp { .. }) => Local::Unreadable,
            None if self.is_cleared(key) => Local::Known(None),
            None => Local::Unknown,
        }
    }

    /// Whether a cleared range covers `key`.
    pub(super) fn is_cleared(&self, key: &[u8]) -> bool {
        let before = (Bound::Unbounded, Bound::Included(key));
        self.cleared
            .range::<[u8], _>(before)
            .next_back()
            .is_some_and(|(_, end)| key < end.as_ref())
    }

    /// The keys written, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&Bytes, &Write)> {
        self.keys.iter()
    }

    /// The keys of a range written, in order.
    pub(super) fn keys_in(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Write)> {
        self.keys.range::<[u8], _>(bounds(range))
    }

    /// The ranges cleared, in order.
    pub(super) fn cleared(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.cleared
            .iter()
            .map(|(start, end)| KeyRange::new(start.clone(), end.clone()))
    }

    /// The write conflict ranges beside what is written.
    pub(super) fn conflicts(&self) -> &[KeyRange] {
        &self.conflicts
    }

    fn fail(&mut self, error: CommitError) {
        self.error.get_or_insert(error);
    }

    fn accept(&mut self, key: &[u8], value_bytes: usize) -> bool {
        if let Err(error) = check::writable(key, value_bytes) {
            self.fail(error);
        }
        // The write and the conflict range that comes with it.
        self.charge(3 * key.len() + value_bytes + OVERHEAD_BYTES)
    }

    fn accept_range(&mut self, range: &KeyRange) -> bool {
        if let Err(error) = check::writable_range(range) {
            self.fail(error);
        }
        self.charge(2 * (range.start.len() + range.end.len())) && !range.is_empty()
    }

    fn insert_cleared(&mut self, range: KeyRange) {
        let KeyRange { mut start, mut end } = range;
        let reaching = (Bound::Unbounded, Bound::Included(end.as_ref()));
        let touching: Vec<Bytes> = self
            .cleared
            .range::<[u8], _>(reaching)
            .rev()
            .take_while(|(_, reach)| **reach >= start)
            .map(|(start, _)| start.clone())
            .collect();
        for key in touching {
            if let Some(reach) = self.cleared.remove(&key) {
                start = start.min(key);
                end = end.max(reach);
            }
        }
        self.cleared.insert(start, end);
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    // An inverted range would panic in the map.
    let end = range.end.as_ref().max(range.start.as_ref());
    (Bound::Included(range.start.as_ref()), Bound::Excluded(end))
}

/// `value` as a little-endian number plus `delta`.
pub(super) fn sum(value: Option<&[u8]>, delta: i64) -> Bytes {
    let mut number = [0; size_of::<i64>()];
    for (to, from) in number.iter_mut().zip(value.unwrap_or_default()) {
        *to = *from;
    }
    let sum = i64::from_le_bytes(number).wrapping_add(delta);
    Bytes::copy_from_slice(&sum.to_le_bytes())
}

/// `template` with the version filled in at `offset`.
pub(super) fn stamped(template: &[u8], offset: usize, version: CommitVersion) -> Bytes {
    let mut value = template.to_vec();
    for (to, from) in value.iter_mut().skip(offset).zip(version.as_bytes()) {
        *to = *from;
    }
    value.into()
}
