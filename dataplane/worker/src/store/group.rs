//! One group of records: where each goes and which writes it takes.
//!
//! Small records are copied together into the shard's batch buffer and become
//! one write; long ones are written from where they lie, their heads placed in
//! the room in front of them. Absent: which records form a group, IO.

use std::ops::Range;

use super::footer::Entry;
use super::index::Location;
use super::log::Pending;
use super::record::{COMPACT_LIMIT, Head, Place, Secrets, UNIT_BYTES, footprint};
use super::segment::{Segment, unit_bytes};
use crate::buffers::{FRONT_ROOM_BYTES, LARGE_BYTES, PoolBuf};

/// Most bytes of small records in a group.
pub(super) const BATCH_BYTES_MAX: usize = LARGE_BYTES;
/// Most long records in a group.
pub(super) const LONG_MAX: usize = 16;

/// A record of a group with its place.
pub(super) struct Member {
    pub(super) pending: Pending,
    pub(super) place: Place,
}

impl Member {
    /// What the index will say.
    pub(super) fn location(&self) -> Location {
        let (len, pinned) = (self.pending.data_len(), self.pending.pinned());
        Location::new(self.place.segment, self.place.offset, len, pinned)
    }

    /// What the footer will say.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            chunk: self.pending.chunk,
            offset: self.place.offset,
            data_len: self.pending.data_len(),
            pinned: self.pending.pinned(),
        }
    }
}

/// A group: `small` lie behind each other from `begin` on, then `long`.
pub(super) struct Group {
    pub(super) small: Vec<Member>,
    pub(super) long: Vec<Member>,
    /// First unit behind the group.
    pub(super) end: u32,
    begin: u32,
}

impl Group {
    /// Gives every record its place from unit `begin` on.
    pub(super) fn new(segment: &Segment, begin: u32, members: Vec<Pending>) -> Self {
        let generation = segment.generation();
        let id = segment.id;
        let mut end = begin;
        let mut place = |pending: Pending| {
            let offset = end;
            end += units(pending.data_len() as usize);
            let place = Place {
                segment: id,
                generation,
                offset,
            };
            Member { pending, place }
        };
        let (small, long): (Vec<_>, Vec<_>) = members.into_iter().partition(is_small);
        let small: Vec<_> = small.into_iter().map(&mut place).collect();
        let long: Vec<_> = long.into_iter().map(&mut place).collect();
        Self {
            small,
            long,
            end,
            begin,
        }
    }

    /// Copies the small records into `batch` and returns the memory to write
    /// and where in the file; `None` when there are none.
    pub(super) fn fill_batch(
        &self,
        secrets: &Secrets,
        batch: &mut PoolBuf,
    ) -> Option<(Range<usize>, u64)> {
        let mut at = FRONT_ROOM_BYTES;
        for member in &self.small {
            let data = member.pending.data.as_slice();
            let pinned = member.pending.pinned();
            let head = Head::new(member.place, member.pending.chunk, pinned, data);
            let out = &mut batch.memory_mut()[at..at + footprint(data.len())];
            let head_len = head.encode(secrets, out);
            out[head_len..head_len + data.len()].copy_from_slice(data);
            out[head_len + data.len()..].fill(0);
            at += out.len();
        }
        let range = FRONT_ROOM_BYTES..at;
        (!range.is_empty()).then(|| (range, unit_bytes(self.begin)))
    }

    /// All records, in the order they lie in.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.small.iter().chain(&self.long)
    }

    /// All records.
    pub(super) fn into_members(self) -> impl Iterator<Item = Member> {
        self.small.into_iter().chain(self.long)
    }
}

/// Whether a record goes through the batch buffer.
pub(super) fn is_small(pending: &Pending) -> bool {
    (pending.data_len() as usize) < COMPACT_LIMIT
}

/// Units a record takes.
pub(super) fn units(data_len: usize) -> u32 {
    (footprint(data_len) / UNIT_BYTES) as u32
}

/// Puts the head in front of a long record's data and zeros behind them;
/// returns the memory to write. The content of the buffer is left alone.
pub(super) fn frame_long(secrets: &Secrets, place: Place, pending: &mut Pending) -> Range<usize> {
    let pinned = pending.pinned();
    let chunk = pending.chunk;
    let data = &mut pending.data;
    debug_assert_eq!(data.start(), FRONT_ROOM_BYTES);
    let head = Head::new(place, chunk, pinned, data.as_slice());
    let begin = FRONT_ROOM_BYTES - UNIT_BYTES;
    let (data_end, end) = (data.end(), begin + footprint(data.len()));
    let memory = data.memory_mut();
    let head_end = begin + head.encode(secrets, &mut memory[begin..FRONT_ROOM_BYTES]);
    memory[head_end..FRONT_ROOM_BYTES].fill(0);
    memory[data_end..end].fill(0);
    begin..end
}
