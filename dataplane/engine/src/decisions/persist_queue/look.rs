//! What administrators see of the queue and may hurry: a page, a sum, a retry.
//!
//! The queue's lock is held for a bounded number of changes at a time: writes go
//! on beside a look at a million of them. Absent: names of buckets, text.

use std::ops::Bound;
use std::time::Duration;

use quickwater_proto::{BucketId, ObjectKey, PendingChange};

use super::{Lane, PersistQueue, Place, QueuedChange, State};

/// Changes looked at under one hold of the lock.
const LOOKS_MAX: usize = 4_096;

/// Which keys are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueScope {
    /// Their bucket; `None`: every bucket.
    bucket: Option<BucketId>,
    /// They begin with this.
    prefix: String,
    /// Only the key `prefix` itself and those below `prefix/`.
    tree: bool,
}

impl QueueScope {
    /// Every key of every bucket.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            bucket: None,
            prefix: String::new(),
            tree: false,
        }
    }

    /// Every key of a bucket.
    #[must_use]
    pub fn bucket(bucket: BucketId) -> Self {
        Self::prefix(bucket, "")
    }

    /// Keys of a bucket that begin with `prefix`.
    #[must_use]
    pub fn prefix(bucket: BucketId, prefix: &str) -> Self {
        Self {
            bucket: Some(bucket),
            prefix: prefix.to_owned(),
            tree: false,
        }
    }

    /// A path as people mean it: the key itself and all below it; with `/` at its
    /// end, or empty, all that begins with it.
    #[must_use]
    pub fn path(bucket: BucketId, path: &str) -> Self {
        Self {
            tree: !path.is_empty() && !path.ends_with('/'),
            ..Self::prefix(bucket, path)
        }
    }

    pub(crate) fn contains(&self, bucket: BucketId, key: &ObjectKey) -> bool {
        let of = self.bucket.is_none_or(|of| of == bucket);
        of && key.as_str().starts_with(&self.prefix) && self.holds(key)
    }

    fn may_go_on(&self, (bucket, key): &Place) -> bool {
        self.bucket
            .is_none_or(|of| of == *bucket && key.as_str().starts_with(&self.prefix))
    }

    fn holds(&self, key: &ObjectKey) -> bool {
        if !self.tree {
            return true;
        }
        let rest = key.as_str().get(self.prefix.len()..).unwrap_or_default();
        rest.is_empty() || rest.starts_with('/')
    }
}

/// How a change is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuedState {
    /// It was not sent yet, or waits until an older request is dead.
    Waiting,
    /// It is being sent.
    Running,
    /// It failed and is tried again.
    Failing,
}

/// A part of the queue in order of bucket and key.
#[derive(Debug, Clone, Default)]
pub struct QueuePage {
    /// Changes; may be none although more follow.
    pub changes: Vec<QueuedChange>,
    /// Where to go on.
    pub next: Option<(BucketId, ObjectKey)>,
}

/// Sums over a scope, of what the UFS does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSum {
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
    /// Those of them whose bytes went with workers that were removed, or with this disk.
    pub lost: u64,
    /// Since when the newest of them is pending, milliseconds since the Unix epoch.
    pub newest_ms: Option<i64>,
}

impl QueueSum {
    fn add(&mut self, lane: &Lane) {
        match lane.pending.change {
            PendingChange::Put { size } => {
                self.puts += 1;
                self.bytes += size;
            }
            PendingChange::Delete => self.deletes += 1,
            // The UFS has it.
            PendingChange::Settling { .. } | PendingChange::Hold { .. } => return,
        }
        self.newest_ms = self.newest_ms.max(Some(lane.pending.since_ms));
        match lane.state() {
            QueuedState::Waiting => {}
            QueuedState::Running => self.running += 1,
            QueuedState::Failing => self.failing += 1,
        }
        self.lost += u64::from(lane.is_lost());
    }
}

impl PersistQueue {
    /// At most `limit` changes of a scope after a place, in one state or any.
    #[must_use]
    pub fn page(
        &self,
        scope: &QueueScope,
        after: Option<&Place>,
        state: Option<QueuedState>,
        limit: usize,
        now: Duration,
    ) -> QueuePage {
        let mut page = QueuePage::default();
        page.next = self.state().visit(scope, after, |place, lane| {
            if state.is_none_or(|state| state == lane.state()) {
                page.changes.push(lane.show(place, now));
            }
            page.changes.len() < limit
        });
        page
    }

    /// Sums over what was pending at `until_ms` (milliseconds since the Unix
    /// epoch) and is still.
    #[must_use]
    pub fn sum(&self, scope: &QueueScope, until_ms: i64) -> QueueSum {
        let mut sum = QueueSum::default();
        let mut after = None;
        loop {
            after = self.state().visit(scope, after.as_ref(), |_, lane| {
                if lane.pending.since_ms <= until_ms {
                    sum.add(lane);
                }
                true
            });
            if after.is_none() {
                return sum;
            }
        }
    }

    /// Makes changes of a scope that wait for a later attempt due now; how many. One that
    /// is being sent is sent again at once, should that fail: it may have met what is over
    /// by now. Not counted.
    pub fn retry_all(&self, scope: &QueueScope, now: Duration) -> u64 {
        self.retry_those(scope, now, |_| true)
    }

    /// The same of what nobody had who was there: others have come, or were removed.
    pub(crate) fn retry_gone(&self, now: Duration) {
        let everything = QueueScope::everything();
        self.retry_those(&everything, now, |lane| lane.gone().is_some());
    }

    fn retry_those(&self, scope: &QueueScope, now: Duration, meant: impl Fn(&Lane) -> bool) -> u64 {
        let (mut count, mut after) = (0, None);
        loop {
            let (mut waiting, mut under_way) = (Vec::new(), Vec::new());
            let mut state = self.state();
            after = state.visit(scope, after.as_ref(), |place, lane| {
                let settles = lane.settles();
                match lane.running {
                    _ if !meant(lane) => {}
                    true => under_way.push(place.clone()),
                    false if !settles && lane.due > now => waiting.push(place.clone()),
                    false => {}
                }
                true
            });
            for place in &under_way {
                state.hurry_after(place);
            }
            for place in &waiting {
                state.hurry(place, now);
            }
            drop(state);
            count += waiting.len() as u64;
            // Who waits for a change is not woken by others who wait.
            if !waiting.is_empty() {
                self.changed.notify(usize::MAX);
            }
            if after.is_none() {
                return count;
            }
        }
    }
}

impl Lane {
    fn state(&self) -> QueuedState {
        match (self.running, self.error()) {
            (true, _) => QueuedState::Running,
            (false, Some(_)) => QueuedState::Failing,
            (false, None) => QueuedState::Waiting,
        }
    }
}

impl State {
    /// Lanes of a bucket in order from the first key at or after `from`.
    pub(super) fn from(
        &self,
        bucket: BucketId,
        from: &str,
    ) -> impl Iterator<Item = (&Place, &Lane)> {
        // No key is before this one.
        let first = if from.is_empty() { "\0" } else { from };
        // What is no key is too long for one: none begins with it.
        let start = ObjectKey::new(first).ok().map(|key| (bucket, key));
        let lanes = start.map(|start| self.lanes.range(start..));
        let lanes = lanes.into_iter().flatten();
        lanes.take_while(move |(place, _)| place.0 == bucket)
    }

    /// Shows lanes of a scope in order while `look` wants more, but a bounded
    /// number of them; the last place looked at if more may follow.
    fn visit(
        &self,
        scope: &QueueScope,
        after: Option<&Place>,
        mut look: impl FnMut(&Place, &Lane) -> bool,
    ) -> Option<Place> {
        let lanes: Box<dyn Iterator<Item = (&Place, &Lane)>> = match (after, scope.bucket) {
            (Some(place), _) => {
                let bounds = (Bound::Excluded(place.clone()), Bound::Unbounded);
                Box::new(self.lanes.range(bounds))
            }
            (None, Some(bucket)) => Box::new(self.from(bucket, &scope.prefix)),
            (None, None) => Box::new(self.lanes.iter()),
        };
        let lanes = lanes.take_while(|(place, _)| scope.may_go_on(place));
        for (looked, (place, lane)) in lanes.enumerate() {
            let go_on = !scope.holds(&place.1) || look(place, lane);
            if !go_on || looked + 1 == LOOKS_MAX {
                return Some(place.clone());
            }
        }
        None
    }
}
