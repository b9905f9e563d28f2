//! Where the program and its entries outlive their process: pins on a BPF file system.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Forwarding;
use crate::call;

/// Names of what is pinned. The number is the version of what is in it.
pub(super) const FORWARDS: &str = "forwards-3";
/// What earlier versions left: entries that this one cannot read.
pub(super) const BEFORE: [&str; 2] = ["forwards-1", "forwards-2"];
/// What came while the next process starts, whose listener is there before its program,
/// can be handed over all the same.
pub(super) const ARRIVALS: &str = "arrivals-1";
pub(super) const LINK: &str = "link-1";
/// Of the directories that these are in.
pub(crate) const PREFIX: &str = "handoff-";

impl Forwarding {
    /// Pins again what somebody took away: the program runs on without its pins, but only as
    /// long as this process. Whether something had to be done.
    ///
    /// # Errors
    /// They cannot be made: no BPF file system is there any more, for one.
    pub fn keep_pinned(&self) -> io::Result<bool> {
        let mut is_repaired = false;
        fs::create_dir_all(&self.pins)?;
        let mut held = self.held();
        for (name, object) in &held.pinned {
            let path = self.pins.join(name);
            if !path.try_exists()? {
                call::pin(object, &path)?;
                is_repaired = true;
            }
        }
        if is_repaired || held.claim.is_none() {
            held.claim = match claimed(&self.pins, FlockOperation::NonBlockingLockShared) {
                // Somebody asks just now whether it is used: at the next look.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                other => Some(other?),
            };
        }
        Ok(is_repaired)
    }

    /// Directories below `pins` in which a worker with the service's `port` left what outlives
    /// it, of whatever device.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn left_behind(pins: &Path, port: u16) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(pins) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let own = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.rsplit_once('-'));
            if own.is_some_and(|(_, of)| of == port.to_string()) {
                found.push(pins.join(&*name));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether a process uses what is in one of these directories.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn is_used(pins: &Path) -> io::Result<bool> {
        match claimed(pins, FlockOperation::NonBlockingLockExclusive) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether the program that is pinned in one of these directories hangs on a device.
    ///
    /// # Errors
    /// The kernel does not tell, or nothing is pinned there.
    pub fn hangs(pins: &Path) -> io::Result<bool> {
        call::is_attached(call::pinned(&pins.join(LINK))?)
    }

    /// Takes the program off the device, also one that an earlier process left there. The
    /// kernel does it a moment after this returns, and after the last [`Forwarding`] of
    /// these pins is gone. Connections that were handed over from here break.
    ///
    /// # Errors
    /// What is pinned cannot be removed.
    pub fn detach(pins: &Path) -> io::Result<()> {
        let now = [LINK, FORWARDS, ARRIVALS];
        for name in now.into_iter().chain(BEFORE) {
            gone(fs::remove_file(pins.join(name)))?;
        }
        gone(fs::remove_dir(pins))
    }
}

/// A directory that others see is in use, as long as the file is open.
fn claimed(pins: &Path, how: FlockOperation) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    let directory = options.open(pins)?;
    flock(&directory, how)?;
    Ok(directory)
}

/// Where the pins of a device and a port are, below a directory of all pins. A BPF file
/// system has no names with dots.
#[must_use]
pub fn pins_of(pins: &Path, device: &str, port: u16) -> PathBuf {
    pins.join(format!("{PREFIX}{}-{port}", device.replace('.', "_")))
}

pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_names_that_a_bpf_file_system_takes() {
        let path = pins_of(Path::new("/p"), "eth0.100", 9000);
        assert_eq!(path, Path::new("/p/handoff-eth0_100-9000"));
    }
}
