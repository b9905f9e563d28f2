//! Uploads that were handed over to the UFS while parts of them are only here: which
//! is gone on with next, when a failed one is tried again, and whether writes want one
//! more to be handed over. Absent: their parts, IO, clocks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};
use quickwater_proto::{BucketId, ObjectKey, UploadId, UploadRecord};

use crate::decisions::persist_queue::{PersistConfig, QueueScope, backoff};

/// Uploads gone on with at a time, one part of each. A part being sent takes as much
/// memory as an object being sent.
const RUNNING_MAX: usize = 4;
/// The same of one bucket: a UFS that does not answer leaves turns to the others.
const BUCKET_RUNNING_MAX: usize = 2;
/// Pause before one more upload is handed over for want of room, so that the first can
/// make some.
const RELIEF_PAUSE: Duration = Duration::from_secs(1);
/// The same after none was found or taken, or while it is not known what comes of it.
const NO_RELIEF_PAUSE: Duration = Duration::from_secs(3);
/// Uploads being handed over for want of room at a time: a UFS that does not answer
/// leaves others their turn.
const RELIEFS_MAX: usize = 4;

/// An upload of which parts are only here though the UFS has been told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HandedOver {
    pub(crate) bucket: BucketId,
    pub(crate) key: ObjectKey,
    pub(crate) id: UploadId,
}

impl HandedOver {
    pub(crate) fn new(bucket: BucketId, upload: &UploadRecord) -> Self {
        Self {
            bucket,
            key: upload.key.clone(),
            id: upload.id,
        }
    }
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The UFS has all parts, or the upload has ended.
    Ended,
    /// It failed; `sent`: not before some part was there.
    Failed { sent: bool },
}

/// What became of looking for an upload to hand over for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relieved {
    /// One was handed over.
    Made,
    /// None of those looked at; there are others.
    NothingYet,
    /// None of all.
    Nothing,
}

/// How one upload is doing.
#[derive(Debug, Clone, Copy)]
struct Lane {
    due: Duration,
    order: u64,
    attempts: u32,
    running: bool,
    /// It got one more held part while it was running.
    again: bool,
    /// Should the turn under way fail, the next one does not wait.
    hurried: bool,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<HandedOver, Lane>,
    /// Those that do not run.
    due: BTreeSet<(Duration, u64, HandedOver)>,
    running: BTreeMap<BucketId, usize>,
    next_order: u64,
    /// Writes found no room, and only parts of open uploads could make some.
    wanted: bool,
    no_relief_before: Duration,
    reliefs: usize,
}

/// The uploads, shared by all shards; the persister takes them.
pub(crate) struct HeldQueue {
    config: PersistConfig,
    state: Mutex<State>,
    changed: Event,
}

impl HeldQueue {
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

    /// Takes in an upload that has held parts, due at once. There are no more of them
    /// than there are pinned records.
    pub(crate) fn add(&self, upload: HandedOver) {
        self.state().add(upload);
        self.changed.notify(usize::MAX);
    }

    /// How many there are.
    pub(crate) fn uploads(&self) -> usize {
        self.state().lanes.len()
    }

    /// The next upload that is due and may be gone on with.
    pub(crate) fn take(&self, now: Duration) -> Option<HandedOver> {
        self.state().take(now)
    }

    /// When the next upload is due that may be gone on with, as things are.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let state = self.state();
        let (due, ..) = state.free().next()?;
        Some(*due)
    }

    /// Says what became of a turn.
    pub(crate) fn finish(&self, upload: &HandedOver, turn: Turn, now: Duration) {
        self.state().finish(upload, turn, now, &self.config);
        self.changed.notify(usize::MAX);
    }

    /// Makes uploads of a scope that wait for a later turn due now; how many. One that has
    /// its turn gets the next at once, should that fail.
    pub(crate) fn hurry(&self, scope: &QueueScope, now: Duration) -> u64 {
        let hurried = self.state().hurry(scope, now);
        if hurried > 0 {
            self.changed.notify(usize::MAX);
        }
        hurried
    }

    /// Something changed after this was called.
    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    /// Whether parts of some upload are on their way: room comes free.
    pub(crate) fn is_moving(&self) -> bool {
        self.state().is_moving()
    }

    /// A write found no room though nothing that waits would make some.
    pub(crate) fn want_room(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.wanted, true) {
            drop(state);
            self.changed.notify(usize::MAX);
        }
    }

    /// Whether one more upload is to be handed over now. Not while those that were are
    /// being sent: writes that still find no room then say so again. Whoever gets `true`
    /// calls [`Self::end_relief`].
    pub(crate) fn take_relief(&self, now: Duration) -> bool {
        let mut state = self.state();
        let wanted = std::mem::take(&mut state.wanted);
        let free = state.reliefs < RELIEFS_MAX && now >= state.no_relief_before;
        let due = wanted && free && !state.is_moving();
        if due {
            state.reliefs += 1;
            // Until it is known what came of it.
            state.no_relief_before = now.saturating_add(NO_RELIEF_PAUSE);
        }
        due
    }

    /// Says what became of it.
    pub(crate) fn end_relief(&self, relieved: Relieved, now: Duration) {
        let mut state = self.state();
        state.reliefs = state.reliefs.saturating_sub(1);
        let pause = match relieved {
            Relieved::Made | Relieved::NothingYet => RELIEF_PAUSE,
            Relieved::Nothing => NO_RELIEF_PAUSE,
        };
        state.no_relief_before = now.saturating_add(pause);
    }
}

impl State {
    fn add(&mut self, upload: HandedOver) {
        self.next_order += 1;
        let lane = Lane {
            due: Duration::ZERO,
            order: self.next_order,
            attempts: 0,
            running: false,
            again: false,
            hurried: false,
        };
        match self.lanes.entry(upload) {
            Entry::Vacant(free) => {
                self.due.insert((lane.due, lane.order, free.key().clone()));
                free.insert(lane);
            }
            Entry::Occupied(mut there) if there.get().running => there.get_mut().again = true,
            // What makes the UFS fail does not end because there is one part more.
            Entry::Occupied(_) => {}
        }
    }

    /// Those that wait and for which there is a turn, in order.
    fn free(&self) -> impl Iterator<Item = &(Duration, u64, HandedOver)> {
        let turns = self.running.values().sum::<usize>() < RUNNING_MAX;
        let all = turns.then_some(&self.due).into_iter().flatten();
        all.filter(|(_, _, upload)| {
            let running = self.running.get(&upload.bucket).copied().unwrap_or(0);
            running < BUCKET_RUNNING_MAX
        })
    }

    fn take(&mut self, now: Duration) -> Option<HandedOver> {
        let next = self.free().next().filter(|(due, ..)| *due <= now)?.clone();
        self.due.remove(&next);
        let (_, _, upload) = next;
        if let Some(lane) = self.lanes.get_mut(&upload) {
            lane.running = true;
        }
        *self.running.entry(upload.bucket).or_default() += 1;
        Some(upload)
    }

    fn finish(&mut self, upload: &HandedOver, turn: Turn, now: Duration, config: &PersistConfig) {
        let Some(lane) = self.lanes.get_mut(upload).filter(|lane| lane.running) else {
            return;
        };
        if let Some(running) = self.running.get_mut(&upload.bucket) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&upload.bucket);
            }
        }
        let again = std::mem::take(&mut lane.again);
        let hurried = std::mem::take(&mut lane.hurried);
        lane.running = false;
        match turn {
            Turn::Ended if !again => {
                self.lanes.remove(upload);
                return;
            }
            Turn::Ended => (lane.attempts, lane.due) = (0, now),
            Turn::Failed { sent } => {
                lane.attempts = match sent {
                    true => 1,
                    false => lane.attempts.saturating_add(1),
                };
                let pause = match hurried {
                    true => Duration::ZERO,
                    false => backoff(lane.attempts, lane.order, config),
                };
                lane.due = now.saturating_add(pause);
            }
        }
        self.due.insert((lane.due, lane.order, upload.clone()));
    }

    fn hurry(&mut self, scope: &QueueScope, now: Duration) -> u64 {
        let meant = |upload: &HandedOver| scope.contains(upload.bucket, &upload.key);
        let later = self.due.iter().filter(|(due, ..)| *due > now);
        let waiting: Vec<_> = later.filter(|(.., of)| meant(of)).cloned().collect();
        for (due, order, upload) in &waiting {
            self.due.remove(&(*due, *order, upload.clone()));
            self.due.insert((now, *order, upload.clone()));
            if let Some(lane) = self.lanes.get_mut(upload) {
                lane.due = now;
            }
        }
        let running = self.lanes.iter_mut().filter(|(_, lane)| lane.running);
        for (_, lane) in running.filter(|(upload, _)| meant(upload)) {
            lane.hurried = true;
        }
        waiting.len() as u64
    }

    fn is_moving(&self) -> bool {
        self.lanes.values().any(|lane| lane.attempts == 0)
    }
}

#[cfg(test)]
mod tests;
