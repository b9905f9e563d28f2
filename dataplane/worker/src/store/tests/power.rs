//! Power cuts: the file system drops all that was not flushed, mid-write.
//!
//! On a loop-mounted image, by the file system's shutdown ioctl. Built with
//! `unsafe-no-flush` the same test must see losses: otherwise it proves nothing.
//! Every cycle begins a new store whose segments are not zeroed ahead: each write
//! changes metadata (an extent becomes written) that a cut can drop. On blocks
//! written before, a loop device keeps what it got, flushed or not.

use std::process::Command;

use super::crash::{VICTIM_TEST, WRITERS, check_acked, spawn_victim};
use super::*;

/// The control ends at the first loss; one cut can find everything safe by luck.
const CYCLES: u32 = if cfg!(feature = "unsafe-no-flush") {
    30
} else {
    4
};

/// A file system on a loop device; unmounted on drop.
struct Image {
    _dir: tempfile::TempDir,
    mount: PathBuf,
    file: PathBuf,
}

fn run_tool(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Image {
    /// `None`: the tools or the rights are missing.
    fn new(make: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (mount, file) = (dir.path().join("mnt"), dir.path().join("image"));
        std::fs::create_dir(&mount).unwrap();
        std::fs::File::create(&file)
            .unwrap()
            .set_len(400 * MIB)
            .unwrap();
        let path = file.to_str().unwrap().to_owned();
        let args: Vec<_> = make[1..].iter().copied().chain([&*path]).collect();
        let image = Self {
            _dir: dir,
            mount,
            file,
        };
        (run_tool(make[0], &args) && image.mount()).then_some(image)
    }

    fn mount(&self) -> bool {
        let (file, mount) = (self.file.to_str().unwrap(), self.mount.to_str().unwrap());
        run_tool("mount", &["-o", "loop", file, mount])
    }

    /// The kernel lets go of a killed process's ring, and so of its files, a
    /// little after the process is gone.
    fn unmount(&self) -> bool {
        (0..200).any(|_| {
            let done = run_tool("umount", &[self.mount.to_str().unwrap()]);
            if !done {
                std::thread::sleep(Duration::from_millis(50));
            }
            done
        })
    }

    fn cut(&self) {
        let mount = self.mount.to_str().unwrap();
        assert!(run_tool("xfs_io", &["-x", "-c", "shutdown", mount]));
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let mounted = std::fs::read_to_string("/proc/mounts").unwrap();
        if mounted.contains(self.mount.to_str().unwrap()) {
            self.unmount();
        }
    }
}

/// What is cut off, and how many of the acks it gave are lost (and were checked).
struct Subject {
    victim: &'static str,
    lost: fn(&Path, u32, &[u32]) -> (usize, usize),
}

const RECORDS: Subject = Subject {
    victim: VICTIM_TEST,
    lost: |dir, cycle, acked| {
        let last = acked.iter().rev().take(3 * WRITERS as usize);
        let last: Vec<_> = last.copied().collect();
        (check_acked(dir, cycle, &last), last.len())
    },
};

const BLOBS: Subject = Subject {
    victim: super::write_back::VICTIM_TEST,
    lost: super::write_back::lost_blobs,
};

/// Cycles of load, cut, remount, check. Returns acks lost and checked.
fn lost(image: &Image, subject: &Subject) -> (usize, usize) {
    let (mut lost, mut checked) = (0, 0);
    for cycle in 1..=CYCLES {
        let dir = image.mount.join(cycle.to_string());
        std::fs::create_dir(&dir).unwrap();
        std::fs::File::open(&image.mount)
            .unwrap()
            .sync_all()
            .unwrap();
        let victim = spawn_victim(subject.victim, &dir, cycle);
        std::thread::sleep(Duration::from_millis(10 + u64::from(cycle) * 53 % 80));
        // Acks read after the cut may have been written after it.
        let acked = victim.acked_so_far();
        image.cut();
        victim.kill();
        assert!(image.unmount(), "the file system stays busy");
        assert!(image.mount(), "the file system does not mount again");
        let of_cycle = (subject.lost)(&dir, cycle, &acked);
        lost += of_cycle.0;
        checked += of_cycle.1;
        std::fs::remove_dir_all(&dir).unwrap();
        if lost > 0 {
            break;
        }
    }
    (lost, checked)
}

fn power_cuts(make: &[&str], subject: &Subject) {
    let Some(image) = Image::new(make) else {
        eprintln!("SKIPPED: {} or mounting is not possible here", make[0]);
        return;
    };
    let (lost, checked) = lost(&image, subject);
    assert!(checked > 0);
    if cfg!(feature = "unsafe-no-flush") {
        assert!(lost > 0, "nothing was lost of {checked} without flushes");
    } else {
        assert_eq!(lost, 0, "of {checked}");
    }
}

#[test]
fn blobs_with_their_journal_survive_a_power_cut_on_xfs() {
    power_cuts(&["mkfs.xfs", "-q"], &BLOBS);
}

#[test]
#[cfg(not(feature = "unsafe-no-flush"))]
fn blobs_with_their_journal_survive_a_power_cut_on_ext4() {
    power_cuts(&["mkfs.ext4", "-q", "-F"], &BLOBS);
}

#[test]
fn flushed_records_survive_a_power_cut_on_xfs() {
    power_cuts(&["mkfs.xfs", "-q"], &RECORDS);
}

/// No control here: ext4 commits its journal at every new segment, so a cut
/// without flushes often finds everything safe by luck.
#[test]
#[cfg(not(feature = "unsafe-no-flush"))]
fn flushed_records_survive_a_power_cut_on_ext4() {
    power_cuts(&["mkfs.ext4", "-q", "-F"], &RECORDS);
}
