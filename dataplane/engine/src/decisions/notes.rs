//! Which keys of a worker among others have a note beside its store, and which of the
//! notes have to be looked at, there or by a process that has all slots and has just begun.
//! Absent: what a note says, and writing it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quickwater_proto::{BucketId, ObjectKey, slot_of};

type Place = (BucketId, ObjectKey);

/// Notes of the slots of this worker. There are no more of them than dirty space holds.
#[derive(Debug, Default)]
pub struct Notes {
    /// Slots come and go here; a process that has them all needs none of this.
    moves: AtomicBool,
    /// What is pending is looked through for what no note tells of, or of slots that were taken
    /// it has not been said that all is noted.
    searching: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By slot.
    there: BTreeMap<usize, BTreeSet<Place>>,
    /// To be looked at, in this order.
    due: VecDeque<Due>,
    /// Of these, being looked at.
    taken: usize,
}

/// A note to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) place: Place,
    /// Its slot was given away: if it is another's still, the note goes.
    pub(crate) given: bool,
}

impl Notes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is remembered which there are: slots come and go.
    pub fn follow(&self) {
        self.moves.store(true, Ordering::Release);
    }

    fn is_followed(&self) -> bool {
        self.moves.load(Ordering::Acquire)
    }

    /// From now on all that is pending, here or of slots that are taken, is looked through, until
    /// [`Notes::end_search`]: what no note tells of waits to be looked at.
    pub fn begin_search(&self) {
        self.searching.store(true, Ordering::Release);
    }

    /// All has been looked through.
    pub fn end_search(&self) {
        self.searching.store(false, Ordering::Release);
    }

    /// Nothing is to be looked at any more, nor will be.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_followed() && self.waiting() == 0
    }

    /// A key has a note.
    pub fn written(&self, bucket: BucketId, key: &ObjectKey) {
        if self.is_followed() {
            let slot = slot_of(bucket, key);
            let mut state = self.state();
            let of_slot = state.there.entry(slot).or_default();
            of_slot.insert((bucket, key.clone()));
        }
    }

    /// It has none any more.
    pub(crate) fn dropped(&self, bucket: BucketId, key: &ObjectKey) {
        if !self.is_followed() {
            return;
        }
        let slot = slot_of(bucket, key);
        let mut state = self.state();
        if let Some(of_slot) = state.there.get_mut(&slot) {
            of_slot.remove(&(bucket, key.clone()));
            if of_slot.is_empty() {
                state.there.remove(&slot);
            }
        }
    }

    /// What is pending of a key is to be noted as the metadata have it.
    pub fn look_at(&self, bucket: BucketId, key: &ObjectKey) {
        let place = (bucket, key.clone());
        let given = false;
        self.state().due.push_back(Due { place, given });
    }

    /// Looks at one again later.
    pub(crate) fn again(&self, due: Due) {
        self.state().due.push_back(due);
    }

    /// Slots have gone to others: what is noted of their keys says nothing any more.
    pub fn give(&self, given: impl Fn(usize) -> bool) {
        let mut state = self.state();
        let State { there, due, .. } = &mut *state;
        due.retain(|one| !given(slot_of(one.place.0, &one.place.1)));
        let slots = there.iter().filter(|(slot, _)| given(**slot));
        let places = slots.flat_map(|(_, of_slot)| of_slot.iter().cloned());
        due.extend(places.map(|place| Due { place, given: true }));
    }

    /// The next ones to be looked at, at most `most`; until the next are taken they wait.
    pub(crate) fn take(&self, most: usize) -> Vec<Due> {
        let mut state = self.state();
        let count = state.due.len().min(most);
        state.taken = count;
        state.due.drain(..count).collect()
    }

    /// How many wait to be looked at: a rebuild would not know of what they are about. At
    /// least one while they are searched for.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        // Before those it found are counted: it never falls to 0 in between.
        let searching = self.searching.load(Ordering::Acquire);
        self.found() + u64::from(searching)
    }

    /// The same, of those that were found.
    #[must_use]
    pub fn found(&self) -> u64 {
        let state = self.state();
        (state.due.len() + state.taken) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[test]
    fn what_is_searched_for_waits_until_it_was_looked_at() {
        let notes = Notes::default();
        assert!(notes.is_done());
        notes.begin_search();
        assert!(notes.waiting() == 1 && notes.found() == 0 && !notes.is_done());
        notes.look_at(BucketId(1), &key("a"));
        notes.end_search();
        assert!(notes.waiting() == 1 && !notes.is_done());
        let due = notes.take(9).pop().unwrap();
        assert!(!notes.is_done(), "not done yet");
        notes.again(due);
        assert_eq!(notes.take(9).len(), 1);
        assert!(notes.take(9).is_empty() && notes.is_done());
    }

    #[test]
    fn notes_of_slots_that_are_given_away_are_looked_at() {
        let bucket = BucketId(1);
        let notes = Notes::default();
        let due = |name: &str, given| Due {
            place: (bucket, key(name)),
            given,
        };
        notes.written(bucket, &key("a"));
        notes.give(|_| true);
        assert_eq!(notes.waiting(), 0, "nobody follows them");
        notes.follow();
        for name in ["a", "b", "c"] {
            notes.written(bucket, &key(name));
        }
        notes.dropped(bucket, &key("b"));
        let gone = slot_of(bucket, &key("a"));
        assert_ne!(gone, slot_of(bucket, &key("c")));
        notes.give(|slot| slot == gone);
        notes.look_at(bucket, &key("new"));
        assert_eq!(notes.take(1), [due("a", true)]);
        assert_eq!(notes.take(9), [due("new", false)]);
        assert_eq!(notes.waiting(), 1, "not done yet");
        assert!(notes.take(9).is_empty() && notes.waiting() == 0);
        // It is there still, until it is dropped.
        notes.give(|slot| slot == gone);
        notes.dropped(bucket, &key("a"));
        assert_eq!(notes.take(9), [due("a", true)]);
        // What was to be noted of it is not ours any more.
        notes.look_at(bucket, &key("a"));
        notes.give(|slot| slot == gone);
        assert!(notes.take(9).is_empty() && notes.waiting() == 0);
    }
}
