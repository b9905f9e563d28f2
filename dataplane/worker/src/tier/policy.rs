//! Who stays in the RAM tier: S3-FIFO (Yang et al., SOSP 2023). Pure decisions:
//! no bytes, no locks, no clock.
//!
//! Newcomers enter a small queue, a tenth of the room. At its end those that were
//! read again go to the main queue, the others leave and are remembered as ghosts
//! for a while; a ghost that comes back goes to the main queue at once. At the end
//! of the main queue those read since they were last there stay. So a scan passes
//! through the small queue and what is hot stays, and a hit changes one number.

use std::sync::atomic::{AtomicU8, Ordering};

use hashbrown::HashTable;
use quickwater_engine::io::ChunkId;

use super::ghost::Ghosts;

/// Reads counted of one entry: more say nothing new.
const READS_MAX: u8 = 3;
/// Reads that lift an entry out of the small queue.
const READS_TO_STAY: u8 = 2;
/// The small queue has one cell in this many.
const SMALL_SHARE: usize = 10;
/// No slot.
const NONE: u32 = u32::MAX;

/// Which queue an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

struct Node {
    chunk: ChunkId,
    cells: u32,
    older: u32,
    newer: u32,
    queue: Queue,
    reads: AtomicU8,
}

/// Memory of an entry.
#[cfg(test)]
pub(super) const NODE_BYTES: usize = size_of::<Node>();

/// A queue: `oldest` leaves first.
#[derive(Debug, Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
    cells: usize,
    len: usize,
}

const EMPTY: List = List {
    oldest: NONE,
    newest: NONE,
    cells: 0,
    len: 0,
};

/// The state of one part.
pub(super) struct Policy {
    nodes: Vec<Node>,
    /// Slots of nodes that left.
    vacant: Vec<u32>,
    /// Slots by chunk.
    table: HashTable<u32>,
    small: List,
    main: List,
    ghosts: Ghosts,
    cells_max: usize,
    entries_max: usize,
}

/// Blob ids are random, so mixing well is enough; no attacker chooses them.
fn hash_of(chunk: ChunkId) -> u64 {
    let blob = chunk.blob.0;
    let folded = blob as u64 ^ ((blob >> 64) as u64).rotate_left(29) ^ u64::from(chunk.index);
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 32)
}

impl Policy {
    /// Room for `cells_max` cells in at most `entries_max` entries.
    pub(super) fn new(cells_max: usize, entries_max: usize) -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            table: HashTable::new(),
            small: EMPTY,
            main: EMPTY,
            ghosts: Ghosts::new(entries_max),
            cells_max,
            entries_max,
        }
    }

    /// The slot of an entry.
    pub(super) fn find(&self, chunk: ChunkId) -> Option<u32> {
        let nodes = &self.nodes;
        let is = |slot: &u32| nodes[*slot as usize].chunk == chunk;
        self.table.find(hash_of(chunk), is).copied()
    }

    /// Counts a read. Writes only while that changes something, so that hits of a
    /// hot entry on many shards share its cache line.
    pub(super) fn touch(&self, slot: u32) {
        let reads = &self.nodes[slot as usize].reads;
        let now = reads.load(Ordering::Relaxed);
        if now < READS_MAX {
            reads.store(now + 1, Ordering::Relaxed);
        }
    }

    /// Lets an entry of `cells` in, after pushing out as many others as needed;
    /// `evicted` is called for the slot of each. Returns the entry's slot; `None`
    /// when it is there already or could never fit.
    pub(super) fn admit(
        &mut self,
        chunk: ChunkId,
        cells: usize,
        mut evicted: impl FnMut(u32),
    ) -> Option<u32> {
        // What fills the small queue alone would push everything else through it.
        if cells == 0 || cells > self.cells_max / SMALL_SHARE || self.find(chunk).is_some() {
            return None;
        }
        while self.small.cells + self.main.cells + cells > self.cells_max
            || self.table.len() >= self.entries_max
        {
            evicted(self.evict()?);
        }
        let hash = hash_of(chunk);
        let queue = match self.ghosts.take(hash, self.main.len.max(self.small.len)) {
            true => Queue::Main,
            false => Queue::Small,
        };
        let node = Node {
            chunk,
            cells: cells as u32,
            older: NONE,
            newer: NONE,
            queue,
            reads: AtomicU8::new(0),
        };
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.nodes[slot as usize] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        self.append(slot, queue);
        let nodes = &self.nodes;
        let rehash = |slot: &u32| hash_of(nodes[*slot as usize].chunk);
        self.table.insert_unique(hash, slot, rehash);
        Some(slot)
    }

    /// Takes an entry out; returns its slot.
    pub(super) fn remove(&mut self, chunk: ChunkId) -> Option<u32> {
        let slot = self.find(chunk)?;
        self.detach(slot);
        self.drop_entry(slot);
        Some(slot)
    }

    /// Pushes one entry out; `None` when there is none.
    fn evict(&mut self) -> Option<u32> {
        // Ends: every turn shortens the small queue or lowers a count of reads.
        loop {
            let from_small = self.small.cells * SMALL_SHARE > self.cells_max;
            let queue = match from_small || self.main.len == 0 {
                true => &self.small,
                false => &self.main,
            };
            let slot = queue.oldest;
            let node = self.nodes.get(slot as usize)?;
            let (queue, reads, hash) = (
                node.queue,
                node.reads.load(Ordering::Relaxed),
                hash_of(node.chunk),
            );
            self.detach(slot);
            match queue {
                Queue::Small if reads >= READS_TO_STAY => self.stay(slot, 0),
                Queue::Main if reads > 0 => self.stay(slot, reads - 1),
                _ => {
                    if queue == Queue::Small {
                        self.ghosts.put(hash);
                    }
                    self.drop_entry(slot);
                    return Some(slot);
                }
            }
        }
    }

    fn stay(&mut self, slot: u32, reads: u8) {
        self.nodes[slot as usize]
            .reads
            .store(reads, Ordering::Relaxed);
        self.append(slot, Queue::Main);
    }

    fn drop_entry(&mut self, slot: u32) {
        let hash = hash_of(self.nodes[slot as usize].chunk);
        if let Ok(found) = self.table.find_entry(hash, |s| *s == slot) {
            found.remove();
        }
        self.vacant.push(slot);
    }

    fn list(&mut self, queue: Queue) -> &mut List {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
        }
    }

    /// Puts a node that is in no queue at the young end of one.
    fn append(&mut self, slot: u32, queue: Queue) {
        let cells = self.nodes[slot as usize].cells as usize;
        let list = self.list(queue);
        let before = std::mem::replace(&mut list.newest, slot);
        list.cells += cells;
        list.len += 1;
        if before == NONE {
            list.oldest = slot;
        }
        if let Some(before) = self.nodes.get_mut(before as usize) {
            before.newer = slot;
        }
        let node = &mut self.nodes[slot as usize];
        (node.queue, node.older, node.newer) = (queue, before, NONE);
    }

    /// Takes a node out of its queue.
    fn detach(&mut self, slot: u32) {
        let node = &self.nodes[slot as usize];
        let (older, newer, queue) = (node.older, node.newer, node.queue);
        let cells = node.cells as usize;
        let list = self.list(queue);
        list.cells -= cells;
        list.len -= 1;
        if list.oldest == slot {
            list.oldest = newer;
        }
        if list.newest == slot {
            list.newest = older;
        }
        if let Some(node) = self.nodes.get_mut(older as usize) {
            node.newer = newer;
        }
        if let Some(node) = self.nodes.get_mut(newer as usize) {
            node.older = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::BlobId;

    use super::*;

    fn chunk(n: u64) -> ChunkId {
        // Spread as random ids are.
        let blob = u128::from(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        ChunkId {
            blob: BlobId(blob << 64 | u128::from(n)),
            index: 0,
        }
    }

    /// Reads as the tier does: a hit is counted, a miss is admitted.
    fn read(policy: &mut Policy, n: u64) -> bool {
        if let Some(slot) = policy.find(chunk(n)) {
            policy.touch(slot);
            return true;
        }
        policy.admit(chunk(n), 1, |_| {});
        false
    }

    #[test]
    fn a_scan_of_a_hundred_times_the_room_leaves_the_hot_set() {
        let mut policy = Policy::new(1000, 1000);
        for _ in 0..5 {
            (0..500).for_each(|n| {
                read(&mut policy, n);
            });
        }
        (10_000..110_000).for_each(|n| {
            read(&mut policy, n);
        });
        let left = (0..500)
            .filter(|n| policy.find(chunk(*n)).is_some())
            .count();
        assert_eq!(left, 500, "hot entries after the scan");
    }

    #[test]
    fn what_comes_back_soon_after_it_left_stays() {
        let mut policy = Policy::new(100, 100);
        (0..100).for_each(|n| {
            read(&mut policy, n);
        });
        // Pushes 0 out: read once, from the small queue.
        read(&mut policy, 100);
        assert!(policy.find(chunk(0)).is_none());
        read(&mut policy, 0);
        (200..290).for_each(|n| {
            read(&mut policy, n);
        });
        assert!(policy.find(chunk(0)).is_some(), "a ghost goes to main");
    }

    #[test]
    fn never_more_cells_or_entries_than_allowed() {
        let mut policy = Policy::new(200, 50);
        let mut inside = std::collections::HashMap::new();
        let mut random = 1u64;
        for n in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let (who, cells) = (random >> 54, (random >> 33) as usize % 20 + 1);
            match random >> 32 & 7 {
                0 => {
                    let removed = policy.remove(chunk(who));
                    assert_eq!(removed, inside.remove(&who).map(|(slot, _)| slot));
                }
                1..4 => {
                    if let Some(slot) = policy.find(chunk(who)) {
                        policy.touch(slot);
                    }
                }
                _ => {
                    let mut gone = Vec::new();
                    let slot = policy.admit(chunk(who), cells, |slot| gone.push(slot));
                    inside.retain(|_, (slot, _)| !gone.contains(slot));
                    if let Some(slot) = slot {
                        assert!(inside.insert(who, (slot, cells)).is_none());
                    }
                }
            }
            let held: usize = inside.values().map(|(_, cells)| cells).sum();
            assert!(held <= 200 && inside.len() <= 50, "{n}: {held}");
            assert_eq!(policy.small.cells + policy.main.cells, held);
            assert_eq!(policy.table.len(), inside.len());
        }
        for (who, (slot, _)) in inside {
            assert_eq!(policy.find(chunk(who)), Some(slot));
        }
    }

    #[test]
    fn what_is_too_large_or_there_already_is_not_admitted() {
        let mut policy = Policy::new(100, 100);
        assert!(policy.admit(chunk(1), 11, |_| {}).is_none());
        assert!(policy.admit(chunk(1), 10, |_| {}).is_some());
        assert!(policy.admit(chunk(1), 10, |_| {}).is_none());
        assert!(policy.remove(chunk(1)).is_some());
        assert!(policy.remove(chunk(1)).is_none());
    }
}
