//! The changes the UFS does not have yet: which is sent next, one per key at a
//! time, oldest first, and when a failed one is tried again.
//!
//! A request without an answer may still be applied. Until it is certainly dead
//! no *other* change of its key is sent: an old version could otherwise come
//! after a newer one, or bring a deleted key back. Absent: IO, clocks, the rows
//! (the metadata's).

mod due;
mod lanes;
mod look;
mod memory;
mod replace;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};
use quickwater_proto::{BucketId, ETag, ObjectKey, PendingChange, PendingRecord, Version, slot_of};

pub(crate) use lanes::backoff;
use lanes::{Lane, State};
pub use look::{QueuePage, QueueScope, QueueSum, QueuedState};
pub use memory::CHANGE_BYTES;
pub(crate) use replace::{Replacing, Stands};

/// Settings of the queue.
#[derive(Debug, Clone)]
pub struct PersistConfig {
    /// Wait before the second attempt; doubled before each later one.
    pub retry_initial: Duration,
    /// Longest wait before an attempt.
    pub retry_max: Duration,
    /// Changes sent at a time, all buckets together.
    pub running_max: usize,
    /// Changes sent at a time to the UFS of one bucket.
    pub bucket_running_max: usize,
    /// Chunks of memory that objects being sent may hold, all buckets together: a
    /// large object holds up to five at a time, small ones are not counted.
    pub running_chunks_max: u64,
    /// Changes the queue may hold; more writes are told to slow down.
    pub changes_max: usize,
    /// Memory the queue may take, bytes, as it counts: [`CHANGE_BYTES`] and the key
    /// of each change, and what is kept of failed attempts; more writes are told to
    /// slow down. What was pending at the start is taken in all the same.
    pub memory_bytes: u64,
    /// Larger objects are sent in parts of this size, bytes, where the UFS keeps
    /// the parts of an upload that was cut.
    pub part_bytes: u64,
}

impl Default for PersistConfig {
    fn default() -> Self {
        Self {
            retry_initial: Duration::from_secs(1),
            retry_max: Duration::from_secs(3600),
            running_max: 64,
            bucket_running_max: 64,
            running_chunks_max: u64::MAX,
            changes_max: 1_000_000,
            memory_bytes: 512 << 20,
            part_bytes: 256 << 20,
        }
    }
}

/// A key of a bucket.
pub(crate) type Place = (BucketId, ObjectKey);

/// A change to be sent now.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) place: Place,
    pub(crate) pending: PendingRecord,
    /// A request of this very change got no answer before.
    pub(crate) unanswered: Option<Duration>,
    /// Which entry of the queue it is: one that is taken in again has another number.
    order: u64,
}

/// A request of write-through that got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// The row that notes it.
    pub(crate) version: Version,
    /// It may be applied until then (monotonic).
    pub(crate) until: Duration,
    /// What it does; `None`: a process that has ended sent it.
    pub(crate) sent: Option<SentChange>,
}

/// What a request does to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentChange {
    /// The same for requests that do the same.
    pub(crate) same: u64,
    /// What the UFS shows when it was applied (`None`: nothing) and did not before.
    pub(crate) shows: Option<Option<ETag>>,
}

/// What became of an attempt.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The UFS has it and the metadata knows, or a newer change took its place.
    Ended,
    /// As `Ended`, but a request of it may still be applied until then (monotonic).
    Settling { until: Duration, until_ms: i64 },
    /// It failed; `late`: it may still be applied until then (monotonic).
    Failed {
        error: String,
        late: Option<Duration>,
    },
    /// Its bytes are not here, and nobody gives them.
    Missing { error: String, gone: Gone },
}

/// Why nobody gives the bytes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// All who have them are away, and may come back.
    Away,
    /// No worker that was not removed has them.
    Lost,
}

impl Gone {
    /// For administrators.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Away => "those who have it do not answer",
            Self::Lost => "lost, unless a removed worker comes back with it",
        }
    }
}

/// A change as it is shown to administrators.
#[derive(Debug, Clone)]
pub struct QueuedChange {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: ObjectKey,
    /// What is to be told to the UFS, and since when.
    pub pending: PendingRecord,
    /// It is being sent now.
    pub running: bool,
    /// Attempts that failed.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Time until the next attempt.
    pub due_in: Duration,
}

/// Sums over the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueTotals {
    /// Objects to be put.
    pub puts: u64,
    /// Keys to be deleted.
    pub deletes: u64,
    /// Bytes of the objects to be put.
    pub bytes: u64,
    /// Changes being sent.
    pub running: u64,
    /// Changes whose last attempt failed.
    pub failing: u64,
    /// Wall time of the oldest change, milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// Memory of the queue, as it counts it.
    pub memory_bytes: u64,
}

/// The queue, shared by all shards.
pub struct PersistQueue {
    config: PersistConfig,
    state: Mutex<State>,
    changed: Event,
}

impl PersistQueue {
    pub(crate) fn new(config: PersistConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
            changed: Event::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The change the UFS does not have yet, if any.
    pub(crate) fn pending(&self, bucket: BucketId, key: &ObjectKey) -> Option<PendingRecord> {
        let state = self.state();
        if state.lanes.is_empty() {
            return None;
        }
        let lane = state.lanes.get(&(bucket, key.clone()))?;
        Some(lane.pending.clone())
    }

    /// Whether a key that begins with `prefix` is gone but not yet in the UFS.
    pub(crate) fn deletes_below(&self, bucket: BucketId, prefix: &str) -> bool {
        let state = self.state();
        if state.deletes.is_empty() {
            return false;
        }
        // The first key at or after the prefix begins with it, or none does.
        match ObjectKey::new(prefix) {
            Ok(from) => {
                let first = state.deletes.range((bucket, from)..).next();
                first.is_some_and(|(of, key)| *of == bucket && key.as_str().starts_with(prefix))
            }
            // No prefix: any key of the bucket will do.
            Err(_) => state.deletes.iter().any(|(of, _)| *of == bucket),
        }
    }

    /// Whether one more change can be taken.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.state();
        let memory_bytes = state.totals.memory_bytes.saturating_add(memory::NEXT_BYTES);
        state.lanes.len() < self.config.changes_max && memory_bytes <= self.config.memory_bytes
    }

    /// Takes in what was just committed; `place`'s slot is held. `late`: a request
    /// for the change of that version (the default one: any other than this) may
    /// be applied until then.
    pub(crate) fn enqueue(
        &self,
        place: Place,
        pending: PendingRecord,
        now: Duration,
        late: Option<(Version, Duration)>,
    ) {
        self.state().enqueue(place, pending, now, late);
        self.changed.notify(usize::MAX);
    }

    /// Takes in a request that got no answer; `place`'s slot is held, and nothing
    /// else is pending for it but, maybe, an earlier request that does the same.
    pub(crate) fn settle(&self, place: Place, request: Unanswered, (now, now_ms): (Duration, i64)) {
        let Unanswered {
            version,
            mut until,
            sent,
        } = request;
        let mut state = self.state();
        if let Some((_, other)) = state.lanes.get(&place).and_then(Lane::late) {
            until = until.max(other);
        }
        let left = i64::try_from(until.saturating_sub(now).as_millis()).unwrap_or(i64::MAX);
        let pending = PendingRecord {
            version,
            change: PendingChange::Settling {
                until_ms: now_ms.saturating_add(left),
            },
            since_ms: now_ms,
            superseded: false,
        };
        state.enqueue(place.clone(), pending, now, None);
        if let Some(mut lane) = state.take_out(&place) {
            lane.past().late = Some((version, until));
            lane.past().sent = sent;
            lane.due = until;
            state.put_in(place, lane);
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// The request of a key that got no answer, if that is all that is pending.
    pub(crate) fn unanswered(&self, bucket: BucketId, key: &ObjectKey) -> Option<Unanswered> {
        let state = self.state();
        if state.lanes.is_empty() {
            return None;
        }
        let lane = state.lanes.get(&(bucket, key.clone()))?;
        lane.settles().then(|| Unanswered {
            version: lane.pending.version,
            until: lane.due,
            sent: lane.past.as_ref().and_then(|past| past.sent.clone()),
        })
    }

    /// A request that got no answer is dead; the key's slot is held.
    pub(crate) fn settled(&self, place: &Place, version: Version) {
        let mut state = self.state();
        let current = state.lanes.get(place);
        if current.is_some_and(|lane| lane.settles() && lane.pending.version == version) {
            state.take_out(place);
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// Takes in a change that was pending when the last process ended. `late_max`:
    /// a request that process sent may be applied for that long from now.
    pub fn load(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        mut pending: PendingRecord,
        (now, now_ms): (Duration, i64),
        late_max: Option<Duration>,
    ) {
        let until = match pending.change {
            PendingChange::Hold { .. } => match late_max.filter(|_| pending.superseded) {
                // Nothing is ever sent of it, but something was of what it replaced.
                Some(longest) => {
                    let left = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
                    let until_ms = now_ms.saturating_add(left);
                    pending.change = PendingChange::Settling { until_ms };
                    Some(now.saturating_add(longest))
                }
                None => return,
            },
            PendingChange::Settling { until_ms } if pending.change != PendingChange::UNDER_WAY => {
                let left = u64::try_from(until_ms.saturating_sub(now_ms)).unwrap_or(0);
                Some(now.saturating_add(Duration::from_millis(left)))
            }
            PendingChange::Settling { .. } | PendingChange::Put { .. } | PendingChange::Delete => {
                late_max.map(|longest| now.saturating_add(longest))
            }
        };
        // What was sent was this change, or the one it replaced.
        let of = match pending.superseded {
            true => Version::default(),
            false => pending.version,
        };
        let late = until.map(|until| (of, until));
        self.enqueue((bucket, key), pending, now, late);
    }

    /// The next change that is due and may be sent.
    pub(crate) fn take(&self, now: Duration) -> Option<Work> {
        let config = &self.config;
        let mut state = self.state();
        if state.totals.running >= config.running_max as u64 {
            return None;
        }
        let held: u64 = state.chunks.values().sum();
        let room = config.running_chunks_max.saturating_sub(held);
        let running = |bucket| state.running.get(&bucket).copied().unwrap_or(0);
        let free = |bucket| running(bucket) < config.bucket_running_max;
        let chunks = |place: &Place| state.lanes.get(place).map_or(0, Lane::chunks);
        // What is larger than all the memory is sent alone.
        let fits = |place: &Place| held == 0 || chunks(place) <= room;
        let place = state.due.next(now, free, fits)?;
        state.begin(&place)
    }

    /// When the next change is due, if none is now.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.state().due.first_at()
    }

    /// Says what became of the change `version` of a key. A newer one that came
    /// in between is due at once, or when the older one is certainly dead.
    pub(crate) fn finish(&self, place: &Place, version: Version, outcome: Outcome, now: Duration) {
        let config = &self.config;
        self.state().finish(place, version, outcome, now, config);
        self.changed.notify(usize::MAX);
    }

    /// As [`PersistQueue::finish`], of an attempt that failed when another worker saw to the
    /// key already: the change is forgotten, unless it came back with its key meanwhile.
    pub(crate) fn leave(&self, work: &Work, outcome: Outcome, now: Duration) {
        let mut state = self.state();
        match state.forgets(work) {
            true => {}
            false => state.finish(
                &work.place,
                work.pending.version,
                outcome,
                now,
                &self.config,
            ),
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// Forgets changes of keys that another worker sees to by now, but for those being sent
    /// ([`PersistQueue::leave`]): they are in the metadata, and come back with the keys.
    pub fn forget(&self, foreign: impl Fn(BucketId, &ObjectKey) -> bool) {
        let mut state = self.state();
        let places = state.lanes.iter();
        let places = places.filter(|((bucket, key), lane)| !lane.running && foreign(*bucket, key));
        let places: Vec<Place> = places.map(|(place, _)| place.clone()).collect();
        for place in &places {
            state.take_out(place);
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// Something changed after this was called: enqueued, ended, failed.
    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    /// Makes the change of one key due now, if it waits.
    pub(crate) fn hurry(&self, bucket: BucketId, key: &ObjectKey, now: Duration) {
        let moved = self.state().hurry(&(bucket, key.clone()), now);
        // Who waits for a change is not woken by others who wait.
        if moved {
            self.changed.notify(usize::MAX);
        }
    }

    /// The change of one key.
    #[must_use]
    pub fn stat(&self, bucket: BucketId, key: &ObjectKey, now: Duration) -> Option<QueuedChange> {
        let place = (bucket, key.clone());
        let state = self.state();
        let lane = state.lanes.get(&place)?;
        Some(lane.show(&place, now))
    }

    /// Whether the key's change is being sent now.
    pub(crate) fn is_running(&self, bucket: BucketId, key: &ObjectKey) -> bool {
        let place = (bucket, key.clone());
        let state = self.state();
        state.lanes.get(&place).is_some_and(|lane| lane.running)
    }

    /// Slots with changes that are to be sent, and whether one of them is being sent now.
    #[must_use]
    pub fn slots(&self) -> HashMap<usize, bool> {
        let state = self.state();
        let slots = state.slots.iter();
        slots.map(|(slot, of)| (*slot, of.running > 0)).collect()
    }

    /// Forgets what is pending in slots that are not ours any more: who has them reads the
    /// rows. What is being sent now says later what became of it, and is not heard.
    pub(crate) fn let_go(&self, given: impl Fn(usize) -> bool) {
        let mut state = self.state();
        let places = state.lanes.keys();
        let places = places.filter(|(bucket, key)| given(slot_of(*bucket, key)));
        let places: Vec<Place> = places.cloned().collect();
        for place in &places {
            state.take_out(place);
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// Sums.
    #[must_use]
    pub fn totals(&self) -> QueueTotals {
        let state = self.state();
        QueueTotals {
            oldest_ms: state.ages.keys().next().copied(),
            ..state.totals
        }
    }

    /// Changes of a bucket that are not in its UFS yet.
    #[must_use]
    pub fn any_of(&self, bucket: BucketId) -> bool {
        self.state().from(bucket, "").next().is_some()
    }
}

#[cfg(test)]
mod tests;
