//! Which chunks that other workers hold are asked for so often that a copy is kept here, and
//! which copy goes when they take too much. Absent: reading and writing them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::io::ChunkId;

/// A chunk is copied when it is asked for so often before the counts are halved.
const HOT_ASKS: u8 = 3;
/// Rows of the sketch, and counters in each (a power of two).
const ROWS: usize = 4;
const WIDTH: usize = 4_096;
/// All counts are halved after so many.
const ASKS_PER_DECAY: usize = 8 * WIDTH;
/// A copy counts as so many bytes at least: what it takes on disk.
const COPY_BYTES_MIN: u64 = 4_096;

/// Counts by chunk, never too low but for the halving (a count-min sketch).
struct Sketch {
    counters: Vec<u8>,
    asks: usize,
}

impl Sketch {
    fn new() -> Self {
        Self {
            counters: vec![0; ROWS * WIDTH],
            asks: 0,
        }
    }

    /// Counts one, and says how many there were.
    fn count(&mut self, chunk: ChunkId) -> u8 {
        self.asks += 1;
        if self.asks >= ASKS_PER_DECAY {
            self.asks = 0;
            self.counters.iter_mut().for_each(|counter| *counter /= 2);
        }
        let mut least = u8::MAX;
        for (row, counters) in self.counters.chunks_exact_mut(WIDTH).enumerate() {
            if let Some(counter) = counters.get_mut(place(chunk, row)) {
                *counter = counter.saturating_add(1);
                least = least.min(*counter);
            }
        }
        least
    }
}

/// Blobs are random, so mixing their halves with the number is enough.
fn place(chunk: ChunkId, row: usize) -> usize {
    let blob = chunk.blob.0;
    let seed = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(row as u64 + 1);
    let mixed = (blob as u64) ^ ((blob >> 64) as u64).rotate_left(31) ^ u64::from(chunk.index);
    let mixed = (mixed ^ seed).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((mixed ^ (mixed >> 29)) >> 13) as usize % WIDTH
}

struct Copy {
    bytes: u64,
    number: u64,
    /// It was read since it was last looked at.
    read: bool,
}

struct State {
    sketch: Sketch,
    copies: HashMap<ChunkId, Copy>,
    /// The oldest first, with the number of the copy meant.
    order: VecDeque<(ChunkId, u64)>,
    bytes: u64,
    next: u64,
}

/// Copies of what other workers hold, shared by all shards.
pub(crate) struct HotCopies {
    /// Most bytes of them; `None`: none are kept.
    limit: Option<u64>,
    state: Mutex<State>,
}

impl HotCopies {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            state: Mutex::new(State {
                sketch: Sketch::new(),
                copies: HashMap::new(),
                order: VecDeque::new(),
                bytes: 0,
                next: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk that is not here was had from its holder. Whether a copy is to be kept.
    pub(crate) fn asked(&self, chunk: ChunkId, bytes: u64) -> bool {
        let Some(limit) = self.limit.filter(|limit| bytes <= *limit) else {
            return false;
        };
        let mut state = self.state();
        // One that was kept is gone: evicted, or forgotten with its version.
        if let Some(gone) = state.copies.remove(&chunk) {
            state.bytes -= gone.bytes;
        }
        debug_assert!(state.bytes <= limit);
        state.sketch.count(chunk) >= HOT_ASKS
    }

    /// A copy is kept now. Returns those that have to go for it.
    pub(crate) fn keep(&self, chunk: ChunkId, bytes: u64) -> Vec<ChunkId> {
        let limit = self.limit.unwrap_or_default();
        let bytes = bytes.max(COPY_BYTES_MIN);
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let copy = Copy {
            bytes,
            number,
            read: false,
        };
        if let Some(before) = state.copies.insert(chunk, copy) {
            state.bytes -= before.bytes;
        }
        state.bytes += bytes;
        state.order.push_back((chunk, number));
        let mut gone = Vec::new();
        while state.bytes > limit {
            let Some(oldest) = state.order.pop_front() else {
                break;
            };
            state.look_at(oldest, &mut gone);
        }
        state.tidy();
        gone
    }

    /// A chunk was read here. Whether it was such a copy.
    pub(crate) fn read(&self, chunk: ChunkId) -> bool {
        if self.limit.is_none() {
            return false;
        }
        let mut state = self.state();
        let known = state.copies.get_mut(&chunk);
        known.is_some_and(|copy| {
            copy.read = true;
            true
        })
    }
}

impl State {
    /// Drops a copy, unless it was read since it was looked at last.
    fn look_at(&mut self, (chunk, number): (ChunkId, u64), gone: &mut Vec<ChunkId>) {
        let Some(copy) = self.copies.get_mut(&chunk) else {
            return;
        };
        if copy.number != number {
            return;
        }
        if std::mem::take(&mut copy.read) {
            self.order.push_back((chunk, number));
            return;
        }
        self.bytes -= copy.bytes;
        self.copies.remove(&chunk);
        gone.push(chunk);
    }

    /// Takes out of the order what is there no more, when that is the most of it.
    fn tidy(&mut self) {
        if self.order.len() <= 2 * self.copies.len() + WIDTH {
            return;
        }
        let copies = &self.copies;
        let is_there = |(chunk, number): &(ChunkId, u64)| {
            let copy = copies.get(chunk);
            copy.is_some_and(|copy| copy.number == *number)
        };
        self.order.retain(is_there);
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::BlobId;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Blob ids are random; these are as good.
    fn chunk(number: u32) -> ChunkId {
        let low = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let high = low.rotate_left(23).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ChunkId {
            blob: BlobId(u128::from(high) << 64 | u128::from(low)),
            index: number % 64,
        }
    }

    #[test]
    fn what_is_asked_for_often_is_kept() {
        let copies = HotCopies::new(Some(4 * MIB));
        let hot: Vec<_> = (0..3).map(|_| copies.asked(chunk(1), MIB)).collect();
        assert_eq!(hot, [false, false, true]);
        assert!(!copies.asked(chunk(2), MIB), "not this one");
        assert!(!copies.read(chunk(1)), "not kept yet");
        assert!(copies.keep(chunk(1), MIB).is_empty());
        assert!(copies.read(chunk(1)) && !copies.read(chunk(2)));
    }

    #[test]
    fn counts_fade() {
        let copies = HotCopies::new(Some(MIB));
        assert!(!copies.asked(chunk(0), 1) && !copies.asked(chunk(0), 1));
        // Few enough others that no counter is shared by accident, often enough to halve.
        for _ in 0..2 * ASKS_PER_DECAY {
            copies.asked(chunk(7), 1);
        }
        assert!(!copies.asked(chunk(0), 1), "it was long ago");
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let copies = HotCopies::new(None);
        assert!((0..100).all(|_| !copies.asked(chunk(1), 1)));
        assert!(!copies.read(chunk(1)));
        let small = HotCopies::new(Some(MIB - 1));
        assert!((0..100).all(|_| !small.asked(chunk(1), MIB)));
    }

    #[test]
    fn the_oldest_that_nobody_read_go_first() {
        let copies = HotCopies::new(Some(3 * MIB));
        for number in 1..=3 {
            assert!(copies.keep(chunk(number), MIB).is_empty());
        }
        assert!(copies.read(chunk(1)));
        assert_eq!(copies.keep(chunk(4), MIB), [chunk(2)]);
        assert_eq!(copies.keep(chunk(5), MIB), [chunk(3)]);
        assert_eq!(copies.keep(chunk(6), MIB), [chunk(4)]);
        // Read before it was looked at, and not since.
        assert_eq!(copies.keep(chunk(7), MIB), [chunk(1)]);
    }

    #[test]
    fn what_the_store_dropped_does_not_count() {
        let copies = HotCopies::new(Some(2 * MIB));
        for round in 0..3 * WIDTH as u32 {
            copies.keep(chunk(1), MIB);
            copies.asked(chunk(1), MIB);
            assert!(!copies.read(chunk(1)), "{round}");
        }
        assert!(copies.state().order.len() <= WIDTH + 2);
        assert!(copies.keep(chunk(2), MIB).is_empty());
        assert!(copies.keep(chunk(3), MIB).is_empty());
        assert_eq!(copies.keep(chunk(4), 1), [chunk(2)]);
    }
}
