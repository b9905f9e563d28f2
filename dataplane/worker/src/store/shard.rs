//! One shard's view of the store: the engine's `Disk`. Absent: how it is done.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::fs::File;
use quickwater_engine::io::{ChunkId, DirtySpace, Disk, DiskError, Durability};
use quickwater_proto::{BlobId, CHUNK_BYTES};

use super::append;
use super::core::Core;
use super::dirty::{self, Reservation};
use super::index::Location;
use super::local::Signal;
use super::log::{Log, Pending};
use super::reads::Reads;
use super::record::COMPACT_LIMIT;
use super::segment::Segment;
use super::{prepare, read};
use crate::buffers::{FRONT_ROOM_BYTES, Pool, PoolBuf};

/// How often [`ShardStore::settle`] looks again.
const SETTLE_STEP: Duration = Duration::from_millis(1);

/// The store on one shard. Clones share it; it stays on its thread.
#[derive(Clone)]
pub struct ShardStore {
    pub(super) shard: Rc<Shard>,
}

/// State of one shard, used by its thread only.
pub(super) struct Shard {
    pub(super) core: Arc<Core>,
    pub(super) number: usize,
    /// It has no segments of its own and takes no writes.
    pub(super) reads_only: bool,
    pub(super) pool: Pool,
    pub(super) log: RefCell<Log>,
    /// Something the commit task waits for happened.
    pub(super) signal: Signal,
    /// Reads under way.
    pub(super) reads: Rc<Reads>,
    /// Segment files as this thread's ring knows them.
    pub(super) files: RefCell<HashMap<u32, Rc<File>>>,
}

impl Shard {
    /// A segment's file on this shard's ring.
    pub(super) fn file(&self, segment: &Segment) -> io::Result<Rc<File>> {
        if let Some(file) = self.files.borrow().get(&segment.id) {
            return Ok(Rc::clone(file));
        }
        let file = Rc::new(File::from_std(segment.file.try_clone()?)?);
        self.files.borrow_mut().insert(segment.id, Rc::clone(&file));
        Ok(file)
    }
}

impl ShardStore {
    pub(super) fn new(core: Arc<Core>, number: usize, pool: Pool) -> Self {
        let store = Self::build(core, number, pool, false);
        prepare::start(&store.shard);
        store
    }

    /// For a thread that reads, releases and forgets but never writes.
    pub(super) fn reader(core: Arc<Core>, pool: Pool) -> Self {
        Self::build(core, usize::MAX, pool, true)
    }

    fn build(core: Arc<Core>, number: usize, pool: Pool, reads_only: bool) -> Self {
        let shard = Rc::new(Shard {
            reads: Reads::new(core.config.io_timeout),
            core,
            number,
            reads_only,
            pool,
            log: RefCell::new(Log::default()),
            signal: Signal::default(),
            files: RefCell::new(HashMap::new()),
        });
        Self { shard }
    }

    /// The buffers this shard uses.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.shard.pool
    }

    /// Waits until nothing is queued, written or prepared, at most `timeout`.
    /// `false`: something still is.
    pub async fn settle(&self, timeout: Duration) -> bool {
        let mut waited = Duration::ZERO;
        while !self.shard.log.borrow().is_idle() {
            if waited >= timeout {
                return false;
            }
            monoio::time::sleep(SETTLE_STEP).await;
            waited += SETTLE_STEP;
        }
        true
    }
}

impl Disk for ShardStore {
    type Buffer = PoolBuf;
    type Reservation = Reservation;

    fn reserve(&self, bytes: u64, chunks: u32) -> Result<Reservation, DiskError> {
        dirty::reserve(&self.shard.core, bytes, chunks)
    }

    fn dirty_space(&self) -> DirtySpace {
        dirty::space(&self.shard.core)
    }

    async fn buffer(&self, bytes: usize) -> Result<PoolBuf, DiskError> {
        let timeout = self.shard.core.config.buffer_timeout;
        let buffer = self.shard.pool.acquire(bytes, timeout).await;
        buffer.map_err(|_| DiskError::Overloaded)
    }

    async fn read(&self, chunk: ChunkId, range: Range<u32>) -> Result<Option<PoolBuf>, DiskError> {
        read::read(&self.shard, chunk, range).await
    }

    async fn write(
        &self,
        chunk: ChunkId,
        mut data: PoolBuf,
        durability: Durability,
    ) -> (PoolBuf, Result<(), DiskError>) {
        if let Err(error) = check(&self.shard, &mut data) {
            return (data, Err(error));
        }
        let (pending, written) = Pending::new(chunk, data, durability, None);
        if let Err(data) = append::enqueue(&self.shard, pending) {
            return (data, Err(DiskError::Overloaded));
        }
        let (data, stored) = append::outcome(&self.shard, written).await;
        if stored.is_ok() {
            // The record's checksums were computed over these very bytes. What is
            // written is read soon; nobody can name the blob before its commit.
            self.shard.core.tier.offer(chunk, data.as_slice());
        }
        (data, stored)
    }

    fn contains(&self, chunk: ChunkId) -> bool {
        let core = &self.shard.core;
        core.index.get(chunk).is_some() || core.tier.contains(chunk)
    }

    fn keeps(&self, chunk: ChunkId) -> bool {
        let found = self.shard.core.index.get(chunk);
        found.is_some_and(Location::pinned)
    }

    fn forget(&self, blob: BlobId, chunks: u32) {
        self.shard.core.forget_blob(blob, chunks);
    }

    fn make_spare(&self, chunk: ChunkId) {
        self.shard.core.make_spare(chunk);
    }

    fn drop_spare(&self, chunk: ChunkId) {
        self.shard.core.drop_spare(chunk);
    }

    fn release(&self, blob: BlobId, chunks: u32) {
        self.shard.core.release_blob(blob, chunks);
    }
}

/// Whether a write can be taken at all; moves long data to where they can be
/// written from.
fn check(shard: &Shard, data: &mut PoolBuf) -> Result<(), DiskError> {
    if shard.core.stats.is_suspect() {
        return Err(DiskError::Suspect);
    }
    if shard.reads_only {
        return Err(DiskError::Io("this thread only reads the store".into()));
    }
    let too_long = data.len() > CHUNK_BYTES as usize;
    let aligned = data.start() == FRONT_ROOM_BYTES || data.len() < COMPACT_LIMIT;
    if data.is_detached() || too_long || !(aligned || data.relocate(FRONT_ROOM_BYTES)) {
        return Err(DiskError::Io("not a buffer of one chunk".into()));
    }
    Ok(())
}
