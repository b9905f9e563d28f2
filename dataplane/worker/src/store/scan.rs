//! What one segment file holds, read at open. Absent: other segments, writing.
//!
//! With a good header and footer two or three reads answer. Otherwise every
//! 4 KiB border is looked at: flushed records may lie behind ones that a crash
//! tore, so a hole ends nothing. Only records whose data verify count.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use quickwater_engine::io::{ChunkId, NOTE_CHUNK};
use quickwater_proto::CHUNK_BYTES;

use super::footer::{self, Entry};
use super::format::Format;
use super::record::{Head, UNIT_BYTES, data_at, footprint};
use crate::buffers::{LARGE_BYTES, Pool, PoolBuf};

/// Unreadable 4 KiB blocks after which the rest of a segment is given up.
const UNREADABLE_MAX: usize = 64;

/// What a segment holds.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing; `generation` is 0 when it never had a header.
    Empty {
        /// Last lap.
        generation: u64,
    },
    /// Records; nothing is to be appended.
    Sealed {
        /// Lap.
        generation: u64,
        /// Its records.
        entries: Vec<Entry>,
        /// Had no good footer.
        scanned: bool,
    },
    /// Records, and free units from `tail` on.
    Open {
        /// Lap.
        generation: u64,
        /// Its records.
        entries: Vec<Entry>,
        /// First unit behind all records, torn ones included.
        tail: u32,
    },
}

impl Found {
    /// The lap.
    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Empty { generation }
            | Self::Sealed { generation, .. }
            | Self::Open { generation, .. } => *generation,
        }
    }

    /// The records.
    pub(super) fn entries(&self) -> &[Entry] {
        match self {
            Self::Empty { .. } => &[],
            Self::Sealed { entries, .. } | Self::Open { entries, .. } => entries,
        }
    }

    /// Whether the segment was read in full.
    pub(super) fn was_scanned(&self) -> bool {
        !matches!(self, Self::Sealed { scanned: false, .. })
    }
}

/// Aligned reads of one segment file.
pub(super) struct SegmentReader<'a> {
    file: &'a File,
    id: u32,
    format: &'a Format,
    window: PoolBuf,
    record: PoolBuf,
}

impl<'a> SegmentReader<'a> {
    /// `None`: the pool has no two large buffers.
    pub(super) fn new(file: &'a File, id: u32, format: &'a Format, pool: &Pool) -> Option<Self> {
        Some(Self {
            file,
            id,
            format,
            window: pool.try_acquire(LARGE_BYTES)?,
            record: pool.try_acquire(LARGE_BYTES)?,
        })
    }

    fn read(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let memory = &mut self.window.memory_mut()[..len];
        self.file.read_exact_at(memory, offset)?;
        Ok(memory)
    }

    fn units(&self) -> u32 {
        (self.format.segment_bytes / UNIT_BYTES as u64) as u32
    }
}

/// An entry of the journal or a note whose head is intact and whose data are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Torn {
    /// What it was.
    pub(super) chunk: ChunkId,
    /// Which segment.
    pub(super) segment: u32,
    /// Lap of it.
    pub(super) generation: u64,
    /// Where in it, units.
    pub(super) offset: u32,
}

/// Finds out what the segment holds, and what in it is torn. A device that cannot be
/// read costs the records it cannot give, never the start.
pub(super) fn read_segment(reader: &mut SegmentReader<'_>) -> (Found, Vec<Torn>) {
    let header = read_header(reader);
    if let Ok(Some(generation)) = header {
        match read_footer(reader, generation) {
            Ok(Some(entries)) => {
                let found = Found::Sealed {
                    generation,
                    entries,
                    scanned: false,
                };
                return (found, Vec::new());
            }
            Ok(None) => {}
            Err(cause) => warn_unreadable(reader.id, &cause),
        }
    }
    let mut scan = Scan::new(header.as_ref().ok().copied().flatten());
    scan.run(reader);
    let torn = std::mem::take(&mut scan.torn);
    (scan.finish(header.is_ok()), torn)
}

fn warn_unreadable(segment: u32, cause: &io::Error) {
    tracing::warn!(segment, %cause, "reading a segment at open");
}

fn read_header(reader: &mut SegmentReader<'_>) -> io::Result<Option<u64>> {
    let (id, format) = (reader.id, reader.format);
    let block = reader.read(0, UNIT_BYTES)?;
    Ok(footer::decode_header(
        &format.secrets,
        id,
        format.segment_bytes,
        block,
    ))
}

fn read_footer(reader: &mut SegmentReader<'_>, generation: u64) -> io::Result<Option<Vec<Entry>>> {
    let (id, format) = (reader.id, reader.format);
    let end = format.segment_bytes;
    let block = reader.read(end - UNIT_BYTES as u64, UNIT_BYTES)?;
    let Some(trailer) = footer::decode_trailer(&format.secrets, block) else {
        return Ok(None);
    };
    let bytes = footer::footer_bytes(trailer.count as usize) as u64;
    if (trailer.segment, trailer.generation) != (id, generation) || bytes > end / 2 {
        return Ok(None);
    }
    let mut listed = Vec::with_capacity(bytes as usize);
    while (listed.len() as u64) < bytes {
        let len = (bytes as usize - listed.len()).min(LARGE_BYTES);
        let piece = reader.read(end - bytes + listed.len() as u64, len)?;
        listed.extend_from_slice(piece);
    }
    let entries = footer::decode_entries(&format.secrets, &trailer, &listed);
    Ok(entries.filter(|entries| entries.iter().all(|e| fits(e, end - bytes))))
}

/// Whether an entry's record lies between header and `limit`.
pub(super) fn fits(entry: &Entry, limit: u64) -> bool {
    let begin = u64::from(entry.offset) * UNIT_BYTES as u64;
    entry.offset > 0
        && entry.data_len <= CHUNK_BYTES
        && begin + footprint(entry.data_len as usize) as u64 <= limit
}

/// A walk over all units of a segment.
struct Scan {
    generation: Option<u64>,
    found: Vec<(u64, Entry)>,
    torn: Vec<Torn>,
    /// First unit behind every intact head.
    tail: u32,
    unreadable: usize,
}

impl Scan {
    fn new(generation: Option<u64>) -> Self {
        Self {
            generation,
            found: Vec::new(),
            torn: Vec::new(),
            tail: 1,
            unreadable: 0,
        }
    }

    fn run(&mut self, reader: &mut SegmentReader<'_>) {
        let units = reader.units();
        let mut at = 1;
        while at < units && self.unreadable < UNREADABLE_MAX {
            let most = (LARGE_BYTES / UNIT_BYTES) as u32;
            let mut count = most.min(units - at);
            if self.load(reader, at, count).is_err() {
                count = 1;
                if let Err(cause) = self.load(reader, at, count) {
                    warn_unreadable(reader.id, &cause);
                    self.unreadable += 1;
                    at += 1;
                    continue;
                }
            }
            at = self.look_at_window(reader, at, count);
        }
    }

    fn load(&self, reader: &mut SegmentReader<'_>, at: u32, count: u32) -> io::Result<()> {
        let offset = u64::from(at) * UNIT_BYTES as u64;
        reader.read(offset, count as usize * UNIT_BYTES).map(|_| ())
    }

    /// Looks at `count` units from `first` on, which the window holds, and
    /// returns the next unit to look at.
    fn look_at_window(&mut self, reader: &mut SegmentReader<'_>, first: u32, count: u32) -> u32 {
        let mut at = first;
        while at < first + count {
            let begin = (at - first) as usize * UNIT_BYTES;
            let unit = &reader.window.memory()[begin..begin + UNIT_BYTES];
            let head = Head::decode(&reader.format.secrets, unit);
            let head = head.filter(|head| self.belongs(reader, head, at));
            at += head.map_or(1, |head| self.take(reader, &head));
        }
        at
    }

    fn belongs(&self, reader: &SegmentReader<'_>, head: &Head, at: u32) -> bool {
        let units = (footprint(head.data_len as usize) / UNIT_BYTES) as u32;
        head.place.segment == reader.id
            && head.place.offset == at
            && self
                .generation
                .is_none_or(|lap| lap == head.place.generation)
            && units <= reader.units() - at
    }

    /// Enters a record if its data are intact and returns the units to go on by.
    fn take(&mut self, reader: &mut SegmentReader<'_>, head: &Head) -> u32 {
        let units = (footprint(head.data_len as usize) / UNIT_BYTES) as u32;
        self.tail = self.tail.max(head.place.offset + units);
        if !is_intact(reader, head) {
            if head.chunk.index >= NOTE_CHUNK {
                self.torn.push(Torn {
                    chunk: head.chunk,
                    segment: head.place.segment,
                    generation: head.place.generation,
                    offset: head.place.offset,
                });
            }
            return 1;
        }
        let entry = Entry {
            chunk: head.chunk,
            offset: head.place.offset,
            data_len: head.data_len,
            pinned: head.pinned,
        };
        self.found.push((head.place.generation, entry));
        units
    }

    fn finish(self, header_readable: bool) -> Found {
        let newest = self.found.iter().map(|(lap, _)| *lap).max();
        let generation = self.generation.or(newest).unwrap_or(0);
        let same_lap = self.found.into_iter().filter(|(lap, _)| *lap == generation);
        let entries: Vec<_> = same_lap.map(|(_, entry)| entry).collect();
        let whole = header_readable && self.unreadable == 0;
        match self.generation {
            _ if entries.is_empty() && whole => Found::Empty { generation },
            Some(_) if whole => Found::Open {
                generation,
                entries,
                tail: self.tail,
            },
            // Without a good header nothing may be appended: the next scan could
            // not tell laps apart.
            _ => Found::Sealed {
                generation,
                entries,
                scanned: true,
            },
        }
    }
}

fn is_intact(reader: &mut SegmentReader<'_>, head: &Head) -> bool {
    let data_len = head.data_len as usize;
    let offset = u64::from(head.place.offset) * UNIT_BYTES as u64;
    let memory = &mut reader.record.memory_mut()[..footprint(data_len)];
    match reader.file.read_exact_at(memory, offset) {
        Ok(()) => {
            let begin = data_at(data_len);
            head.verifies(0, &memory[begin..begin + data_len])
        }
        Err(cause) => {
            warn_unreadable(reader.id, &cause);
            false
        }
    }
}
