//! The FORMAT file and the lock of a store directory; absent: segments.
//!
//! FORMAT is text: the format's version first, so that every later version can
//! be told apart, then the segment size and the store's secrets. It is written
//! before anything else and never changed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::config::{OpenError, StoreConfig};
use super::record::Secrets;

/// Version of the format this program reads and writes.
pub(super) const FORMAT_VERSION: u32 = 1;
/// First words of every FORMAT file, of any version.
const TITLE: &str = "quickwater-store";
/// Largest FORMAT or lock file that is read.
const FILE_BYTES_MAX: u64 = 4096;

/// What FORMAT says.
pub(super) struct Format {
    /// Size of every segment.
    pub(super) segment_bytes: u64,
    /// Secrets of the store.
    pub(super) secrets: Secrets,
}

/// Opens the lock of the store at `root` and takes it. Dropping it (or the
/// death of the process) gives it back.
pub(super) fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(OpenError::io("opening", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::InUse {
                dir: root.to_path_buf(),
                pid: read_short(&mut file).unwrap_or_else(|_| "(unknown)".into()),
            });
        }
        Err(cause) => return Err(OpenError::io("locking", &path)(cause.into())),
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(OpenError::io("writing", &path))?;
    Ok(file)
}

fn read_short(file: &mut File) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Makes the directory of the store (0700) if it is not there.
pub(super) fn make_directory(path: &Path) -> Result<(), OpenError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(OpenError::io("creating", path))?;
    sync_directory(path.parent().unwrap_or(path))
}

/// Makes changes of a directory's entries durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), OpenError> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(OpenError::io("syncing", path))
}

/// Reads the FORMAT of the store at `root`, or makes a new store of it when the
/// directory is empty but for the lock.
pub(super) fn load_or_create(root: &Path, config: &StoreConfig) -> Result<Format, OpenError> {
    let path = root.join("FORMAT");
    match File::open(&path) {
        Ok(mut file) => {
            let text = read_short(&mut file).map_err(OpenError::io("reading", &path))?;
            let format = parse(root, &text)?;
            check_asked(root, config, &format)?;
            Ok(format)
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => create(root, config),
        Err(cause) => Err(OpenError::io("opening", &path)(cause)),
    }
}

fn check_asked(root: &Path, config: &StoreConfig, format: &Format) -> Result<(), OpenError> {
    match config.segment_bytes {
        Some(asked) if asked != format.segment_bytes => Err(OpenError::OtherSetting {
            dir: root.to_path_buf(),
            setting: "segment-bytes",
            found: format.segment_bytes,
            asked,
        }),
        _ => Ok(()),
    }
}

fn parse(root: &Path, text: &str) -> Result<Format, OpenError> {
    let refuse = |why: &str| OpenError::NotAStore {
        dir: root.to_path_buf(),
        why: format!("FORMAT {why}"),
    };
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let version = title.strip_prefix(TITLE).map(str::trim);
    let version = version.ok_or_else(|| refuse("does not begin as one"))?;
    if version.parse() != Ok(FORMAT_VERSION) {
        return Err(OpenError::OtherVersion {
            dir: root.to_path_buf(),
            found: version.to_owned(),
            supported: FORMAT_VERSION,
        });
    }
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned())
            .ok_or_else(|| refuse(&format!("has no {name}")))
    };
    let secret = |name: &str| {
        let value = u128::from_str_radix(&field(name)?, 16);
        value
            .map(u128::to_be_bytes)
            .map_err(|_| refuse(&format!("has a bad {name}")))
    };
    let segment_bytes = field("segment-bytes")?.parse::<u64>();
    Ok(Format {
        segment_bytes: segment_bytes.map_err(|_| refuse("has a bad segment-bytes"))?,
        secrets: Secrets {
            mark: secret("mark")?,
            seed: secret("seed")?,
        },
    })
}

fn create(root: &Path, config: &StoreConfig) -> Result<Format, OpenError> {
    refuse_foreign_files(root)?;
    let segment_bytes = config.choose_segment_bytes();
    config.segments_of(segment_bytes)?;
    let random = || {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).map_err(|cause| {
            OpenError::io("drawing random numbers for", root)(std::io::Error::other(cause))
        })?;
        Ok::<_, OpenError>(bytes)
    };
    let format = Format {
        segment_bytes,
        secrets: Secrets {
            mark: random()?,
            seed: random()?,
        },
    };
    let text = format!(
        "{TITLE} {FORMAT_VERSION}\nsegment-bytes {}\nmark {:032x}\nseed {:032x}\n",
        format.segment_bytes,
        u128::from_be_bytes(format.secrets.mark),
        u128::from_be_bytes(format.secrets.seed),
    );
    replace_file(&root.join("FORMAT"), &text)?;
    sync_directory(root)?;
    Ok(format)
}

/// Segments without a FORMAT are somebody's data: never format over them.
fn refuse_foreign_files(root: &Path) -> Result<(), OpenError> {
    let entries = std::fs::read_dir(root).map_err(OpenError::io("listing", root))?;
    for entry in entries {
        let name = entry.map_err(OpenError::io("listing", root))?.file_name();
        if name != "lock" && name != "FORMAT.new" {
            return Err(OpenError::NotAStore {
                dir: root.to_path_buf(),
                why: format!("it has no FORMAT but holds {}", name.display()),
            });
        }
    }
    Ok(())
}

fn replace_file(path: &PathBuf, text: &str) -> Result<(), OpenError> {
    let fresh = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().map_err(OpenError::io("writing", path))
}
