//! Changes that ended without the metadata having it on disk yet: until it has, a
//! crash may bring them back, and they need their bytes and the key in the UFS as
//! they left it. Absent: the flush and the release themselves.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quickwater_proto::BlobId;

use crate::decisions::persist_queue::Place;
use crate::io::DirtyAmount;

/// Chunks `0..n` of a blob.
pub(crate) type Chunks = (BlobId, u32);

/// What ended between two flushes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    keys: HashSet<Place>,
    /// Bytes that may be evicted after the flush.
    pub(crate) chunks: Vec<Chunks>,
    /// What that makes free, at least.
    frees: DirtyAmount,
}

#[derive(Default)]
struct State {
    waiting: Ended,
    /// Keys that are being flushed now.
    flushing: HashSet<Place>,
    /// What comes free when they are.
    freeing: DirtyAmount,
    /// Somebody will come for what waits.
    attended: bool,
}

/// What waits for the next flush; shared by all shards. Holds no more than what is
/// persisted between two flushes.
#[derive(Default)]
pub(crate) struct Releases(Mutex<State>);

impl Releases {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what makes `frees` free; `true`: the caller is to see to it that they are
    /// flushed and released.
    pub(crate) fn add(
        &self,
        place: Place,
        chunks: impl IntoIterator<Item = Chunks>,
        frees: DirtyAmount,
    ) -> bool {
        let mut state = self.state();
        state.waiting.frees = state.waiting.frees.and(frees);
        state.waiting.chunks.extend(chunks);
        state.waiting.keys.insert(place);
        !std::mem::replace(&mut state.attended, true)
    }

    /// A crash may bring back a change of this key that has ended.
    pub(crate) fn holds(&self, place: &Place) -> bool {
        let state = self.state();
        state.waiting.keys.contains(place) || state.flushing.contains(place)
    }

    /// What comes free with this flush and the next, at least.
    pub(crate) fn frees(&self) -> DirtyAmount {
        let state = self.state();
        state.waiting.frees.and(state.freeing)
    }

    /// What ended before the flush that begins now.
    pub(crate) fn begin_flush(&self) -> Vec<Chunks> {
        let mut state = self.state();
        let Ended {
            keys,
            chunks,
            frees,
        } = std::mem::take(&mut state.waiting);
        state.flushing = keys;
        state.freeing = frees;
        chunks
    }

    /// The flush failed: they wait for the next one.
    pub(crate) fn put_back(&self, chunks: Vec<Chunks>) {
        let mut state = self.state();
        let keys = std::mem::take(&mut state.flushing);
        state.waiting.keys.extend(keys);
        state.waiting.chunks.extend(chunks);
        let frees = std::mem::take(&mut state.freeing);
        state.waiting.frees = state.waiting.frees.and(frees);
    }

    /// The flush succeeded. `true`: nothing came in meanwhile, and nobody attends
    /// any more.
    pub(crate) fn end_flush(&self) -> bool {
        let mut state = self.state();
        state.flushing = HashSet::new();
        state.freeing = DirtyAmount::default();
        state.attended = !state.waiting.keys.is_empty();
        !state.attended
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::{BucketId, ObjectKey};

    use super::*;

    const ONE: DirtyAmount = DirtyAmount {
        bytes: 10,
        records: 1,
    };

    fn place(key: &str) -> Place {
        (BucketId(1), ObjectKey::new(key).unwrap())
    }

    #[test]
    fn one_attends_and_nothing_is_left_behind() {
        let releases = Releases::default();
        assert!(releases.add(place("a"), [(BlobId(1), 1)], ONE));
        assert!(
            !releases.add(place("b"), [(BlobId(2), 2)], ONE),
            "somebody attends"
        );
        let taken = releases.begin_flush();
        assert_eq!(taken, [(BlobId(1), 1), (BlobId(2), 2)]);
        assert!(!releases.add(place("c"), [], ONE));
        assert!(!releases.end_flush(), "one came in meanwhile");
        assert_eq!(releases.begin_flush(), []);
        assert!(releases.end_flush());
        assert!(
            releases.add(place("d"), [], ONE),
            "the next one attends again"
        );
    }

    #[test]
    fn a_key_is_held_until_a_flush_succeeded() {
        let releases = Releases::default();
        releases.add(place("a"), [(BlobId(1), 1)], ONE);
        assert!(releases.holds(&place("a")) && !releases.holds(&place("b")));
        let taken = releases.begin_flush();
        releases.add(place("b"), [], ONE);
        releases.put_back(taken);
        assert_eq!(releases.frees().bytes, 20, "nothing came free");
        assert!(releases.holds(&place("a")) && releases.holds(&place("b")));
        assert_eq!(releases.begin_flush(), [(BlobId(1), 1)]);
        assert!(releases.holds(&place("a")), "not flushed yet");
        releases.add(place("c"), [], ONE);
        assert_eq!(releases.frees().records, 3);
        releases.end_flush();
        assert_eq!(releases.frees(), ONE);
        assert!(!releases.holds(&place("a")) && releases.holds(&place("c")));
    }
}
