//! Slots: the 16,384 buckets keys fall into, with one mutation at a time in each.
//!
//! A slot's lock orders what the UFS sees with what the metadata commits, and its
//! sequence number tells a listing whether something changed since it began.

use std::cell::Cell;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use async_lock::{Mutex, MutexGuard};
use quickwater_proto::{BucketId, ObjectKey, UploadId, slot_of};

/// Number of slots (design §1).
pub const SLOTS: usize = quickwater_proto::SLOTS;

/// All slots of this process.
pub(crate) struct Slots {
    locks: Vec<Mutex<()>>,
    /// Value of `sequence` at the last mutation of each slot.
    changed: Vec<AtomicU64>,
    sequence: AtomicU64,
}

/// The right to change keys of one slot.
pub(crate) struct SlotGuard<'a> {
    slots: &'a Slots,
    slot: usize,
    marked: Cell<bool>,
    since: u64,
    _lock: MutexGuard<'a, ()>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            locks: (0..SLOTS).map(|_| Mutex::new(())).collect(),
            changed: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            sequence: AtomicU64::new(1),
        }
    }

    pub(crate) fn of_key(bucket: BucketId, key: &ObjectKey) -> usize {
        slot_of(bucket, key)
    }

    pub(crate) fn of_part(upload: UploadId, number: u16) -> usize {
        Self::of(&(upload, number))
    }

    fn of(what: &impl Hash) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(what);
        (hash % SLOTS as u64) as usize
    }

    pub(crate) async fn lock(&self, slot: usize) -> SlotGuard<'_> {
        SlotGuard {
            slots: self,
            slot,
            marked: Cell::new(false),
            since: 0,
            _lock: self.locks[slot].lock().await,
        }
    }

    /// The number to compare with [`SlotGuard::unchanged_since`] later.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }
}

impl SlotGuard<'_> {
    /// Notes what this process might answer for when it got the lock
    /// ([`super::rights::Rights::since`]).
    pub(crate) fn taken_at(mut self, since: u64) -> Self {
        self.since = since;
        self
    }

    /// What was noted by [`SlotGuard::taken_at`].
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// To be called before anything in the UFS or the metadata changes.
    pub(crate) fn mark_changed(&self) {
        self.marked.set(true);
        self.mark();
    }

    fn mark(&self) {
        let now = self.slots.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        self.slots.changed[self.slot].store(now, Ordering::Release);
    }

    /// Never lets go: what became of a write in this slot is not known, and a
    /// later one could be undone by it after a restart. Writes to the slot's keys
    /// are told to slow down until then.
    pub(crate) fn keep_for_ever(self) {
        std::mem::forget(self);
    }

    /// Whether no mutation of this slot began or ended after `sequence` was taken.
    pub(crate) fn unchanged_since(&self, sequence: u64) -> bool {
        self.slots.changed[self.slot].load(Ordering::Acquire) <= sequence
    }
}

/// A listing that began during the mutation may have seen what was before it.
impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        if self.marked.get() {
            self.mark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutation_after_the_listing_began_is_noticed() {
        let slots = Slots::new();
        futures_util::FutureExt::now_or_never(async {
            let before = slots.sequence();
            let guard = slots.lock(7).await;
            assert!(guard.unchanged_since(before));
            guard.mark_changed();
            assert!(!guard.unchanged_since(before));
            let during = slots.sequence();
            assert!(guard.unchanged_since(during));
            drop(guard);
            let guard = slots.lock(7).await;
            assert!(!guard.unchanged_since(during));
            assert!(guard.unchanged_since(slots.sequence()));
        })
        .unwrap();
    }
}
