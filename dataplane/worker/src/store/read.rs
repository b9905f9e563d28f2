//! Reading: which bytes to fetch for a range, and proof that they are right.
//!
//! The plan is a plain function; the rest is a thin shell around it. Absent:
//! read-ahead and what to do after a miss, which are the engine's.

use std::io;
use std::ops::Range;

use futures_util::future::join;
use quickwater_engine::io::{ChunkId, DiskError};

use super::device::Transferred;
use super::index::Location;
use super::reads::Reading;
use super::record::{BLOCK_BYTES, COMPACT_LIMIT, Head, UNIT_BYTES, data_at, footprint};
use super::segment::{Pin, unit_bytes};
use super::shard::Shard;
use super::stats::StoreStats;
use crate::buffers::{FRONT_ROOM_BYTES, PoolBuf};
use crate::tier::OBJECT_BYTES_MAX;

/// A range that begins this many blocks into a record or less is fetched in one
/// read with the head; one longer read costs less than two.
const NEAR_BLOCKS: usize = 2;

/// Where the bytes for a range lie: file offsets are relative to the record,
/// memory offsets to the buffer.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// First block fetched.
    first_block: usize,
    /// Where the record's head comes to lie.
    head: Range<usize>,
    /// Where the data fetched come to lie, without padding.
    data: Range<usize>,
    /// First read: memory, and where in the record.
    main: (Range<usize>, usize),
    /// The head needs a read of its own (to `head`, from the record's begin).
    head_apart: bool,
}

impl Plan {
    fn new(data_len: usize, range: Range<usize>) -> Self {
        if data_len < COMPACT_LIMIT {
            return Self::compact(data_len);
        }
        let first = range.start / BLOCK_BYTES;
        let end = range.end.next_multiple_of(BLOCK_BYTES).min(data_len);
        let near = first <= NEAR_BLOCKS;
        let first_block = if near { 0 } else { first };
        let begin = first_block * BLOCK_BYTES;
        let data = FRONT_ROOM_BYTES..FRONT_ROOM_BYTES + end - begin;
        let padded = FRONT_ROOM_BYTES + (end - begin).next_multiple_of(UNIT_BYTES);
        let head = FRONT_ROOM_BYTES - UNIT_BYTES..FRONT_ROOM_BYTES;
        let main = if near {
            (head.start..padded, 0)
        } else {
            (FRONT_ROOM_BYTES..padded, UNIT_BYTES + begin)
        };
        Self {
            first_block,
            head,
            data,
            main,
            head_apart: !near,
        }
    }

    fn compact(data_len: usize) -> Self {
        let begin = FRONT_ROOM_BYTES;
        let data = begin + data_at(data_len);
        Self {
            first_block: 0,
            head: begin..begin + UNIT_BYTES,
            data: data..data + data_len,
            main: (begin..begin + footprint(data_len), 0),
            head_apart: false,
        }
    }

    /// Bytes a buffer must be able to hold; padding goes to its slack.
    fn buffer_bytes(&self) -> usize {
        self.data.end - FRONT_ROOM_BYTES
    }
}

/// Reads `range` of a chunk, from RAM if it is there; see `Disk::read`.
pub(super) async fn read(
    shard: &Shard,
    chunk: ChunkId,
    range: Range<u32>,
) -> Result<Option<PoolBuf>, DiskError> {
    let range = range.start as usize..range.end as usize;
    if let Some(found) = recall(shard, chunk, &range) {
        return Ok(Some(found));
    }
    let Some((location, pin)) = shard.core.pin(chunk, true) else {
        return Ok(None);
    };
    let data_len = location.data_len() as usize;
    if range.start > range.end || range.end > data_len {
        return Ok(None);
    }
    let whole = range == (0..data_len);
    let found = fetch(shard, chunk, location, pin, range).await?;
    if let Some(found) = found.as_ref().filter(|_| whole) {
        shard.core.tier.offer_read(chunk, found.as_slice());
    }
    Ok(found)
}

/// From the RAM tier, without waiting.
fn recall(shard: &Shard, chunk: ChunkId, range: &Range<usize>) -> Option<PoolBuf> {
    let tier = &shard.core.tier;
    if !tier.may_hold(chunk, range.end) {
        return None;
    }
    let mut buffer = shard.pool.try_acquire(OBJECT_BYTES_MAX)?;
    tier.read(chunk, range, &mut buffer).then_some(buffer)
}

/// Reads and verifies a range of the record at `location`, which `pin` keeps.
pub(super) async fn fetch(
    shard: &Shard,
    chunk: ChunkId,
    location: Location,
    pin: Pin,
    range: Range<usize>,
) -> Result<Option<PoolBuf>, DiskError> {
    let plan = Plan::new(location.data_len() as usize, range.clone());
    let timeout = shard.core.config.buffer_timeout;
    let buffer = shard.pool.acquire(plan.buffer_bytes(), timeout).await;
    let buffer = buffer.map_err(|_| DiskError::Overloaded)?;
    let generation = pin.segment().generation();
    let mut buffer = match transfer(shard, &plan, location, &pin, buffer).await {
        Ok(buffer) => buffer,
        // The file is shorter than it was: the record is not there.
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            shard.core.damaged(chunk, location);
            return Ok(None);
        }
        Err(cause) => return Err(failed(shard, location, &cause)),
    };
    if !is_right(shard, &plan, chunk, location, generation, &buffer) {
        shard.core.damaged(chunk, location);
        return Ok(None);
    }
    let begin = plan.data.start + range.start - plan.first_block * BLOCK_BYTES;
    buffer.set_range(begin..begin + range.len());
    Ok(Some(buffer))
}

fn failed(shard: &Shard, location: Location, cause: &io::Error) -> DiskError {
    StoreStats::add(&shard.core.stats.io_errors, 1);
    let (segment, offset) = (location.segment, location.offset);
    tracing::error!(segment, offset, %cause, "reading a record");
    DiskError::Io(cause.to_string())
}

/// Does the plan's reads, the head beside the data where a buffer is free for it.
async fn transfer(
    shard: &Shard,
    plan: &Plan,
    location: Location,
    pin: &Pin,
    buffer: PoolBuf,
) -> io::Result<PoolBuf> {
    let record = unit_bytes(location.offset);
    let (range, from) = plan.main.clone();
    let aside = if plan.head_apart {
        shard.pool.try_acquire(UNIT_BYTES)
    } else {
        None
    };
    let main = start(shard, pin, buffer, range, record + from as u64)?;
    let Some(aside) = aside else {
        let buffer = ended(main.await)?;
        if !plan.head_apart {
            return Ok(buffer);
        }
        let head = start(shard, pin, buffer, plan.head.clone(), record)?;
        return ended(head.await);
    };
    let head = start(shard, pin, aside, plan.head.clone(), record)?;
    let (main, head) = join(main, head).await;
    let (mut buffer, head) = (ended(main)?, ended(head)?);
    let bytes = &head.memory()[plan.head.clone()];
    buffer.memory_mut()[plan.head.clone()].copy_from_slice(bytes);
    Ok(buffer)
}

fn start(
    shard: &Shard,
    pin: &Pin,
    buffer: PoolBuf,
    range: Range<usize>,
    offset: u64,
) -> io::Result<Reading> {
    let file = shard.file(pin.segment())?;
    StoreStats::add(&shard.core.stats.read_ops, 1);
    StoreStats::add(&shard.core.stats.read_bytes, range.len() as u64);
    let pin = Pin::new(pin.segment());
    Ok(shard.reads.read(file, pin, buffer, range, offset))
}

fn ended(transferred: Option<Transferred>) -> io::Result<PoolBuf> {
    let (buffer, outcome) = transferred.ok_or(io::ErrorKind::TimedOut)?;
    outcome.map(|()| buffer)
}

fn is_right(
    shard: &Shard,
    plan: &Plan,
    chunk: ChunkId,
    location: Location,
    generation: u64,
    buffer: &PoolBuf,
) -> bool {
    let memory = buffer.memory();
    let Some(head) = Head::decode(&shard.core.secrets, &memory[plan.head.clone()]) else {
        return false;
    };
    head.chunk == chunk
        && head.data_len == location.data_len()
        && head.place.segment == location.segment
        && head.place.offset == location.offset
        && head.place.generation == generation
        && head.verifies(plan.first_block, &memory[plan.data.clone()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::{LARGE_BYTES, SMALL_BYTES, TAIL_SLACK_BYTES};

    /// Every plan must deliver the whole range, within the buffer it asks for,
    /// by aligned reads, and verify whole blocks only.
    #[test]
    fn plans_cover_their_range_and_fit_their_buffer() {
        let lens = [0, 1, 4095, 65_455, 65_535, 65_536, 65_537, 200_000, 1 << 20];
        for len in lens {
            let points = [
                0,
                1,
                65_536,
                131_072,
                196_607,
                196_608,
                500_000,
                len / 2,
                len,
            ];
            for (&begin, &end) in points
                .iter()
                .flat_map(|a| points.iter().map(move |b| (a, b)))
            {
                if begin <= end && end <= len {
                    check(len, begin..end);
                }
            }
        }
    }

    fn check(len: usize, range: Range<usize>) {
        let plan = Plan::new(len, range.clone());
        let (memory, from) = plan.main.clone();
        let class = if plan.buffer_bytes() <= SMALL_BYTES {
            SMALL_BYTES
        } else {
            LARGE_BYTES
        };
        assert!(
            memory.end <= FRONT_ROOM_BYTES + class + TAIL_SLACK_BYTES,
            "{len} {range:?}"
        );
        for number in [memory.start, memory.len(), from] {
            assert!(
                number.is_multiple_of(UNIT_BYTES),
                "{len} {range:?} {plan:?}"
            );
        }
        let at = plan.first_block * BLOCK_BYTES;
        assert!(at <= range.start && range.end <= at + plan.data.len() || range.is_empty());
        let ends_block = (at + plan.data.len()).is_multiple_of(BLOCK_BYTES);
        assert!(ends_block || at + plan.data.len() == len);
        assert_eq!(plan.data.start - memory.start + from, data_at(len) + at);
        assert_eq!(plan.head_apart, from != 0);
    }

    #[test]
    fn a_small_object_is_one_short_read() {
        let plan = Plan::new(10_240, 0..10_240);
        assert_eq!(plan.main.0.len(), 12_288);
    }

    #[test]
    fn a_far_range_reads_its_blocks_only() {
        let plan = Plan::new(1 << 20, 700_000..700_010);
        assert_eq!((plan.main.0.len(), plan.head_apart), (BLOCK_BYTES, true));
    }
}
