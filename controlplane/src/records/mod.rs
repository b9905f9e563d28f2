//! Values of the metadata store: what a row says of a bucket, object or upload.
//! No keys, no rules here.
//!
//! A value is a schema byte, for rows that carry their commit's version a
//! 12-byte head (10 bytes that the commit fills in, 2 of our own), then a
//! Protocol Buffers message of `records.proto`. An unknown schema byte is an
//! error, never a guess.

mod bucket;
mod cluster;
mod facts;
mod job;
mod journal;
mod object;
mod opened;
mod operation;
mod parts;
mod pending;
mod policy;
mod rebuild;
mod shared;
mod terms;
#[cfg(test)]
mod tests;
mod upload;

use prost::Message;
use quickwater_proto::Version;

use crate::store::CommitVersion;

pub use bucket::{
    decode_bucket, decode_bucket_id, decode_directory, encode_bucket, encode_bucket_id,
    encode_directory,
};
pub use cluster::{
    Fence, Member, decode_fence, decode_member, decode_slot_table, encode_fence, encode_member,
    encode_slot_table,
};
pub use facts::{
    FACT_BYTES_MAX, FactRow, FactsEnd, FactsHead, Witness, decode_fact, decode_facts_end,
    decode_facts_head, decode_rebuilt, encode_fact, encode_facts_end, encode_facts_head,
    encode_rebuilt,
};
pub use job::{decode_job, encode_job};
pub(crate) use journal::order_of;
pub use journal::{
    JournalEntry, NOTE_BYTES_MAX, decode_journal_entry, encode_journal_entry, encode_note,
};
pub use object::{DetailRef, EncodedObject, ObjectRow, decode_summary, encode_object};
pub use opened::{decode_opened, encode_opened};
pub use operation::{
    Completed, decode_completed, decode_operation, encode_completed, encode_operation,
};
pub use parts::{decode_part, decode_part_holders, encode_part, encode_part_held};
pub use pending::{decode_holders, decode_pending, encode_held, encode_pending};
pub use policy::{POLICY_PIECE_BYTES, PolicyVersion, decode_policy, encode_policy};
pub use rebuild::{Known, decode_known, encode_known};
pub use terms::{Term, Terms, decode_terms, encode_terms};
pub use upload::{decode_upload, encode_upload};

/// Where a versioned row's commit version begins.
pub const VERSION_OFFSET: usize = 1;
/// Bytes of a version in a row: the commit's ten and two of our own.
const VERSION_BYTES: usize = 12;
/// Largest value other than a piece of a detail, bytes; `FoundationDB` takes
/// 100,000.
pub const ROW_BYTES_MAX: usize = 64 << 10;
/// The schema byte of every table so far.
const SCHEMA: u8 = 1;

/// Why a record cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by another version of the program.
    #[error("the {row} row has schema {found}, this program knows {SCHEMA}")]
    UnknownSchema {
        /// Which kind of row.
        row: &'static str,
        /// Its schema byte.
        found: u8,
    },
    /// It does not say what such a row must.
    #[error("damaged {row} row: {why}")]
    Damaged {
        /// Which kind of row.
        row: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It does not fit.
    #[error("{what} of {bytes} bytes, at most {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Bytes it has.
        bytes: usize,
        /// Bytes it may have.
        limit: usize,
    },
}

/// The version of what a commit wrote.
#[must_use]
pub fn version_of(commit: CommitVersion) -> Version {
    let mut bytes = [0; 16];
    bytes[4..14].copy_from_slice(commit.as_bytes());
    Version(u128::from_be_bytes(bytes))
}

/// A value of at most [`ROW_BYTES_MAX`].
fn encode(what: &'static str, message: &impl Message) -> Result<Vec<u8>, RecordError> {
    bounded(what, with_head(&[SCHEMA], message))
}

/// A value of at most `bytes_max`.
fn encode_within(
    what: &'static str,
    message: &impl Message,
    bytes_max: usize,
) -> Result<Vec<u8>, RecordError> {
    let value = with_head(&[SCHEMA], message);
    check_size(what, value.len(), bytes_max)?;
    Ok(value)
}

/// The same with room for the version at [`VERSION_OFFSET`].
fn encode_versioned(what: &'static str, message: &impl Message) -> Result<Vec<u8>, RecordError> {
    encode_at(what, Version(0), message)
}

/// The same for a row that keeps the version it has.
fn encode_at(
    what: &'static str,
    version: Version,
    message: &impl Message,
) -> Result<Vec<u8>, RecordError> {
    let mut head = [0; 1 + VERSION_BYTES];
    head[0] = SCHEMA;
    head[VERSION_OFFSET..].copy_from_slice(&version.0.to_be_bytes()[16 - VERSION_BYTES..]);
    bounded(what, with_head(&head, message))
}

fn with_head(head: &[u8], message: &impl Message) -> Vec<u8> {
    [head, &message.encode_to_vec()].concat()
}

fn bounded(what: &'static str, value: Vec<u8>) -> Result<Vec<u8>, RecordError> {
    check_size(what, value.len(), ROW_BYTES_MAX)?;
    Ok(value)
}

fn check_size(what: &'static str, bytes: usize, limit: usize) -> Result<(), RecordError> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(RecordError::TooLarge { what, bytes, limit }),
    }
}

fn damaged(row: &'static str, why: impl ToString) -> RecordError {
    RecordError::Damaged {
        row,
        why: why.to_string(),
    }
}

/// The message of a row.
fn decode<M: Message + Default>(row: &'static str, value: &[u8]) -> Result<M, RecordError> {
    let body = check_schema(row, value)?;
    M::decode(body).map_err(|error| damaged(row, error))
}

/// The version and message of a versioned row.
fn decode_versioned<M: Message + Default>(
    row: &'static str,
    value: &[u8],
) -> Result<(Version, M), RecordError> {
    let body = check_schema(row, value)?;
    let Some((head, body)) = body.split_first_chunk::<VERSION_BYTES>() else {
        return Err(damaged(row, "shorter than its version"));
    };
    let mut version = [0; 16];
    version[4..].copy_from_slice(head);
    let message = M::decode(body).map_err(|error| damaged(row, error))?;
    Ok((Version(u128::from_be_bytes(version)), message))
}

fn check_schema<'v>(row: &'static str, value: &'v [u8]) -> Result<&'v [u8], RecordError> {
    match value.split_first() {
        Some((&SCHEMA, body)) => Ok(body),
        Some((&found, _)) => Err(RecordError::UnknownSchema { row, found }),
        None => Err(damaged(row, "empty")),
    }
}
