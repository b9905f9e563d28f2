//! Evicts one segment: drops what is cold, takes along what is hot or pinned.
//!
//! Spare records, copies of what other workers hold, always go.
//! Hot: read since it was written; copied to the shard's current segment while
//! a share of the segment's size lasts, the most read first, so that every
//! eviction frees something.
//! Pinned records are always copied, and flushed, before their segment goes;
//! when one cannot be, the segment stays. Absent: which segment goes.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;
use quickwater_engine::io::{ChunkId, Durability};

use super::append::{enqueue_copy, outcome};
use super::footer::{Entry, decode_entries, decode_trailer, footer_bytes};
use super::index::Location;
use super::log::Pending;
use super::read::fetch;
use super::record::{UNIT_BYTES, footprint};
use super::scan::fits;
use super::segment::{Pin, Segment};
use super::shard::Shard;
use super::stats::StoreStats;
use crate::buffers::{FRONT_ROOM_BYTES, LARGE_BYTES, PoolBuf};

/// One part in this many of a segment may be copied because it is hot.
const HOT_SHARE: u64 = 4;
/// Copies in flight.
const COPIES_MAX: usize = 8;

/// Records to copy.
#[derive(Default)]
struct Kept {
    pinned: Vec<(ChunkId, Location)>,
    hot: Vec<(ChunkId, Location)>,
}

/// Frees a sealed segment of live records. `false`: some had to stay.
pub(super) async fn evict(shard: &Rc<Shard>, segment: &Arc<Segment>) -> bool {
    let listed = records_of(shard, segment).await;
    let kept = drop_cold(shard, listed);
    if !copy_all(shard, kept.pinned, Durability::Flushed).await {
        return false;
    }
    let hot = kept.hot.clone();
    copy_all(shard, kept.hot, Durability::Cached).await;
    for (chunk, location) in hot {
        // Those that could not be copied; the others lie elsewhere by now.
        drop_one(shard, chunk, location);
    }
    if segment.live_bytes() == 0 {
        return true;
    }
    // A footer that listed less than the index knows.
    let rest = shard.core.index.sweep(|_, at| at.segment == segment.id);
    for (chunk, location) in rest {
        if !location.pinned() {
            drop_one(shard, chunk, location);
        }
    }
    segment.live_bytes() == 0
}

/// The live records of a segment: from its footer, or from the whole index when
/// it has no good one.
async fn records_of(shard: &Rc<Shard>, segment: &Arc<Segment>) -> Vec<(ChunkId, Location)> {
    let index = &shard.core.index;
    let Some(entries) = read_footer(shard, segment).await else {
        return index.sweep(|_, at| at.segment == segment.id);
    };
    let live = entries.iter().filter_map(|entry| {
        let now = index.get(entry.chunk)?;
        let same = now.segment == segment.id && now.offset == entry.offset;
        same.then_some((entry.chunk, now))
    });
    live.collect()
}

fn drop_cold(shard: &Shard, mut listed: Vec<(ChunkId, Location)>) -> Kept {
    let mut budget = shard.core.segment_bytes / HOT_SHARE;
    let mut kept = Kept::default();
    // The most read first; equals stay in the order they lie in.
    listed.sort_by_key(|(_, location)| std::cmp::Reverse(location.reads()));
    for (chunk, location) in listed {
        let bytes = footprint(location.data_len() as usize) as u64;
        if location.pinned() {
            kept.pinned.push((chunk, location));
        } else if !location.spare() && is_hot(shard, chunk, location) && bytes <= budget {
            budget -= bytes;
            kept.hot.push((chunk, location));
        } else {
            drop_one(shard, chunk, location);
        }
    }
    kept
}

/// What the RAM tier holds is not read here, however often it is asked for.
fn is_hot(shard: &Shard, chunk: ChunkId, location: Location) -> bool {
    location.reads() > 0 || shard.core.tier.contains(chunk)
}

fn drop_one(shard: &Shard, chunk: ChunkId, location: Location) {
    if shard.core.remove_record(chunk, location) {
        let stats = &shard.core.stats;
        StoreStats::add(&stats.evicted_records, 1);
        StoreStats::add(&stats.evicted_bytes, u64::from(location.data_len()));
    }
}

/// Copies records, some at a time. `false`: one could not be; the rest is left.
async fn copy_all(
    shard: &Rc<Shard>,
    records: Vec<(ChunkId, Location)>,
    durability: Durability,
) -> bool {
    for some in records.chunks(COPIES_MAX) {
        let copies = some
            .iter()
            .map(|(chunk, at)| copy(shard, *chunk, *at, durability));
        if join_all(copies).await.contains(&false) {
            return false;
        }
    }
    true
}

/// Copies one record to the current segment. `true`: the original is not needed
/// any more (copied, forgotten meanwhile, or damaged).
async fn copy(
    shard: &Rc<Shard>,
    chunk: ChunkId,
    location: Location,
    durability: Durability,
) -> bool {
    let Some((now, pin)) = shard.core.pin(chunk, false) else {
        return true;
    };
    if !now.same_record(location) {
        return true;
    }
    let whole = 0..location.data_len() as usize;
    let data = match fetch(shard, chunk, now, pin, whole).await {
        Ok(Some(data)) => data,
        Ok(None) => return true,
        Err(_) => return false,
    };
    let bytes = data.len() as u64;
    let (pending, written) = Pending::new(chunk, data, durability, Some(location));
    enqueue_copy(shard, pending);
    let (_buffer, stored) = outcome(shard, written).await;
    if stored.is_ok() {
        StoreStats::add(&shard.core.stats.reinserted_bytes, bytes);
    }
    stored.is_ok()
}

/// The record list on disk; `None` when it is damaged or cannot be read now.
async fn read_footer(shard: &Rc<Shard>, segment: &Arc<Segment>) -> Option<Vec<Entry>> {
    let core = &shard.core;
    let end = core.segment_bytes;
    let timeout = core.config.buffer_timeout;
    let mut buffer = shard.pool.acquire(LARGE_BYTES, timeout).await.ok()?;
    buffer = read_piece(shard, segment, buffer, end - UNIT_BYTES as u64, UNIT_BYTES).await?;
    let trailer = decode_trailer(&core.secrets, piece(&buffer, UNIT_BYTES))?;
    let bytes = footer_bytes(trailer.count as usize);
    let mine = (trailer.segment, trailer.generation) == (segment.id, segment.generation());
    if !mine || bytes as u64 > end / 2 {
        return None;
    }
    let mut listed = Vec::with_capacity(bytes);
    while listed.len() < bytes {
        let len = (bytes - listed.len()).min(LARGE_BYTES);
        let offset = end - (bytes - listed.len()) as u64;
        buffer = read_piece(shard, segment, buffer, offset, len).await?;
        listed.extend_from_slice(piece(&buffer, len));
    }
    let entries = decode_entries(&core.secrets, &trailer, &listed)?;
    let limit = end - bytes as u64;
    entries
        .iter()
        .all(|entry| fits(entry, limit))
        .then_some(entries)
}

fn piece(buffer: &PoolBuf, len: usize) -> &[u8] {
    &buffer.memory()[FRONT_ROOM_BYTES..FRONT_ROOM_BYTES + len]
}

async fn read_piece(
    shard: &Rc<Shard>,
    segment: &Arc<Segment>,
    buffer: PoolBuf,
    offset: u64,
    len: usize,
) -> Option<PoolBuf> {
    let file = shard.file(segment).ok()?;
    let range = FRONT_ROOM_BYTES..FRONT_ROOM_BYTES + len;
    let pin = Pin::new(segment);
    let (buffer, outcome) = shard.reads.read(file, pin, buffer, range, offset).await?;
    if let Err(cause) = outcome {
        StoreStats::add(&shard.core.stats.io_errors, 1);
        tracing::warn!(segment = segment.id, %cause, "reading a segment's footer");
        return None;
    }
    Some(buffer)
}
