//! What is kept of a version of the path policies, its text apart.

use quickwater_rpc::records as wire;

use super::{ROW_BYTES_MAX, RecordError, decode, encode};

const ROW: &str = "path policies";

/// Bytes of text in one row.
pub const POLICY_PIECE_BYTES: usize = ROW_BYTES_MAX;

/// A version of the path policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersion {
    /// When it was set, milliseconds since the Unix epoch.
    pub set_ms: i64,
    /// Who set it and how, as told.
    pub by: String,
    /// The version whose content this is again.
    pub rollback_of: Option<u64>,
    /// Path rules in it.
    pub rules: u32,
    /// Bytes of its text.
    pub bytes: u32,
}

/// Makes the row of a version.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_policy(version: &PolicyVersion) -> Result<Vec<u8>, RecordError> {
    let row = wire::PolicyRow {
        set_ms: version.set_ms,
        by: version.by.clone(),
        rollback_of: version.rollback_of.unwrap_or(0),
        rules: version.rules,
        bytes: version.bytes,
    };
    encode(ROW, &row)
}

/// Reads the row of a version.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_policy(value: &[u8]) -> Result<PolicyVersion, RecordError> {
    let row: wire::PolicyRow = decode(ROW, value)?;
    Ok(PolicyVersion {
        set_ms: row.set_ms,
        by: row.by,
        rollback_of: Some(row.rollback_of).filter(|of| *of > 0),
        rules: row.rules,
        bytes: row.bytes,
    })
}
