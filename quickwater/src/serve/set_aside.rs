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
