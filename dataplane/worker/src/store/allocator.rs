//! Which segment is written next: decisions over numbers. Absent: IO, clock.

use std::collections::VecDeque;
use std::sync::Arc;

use super::dirty::crowded_bytes;
use super::footer::Entry;
use super::segment::Segment;

/// A segment some of which is still to be written: found so at open.
#[derive(Debug)]
pub(super) struct Resume {
    /// The segment.
    pub(super) segment: Arc<Segment>,
    /// First free unit.
    pub(super) tail: u32,
    /// Its records.
    pub(super) entries: Vec<Entry>,
}

/// What to do to get a segment.
#[derive(Debug)]
pub(super) enum Next {
    /// Go on where the last process stopped.
    Resume(Resume),
    /// Begin a new lap of this one; nothing in it is live.
    Recycle(Arc<Segment>),
    /// Make a new one of this number.
    Create(u32),
    /// Evict the records of this one. It must come back by
    /// [`Allocator::evicted`] or [`Allocator::keep`].
    Evict(Arc<Segment>),
    /// Others are at it; ask again soon.
    Wait,
    /// Nothing can be freed.
    Full,
}

/// Segments by what can be done with them; those being written or evicted are
/// with their shards.
#[derive(Debug)]
pub(super) struct Allocator {
    resumable: VecDeque<Resume>,
    free: Vec<Arc<Segment>>,
    /// Full segments, oldest first.
    sealed: VecDeque<Arc<Segment>>,
    /// Evicted, but a read is still in progress.
    draining: Vec<Arc<Segment>>,
    evicting: usize,
    /// Numbers that have no file yet.
    missing: VecDeque<u32>,
    segment_bytes: u64,
}

impl Allocator {
    /// Starts with what recovery found; `sealed` oldest first.
    pub(super) fn new(
        resumable: VecDeque<Resume>,
        free: Vec<Arc<Segment>>,
        sealed: VecDeque<Arc<Segment>>,
        missing: VecDeque<u32>,
        segment_bytes: u64,
    ) -> Self {
        Self {
            resumable,
            free,
            sealed,
            draining: Vec::new(),
            evicting: 0,
            missing,
            segment_bytes,
        }
    }

    /// Chooses. `pinned_room`: bytes of pinned records the caller can take over
    /// into the segment it writes now; `may_create`: making a file did not just
    /// fail for want of space; `crowded`: there are too many records, so one is
    /// evicted first though segments are free.
    pub(super) fn next(&mut self, pinned_room: u64, may_create: bool, crowded: bool) -> Next {
        if let Some(resume) = self.resumable.pop_front() {
            return Next::Resume(resume);
        }
        let drained = self.draining.iter().position(|s| !s.is_pinned());
        if let Some(at) = drained {
            return Next::Recycle(self.draining.swap_remove(at));
        }
        if crowded && let Some(segment) = self.take_victim(pinned_room) {
            return Next::Evict(segment);
        }
        if let Some(segment) = self.free.pop() {
            return Next::Recycle(segment);
        }
        if may_create && let Some(id) = self.missing.pop_front() {
            return Next::Create(id);
        }
        if let Some(segment) = self.take_victim(pinned_room) {
            return Next::Evict(segment);
        }
        if self.evicting > 0 || !self.draining.is_empty() {
            return Next::Wait;
        }
        Next::Full
    }

    fn take_victim(&mut self, pinned_room: u64) -> Option<Arc<Segment>> {
        let segment = self.sealed.remove(self.victim(pinned_room)?)?;
        self.evicting += 1;
        Some(segment)
    }

    /// The oldest sealed segment whose pinned records, at most half of it, can
    /// be taken over. If there is none: the one with the fewest, as long as
    /// freeing it gains something.
    fn victim(&self, pinned_room: u64) -> Option<usize> {
        let most = pinned_room.min(self.segment_bytes / 2);
        let oldest = self.sealed.iter().position(|s| s.pinned_bytes() <= most);
        oldest.or_else(|| {
            let most = pinned_room.min(crowded_bytes(self.segment_bytes));
            let sealed = self.sealed.iter().enumerate();
            let fewest = sealed.min_by_key(|(_, s)| s.pinned_bytes());
            fewest
                .filter(|(_, s)| s.pinned_bytes() <= most)
                .map(|(at, _)| at)
        })
    }

    /// A file could not be made; its number is free again.
    pub(super) fn not_created(&mut self, id: u32) {
        self.missing.push_front(id);
    }

    /// A segment could not be resumed now.
    pub(super) fn not_resumed(&mut self, resume: Resume) {
        self.resumable.push_front(resume);
    }

    /// A segment was written to its end.
    pub(super) fn seal(&mut self, segment: Arc<Segment>) {
        self.sealed.push_back(segment);
    }

    /// An eviction ended: nothing in the segment is live, but reads may still
    /// be in progress.
    pub(super) fn evicted(&mut self, segment: Arc<Segment>) {
        self.evicting -= 1;
        self.draining.push(segment);
    }

    /// An eviction failed: some records are still live.
    pub(super) fn keep(&mut self, segment: Arc<Segment>) {
        self.evicting -= 1;
        self.sealed.push_back(segment);
    }

    /// A segment was taken but its lap could not begin.
    pub(super) fn give_back(&mut self, segment: Arc<Segment>) {
        self.free.push(segment);
    }
}
