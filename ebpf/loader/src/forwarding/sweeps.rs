//! What is over goes, and what has no room is told.

use std::sync::atomic::Ordering::Relaxed;

use quickwater_ebpf_shapes::{FLOWS_MAX, is_expected};

use super::Forwarding;
use super::entries::{Flows, Key, drop_entry, forward, is_arriving, now_ns};

/// So many connections that begin and are not accepted are too many: the kernel makes room
/// somewhat before the map is full.
const ARRIVALS_MANY: usize = FLOWS_MAX as usize / 8 * 7;

/// A map that had no place for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Of connections that went elsewhere: others stay here.
    Forwards,
    /// Of connections that are expected: others stay where they are.
    Expected,
    /// Of connections that begin: some of them stay here.
    Arrivals,
}

impl Forwarding {
    /// Removes entries that are too old to matter; how many are left, and how many were
    /// removed. To be called now and then: a look at every entry.
    #[must_use]
    pub fn sweep(&self) -> (usize, usize) {
        let (mut left, mut old) = (0, Vec::new());
        let now = now_ns();
        for (key, found) in self.all.forwards.iter().flatten() {
            match forward(found).is_over(now) {
                true => old.push(key),
                false => left += 1,
            }
        }
        // Each may be another connection's by now.
        old.retain(|key| {
            let mut maps = self.maps();
            let found = maps.forwards.get(key, 0);
            let over = found.is_ok_and(|entry| forward(entry).is_over(now_ns()));
            if over {
                drop_entry(maps.forwards.remove(key));
            }
            over
        });
        self.left.store(left, Relaxed);
        (left, old.len())
    }

    /// As [`Self::sweep`] for connections that are expected, and for those that were not
    /// accepted yet; how many are left of each.
    #[must_use]
    pub fn sweep_others(&self) -> (usize, usize) {
        let maps = || self.maps();
        let expected = sweep(
            &self.all.expected,
            |until, now| is_expected(*until, now),
            |key, over| {
                let mut maps = maps();
                if maps.expected.get(key, 0).is_ok_and(|until| over(&until)) {
                    drop_entry(maps.expected.remove(key));
                }
            },
        );
        let arrivals = sweep(
            &self.all.arrivals,
            |since, now| is_arriving(*since, now),
            |key, over| {
                let mut maps = maps();
                // One that begins again in between is not known to have come: it stays here.
                if maps.arrivals.get(key, 0).is_ok_and(|since| over(&since)) {
                    drop_entry(maps.arrivals.remove(key));
                }
            },
        );
        (expected, arrivals)
    }

    /// Which maps had no place for an entry since this was asked last, or may have had none.
    /// `arrivals`: entries that [`Self::sweep_others`] left there.
    #[must_use]
    pub fn full(&self, arrivals: usize) -> Vec<Full> {
        let refused = |map: Full| self.refused[map as usize].swap(false, Relaxed);
        let mut full: Vec<Full> = [Full::Forwards, Full::Expected].into();
        full.retain(|map| refused(*map));
        if arrivals >= ARRIVALS_MANY {
            full.push(Full::Arrivals);
        }
        full
    }

    /// Entries that the last [`Self::sweep`] left; 0 before the first one.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.left.load(Relaxed)
    }
}

/// Removes what is over; how many are left. Each is looked at again before: it may be another
/// connection's by then.
fn sweep(
    all: &Flows<u64>,
    is_live: impl Fn(&u64, u64) -> bool,
    remove: impl Fn(&Key, &dyn Fn(&u64) -> bool),
) -> usize {
    let (mut left, mut old) = (0, Vec::new());
    for (key, found) in all.iter().flatten() {
        match is_live(&found, now_ns()) {
            true => left += 1,
            false => old.push(key),
        }
    }
    let over = |found: &u64| !is_live(found, now_ns());
    old.iter().for_each(|key| remove(key, &over));
    left
}
