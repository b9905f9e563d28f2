//! The mark of a directory: `.quickwater/identity`, a random number that tells it
//! from the bare mount point of a file system that is not there, and from another
//! one. Made before the first write; whoever finds one takes it over, so that all
//! nodes that share a directory know it by the same mark. Absent: which mark is the
//! right one (see [`super::Core::root`]).

use quickwater_proto::{UfsError, UfsErrorKind};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::errors::failed;
use super::root::{Blocked, Root};
use super::sync::{sync_directory, sync_file};

/// The mark, from the root.
pub(super) const MARK: &str = ".quickwater/identity";
/// Its first line; the number says how to read the rest.
const HEAD: &str = "quickwater directory 1";
/// Bytes of an identity, before it is written as hex digits.
const IDENTITY_BYTES: usize = 16;
/// Most bytes of a mark that are read; ours has fewer.
const MARK_BYTES_MAX: usize = 256;
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// What a directory shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing.
    Missing,
    /// Something that is no mark of ours.
    Damaged,
    /// This identity.
    Is(String),
}

/// Looks at the mark of a directory.
pub(super) fn read(root: &Root) -> Result<Mark, UfsError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match root.open_at(MARK, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Mark::Missing),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(Mark::Damaged),
        Err(errno) => return Err(failed("open", MARK, errno)),
    };
    let mut text = [0; MARK_BYTES_MAX];
    let mut length = 0;
    while length < text.len() {
        match rustix::io::pread(&file, &mut text[length..], length as u64) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(Errno::INTR) => {}
            Err(Errno::ISDIR) => return Ok(Mark::Damaged),
            Err(errno) => return Err(failed("read", MARK, errno)),
        }
    }
    Ok(parse(&text[..length]))
}

fn parse(text: &[u8]) -> Mark {
    let identity = str::from_utf8(text)
        .ok()
        .and_then(|text| text.strip_prefix(HEAD)?.strip_prefix('\n'))
        .map(str::trim_end)
        .filter(|identity| identity.len() == 2 * IDENTITY_BYTES)
        .filter(|identity| identity.bytes().all(|b| b.is_ascii_hexdigit()));
    identity.map_or(Mark::Damaged, |identity| Mark::Is(identity.to_owned()))
}

/// The identity of a directory, which is marked if it is not yet: as `wanted`, or
/// with a new number. On return the mark is on disk.
pub(super) fn make(root: &Root, wanted: Option<&str>) -> Result<String, UfsError> {
    let folder = root.make_parent(MARK).map_err(|blocked| match blocked {
        Blocked::File(file) => failed("make directory", file, Errno::NOTDIR),
        Blocked::Failed(error) => error,
    })?;
    // Two nodes that make one at a time would each know another.
    let lock = root.lock_moves();
    let _lock = lock.map_err(|errno| failed("lock", MARK, errno))?;
    if let Mark::Is(identity) = read(root)? {
        return Ok(identity);
    }
    let identity = match wanted {
        Some(identity) => identity.to_owned(),
        None => random()?,
    };
    write(&folder, &identity).map_err(|errno| failed("write", MARK, errno))?;
    Ok(identity)
}

/// A new file takes the place of the mark, so that no half of one is ever seen.
fn write(folder: &OwnedFd, identity: &str) -> Result<(), Errno> {
    let draft = format!("identity.{identity}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(folder, &*draft, flags, FILE_MODE)?;
    let written = fill(&file, format!("{HEAD}\n{identity}\n").as_bytes())
        .and_then(|()| sync_file(&file))
        .and_then(|()| renameat(folder, &*draft, folder, "identity"));
    if let Err(errno) = written {
        // It takes no space worth an error of its own.
        let _ = unlinkat(folder, &*draft, AtFlags::empty());
        return Err(errno);
    }
    sync_directory(folder)
}

fn fill(file: &OwnedFd, text: &[u8]) -> Result<(), Errno> {
    let mut written = 0;
    while written < text.len() {
        match rustix::io::pwrite(file, &text[written..], written as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(bytes) => written += bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn random() -> Result<String, UfsError> {
    let mut bytes = [0u8; IDENTITY_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| UfsError::new(UfsErrorKind::Other, format!("no randomness: {e}")))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_made_once_and_read_back() {
        let home = tempfile::tempdir().unwrap();
        let root = Root::open(home.path()).unwrap();
        assert_eq!(read(&root).unwrap(), Mark::Missing);
        let made = make(&root, None).unwrap();
        assert_eq!(made.len(), 2 * IDENTITY_BYTES);
        assert_eq!(read(&root).unwrap(), Mark::Is(made.clone()));
        assert_eq!(make(&root, None).unwrap(), made, "taken over");
        let other = "ab".repeat(IDENTITY_BYTES);
        assert_eq!(make(&root, Some(&other)).unwrap(), made, "not replaced");
        std::fs::remove_file(home.path().join(MARK)).unwrap();
        assert_eq!(make(&root, Some(&other)).unwrap(), other);
        let names = std::fs::read_dir(home.path().join(".quickwater")).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["identity", "moves"], "nothing is left over");
    }

    #[test]
    fn what_is_no_mark_is_damaged_and_replaced() {
        let home = tempfile::tempdir().unwrap();
        let root = Root::open(home.path()).unwrap();
        let identity = "0123456789abcdef".repeat(2);
        let good = format!("{HEAD}\n{identity}\n");
        assert_eq!(parse(good.as_bytes()), Mark::Is(identity));
        std::fs::create_dir(home.path().join(".quickwater")).unwrap();
        let more = format!("{good}{}", "x".repeat(1_000));
        for bad in [
            "",
            "\u{0}",
            "quickwater directory 2\nab\n",
            &good[..40],
            &more,
        ] {
            std::fs::write(home.path().join(MARK), bad).unwrap();
            assert_eq!(read(&root).unwrap(), Mark::Damaged, "{bad:?}");
        }
        let made = make(&root, None).unwrap();
        assert_eq!(read(&root).unwrap(), Mark::Is(made));
    }
}
