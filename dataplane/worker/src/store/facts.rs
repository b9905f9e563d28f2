//! What the store can tell when the metadata are lost: every entry of the journal
//! and every note on disk, whether it has ended, and whether its data are whole.
//!
//! What ended is told too: it shows that what is older of the same key has. Not so what
//! is void: its commit was never made, or is told elsewhere. Absent: what the bytes say,
//! their order, and what is made of it.

use std::sync::Arc;

use quickwater_engine::io::{ChunkId, JOURNAL_CHUNK, NOTE_CHUNK};
use quickwater_proto::{BlobId, CHUNK_BYTES};

use super::core::Core;
use super::journal::{Journal, Read};
use super::marks::{Mark, OfSegment, What};
use crate::buffers::PoolError;

/// An entry or a note as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The blob it lies beside.
    pub blob: BlobId,
    /// A note; otherwise an entry of the journal.
    pub is_note: bool,
    /// The UFS has got it, or something newer took its place; or it is void.
    pub has_ended: bool,
    /// It says nothing of itself, nor of what is older: its commit was never made, or others
    /// tell of it.
    pub is_void: bool,
    /// What was written, verified. Empty: the entry must never be applied.
    pub data: Vec<u8>,
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} in segment {segment} at {} (blob {blob}): {}",
    if *is_note { "a note" } else { "an entry" },
    u64::from(*unit) * super::record::UNIT_BYTES as u64,
    cause.as_ref().map_or_else(|| "it does not verify".to_owned(), ToString::to_string)
)]
pub struct FactError {
    /// The blob it lies beside.
    pub blob: BlobId,
    /// A note; otherwise an entry of the journal.
    pub is_note: bool,
    /// It had ended, so nothing but its age is lost with it.
    pub has_ended: bool,
    /// Its segment.
    pub segment: u32,
    /// Where in it, 4 KiB units.
    pub unit: u32,
    /// What the device said; `None`: it does not verify.
    pub cause: Option<std::io::Error>,
}

/// What is missing of a store as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Segments that had records and whose file is not there.
    pub missing: Vec<u32>,
    /// Segments that are older than they were: put back from a copy.
    pub old: Vec<u32>,
    /// Segments of which it is not known what in them has ended.
    pub unmarked: Vec<u32>,
}

/// All facts of a store; see [`Store::facts`](super::Store::facts).
pub struct Facts {
    core: Arc<Core>,
    journal: Journal,
    /// Of the segment being read.
    marks: Option<(u32, OfSegment)>,
}

impl Facts {
    pub(super) fn new(core: Arc<Core>) -> Result<Self, PoolError> {
        let wanted = |chunk: ChunkId, _| chunk.index >= NOTE_CHUNK;
        let journal = Journal::listing(Arc::clone(&core), wanted)?;
        Ok(Self {
            core,
            journal,
            marks: None,
        })
    }

    /// Entries and notes whose data do not verify, in segments that were not full: cut
    /// by a crash before their ack, or lost. None that a start has seen before.
    pub fn torn(&mut self) -> Vec<FactError> {
        let core = Arc::clone(&self.core);
        let mut found = Vec::new();
        for torn in &core.torn {
            if self.is_over(torn.segment, torn.generation, torn.offset).0 {
                continue;
            }
            found.push(FactError {
                blob: torn.chunk.blob,
                is_note: torn.chunk.index == NOTE_CHUNK,
                has_ended: false,
                segment: torn.segment,
                unit: torn.offset,
                cause: None,
            });
        }
        found
    }

    /// Reads one record again, whatever was read before.
    ///
    /// # Errors
    /// See [`FactError`]; `None`: it is not there.
    pub fn read(&mut self, blob: BlobId, is_note: bool) -> Option<Result<Fact, FactError>> {
        let index = if is_note { NOTE_CHUNK } else { JOURNAL_CHUNK };
        let chunk = ChunkId { blob, index };
        let read = self.journal.read_chunk(chunk)?;
        Some(self.fact(chunk, read))
    }

    /// Reads the `bytes` bytes of a blob; how many of its chunks are not there, do
    /// not verify or have another length.
    pub fn check(&mut self, blob: BlobId, bytes: u64) -> u64 {
        let chunk_bytes = u64::from(CHUNK_BYTES);
        let chunks = bytes.div_ceil(chunk_bytes);
        let is_whole = |index: &u64| {
            let len = (bytes - index * chunk_bytes).min(chunk_bytes);
            let Ok(index) = u32::try_from(*index) else {
                return false;
            };
            let read = self.journal.read_chunk(ChunkId { blob, index });
            let data = read.and_then(|read| read.data.ok().flatten());
            data.is_some_and(|data| data.len() as u64 == len)
        };
        chunks - (0..chunks).filter(is_whole).count() as u64
    }

    fn fact(&mut self, chunk: ChunkId, read: Read) -> Result<Fact, FactError> {
        let (segment, unit) = (read.location.segment, read.location.offset);
        let (has_ended, is_void) = self.is_over(segment, read.generation, unit);
        let (blob, is_note) = (chunk.blob, chunk.index == NOTE_CHUNK);
        let refuse = |cause| FactError {
            blob,
            is_note,
            has_ended,
            segment,
            unit,
            cause,
        };
        match read.data {
            Ok(Some(data)) => Ok(Fact {
                blob,
                is_note,
                has_ended,
                is_void,
                data,
            }),
            Ok(None) => Err(refuse(None)),
            Err(cause) => Err(refuse(Some(cause))),
        }
    }

    /// Whether a record has ended, and whether it is void. What cannot be read of the marks
    /// counts as neither, and shows as a gap.
    fn is_over(&mut self, segment: u32, generation: u64, unit: u32) -> (bool, bool) {
        if self.marks.as_ref().is_none_or(|(of, _)| *of != segment) {
            let marks = self.core.marks.of_segment(segment).unwrap_or_default();
            self.marks = Some((segment, marks));
        }
        let marks = self.marks.as_ref();
        marks.map_or((false, false), |(_, marks)| {
            (
                marks.has_ended(generation, unit),
                marks.is_void(generation, unit),
            )
        })
    }
}

impl Iterator for Facts {
    type Item = Result<Fact, FactError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (chunk, read) = self.journal.next_read()?;
        Some(self.fact(chunk, read))
    }
}

/// Holds the segments against what was noted of them.
pub(super) fn gaps(core: &Core) -> std::io::Result<Gaps> {
    let mut gaps = Gaps::default();
    for segment in 0..core.marks.segments()? {
        let marks = core.marks.of_segment(segment)?;
        if marks.damaged > 0 {
            gaps.unmarked.push(segment);
        }
        let found = core.table.get(segment).map(|s| s.generation());
        match found {
            _ if marks.generation == 0 => {}
            None => gaps.missing.push(segment),
            Some(found) if found < marks.generation => gaps.old.push(segment),
            Some(_) => {}
        }
    }
    Ok(gaps)
}

/// A start with the metadata has dealt with what it found torn.
pub(super) fn forget_torn(core: &Core) {
    for torn in &core.torn {
        core.marks.note(Mark {
            segment: torn.segment,
            generation: torn.generation,
            what: What::Ended(torn.offset),
        });
    }
}

/// Notes of segments that are gone on purpose, or without need: the capacity was
/// made smaller, and a start with the metadata does not miss them.
pub(super) fn forget_absent(core: &Core) {
    let segments = core.marks.segments().unwrap_or(0);
    for segment in (0..segments).filter(|segment| core.table.get(*segment).is_none()) {
        core.marks.note(Mark {
            segment,
            generation: u64::MAX,
            what: What::Gone,
        });
    }
}
