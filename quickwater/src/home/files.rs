//! Small files written whole: never half there, synced before they count.

use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Writes `bytes` beside `path`, syncs it and renames it into place.
pub(super) fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let show = path.display();
    let draft = path.with_extension(format!("tmp{}", std::process::id()));
    let write = || -> Result<()> {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .open(&draft)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        sync_parent(path)
    };
    let result = write().with_context(|| format!("cannot write {show}"));
    if result.is_err() {
        // The draft is worthless; what failed is reported above.
        let _ = std::fs::remove_file(&draft);
    }
    result
}

/// As [`write_atomic`], readable by the owner only.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, text.as_bytes(), 0o600)
}

/// Reads a small text file.
pub(super) fn read_small(path: &Path) -> Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(super::SMALL_FILE_BYTES_MAX + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > super::SMALL_FILE_BYTES_MAX {
        bail!("larger than {} bytes", super::SMALL_FILE_BYTES_MAX);
    }
    Ok(text)
}

/// Makes a rename or removal in the directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file has a directory")?;
    File::open(parent)?.sync_all()?;
    Ok(())
}
