//! Which chunk lies where, in memory, for all shards. Absent: IO, segments.
//!
//! Many small tables behind their own locks; a lock is held for one lookup. An
//! entry takes 32 bytes, with the table's overhead at most [`INDEX_RECORD_BYTES`].
//!
//! A table doubles when it is full, so that just after it has, an entry takes 75
//! bytes. Therefore parts are of different size, the largest twice the smallest
//! in even steps: at any time some are full and some half empty.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use quickwater_engine::io::ChunkId;
use quickwater_proto::BlobId;

/// Tables the index is split into.
const PARTS: usize = 128;
/// Steps of the hash by which a part is chosen.
const STEPS: usize = 1 << 12;
/// Bits of the hash that say the step: a table uses the lowest and the highest.
const STEP_SHIFT: u32 = 40;
/// Most bytes of memory an entry takes on average in an index of 10,000 or more.
pub const INDEX_RECORD_BYTES: u64 = 64;

const LEN_MASK: u32 = (1 << 21) - 1;
const READS_SHIFT: u32 = 24;
const READS_MAX: u32 = 3;
const SPARE_BIT: u32 = 1 << 30;
const PINNED_BIT: u32 = 1 << 31;

/// Where a chunk lies and how it fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// Which segment.
    pub(super) segment: u32,
    /// Units from the segment's begin.
    pub(super) offset: u32,
    /// Data length, reads since written (0 to 3), spare, pinned.
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

    /// Evicted first, however often it is read.
    pub(super) fn spare(self) -> bool {
        self.bits & SPARE_BIT != 0
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

type Part = HashTable<(Key, Location)>;

/// The index of a store.
pub(super) struct Index {
    parts: Vec<Mutex<Part>>,
    /// The part of every step.
    part_of: Vec<u8>,
}

/// Which part a step belongs to: shares grow by the same factor from part to part.
fn part_of(step: usize) -> u8 {
    let position = step as f64 / STEPS as f64;
    ((1.0 + position).log2() * PARTS as f64) as u8
}

impl Index {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            part_of: (0..STEPS).map(part_of).collect(),
        }
    }

    fn part(&self, hash: u64) -> MutexGuard<'_, Part> {
        let step = (hash >> STEP_SHIFT) as usize % STEPS;
        lock(&self.parts[usize::from(self.part_of[step])])
    }

    /// Where a chunk lies.
    pub(super) fn get(&self, chunk: ChunkId) -> Option<Location> {
        let key = Key::new(chunk);
        let hash = key.mix();
        let part = self.part(hash);
        part.find(hash, |entry| entry.0 == key).map(|entry| entry.1)
    }

    /// Looks a chunk up and calls `pin` while nobody can move or remove the
    /// entry. `count`: counts it as a read.
    pub(super) fn get_pinned<P>(
        &self,
        chunk: ChunkId,
        count: bool,
        pin: impl FnOnce(Location) -> Option<P>,
    ) -> Option<(Location, P)> {
        self.with(chunk, |location| {
            if count {
                location.count_read();
            }
            Some((*location, pin(*location)?))
        })
    }

    /// Calls `work` with a chunk's entry while nobody else can see it.
    fn with<T>(&self, chunk: ChunkId, work: impl FnOnce(&mut Location) -> Option<T>) -> Option<T> {
        let key = Key::new(chunk);
        let hash = key.mix();
        let mut part = self.part(hash);
        work(&mut part.find_mut(hash, |entry| entry.0 == key)?.1)
    }

    /// Enters a chunk; returns what it replaced.
    pub(super) fn insert(&self, chunk: ChunkId, location: Location) -> Option<Location> {
        let key = Key::new(chunk);
        let hash = key.mix();
        let mut part = self.part(hash);
        make_room(&mut part);
        match part.entry(hash, |entry| entry.0 == key, |entry| entry.0.mix()) {
            Entry::Occupied(mut found) => Some(std::mem::replace(&mut found.get_mut().1, location)),
            Entry::Vacant(place) => {
                place.insert((key, location));
                None
            }
        }
    }

    /// Replaces `old` by `new`, keeping a release that came in between; `None`
    /// when the chunk is elsewhere or gone by now.
    pub(super) fn move_if(
        &self,
        chunk: ChunkId,
        old: Location,
        mut new: Location,
    ) -> Option<Location> {
        self.with(chunk, |current| {
            if !current.same_record(old) {
                return None;
            }
            if !current.pinned() {
                new.unpin();
            }
            new.bits |= current.bits & SPARE_BIT;
            *current = new;
            Some(new)
        })
    }

    /// Removes a chunk.
    pub(super) fn remove(&self, chunk: ChunkId) -> Option<Location> {
        self.remove_where(chunk, |_| true)
    }

    /// Removes a chunk if it still is the record `old`.
    pub(super) fn remove_if(&self, chunk: ChunkId, old: Location) -> Option<Location> {
        self.remove_where(chunk, |now| now.same_record(old))
    }

    fn remove_where(
        &self,
        chunk: ChunkId,
        wanted: impl FnOnce(Location) -> bool,
    ) -> Option<Location> {
        let key = Key::new(chunk);
        let hash = key.mix();
        let mut part = self.part(hash);
        let found = part.find_entry(hash, |entry| entry.0 == key).ok()?;
        wanted(found.get().1).then(|| found.remove().0.1)
    }

    /// Unpins a chunk; returns where it lies if it was pinned.
    pub(super) fn release(&self, chunk: ChunkId) -> Option<Location> {
        self.with(chunk, |location| {
            let was_pinned = location.pinned();
            location.unpin();
            was_pinned.then_some(*location)
        })
    }

    /// Makes a chunk spare; returns where it lies if it was not, and is not pinned.
    pub(super) fn make_spare(&self, chunk: ChunkId) -> Option<Location> {
        self.with(chunk, |location| {
            let fits = !location.pinned() && !location.spare();
            fits.then(|| {
                location.bits |= SPARE_BIT;
                *location
            })
        })
    }

    /// Removes a chunk if it is spare.
    pub(super) fn remove_spare(&self, chunk: ChunkId) -> Option<Location> {
        self.remove_where(chunk, Location::spare)
    }

    /// Chunks in it.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }

    /// Bytes of memory it takes.
    pub(super) fn bytes(&self) -> u64 {
        let tables = self.parts.iter().map(|p| lock(p).allocation_size());
        let own = self.part_of.len() + PARTS * size_of::<Mutex<Part>>();
        (tables.sum::<usize>() + own) as u64
    }

    /// How many parts [`Index::sweep_part`] knows.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The entries of one part that `wanted` says yes to.
    pub(super) fn sweep_part(
        &self,
        part: usize,
        wanted: impl Fn(ChunkId, Location) -> bool,
    ) -> Vec<(ChunkId, Location)> {
        let Some(part) = self.parts.get(part) else {
            return Vec::new();
        };
        let part = lock(part);
        let all = part.iter().map(|(key, location)| (key.chunk(), *location));
        all.filter(|(chunk, at)| wanted(*chunk, *at)).collect()
    }

    /// All entries `wanted` says yes to. Walks everything: not for hot paths.
    pub(super) fn sweep(
        &self,
        wanted: impl Fn(ChunkId, Location) -> bool,
    ) -> Vec<(ChunkId, Location)> {
        let parts = 0..self.parts();
        parts
            .flat_map(|part| self.sweep_part(part, &wanted))
            .collect()
    }
}

/// Before a table grows by itself: makes it anew with a sixteenth of room, which
/// doubles it only if it really is full. Removed entries leave marks that take
/// room, and the table's own rule would double it when it is only half full.
fn make_room(part: &mut Part) {
    if part.len() < part.capacity() {
        return;
    }
    let room = part.len() + part.len() / 16 + 1;
    let old = std::mem::replace(part, Part::with_capacity(room));
    for entry in old {
        part.insert_unique(entry.0.mix(), entry, |entry| entry.0.mix());
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn spare_ones_stay_so_and_pinned_ones_never_are() {
        let index = Index::new();
        index.insert(chunk(1, 0), Location::new(1, 0, 7, false));
        index.insert(chunk(2, 0), Location::new(1, 1, 7, true));
        assert!(index.make_spare(chunk(1, 0)).is_some_and(Location::spare));
        assert_eq!(index.make_spare(chunk(1, 0)), None, "it was");
        assert_eq!(index.make_spare(chunk(2, 0)), None, "pinned");
        assert_eq!(index.make_spare(chunk(3, 0)), None, "not there");
        let old = index.get(chunk(1, 0)).unwrap();
        let moved = index.move_if(chunk(1, 0), old, Location::new(2, 0, 7, false));
        assert!(moved.is_some_and(Location::spare));
        assert_eq!(index.remove_spare(chunk(2, 0)), None);
        assert!(index.remove_spare(chunk(1, 0)).is_some());
        assert_eq!(index.len(), 1);
    }

    /// Blob ids are random; these are as good.
    fn nth(index: u64) -> ChunkId {
        let low = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let high = (index ^ 0x5555).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        chunk(u128::from(high) << 64 | u128::from(low), (index % 3) as u32)
    }

    #[test]
    fn keys_spread_over_all_parts() {
        let index = Index::new();
        for i in 0..40_000u32 {
            index.insert(chunk(1, i), Location::new(0, i, 1, false));
        }
        // 223 in the smallest, 445 in the largest, give or take steps and luck.
        let sizes: Vec<_> = index.parts.iter().map(|p| lock(p).len()).collect();
        assert!(sizes.iter().all(|n| (130..580).contains(n)), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), index.len());
        assert_eq!(index.sweep(|_, at| at.offset < 10).len(), 10);
    }

    /// At every size on the way, and under evictions that go on for ever.
    #[test]
    fn a_million_entries_take_at_most_64_bytes_each() {
        const MILLION: u64 = 1_000_000;
        let index = Index::new();
        let each = |index: &Index| index.bytes() as f64 / index.len() as f64;
        let (mut worst, mut best) = (0f64, f64::MAX);
        for i in 0..MILLION {
            index.insert(nth(i), Location::new(0, i as u32, 1, false));
            if i >= 10_000 && i % 10_000 == 0 {
                worst = worst.max(each(&index));
                best = best.min(each(&index));
            }
        }
        assert_eq!(index.len() as u64, MILLION);
        let mut churned = 0f64;
        for i in 0..2 * MILLION {
            index.remove(nth(i)).unwrap();
            index.insert(nth(i + MILLION), Location::new(0, 0, 1, false));
            if i % 50_000 == 0 {
                churned = churned.max(each(&index));
            }
        }
        eprintln!("bytes an entry: {best:.1} to {worst:.1}, under evictions {churned:.1}");
        assert!(
            worst.max(churned) <= INDEX_RECORD_BYTES as f64,
            "{worst} {churned}"
        );
    }
}
