//! Which journal entries and notes on disk have ended, kept beside the segments.
//!
//! A record is never changed, so what it says stays readable after the UFS has got
//! it or a newer one took its place. The metadata know that; should they be lost,
//! `DIR/store/marks` tells (see `metadata rebuild`). Nothing else reads it, and a
//! start makes it good again. Absent: what an entry says.
//!
//! What ended because its commit was never made, or because another worker has it now, says
//! nothing of what is older of its key. That is noted apart, in `DIR/store/voids`, which is
//! laid out alike, and *instead* of its end: whatever a crash leaves of the two files, a
//! record is void or looks as it did before. Programs that know only the first file take
//! it for live, until a start with the metadata.
//!
//! Shards only queue; a thread of its own writes, at once, and flushes within
//! [`SYNC_PERIOD`]. So a power cut takes the marks of the last second with it.

mod sectors;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) use self::sectors::{Header, Mark, What};

use self::sectors::{OfSegment as OfFile, Sectors};
use super::config::OpenError;
use super::format::{Format, sync_directory};

/// Longest time between a mark and its flush.
const SYNC_PERIOD: Duration = Duration::from_secs(1);
/// Most marks queued; beyond it the file is given up until the next start.
const QUEUE_MAX: usize = 1 << 20;

/// What is noted of one segment.
#[derive(Debug, Default)]
pub(super) struct OfSegment {
    /// The newest lap noted; 0: none.
    pub(super) generation: u64,
    /// Sectors whose checksum does not hold.
    pub(super) damaged: usize,
    ended: OfFile,
    voids: OfFile,
}

impl OfSegment {
    /// Whether the record at a unit of a lap says nothing any more, not even that what is
    /// older has ended.
    pub(super) fn is_void(&self, generation: u64, offset: u32) -> bool {
        self.voids.is_set(generation, offset)
    }

    /// Whether the record at a unit of a lap has ended, or is void.
    pub(super) fn has_ended(&self, generation: u64, offset: u32) -> bool {
        self.ended.is_set(generation, offset) || self.is_void(generation, offset)
    }
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
    files: Files,
    found: Header,
}

/// Both files.
#[derive(Clone)]
struct Files {
    ended: Sectors,
    voids: Sectors,
}

impl Files {
    fn open(root: &Path, name: &str, format: &Format) -> Result<Sectors, OpenError> {
        let path = root.join(name);
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
        Ok(Sectors::new(file, format))
    }

    fn of_segment(&self, segment: u32) -> std::io::Result<OfSegment> {
        let (ended, voids) = (
            self.ended.of_segment(segment)?,
            self.voids.of_segment(segment)?,
        );
        Ok(OfSegment {
            generation: ended.generation,
            damaged: ended.damaged + voids.damaged,
            ended,
            voids,
        })
    }

    /// Voids first: a record whose end follows them is never taken for more than it was.
    fn apply(&self, marks: &[Mark]) -> std::io::Result<()> {
        let voids = marks.iter().filter(|mark| match mark.what {
            What::Void(_) | What::Live(_) | What::Begun | What::Gone => true,
            // What is void stays so in a lap that is over.
            What::Ended(_) | What::All => false,
        });
        write(&self.voids, voids)?;
        let ended = marks.iter();
        write(
            &self.ended,
            ended.filter(|mark| !matches!(mark.what, What::Void(_))),
        )
    }

    /// Flushes all that was written.
    fn sync(&self) -> std::io::Result<()> {
        self.voids.sync()?;
        self.ended.sync()
    }
}

fn write<'a>(sectors: &Sectors, marks: impl Iterator<Item = &'a Mark>) -> std::io::Result<()> {
    let mut by_sector: BTreeMap<u64, Vec<Mark>> = BTreeMap::new();
    for mark in marks {
        for number in sectors.touched(mark) {
            by_sector.entry(number).or_default().push(*mark);
        }
    }
    let mut by_sector = by_sector.iter();
    by_sector.try_for_each(|(number, marks)| sectors.apply(*number, marks))
}

impl Marks {
    /// Opens the marks of the store at `root`, or begins them.
    pub(super) fn open(root: &Path, format: &Format) -> Result<Self, OpenError> {
        let files = Files {
            ended: Files::open(root, "marks", format)?,
            voids: Files::open(root, "voids", format)?,
        };
        let found = files.ended.header();
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
            files: files.clone(),
        };
        let path = root.join("marks");
        let thread = std::thread::Builder::new()
            .name("store-marks".into())
            .spawn(move || writer.run())
            .map_err(OpenError::io("starting the thread of", &path))?;
        Ok(Self {
            inner,
            thread: Some(thread),
            files,
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

    /// What is noted of a segment: its lap, and which units have ended or are void.
    pub(super) fn of_segment(&self, segment: u32) -> std::io::Result<OfSegment> {
        self.files.of_segment(segment)
    }

    /// Segments that something is noted of.
    pub(super) fn segments(&self) -> std::io::Result<u32> {
        self.files.ended.segments()
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
    files: Files,
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
                outcome = outcome.and(self.files.sync());
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
        self.files.apply(marks)?;
        header.map_or(Ok(()), |header| self.files.ended.write_header(header))
    }

    /// Marks are missing: nobody must believe the others.
    fn give_up(&self) {
        let mut queue = self.inner.queue();
        queue.wanted.whole = false;
        let header = queue.wanted;
        drop(queue);
        if let Err(cause) = self.files.ended.write_header(header) {
            tracing::error!(%cause, "nor that it cannot");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use super::super::record::Secrets;
    use super::sectors::{SECTOR_BYTES, UNITS, units_of};
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
    fn what_is_void_is_known_from_what_ended() {
        let dir = tempfile::tempdir().unwrap();
        let last = units_of(SEGMENT) - 1;
        let marks = reopened(
            dir.path(),
            &[
                mark(3, 7, What::Begun),
                mark(3, 7, What::Ended(1)),
                mark(3, 7, What::Void(2)),
                mark(3, 7, What::Void(last)),
                // A start found that its commit was never made.
                mark(3, 7, What::Ended(4)),
                mark(3, 7, What::Void(4)),
                // And that another was, after all.
                mark(3, 7, What::Void(5)),
                mark(3, 7, What::Live(5)),
            ],
        );
        let of = |marks: &Marks| {
            let found = marks.of_segment(3).unwrap();
            assert_eq!((found.generation, found.damaged), (7, 0));
            let void: Vec<_> = (0..=last).filter(|unit| found.is_void(7, *unit)).collect();
            assert!(void.iter().all(|unit| found.has_ended(7, *unit)));
            assert!(found.has_ended(7, 1) && !found.has_ended(7, 5) && !found.is_void(8, 2));
            void
        };
        assert_eq!(of(&marks), [2, 4, last]);
        drop(marks);
        // Evicted and not written anew: what is left in it is as void as before.
        let marks = reopened(
            dir.path(),
            &[mark(3, 7, What::All), mark(3, 7, What::Live(5))],
        );
        assert_eq!(of(&marks), [2, 4, last]);
        drop(marks);
        let marks = reopened(dir.path(), &[mark(3, 8, What::Begun)]);
        let found = marks.of_segment(3).unwrap();
        assert!((0..=last).all(|unit| !found.has_ended(8, unit)));
    }

    /// A store of a version that kept none of them, or that lost the file.
    #[test]
    fn without_voids_what_ended_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        drop(reopened(dir.path(), &[mark(0, 5, What::Ended(1))]));
        std::fs::remove_file(dir.path().join("voids")).unwrap();
        let marks = Marks::open(dir.path(), &format()).unwrap();
        let found = marks.of_segment(0).unwrap();
        assert!(found.has_ended(5, 1) && !found.is_void(5, 1) && found.damaged == 0);
    }

    #[test]
    fn damaged_voids_are_counted_and_good_again_in_the_next_lap() {
        let dir = tempfile::tempdir().unwrap();
        drop(reopened(dir.path(), &[mark(0, 5, What::Void(1))]));
        let file = File::options().write(true).open(dir.path().join("voids"));
        file.unwrap()
            .write_all_at(b"x", SECTOR_BYTES as u64 + 100)
            .unwrap();
        let marks = reopened(dir.path(), &[mark(0, 5, What::Void(2))]);
        let found = marks.of_segment(0).unwrap();
        assert!(found.damaged == 1 && !found.has_ended(5, 2));
        drop(marks);
        let marks = reopened(
            dir.path(),
            &[mark(0, 6, What::Begun), mark(0, 6, What::Void(2))],
        );
        let found = marks.of_segment(0).unwrap();
        assert!(found.damaged == 0 && found.is_void(6, 2));
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
