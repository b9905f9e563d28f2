//! What a worker has and no row of older metadata names, once an operator gave it up: it
//! is written to plain files before the store lets it go.
//!
//! May be killed at any point: every step can be done again. Absent: what is given up
//! (the cluster's terms).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use quickwater_controlplane::records::{JournalEntry, decode_summary};
use quickwater_engine::io::{ChunkId, NOTE_CHUNK};
use quickwater_proto::{BlobId, Bucket};
use quickwater_worker::store::{Fate, Journal, JournalError, Store};
use serde::{Deserialize, Serialize};

/// One line for each file, JSON.
const INDEX: &str = "index.jsonl";
/// What is not whole yet.
const DRAFT: &str = "draft";

/// A line of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    /// Name of the file.
    file: String,
    /// Name of the bucket, or its number; empty: a part of an upload, nobody knows whose.
    bucket: String,
    /// Its key.
    key: String,
    /// Bytes that were found.
    bytes: u64,
    /// Whether that is all of it, undamaged.
    whole: bool,
    /// When its write began, milliseconds since the Unix epoch; 0: not known.
    written_ms: i64,
    /// Its `ETag`.
    etag: String,
}

/// What was set aside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SetAside {
    /// Files.
    pub(super) files: u64,
    /// Bytes in them.
    pub(super) bytes: u64,
    /// Those that are not whole.
    pub(super) damaged: u64,
}

/// Writes to files in `dir` what is pinned and has no fate but to be forgotten.
///
/// # Errors
/// The store cannot be read, or a file not be written: nothing may be let go then.
pub(super) fn set_aside(
    store: &Store,
    fates: &HashMap<BlobId, Fate>,
    buckets: &[Bucket],
    dir: &Path,
) -> Result<SetAside> {
    let mut chunks: BTreeMap<BlobId, Vec<u32>> = BTreeMap::new();
    for chunk in store.pinned() {
        let lost = !matches!(fates.get(&chunk.blob), Some(Fate::Keep | Fate::Release));
        if lost && chunk.index < NOTE_CHUNK {
            chunks.entry(chunk.blob).or_default().push(chunk.index);
        }
    }
    let entries = entries(store, &mut chunks)?;
    if chunks.is_empty() {
        return Ok(SetAside::default());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut reader = store.journal().context("no memory to read the store")?;
    let mut lines = read_index(dir)?;
    let mut done = SetAside::default();
    for (blob, mut indices) in chunks {
        indices.sort_unstable();
        let line = describe(blob, entries.get(&blob), buckets)?;
        let line = copy(&mut reader, (blob, &indices), line, dir)?;
        done.files += 1;
        done.bytes += line.bytes;
        done.damaged += u64::from(!line.whole);
        lines.insert(line.file.clone(), line);
    }
    write_index(dir, &lines)?;
    Ok(done)
}

/// The entries of those blobs. Blobs whose commit must never be made are left out.
fn entries(
    store: &Store,
    chunks: &mut BTreeMap<BlobId, Vec<u32>>,
) -> Result<HashMap<BlobId, JournalEntry>> {
    let mut found = HashMap::new();
    for entry in store.journal().context("no memory to read the journal")? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error @ JournalError::Damaged { .. }) => {
                tracing::error!(%error, "what it names is set aside without a name");
                continue;
            }
            Err(error) => bail!("the journal cannot be read: {error}"),
        };
        if entry.data.is_empty() {
            chunks.remove(&entry.blob);
        } else if chunks.contains_key(&entry.blob) {
            let commit = JournalEntry::decode(&entry.data)
                .with_context(|| format!("the journal entry of blob {}", entry.blob))?;
            found.insert(entry.blob, commit);
        }
    }
    Ok(found)
}

fn describe(blob: BlobId, entry: Option<&JournalEntry>, buckets: &[Bucket]) -> Result<Line> {
    let unknown = Line {
        file: blob.to_string(),
        bucket: String::new(),
        key: String::new(),
        bytes: 0,
        whole: true,
        written_ms: 0,
        etag: String::new(),
    };
    let Some(entry) = entry else {
        return Ok(unknown);
    };
    let bucket = buckets.iter().find(|bucket| bucket.id == entry.bucket);
    let summary = decode_summary(&entry.object.row)
        .with_context(|| format!("the journal entry of blob {blob}"))?;
    Ok(Line {
        bucket: bucket.map_or_else(|| entry.bucket.0.to_string(), |b| b.name.to_string()),
        key: entry.key.as_str().to_owned(),
        bytes: entry.object.size,
        written_ms: entry.now_ms,
        etag: summary.etag.to_string(),
        ..unknown
    })
}

/// Copies a blob to its file. What is damaged is missing from it.
fn copy(
    reader: &mut Journal,
    (blob, indices): (BlobId, &[u32]),
    line: Line,
    dir: &Path,
) -> Result<Line> {
    let (draft, path) = (dir.join(DRAFT), dir.join(&line.file));
    let failed = || format!("cannot write {}; make room there", path.display());
    let mut file = File::create(&draft).with_context(failed)?;
    let (mut bytes, mut whole) = (0_u64, true);
    for (expected, index) in (0_u32..).zip(indices) {
        let data = match reader.chunk(ChunkId {
            blob,
            index: *index,
        }) {
            Some(Ok(Some(data))) => data,
            Some(Err(error)) => bail!("reading blob {blob}: {error}"),
            Some(Ok(None)) | None => Vec::new(),
        };
        whole &= expected == *index && !data.is_empty();
        bytes += data.len() as u64;
        file.write_all(&data).with_context(failed)?;
    }
    file.sync_all().with_context(failed)?;
    std::fs::rename(&draft, &path).with_context(failed)?;
    let named = !line.bucket.is_empty();
    Ok(Line {
        whole: whole && (!named || bytes == line.bytes),
        bytes,
        ..line
    })
}

/// What was set aside before.
fn read_index(dir: &Path) -> Result<BTreeMap<String, Line>> {
    let path = index(dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let line = |line: &str| {
        let line: Line = serde_json::from_str(line)
            .with_context(|| format!("{} is damaged; move it away", path.display()))?;
        Ok((line.file.clone(), line))
    };
    text.lines()
        .filter(|text| !text.is_empty())
        .map(line)
        .collect()
}

fn write_index(dir: &Path, lines: &BTreeMap<String, Line>) -> Result<()> {
    let lines = lines.values().map(serde_json::to_string);
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    crate::home::write_note(&index(dir), &lines.join("\n"))
}

fn index(dir: &Path) -> PathBuf {
    dir.join(INDEX)
}

#[cfg(test)]
mod tests {
    use quickwater_controlplane::Namespace;
    use quickwater_proto::{
        BucketId, BucketName, ETag, Extent, ObjectHeaders, ObjectKey, ObjectRecord, PersistState,
        Version,
    };

    use super::*;
    use crate::store::MetadataStore;

    const BUCKET: BucketId = BucketId(7);

    fn bucket() -> Bucket {
        Bucket {
            id: BUCKET,
            name: BucketName::new("photos").unwrap(),
            ufs: "file:///photos".into(),
            created_ms: 0,
            metadata_ttl_ms: 0,
            options: Vec::new(),
            tags: Vec::new(),
            owned: false,
        }
    }

    fn entry(blob: BlobId) -> JournalEntry {
        let record = ObjectRecord {
            version: Version::default(),
            size: 5,
            etag: ETag::from_md5(&[7; 16]),
            modified_ms: 0,
            headers: ObjectHeaders::default(),
            checksums: Vec::new(),
            tags: Vec::new(),
            extents: vec![Extent { blob, size: 5 }],
            parts: Vec::new(),
            ufs: None,
            persist: PersistState::NotPersisted,
            partial: false,
        };
        let names = Namespace::new(MetadataStore::in_memory().unwrap());
        let key = ObjectKey::new("a/b").unwrap();
        let bytes = names.journal_entry(BUCKET, &key, &record, 1).unwrap();
        JournalEntry::decode(&bytes).unwrap()
    }

    fn line(file: &str, bytes: u64) -> Line {
        Line {
            file: file.into(),
            bucket: "photos".into(),
            key: "a \"quoted\"\nkey".into(),
            bytes,
            whole: true,
            written_ms: 9,
            etag: "etag".into(),
        }
    }

    #[test]
    fn a_line_says_what_its_entry_does() {
        let blob = BlobId(3);
        let known = describe(blob, Some(&entry(blob)), &[bucket()]).unwrap();
        let place = (known.bucket.as_str(), known.key.as_str(), known.bytes);
        assert_eq!(place, ("photos", "a/b", 5));
        assert!(
            known.etag.contains("0707") && known.written_ms > 0,
            "{known:?}"
        );
        assert_eq!(known.file, blob.to_string());
        // Older metadata may not know the bucket: then its number is all there is.
        let nameless = describe(blob, Some(&entry(blob)), &[]).unwrap();
        assert_eq!((nameless.bucket.as_str(), nameless.key), ("7", known.key));
        // A part has no entry.
        let part = describe(blob, None, &[bucket()]).unwrap();
        assert_eq!((part.bucket.as_str(), part.key.as_str()), ("", ""));
        assert_eq!(part.file, blob.to_string());
    }

    #[test]
    fn an_entry_whose_record_is_damaged_is_no_line() {
        let mut damaged = entry(BlobId(3));
        damaged.object.row = vec![0xff; 9];
        let error = describe(BlobId(3), Some(&damaged), &[bucket()]).unwrap_err();
        assert!(
            error.to_string().contains("the journal entry of"),
            "{error}"
        );
    }

    #[test]
    fn what_was_set_aside_before_stays_in_the_index() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_index(dir.path()).unwrap().is_empty(), "none yet");
        let first = BTreeMap::from([("1".to_owned(), line("1", 5))]);
        write_index(dir.path(), &first).unwrap();
        let mut lines = read_index(dir.path()).unwrap();
        assert_eq!(lines, first);
        // The same file again takes the place of its line.
        lines.insert("1".into(), line("1", 6));
        lines.insert("2".into(), line("2", 7));
        write_index(dir.path(), &lines).unwrap();
        assert_eq!(read_index(dir.path()).unwrap(), lines);
    }

    #[test]
    fn a_damaged_index_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(index(dir.path()), "{\"file\":\n").unwrap();
        let error = read_index(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("is damaged; move it away"),
            "{error}"
        );
    }
}
