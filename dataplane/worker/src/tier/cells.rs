//! Bytes of objects in chains of equal cells: no fragmentation, whatever sizes
//! come and go. Absent: who may stay.

use crate::buffers::Slot;

/// Bytes of a cell: small against the usual small object, large against its link.
pub(super) const CELL_BYTES: usize = 1024;
/// No cell.
const NONE: u32 = u32::MAX;

/// The cells of one object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    first: u32,
    len: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            first: NONE,
            len: 0,
        }
    }
}

impl Chain {
    /// Bytes of the object.
    pub(super) fn len(self) -> usize {
        self.len as usize
    }
}

/// All cells of a part.
pub(super) struct Cells {
    memory: Slot,
    /// The cell that follows each one: in its chain, or among the free ones.
    next: Vec<u32>,
    free: u32,
    free_count: usize,
}

impl Cells {
    /// Carves `memory` into cells.
    pub(super) fn new(memory: Slot) -> Self {
        let count = memory.bytes().len() / CELL_BYTES;
        // Every cell has a number below NONE: a part has far fewer.
        let mut next: Vec<u32> = (1..=count as u32).collect();
        if let Some(last) = next.last_mut() {
            *last = NONE;
        }
        Self {
            memory,
            free: if count == 0 { NONE } else { 0 },
            free_count: count,
            next,
        }
    }

    /// Cells that an object of `len` bytes takes.
    pub(super) fn needed(len: usize) -> usize {
        len.div_ceil(CELL_BYTES)
    }

    #[cfg(test)]
    pub(super) fn free_count(&self) -> usize {
        self.free_count
    }

    /// Copies an object in; `None` when too few cells are free.
    pub(super) fn store(&mut self, bytes: &[u8]) -> Option<Chain> {
        let needed = Self::needed(bytes.len());
        if needed == 0 || needed > self.free_count {
            return None;
        }
        let first = self.free;
        let (mut last, mut at) = (first, first);
        for piece in bytes.chunks(CELL_BYTES) {
            let begin = at as usize * CELL_BYTES;
            self.memory.bytes_mut()[begin..begin + piece.len()].copy_from_slice(piece);
            last = at;
            at = self.next[at as usize];
        }
        self.next[last as usize] = NONE;
        self.free = at;
        self.free_count -= needed;
        Some(Chain {
            first,
            len: bytes.len() as u32,
        })
    }

    /// Takes the cells of an object back.
    pub(super) fn free(&mut self, chain: Chain) {
        let mut last = chain.first;
        if last == NONE {
            return;
        }
        let mut count = 1;
        while self.next[last as usize] != NONE {
            last = self.next[last as usize];
            count += 1;
        }
        self.next[last as usize] = self.free;
        self.free = chain.first;
        self.free_count += count;
    }

    /// The bytes of an object, neighbouring cells in one piece.
    pub(super) fn pieces(&self, chain: Chain) -> impl Iterator<Item = &[u8]> {
        let (mut at, mut left) = (chain.first, chain.len());
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let begin = at as usize * CELL_BYTES;
            let mut cells = 1;
            while self.next[at as usize] == at + 1 && cells * CELL_BYTES < left {
                at += 1;
                cells += 1;
            }
            at = self.next[at as usize];
            let len = left.min(cells * CELL_BYTES);
            left -= len;
            self.memory.bytes().get(begin..begin + len)
        })
    }
}
