//! Repairs the end of a fjall journal after a power cut, before fjall sees it.
//!
//! Batches reach the journal in order, but only some are flushed before the next
//! begins. A power cut may take any page written after the last flush and keep
//! later ones: the journal is preallocated. fjall drops a torn batch when its end
//! is missing, but refuses to open when pages in its middle are.
//!
//! So every batch that follows unflushed ones says how many bytes before it were
//! not flushed when it was written ([`UNFLUSHED_KEY`]); one that does not say so
//! was written when all before it was. At the first batch that is not intact the
//! journal is cut off, with all that follows: what is left are the batches of the
//! past in order. Only when an intact batch behind the cut says that the first
//! lost byte had been flushed, flushed data is damaged, and nothing is changed.
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

/// The row in which a batch says how many bytes of journal before it were not
/// flushed when it was written, as a big-endian 64-bit number.
pub(super) const UNFLUSHED_KEY: &[u8] = b"\xff/unflushed";
/// Bytes of a batch beside its items: start (tag, items, sequence number) and end
/// (tag, checksum, trailer).
pub(super) const BATCH_FRAME_BYTES: u64 = 13 + 13;
/// Bytes of an item beside its key and value: tag, kind, compression, keyspace,
/// length of the key, and twice that of the value.
pub(super) const ITEM_FRAME_BYTES: u64 = 1 + 1 + 1 + 8 + 2 + 4 + 4;

/// What was found at the end of the journal.
#[derive(Debug, PartialEq, Eq)]
enum Tail {
    Clean,
    /// Bytes from here on belong to a batch that was never completed.
    Torn(usize),
    /// A damaged batch here, and an intact one after it that says this byte had
    /// been flushed.
    Damaged(usize),
}

/// Cuts the newest journal in `dir` off where a power cut tore it, if it did. The
/// older ones were flushed whole before it was begun.
///
/// # Errors
/// `InvalidData` when flushed batches are damaged; other kinds from the files.
pub(super) fn repair(dir: &Path) -> Result<()> {
    let Some(path) = newest(dir)? else {
        return Ok(());
    };
    match inspect(&std::fs::read(&path)?) {
        Tail::Clean => Ok(()),
        Tail::Torn(end) => {
            tracing::warn!(journal = %path.display(), end, "cutting off what was not flushed");
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
    while let Some(batch) = batch(&journal[end..]) {
        end += batch.length;
    }
    if journal[end..].iter().all(|byte| *byte == 0) {
        return Tail::Clean;
    }
    let mut at = end + 1;
    while at < journal.len() {
        // Most bytes of a tail are zeros of the preallocation.
        let found = (journal[at] == TAG_START).then(|| batch(&journal[at..]));
        match found.flatten() {
            Some(batch) if at.saturating_sub(batch.unflushed) > end => return Tail::Damaged(end),
            Some(batch) => at += batch.length,
            None => at += 1,
        }
    }
    Tail::Torn(end)
}

/// An intact batch.
struct Batch {
    length: usize,
    /// Bytes of journal before it that were not flushed when it was written; more
    /// than there are when they began in an older journal.
    unflushed: usize,
}

/// The intact batch that `bytes` begin with.
fn batch(bytes: &[u8]) -> Option<Batch> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(1)? != [TAG_START] {
        return None;
    }
    let items = cursor.number(4)?;
    cursor.take(8)?;
    let mut checksum = Xxh3::new();
    let mut unflushed = 0;
    for _ in 0..items {
        let item = item(&mut cursor)?;
        checksum.update(item);
        unflushed = claim(item).unwrap_or(unflushed);
    }
    if cursor.take(1)? != [TAG_END] {
        return None;
    }
    let intact = cursor.number(8)? == checksum.digest() && cursor.take(TRAILER.len())? == TRAILER;
    intact.then_some(Batch {
        length: cursor.at,
        unflushed,
    })
}

/// What an item says of the bytes before its batch, if it is the one that does.
fn claim(item: &[u8]) -> Option<usize> {
    let row = item.get(ITEM_FRAME_BYTES as usize..)?;
    let value = row.strip_prefix(UNFLUSHED_KEY)?;
    let value = u64::from_be_bytes(value.try_into().ok()?);
    Some(usize::try_from(value).unwrap_or(usize::MAX))
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
    use crate::store::engine::{Durability, Engine};
    use crate::store::fjall::FjallEngine;
    use crate::store::open::EngineOptions;
    use crate::store::transaction::KeyRange;
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
        while let Some(batch) = batch(&bytes[ends[ends.len() - 1]..]) {
            ends.push(ends[ends.len() - 1] + batch.length);
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

    /// A journal written by the engine, each batch durable as asked; the ends of
    /// the batches.
    fn engine_journal(dir: &Path, batches: &[Durability]) -> (PathBuf, Vec<usize>) {
        let options = EngineOptions::default();
        let engine = FjallEngine::open(dir, &options).expect("open");
        for (number, durability) in (b'a'..).zip(batches) {
            let rows = [
                (vec![number], Some(vec![number; 9_000])),
                (vec![b'-'], None),
            ];
            let rows = rows.map(|(key, value)| (key.into(), value.map(Into::into)));
            engine.apply(rows.into(), *durability).expect("apply");
        }
        drop(engine);
        let path = newest(&dir.join("data")).expect("list").expect("a journal");
        let bytes = std::fs::read(&path).expect("read");
        let mut ends = vec![0];
        while let Some(batch) = batch(&bytes[ends[ends.len() - 1]..]) {
            ends.push(ends[ends.len() - 1] + batch.length);
        }
        (path, ends[1..].to_vec())
    }

    fn engine_keys(dir: &Path) -> Result<Vec<u8>> {
        let engine = FjallEngine::open(dir, &EngineOptions::default());
        let engine = engine.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let snapshot = engine.snapshot().expect("a snapshot");
        let rows = snapshot.scan(&KeyRange::new("a", "z"), false);
        Ok(rows.map(|row| row.expect("a row").key[0]).collect())
    }

    const FLUSHED: Durability = Durability::Flushed;
    const RELAXED: Durability = Durability::Relaxed;

    /// Batch c flushes a to c; d to g do not.
    const MIXED: [Durability; 7] = [
        RELAXED, RELAXED, FLUSHED, RELAXED, RELAXED, RELAXED, RELAXED,
    ];

    #[test]
    fn batches_say_exactly_what_is_not_flushed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, ends) = engine_journal(dir.path(), &MIXED);
        let bytes = std::fs::read(path).expect("read");
        let claims: Vec<_> = std::iter::once(&0)
            .chain(&ends[..6])
            .map(|start| start - batch(&bytes[*start..]).expect("a batch").unflushed)
            .collect();
        // Where the last flush before each batch had come to.
        assert_eq!(claims, [0, 0, 0, ends[2], ends[2], ends[2], ends[2]]);
    }

    #[test]
    fn a_hole_in_what_was_not_flushed_ends_the_journal() {
        for (torn, left) in [(3, "abc"), (4, "abcd"), (5, "abcde"), (6, "abcdef")] {
            let dir = tempfile::tempdir().expect("a directory");
            let (path, ends) = engine_journal(dir.path(), &MIXED);
            let mut bytes = std::fs::read(&path).expect("read");
            bytes[ends[torn - 1] + 100..ends[torn - 1] + 4_196].fill(0);
            std::fs::write(&path, &bytes).expect("write");
            let keys = engine_keys(dir.path()).expect("open");
            assert_eq!(keys, left.as_bytes());
        }
    }

    #[test]
    fn a_hole_in_what_was_flushed_is_damage() {
        for torn in 0..3 {
            let dir = tempfile::tempdir().expect("a directory");
            let (path, ends) = engine_journal(dir.path(), &MIXED);
            let mut bytes = std::fs::read(&path).expect("read");
            bytes[ends[torn] - 4_196..ends[torn] - 100].fill(0);
            std::fs::write(&path, &bytes).expect("write");
            assert!(engine_keys(dir.path()).is_err(), "batch {torn}");
            assert_eq!(std::fs::read(&path).expect("read"), bytes);
        }
    }

    /// The only batch that says so is torn as well.
    #[test]
    fn a_hole_that_nothing_calls_flushed_ends_the_journal() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, ends) = engine_journal(dir.path(), &MIXED[..3]);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[ends[1] - 200..ends[1] + 200].fill(0);
        std::fs::write(&path, &bytes).expect("write");
        assert_eq!(engine_keys(dir.path()).expect("open"), b"a");
    }
}
