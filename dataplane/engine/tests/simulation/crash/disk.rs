//! A store with a medium that loses what was not flushed. Absent: damage of what
//! was.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use quickwater_engine::io::*;
use quickwater_proto::{BlobId, CHUNK_BYTES};

use super::{Break, Faults, Trace};
use crate::world::SimBuffer;
use quickwater_simulation::Sim;

/// Pinned and reserved at most: one large object and some small ones, or the parts
/// of one upload; or fewer bytes, but in many records.
const DIRTY_MAX: DirtyAmount = DirtyAmount {
    bytes: 5 << 18,
    records: 12,
};

/// A record on the medium, in the order of writing.
struct Record {
    chunk: ChunkId,
    data: Bytes,
    /// Written as pinned; what became of it later is known to memory only.
    pinned: bool,
    written: bool,
    flushed: bool,
    /// Its space was used again.
    gone: bool,
}

/// A chunk id that has an order.
type Place = (u128, u32);

fn place(chunk: ChunkId) -> Place {
    (chunk.blob.0, chunk.index)
}

fn chunk_at((blob, index): Place) -> ChunkId {
    let blob = BlobId(blob);
    ChunkId { blob, index }
}

#[derive(Clone, Copy)]
struct Entry {
    record: usize,
    pinned: bool,
}

#[derive(Default)]
struct State {
    medium: Vec<Record>,
    index: BTreeMap<Place, Entry>,
    reserved: DirtyAmount,
}

impl State {
    /// What is pinned.
    fn dirty(&self) -> DirtyAmount {
        let pinned = self.index.values().filter(|e| e.pinned);
        let bytes = pinned.clone().map(|e| self.medium[e.record].data.len());
        DirtyAmount {
            bytes: bytes.sum::<usize>() as u64,
            records: pinned.count() as u64,
        }
    }
}

/// What a start decides about a blob with pinned chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Keep,
    Release,
    Forget,
}

#[derive(Clone)]
pub struct CrashDisk {
    sim: Sim,
    faults: Rc<Cell<Faults>>,
    trace: Trace,
    state: Rc<RefCell<State>>,
}

/// Space kept for dirty data until dropped.
pub struct Reserved {
    disk: CrashDisk,
    kept: DirtyAmount,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let reserved = &mut self.disk.state.borrow_mut().reserved;
        reserved.bytes -= self.kept.bytes;
        reserved.records -= self.kept.records;
    }
}

impl CrashDisk {
    pub fn new(sim: &Sim, faults: &Rc<Cell<Faults>>, trace: &Trace) -> Self {
        Self {
            sim: sim.clone(),
            faults: Rc::clone(faults),
            trace: trace.clone(),
            state: Rc::default(),
        }
    }

    /// The power goes: what was flushed stays, of the rest anything may. What was
    /// released or forgotten is there again, unless its space was used.
    pub fn crash(&self) {
        let mut state = self.state.borrow_mut();
        let before = std::mem::take(&mut state.index);
        state.reserved = DirtyAmount::default();
        for at in 0..state.medium.len() {
            let record = &mut state.medium[at];
            let safe = record.pinned && record.flushed;
            let kept = safe || (record.written && self.sim.below(2) == 0);
            if !record.gone && !kept {
                self.trace.note("chunk lost", &record.chunk.index);
            }
            record.gone |= !kept;
            if record.gone {
                record.data = Bytes::new();
                continue;
            }
            let was_pinned = before.get(&place(record.chunk)).is_some_and(|e| e.pinned);
            if record.pinned && !was_pinned {
                self.trace.note("pinned again", &record.chunk.index);
            }
            record.flushed = true;
            let (chunk, pinned) = (record.chunk, record.pinned);
            let entry = Entry { record: at, pinned };
            state.index.insert(place(chunk), entry);
        }
    }

    /// Entries of the journal that can be read.
    pub fn journal(&self) -> Vec<(BlobId, Bytes)> {
        let state = self.state.borrow();
        let entries = state
            .index
            .iter()
            .filter(|(c, e)| c.1 == JOURNAL_CHUNK && e.pinned);
        entries
            .map(|(c, e)| (BlobId(c.0), state.medium[e.record].data.clone()))
            .collect()
    }

    /// Whether all chunks of a blob are here.
    pub fn holds(&self, blob: BlobId, bytes: u64) -> bool {
        let state = self.state.borrow();
        let chunk_bytes = u64::from(CHUNK_BYTES);
        (0..bytes.div_ceil(chunk_bytes)).all(|index| {
            let len = (bytes - index * chunk_bytes).min(chunk_bytes);
            let found = state.index.get(&(blob.0, index as u32));
            found.is_some_and(|e| state.medium[e.record].data.len() as u64 == len)
        })
    }

    /// Decides about every pinned chunk.
    pub fn reconcile(&self, fate: impl Fn(BlobId) -> Fate) {
        for chunk in self.pinned_chunks() {
            match fate(chunk.blob) {
                Fate::Keep => {}
                Fate::Release if chunk.index != JOURNAL_CHUNK => self.unpin(chunk),
                Fate::Release | Fate::Forget => self.remove(chunk),
            }
        }
    }

    fn pinned_chunks(&self) -> Vec<ChunkId> {
        let state = self.state.borrow();
        let pinned = state.index.iter().filter(|(_, e)| e.pinned);
        pinned.map(|(c, _)| chunk_at(*c)).collect()
    }

    /// Blobs with pinned chunks.
    pub fn pinned(&self) -> BTreeSet<BlobId> {
        self.pinned_chunks().into_iter().map(|c| c.blob).collect()
    }

    /// Space kept for dirty data.
    pub fn reserved(&self) -> DirtyAmount {
        self.state.borrow().reserved
    }

    fn unpin(&self, chunk: ChunkId) {
        if let Some(entry) = self.state.borrow_mut().index.get_mut(&place(chunk)) {
            entry.pinned = false;
        }
    }

    fn remove(&self, chunk: ChunkId) {
        let reused = self.sim.below(2) == 0;
        let mut state = self.state.borrow_mut();
        if let Some(entry) = state.index.remove(&place(chunk))
            && reused
        {
            // Space is used again in the order it was written.
            for record in &mut state.medium[..=entry.record] {
                if record.chunk == chunk {
                    record.gone = true;
                    record.data = Bytes::new();
                }
            }
        }
    }

    /// Room is made for others now and then.
    fn evict(&self) {
        if self.sim.below(100) >= self.faults.get().disk_evicts {
            return;
        }
        let clean: Vec<_> = {
            let state = self.state.borrow();
            let clean = state.index.iter().filter(|(_, e)| !e.pinned);
            clean.map(|(c, _)| chunk_at(*c)).collect()
        };
        if !clean.is_empty() {
            self.trace.note("evicted", &clean.len());
            self.remove(clean[self.sim.below(clean.len() as u64) as usize]);
        }
    }

    /// A device flush covers all that was queued up to `record`.
    fn flush(&self, record: usize) {
        let from = match self.faults.get().broken == Some(Break::FlushCoversItselfOnly) {
            true => record,
            false => 0,
        };
        for record in &mut self.state.borrow_mut().medium[from..=record] {
            record.written = true;
            record.flushed = true;
        }
    }
}

impl Disk for CrashDisk {
    type Buffer = SimBuffer;
    type Reservation = Reserved;

    fn reserve(&self, bytes: u64, chunks: u32) -> Result<Reserved, DiskError> {
        // And one for the journal, as the store counts.
        let records = u64::from(chunks) + 1;
        let mut state = self.state.borrow_mut();
        let (dirty, reserved) = (state.dirty(), state.reserved);
        if dirty.bytes + reserved.bytes + bytes > DIRTY_MAX.bytes {
            self.trace.note("dirty full", &bytes);
            return Err(DiskError::DirtyFull);
        }
        if dirty.records + reserved.records + records > DIRTY_MAX.records {
            self.trace.note("records full", &records);
            return Err(DiskError::DirtyFull);
        }
        state.reserved.bytes += bytes;
        state.reserved.records += records;
        let (disk, kept) = (self.clone(), DirtyAmount { bytes, records });
        Ok(Reserved { disk, kept })
    }

    fn dirty_space(&self) -> DirtySpace {
        let state = self.state.borrow();
        DirtySpace {
            pinned: state.dirty(),
            reserved: state.reserved,
            limit: DIRTY_MAX,
        }
    }

    async fn buffer(&self, bytes: usize) -> Result<SimBuffer, DiskError> {
        Ok(SimBuffer(Vec::with_capacity(bytes)))
    }

    async fn read(
        &self,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Result<Option<SimBuffer>, DiskError> {
        self.sim.jitter().await;
        self.evict();
        let state = self.state.borrow();
        let Some(entry) = state.index.get(&place(chunk)) else {
            return Ok(None);
        };
        let data = &state.medium[entry.record].data;
        let wanted = &data[range.start as usize..range.end as usize];
        Ok(Some(SimBuffer(wanted.to_vec())))
    }

    async fn write(
        &self,
        chunk: ChunkId,
        data: SimBuffer,
        durability: Durability,
    ) -> (SimBuffer, Result<(), DiskError>) {
        self.evict();
        if self.sim.below(100) < self.faults.get().disk_full {
            return (data, Err(DiskError::Full));
        }
        let voided = chunk.index == JOURNAL_CHUNK && data.as_slice().is_empty();
        if voided && self.faults.get().broken == Some(Break::RefusedIsNotVoided) {
            return (data, Ok(()));
        }
        let pinned = durability != Durability::Cached;
        let record = {
            let mut state = self.state.borrow_mut();
            state.medium.push(Record {
                chunk,
                data: Bytes::copy_from_slice(data.as_slice()),
                pinned,
                written: false,
                flushed: false,
                gone: false,
            });
            state.medium.len() - 1
        };
        self.sim.jitter().await;
        if durability == Durability::Flushed {
            self.flush(record);
            self.sim.jitter().await;
        }
        let mut state = self.state.borrow_mut();
        state.medium[record].written = true;
        state.index.insert(place(chunk), Entry { record, pinned });
        self.trace.note("disk", &(chunk.blob.0, chunk.index));
        (data, Ok(()))
    }

    fn contains(&self, chunk: ChunkId) -> bool {
        self.state.borrow().index.contains_key(&place(chunk))
    }

    fn keeps(&self, chunk: ChunkId) -> bool {
        let state = self.state.borrow();
        let entry = state.index.get(&place(chunk));
        entry.is_some_and(|entry| entry.pinned)
    }

    fn forget(&self, blob: BlobId, chunks: u32) {
        for index in (0..chunks).chain([JOURNAL_CHUNK]) {
            self.remove(ChunkId { blob, index });
        }
    }

    fn make_spare(&self, _: ChunkId) {}

    fn drop_spare(&self, chunk: ChunkId) {
        let pinned = |entry: &Entry| entry.pinned;
        let pinned = self
            .state
            .borrow()
            .index
            .get(&place(chunk))
            .is_some_and(pinned);
        if !pinned {
            self.remove(chunk);
        }
    }

    fn release(&self, blob: BlobId, chunks: u32) {
        for index in 0..chunks {
            self.unpin(ChunkId { blob, index });
        }
        let index = JOURNAL_CHUNK;
        self.remove(ChunkId { blob, index });
    }
}
