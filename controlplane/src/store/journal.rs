//! Repairs the end of a fjall journal after a power cut, before fjall sees it.
//!
//! The committer flushes every batch before the next begins, so only the last
//! batch can be torn, and nobody was told that it is committed. fjall drops a
//! torn batch when its end is missing, but refuses to open when pages in its
//! middle are missing: the journal is preallocated, so the disk may have kept
//! the end and lost the middle. Here that batch is cut off, unless an intact one
//! follows: then acknowledged data is damaged, and nothing is changed.
//!
//! The layout read here is that of fjall 3 (`journal/entry.rs`), uncompressed.

use std::fs::OpenOptions;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// What was found at the end of the journal.
#[derive(Debug, PartialEq, Eq)]
enum Tail {
    Clean,
    /// Bytes from here on belong to a batch that was never completed.
    Torn(usize),
    /// A damaged batch here, with intact ones after it.
    Damaged(usize),
}

/// Cuts a torn batch off the newest journal in `dir`, if there is one.
///
/// # Errors
/// `InvalidData` when committed batches are damaged; other kinds from the files.
pub(super) fn repair(dir: &Path) -> Result<()> {
    let Some(path) = newest(dir)? else {
        return Ok(());
    };
    match inspect(&std::fs::read(&path)?) {
        Tail::Clean => Ok(()),
        Tail::Torn(end) => {
            tracing::warn!(journal = %path.display(), end, "cutting off an incomplete batch");
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(end as u64)?;
            file.sync_all()
        }
        Tail::Damaged(at) => {
            let text = format!("journal {} is damaged at byte {at}", path.display());
            Err(Error::new(ErrorKind::InvalidData, text))
        }
    }
}

fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in entries {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        if let (true, Some(number)) = (is_journal, number)
            && newest.as_ref().is_none_or(|(most, _)| number > *most)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

fn inspect(journal: &[u8]) -> Tail {
    let mut end = 0;
    while let Some(length) = batch(&journal[end..]) {
        end += length;
    }
    let tail = &journal[end..];
    if tail.iter().all(|byte| *byte == 0) {
        return Tail::Clean;
    }
    let follows = (1..tail.len()).any(|at| tail[at] == TAG_START && batch(&tail[at..]).is_some());
    if follows {
        Tail::Damaged(end)
    } else {
        Tail::Torn(end)
    }
}

/// The length of the intact batch that `bytes` begin with.
fn batch(bytes: &[u8]) -> Option<usize> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(1)? != [TAG_START] {
        return None;
    }
    let items = cursor.number(4)?;
    cursor.take(8)?;
    let mut checksum = Xxh3::new();
    for _ in 0..items {
        checksum.update(item(&mut cursor)?);
    }
    if cursor.take(1)? != [TAG_END] {
        return None;
    }
    let intact = cursor.number(8)? == checksum.digest() && cursor.take(TRAILER.len())? == TRAILER;
    intact.then_some(cursor.at)
}

/// The bytes of one item of a batch.
fn item<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let start = cursor.at;
    match cursor.take(1)? {
        [TAG_ITEM] => {
            // Kind of value, compression (none), keyspace.
            if cursor.take(2)?[1] != 0 {
                return None;
            }
            cursor.take(8)?;
            let key = cursor.number(2)?;
            let value = cursor.number(4)?;
            if cursor.number(4)? != value {
                return None;
            }
            cursor.take(usize::try_from(key + value).ok()?)?;
        }
        [TAG_CLEAR] => {
            cursor.take(8)?;
        }
        _ => return None,
    }
    cursor.bytes.get(start..cursor.at)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// A little-endian number of `length` bytes.
    fn number(&mut self, length: usize) -> Option<u64> {
        let bytes = self.take(length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    /// A journal with three batches as fjall itself writes it; the ends of the
    /// batches.
    fn journal(dir: &Path) -> (PathBuf, Vec<usize>) {
        let db = Database::builder(dir)
            .worker_threads(1)
            .open()
            .expect("open");
        let rows = db
            .keyspace("rows", KeyspaceCreateOptions::default)
            .expect("keyspace");
        for value in 0..3_u8 {
            let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&rows, [b'a' + value], vec![value + 7; 20_000]);
            batch.insert(&rows, [b'k' + value], vec![1; 50]);
            batch.remove(&rows, b"gone");
            batch.commit().expect("commit");
        }
        drop((rows, db));
        let path = newest(dir).expect("list").expect("a journal");
        let bytes = std::fs::read(&path).expect("read");
        let mut ends = vec![0];
        while let Some(length) = batch(&bytes[ends[ends.len() - 1]..]) {
            ends.push(ends[ends.len() - 1] + length);
        }
        (path, ends[1..].to_vec())
    }

    fn keys(dir: &Path) -> Vec<u8> {
        let db = Database::builder(dir)
            .worker_threads(1)
            .open()
            .expect("open");
        let rows = db
            .keyspace("rows", KeyspaceCreateOptions::default)
            .expect("keyspace");
        let keys = rows.iter().map(|row| row.key().expect("key")[0]).collect();
        drop((rows, db));
        keys
    }

    #[test]
    fn it_reads_what_fjall_writes_and_leaves_it_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, ends) = journal(dir.path());
        assert_eq!(ends.len(), 3);
        let before = std::fs::read(&path).expect("read");
        assert_eq!(inspect(&before), Tail::Clean);
        repair(dir.path()).expect("nothing to do");
        assert_eq!(std::fs::read(&path).expect("read"), before);
        assert_eq!(keys(dir.path()), b"abcklm");
    }

    /// Each page of the last batch lost in turn, the rest of it on the disk.
    #[test]
    fn a_last_batch_with_a_hole_is_cut_off() {
        for page in 0..5 {
            let dir = tempfile::tempdir().expect("a directory");
            let (path, ends) = journal(dir.path());
            let mut bytes = std::fs::read(&path).expect("read");
            let start = ends[1] + page * 4096;
            let end = (start + 4096).min(ends[2]);
            bytes[start..end].fill(0);
            std::fs::write(&path, &bytes).expect("write");
            repair(dir.path()).expect("repair");
            assert_eq!(keys(dir.path()), b"abkl", "page {page}");
        }
    }

    #[test]
    fn a_last_batch_without_its_end_is_cut_off() {
        for lost in [1, 4, 13, 80, 20_000] {
            let dir = tempfile::tempdir().expect("a directory");
            let (path, ends) = journal(dir.path());
            let mut bytes = std::fs::read(&path).expect("read");
            bytes.truncate(ends[2] - lost);
            std::fs::write(&path, &bytes).expect("write");
            repair(dir.path()).expect("repair");
            assert_eq!(keys(dir.path()), b"abkl", "{lost} bytes lost");
        }
    }

    #[test]
    fn damage_before_intact_batches_is_refused_and_not_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, ends) = journal(dir.path());
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[ends[0] + 5_000] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        let error = repair(dir.path()).expect_err("damage");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(std::fs::read(&path).expect("read"), bytes);
    }
}
