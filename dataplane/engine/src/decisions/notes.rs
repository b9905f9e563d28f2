//! Which keys of a worker among others have a note beside its store, and which of the
//! notes have to be looked at, there or by a process that has all slots and has just begun.
//! Absent: what a note says, and writing it.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_hash::Md5;
use quickwater_proto::{BlobId, BucketId, ObjectKey, slot_of};

type Place = (BucketId, ObjectKey);

/// For how long notes of slots that were given away stay once others have these: should the
/// metadata be lost before the next owner has noted the same, they tell of it.
pub(crate) const GIVEN_KEPT: Duration = Duration::from_secs(60);

/// The blob beside which the note of a key lies; it has no bytes.
#[must_use]
pub fn note_blob(bucket: BucketId, key: &ObjectKey) -> BlobId {
    let mut digest = Md5::new();
    digest.update(b"note");
    digest.update(&bucket.0.to_be_bytes());
    digest.update(key.as_str().as_bytes());
    BlobId(u128::from_be_bytes(digest.finish()))
}

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
    /// Found no room for their note when they were looked at, or changed, last. Each has
    /// something pending.
    without_room: BTreeSet<Place>,
    /// Of slots that were given away, and since when others have them.
    given: VecDeque<(Option<Duration>, Place)>,
    /// The blobs beside which these lie.
    given_blobs: HashSet<BlobId>,
}

/// A note to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) place: Place,
    /// Its slot was given away: if it is another's still, the note goes.
    pub(crate) given: bool,
    /// There was no room for its note before.
    pub(crate) again: bool,
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
        self.state().due.push_back(Due {
            place: (bucket, key.clone()),
            given: false,
            again: false,
        });
    }

    /// There is no room for the note of a key: it is looked at again after those that were not
    /// looked at yet.
    pub(crate) fn no_room(&self, bucket: BucketId, key: &ObjectKey) {
        self.state().without_room.insert((bucket, key.clone()));
    }

    /// Looks at one again later.
    pub(crate) fn again(&self, due: Due) {
        self.state().due.push_back(due);
    }

    /// Slots have gone to others: what is noted of their keys goes, in a while.
    pub fn give(&self, given: impl Fn(usize) -> bool) {
        let mut state = self.state();
        let state = &mut *state;
        let due = &mut state.due;
        due.retain(|one| !given(slot_of(one.place.0, &one.place.1)));
        let without_room = &mut state.without_room;
        without_room.retain(|place| !given(slot_of(place.0, &place.1)));
        let slots = state.there.iter().filter(|(slot, _)| given(**slot));
        for place in slots.flat_map(|(_, of_slot)| of_slot) {
            if state.given_blobs.insert(note_blob(place.0, &place.1)) {
                state.given.push_back((None, place.clone()));
            }
        }
    }

    /// Slots come back, or others come: what was noted of them before is looked at again.
    pub(crate) fn take_back(&self, taken: impl Fn(usize) -> bool) {
        let mut state = self.state();
        let state = &mut *state;
        for (since, place) in std::mem::take(&mut state.given) {
            if taken(slot_of(place.0, &place.1)) {
                state.take_given(place);
            } else {
                state.given.push_back((since, place));
            }
        }
    }

    /// What others have had for long is to be looked at. `is_others`: by the newest table.
    pub(crate) fn let_go(&self, now: Duration, is_others: impl Fn(usize) -> bool) {
        let mut state = self.state();
        let state = &mut *state;
        for (since, place) in std::mem::take(&mut state.given) {
            let slot = slot_of(place.0, &place.1);
            // Nobody else's: there may be nobody who ever takes it.
            let since = is_others(slot).then(|| since.unwrap_or(now));
            match since.is_some_and(|at| at + GIVEN_KEPT <= now) {
                true => state.take_given(place),
                false => state.given.push_back((since, place)),
            }
        }
    }

    /// It is not known whether others have the slot of a note that was given away: it stays.
    pub(crate) fn keep_given(&self, bucket: BucketId, key: &ObjectKey) {
        let mut state = self.state();
        if state.given_blobs.insert(note_blob(bucket, key)) {
            state.given.push_back((None, (bucket, key.clone())));
        }
    }

    /// Takes out what only notes of slots lie beside that were given away: nobody waits for
    /// these to go.
    pub fn leave_out_given(&self, blobs: &mut HashSet<BlobId>) {
        let state = self.state();
        blobs.retain(|blob| !state.given_blobs.contains(blob));
    }

    /// The next ones to be looked at, at most `most`; they wait until [`Notes::looked`].
    pub(crate) fn take(&self, most: usize) -> Vec<Due> {
        let mut state = self.state();
        let state = &mut *state;
        let count = state.due.len().min(most);
        let mut taken: Vec<Due> = state.due.drain(..count).collect();
        while taken.len() < most
            && let Some(place) = state.without_room.pop_first()
        {
            let (given, again) = (false, true);
            taken.push(Due {
                place,
                given,
                again,
            });
        }
        state.taken = taken.len();
        taken
    }

    /// Those that were taken were looked at, or wait to be looked at again.
    pub(crate) fn looked(&self) {
        self.state().taken = 0;
    }

    /// How many wait to be looked at for the first time, or are being looked at.
    #[must_use]
    pub fn queued(&self) -> u64 {
        let state = self.state();
        (state.due.len() + state.taken) as u64
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
        (state.due.len() + state.taken + state.without_room.len()) as u64
    }
}

impl State {
    fn take_given(&mut self, place: Place) {
        self.given_blobs.remove(&note_blob(place.0, &place.1));
        let (given, again) = (true, false);
        self.due.push_back(Due {
            place,
            given,
            again,
        });
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
        assert_eq!(notes.waiting(), 0);
        notes.begin_search();
        assert!(notes.waiting() == 1 && notes.found() == 0);
        notes.look_at(BucketId(1), &key("a"));
        notes.end_search();
        assert_eq!(notes.waiting(), 1);
        let due = notes.take(9).pop().unwrap();
        assert_eq!(notes.waiting(), 1, "not done yet");
        notes.again(due);
        notes.looked();
        assert_eq!((notes.waiting(), notes.take(9).len()), (1, 1));
        notes.looked();
        assert!(notes.take(9).is_empty() && notes.waiting() == 0);
    }

    #[test]
    fn what_finds_no_room_waits_for_it() {
        let bucket = BucketId(1);
        let notes = Notes::default();
        notes.no_room(bucket, &key("a"));
        notes.no_room(bucket, &key("a"));
        notes.no_room(bucket, &key("b"));
        notes.look_at(bucket, &key("new"));
        assert!(notes.waiting() == 3 && notes.queued() == 1);
        let taken = notes.take(2);
        assert_eq!(taken[0].place.1, key("new"), "it comes first");
        assert!(taken[1].place.1 == key("a") && taken[1].again && !taken[0].again);
        assert!(notes.waiting() == 3 && notes.queued() == 2);
        let gone = slot_of(bucket, &key("b"));
        notes.give(|slot| slot == gone);
        assert!(notes.take(2).is_empty() && notes.waiting() == 0);
    }

    #[test]
    fn notes_of_slots_that_are_given_away_are_looked_at() {
        let bucket = BucketId(1);
        let notes = Notes::default();
        let due = |name: &str, given| Due {
            place: (bucket, key(name)),
            given,
            again: false,
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
        let given = |slot| slot == gone;
        notes.give(given);
        notes.look_at(bucket, &key("new"));
        let (begun, over) = (Duration::from_secs(5), Duration::from_secs(5) + GIVEN_KEPT);
        notes.let_go(begun, |_| true);
        assert_eq!(notes.take(9), [due("new", false)], "it may be of use still");
        assert_eq!(notes.waiting(), 1, "not done yet");
        notes.let_go(over - Duration::from_millis(1), |_| true);
        assert!(notes.take(9).is_empty() && notes.waiting() == 0);
        let note = note_blob(bucket, &key("a"));
        let blobs = HashSet::from([note, BlobId(7)]);
        let needed = |notes: &Notes| {
            let mut needed = blobs.clone();
            notes.leave_out_given(&mut needed);
            needed.len()
        };
        assert_eq!(needed(&notes), 1);
        // The table by which they move was never made.
        notes.let_go(over, |_| false);
        notes.let_go(over, |_| true);
        assert!(notes.take(9).is_empty(), "from then on");
        let over = over + GIVEN_KEPT;
        notes.let_go(over, |_| true);
        assert_eq!(notes.take(9), [due("a", true)]);
        assert_eq!(needed(&notes), 2);
        assert!(notes.take(9).is_empty());
        // It is there still, until it is dropped.
        notes.give(given);
        notes.give(given);
        notes.take_back(|slot| slot != gone);
        assert!(notes.take(9).is_empty());
        notes.take_back(given);
        assert_eq!(
            notes.take(9),
            [due("a", true)],
            "it may say what has ended since"
        );
        notes.dropped(bucket, &key("a"));
        notes.give(given);
        notes.let_go(begun, |_| true);
        notes.let_go(over, |_| true);
        // What was to be noted of it is not ours any more.
        notes.look_at(bucket, &key("a"));
        notes.give(|slot| slot == gone);
        assert!(notes.take(9).is_empty() && notes.waiting() == 0);
    }
}
