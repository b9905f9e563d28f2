//! Entries of the journal and notes of which an open store finds several beside one blob:
//! which of them counts.
//!
//! While a store is open the newer one takes the place of the older one, which is void from
//! then on. A crash may take the marks that say so with it: then both look as if they counted.
//! Of notes the newest by what they say counts, ended or not: any shard writes them, into
//! segments that are filled side by side, and an eviction may leave an older one behind a newer
//! one. Of entries an empty one counts, which forbids the commit; otherwise they are copies of
//! one another, and the last one does.
//!
//! The others are in no index, so nobody would ever mark them: [`note_outlived`] does, once the
//! metadata have been asked. Absent: what notes say.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use quickwater_engine::io::{ChunkId, NOTE_CHUNK};

use super::core::Core;
use super::footer::Entry;
use super::index::Location;
use super::journal::{Journal, Read};
use super::marks::{Mark, OfSegment, What};
use super::recovery::location_of;
use super::segment::Segment;
use crate::buffers::PoolError;

/// What is noted of the segments that were asked about.
struct Noted<'a> {
    core: &'a Core,
    of_segments: HashMap<u32, OfSegment>,
}

impl Noted<'_> {
    fn ask(&mut self, at: Location, what: impl Fn(&OfSegment, u64, u32) -> bool) -> bool {
        let marks = &self.core.marks;
        let of_segment = self.of_segments.entry(at.segment);
        // What cannot be read of the marks counts as not marked, and shows as a gap.
        let of_segment =
            of_segment.or_insert_with(|| marks.of_segment(at.segment).unwrap_or_default());
        let segment = self.core.table.get(at.segment);
        segment.is_some_and(|segment| what(of_segment, segment.generation(), at.offset))
    }

    fn is_void(&mut self, at: Location) -> bool {
        self.ask(at, OfSegment::is_void)
    }

    fn has_ended(&mut self, at: Location) -> bool {
        self.ask(at, OfSegment::has_ended)
    }
}

/// Enters what was found on disk, oldest lap first, into the index: of each chunk the record
/// that counts. 48 bytes of memory for each entry and note that another one took the place of
/// and that is not marked as void.
///
/// # Errors
/// No memory for a read buffer.
pub(super) fn enter_all(
    core: &Arc<Core>,
    records: &[(Arc<Segment>, Vec<Entry>)],
) -> Result<(), PoolError> {
    let mut noted = Noted {
        core,
        of_segments: HashMap::new(),
    };
    let mut doubled = Vec::new();
    for (segment, entries) in records {
        for entry in entries {
            let (chunk, found) = (entry.chunk, location_of(segment, entry));
            let before = match chunk.index >= NOTE_CHUNK {
                true => core.index.get(chunk),
                false => None,
            };
            if let Some(before) = before {
                if noted.is_void(found) {
                    continue;
                }
                if !noted.is_void(before) {
                    doubled.push((chunk, before));
                }
            }
            core.enter_found(chunk, found);
        }
    }
    if !doubled.is_empty() {
        settle(core, doubled, &mut noted)?;
    }
    Ok(())
}

/// Where among the records of one chunk one stands: the greatest counts.
type Rank = (u8, (u64, u64), u64, u32);

/// Enters the one of each chunk that counts; all others are outlived.
fn settle(
    core: &Arc<Core>,
    mut doubled: Vec<(ChunkId, Location)>,
    noted: &mut Noted<'_>,
) -> Result<(), PoolError> {
    let mut best: HashMap<ChunkId, (Rank, Location)> = HashMap::new();
    let entered: HashMap<ChunkId, Location> = doubled
        .iter()
        .filter_map(|(chunk, _)| core.index.get(*chunk).map(|at| (*chunk, at)))
        .collect();
    doubled.extend(entered.iter().map(|(chunk, at)| (*chunk, *at)));
    let mut outlived = Vec::with_capacity(doubled.len());
    let mut reader = Journal::of(Arc::clone(core), doubled)?;
    while let Some((chunk, read)) = reader.next_listed() {
        let at = read.location;
        let mut rank = rank(core, chunk, &read, noted);
        let mut other = at;
        let found = best.entry(chunk).or_insert((rank, at));
        if found.1 == at {
            continue;
        }
        if found.0 < rank {
            std::mem::swap(&mut found.0, &mut rank);
            std::mem::swap(&mut found.1, &mut other);
        }
        outlived.push(Mark {
            segment: other.segment,
            generation: rank.2,
            // The one that counts says it all.
            what: What::Void(other.offset),
        });
    }
    for (chunk, (_, at)) in best {
        if entered.get(&chunk) != Some(&at) {
            core.enter_found(chunk, at);
        }
    }
    *core.outlived.lock().unwrap_or_else(PoisonError::into_inner) = outlived;
    Ok(())
}

fn rank(core: &Core, chunk: ChunkId, read: &Read, noted: &mut Noted<'_>) -> Rank {
    let at = read.location;
    let (class, order) = if chunk.index == NOTE_CHUNK {
        let data = read.data.as_ref().ok().and_then(Option::as_ref);
        match data.and_then(|data| (core.config.note_order)(data)) {
            Some(order) => (1, order),
            // One that ended takes nothing with it.
            None if noted.has_ended(at) => (0, (0, 0)),
            // It may be the newest: what is known to be older must not be taken for it.
            None => (2, (0, 0)),
        }
    } else {
        (u8::from(at.data_len() == 0), (0, 0))
    };
    (class, order, read.generation, at.offset)
}

/// A start has asked the metadata: what was outlived is void, whatever became of the one that
/// counts.
pub(super) fn note_outlived(core: &Core) {
    let mut outlived = core.outlived.lock().unwrap_or_else(PoisonError::into_inner);
    for mark in std::mem::take(&mut *outlived) {
        core.marks.note(mark);
    }
}
