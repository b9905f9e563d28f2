//! The RAM tier: whole small objects, verified when they entered, copied out
//! without touching the disk. Absent: large objects, whose reads cost as much
//! from RAM as from NVMe, and every question of which version is current.
//!
//! One tier for all shards: each object is held once and a reader finds it on
//! whatever shard its connection landed; with a tier per shard every hot object
//! would be there once per CPU. Parts have locks of their own; a hit takes one for
//! reading, so hits do not wait for each other.
//!
//! Entries are keyed as the store's: a blob's bytes never change and a blob is
//! named by one version only, so nothing in here can be stale. What the store
//! forgets is forgotten here.

mod cells;
mod ghost;
mod policy;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use quickwater_engine::io::ChunkId;

use self::cells::{CELL_BYTES, Cells, Chain};
use self::policy::Policy;
use crate::buffers::{ArenaError, PoolBuf, carve};

/// Largest object held, bytes.
pub const OBJECT_BYTES_MAX: usize = 64 << 10;

/// Parts with a lock of their own, fewer for a small tier.
const PARTS_MAX: usize = 64;
/// Least memory of a part: some objects of the largest size.
const PART_BYTES_MIN: usize = 1 << 20;
/// Memory of a cell beside its bytes: its link, its share of the entries (one for
/// two cells), of the lookup table and of the ghosts, rounded up.
const CELL_OVERHEAD_BYTES: usize = 96;

/// What the tier counts; gauges are as of the last change.
#[derive(Debug, Default)]
pub struct TierStats {
    /// Reads answered.
    pub hits: AtomicU64,
    /// Reads of small objects that had to go to the disk.
    pub misses: AtomicU64,
    /// Objects that entered.
    pub admissions: AtomicU64,
    /// Objects pushed out by others.
    pub evictions: AtomicU64,
    /// Objects now.
    pub objects: AtomicU64,
    /// Bytes of objects now.
    pub bytes: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// The tier. Clones share it.
#[derive(Clone)]
pub struct Tier {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Vec<RwLock<Part>>,
    budget_bytes: u64,
    stats: TierStats,
}

/// One lock's share: who is in, and where the bytes are.
struct Part {
    policy: Policy,
    cells: Cells,
    /// Where the bytes of each of the policy's slots are.
    chains: Vec<Chain>,
}

impl Tier {
    /// A tier of at most `budget_bytes`, everything counted; 0 holds nothing.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(budget_bytes: usize) -> Result<Self, ArenaError> {
        let count = (budget_bytes / PART_BYTES_MIN).min(PARTS_MAX);
        let cells = budget_bytes
            .checked_div(count)
            .map_or(0, |part| part / (CELL_BYTES + CELL_OVERHEAD_BYTES));
        let memory = carve(&[(count, cells * CELL_BYTES)], false)?;
        let parts = memory.into_iter().flatten().map(|slot| {
            RwLock::new(Part {
                policy: Policy::new(cells, cells.div_ceil(2)),
                cells: Cells::new(slot),
                chains: Vec::new(),
            })
        });
        Ok(Self {
            inner: Arc::new(Inner {
                parts: parts.collect(),
                budget_bytes: budget_bytes as u64,
                stats: TierStats::default(),
            }),
        })
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &TierStats {
        &self.inner.stats
    }

    /// Memory it may take, bytes.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.inner.budget_bytes
    }

    fn part(&self, chunk: ChunkId) -> Option<&RwLock<Part>> {
        let parts = &self.inner.parts;
        // Blob ids are random; the policy's table uses other bits of them.
        let at = (chunk.blob.0 >> 64) as usize;
        parts.get(at.checked_rem(parts.len())?)
    }

    /// Whether a chunk that reaches to byte `end` could be here at all: only the
    /// last chunk of a blob is short, so a short first one is the whole object.
    #[must_use]
    pub fn may_hold(&self, chunk: ChunkId, end: usize) -> bool {
        chunk.index == 0 && (1..=OBJECT_BYTES_MAX).contains(&end) && !self.inner.parts.is_empty()
    }

    /// Whether it is here, without counting a read.
    #[must_use]
    pub fn contains(&self, chunk: ChunkId) -> bool {
        self.part(chunk).is_some_and(|part| {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            part.policy.find(chunk).is_some()
        })
    }

    /// Puts `range` of an object into an empty `buffer`. `false`: it is not here
    /// (or the buffer is too small) and the buffer is still empty.
    #[must_use]
    pub fn read(&self, chunk: ChunkId, range: &Range<usize>, buffer: &mut PoolBuf) -> bool {
        let found = self.part(chunk).is_some_and(|part| {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            part.copy_out(chunk, range, buffer)
        });
        if found {
            add(&self.inner.stats.hits, 1);
        }
        found
    }

    /// [`Tier::offer`] after a read that found the object on disk.
    pub fn offer_read(&self, chunk: ChunkId, bytes: &[u8]) {
        if self.may_hold(chunk, bytes.len()) {
            add(&self.inner.stats.misses, 1);
            self.offer(chunk, bytes);
        }
    }

    /// Offers the bytes of a whole small object, which the caller has verified
    /// against their checksums (or is the one who computed them).
    pub fn offer(&self, chunk: ChunkId, bytes: &[u8]) {
        if !self.may_hold(chunk, bytes.len()) {
            return;
        }
        let Some(part) = self.part(chunk) else {
            return;
        };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        part.enter(chunk, bytes, &self.inner.stats);
    }

    /// Forgets an object.
    pub fn forget(&self, chunk: ChunkId) {
        let Some(part) = self.part(chunk) else {
            return;
        };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        part.leave(chunk, &self.inner.stats);
    }
}

impl Part {
    fn copy_out(&self, chunk: ChunkId, range: &Range<usize>, buffer: &mut PoolBuf) -> bool {
        let Some(slot) = self.policy.find(chunk) else {
            return false;
        };
        let chain = self.chains[slot as usize];
        let inside = range.start <= range.end && range.end <= chain.len();
        if !inside || buffer.tail_room() < chain.len() {
            return false;
        }
        self.policy.touch(slot);
        self.cells.pieces(chain).for_each(|piece| {
            buffer.append(piece);
        });
        let begin = buffer.start() + range.start;
        buffer.set_range(begin..begin + range.len());
        true
    }

    fn enter(&mut self, chunk: ChunkId, bytes: &[u8], stats: &TierStats) {
        let (chains, cells) = (&mut self.chains, &mut self.cells);
        let admitted = self
            .policy
            .admit(chunk, Cells::needed(bytes.len()), |slot| {
                let chain = std::mem::take(&mut chains[slot as usize]);
                cells.free(chain);
                add(&stats.evictions, 1);
                gone(chain, stats);
            });
        let Some(slot) = admitted else {
            return;
        };
        let Some(chain) = cells.store(bytes) else {
            // The policy never admits more cells than there are.
            self.policy.remove(chunk);
            return;
        };
        let slot = slot as usize;
        if chains.len() <= slot {
            chains.resize(slot + 1, Chain::default());
        }
        chains[slot] = chain;
        add(&stats.admissions, 1);
        add(&stats.objects, 1);
        add(&stats.bytes, bytes.len() as u64);
    }

    fn leave(&mut self, chunk: ChunkId, stats: &TierStats) {
        if let Some(slot) = self.policy.remove(chunk) {
            let chain = std::mem::take(&mut self.chains[slot as usize]);
            self.cells.free(chain);
            gone(chain, stats);
        }
    }
}

fn gone(chain: Chain, stats: &TierStats) {
    stats.objects.fetch_sub(1, Ordering::Relaxed);
    stats.bytes.fetch_sub(chain.len() as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
