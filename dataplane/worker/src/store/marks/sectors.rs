//! The file of marks: an array of 512-byte sectors, each with a checksum of its own: first
//! a header, then for every segment as many as its units need, one bit per unit, of
//! one lap. Bits are only set during a lap, and a sector is written at once, so a
//! torn write leaves the old bits or the new ones.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::super::format::Format;
use super::super::record::{Secrets, UNIT_BYTES, crc32c, u32_at, u64_at};

pub(super) const SECTOR_BYTES: usize = 512;
/// Where the bits of a sector begin: behind checksum, segment and lap.
const BITS_AT: usize = 16;
/// Units a sector has bits for.
pub(super) const UNITS: u32 = ((SECTOR_BYTES - BITS_AT) * 8) as u32;
const MAGIC: &[u8; 8] = b"QWMARKS1";

/// A place in a lap of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Mark {
    pub(in crate::store) segment: u32,
    pub(in crate::store) generation: u64,
    pub(in crate::store) what: What,
}

/// What is noted of a lap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum What {
    /// The record at this unit has ended: the UFS has it, or something newer took its place.
    Ended(u32),
    /// The record at this unit says nothing, of itself or of what is older: its commit was
    /// never made, or it is kept elsewhere.
    Void(u32),
    /// It has not, whatever was noted.
    Live(u32),
    /// All records of the lap have.
    All,
    /// The lap has begun.
    Begun,
    /// There is no such segment any more.
    Gone,
}

/// What the header says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Header {
    /// The marks can be believed: all that ended is marked, but for the last second.
    pub(in crate::store) whole: bool,
    /// Entries of the journal up to this sequence were acked or will never be.
    pub(in crate::store) through: u64,
}

/// Units of a segment.
pub(super) fn units_of(segment_bytes: u64) -> u32 {
    (segment_bytes / UNIT_BYTES as u64) as u32
}

/// What one file notes of one segment.
#[derive(Debug, Default)]
pub(in crate::store) struct OfSegment {
    /// The newest lap noted; 0: none.
    pub(in crate::store) generation: u64,
    /// Sectors whose checksum does not hold.
    pub(in crate::store) damaged: usize,
    /// By sector: the lap, and its bits. Damaged ones have lap 0.
    sectors: Vec<(u64, Vec<u8>)>,
}

impl OfSegment {
    /// Whether the bit of a unit of a lap is set.
    pub(in crate::store) fn is_set(&self, generation: u64, offset: u32) -> bool {
        let (sector, bit) = ((offset / UNITS) as usize, (offset % UNITS) as usize);
        self.sectors.get(sector).is_some_and(|(lap, bits)| {
            *lap == generation && bits.get(bit / 8).is_some_and(|b| b & (1 << (bit % 8)) != 0)
        })
    }
}

/// The file.
#[derive(Clone)]
pub(super) struct Sectors {
    file: Arc<File>,
    secrets: Secrets,
    per_segment: u64,
}

type Sector = [u8; SECTOR_BYTES];

impl Sectors {
    pub(super) fn new(file: File, format: &Format) -> Self {
        Self {
            file: Arc::new(file),
            secrets: format.secrets.clone(),
            per_segment: u64::from(units_of(format.segment_bytes).div_ceil(UNITS)),
        }
    }

    /// `None`: not there, or all zeros, as in a hole.
    fn read(&self, number: u64) -> std::io::Result<Option<Sector>> {
        let mut sector = [0; SECTOR_BYTES];
        match self
            .file
            .read_exact_at(&mut sector, number * SECTOR_BYTES as u64)
        {
            Ok(()) => Ok(sector.iter().any(|byte| *byte != 0).then_some(sector)),
            Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    fn is_intact(&self, number: u64, sector: &Sector) -> bool {
        u32_at(sector, 0) == Some(self.sum(number, sector))
    }

    fn sum(&self, number: u64, sector: &Sector) -> u32 {
        crc32c(&[&self.secrets.seed, &number.to_le_bytes(), &sector[4..]])
    }

    fn write(&self, number: u64, mut sector: Sector) -> std::io::Result<()> {
        // As in a hole: nothing is noted.
        if sector == [0; SECTOR_BYTES] {
            return self
                .file
                .write_all_at(&sector, number * SECTOR_BYTES as u64);
        }
        let sum = self.sum(number, &sector);
        sector[..4].copy_from_slice(&sum.to_le_bytes());
        self.file
            .write_all_at(&sector, number * SECTOR_BYTES as u64)
    }

    pub(super) fn header(&self) -> Header {
        let read = self.read(0).ok().flatten();
        let Some(sector) = read.filter(|sector| self.is_intact(0, sector)) else {
            return Header::default();
        };
        if sector.get(8..16) != Some(MAGIC) {
            return Header::default();
        }
        Header {
            whole: u64_at(&sector, 16) == Some(1),
            through: u64_at(&sector, 24).unwrap_or(0),
        }
    }

    pub(super) fn write_header(&self, header: Header) -> std::io::Result<()> {
        let mut sector = [0; SECTOR_BYTES];
        sector[8..16].copy_from_slice(MAGIC);
        sector[16..24].copy_from_slice(&u64::from(header.whole).to_le_bytes());
        sector[24..32].copy_from_slice(&header.through.to_le_bytes());
        self.write(0, sector)
    }

    fn first_of(&self, segment: u32) -> u64 {
        1 + u64::from(segment) * self.per_segment
    }

    pub(super) fn of_segment(&self, segment: u32) -> std::io::Result<OfSegment> {
        let mut found = OfSegment::default();
        for number in self.first_of(segment)..self.first_of(segment) + self.per_segment {
            let sector = match self.read(number)? {
                None => (0, Vec::new()),
                Some(sector) if self.is_intact(number, &sector) => (
                    u64_at(&sector, 8).unwrap_or(0),
                    sector.get(BITS_AT..).unwrap_or_default().to_vec(),
                ),
                Some(_) => {
                    found.damaged += 1;
                    (0, Vec::new())
                }
            };
            found.generation = found.generation.max(sector.0);
            found.sectors.push(sector);
        }
        Ok(found)
    }

    /// Segments that the file is long enough for.
    pub(super) fn segments(&self) -> std::io::Result<u32> {
        let sectors = self.file.metadata()?.len() / SECTOR_BYTES as u64;
        let segments = sectors.saturating_sub(1).div_ceil(self.per_segment);
        Ok(u32::try_from(segments).unwrap_or(u32::MAX))
    }

    /// Flushes all that was written.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    /// Sectors a mark is about.
    pub(super) fn touched(&self, mark: &Mark) -> std::ops::Range<u64> {
        let first = self.first_of(mark.segment);
        match mark.what {
            What::Ended(offset) | What::Void(offset) | What::Live(offset) => {
                let number = first + u64::from(offset / UNITS);
                number..number + 1
            }
            What::All | What::Begun | What::Gone => first..first + self.per_segment,
        }
    }

    /// Applies marks of one sector, in their order.
    pub(super) fn apply(&self, number: u64, marks: &[Mark]) -> std::io::Result<()> {
        let old = self.read(number)?;
        // What was noted before is lost, which must stay to be seen for this lap.
        let mut damaged = old.is_some_and(|sector| !self.is_intact(number, &sector));
        let mut sector = old.unwrap_or([0; SECTOR_BYTES]);
        for mark in marks {
            let renews = !matches!(mark.what, What::Ended(_) | What::Void(_) | What::Live(_));
            if damaged && !renews {
                continue;
            }
            if std::mem::take(&mut damaged) {
                sector = [0; SECTOR_BYTES];
            }
            let lap = u64_at(&sector, 8).unwrap_or(0);
            // Late news of a lap that is over.
            if lap > mark.generation {
                continue;
            }
            if lap < mark.generation {
                sector = [0; SECTOR_BYTES];
                sector[4..8].copy_from_slice(&mark.segment.to_le_bytes());
                sector[8..16].copy_from_slice(&mark.generation.to_le_bytes());
            }
            let bit = |offset: u32| (offset % UNITS) as usize;
            match mark.what {
                What::Ended(offset) | What::Void(offset) => {
                    sector[BITS_AT + bit(offset) / 8] |= 1 << (bit(offset) % 8);
                }
                What::Live(offset) => {
                    sector[BITS_AT + bit(offset) / 8] &= !(1 << (bit(offset) % 8));
                }
                What::All => sector[BITS_AT..].fill(0xff),
                What::Begun => {}
                What::Gone => sector = [0; SECTOR_BYTES],
            }
        }
        if damaged || old.unwrap_or([0; SECTOR_BYTES]) == sector {
            return Ok(());
        }
        self.write(number, sector)
    }
}
