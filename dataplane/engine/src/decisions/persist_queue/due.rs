//! Changes that wait, in the order they are to be sent; finds the next one without
//! looking at those that may not be sent. Absent: what runs, and the limits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quickwater_proto::{BucketId, ObjectKey};

use super::Place;

/// When, then the order of arrival.
type Turn = (Duration, u64, ObjectKey);

/// Of one bucket: objects whose memory is counted wait for it apart from the others.
#[derive(Default)]
struct Lists {
    counted: BTreeSet<Turn>,
    uncounted: BTreeSet<Turn>,
}

/// All that wait.
#[derive(Default)]
pub(super) struct Due {
    buckets: BTreeMap<BucketId, Lists>,
}

impl Due {
    /// Adds one; `counted`: it needs memory to be sent.
    pub(super) fn insert(&mut self, place: &Place, at: Duration, order: u64, counted: bool) {
        let lists = self.buckets.entry(place.0).or_default();
        let turn = (at, order, place.1.clone());
        match counted {
            true => lists.counted.insert(turn),
            false => lists.uncounted.insert(turn),
        };
    }

    /// Removes one, if it is there.
    pub(super) fn remove(&mut self, place: &Place, at: Duration, order: u64) {
        let Some(lists) = self.buckets.get_mut(&place.0) else {
            return;
        };
        let turn = (at, order, place.1.clone());
        if !lists.uncounted.remove(&turn) {
            lists.counted.remove(&turn);
        }
        if lists.counted.is_empty() && lists.uncounted.is_empty() {
            self.buckets.remove(&place.0);
        }
    }

    /// When the first of all is due.
    pub(super) fn first_at(&self) -> Option<Duration> {
        let lists = self.buckets.values();
        let firsts = lists.flat_map(|lists| [lists.counted.first(), lists.uncounted.first()]);
        firsts.flatten().map(|(at, ..)| *at).min()
    }

    /// The first that is due, of the buckets that are `free`. If the first that needs
    /// memory `fits` not, none that does is sent, not even a smaller one: else it would
    /// wait for ever.
    pub(super) fn next(
        &self,
        now: Duration,
        free: impl Fn(BucketId) -> bool,
        fits: impl Fn(&Place) -> bool,
    ) -> Option<Place> {
        let (mut counted, mut uncounted) = (None, None);
        for (bucket, lists) in self.buckets.iter().filter(|(bucket, _)| free(**bucket)) {
            earlier(&mut counted, *bucket, lists.counted.first(), now);
            earlier(&mut uncounted, *bucket, lists.uncounted.first(), now);
        }
        let place = |(bucket, turn): (BucketId, &Turn)| (bucket, turn.2.clone());
        if let Some((bucket, turn)) = counted
            && uncounted.is_none_or(|(_, other)| turn < other)
        {
            let place = place((bucket, turn));
            if fits(&place) {
                return Some(place);
            }
        }
        uncounted.map(place)
    }
}

/// Keeps in `best` the earlier of the two that is due.
fn earlier<'a>(
    best: &mut Option<(BucketId, &'a Turn)>,
    bucket: BucketId,
    turn: Option<&'a Turn>,
    now: Duration,
) {
    if let Some(turn) = turn.filter(|(at, ..)| *at <= now)
        && best.is_none_or(|(_, other)| turn < other)
    {
        *best = Some((bucket, turn));
    }
}
