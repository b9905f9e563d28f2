//! The outside world, simulated: time, and a store that forgets. Absent: the UFS and
//! the metadata, which are below.

mod metadata;
mod ufs;
mod uploads;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::World;
use quickwater_engine::io::*;
use quickwater_proto::*;

use quickwater_simulation::Sim;

pub use metadata::SimMetadata;
pub use ufs::SimUfs;

pub struct SimWorld;

impl World for SimWorld {
    type Disk = SimDisk;
    type Ufs = SimUfs;
    type Metadata = SimMetadata;
    type Environment = SimEnvironment;
    type Peers = quickwater_engine::io::Alone;
}

/// Chances in percent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub disk_forgets: u64,
    pub disk_full: u64,
    pub ufs_refuses: u64,
    pub ufs_loses_reply: u64,
    pub metadata_unknown: u64,
}

#[derive(Clone)]
pub struct SimEnvironment(pub Sim);

impl Environment for SimEnvironment {
    fn wall_ms(&self) -> i64 {
        self.0.now().as_millis() as i64
    }
    fn monotonic(&self) -> Duration {
        self.0.now()
    }
    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
    fn random_u128(&self) -> u128 {
        self.0.random_u128()
    }
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawn(task);
    }
}

pub struct SimBuffer(pub Vec<u8>);

impl Buffer for SimBuffer {
    fn as_slice(&self) -> &[u8] {
        &self.0
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }
    fn capacity(&self) -> usize {
        CHUNK_BYTES as usize
    }
    fn set_len(&mut self, len: usize) {
        self.0.resize(len, 0);
    }
    fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

#[derive(Clone)]
pub struct SimDisk {
    pub sim: Sim,
    pub faults: Rc<Cell<Faults>>,
    pub chunks: Rc<RefCell<HashMap<ChunkId, Vec<u8>>>>,
    /// There is no room for what no UFS has, and none comes free.
    pub dirty_full: Rc<Cell<bool>>,
}

/// Space for dirty data.
const DIRTY_LIMIT: DirtyAmount = DirtyAmount {
    bytes: 1 << 40,
    records: 1 << 30,
};

impl Disk for SimDisk {
    type Buffer = SimBuffer;
    type Reservation = ();

    fn reserve(&self, _: u64, _: u32) -> Result<(), DiskError> {
        match self.dirty_full.get() {
            true => Err(DiskError::DirtyFull),
            false => Ok(()),
        }
    }

    fn dirty_space(&self) -> DirtySpace {
        DirtySpace {
            pinned: match self.dirty_full.get() {
                true => DIRTY_LIMIT,
                false => DirtyAmount::default(),
            },
            reserved: DirtyAmount::default(),
            limit: DIRTY_LIMIT,
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
        if self.sim.below(100) < self.faults.get().disk_forgets {
            self.chunks.borrow_mut().remove(&chunk);
        }
        let chunks = self.chunks.borrow();
        let found = chunks.get(&chunk);
        Ok(found.map(|c| SimBuffer(c[range.start as usize..range.end as usize].to_vec())))
    }

    async fn write(
        &self,
        chunk: ChunkId,
        data: SimBuffer,
        _: Durability,
    ) -> (SimBuffer, Result<(), DiskError>) {
        self.sim.jitter().await;
        if self.sim.below(100) < self.faults.get().disk_full {
            return (data, Err(DiskError::Full));
        }
        self.chunks.borrow_mut().insert(chunk, data.0.clone());
        (data, Ok(()))
    }

    fn contains(&self, chunk: ChunkId) -> bool {
        self.chunks.borrow().contains_key(&chunk)
    }

    fn keeps(&self, chunk: ChunkId) -> bool {
        self.contains(chunk)
    }

    fn forget(&self, blob: BlobId, _: u32) {
        self.chunks.borrow_mut().retain(|c, _| c.blob != blob);
    }

    fn make_spare(&self, _: ChunkId) {}

    fn drop_spare(&self, chunk: ChunkId) {
        self.chunks.borrow_mut().remove(&chunk);
    }

    fn release(&self, _: BlobId, _: u32) {}
}
