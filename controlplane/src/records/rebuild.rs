//! Rows of a rebuild under way: the newest known change of a key.

use quickwater_proto::BlobId;
use quickwater_rpc::records as wire;

use super::shared::id;
use super::{RecordError, decode, encode};

const ROW: &str = "rebuild";

/// A change of a key as some worker's store tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// Order among workers: commits up to this version were known when it was made.
    pub after: u64,
    /// Order within a worker.
    pub sequence: u64,
    /// It was committed, and the UFS has it already, or it ended in another way.
    pub has_ended: bool,
    /// Which store it was found in.
    pub source: u32,
    /// Beside which blob.
    pub blob: BlobId,
    /// It is a note; otherwise an entry of the journal.
    pub is_note: bool,
    /// Where in the source, if it is a file.
    pub at: u64,
}

/// Makes a row.
///
/// # Errors
/// None that a row of this size can have.
pub fn encode_known(known: &Known) -> Result<Vec<u8>, RecordError> {
    let message = wire::RebuildRow {
        after: known.after,
        sequence: known.sequence,
        source: known.source,
        blob: known.blob.0.to_be_bytes().to_vec(),
        is_note: known.is_note,
        has_ended: known.has_ended,
        at: known.at,
    };
    encode(ROW, &message)
}

/// Reads a row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_known(bytes: &[u8]) -> Result<Known, RecordError> {
    let message: wire::RebuildRow = decode(ROW, bytes)?;
    Ok(Known {
        after: message.after,
        sequence: message.sequence,
        has_ended: message.has_ended,
        source: message.source,
        blob: BlobId(id(ROW, &message.blob)?),
        is_note: message.is_note,
        at: message.at,
    })
}
