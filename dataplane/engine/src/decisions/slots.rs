//! Slots: the 16,384 buckets keys fall into, with one mutation at a time in each.
//!
//! A slot's lock orders what the UFS sees with what the metadata commits, and its
//! sequence number tells a listing whether something changed since it began.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use async_lock::{Mutex, MutexGuardArc};
use quickwater_proto::{BucketId, ObjectKey, UploadId, slot_of};

/// Number of slots (design §1).
pub const SLOTS: usize = quickwater_proto::SLOTS;

/// All slots of this process.
pub(crate) struct Slots {
    locks: Vec<Arc<Mutex<()>>>,
    /// Locks that nobody lets go of, see [`SlotGuard::keep`].
    kept: std::sync::Mutex<BTreeMap<usize, MutexGuardArc<()>>>,
    /// Slots that others got while a change of before may have held the lock: until the lock
    /// is taken next.
    lost: Vec<AtomicBool>,
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
    /// There until it is kept.
    lock: Option<MutexGuardArc<()>>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            locks: (0..SLOTS).map(|_| Arc::default()).collect(),
            kept: std::sync::Mutex::default(),
            lost: (0..SLOTS).map(|_| AtomicBool::new(false)).collect(),
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
        let lock = self.locks[slot].lock_arc().await;
        // Whose lock it is now asks anew whether the slot is this process's.
        self.lost[slot].store(false, Ordering::Release);
        SlotGuard {
            slots: self,
            slot,
            marked: Cell::new(false),
            since: 0,
            lock: Some(lock),
        }
    }

    /// Others got a slot without waiting for what holds its lock. Nobody may take the slot
    /// for this process's any more.
    pub(crate) fn lose(&self, slot: usize) {
        self.lost[slot].store(true, Ordering::Release);
    }

    /// Whether others got a slot since its lock was taken last.
    pub(crate) fn is_lost(&self, slot: usize) -> bool {
        self.lost[slot].load(Ordering::Acquire)
    }

    /// Slots whose locks are kept.
    pub(crate) fn kept(&self) -> Vec<usize> {
        self.keeping().keys().copied().collect()
    }

    /// Whether the lock of a slot is kept.
    pub(crate) fn is_kept(&self, slot: usize) -> bool {
        self.keeping().contains_key(&slot)
    }

    /// Lets go of a slot whose lock was kept, if it was. What is stored of its keys must
    /// be final, and have been read again.
    pub(crate) fn release(&self, slot: usize) {
        self.keeping().remove(&slot);
    }

    fn keeping(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, MutexGuardArc<()>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Does not let go: what became of a write in this slot is not known, and a
    /// later one could be undone by it. Writes to the slot's keys are told to slow
    /// down until the process starts again or, in a worker among others, the slot is
    /// taken in anew ([`Slots::release`]).
    pub(crate) fn keep(mut self) {
        if let Some(lock) = self.lock.take() {
            self.slots.keeping().insert(self.slot, lock);
        }
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
    fn a_slot_that_is_kept_is_nobodys_until_it_is_released() {
        let slots = Slots::new();
        let lock = |slot| futures_util::FutureExt::now_or_never(slots.lock(slot));
        let guard = lock(7).unwrap();
        guard.keep();
        assert!(lock(7).is_none() && slots.is_kept(7));
        slots.release(8);
        assert_eq!(slots.kept(), [7]);
        let waiting = slots.lock(7);
        slots.release(7);
        assert!(futures_util::FutureExt::now_or_never(waiting).is_some());
        assert!(slots.kept().is_empty() && lock(7).is_some());
    }

    #[test]
    fn what_held_the_lock_of_a_lost_slot_is_of_before() {
        let slots = Slots::new();
        let lock = |slot| futures_util::FutureExt::now_or_never(slots.lock(slot));
        let guard = lock(7).unwrap();
        assert!(!slots.is_lost(7));
        slots.lose(7);
        assert!(slots.is_lost(7) && !slots.is_lost(8));
        // Whoever waits does not make it good.
        assert!(lock(7).is_none() && slots.is_lost(7));
        drop(guard);
        assert!(slots.is_lost(7));
        assert!(lock(7).is_some() && !slots.is_lost(7));
    }

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
