//! One buffer on loan from a pool; absent: waiting for one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use quickwater_engine::io::Buffer;

use super::arena::Slot;
use super::pool::{Class, Shelves};
use super::{FRONT_ROOM_BYTES, TAIL_SLACK_BYTES};

/// A buffer on loan: content `[start, end)` within an aligned run of memory.
///
/// Fresh ones have `start == end ==` [`FRONT_ROOM_BYTES`]. Dropping it gives it
/// back to its pool and wakes whoever waits for one.
pub struct PoolBuf {
    slot: Option<Slot>,
    home: Option<(Arc<Shelves>, Class)>,
    start: usize,
    end: usize,
}

impl PoolBuf {
    pub(super) fn new(slot: Slot, shelves: Arc<Shelves>, class: Class) -> Self {
        Self {
            slot: Some(slot),
            home: Some((shelves, class)),
            start: FRONT_ROOM_BYTES,
            end: FRONT_ROOM_BYTES,
        }
    }

    /// A buffer without memory: capacity 0. Stands in for one that was lost to
    /// an IO that did not end in time.
    #[must_use]
    pub fn detached() -> Self {
        Self {
            slot: None,
            home: None,
            start: 0,
            end: 0,
        }
    }

    /// Whether this is a [`PoolBuf::detached`] one.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.slot.is_none()
    }

    /// The whole memory: front room, content area and slack.
    pub(crate) fn memory(&self) -> &[u8] {
        self.slot.as_ref().map_or(&[], Slot::bytes)
    }

    /// The whole memory, writable.
    pub(crate) fn memory_mut(&mut self) -> &mut [u8] {
        self.slot.as_mut().map_or(&mut [], Slot::bytes_mut)
    }

    /// Content bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is no content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where the content begins.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where the content ends.
    #[must_use]
    pub fn end(&self) -> usize {
        self.end
    }

    /// The content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory()[self.start..self.end]
    }

    /// The content, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let range = self.start..self.end;
        &mut self.memory_mut()[range]
    }

    /// Most content bytes a fresh one can hold (front room and slack apart).
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory()
            .len()
            .saturating_sub(FRONT_ROOM_BYTES + TAIL_SLACK_BYTES)
    }

    /// Bytes free in front of the content.
    #[must_use]
    pub fn front_room(&self) -> usize {
        self.start
    }

    /// Bytes free behind the content, slack apart.
    #[must_use]
    pub fn tail_room(&self) -> usize {
        let limit = self.memory().len().saturating_sub(TAIL_SLACK_BYTES);
        limit.saturating_sub(self.end)
    }

    /// Declares `range` of the memory to be the content. A range outside the
    /// memory is cut to it (and is a bug of the caller).
    pub fn set_range(&mut self, range: Range<usize>) {
        let limit = self.memory().len();
        debug_assert!(range.start <= range.end && range.end <= limit, "{range:?}");
        self.end = range.end.min(limit);
        self.start = range.start.min(self.end);
    }

    /// Sets how many bytes it holds, from where it starts; new ones have any value.
    pub fn set_len(&mut self, len: usize) {
        self.set_range(self.start..self.start + len);
    }

    /// Empties it: content of 0 bytes at [`FRONT_ROOM_BYTES`].
    pub fn clear(&mut self) {
        self.start = FRONT_ROOM_BYTES.min(self.memory().len());
        self.end = self.start;
    }

    /// Puts `bytes` directly in front of the content. `false`: no room there,
    /// nothing changed.
    #[must_use]
    pub fn write_front(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else {
            return false;
        };
        let end = self.start;
        self.memory_mut()[start..end].copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Appends as many of `bytes` as fit in the tail room and returns how many.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.tail_room());
        let at = self.end;
        self.memory_mut()[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.end += taken;
        taken
    }

    /// Drops the first `bytes` of the content (at most all of it).
    pub fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    /// Moves the content within the memory so that it begins at `start`.
    /// `false`: it does not fit there, nothing changed.
    #[must_use]
    pub fn relocate(&mut self, start: usize) -> bool {
        let (range, len) = (self.start..self.end, self.len());
        if start + len > self.memory().len() {
            return false;
        }
        self.memory_mut().copy_within(range, start);
        self.set_range(start..start + len);
        true
    }

    /// The content as shared bytes; back to the pool when the last is dropped.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PoolBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolBuf({:?}, {}..{})", self.slot, self.start, self.end)
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        if let (Some(slot), Some((shelves, class))) = (self.slot.take(), self.home.take()) {
            Shelves::put_back(&shelves, slot, class);
        }
    }
}

impl Buffer for PoolBuf {
    fn as_slice(&self) -> &[u8] {
        Self::as_slice(self)
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        Self::as_mut_slice(self)
    }

    fn capacity(&self) -> usize {
        Self::capacity(self)
    }

    fn set_len(&mut self, len: usize) {
        Self::set_len(self, len);
    }

    fn into_bytes(self) -> Bytes {
        Self::into_bytes(self)
    }
}
