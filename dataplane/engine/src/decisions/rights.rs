//! What this process may answer for: all keys for ever, or the slots it owns while its
//! lease lasts. Absent: who says so, and the clock.
//!
//! A reader first reads what memory knows and then asks here: what it read was
//! current at that moment. A writer asks under the slot's lock; what slips through is
//! refused by the fence in the metadata.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quickwater_proto::{BucketId, SLOTS, slot_of_text};

use crate::error::FlowError;

/// Bits in a word of the set of owned slots.
const WORD: usize = u64::BITS as usize;

/// Rights of a process. Changed by one task, asked by all shards.
pub struct Rights(Option<Leased>);

struct Leased {
    /// When the lease ends, nanoseconds by the clock of leases.
    until: AtomicU64,
    owned: Vec<AtomicU64>,
    /// When each slot was taken from another worker, nanoseconds by the shards' clock;
    /// 0: not since the start.
    taken: Vec<AtomicU64>,
    /// Slots of which it is being read what is pending: not owned yet, and not another's.
    taking: Vec<AtomicU64>,
    /// How often others may have had slots meanwhile.
    lapses: AtomicU64,
}

impl Rights {
    /// Of the only process there is.
    #[must_use]
    pub(crate) fn alone() -> Self {
        Self(None)
    }

    /// Of a worker among others: none yet.
    #[must_use]
    pub(crate) fn leased() -> Self {
        Self(Some(Leased {
            until: AtomicU64::new(0),
            owned: (0..SLOTS / WORD).map(|_| AtomicU64::new(0)).collect(),
            taken: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            // What a start reads is there before anything is owned.
            taking: (0..SLOTS / WORD)
                .map(|_| AtomicU64::new(u64::MAX))
                .collect(),
            lapses: AtomicU64::new(0),
        }))
    }

    /// Whether there are no others.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// The lease lasts until then; never shortens it.
    pub fn grant(&self, until: Duration) {
        if let Some(leased) = &self.0 {
            let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            leased.until.fetch_max(nanos, Ordering::AcqRel);
        }
    }

    /// Others may have had slots meanwhile: there was a time without a lease, or slots come
    /// from others. What was read before does not count, even if it is asked about later.
    pub fn lapse(&self) {
        if let Some(leased) = &self.0 {
            leased.lapses.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// To be taken before memory is read, and given to [`Rights::holds_since`].
    pub(crate) fn since(&self) -> u64 {
        let leased = self.0.as_ref();
        leased.map_or(0, |leased| leased.lapses.load(Ordering::Acquire))
    }

    /// Whether nobody else had a slot since then.
    pub(crate) fn holds_since(&self, since: u64) -> bool {
        self.since() == since
    }

    /// Takes a slot, or gives it away.
    pub fn set(&self, slot: usize, owned: bool) {
        let Some(leased) = &self.0 else { return };
        let bit = 1 << (slot % WORD);
        match owned {
            true => leased.owned[slot / WORD].fetch_or(bit, Ordering::AcqRel),
            false => leased.owned[slot / WORD].fetch_and(!bit, Ordering::AcqRel),
        };
    }

    /// It is being read what is pending of a slot, or not any more: then it is owned, if it
    /// is to be.
    pub(crate) fn set_taking(&self, slot: usize, taking: bool) {
        let Some(leased) = &self.0 else { return };
        let bit = 1 << (slot % WORD);
        match taking {
            true => leased.taking[slot / WORD].fetch_or(bit, Ordering::AcqRel),
            false => leased.taking[slot / WORD].fetch_and(!bit, Ordering::AcqRel),
        };
    }

    /// What was pending at the start is known, and what is owned is owned.
    pub fn started(&self) {
        if let Some(leased) = &self.0 {
            leased
                .taking
                .iter()
                .for_each(|word| word.store(0, Ordering::Release));
        }
    }

    /// Whether a slot is neither owned nor being taken: what was noted of it is of no use
    /// any more.
    #[must_use]
    pub fn is_foreign(&self, slot: usize) -> bool {
        let Some(leased) = &self.0 else { return false };
        // First this: it ends when the slot is owned.
        let taking = leased.taking[slot / WORD].load(Ordering::Acquire);
        taking & (1 << (slot % WORD)) == 0 && !self.owns(slot)
    }

    /// Notes that a slot was another worker's until now (monotonic).
    pub(crate) fn note_taken(&self, slot: usize, now: Duration) {
        if let Some(leased) = &self.0 {
            let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            leased.taken[slot].store(nanos, Ordering::Release);
        }
    }

    /// When a slot was taken from another worker (monotonic); zero: it never was another's
    /// since the start.
    pub(crate) fn taken_at(&self, slot: usize) -> Duration {
        let nanos = self.0.as_ref().map(|leased| &leased.taken[slot]);
        nanos.map_or(Duration::ZERO, |nanos| {
            Duration::from_nanos(nanos.load(Ordering::Acquire))
        })
    }

    /// Whether a slot is owned, whatever the lease.
    #[must_use]
    pub fn owns(&self, slot: usize) -> bool {
        let Some(leased) = &self.0 else { return true };
        let word = leased.owned[slot / WORD].load(Ordering::Acquire);
        word & (1 << (slot % WORD)) != 0
    }

    /// How many slots are owned.
    #[must_use]
    pub fn owned(&self) -> usize {
        let Some(leased) = &self.0 else { return SLOTS };
        let count = |word: &AtomicU64| word.load(Ordering::Acquire).count_ones() as usize;
        leased.owned.iter().map(count).sum()
    }

    /// What is left of the lease; `None`: there are no others, and no leases.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let leased = self.0.as_ref()?;
        let until = Duration::from_nanos(leased.until.load(Ordering::Acquire));
        Some(until.saturating_sub(now))
    }

    /// Whether this process may answer for a key. `now`: by the clock of leases; not
    /// asked when there are no others.
    pub(crate) fn of_key(
        &self,
        bucket: BucketId,
        key: &str,
        now: impl FnOnce() -> Duration,
    ) -> Result<(), FlowError> {
        match self.0.is_none() {
            true => Ok(()),
            false => self.of_slot(slot_of_text(bucket, key), now),
        }
    }

    /// The same for a slot.
    pub(crate) fn of_slot(
        &self,
        slot: usize,
        now: impl FnOnce() -> Duration,
    ) -> Result<(), FlowError> {
        match self.owns(slot) {
            true => self.live(now),
            false => Err(FlowError::NotHere("another worker owns the key")),
        }
    }

    /// Whether there is a lease, whatever is owned.
    pub(crate) fn live(&self, now: impl FnOnce() -> Duration) -> Result<(), FlowError> {
        match self.0.is_some() && self.left(now()).is_some_and(|left| left.is_zero()) {
            true => Err(FlowError::NotHere("the lease of this worker has ended")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(1);

    fn at(seconds: u64) -> impl FnOnce() -> Duration {
        move || Duration::from_secs(seconds)
    }

    #[test]
    fn the_only_process_asks_nobody() {
        let rights = Rights::alone();
        let never = || -> Duration { unreachable!("the clock is not looked at") };
        assert_eq!(rights.of_key(BUCKET, "a", never), Ok(()));
        assert_eq!((rights.owned(), rights.left(Duration::ZERO)), (SLOTS, None));
        rights.note_taken(3, Duration::from_secs(1));
        assert_eq!(rights.taken_at(3), Duration::ZERO, "from whom?");
    }

    #[test]
    fn a_worker_needs_the_slot_and_the_lease() {
        let rights = Rights::leased();
        let slot = slot_of_text(BUCKET, "a");
        rights.grant(Duration::from_secs(10));
        assert!(rights.of_key(BUCKET, "a", at(1)).is_err());
        rights.set(slot, true);
        assert_eq!(rights.of_key(BUCKET, "a", at(9)), Ok(()));
        assert!(rights.of_key(BUCKET, "a", at(10)).is_err());
        // An answer that comes late takes nothing back.
        rights.grant(Duration::from_secs(5));
        assert_eq!(rights.of_key(BUCKET, "a", at(9)), Ok(()));
        rights.set(slot, false);
        assert!(rights.of_key(BUCKET, "a", at(9)).is_err());
        assert_eq!(rights.owned(), 0);
    }

    #[test]
    fn what_was_read_without_a_lease_does_not_count_later() {
        let rights = Rights::leased();
        let since = rights.since();
        assert!(rights.holds_since(since));
        rights.lapse();
        assert!(!rights.holds_since(since) && rights.holds_since(rights.since()));
    }

    #[test]
    fn it_is_remembered_when_a_slot_came_from_another_worker() {
        let rights = Rights::leased();
        rights.set(7, true);
        assert_eq!(rights.taken_at(7), Duration::ZERO);
        rights.note_taken(7, Duration::from_secs(5));
        assert_eq!(rights.taken_at(7), Duration::from_secs(5));
        assert_eq!(rights.taken_at(SLOTS - 1), Duration::ZERO);
    }
}
