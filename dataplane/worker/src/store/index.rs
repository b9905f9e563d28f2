//! Which chunk lies where, in memory, for all shards. Absent: IO, segments.
//!
//! Many small maps behind their own locks; a lock is held for one lookup. An
//! entry takes 32 bytes plus the map's overhead.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quickwater_engine::io::ChunkId;
use quickwater_proto::BlobId;

/// Maps the index is split into.
const PARTS: usize = 128;

const LEN_MASK: u32 = (1 << 21) - 1;
const READS_SHIFT: u32 = 24;
const READS_MAX: u32 = 3;
const PINNED_BIT: u32 = 1 << 31;

/// Where a chunk lies and how it fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// Which segment.
    pub(super) segment: u32,
    /// Units from the segment's begin.
    pub(super) offset: u32,
    /// Data length, reads since written (0 to 3), pinned.
    bits: u32,
}

impl Location {
    /// A record just written.
    pub(super) fn new(segment: u32, offset: u32, data_len: u32, pinned: bool) -> Self {
        let pin = if pinned { PINNED_BIT } else { 0 };
        Self {
            segment,
            offset,
            bits: (data_len & LEN_MASK) | pin,
        }
    }

    /// Bytes of data.
    pub(super) fn data_len(self) -> u32 {
        self.bits & LEN_MASK
    }

    /// Must not be evicted.
    pub(super) fn pinned(self) -> bool {
        self.bits & PINNED_BIT != 0
    }

    /// Reads since it was written, 3 meaning that or more.
    pub(super) fn reads(self) -> u32 {
        (self.bits >> READS_SHIFT) & READS_MAX
    }

    /// Whether both name the same record.
    pub(super) fn same_record(self, other: Self) -> bool {
        (self.segment, self.offset) == (other.segment, other.offset)
    }

    fn count_read(&mut self) {
        if self.reads() < READS_MAX {
            self.bits += 1 << READS_SHIFT;
        }
    }

    fn unpin(&mut self) {
        self.bits &= !PINNED_BIT;
    }
}

/// A chunk id without padding: 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u32; 5]);

impl Key {
    fn new(chunk: ChunkId) -> Self {
        let blob = chunk.blob.0;
        let word = |at: u32| (blob >> (32 * at)) as u32;
        Self([word(0), word(1), word(2), word(3), chunk.index])
    }

    fn chunk(self) -> ChunkId {
        let [a, b, c, d, index] = self.0;
        let words = [a, b, c, d].into_iter().rev();
        let blob = words.fold(0u128, |blob, word| (blob << 32) | u128::from(word));
        ChunkId {
            blob: BlobId(blob),
            index,
        }
    }

    /// Blob ids are random, so mixing well is enough; no attacker chooses them.
    fn mix(self) -> u64 {
        let [a, b, c, d, index] = self.0.map(u64::from);
        let folded = (a | (b << 32)) ^ (c | (d << 32)).rotate_left(29) ^ (index << 17);
        let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 32)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.mix());
    }
}

/// Passes the mixed key through.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, mixed: u64) {
        self.0 = mixed;
    }
}

type Part = HashMap<Key, Location, BuildHasherDefault<Mixed>>;

/// The index of a store.
pub(super) struct Index {
    parts: Vec<Mutex<Part>>,
}

impl Index {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    fn part(&self, key: Key) -> MutexGuard<'_, Part> {
        // High bits choose the part, low bits the bucket within it.
        let at = (key.mix() >> 57) as usize % PARTS;
        self.parts[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a chunk lies.
    pub(super) fn get(&self, chunk: ChunkId) -> Option<Location> {
        let key = Key::new(chunk);
        self.part(key).get(&key).copied()
    }

    /// Looks a chunk up and calls `pin` while nobody can move or remove the
    /// entry. `count`: counts it as a read.
    pub(super) fn get_pinned<P>(
        &self,
        chunk: ChunkId,
        count: bool,
        pin: impl FnOnce(Location) -> Option<P>,
    ) -> Option<(Location, P)> {
        let key = Key::new(chunk);
        let mut part = self.part(key);
        let location = part.get_mut(&key)?;
        if count {
            location.count_read();
        }
        Some((*location, pin(*location)?))
    }

    /// Enters a chunk; returns what it replaced.
    pub(super) fn insert(&self, chunk: ChunkId, location: Location) -> Option<Location> {
        let key = Key::new(chunk);
        self.part(key).insert(key, location)
    }

    /// Replaces `old` by `new`, keeping a release that came in between; `false`
    /// when the chunk is elsewhere or gone by now.
    pub(super) fn move_if(
        &self,
        chunk: ChunkId,
        old: Location,
        mut new: Location,
    ) -> Option<Location> {
        let key = Key::new(chunk);
        let mut part = self.part(key);
        let current = part.get_mut(&key).filter(|now| now.same_record(old))?;
        if !current.pinned() {
            new.unpin();
        }
        *current = new;
        Some(new)
    }

    /// Removes a chunk.
    pub(super) fn remove(&self, chunk: ChunkId) -> Option<Location> {
        let key = Key::new(chunk);
        self.part(key).remove(&key)
    }

    /// Removes a chunk if it still is the record `old`.
    pub(super) fn remove_if(&self, chunk: ChunkId, old: Location) -> Option<Location> {
        let key = Key::new(chunk);
        let mut part = self.part(key);
        let same = part.get(&key).is_some_and(|now| now.same_record(old));
        same.then(|| part.remove(&key)).flatten()
    }

    /// Unpins a chunk; returns where it lies if it was pinned.
    pub(super) fn release(&self, chunk: ChunkId) -> Option<Location> {
        let key = Key::new(chunk);
        let mut part = self.part(key);
        let location = part.get_mut(&key).filter(|now| now.pinned())?;
        location.unpin();
        Some(*location)
    }

    /// Chunks in it.
    pub(super) fn len(&self) -> usize {
        let parts = self.parts.iter();
        parts
            .map(|p| p.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    /// All entries `wanted` says yes to. Walks everything: not for hot paths.
    pub(super) fn sweep(&self, wanted: impl Fn(Location) -> bool) -> Vec<(ChunkId, Location)> {
        let mut found = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let hits = part.iter().filter(|(_, location)| wanted(**location));
            found.extend(hits.map(|(key, location)| (key.chunk(), *location)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(blob: u128, index: u32) -> ChunkId {
        ChunkId {
            blob: BlobId(blob),
            index,
        }
    }

    #[test]
    fn an_entry_takes_at_most_32_bytes() {
        assert_eq!(size_of::<(Key, Location)>(), 32);
    }

    #[test]
    fn keys_keep_every_bit() {
        let id = chunk(0x0123_4567_89ab_cdef_0011_2233_4455_6677, 0xdead_beef);
        assert_eq!(Key::new(id).chunk(), id);
    }

    #[test]
    fn entries_know_length_reads_and_pins() {
        let index = Index::new();
        let at = Location::new(7, 9, 1 << 20, true);
        assert_eq!(index.insert(chunk(1, 2), at), None);
        assert!(at.pinned() && at.reads() == 0 && at.data_len() == 1 << 20);
        for _ in 0..9 {
            index.get_pinned(chunk(1, 2), true, |_| Some(())).unwrap();
        }
        let now = index.get(chunk(1, 2)).unwrap();
        assert!(now.reads() == 3 && now.pinned() && now.data_len() == 1 << 20);
        assert!(index.release(chunk(1, 2)).is_some());
        assert!(index.release(chunk(1, 2)).is_none());
        let moved = Location::new(8, 1, 1 << 20, true);
        let moved = index.move_if(chunk(1, 2), at, moved).unwrap();
        assert!(!moved.pinned() && moved.reads() == 0);
        assert!(index.remove_if(chunk(1, 2), at).is_none());
        assert!(index.remove_if(chunk(1, 2), moved).is_some());
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn keys_spread_over_all_parts() {
        let index = Index::new();
        for i in 0..20_000u32 {
            index.insert(chunk(1, i), Location::new(0, i, 1, false));
        }
        let sizes: Vec<_> = index
            .parts
            .iter()
            .map(|p| p.lock().unwrap().len())
            .collect();
        assert!(sizes.iter().all(|n| (60..320).contains(n)), "{sizes:?}");
        assert_eq!(index.sweep(|at| at.offset < 10).len(), 10);
    }
}
