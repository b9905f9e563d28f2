//! Whether a directory holds any key: an early answer, without a listing.

use std::collections::HashSet;

use quickwater_proto::KEY_BYTES_MAX;
use rustix::fs::{Dir, Mode, OFlags, fstat};
use rustix::io::Errno;

use super::keys::Tree;
use super::objects::is_placeholder;
use super::root::Root;
use super::walk::{entry, join};

/// Whether any key greater than `start_after` lies below a directory. Names are
/// looked at as they come: nothing is sorted, the first file found ends it.
pub(super) fn holds_a_key(
    root: &Root,
    tree: Tree,
    path: String,
    prefix: &str,
    start_after: &str,
) -> Result<bool, Errno> {
    let mut waiting = vec![(path, prefix.as_bytes().to_vec())];
    // Each directory once: links may lead in circles.
    let mut seen = HashSet::new();
    while let Some((path, key)) = waiting.pop() {
        let folder = match root.open_directory(&path) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => continue,
            Err(errno) => return Err(errno),
        };
        let stat = fstat(&folder)?;
        if !seen.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        let entries = Dir::new(folder)?;
        for found in entries {
            let found = found?;
            let name = found.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let Some(entry) = entry(tree, root, &path, name, found.file_type())? else {
                continue;
            };
            let mut full = key.clone();
            full.extend(&entry.part);
            let after = start_after.as_bytes();
            let late = full.as_slice() > after || (entry.directory && after.starts_with(&full));
            if !late || full.len() > KEY_BYTES_MAX {
                continue;
            }
            let below = join(&path, &entry.name);
            if entry.directory {
                waiting.push((below, full));
            } else if tree == Tree::Plain || !is_placeholder_at(root, &below) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn is_placeholder_at(root: &Root, path: &str) -> bool {
    root.open_at(path, OFlags::PATH, Mode::empty())
        .and_then(fstat)
        .is_ok_and(|stat| is_placeholder(&stat))
}
