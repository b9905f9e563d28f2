//! The changes the queue holds, one per key, and the lists they are in: by when they
//! are due, by age, by what they do. Absent: the lock, who waits, the look from outside.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use quickwater_proto::{BucketId, CHUNK_BYTES, PendingChange, PendingRecord, Version, slot_of};

use super::due::Due;
use super::{
    Gone, Outcome, PersistConfig, Place, QueueTotals, QueuedChange, SentChange, Work, memory,
};

/// Chunks in memory of one object being sent: one being read, one at hand, three on
/// their way.
const SENDING_CHUNKS_MAX: u64 = 5;
/// Objects up to this size are not counted.
const UNCOUNTED_BYTES_MAX: u64 = 64 << 10;

/// A million of these may be held: what few of them have is apart.
pub(super) struct Lane {
    pub(super) pending: PendingRecord,
    pub(super) due: Duration,
    pub(super) order: u64,
    pub(super) running: bool,
    /// Should the attempt under way fail, the next one does not wait: what it met may be
    /// over by now. Ends with that attempt.
    pub(super) hurried: bool,
    /// What went wrong or was left open before; none for nearly all.
    pub(super) past: Option<Box<Past>>,
}

/// What became of earlier requests of a lane.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) attempts: u32,
    pub(super) error: Option<String>,
    /// A request of this version got no answer and may be applied until then.
    pub(super) late: Option<(Version, Duration)>,
    /// What a request that settles does, where this process sent it.
    pub(super) sent: Option<SentChange>,
    /// The last attempt found that nobody has its bytes.
    pub(super) gone: Option<Gone>,
    /// A change that goes through is being sent in its place: it is not sent meanwhile.
    pub(super) replacing: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) lanes: BTreeMap<Place, Lane>,
    /// Lanes that are not running, in the order they are to be sent.
    pub(super) due: Due,
    /// Keys whose change is a delete, in order: what the UFS lists of them is void.
    pub(super) deletes: BTreeSet<Place>,
    /// How many changes are pending since a millisecond: the first are the oldest.
    pub(super) ages: BTreeMap<i64, usize>,
    pub(super) running: HashMap<BucketId, usize>,
    /// Slots with something to be sent, or being sent.
    pub(super) slots: HashMap<usize, InSlot>,
    /// Chunks that the large objects being sent may hold.
    pub(super) chunks: HashMap<Place, u64>,
    pub(super) totals: QueueTotals,
    pub(super) next_order: u64,
}

/// How much there is of one slot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct InSlot {
    /// Changes that wait to be sent or are being sent.
    changes: u32,
    /// Requests under way, those of changes that were replaced included.
    pub(super) running: u32,
}

impl Lane {
    pub(super) fn show(&self, (bucket, key): &Place, now: Duration) -> QueuedChange {
        QueuedChange {
            bucket: *bucket,
            key: key.clone(),
            pending: self.pending.clone(),
            running: self.running,
            attempts: self.past.as_ref().map_or(0, |past| past.attempts),
            error: self.error().map(str::to_owned),
            due_in: self.due.saturating_sub(now),
        }
    }

    /// To be changed.
    pub(super) fn past(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }

    pub(super) fn late(&self) -> Option<(Version, Duration)> {
        self.past.as_ref()?.late
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.past.as_ref()?.error.as_deref()
    }

    pub(super) fn gone(&self) -> Option<Gone> {
        self.past.as_ref()?.gone
    }

    /// Nothing of it is sent before its bytes are brought back.
    pub(super) fn is_lost(&self) -> bool {
        !self.running && self.gone() == Some(Gone::Lost)
    }

    pub(super) fn is_replacing(&self) -> bool {
        self.past.as_ref().is_some_and(|past| past.replacing)
    }

    /// Chunks of memory that sending it takes; none for small objects.
    pub(super) fn chunks(&self) -> u64 {
        match self.pending.change {
            PendingChange::Put { size } if size > UNCOUNTED_BYTES_MAX => {
                size.div_ceil(CHUNK_BYTES.into()).min(SENDING_CHUNKS_MAX)
            }
            _ => 0,
        }
    }

    /// Not before a request for another change is certainly dead.
    pub(super) fn not_before(&self, now: Duration) -> Duration {
        match self.late() {
            Some((version, until)) if version != self.pending.version || self.settles() => {
                until.max(now)
            }
            _ => now,
        }
    }

    /// A request that settles is not waiting for anything to be sent.
    pub(super) fn has_age(&self) -> bool {
        !self.settles()
    }

    pub(super) fn settles(&self) -> bool {
        matches!(self.pending.change, PendingChange::Settling { .. })
    }

    /// Notes an attempt that failed; the wait before the next one.
    fn failed(
        &mut self,
        error: String,
        gone: Option<Gone>,
        hurried: bool,
        config: &PersistConfig,
    ) -> Duration {
        let order = self.order;
        let past = self.past();
        past.attempts = past.attempts.saturating_add(1);
        past.error = Some(memory::bounded(error));
        past.gone = gone;
        match (hurried, gone) {
            (true, _) => Duration::ZERO,
            // Only a worker that was removed by mistake brings them back.
            (false, Some(Gone::Lost)) => backoff(u32::MAX, order, config),
            (false, _) => backoff(past.attempts, order, config),
        }
    }
}

impl State {
    pub(super) fn enqueue(
        &mut self,
        place: Place,
        pending: PendingRecord,
        now: Duration,
        late: Option<(Version, Duration)>,
    ) {
        self.next_order += 1;
        let order = self.next_order;
        let (mut running, mut replacing) = (false, false);
        let mut dead_at = late;
        if let Some(old) = self.take_out(&place) {
            running = old.running;
            replacing = old.is_replacing();
            dead_at = old.late().or(dead_at);
        }
        let mut lane = Lane {
            pending,
            due: now,
            order,
            running,
            hurried: false,
            past: None,
        };
        if dead_at.is_some() {
            lane.past().late = dead_at;
        }
        if replacing {
            lane.past().replacing = true;
        }
        lane.due = lane.not_before(now);
        self.put_in(place, lane);
    }

    /// Removes a lane from every list; `running` stays counted.
    pub(super) fn take_out(&mut self, place: &Place) -> Option<Lane> {
        let lane = self.lanes.remove(place)?;
        self.totals.memory_bytes -= memory::of(place, &lane);
        self.due.remove(place, lane.due, lane.order);
        self.deletes.remove(place);
        if lane.has_age() {
            self.younger(lane.pending.since_ms);
            self.in_slot(place, |slot| slot.changes -= 1);
        }
        match lane.pending.change {
            PendingChange::Put { size } => {
                self.totals.puts -= 1;
                self.totals.bytes -= size;
            }
            PendingChange::Delete => self.totals.deletes -= 1,
            PendingChange::Settling { .. } | PendingChange::Hold { .. } => {}
        }
        if lane.error().is_some() {
            self.totals.failing -= 1;
        }
        Some(lane)
    }

    pub(super) fn put_in(&mut self, place: Place, lane: Lane) {
        self.totals.memory_bytes += memory::of(&place, &lane);
        match lane.pending.change {
            PendingChange::Put { size } => {
                self.totals.puts += 1;
                self.totals.bytes += size;
            }
            PendingChange::Delete => {
                self.totals.deletes += 1;
                self.deletes.insert(place.clone());
            }
            PendingChange::Settling { .. } | PendingChange::Hold { .. } => {}
        }
        if lane.has_age() {
            *self.ages.entry(lane.pending.since_ms).or_default() += 1;
            self.in_slot(&place, |slot| slot.changes += 1);
        }
        if lane.error().is_some() {
            self.totals.failing += 1;
        }
        if !lane.running && !lane.is_replacing() {
            let counted = lane.chunks() > 0;
            self.due.insert(&place, lane.due, lane.order, counted);
        }
        self.lanes.insert(place, lane);
    }

    fn in_slot(&mut self, place: &Place, count: impl FnOnce(&mut InSlot)) {
        let slot = slot_of(place.0, &place.1);
        let of = self.slots.entry(slot).or_default();
        count(of);
        if *of == InSlot::default() {
            self.slots.remove(&slot);
        }
    }

    /// One change fewer is pending since then.
    pub(super) fn younger(&mut self, since_ms: i64) {
        if let Some(count) = self.ages.get_mut(&since_ms) {
            *count -= 1;
            if *count == 0 {
                self.ages.remove(&since_ms);
            }
        }
    }

    pub(super) fn begin(&mut self, place: &Place) -> Option<Work> {
        let lane = self.lanes.get_mut(place)?;
        self.due.remove(place, lane.due, lane.order);
        lane.running = true;
        self.totals.running += 1;
        *self.running.entry(place.0).or_default() += 1;
        let chunks = lane.chunks();
        if chunks > 0 {
            self.chunks.insert(place.clone(), chunks);
        }
        let unanswered = lane.late().filter(|(of, _)| *of == lane.pending.version);
        let work = Work {
            place: place.clone(),
            pending: lane.pending.clone(),
            unanswered: unanswered.map(|(_, until)| until),
            order: lane.order,
        };
        self.in_slot(place, |slot| slot.running += 1);
        Some(work)
    }

    pub(super) fn finish(
        &mut self,
        place: &Place,
        version: Version,
        outcome: Outcome,
        now: Duration,
        config: &PersistConfig,
    ) {
        let Some(mut lane) = self.stop(place) else {
            return;
        };
        let hurried = std::mem::take(&mut lane.hurried);
        let current = lane.pending.version == version;
        match outcome {
            // Unless it got no answer again meanwhile.
            Outcome::Ended if current && !(lane.settles() && lane.due > now) => return,
            Outcome::Ended => lane.due = lane.not_before(now),
            Outcome::Settling { until, until_ms } => {
                lane.past().late = Some((version, until));
                if current {
                    lane.pending.change = PendingChange::Settling { until_ms };
                    lane.past().error = None;
                    lane.due = until;
                } else {
                    lane.due = lane.not_before(now);
                }
            }
            Outcome::Failed { error, late } => {
                if let Some(until) = late {
                    let later = lane.late().map_or(until, |(_, other)| other.max(until));
                    lane.past().late = Some((version, later));
                }
                let wait = match current {
                    true => lane.failed(error, None, hurried, config),
                    false => Duration::ZERO,
                };
                lane.due = lane.not_before(now) + wait;
            }
            Outcome::Missing { error, gone } => {
                let wait = match current {
                    true => lane.failed(error, Some(gone), hurried, config),
                    false => Duration::ZERO,
                };
                lane.due = lane.not_before(now) + wait;
            }
        }
        self.put_in(place.clone(), lane);
    }

    /// An attempt is over; the lane it was of, out of every list.
    fn stop(&mut self, place: &Place) -> Option<Lane> {
        self.totals.running = self.totals.running.saturating_sub(1);
        self.in_slot(place, |slot| slot.running = slot.running.saturating_sub(1));
        if let Slot::Occupied(mut count) = self.running.entry(place.0) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.chunks.remove(place);
        let mut lane = self.take_out(place)?;
        lane.running = false;
        Some(lane)
    }

    /// Forgets a change whose attempt is over, if it is still the one that was begun.
    pub(super) fn forgets(&mut self, work: &Work) -> bool {
        let lane = self.lanes.get(&work.place);
        let same = lane.is_some_and(|lane| lane.order == work.order);
        if same {
            self.stop(&work.place);
        }
        same
    }

    /// Has the attempt under way, should it fail, be followed by the next at once.
    pub(super) fn hurry_after(&mut self, place: &Place) {
        if let Some(lane) = self.lanes.get_mut(place).filter(|lane| lane.running) {
            lane.hurried = true;
        }
    }

    /// Whether it is due sooner now.
    pub(super) fn hurry(&mut self, place: &Place, now: Duration) -> bool {
        let Some(mut lane) = self.take_out(place) else {
            return false;
        };
        let before = lane.due;
        if !lane.running && !matches!(lane.pending.change, PendingChange::Settling { .. }) {
            lane.due = before.min(lane.not_before(now));
        }
        let moved = lane.due < before;
        self.put_in(place.clone(), lane);
        moved
    }
}

/// The wait before attempt `attempts + 1`: doubled each time up to the limit,
/// between half and all of it, so that many failed changes do not come together.
pub(crate) fn backoff(attempts: u32, order: u64, config: &PersistConfig) -> Duration {
    let doubled = attempts.saturating_sub(1).min(32);
    let wait = config
        .retry_initial
        .saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX));
    let wait = wait.min(config.retry_max);
    // Odd, with its bits spread; the upper bits are the most mixed.
    let mixed = (order ^ u64::from(attempts)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let half = wait / 2;
    half + half.mul_f64((mixed & 0xFFFF) as f64 / 65_535.0)
}
