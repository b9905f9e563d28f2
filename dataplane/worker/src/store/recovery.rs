//! Rebuilds the index at open: sealed segments from footers, others by scan.
//!
//! Runs before any shard does, on threads of its own, with plain reads. Time
//! grows with the number of records; only segments without a good footer (at
//! most a few per shard) are read in full. Nothing is written except that
//! half-made segment files, and files beyond a smaller capacity, are removed,
//! so it may be killed at any point.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::allocator::{Allocator, Resume};
use super::config::{OpenError, StoreConfig};
use super::core::lap_of;
use super::footer::Entry;
use super::format::Format;
use super::index::Location;
use super::scan::{Found, SegmentReader, Torn, read_segment};
use super::segment::{self, Segment, Table};
use super::stats::StoreStats;
use crate::buffers::{Pool, PoolConfig};

/// Memory of one recovery thread: two large buffers and change.
const THREAD_BUFFER_BYTES: usize = 3 << 20;
/// Segments a store can ever have had; more is a damaged directory.
const SEGMENT_ID_MAX: u32 = 1 << 20;

/// What is on disk.
pub(super) struct Recovered {
    pub(super) table: Table,
    pub(super) allocator: Allocator,
    /// Records of all segments, oldest lap first.
    pub(super) records: Vec<(Arc<Segment>, Vec<Entry>)>,
    /// First lap number never used.
    pub(super) next_lap: u64,
    pub(super) scanned: u64,
    /// Entries and notes that a crash cut, or the device lost.
    pub(super) torn: Vec<Torn>,
}

struct FileOf {
    id: u32,
    path: PathBuf,
}

struct Read {
    segment: Arc<Segment>,
    path: PathBuf,
    found: Found,
    torn: Vec<Torn>,
}

/// Reads the store at `root`.
pub(super) fn recover(
    root: &Path,
    config: &StoreConfig,
    format: &Format,
    segments_max: u64,
) -> Result<Recovered, OpenError> {
    let files = list_files(root, format.segment_bytes)?;
    let mut read = read_all(&files, config, format)?;
    read.sort_by_key(|r| r.segment.generation());
    let next_lap = read
        .iter()
        .map(|r| lap_of(r.segment.generation()) + 1)
        .max();
    shrink(&mut read, segments_max)?;
    Ok(arrange(read, format, segments_max, next_lap.unwrap_or(1)))
}

fn list_files(root: &Path, segment_bytes: u64) -> Result<Vec<FileOf>, OpenError> {
    let mut files: Vec<FileOf> = Vec::new();
    for directory in list(root)? {
        if !file_name(&directory).starts_with("shard-") {
            continue;
        }
        for path in list(&directory)? {
            let Some(id) = segment::parse_segment_name(&file_name(&path)) else {
                tracing::warn!(path = %path.display(), "a file that is no segment is ignored");
                continue;
            };
            if id >= SEGMENT_ID_MAX || files.iter().any(|f| f.id == id) {
                return Err(OpenError::NotAStore {
                    dir: root.to_path_buf(),
                    why: format!("segment number {id} is too large or there twice"),
                });
            }
            let size = std::fs::metadata(&path).map_err(OpenError::io("looking at", &path))?;
            if size.len() == segment_bytes {
                files.push(FileOf { id, path });
            } else {
                // A segment is used only after it has its full size, durably.
                tracing::warn!(path = %path.display(), "a half-made segment is removed");
                std::fs::remove_file(&path).map_err(OpenError::io("removing", &path))?;
            }
        }
    }
    Ok(files)
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = std::fs::read_dir(directory).map_err(OpenError::io("listing", directory))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    paths.map_err(OpenError::io("listing", directory))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn read_all(
    files: &[FileOf],
    config: &StoreConfig,
    format: &Format,
) -> Result<Vec<Read>, OpenError> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::with_capacity(files.len()));
    let work = || -> Result<(), OpenError> {
        let pool = Pool::new(PoolConfig::new(THREAD_BUFFER_BYTES))?;
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let read = read_one(file, &pool, format)?;
            all.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(read);
        }
        Ok(())
    };
    let threads = config.recovery_threads.clamp(1, files.len().max(1));
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| {
            let outcome = thread.join();
            outcome.unwrap_or_else(|_| Err(OpenError::Invalid("a recovery thread died".into())))
        })
    })?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn read_one(file: &FileOf, pool: &Pool, format: &Format) -> Result<Read, OpenError> {
    let opened = segment::open(&file.path).map_err(OpenError::io("opening", &file.path))?;
    let mut reader = SegmentReader::new(&opened, file.id, format, pool)
        .ok_or_else(|| OpenError::Invalid("no buffer for recovery".into()))?;
    let (found, torn) = read_segment(&mut reader);
    drop(reader);
    if matches!(found, Found::Open { .. }) || found.entries().iter().any(|entry| entry.pinned) {
        // What was read may still be in the device's cache only; from now on it
        // is answered for, and an entry of the journal may be replayed.
        opened
            .sync_data()
            .map_err(OpenError::io("flushing", &file.path))?;
    }
    let segment = Arc::new(Segment::new(file.id, opened, found.generation()));
    Ok(Read {
        segment,
        path: file.path.clone(),
        found,
        torn,
    })
}

/// Removes what is too much for the capacity: empty segments, then the oldest
/// without pinned records.
fn shrink(read: &mut Vec<Read>, segments_max: u64) -> Result<(), OpenError> {
    let mut excess = (read.len() as u64).saturating_sub(segments_max);
    for only_empty in [true, false] {
        let mut at = 0;
        while excess > 0 && at < read.len() {
            let entries = read[at].found.entries();
            if entries.is_empty() || (!only_empty && !entries.iter().any(|e| e.pinned)) {
                let path = read.remove(at).path;
                std::fs::remove_file(&path).map_err(OpenError::io("removing", &path))?;
                excess -= 1;
            } else {
                at += 1;
            }
        }
    }
    Ok(())
}

fn arrange(read: Vec<Read>, format: &Format, segments_max: u64, next_lap: u64) -> Recovered {
    let highest = read.iter().map(|r| u64::from(r.segment.id) + 1).max();
    let table = Table::new(highest.unwrap_or(0).max(segments_max) as usize);
    let room_for = segments_max.saturating_sub(read.len() as u64) as usize;
    let mut records = Vec::with_capacity(read.len());
    let (mut resumable, mut sealed, mut free) = (VecDeque::new(), VecDeque::new(), Vec::new());
    let mut scanned = 0;
    let mut torn = Vec::new();
    for Read {
        segment,
        found,
        torn: more,
        ..
    } in read
    {
        torn.extend(more);
        // Numbers are unique and below the table's length: checked above.
        let entered = table.set(Arc::clone(&segment));
        debug_assert!(entered);
        scanned += u64::from(found.was_scanned());
        match found {
            Found::Empty { .. } => free.push(segment),
            Found::Sealed { entries, .. } => {
                records.push((Arc::clone(&segment), entries));
                sealed.push_back(segment);
            }
            Found::Open { entries, tail, .. } => {
                records.push((Arc::clone(&segment), entries.clone()));
                resumable.push_back(Resume {
                    segment,
                    tail,
                    entries,
                });
            }
        }
    }
    let ids = 0..segments_max.max(highest.unwrap_or(0)) as u32;
    let missing = ids
        .filter(|id| table.get(*id).is_none())
        .take(room_for)
        .collect();
    let bytes = format.segment_bytes;
    Recovered {
        table,
        allocator: Allocator::new(resumable, free, sealed, missing, bytes),
        records,
        next_lap,
        scanned,
        torn,
    }
}

/// Where an entry of a footer lies.
pub(super) fn location_of(segment: &Segment, entry: &Entry) -> Location {
    Location::new(segment.id, entry.offset, entry.data_len, entry.pinned)
}

/// Counts what recovery did.
pub(super) fn count(stats: &StoreStats, recovered: &Recovered) {
    let records = recovered
        .records
        .iter()
        .map(|(_, entries)| entries.len() as u64);
    StoreStats::add(&stats.recovered_records, records.sum());
    StoreStats::add(&stats.scanned_segments, recovered.scanned);
}
