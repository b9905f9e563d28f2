//! The directory's disk: writable, O_DIRECT, flush latency, free space.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::service::Role;
use super::{Check, device};
use crate::settings::Settings;

/// Alignment every disk of today is content with.
const BLOCK_BYTES: usize = 4096;
/// Flushes measured; the median is told.
const FLUSHES: usize = 16;
/// A flush slower than this makes every PUT feel it.
const FLUSH_SLOW: Duration = Duration::from_millis(20);

pub(super) fn checks(settings: &Settings, role: Role) -> Vec<Check> {
    if let Some(file) = no_directory(&settings.dir) {
        let found = format!("{} is no directory", file.display());
        let advice = "name a directory with --dir: that of a service, or one to be made";
        return vec![Check::fail("directory", found, advice)];
    }
    let dir = existing(&settings.dir);
    let probe = Probe(dir.join(format!(".doctor-{}", std::process::id())));
    let mut checks = vec![writable(&dir, &probe)];
    if checks[0].verdict == super::Verdict::Ok {
        checks.extend(device::checks(&probe.0));
        checks.push(direct(&probe));
        checks.push(flush(&probe));
    }
    // A control plane has no cache.
    if role != Role::Control {
        checks.push(space(settings, &dir));
    }
    checks
}

/// A file that goes away with the value.
struct Probe(PathBuf);

impl Drop for Probe {
    fn drop(&mut self) {
        // Not there when the directory cannot be written.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What is there in the way of the directory, and is none.
fn no_directory(dir: &Path) -> Option<&Path> {
    let nearest = dir.ancestors().find(|place| place.exists())?;
    (!nearest.is_dir()).then_some(nearest)
}

/// The directory, or the nearest one above it that exists.
fn existing(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|d| d.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

fn writable(dir: &Path, probe: &Probe) -> Check {
    let written = File::create(&probe.0).and_then(|f| f.write_all_at(&[0; BLOCK_BYTES], 0));
    match written {
        Ok(()) => Check::ok("directory", format!("{} can be written", dir.display())),
        Err(error) => Check::fail(
            "directory",
            format!("{}: {error}", dir.display()),
            &unwritable(dir, error.kind()),
        ),
    }
}

/// What to do about a directory that cannot be written.
fn unwritable(dir: &Path, kind: io::ErrorKind) -> String {
    let own = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(dir).ok().map(|meta| meta.uid());
    match (kind, owner) {
        (io::ErrorKind::PermissionDenied, Some(owner)) if owner != own => of_others(owner, own),
        (io::ErrorKind::PermissionDenied, _) => {
            "give its user the right to write there (chmod u+rwx)".into()
        }
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => {
            "free some space there, or choose another --dir".into()
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "its file system is mounted read-only, or turned so after an error (see dmesg): mount it writable, or choose another --dir".into()
        }
        _ => "choose another --dir, or see dmesg for what is wrong with this one".into(),
    }
}

/// About a directory of another user: most likely it is right so, and this is the wrong user
/// to look at it.
pub(super) fn of_others(owner: u32, own: u32) -> String {
    format!(
        "it belongs to the user with the id {owner}, and this is {own}: if that is the service's user, run doctor as that user (`sudo -u '#{owner}' quickwater doctor ...`) or as root; if the service is to run as {own}, give it the directory (chown)"
    )
}

fn direct(probe: &Probe) -> Check {
    match write_direct(&probe.0) {
        Ok(()) => Check::ok("O_DIRECT", "supported"),
        Err(error) => Check::fail(
            "O_DIRECT",
            format!("refused: {error}"),
            "put --dir on ext4 or xfs on a local disk; tmpfs, overlayfs and network file systems may not have it",
        ),
    }
}

fn write_direct(path: &Path) -> io::Result<()> {
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let file = File::options().write(true).custom_flags(flags).open(path)?;
    // A block-aligned window of a larger buffer.
    let memory = vec![0x51u8; 2 * BLOCK_BYTES];
    let skip = memory.as_ptr().align_offset(BLOCK_BYTES);
    let block = memory
        .get(skip..skip + BLOCK_BYTES)
        .ok_or_else(|| io::Error::other("memory cannot be aligned"))?;
    file.write_all_at(block, 0)
}

fn flush(probe: &Probe) -> Check {
    match median_flush(&probe.0) {
        Ok(time) => flush_took(time),
        Err(error) => Check::fail(
            "flush",
            error.to_string(),
            "the disk refuses fdatasync; replace it",
        ),
    }
}

pub(super) fn flush_took(time: Duration) -> Check {
    let found = format!("{time:.1?} median of {FLUSHES}");
    if time > FLUSH_SLOW {
        let advice =
            "a slow flush slows every small PUT; use a local NVMe disk with power-loss protection";
        return Check::warn("flush", found, advice);
    }
    Check::ok("flush", found)
}

fn median_flush(path: &Path) -> io::Result<Duration> {
    let file = File::options().write(true).open(path)?;
    let mut times = Vec::with_capacity(FLUSHES);
    for round in 0..FLUSHES {
        file.write_all_at(&[round as u8; BLOCK_BYTES], 0)?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[FLUSHES / 2])
}

fn space(settings: &Settings, dir: &Path) -> Check {
    let held = held_bytes(&settings.dir.join("store"));
    let free = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => return Check::fail("space", error.to_string(), "is the disk mounted?"),
    };
    let wanted = settings.store.capacity_bytes.saturating_sub(held);
    let found = format!(
        "{} MiB free, {} MiB of the cache not yet allocated",
        free >> 20,
        wanted >> 20
    );
    if free < wanted {
        return Check::fail(
            "space",
            found,
            "lower store.capacity or free some space: the cache is preallocated",
        );
    }
    Check::ok("space", found)
}

/// Bytes the store's segments hold already.
fn held_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => held_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}
