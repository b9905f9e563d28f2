//! Slots that this worker cannot give away: those of keys whose bytes neither a UFS nor
//! another worker has. Absent: the store, which knows what is still needed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quickwater_proto::BlobId;

/// Entries after which it is looked for the first time which of them have ended.
const PRUNE_FIRST: usize = 4_096;

#[derive(Debug, Default)]
struct State {
    slots: HashMap<BlobId, u16>,
    /// Entries at which it is time to look again.
    prune_at: usize,
}

/// Slots by blob, shared by all shards. A blob is noted once its bytes are flushed and
/// before anything names it; that it is not needed any more, nobody says: the store does not
/// keep it then. Holds about as many entries as there are blobs that no UFS has.
#[derive(Debug, Default)]
pub struct Anchors(Mutex<State>);

impl Anchors {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a blob are here, for a key of this slot.
    pub fn note(&self, blob: BlobId, slot: usize) {
        if let Ok(slot) = u16::try_from(slot) {
            self.state().slots.insert(blob, slot);
        }
    }

    /// The blob is another owner's.
    pub fn forget(&self, blob: BlobId) {
        self.state().slots.remove(&blob);
    }

    /// Slots of blobs that are still needed, but for those of which others have copies.
    /// `kept`: the blobs that the store keeps, asked once.
    #[must_use]
    pub fn slots(
        &self,
        kept: impl FnOnce() -> HashSet<BlobId>,
        copied: impl Fn(BlobId) -> bool,
    ) -> BTreeSet<usize> {
        self.prune(kept);
        let state = self.state();
        let alone = state.slots.iter().filter(|(blob, _)| !copied(**blob));
        alone.map(|(_, slot)| usize::from(*slot)).collect()
    }

    /// Forgets what has ended, when there may be much of it.
    pub fn prune_if_many(&self, kept: impl FnOnce() -> HashSet<BlobId>) {
        let due = {
            let state = self.state();
            state.slots.len() >= state.prune_at.max(PRUNE_FIRST)
        };
        if due {
            self.prune(kept);
        }
    }

    fn prune(&self, kept: impl FnOnce() -> HashSet<BlobId>) {
        // What is noted while the store is looked at is not in what it shows.
        let known: Vec<BlobId> = self.state().slots.keys().copied().collect();
        if known.is_empty() {
            return;
        }
        let kept = kept();
        let mut state = self.state();
        for blob in known.iter().filter(|blob| !kept.contains(blob)) {
            state.slots.remove(blob);
        }
        state.prune_at = state.slots.len() * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(blobs: &[u128]) -> HashSet<BlobId> {
        blobs.iter().map(|blob| BlobId(*blob)).collect()
    }

    #[test]
    fn a_slot_is_held_by_what_only_this_worker_has() {
        let anchors = Anchors::default();
        for (blob, slot) in [(1, 7), (2, 7), (3, 8), (4, 16_383)] {
            anchors.note(BlobId(blob), slot);
        }
        let copied = |blob| blob == BlobId(3);
        let slots = anchors.slots(|| kept(&[1, 2, 3, 4]), copied);
        assert_eq!(slots, BTreeSet::from([7, 16_383]));
        // One of two in a slot has ended, and the only one of another.
        let slots = anchors.slots(|| kept(&[2, 3]), copied);
        assert_eq!(slots, BTreeSet::from([7]));
        // The others of the copied one are lost.
        assert_eq!(anchors.slots(|| kept(&[2, 3]), |_| false).len(), 2);
        anchors.forget(BlobId(2));
        assert_eq!(anchors.slots(|| kept(&[2, 3]), |_| false), [8].into());
    }

    #[test]
    fn what_is_noted_during_the_look_stays() {
        let anchors = Anchors::default();
        anchors.note(BlobId(1), 1);
        let seen = anchors.slots(
            || {
                anchors.note(BlobId(2), 2);
                kept(&[])
            },
            |_| false,
        );
        assert_eq!(seen, [2].into());
    }

    #[test]
    fn it_is_looked_only_when_there_are_many() {
        let anchors = Anchors::default();
        for blob in 0..PRUNE_FIRST as u128 - 1 {
            anchors.note(BlobId(blob), 1);
        }
        anchors.prune_if_many(|| unreachable!("too few"));
        anchors.note(BlobId(1 << 100), 1);
        anchors.prune_if_many(|| kept(&[5]));
        assert_eq!(anchors.state().slots.len(), 1);
    }
}
