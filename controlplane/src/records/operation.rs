//! Rows that remember an outcome: of an operation, of a completed upload.

use quickwater_proto::{ETag, ObjectKey, Version};
use quickwater_rpc::records as wire;

use super::shared::{etag, etag_to_wire};
use super::{RecordError, damaged, decode, decode_versioned, encode, encode_versioned};

const OPERATION: &str = "operation";
const COMPLETED: &str = "completed upload";

/// What is remembered of a completed upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The object it became.
    pub key: ObjectKey,
    /// Its ETag.
    pub etag: ETag,
    /// When this may be forgotten, milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

/// Makes the row of an operation that commits with its `attempt`, from 1; the
/// commit fills in the version at [`super::VERSION_OFFSET`].
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_operation(attempt: u32) -> Result<Vec<u8>, RecordError> {
    encode_versioned(OPERATION, &wire::OpRow { attempt })
}

/// Reads which attempt committed, and its version.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_operation(value: &[u8]) -> Result<(u32, Version), RecordError> {
    let (version, row): (_, wire::OpRow) = decode_versioned(OPERATION, value)?;
    Ok((row.attempt, version))
}

/// Makes the row of a completed upload.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_completed(completed: &Completed) -> Result<Vec<u8>, RecordError> {
    let row = wire::CompletedRow {
        key: completed.key.as_str().to_owned(),
        etag: Some(etag_to_wire(&completed.etag)),
        expires_ms: completed.expires_ms,
    };
    encode(COMPLETED, &row)
}

/// Reads the row of a completed upload.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_completed(value: &[u8]) -> Result<Completed, RecordError> {
    let row: wire::CompletedRow = decode(COMPLETED, value)?;
    Ok(Completed {
        key: ObjectKey::new(&row.key).map_err(|error| damaged(COMPLETED, error))?,
        etag: etag(COMPLETED, row.etag)?,
        expires_ms: row.expires_ms,
    })
}
