//! Which journal entries and notes on disk have ended, kept beside the segments.
//!
//! A record is never changed, so what it says stays readable after the UFS has got
//! it or a newer one took its place. The metadata know that; should they be lost,
//! `DIR/store/marks` tells (see `metadata rebuild`). Nothing else reads it, and a
//! start makes it good again. Absent: what an entry says.
//!
//! The file is an array of 512-byte sectors, each with a checksum of its own: first
//! a header, then for every segment as many as its units need, one bit per unit, of
//! one lap. Bits are only set during a lap, and a sector is written at once, so a
//! torn write leaves the old bits or the new ones.
//!
//! Shards only queue; a thread of its own writes, at once, and flushes within
//! [`SYNC_PERIOD`]. So a power cut takes the marks of the last second with it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::OpenError;
use super::format::{Format, sync_directory};
use super::record::{Secrets, UNIT_BYTES, crc32c, u32_at, u64_at};

/// Longest time between a mark and its flush.
const SYNC_PERIOD: Duration = Duration::from_secs(1);
/// Most marks queued; beyond it the file is given up until the next start.
const QUEUE_MAX: usize = 1 << 20;
const SECTOR_BYTES: usize = 512;
/// Where the bits of a sector begin: behind checksum, segment and lap.
const BITS_AT: usize = 16;
/// Units a sector has bits for.
const UNITS: u32 = ((SECTOR_BYTES - BITS_AT) * 8) as u32;
const MAGIC: &[u8; 8] = b"QWMARKS1";

/// A place in a lap of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) segment: u32,
    pub(super) generation: u64,
    pub(super) what: What,
}

/// What is noted of a lap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The record at this unit has ended.
    Ended(u32),
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
pub(super) struct Header {
    /// The marks can be believed: all that ended is marked, but for the last second.
    pub(super) whole: bool,
    /// Entries of the journal up to this sequence were acked or will never be.
    pub(super) through: u64,
}

#[derive(Default)]
struct Queue {
    marks: Vec<Mark>,
    header: Option<Header>,
    wanted: Header,
    stopping: bool,
    /// Somebody waits until all is written and flushed.
    syncing: bool,
}

struct Inner {
    queue: Mutex<Queue>,
    wake: Condvar,
    synced: Condvar,
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The marks of an open store. Written to its end when it is dropped.
pub(super) struct Marks {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
    sectors: Sectors,
    found: Header,
}

impl Marks {
    /// Opens the marks of the store at `root`, or begins them.
    pub(super) fn open(root: &Path, format: &Format) -> Result<Self, OpenError> {
        let path = root.join("marks");
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options
            .mode(0o600)
            .open(&path)
            .map_err(OpenError::io("opening", &path))?;
        if is_new {
            sync_directory(root)?;
        }
        let sectors = Sectors {
            file: Arc::new(file),
            secrets: format.secrets.clone(),
            per_segment: u64::from(units_of(format.segment_bytes).div_ceil(UNITS)),
        };
        let found = sectors.header();
        let inner = Arc::new(Inner {
            queue: Mutex::new(Queue {
                wanted: found,
                ..Queue::default()
            }),
            wake: Condvar::new(),
            synced: Condvar::new(),
        });
        let writer = Writer {
            inner: Arc::clone(&inner),
            sectors: sectors.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store-marks".into())
            .spawn(move || writer.run())
            .map_err(OpenError::io("starting the thread of", &path))?;
        Ok(Self {
            inner,
            thread: Some(thread),
            sectors,
            found,
        })
    }

    /// What the header said when the store was opened.
    pub(super) fn found(&self) -> Header {
        self.found
    }

    /// Notes something soon. Does not block.
    pub(super) fn note(&self, mark: Mark) {
        let mut queue = self.inner.queue();
        if queue.marks.len() >= QUEUE_MAX {
            let header = Header {
                whole: false,
                ..queue.wanted
            };
            (queue.wanted, queue.header) = (header, Some(header));
            return;
        }
        queue.marks.push(mark);
        self.inner.wake.notify_one();
    }

    /// From now on the marks can be believed.
    pub(super) fn trust(&self) {
        self.change(|header| header.whole = true);
    }

    /// From now on they cannot.
    pub(super) fn distrust(&self) {
        self.change(|header| header.whole = false);
    }

    /// Entries up to here were acked or will never be.
    pub(super) fn settled(&self, through: u64) {
        self.change(|header| header.through = header.through.max(through));
    }

    /// Returns when all that was noted before is flushed; `false`: not within `timeout`.
    pub(super) fn sync(&self, timeout: Duration) -> bool {
        let mut queue = self.inner.queue();
        queue.syncing = true;
        self.inner.wake.notify_one();
        let waiting = |queue: &mut Queue| queue.syncing;
        let synced = &self.inner.synced;
        let waited = synced.wait_timeout_while(queue, timeout, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn change(&self, change: impl FnOnce(&mut Header)) {
        let mut queue = self.inner.queue();
        let mut header = queue.wanted;
        change(&mut header);
        if header != queue.wanted {
            (queue.wanted, queue.header) = (header, Some(header));
            self.inner.wake.notify_one();
        }
    }

    /// What is noted of a segment: its lap, and which units have ended.
    pub(super) fn of_segment(&self, segment: u32) -> std::io::Result<OfSegment> {
        self.sectors.of_segment(segment)
    }

    /// Segments that something is noted of.
    pub(super) fn segments(&self) -> std::io::Result<u32> {
        let sectors = self.sectors.file.metadata()?.len() / SECTOR_BYTES as u64;
        let segments = sectors.saturating_sub(1).div_ceil(self.sectors.per_segment);
        Ok(u32::try_from(segments).unwrap_or(u32::MAX))
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        self.inner.queue().stopping = true;
        self.inner.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that notes what has ended died");
        }
    }
}

/// Units of a segment.
fn units_of(segment_bytes: u64) -> u32 {
    (segment_bytes / UNIT_BYTES as u64) as u32
}

/// What is noted of one segment.
#[derive(Debug, Default)]
pub(super) struct OfSegment {
    /// The newest lap noted; 0: none.
    pub(super) generation: u64,
    /// Sectors whose checksum does not hold.
    pub(super) damaged: usize,
    /// By sector: the lap, and its bits. Damaged ones have lap 0.
    sectors: Vec<(u64, Vec<u8>)>,
}

impl OfSegment {
    /// Whether the record at a unit of a lap has ended.
    pub(super) fn has_ended(&self, generation: u64, offset: u32) -> bool {
        let (sector, bit) = ((offset / UNITS) as usize, (offset % UNITS) as usize);
        self.sectors.get(sector).is_some_and(|(lap, bits)| {
            *lap == generation && bits.get(bit / 8).is_some_and(|b| b & (1 << (bit % 8)) != 0)
        })
    }
}

/// The file.
#[derive(Clone)]
struct Sectors {
    file: Arc<File>,
    secrets: Secrets,
    per_segment: u64,
}

type Sector = [u8; SECTOR_BYTES];

impl Sectors {
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

    fn header(&self) -> Header {
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

    fn write_header(&self, header: Header) -> std::io::Result<()> {
        let mut sector = [0; SECTOR_BYTES];
        sector[8..16].copy_from_slice(MAGIC);
        sector[16..24].copy_from_slice(&u64::from(header.whole).to_le_bytes());
        sector[24..32].copy_from_slice(&header.through.to_le_bytes());
        self.write(0, sector)
    }

    fn first_of(&self, segment: u32) -> u64 {
        1 + u64::from(segment) * self.per_segment
    }

    fn of_segment(&self, segment: u32) -> std::io::Result<OfSegment> {
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

    /// Sectors a mark is about.
    fn touched(&self, mark: &Mark) -> std::ops::Range<u64> {
        let first = self.first_of(mark.segment);
        match mark.what {
            What::Ended(offset) | What::Live(offset) => {
                let number = first + u64::from(offset / UNITS);
                number..number + 1
            }
            What::All | What::Gone => first..first + self.per_segment,
            What::Begun => first..first + 1,
        }
    }

    /// Applies marks of one sector, in their order.
    fn apply(&self, number: u64, marks: &[Mark]) -> std::io::Result<()> {
        let old = self.read(number)?;
        // What was noted before is lost, which must stay to be seen for this lap.
        let mut damaged = old.is_some_and(|sector| !self.is_intact(number, &sector));
        let mut sector = old.unwrap_or([0; SECTOR_BYTES]);
        for mark in marks {
            let renews = !matches!(mark.what, What::Ended(_) | What::Live(_));
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
                What::Ended(offset) => {
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

/// What the thread is to do.
struct Taken {
    marks: Vec<Mark>,
    header: Option<Header>,
    stopping: bool,
    syncing: bool,
}

/// The thread that writes.
struct Writer {
    inner: Arc<Inner>,
    sectors: Sectors,
}

impl Writer {
    fn run(self) {
        let mut unsynced: Option<Instant> = None;
        let mut healthy = true;
        loop {
            let Taken {
                marks,
                header,
                stopping,
                syncing,
            } = self.wait(unsynced);
            if !marks.is_empty() || header.is_some() {
                unsynced.get_or_insert_with(Instant::now);
            }
            let mut outcome = self.write(&marks, header);
            let is_due = unsynced.is_some_and(|since| since.elapsed() >= SYNC_PERIOD);
            if is_due || ((stopping || syncing) && unsynced.is_some()) {
                outcome = outcome.and(self.sectors.file.sync_data());
                unsynced = None;
            }
            if let Err(cause) = &outcome
                && healthy
            {
                tracing::error!(%cause, "what has ended cannot be noted; the next start does it");
                self.give_up();
            }
            healthy &= outcome.is_ok();
            if syncing {
                self.inner.queue().syncing = false;
                self.inner.synced.notify_all();
            }
            if stopping {
                return;
            }
        }
    }

    /// What is queued; waits for it, or until a flush is due.
    fn wait(&self, unsynced: Option<Instant>) -> Taken {
        let mut queue = self.inner.queue();
        while queue.marks.is_empty() && queue.header.is_none() && !queue.stopping && !queue.syncing
        {
            queue = match unsynced {
                None => {
                    let woken = self.inner.wake.wait(queue);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(since) => {
                    let left = SYNC_PERIOD.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        break;
                    }
                    let woken = self.inner.wake.wait_timeout(queue, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Taken {
            marks: std::mem::take(&mut queue.marks),
            header: queue.header.take(),
            stopping: queue.stopping,
            syncing: queue.syncing,
        }
    }

    /// The header last: it may say that all before is there.
    fn write(&self, marks: &[Mark], header: Option<Header>) -> std::io::Result<()> {
        let mut by_sector: BTreeMap<u64, Vec<Mark>> = BTreeMap::new();
        for mark in marks {
            for number in self.sectors.touched(mark) {
                by_sector.entry(number).or_default().push(*mark);
            }
        }
        for (number, marks) in &by_sector {
            self.sectors.apply(*number, marks)?;
        }
        header.map_or(Ok(()), |header| self.sectors.write_header(header))
    }

    /// Marks are missing: nobody must believe the others.
    fn give_up(&self) {
        let mut queue = self.inner.queue();
        queue.wanted.whole = false;
        let header = queue.wanted;
        drop(queue);
        if let Err(cause) = self.sectors.write_header(header) {
            tracing::error!(%cause, "nor that it cannot");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 64 << 20;

    fn format() -> Format {
        Format {
            segment_bytes: SEGMENT,
            secrets: Secrets {
                mark: [1; 16],
                seed: [2; 16],
            },
        }
    }

    fn mark(segment: u32, generation: u64, what: What) -> Mark {
        Mark {
            segment,
            generation,
            what,
        }
    }

    fn reopened(dir: &Path, marks: &[Mark]) -> Marks {
        let open = Marks::open(dir, &format()).unwrap();
        marks.iter().for_each(|mark| open.note(*mark));
        drop(open);
        Marks::open(dir, &format()).unwrap()
    }

    #[test]
    fn what_ended_stays_noted_until_the_next_lap() {
        let dir = tempfile::tempdir().unwrap();
        let last = units_of(SEGMENT) - 1;
        let marks = reopened(
            dir.path(),
            &[
                mark(3, 7, What::Begun),
                mark(3, 7, What::Ended(1)),
                mark(3, 7, What::Ended(last)),
                mark(3, 7, What::Ended(9)),
                mark(3, 7, What::Live(9)),
            ],
        );
        let found = marks.of_segment(3).unwrap();
        assert_eq!((found.generation, found.damaged), (7, 0));
        assert!(found.has_ended(7, 1) && found.has_ended(7, last));
        assert!(!found.has_ended(7, 2) && !found.has_ended(7, 9) && !found.has_ended(8, 1));
        assert_eq!(marks.segments().unwrap(), 4);
        assert_eq!(marks.of_segment(2).unwrap().generation, 0);
        drop(marks);
        let marks = reopened(
            dir.path(),
            &[mark(3, 8, What::Ended(2)), mark(3, 7, What::Ended(5))],
        );
        let found = marks.of_segment(3).unwrap();
        assert!(found.has_ended(8, 2) && !found.has_ended(8, 1) && !found.has_ended(8, 5));
        drop(marks);
        let marks = reopened(dir.path(), &[mark(3, 8, What::All)]);
        let found = marks.of_segment(3).unwrap();
        assert!((1..=last).all(|unit| found.has_ended(8, unit)));
    }

    #[test]
    fn the_header_says_whether_marks_can_be_believed() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path(), &format()).unwrap();
        assert_eq!(marks.found(), Header::default());
        marks.settled(9);
        marks.settled(4);
        marks.trust();
        drop(marks);
        let marks = Marks::open(dir.path(), &format()).unwrap();
        let whole = Header {
            whole: true,
            through: 9,
        };
        assert_eq!(marks.found(), whole);
    }

    #[test]
    fn damage_is_counted_and_costs_one_sector() {
        let dir = tempfile::tempdir().unwrap();
        let units = [1, UNITS + 1];
        let all = units.map(|unit| mark(0, 5, What::Ended(unit)));
        drop(reopened(dir.path(), &all));
        let file = File::options().write(true).open(dir.path().join("marks"));
        file.unwrap()
            .write_all_at(b"x", SECTOR_BYTES as u64 + 100)
            .unwrap();
        let found = Marks::open(dir.path(), &format()).unwrap();
        let found = found.of_segment(0).unwrap();
        assert_eq!(found.damaged, 1);
        assert!(!found.has_ended(5, 1) && found.has_ended(5, UNITS + 1));
    }
}
