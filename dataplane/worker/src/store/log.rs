//! What a shard has to write and where: queue, current segment, spare.
//!
//! Decisions only: which records go together and whether they fit. Absent: IO.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use monoio::fs::File;
use quickwater_engine::io::{ChunkId, DiskError, Durability};

use super::allocator::Resume;
use super::footer::{Entry, footer_bytes};
use super::group::{BATCH_BYTES_MAX, Group, LONG_MAX, Member, is_small};
use super::index::Location;
use super::local::{Receiver, Sender, oneshot};
use super::record::footprint;
use super::segment::{Segment, unit_bytes};
use crate::buffers::PoolBuf;

/// Most records queued on a shard; the next is refused.
pub(super) const QUEUE_MAX: usize = 4096;

/// Answer to one write: the buffer back, and whether it is stored.
pub(super) type Written = (PoolBuf, Result<(), DiskError>);

/// A record to be written.
pub(super) struct Pending {
    pub(super) chunk: ChunkId,
    pub(super) data: PoolBuf,
    pub(super) durability: Durability,
    /// It is a copy of this record, made because that one's segment goes.
    pub(super) moved_from: Option<Location>,
    data_len: u32,
    sender: Sender<Written>,
}

impl Pending {
    /// A record and where its answer will come.
    pub(super) fn new(
        chunk: ChunkId,
        data: PoolBuf,
        durability: Durability,
        moved_from: Option<Location>,
    ) -> (Self, Receiver<Written>) {
        let (sender, receiver) = oneshot();
        let data_len = data.len() as u32;
        let pending = Self {
            chunk,
            data,
            durability,
            moved_from,
            data_len,
            sender,
        };
        (pending, receiver)
    }

    /// Bytes of data, also while the buffer is away.
    pub(super) fn data_len(&self) -> u32 {
        self.data_len
    }

    /// Whether it must not be evicted.
    pub(super) fn pinned(&self) -> bool {
        self.durability != Durability::Cached
    }

    /// Whether it is of no use: pinned, so that somebody must release or forget
    /// it, and nobody waits to learn that it is there.
    pub(super) fn is_orphan(&self) -> bool {
        self.pinned() && self.moved_from.is_none() && self.sender.is_abandoned()
    }

    /// Ends it.
    pub(super) fn answer(self, outcome: Result<(), DiskError>) {
        self.sender.send((self.data, outcome));
    }

    fn footprint(&self) -> u64 {
        footprint(self.data_len as usize) as u64
    }
}

/// A segment being written.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Rc<File>,
    /// First free unit.
    tail: u32,
    pub(super) entries: Vec<Entry>,
    /// Pinned records were written, or are being written, since the last flush.
    pub(super) unflushed: bool,
}

impl Active {
    /// A segment whose header is on disk (a new lap begins at unit 1).
    pub(super) fn new(resume: Resume, file: Rc<File>) -> Self {
        Self {
            segment: resume.segment,
            file,
            tail: resume.tail,
            entries: resume.entries,
            // What recovery found it has flushed.
            unflushed: false,
        }
    }

    /// Bytes that `more` records can take together.
    fn room(&self, segment_bytes: u64, more: usize) -> u64 {
        let footer = footer_bytes(self.entries.len() + more) as u64;
        segment_bytes.saturating_sub(footer + unit_bytes(self.tail))
    }
}

/// The next segment to write.
#[derive(Default)]
pub(super) enum Spare {
    /// Nobody makes one.
    #[default]
    None,
    /// A task is at it.
    Preparing,
    /// Here it is.
    Ready(Active),
    /// There is none; those who wait must be told.
    Failed(DiskError),
}

/// What a shard has to write and where.
#[derive(Default)]
pub(super) struct Log {
    pub(super) queue: VecDeque<Pending>,
    /// Copies of records whose segment goes; they go first.
    pub(super) urgent: VecDeque<Pending>,
    /// The commit task is there.
    pub(super) running: bool,
    pub(super) active: Option<Active>,
    pub(super) spare: Spare,
    /// The commit task can do nothing before a segment comes.
    pub(super) starved: bool,
    /// Bytes of the active segment kept for pinned copies.
    pub(super) reserved: u64,
    /// The buffer groups and footers are put together in; the shard keeps it.
    pub(super) batch: Option<PoolBuf>,
}

impl Log {
    /// Nothing queued, nothing being written or prepared.
    pub(super) fn is_idle(&self) -> bool {
        !self.running && !matches!(self.spare, Spare::Preparing)
    }

    /// Bytes of pinned copies the active segment could take.
    pub(super) fn pinned_room(&self, segment_bytes: u64) -> u64 {
        // A footer entry per record of at least one unit: less than 1 in 64.
        let active = self.active.as_ref();
        let room = active.map_or(0, |active| active.room(segment_bytes, 0));
        room - room / 64
    }

    /// Takes what can be written together and gives it its place; `None`: the
    /// first in the queue does not fit.
    pub(super) fn next_group(&mut self, segment_bytes: u64) -> Option<(Group, Rc<File>)> {
        let members = self.collect(segment_bytes);
        let active = self.active.as_mut().filter(|_| !members.is_empty())?;
        let group = Group::new(&active.segment, active.tail, members);
        active.tail = group.end;
        active.unflushed |= group.members().any(|member| member.pending.pinned());
        active.entries.extend(group.members().map(Member::entry));
        Some((group, Rc::clone(&active.file)))
    }

    /// Whether nothing is to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.urgent.is_empty()
    }

    fn collect(&mut self, segment_bytes: u64) -> Vec<Pending> {
        let mut members = Vec::new();
        let (mut batch, mut long, mut taken) = (0, 0, 0);
        let Some(active) = &self.active else {
            return members;
        };
        loop {
            let urgent = !self.urgent.is_empty();
            let queue = if urgent {
                &mut self.urgent
            } else {
                &mut self.queue
            };
            let Some(next) = queue.front() else { break };
            let need = next.footprint();
            let kept = if urgent { 0 } else { self.reserved };
            let room = active.room(segment_bytes, members.len() + 1);
            let (is_small, pinned) = (is_small(next), next.pinned());
            if is_small && batch + need > BATCH_BYTES_MAX as u64
                || !is_small && long == LONG_MAX
                || taken + need + kept > room
            {
                break;
            }
            taken += need;
            if is_small {
                batch += need;
            } else {
                long += 1;
            }
            if urgent && pinned {
                self.reserved = self.reserved.saturating_sub(need);
            }
            members.extend(queue.pop_front());
        }
        members
    }

    /// Answers everything queued.
    pub(super) fn fail_all(&mut self, error: &DiskError) {
        let urgent = std::mem::take(&mut self.urgent);
        for pending in urgent.into_iter().chain(std::mem::take(&mut self.queue)) {
            pending.answer(Err(error.clone()));
        }
    }
}
