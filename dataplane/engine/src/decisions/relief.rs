//! Whose upload makes room for writes that find none: buckets in turns, those whose UFS
//! did not take one after a pause, and where the last look at all uploads ended. Absent:
//! when room is wanted (`held_queue`), the uploads' rows, IO, clocks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{BucketId, ObjectKey, UploadId};

/// Pause of a bucket after its UFS did not take an upload; doubled each time.
const PAUSE_INITIAL: Duration = Duration::from_secs(2);
/// Longest such pause: so long a UFS that is back is not asked for room.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// An upload as far as it matters here: the bytes it frees, and which it is.
pub(crate) type Weight = (u64, UploadId);

/// Where a look at a bucket goes on: after this upload, or at its first.
pub(crate) type After = Option<(ObjectKey, UploadId)>;

/// How one bucket is doing.
#[derive(Debug, Default)]
struct Lane {
    running: bool,
    failures: u32,
    due: Duration,
    /// What failed last: a smaller one has the next turn, because the UFS may refuse
    /// this key alone.
    failed: Option<Weight>,
}

#[derive(Default)]
struct State {
    /// Buckets that have a turn or have failed. No more than there are buckets.
    lanes: BTreeMap<BucketId, Lane>,
    next: Option<(BucketId, After)>,
}

/// The turns, shared by all shards.
#[derive(Default)]
pub(crate) struct Relief(Mutex<State>);

/// The best upload of one bucket, found by seeing them all.
#[derive(Debug, Default)]
pub(crate) struct Best {
    failures: u32,
    failed: Option<Weight>,
    largest: Option<(Weight, ObjectKey)>,
    /// The largest of those smaller than what failed last.
    smaller: Option<(Weight, ObjectKey)>,
}

impl Relief {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of the buckets to look at, in order, from where the last look ended; buckets
    /// that are gone are forgotten. The first comes again at the end if it is begun in the
    /// middle.
    pub(crate) fn round(&self, mut buckets: Vec<BucketId>) -> Vec<(BucketId, After)> {
        buckets.sort_unstable();
        let mut state = self.state();
        let there = |bucket: &BucketId| buckets.binary_search(bucket).is_ok();
        state.lanes.retain(|bucket, _| there(bucket));
        let Some((first, after)) = state.next.take() else {
            return buckets.into_iter().map(|bucket| (bucket, None)).collect();
        };
        let (after, again) = match there(&first) {
            true => (after.clone(), after.map(|_| (first, None))),
            false => (None, None),
        };
        let begin = buckets.partition_point(|bucket| *bucket < first) % buckets.len().max(1);
        buckets.rotate_left(begin);
        let mut round: Vec<_> = buckets.into_iter().map(|bucket| (bucket, None)).collect();
        if let Some(place) = round.first_mut() {
            place.1 = after;
        }
        round.extend(again);
        round
    }

    /// The next look begins here.
    pub(crate) fn go_on_at(&self, bucket: BucketId, after: After) {
        self.state().next = Some((bucket, after));
    }

    /// What is to be seen of a bucket, if it may have a turn.
    pub(crate) fn due(&self, bucket: BucketId, now: Duration) -> Option<Best> {
        match self.state().lanes.get(&bucket) {
            Some(lane) if lane.running || lane.due > now => None,
            Some(lane) => Some(Best {
                failures: lane.failures,
                failed: lane.failed,
                ..Best::default()
            }),
            None => Some(Best::default()),
        }
    }

    /// Takes a bucket's turn; `false`: another has it, or it has to pause.
    pub(crate) fn take(&self, bucket: BucketId, now: Duration) -> bool {
        let mut state = self.state();
        let lane = state.lanes.entry(bucket).or_default();
        let free = !lane.running && lane.due <= now;
        lane.running |= free;
        free
    }

    /// The turn ended well: what failed before may be tried again.
    pub(crate) fn succeeded(&self, bucket: BucketId) {
        self.state().lanes.remove(&bucket);
    }

    /// The turn ended because the upload did: that says nothing of the UFS.
    pub(crate) fn vanished(&self, bucket: BucketId) {
        if let Some(lane) = self.state().lanes.get_mut(&bucket) {
            lane.running = false;
        }
    }

    /// The UFS did not take `upload`.
    pub(crate) fn failed(&self, bucket: BucketId, upload: Weight, now: Duration) {
        let mut state = self.state();
        let lane = state.lanes.entry(bucket).or_default();
        let doubled = 1_u32.checked_shl(lane.failures).unwrap_or(u32::MAX);
        let pause = PAUSE_INITIAL.saturating_mul(doubled).min(PAUSE_MAX);
        *lane = Lane {
            running: false,
            failures: lane.failures.saturating_add(1),
            due: now.saturating_add(pause),
            failed: Some(upload),
        };
    }

    /// Ends all pauses: somebody knows that the UFS is back.
    pub(crate) fn hurry(&self) {
        for lane in self.state().lanes.values_mut() {
            lane.due = Duration::ZERO;
        }
    }
}

impl Best {
    /// Looks at one more upload.
    pub(crate) fn see(&mut self, upload: Weight, key: &ObjectKey) {
        let more = |than: &Option<(Weight, ObjectKey)>| {
            than.as_ref().is_none_or(|(most, _)| upload > *most)
        };
        if more(&self.largest) {
            self.largest = Some((upload, key.clone()));
        }
        if self.failed.is_some_and(|failed| upload < failed) && more(&self.smaller) {
            self.smaller = Some((upload, key.clone()));
        }
    }

    /// Whether there is one to try.
    pub(crate) fn has_any(&self) -> bool {
        self.largest.is_some()
    }

    /// The upload to try.
    pub(crate) fn chosen(self) -> Option<Candidate> {
        let (upload, key) = self.smaller.or(self.largest)?;
        Some(Candidate {
            failures: self.failures,
            upload,
            key,
        })
    }
}

/// The upload of a bucket that may be tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    failures: u32,
    pub(crate) upload: Weight,
    pub(crate) key: ObjectKey,
}

impl Candidate {
    /// Least first: buckets that failed less often, then larger uploads.
    pub(crate) fn rank(&self) -> (u32, std::cmp::Reverse<Weight>) {
        (self.failures, std::cmp::Reverse(self.upload))
    }
}

#[cfg(test)]
mod tests;
