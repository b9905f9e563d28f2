//! A change that goes through takes the place of one whose bytes nobody has: when it
//! may, and what holds the other one off meanwhile. Absent: judging who has bytes.

use std::time::Duration;

use quickwater_proto::{BucketId, ObjectKey, Version};

use super::{Lane, PersistQueue, Place};

/// What a change that goes through has to do about what is pending for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    /// Wait until it has ended, failed or been tried.
    Waits,
    /// Wait until then (monotonic): something may be applied before that, and nothing of
    /// it is sent.
    Fenced(Duration),
    /// Nobody has its bytes, and nothing of it can be under way: the other may be sent.
    Replaceable,
}

/// The change of a key is not sent while this lives; another one is, in its place. The
/// key's slot is held.
pub(crate) struct Replacing<'a> {
    queue: &'a PersistQueue,
    place: Place,
    late: Option<Duration>,
}

impl Replacing<'_> {
    /// The other one got no answer, and may be applied until then (monotonic).
    pub(crate) fn late(mut self, until: Duration) {
        self.late = Some(until);
    }

    /// The other one is committed: what was pending has ended with that.
    pub(crate) fn done(self) {
        let mut state = self.queue.state();
        if state.lanes.get(&self.place).is_some_and(Lane::is_replacing) {
            state.take_out(&self.place);
        }
        // The lock must not be held when `self` ends.
        drop(state);
    }
}

impl Drop for Replacing<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let held_off = state.lanes.get(&self.place).is_some_and(Lane::is_replacing);
        if let Some(mut lane) = held_off.then(|| state.take_out(&self.place)).flatten() {
            let past = lane.past();
            past.replacing = false;
            if let Some(until) = self.late {
                let other = past.late.map_or(until, |(_, other)| other.max(until));
                // Not of what is pending, whichever version that has.
                past.late = Some((Version::default(), other));
                lane.due = lane.due.max(other);
            }
            state.put_in(self.place.clone(), lane);
        }
        drop(state);
        self.queue.changed.notify(usize::MAX);
    }
}

impl Lane {
    fn stands(&self, now: Duration) -> Stands {
        if self.settles() || self.running {
            return Stands::Waits;
        }
        let gone = self.gone().is_some();
        match self.late().filter(|(_, until)| *until > now) {
            Some((_, until)) if gone || self.not_before(now) > now => Stands::Fenced(until),
            None if gone => Stands::Replaceable,
            _ => Stands::Waits,
        }
    }
}

impl PersistQueue {
    /// How the change that is pending for a key stands, to one that goes through.
    pub(crate) fn stands(&self, bucket: BucketId, key: &ObjectKey, now: Duration) -> Stands {
        let state = self.state();
        let lane = state.lanes.get(&(bucket, key.clone()));
        lane.map_or(Stands::Waits, |lane| lane.stands(now))
    }

    /// Holds off the change of a key that may be replaced; `None`: there is none.
    ///
    /// # Errors
    /// It may not be replaced any more.
    pub(crate) fn replace(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        now: Duration,
    ) -> Result<Option<Replacing<'_>>, Stands> {
        let place = (bucket, key.clone());
        let mut state = self.state();
        match state.lanes.get(&place) {
            None => return Ok(None),
            Some(lane) if lane.settles() => return Ok(None),
            Some(lane) => match lane.stands(now) {
                Stands::Replaceable => {}
                other => return Err(other),
            },
        }
        if let Some(mut lane) = state.take_out(&place) {
            lane.past().replacing = true;
            state.put_in(place.clone(), lane);
        }
        drop(state);
        Ok(Some(Replacing {
            queue: self,
            place,
            late: None,
        }))
    }
}
