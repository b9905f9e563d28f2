//! Gets the next segment ready while the current one is written.
//!
//! At most one preparing task per shard; it resumes, recycles, makes or evicts,
//! as the allocator says, writes the header of the new lap and leaves the
//! segment as the shard's spare. Absent: how records are evicted (`evict`).

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::fs::File;
use quickwater_engine::io::DiskError;

use super::allocator::{Next, Resume};
use super::append::{finish_write, start_write};
use super::aside::aside;
use super::device;
use super::evict::evict;
use super::footer::encode_header;
use super::log::{Active, Log, Spare};
use super::marks::What;
use super::record::UNIT_BYTES;
use super::segment::{self, Segment};
use super::shard::Shard;
use super::stats::StoreStats;
use crate::buffers::{FRONT_ROOM_BYTES, LARGE_BYTES, PoolBuf};

/// Pause before asking again while other shards evict or reads drain.
const WAIT_STEP: Duration = Duration::from_millis(1);

/// Most segments evicted for one that is prepared because there are too many records.
const EVICTIONS_MAX: u32 = 8;

/// Starts to prepare a spare if there is none.
pub(super) fn start(shard: &Rc<Shard>) {
    start_with(shard, &mut shard.log.borrow_mut());
}

/// The same with the log at hand.
pub(super) fn start_with(shard: &Rc<Shard>, log: &mut Log) {
    if matches!(log.spare, Spare::None) {
        log.spare = Spare::Preparing;
        monoio::spawn(run(Rc::clone(shard)));
    }
}

async fn run(shard: Rc<Shard>) {
    let prepared = prepare(&shard).await;
    let mut log = shard.log.borrow_mut();
    log.reserved = 0;
    log.spare = match prepared {
        Ok(active) => Spare::Ready(active),
        Err(error) if log.starved => Spare::Failed(error),
        // Nobody waits yet: try again when somebody does.
        Err(_) => Spare::None,
    };
    drop(log);
    shard.signal.raise();
}

async fn prepare(shard: &Rc<Shard>) -> Result<Active, DiskError> {
    let core = &shard.core;
    let deadline = Instant::now() + core.config.io_timeout;
    let (mut may_create, mut kept, mut thinned) = (true, 0, 0);
    loop {
        if core.stats.is_suspect() {
            return Err(DiskError::Suspect);
        }
        let room = shard.log.borrow().pinned_room(core.segment_bytes);
        let crowded = thinned < EVICTIONS_MAX && core.index.len() as u64 > core.config.records_max;
        let next = core.allocator().next(room, may_create, crowded);
        match next {
            Next::Resume(resume) => {
                return match shard.file(&resume.segment) {
                    Ok(file) => Ok(Active::new(resume, file)),
                    Err(cause) => {
                        core.allocator().not_resumed(resume);
                        Err(refuse(&cause))
                    }
                };
            }
            Next::Recycle(segment) => return begin_lap(shard, segment).await,
            Next::Create(id) => match create(shard, id).await {
                Ok(segment) => return begin_lap(shard, segment).await,
                Err(cause) => {
                    core.allocator().not_created(id);
                    if !is_no_space(&cause) {
                        return Err(refuse(&cause));
                    }
                    tracing::warn!(%cause, "no room for a new segment; evicting instead");
                    may_create = false;
                }
            },
            Next::Evict(segment) => {
                shard.log.borrow_mut().reserved = with_entries(segment.pinned_bytes());
                let freed = evict(shard, &segment).await;
                shard.log.borrow_mut().reserved = 0;
                thinned += 1;
                if freed {
                    // What is left in it is old, until the next lap covers it.
                    core.note_lap(segment.id, What::All);
                    core.allocator().evicted(segment);
                } else {
                    core.allocator().keep(segment);
                    kept += 1;
                    if kept > core.segments_max {
                        return Err(DiskError::Full);
                    }
                }
            }
            Next::Wait => {
                if Instant::now() >= deadline {
                    return Err(DiskError::Overloaded);
                }
                monoio::time::sleep(WAIT_STEP).await;
            }
            Next::Full => return Err(DiskError::Full),
        }
    }
}

/// Bytes of pinned copies plus their footer entries.
fn with_entries(pinned: u64) -> u64 {
    pinned + pinned / 64
}

fn refuse(cause: &io::Error) -> DiskError {
    tracing::error!(%cause, "preparing a segment");
    DiskError::Io(cause.to_string())
}

fn is_no_space(cause: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(cause.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Makes the file on a thread of its own (allocating blocks can take long) and
/// writes zeros to it while nobody waits.
async fn create(shard: &Rc<Shard>, id: u32) -> io::Result<Arc<Segment>> {
    let core = &shard.core;
    let directory = segment::shard_directory(&core.root, shard.number);
    let bytes = core.segment_bytes;
    let make = move || segment::create(&directory, id, bytes);
    let file = aside("segment", make).await??;
    let segment = Arc::new(Segment::new(id, file, 0));
    if !core.table.set(Arc::clone(&segment)) {
        return Err(io::Error::other("the segment number is taken"));
    }
    if core.config.zero_ahead
        && let Err(cause) = zero(shard, &segment).await
    {
        core.suspect("zeroing", &cause);
        return Err(cause);
    }
    Ok(segment)
}

/// Writes zeros so that records go to blocks that exist (a write to an unwritten
/// extent ends in a kernel worker and makes flushes slow). Stops when somebody
/// waits for the segment; it is as good, only slower.
async fn zero(shard: &Rc<Shard>, segment: &Segment) -> io::Result<()> {
    let Some(mut zeros) = shard.pool.try_acquire(LARGE_BYTES) else {
        return Ok(());
    };
    let range = FRONT_ROOM_BYTES..FRONT_ROOM_BYTES + LARGE_BYTES;
    zeros.memory_mut()[range.clone()].fill(0);
    let file = shard.file(segment)?;
    let mut offset = 0;
    while offset < shard.core.segment_bytes && !shard.log.borrow().starved {
        let operation = device::write(Rc::clone(&file), zeros, range.clone(), offset);
        let ended = device::within(shard.core.config.io_timeout, operation).await;
        let (buffer, outcome) = ended.ok_or(io::ErrorKind::TimedOut)?;
        outcome?;
        zeros = buffer;
        offset += LARGE_BYTES as u64;
        StoreStats::add(&shard.core.stats.zeroed_bytes, LARGE_BYTES as u64);
    }
    Ok(())
}

/// Writes the header of a new lap. It needs no flush of its own: the flush of
/// the first group that asks for one covers the whole file.
async fn begin_lap(shard: &Rc<Shard>, segment: Arc<Segment>) -> Result<Active, DiskError> {
    let started = start_lap(shard, &segment).await;
    match started {
        Ok(file) => {
            let resume = Resume {
                segment,
                tail: 1,
                entries: Vec::new(),
            };
            Ok(Active::new(resume, file))
        }
        Err(error) => {
            shard.core.allocator().give_back(segment);
            Err(error)
        }
    }
}

async fn start_lap(shard: &Rc<Shard>, segment: &Segment) -> Result<Rc<File>, DiskError> {
    let core = &shard.core;
    debug_assert!(!segment.is_pinned() && segment.live_bytes() == 0);
    let generation = core.next_generation().map_err(|cause| refuse(&cause))?;
    let file = shard.file(segment).map_err(|cause| refuse(&cause))?;
    let mut buffer = header_buffer(shard).await?;
    let range = FRONT_ROOM_BYTES..FRONT_ROOM_BYTES + UNIT_BYTES;
    let header = encode_header(&core.secrets, segment.id, generation, core.segment_bytes);
    buffer.memory_mut()[range.clone()].copy_from_slice(&header);
    let operation = start_write(shard, &file, buffer, range, 0);
    finish_write(shard, operation).await.1?;
    segment.begin_lap(generation);
    core.note_lap(segment.id, What::Begun);
    StoreStats::add(&core.stats.recycled_segments, 1);
    Ok(file)
}

async fn header_buffer(shard: &Shard) -> Result<PoolBuf, DiskError> {
    let timeout = shard.core.config.buffer_timeout;
    let buffer = shard.pool.acquire(UNIT_BYTES, timeout).await;
    buffer.map_err(|_| DiskError::Overloaded)
}
