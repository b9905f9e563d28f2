//! The disk under the directory: its file system, its kind, what it asks of O_DIRECT.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::Check;

/// What the store aligns memory, offsets and lengths to, bytes.
const BLOCK_BYTES: u32 = 4096;
const LOCAL_DISK: &str = "put --dir on ext4 or xfs on a local NVMe disk";

/// `file` lies on it and can be opened.
pub(super) fn checks(file: &Path) -> Vec<Check> {
    let mut checks = vec![match rustix::fs::statfs(file) {
        Ok(stat) => file_system(stat.f_type as u64),
        Err(error) => Check::fail("file system", error.to_string(), "is the disk mounted?"),
    }];
    let wanted = StatxFlags::DIOALIGN | StatxFlags::BASIC_STATS;
    match rustix::fs::statx(CWD, file, AtFlags::empty(), wanted) {
        Ok(stat) => {
            checks.push(kind(is_rotational(stat.stx_dev_major, stat.stx_dev_minor)));
            let told = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
            let aligned = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
            checks.push(alignment(told.then_some(aligned)));
        }
        Err(error) => checks.push(Check::warn("disk", error.to_string(), LOCAL_DISK)),
    }
    checks
}

/// By the magic number of statfs(2).
pub(super) fn file_system(magic: u64) -> Check {
    // A 32-bit number, whatever the width and sign of the field.
    let name = match magic & 0xffff_ffff {
        0xef53 => return Check::ok("file system", "ext4"),
        0x5846_5342 => return Check::ok("file system", "xfs"),
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x6969 => "nfs",
        0xfe53_4d42 | 0xff53_4d42 => "smb",
        0x00c3_6400 => "cephfs",
        0x6573_5546 => "fuse",
        _ => "",
    };
    let advice = match name {
        "tmpfs" | "ramfs" => {
            "acked WRITE_BACK data would be lost with the power; put --dir on ext4 or xfs on a local NVMe disk"
        }
        "overlayfs" => {
            "in a container give the directory a volume of its own, on ext4 or xfs on a local NVMe disk"
        }
        _ => LOCAL_DISK,
    };
    let name = match name {
        "" => format!("of kind {magic:#x}, which was not tested"),
        name => name.to_owned(),
    };
    Check::warn("file system", name, advice)
}

/// What the block layer says of a device; nothing of one that is no disk.
fn is_rotational(major: u32, minor: u32) -> Option<bool> {
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A partition has its disk above it.
    let files = ["queue/rotational", "../queue/rotational"];
    let read = |file: &str| std::fs::read_to_string(format!("{device}/{file}")).ok();
    let text = files.into_iter().find_map(read)?;
    Some(text.trim() == "1")
}

pub(super) fn kind(is_rotational: Option<bool>) -> Check {
    match is_rotational {
        Some(false) => Check::ok("disk", "no moving parts"),
        Some(true) => Check::warn(
            "disk",
            "the kernel takes it for a rotating one",
            "a rotating disk is too slow for a cache: use NVMe; a virtual disk that is really flash may be told so in /sys/block/NAME/queue/rotational",
        ),
        None => Check::ok("disk", "the kernel names none (a virtual file system)"),
    }
}

/// Memory and offset alignment that O_DIRECT wants here (statx(2)); 0: it is not to be had.
pub(super) fn alignment(told: Option<(u32, u32)>) -> Check {
    let name = "O_DIRECT alignment";
    match told {
        None => Check::ok(name, "not told (before Linux 6.1, or by this file system)"),
        Some((0, 0)) => Check::fail(name, "there is no O_DIRECT here", LOCAL_DISK),
        Some((memory, offset)) if memory > BLOCK_BYTES || offset > BLOCK_BYTES => Check::fail(
            name,
            format!("memory {memory}, offset {offset} bytes; the store has {BLOCK_BYTES}"),
            "make the file system with blocks, and use a disk with sectors, of at most 4096 bytes",
        ),
        Some((memory, offset)) => {
            Check::ok(name, format!("memory {memory}, offset {offset} bytes"))
        }
    }
}
