//! Cgroups of a test's own.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quickwater_ebpf::cgroup_root;

/// Removed when dropped.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// `None`: it cannot be made here.
    pub(crate) fn make(name: &str) -> Option<Self> {
        let root = cgroup_root();
        let Some(root) = root else {
            eprintln!("SKIPPED: no cgroup2 is mounted");
            return None;
        };
        Self::at(root.join(format!("quickwater-{name}-{}", std::process::id())))
    }

    /// One below this one, which has to be dropped after it.
    pub(crate) fn below(&self, name: &str) -> Option<Self> {
        Self::at(self.0.join(name))
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn at(own: PathBuf) -> Option<Self> {
        match std::fs::create_dir(&own) {
            Ok(()) => Some(Cgroup(own)),
            Err(error) => {
                eprintln!("SKIPPED: {}: {error}", own.display());
                None
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has ended may be in it for a moment yet. What is left is empty
        // and harms nobody.
        for _ in 0..200 {
            match std::fs::remove_dir(&self.0) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}
