//! Copies kept here for other owners, and when it is looked whether they are still
//! needed. A copy goes only after a look at the metadata: nobody's word is enough.
//! Absent: the look.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{BlobId, ChangeOf, CopyOf, CopyState, slot_of};

/// Pause before the first look; doubled after each, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) of: CopyOf,
    pub(crate) bytes: u64,
    /// A row was seen to name it: once none does any more, none will again.
    named: bool,
    /// Its owner says that no commit of it is under way.
    told: bool,
    due: Duration,
    pause: Duration,
    /// Another one whenever it is kept, and whenever its owner counts on it: what was asked
    /// before says nothing of it.
    number: u64,
}

#[derive(Debug, Default)]
struct State {
    numbers: u64,
    held: HashMap<BlobId, Held>,
    due: BTreeSet<(Duration, u128)>,
    bytes: u64,
    /// Those on their way here, one of each at a time: whoever breaks off forgets what
    /// came of its blob.
    taking: HashSet<BlobId>,
}

impl State {
    fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn insert(&mut self, held: Held) {
        let blob = held.of.blob;
        self.remove(blob);
        self.due.insert((held.due, blob.0));
        self.bytes += held.bytes;
        self.held.insert(blob, held);
    }

    fn remove(&mut self, blob: BlobId) -> Option<Held> {
        let held = self.held.remove(&blob)?;
        self.due.remove(&(held.due, blob.0));
        self.bytes -= held.bytes;
        Some(held)
    }
}

/// Copies by blob, shared by all shards. Bounded by the space for dirty data.
#[derive(Debug, Default)]
pub struct HeldCopies(Mutex<State>);

impl HeldCopies {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of `bytes` bytes is flushed here. `named`: its row was seen.
    pub fn keep(&self, of: CopyOf, bytes: u64, named: bool, now: Duration) {
        let mut state = self.state();
        let number = state.next();
        state.insert(Held {
            of,
            bytes,
            named,
            told: false,
            due: now + PAUSE_FIRST,
            pause: PAUSE_FIRST,
            number,
        });
    }

    /// Its owner asks whether a copy is here, and counts on it from now on: neither what was
    /// said of it before, nor a look that is under way, ends it.
    pub(crate) fn count_on(&self, blob: BlobId) {
        let mut state = self.state();
        let number = state.next();
        if let Some(held) = state.held.get_mut(&blob) {
            held.told = false;
            held.number = number;
        }
    }

    /// Begins to take a copy in, unless it is here or on its way. Ended by
    /// [`HeldCopies::taken`].
    pub(crate) fn take(&self, blob: BlobId) -> bool {
        let mut state = self.state();
        !state.held.contains_key(&blob) && state.taking.insert(blob)
    }

    /// It is kept, or forgotten.
    pub(crate) fn taken(&self, blob: BlobId) {
        self.state().taking.remove(&blob);
    }

    /// Whether a copy is being taken in.
    pub(crate) fn is_coming(&self, blob: BlobId) -> bool {
        self.state().taking.contains(&blob)
    }

    /// Whether a copy is kept, or is being taken in.
    #[must_use]
    pub fn has(&self, blob: BlobId) -> bool {
        let state = self.state();
        state.held.contains_key(&blob) || state.taking.contains(&blob)
    }

    /// It is not kept for another any more: this worker owns the key.
    pub fn own(&self, blob: BlobId) {
        self.state().remove(blob);
    }

    /// Copies, and their bytes.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let state = self.state();
        (state.held.len() as u64, state.bytes)
    }

    /// Slots of the keys that there are copies of.
    #[must_use]
    pub fn slots(&self) -> BTreeSet<usize> {
        let state = self.state();
        let of = state.held.values().map(|held| &held.of);
        of.map(|of| slot_of(of.bucket, &of.key)).collect()
    }

    /// No commit of these is under way any more: it is time to look.
    pub(crate) fn told(&self, blobs: &[BlobId], now: Duration) {
        let mut state = self.state();
        for blob in blobs {
            if let Some(held) = state.remove(*blob) {
                state.insert(Held {
                    told: true,
                    due: now,
                    pause: PAUSE_FIRST,
                    ..held
                });
            }
        }
    }

    /// This worker has another session from now on: no commit that names a copy of an
    /// earlier one is made any more, whoever had it kept. All are looked at now.
    pub fn fence(&self, now: Duration) {
        let mut state = self.state();
        let blobs: Vec<BlobId> = state.held.keys().copied().collect();
        for blob in blobs {
            if let Some(mut held) = state.remove(blob) {
                held.of.owner = None;
                state.insert(Held {
                    due: now,
                    pause: PAUSE_FIRST,
                    ..held
                });
            }
        }
    }

    /// Copies that are to be looked at now, at most `limit`.
    /// With each the number by which it is judged.
    pub(crate) fn due(&self, now: Duration, limit: usize) -> Vec<(CopyOf, u64)> {
        let state = self.state();
        let due = state.due.iter().take_while(|(at, _)| *at <= now);
        let blobs = due.take(limit).map(|(_, blob)| BlobId(*blob));
        let copies = blobs.filter_map(|blob| state.held.get(&blob));
        copies.map(|held| (held.of.clone(), held.number)).collect()
    }

    /// What the metadata say of a copy; none: they could not be asked. `forget` is given its
    /// bytes if it is not needed any more, and whether its change is known to have been made
    /// and to have ended, before anybody can count on it again.
    pub(crate) fn judge(
        &self,
        (blob, number): (BlobId, u64),
        said: Option<CopyState>,
        now: Duration,
        forget: impl FnOnce(u64, bool),
    ) {
        let mut state = self.state();
        let Some(held) = state.remove(blob) else {
            return;
        };
        let said = said.filter(|_| held.number == number);
        let named = match said {
            Some(CopyState::Unnamed { over, change }) if over || held.named || held.told => {
                let ended = match change {
                    ChangeOf::Ended => true,
                    // Others tell of it: should their owner be lost, it is not over by this.
                    ChangeOf::Pending => false,
                    ChangeOf::Unknown => held.named,
                };
                return forget(held.bytes, ended);
            }
            Some(CopyState::Unnamed { .. }) | None => held.named,
            Some(CopyState::Named) => true,
        };
        state.insert(Held {
            named,
            // Of what was said before the row was there: it is needed after all.
            told: held.told && !named,
            due: now + held.pause,
            pause: (held.pause * 2).min(PAUSE_MAX),
            ..held
        });
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::{BucketId, CopyAt, NodeId, ObjectKey};

    use super::*;

    fn of(blob: u128) -> CopyOf {
        CopyOf {
            bucket: BucketId(1),
            key: ObjectKey::new("k").unwrap(),
            blob: BlobId(blob),
            part: None,
            owner: Some(CopyAt {
                node: NodeId::new("a").unwrap(),
                session: 1,
            }),
        }
    }

    /// Judges the first copy by an answer to what was asked just now; its bytes if it goes.
    fn judge(held: &HeldCopies, said: Option<CopyState>, now: Duration) -> Option<u64> {
        let number = held.due(Duration::MAX, 9)[0].1;
        judge_late(held, number, said, now)
    }

    fn judge_late(
        held: &HeldCopies,
        number: u64,
        said: Option<CopyState>,
        now: Duration,
    ) -> Option<u64> {
        let mut gone = None;
        held.judge((BlobId(1), number), said, now, |bytes, _| {
            gone = Some(bytes)
        });
        gone
    }

    fn due(held: &HeldCopies, now: Duration) -> Vec<CopyOf> {
        let due = held.due(now, 9).into_iter();
        due.map(|(copy, _)| copy).collect()
    }

    const fn unnamed(over: bool, change: ChangeOf) -> Option<CopyState> {
        Some(CopyState::Unnamed { over, change })
    }

    const UNNAMED: Option<CopyState> = unnamed(false, ChangeOf::Unknown);
    const OVER: Option<CopyState> = unnamed(true, ChangeOf::Unknown);
    const NAMED: Option<CopyState> = Some(CopyState::Named);

    #[test]
    fn a_copy_that_may_still_be_committed_stays() {
        let held = HeldCopies::default();
        held.keep(of(1), 10, false, Duration::ZERO);
        assert_eq!(judge(&held, UNNAMED, Duration::ZERO), None);
        assert_eq!(judge(&held, None, Duration::ZERO), None);
        assert_eq!(judge(&held, OVER, Duration::ZERO), Some(10));
        assert_eq!(held.totals(), (0, 0));
    }

    #[test]
    fn a_copy_that_was_named_goes_when_it_is_not_any_more() {
        let held = HeldCopies::default();
        held.keep(of(1), 10, false, Duration::ZERO);
        assert_eq!(judge(&held, NAMED, Duration::ZERO), None);
        assert_eq!(judge(&held, UNNAMED, Duration::ZERO), Some(10));
    }

    #[test]
    fn a_copy_that_goes_has_ended_only_if_its_change_was_made_and_has() {
        use ChangeOf::{Ended, Pending, Unknown};
        let cases = [
            (false, Unknown, false),
            (true, Unknown, true),
            (false, Ended, true),
            // Dropped by a row of others.
            (true, Pending, false),
            (false, Pending, false),
        ];
        for (seen, change, ends) in cases {
            let held = HeldCopies::default();
            held.keep(of(1), 10, false, Duration::ZERO);
            if seen {
                assert_eq!(judge(&held, NAMED, Duration::ZERO), None);
            }
            let number = held.due(Duration::MAX, 9)[0].1;
            let (mut told, said) = (None, unnamed(true, change));
            held.judge((BlobId(1), number), said, Duration::ZERO, |_, ended| {
                told = Some(ended);
            });
            assert_eq!(told, Some(ends), "{seen} {change:?}");
        }
    }

    #[test]
    fn the_owners_word_brings_a_look_and_is_not_enough() {
        let held = HeldCopies::default();
        let now = Duration::from_secs(1);
        held.keep(of(1), 10, false, now);
        assert!(held.due(now, 9).is_empty());
        held.told(&[BlobId(1), BlobId(7)], now);
        assert_eq!(due(&held, now), [of(1)]);
        assert_eq!(judge(&held, NAMED, now), None);
        assert_eq!(held.totals(), (1, 10));
        assert!(held.has(BlobId(1)) && !held.has(BlobId(7)));
        held.told(&[BlobId(1)], now);
        assert_eq!(judge(&held, UNNAMED, now), Some(10));
    }

    #[test]
    fn what_was_said_before_its_owner_counted_on_it_ends_no_copy() {
        let held = HeldCopies::default();
        let now = Duration::from_secs(1);
        held.keep(of(1), 10, false, now);
        // Of an attempt of before that failed: it comes late.
        held.told(&[BlobId(1)], now);
        let (_, asked) = held.due(now, 9).remove(0);
        held.count_on(BlobId(1));
        assert_eq!(judge_late(&held, asked, UNNAMED, now), None);
        assert_eq!(judge_late(&held, asked, OVER, now), None);
        // Its owner may be about to name it.
        assert_eq!(judge(&held, UNNAMED, now), None);
        assert_eq!(judge(&held, NAMED, now), None);
        assert_eq!(judge(&held, UNNAMED, now), Some(10));
        held.count_on(BlobId(1));
        assert_eq!(held.totals(), (0, 0));
    }

    #[test]
    fn what_was_asked_of_a_copy_of_before_says_nothing_of_the_next() {
        let held = HeldCopies::default();
        let now = Duration::from_secs(1);
        held.keep(of(1), 10, true, Duration::ZERO);
        let (_, asked) = held.due(Duration::MAX, 9).remove(0);
        assert_eq!(judge(&held, UNNAMED, now), Some(10));
        held.keep(of(1), 20, false, now);
        assert_eq!(judge_late(&held, asked, OVER, now), None);
        assert_eq!(held.totals(), (1, 20));
        assert_eq!(judge(&held, OVER, now), Some(20));
    }

    #[test]
    fn a_copy_comes_once_at_a_time() {
        let held = HeldCopies::default();
        assert!(held.take(BlobId(1)) && !held.take(BlobId(1)) && held.take(BlobId(2)));
        held.taken(BlobId(1));
        assert!(held.take(BlobId(1)) && held.slots().is_empty());
        held.keep(of(1), 10, false, Duration::ZERO);
        assert_eq!(held.slots(), [slot_of(of(1).bucket, &of(1).key)].into());
        held.taken(BlobId(1));
        assert!(!held.take(BlobId(1)), "it is kept");
    }

    #[test]
    fn in_a_new_session_nothing_of_before_is_committed_any_more() {
        let held = HeldCopies::default();
        held.keep(of(1), 10, false, Duration::ZERO);
        held.keep(of(2), 10, true, Duration::ZERO);
        let now = Duration::from_secs(1);
        assert!(held.due(now, 9).is_empty());
        held.fence(now);
        let due = held.due(now, 9);
        assert!(due.len() == 2 && due.iter().all(|(copy, _)| copy.owner.is_none()));
        held.keep(of(3), 10, false, now);
        let later = held.due(now + PAUSE_FIRST, 9);
        assert_eq!(
            later
                .iter()
                .filter(|(copy, _)| copy.owner.is_some())
                .count(),
            1
        );
    }

    #[test]
    fn looks_become_rarer() {
        let held = HeldCopies::default();
        let mut now = Duration::ZERO;
        held.keep(of(1), 10, false, now);
        let mut looks = 0;
        while now < Duration::from_secs(600) {
            now += Duration::from_secs(1);
            for (copy, number) in held.due(now, 9) {
                looks += 1;
                let forget = |_, _| unreachable!("it is named");
                held.judge((copy.blob, number), NAMED, now, forget);
            }
        }
        assert!((10..20).contains(&looks), "{looks}");
    }
}
