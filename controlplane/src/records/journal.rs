//! The commit of an object as bytes, for a journal outside of the metadata.

use quickwater_proto::{BucketId, ObjectKey, ObjectRecord, Version};
use quickwater_rpc::records as wire;

use super::object::{EncodedObject, persist, persist_to_wire};
use super::shared::id;
use super::{RecordError, damaged, decode, encode_within};

const ROW: &str = "journal entry";
/// Largest note: one chunk of a worker's store. The manifest of 10,000 parts fits.
pub const NOTE_BYTES_MAX: usize = 1 << 20;

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Orders the entries of a journal.
    pub sequence: u64,
    /// Random id of the operation, also that of the object's detail.
    pub operation: u128,
    /// When it began, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Where the object is.
    pub bucket: BucketId,
    /// Its key.
    pub key: ObjectKey,
    /// Its rows; of a removal without bytes, and of no use.
    pub object: EncodedObject,
    /// High half of the newest version known before; of a note, of the commit's own.
    pub after: u64,
    /// The key has no object any more.
    pub removed: bool,
}

impl JournalEntry {
    /// Reads an entry.
    ///
    /// # Errors
    /// Another schema, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode_journal_entry(bytes)
    }

    /// Whether a note is of the commit that made this version.
    #[must_use]
    pub fn is_of(&self, version: Version) -> bool {
        self.after == order_of(version)
    }

    /// The record of the object it commits.
    ///
    /// # Errors
    /// Of a removal, another schema, or damaged.
    pub fn record(&self) -> Result<ObjectRecord, RecordError> {
        let pieces = self.object.pieces.iter().cloned().map(Into::into);
        let pieces: Vec<bytes::Bytes> = pieces.collect();
        super::ObjectRow::decode(&self.object.row)?.into_record(&pieces)
    }

    /// Orders what one worker wrote of a key, as [`Known`](super::Known) does: of two the
    /// greater is the newer.
    #[must_use]
    pub fn order(&self) -> (u64, u64) {
        (self.after, self.sequence)
    }
}

/// The part of a version that orders commits of one key.
pub(crate) fn order_of(version: Version) -> u64 {
    // The store's 64 bits of a version; those below order one batch of commits, which
    // no two commits of a key share.
    u64::try_from(version.0 >> 32).unwrap_or(u64::MAX)
}

/// Makes an entry of at most [`super::ROW_BYTES_MAX`].
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_journal_entry(entry: JournalEntry) -> Result<Vec<u8>, RecordError> {
    encode_entry(entry, super::ROW_BYTES_MAX)
}

/// Makes a note of at most [`NOTE_BYTES_MAX`].
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_note(note: JournalEntry) -> Result<Vec<u8>, RecordError> {
    encode_entry(note, NOTE_BYTES_MAX)
}

fn encode_entry(entry: JournalEntry, bytes_max: usize) -> Result<Vec<u8>, RecordError> {
    let message = wire::JournalEntry {
        sequence: entry.sequence,
        operation: entry.operation.to_be_bytes().to_vec(),
        now_ms: entry.now_ms,
        bucket: entry.bucket.0,
        key: entry.key.as_str().to_owned(),
        row: entry.object.row,
        pieces: entry.object.pieces,
        size: entry.object.size,
        persist: persist_to_wire(entry.object.persist).into(),
        after: entry.after,
        removed: entry.removed,
    };
    encode_within(ROW, &message, bytes_max)
}

/// Reads an entry.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_journal_entry(bytes: &[u8]) -> Result<JournalEntry, RecordError> {
    let message: wire::JournalEntry = decode(ROW, bytes)?;
    Ok(JournalEntry {
        sequence: message.sequence,
        operation: id(ROW, &message.operation)?,
        now_ms: message.now_ms,
        bucket: BucketId(message.bucket),
        key: ObjectKey::new(&message.key).map_err(|error| damaged(ROW, error))?,
        object: EncodedObject {
            row: message.row,
            pieces: message.pieces,
            size: message.size,
            persist: persist(message.persist)?,
        },
        after: message.after,
        removed: message.removed,
    })
}
