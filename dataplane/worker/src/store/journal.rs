//! The journal of commits as it lies on disk, read one entry after the other.
//!
//! Entries are pinned chunks numbered [`JOURNAL_CHUNK`]; they lie beside the data
//! they commit, so neighbours are read together. Absent: what an entry says, its
//! order and its replay, which are the metadata's.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use quickwater_engine::io::{ChunkId, JOURNAL_CHUNK};
use quickwater_proto::BlobId;

use super::core::Core;
use super::index::Location;
use super::record::{Head, Place, data_at, footprint};
use super::segment::{Pin, unit_bytes};
use super::stats::StoreStats;
use crate::buffers::{LARGE_BYTES, Pool, PoolBuf, PoolConfig, PoolError};

/// Most bytes read at once.
const WINDOW_BYTES: u64 = LARGE_BYTES as u64;
/// Entries further apart than this are read apart: about what a device reads in
/// the time another read takes.
const GAP_BYTES_MAX: u64 = 128 << 10;
/// Memory of the reader: one window.
const BUFFER_BYTES: usize = 3 << 20;

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The blob whose commit it is.
    pub blob: BlobId,
    /// What was written, verified.
    pub data: Vec<u8>,
}

/// Why an entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The device failed; the entry is still known.
    #[error("reading the journal entry of blob {blob}: {cause}")]
    Io {
        /// Whose entry.
        blob: BlobId,
        /// What the device said.
        cause: std::io::Error,
    },
    /// It does not verify and was forgotten. It did when the store was opened or
    /// when its segment was sealed, so the device lost what it had flushed.
    #[error("the journal entry of blob {blob} is damaged")]
    Damaged {
        /// Whose entry.
        blob: BlobId,
    },
}

/// All pinned entries of the journal; see [`Store::journal`](super::Store::journal).
pub struct Journal {
    core: Arc<Core>,
    /// By place.
    listed: Vec<(ChunkId, Location)>,
    at: usize,
    buffer: PoolBuf,
    window: Option<Window>,
    _pool: Pool,
}

/// A record as it was read.
pub(super) struct Read {
    pub(super) location: Location,
    /// Lap of its segment.
    pub(super) generation: u64,
    /// `None`: it does not verify.
    pub(super) data: std::io::Result<Option<Vec<u8>>>,
}

/// What the buffer holds.
struct Window {
    segment: u32,
    generation: u64,
    bytes: Range<u64>,
}

/// Where a record lies in its segment, bytes.
fn span(location: Location) -> Range<u64> {
    let begin = unit_bytes(location.offset);
    begin..begin + footprint(location.data_len() as usize) as u64
}

impl Journal {
    /// Lists the entries; 48 bytes of memory each.
    pub(super) fn new(core: Arc<Core>) -> Result<Self, PoolError> {
        Self::listing(core, |chunk, at| {
            chunk.index == JOURNAL_CHUNK && at.pinned()
        })
    }

    /// Lists other records instead; read them with [`Journal::next_read`].
    pub(super) fn listing(
        core: Arc<Core>,
        wanted: impl Fn(ChunkId, Location) -> bool,
    ) -> Result<Self, PoolError> {
        let listed = core.index.sweep(wanted);
        Self::of(core, listed)
    }

    /// Lists these; read them with [`Journal::next_listed`], or others by their chunks.
    pub(super) fn of(
        core: Arc<Core>,
        mut listed: Vec<(ChunkId, Location)>,
    ) -> Result<Self, PoolError> {
        let pool = Pool::new(PoolConfig::new(BUFFER_BYTES))?;
        let buffer = pool
            .try_acquire(LARGE_BYTES)
            .unwrap_or_else(PoolBuf::detached);
        listed.sort_unstable_by_key(|(_, at)| (at.segment, at.offset));
        Ok(Self {
            core,
            listed,
            at: 0,
            buffer,
            window: None,
            _pool: pool,
        })
    }

    fn read(&mut self, chunk: ChunkId) -> Option<Result<JournalEntry, JournalError>> {
        let blob = chunk.blob;
        let Read { location, data, .. } = self.read_chunk(chunk)?;
        Some(match data {
            Err(cause) => Err(JournalError::Io { blob, cause }),
            Ok(Some(data)) => Ok(JournalEntry { blob, data }),
            Ok(None) => {
                self.core.damaged(chunk, location);
                Err(JournalError::Damaged { blob })
            }
        })
    }

    /// Reads any chunk of the store, verified; `None`: it is not here, `Ok(None)`: it is
    /// damaged. Blocks.
    pub fn chunk(&mut self, chunk: ChunkId) -> Option<std::io::Result<Option<Vec<u8>>>> {
        self.read_chunk(chunk).map(|read| read.data)
    }

    /// Reads the next record of the list that is still there.
    pub(super) fn next_read(&mut self) -> Option<(ChunkId, Read)> {
        loop {
            let (chunk, _) = *self.listed.get(self.at)?;
            self.at += 1;
            if let Some(read) = self.read_chunk(chunk) {
                return Some((chunk, read));
            }
        }
    }

    /// Reads the next record of the list where it was listed, whatever the index has.
    pub(super) fn next_listed(&mut self) -> Option<(ChunkId, Read)> {
        loop {
            let (chunk, location) = *self.listed.get(self.at)?;
            self.at += 1;
            if let Some(segment) = self.core.table.get(location.segment) {
                let pin = Pin::new(segment);
                return Some((chunk, self.read_at(chunk, location, &pin)));
            }
        }
    }

    /// Reads a record, of the list or not; `None`: it is not here.
    pub(super) fn read_chunk(&mut self, chunk: ChunkId) -> Option<Read> {
        // Where it is now: it may have been moved or forgotten.
        let (location, pin) = self.core.pin(chunk, false)?;
        Some(self.read_at(chunk, location, &pin))
    }

    fn read_at(&mut self, chunk: ChunkId, location: Location, pin: &Pin) -> Read {
        let generation = pin.segment().generation();
        let loaded = match self.window_holds(location, pin) {
            true => Ok(()),
            false => self.load(location, pin),
        };
        if loaded.is_err() {
            StoreStats::add(&self.core.stats.io_errors, 1);
        }
        let data = loaded.map(|()| self.verified(chunk, location, pin));
        Read {
            location,
            generation,
            data,
        }
    }

    fn window_holds(&self, location: Location, pin: &Pin) -> bool {
        let span = span(location);
        self.window.as_ref().is_some_and(|window| {
            (window.segment, window.generation) == (location.segment, pin.segment().generation())
                && window.bytes.start <= span.start
                && span.end <= window.bytes.end
        })
    }

    /// Reads the record and those that follow closely; it alone if that fails.
    fn load(&mut self, location: Location, pin: &Pin) -> std::io::Result<()> {
        self.window = None;
        let alone = span(location);
        let mut bytes = self.with_neighbours(location);
        let outcome = self.fill(&bytes, pin);
        if outcome.is_err() && bytes != alone {
            bytes = alone;
            self.fill(&bytes, pin)?;
        } else {
            outcome?;
        }
        self.window = Some(Window {
            segment: location.segment,
            generation: pin.segment().generation(),
            bytes,
        });
        Ok(())
    }

    fn with_neighbours(&self, location: Location) -> Range<u64> {
        let mut bytes = span(location);
        let next = self.listed.get(self.at..).unwrap_or_default();
        for (_, neighbour) in next {
            let span = span(*neighbour);
            let near = neighbour.segment == location.segment
                && span.start >= bytes.end
                && span.start - bytes.end <= GAP_BYTES_MAX
                && span.end - bytes.start <= WINDOW_BYTES;
            if !near {
                break;
            }
            bytes.end = span.end;
        }
        bytes
    }

    fn fill(&mut self, bytes: &Range<u64>, pin: &Pin) -> std::io::Result<()> {
        let len = (bytes.end - bytes.start) as usize;
        let memory = self.buffer.memory_mut();
        let memory = memory
            .get_mut(..len)
            .ok_or(std::io::ErrorKind::OutOfMemory)?;
        StoreStats::add(&self.core.stats.read_ops, 1);
        StoreStats::add(&self.core.stats.read_bytes, len as u64);
        pin.segment().file.read_exact_at(memory, bytes.start)
    }

    fn verified(&self, chunk: ChunkId, location: Location, pin: &Pin) -> Option<Vec<u8>> {
        let (window, span) = (self.window.as_ref()?, span(location));
        let begin = (span.start - window.bytes.start) as usize;
        let end = (span.end - window.bytes.start) as usize;
        let record = self.buffer.memory().get(begin..end)?;
        let head = Head::decode(&self.core.secrets, record)?;
        let place = Place {
            segment: location.segment,
            generation: pin.segment().generation(),
            offset: location.offset,
        };
        let len = location.data_len() as usize;
        let data = record.get(data_at(len)..data_at(len) + len)?;
        let right = (head.chunk, head.place) == (chunk, place)
            && head.data_len == location.data_len()
            && head.verifies(0, data);
        right.then(|| data.to_vec())
    }
}

impl Iterator for Journal {
    type Item = Result<JournalEntry, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (chunk, _) = *self.listed.get(self.at)?;
            self.at += 1;
            if let Some(entry) = self.read(chunk) {
                return Some(entry);
            }
        }
    }
}
