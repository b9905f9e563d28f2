//! Which versions of overwritten objects a read may see: not one older than the last
//! acked before it began, nor one that was not yet sent. Absent: IO; which bytes came.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Object;
use super::random::mix;

/// Objects whose versions can be told apart: a few bytes of memory for each.
pub(crate) const VERSIONED_OBJECTS_MAX: u64 = 10_000_000;
/// Objects that are looked at for one that nobody overwrites now.
const TRIES: u64 = 64;

/// The versions of all objects of a space. Version 0 is the prepared one.
#[derive(Debug)]
pub(crate) struct Versions(Vec<State>);

#[derive(Debug, Default)]
struct State {
    /// The last version that was sent.
    begun: AtomicU32,
    /// The last version that was acked.
    acked: AtomicU32,
    /// A write is under way: with two at once nobody knows which one stays.
    busy: AtomicBool,
}

impl Versions {
    pub(crate) fn new(objects: u64) -> Self {
        let count = objects.min(VERSIONED_OBJECTS_MAX);
        Self((0..count).map(|_| State::default()).collect())
    }

    /// The index from `wanted` on that may be written now, and its new version; ended
    /// by [`Self::wrote`]. None when all of some are being written.
    pub(crate) fn begin_write(&self, wanted: u64) -> Option<(u64, u32)> {
        let count = self.0.len() as u64;
        let any = (0..TRIES.min(count)).map(|step| (wanted + step) % count);
        let mut free = any.filter(|index| {
            self.state(*index)
                .is_some_and(|s| !s.busy.swap(true, Ordering::AcqRel))
        });
        let index = free.next()?;
        let before = self.state(index)?.begun.fetch_add(1, Ordering::AcqRel);
        Some((index, before + 1))
    }

    /// The write ended. A failed one may have been done or not: both are right then.
    pub(crate) fn wrote(&self, index: u64, version: u32, acked: bool) {
        if let Some(state) = self.state(index) {
            if acked {
                state.acked.store(version, Ordering::Release);
            }
            state.busy.store(false, Ordering::Release);
        }
    }

    /// The oldest version that a read which begins now may see.
    pub(crate) fn oldest(&self, index: u64) -> u32 {
        self.state(index)
            .map_or(0, |s| s.acked.load(Ordering::Acquire))
    }

    /// Contents that a read may see that began when `oldest` was acked and has its
    /// first bytes now.
    pub(crate) fn contents(&self, object: Object, oldest: u32) -> impl Iterator<Item = u64> {
        let newest = self
            .state(object.index)
            .map_or(0, |s| s.begun.load(Ordering::Acquire));
        (oldest..=newest).map(move |version| content(object, version))
    }

    fn state(&self, index: u64) -> Option<&State> {
        self.0.get(usize::try_from(index).ok()?)
    }
}

/// What is in a version of an object.
pub(crate) fn content(object: Object, version: u32) -> u64 {
    match version {
        0 => object.content,
        _ => mix(object.content, u64::from(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Object = Object {
        index: 1,
        size: 10,
        content: 77,
    };

    fn seen(versions: &Versions, oldest: u32) -> Vec<u64> {
        versions.contents(OBJECT, oldest).collect()
    }

    #[test]
    fn a_read_sees_what_was_acked_before_it_or_sent_since() {
        let versions = Versions::new(2);
        assert_eq!(seen(&versions, versions.oldest(1)), [77]);
        assert_eq!(versions.begin_write(1), Some((1, 1)));
        let during = versions.oldest(1);
        assert_eq!(seen(&versions, during), [77, content(OBJECT, 1)]);
        versions.wrote(1, 1, true);
        // What began during the write may see both, what begins now only the new one.
        assert_eq!(seen(&versions, during), [77, content(OBJECT, 1)]);
        assert_eq!(seen(&versions, versions.oldest(1)), [content(OBJECT, 1)]);
    }

    #[test]
    fn a_failed_write_leaves_both() {
        let versions = Versions::new(2);
        versions.begin_write(1);
        versions.wrote(1, 1, false);
        assert_eq!(seen(&versions, versions.oldest(1)).len(), 2);
    }

    #[test]
    fn nobody_writes_an_object_twice_at_once() {
        let versions = Versions::new(2);
        assert_eq!(versions.begin_write(1), Some((1, 1)));
        assert_eq!(versions.begin_write(1), Some((0, 1)));
        assert_eq!(versions.begin_write(1), None);
        versions.wrote(1, 1, true);
        assert_eq!(versions.begin_write(0), Some((1, 2)));
    }
}
