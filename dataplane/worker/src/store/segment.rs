//! Segment files: creating, opening, pinning. Absent: what is in them.
//!
//! A segment is never unlinked, truncated, punched or extended while the store
//! runs; it is recycled in place with a new generation.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::index::Location;
use super::record::{UNIT_BYTES, footprint};
use super::stats::StoreStats;

/// One segment file.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its number, unique in the store.
    pub(super) id: u32,
    /// The file, opened with O_DIRECT where the file system has it.
    pub(super) file: File,
    /// Its current lap.
    generation: AtomicU64,
    /// Reads in progress.
    pins: AtomicU32,
    /// Bytes of live records.
    live_bytes: AtomicU64,
    /// Bytes of pinned records.
    pinned_bytes: AtomicU64,
}

impl Segment {
    /// Wraps an open file.
    pub(super) fn new(id: u32, file: File, generation: u64) -> Self {
        Self {
            id,
            file,
            generation: AtomicU64::new(generation),
            pins: AtomicU32::new(0),
            live_bytes: AtomicU64::new(0),
            pinned_bytes: AtomicU64::new(0),
        }
    }

    /// Its current lap.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Begins a lap. Only while no index entry names the segment and no read
    /// has it pinned.
    pub(super) fn begin_lap(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Whether a read is in progress. New ones cannot begin once no index entry
    /// names the segment, because they pin it under the entry's lock.
    pub(super) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) != 0
    }

    /// Bytes of live records.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Acquire)
    }

    /// Bytes of pinned records.
    pub(super) fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes.load(Ordering::Acquire)
    }

    /// Counts a record that is about to be entered into the index.
    pub(super) fn count_in(&self, location: Location, stats: &StoreStats) {
        let bytes = footprint(location.data_len() as usize) as u64;
        self.live_bytes.fetch_add(bytes, Ordering::AcqRel);
        StoreStats::add(&stats.live_bytes, bytes);
        if location.pinned() {
            self.pinned_bytes.fetch_add(bytes, Ordering::AcqRel);
            StoreStats::add(&stats.pinned_bytes, bytes);
            StoreStats::add(&stats.pinned_records, 1);
        }
    }

    /// Counts a record that left the index.
    pub(super) fn count_out(&self, location: Location, stats: &StoreStats) {
        let bytes = footprint(location.data_len() as usize) as u64;
        self.live_bytes.fetch_sub(bytes, Ordering::AcqRel);
        StoreStats::sub(&stats.live_bytes, bytes);
        if location.spare() {
            StoreStats::sub(&stats.spare_bytes, bytes);
        }
        if location.pinned() {
            self.count_released(location, stats);
        }
    }

    /// Counts a record that is no longer pinned.
    pub(super) fn count_released(&self, location: Location, stats: &StoreStats) {
        let bytes = footprint(location.data_len() as usize) as u64;
        self.pinned_bytes.fetch_sub(bytes, Ordering::AcqRel);
        StoreStats::sub(&stats.pinned_bytes, bytes);
        StoreStats::sub(&stats.pinned_records, 1);
    }
}

/// Keeps a segment from being recycled.
#[derive(Debug)]
pub(super) struct Pin(Arc<Segment>);

impl Pin {
    /// Pins `segment`. Call it while an index entry that names it is locked.
    pub(super) fn new(segment: &Arc<Segment>) -> Self {
        segment.pins.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(segment))
    }

    /// The segment.
    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.0
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All segments of a store by number.
pub(super) struct Table {
    slots: Vec<OnceLock<Arc<Segment>>>,
}

impl Table {
    /// Room for numbers below `len`.
    pub(super) fn new(len: usize) -> Self {
        Self {
            slots: (0..len).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The segment of that number.
    pub(super) fn get(&self, id: u32) -> Option<&Arc<Segment>> {
        self.slots.get(id as usize)?.get()
    }

    /// Enters a segment. `false`: no such slot, or it is taken.
    pub(super) fn set(&self, segment: Arc<Segment>) -> bool {
        let slot = self.slots.get(segment.id as usize);
        slot.is_some_and(|slot| slot.set(segment).is_ok())
    }
}

/// Directory of the segments that shard `shard` created.
pub(super) fn shard_directory(root: &Path, shard: usize) -> PathBuf {
    root.join(format!("shard-{shard:03}"))
}

/// File of segment `id` in a shard's directory.
pub(super) fn segment_path(directory: &Path, id: u32) -> PathBuf {
    directory.join(format!("seg-{id:06}"))
}

/// The number in a segment's file name.
pub(super) fn parse_segment_name(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("seg-").filter(|d| d.len() >= 6)?;
    digits.parse().ok()
}

/// Opens an existing segment.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    open_with(path, false)
}

fn open_with(path: &Path, create: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(create)
        .mode(0o600);
    let direct = OFlags::DIRECT.bits() as i32;
    match options.clone().custom_flags(direct).open(path) {
        // A file system without O_DIRECT: open(2) says EINVAL, but the file was
        // created. Slower, and still correct.
        Err(cause) if cause.kind() == std::io::ErrorKind::InvalidInput => {
            options.create_new(false).create(create).open(path)
        }
        other => other,
    }
}

/// Creates a segment with all its blocks, durably. Blocks: run it on a thread
/// of its own.
///
/// # Errors
/// On any failure nothing of it is left.
pub(super) fn create(directory: &Path, id: u32, bytes: u64) -> std::io::Result<File> {
    let path = segment_path(directory, id);
    let made = create_at(directory, &path, bytes);
    if made.is_err()
        && let Err(cause) = std::fs::remove_file(&path)
        && cause.kind() != std::io::ErrorKind::NotFound
    {
        // Recovery removes a segment of the wrong size at the next start.
        tracing::warn!(path = %path.display(), %cause, "removing a half-made segment");
    }
    made
}

fn create_at(directory: &Path, path: &Path, bytes: u64) -> std::io::Result<File> {
    let is_new = !directory.exists();
    std::fs::create_dir_all(directory)?;
    let file = open_with(path, true)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()?;
    File::open(directory)?.sync_all()?;
    if is_new && let Some(parent) = directory.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(file)
}

/// Bytes between two units.
pub(super) fn unit_bytes(units: u32) -> u64 {
    u64::from(units) * UNIT_BYTES as u64
}
