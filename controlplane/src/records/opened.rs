//! Rows of what we have opened in a UFS.

use quickwater_proto::{ObjectKey, OpenedUpload, UploadId, Version};
use quickwater_rpc::records as wire;

use super::shared::id;
use super::{RecordError, damaged, decode, encode};

const ROW: &str = "opened upload";

/// Makes the row of an upload in a UFS.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_opened(opened: &OpenedUpload) -> Result<Vec<u8>, RecordError> {
    let version = opened.version.map(|version| version.0.to_be_bytes());
    let row = wire::OpenedRow {
        id: opened.id.0.to_be_bytes().to_vec(),
        key: opened.key.as_str().to_owned(),
        version: version.map_or_else(Vec::new, |bytes| bytes.to_vec()),
        ufs_upload: opened.ufs_upload.clone(),
        begun_ms: opened.begun_ms,
        asked_ms: opened.asked_ms,
        asked: opened.asked,
    };
    encode(ROW, &row)
}

/// Reads the row of an upload in a UFS.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_opened(value: &[u8]) -> Result<OpenedUpload, RecordError> {
    let row: wire::OpenedRow = decode(ROW, value)?;
    let version = match row.version.as_slice() {
        [] => None,
        bytes => Some(Version(id(ROW, bytes)?)),
    };
    Ok(OpenedUpload {
        id: UploadId(id(ROW, &row.id)?),
        key: ObjectKey::new(&row.key).map_err(|error| damaged(ROW, error))?,
        version,
        ufs_upload: row.ufs_upload,
        begun_ms: row.begun_ms,
        asked_ms: row.asked_ms,
        asked: row.asked,
    })
}
