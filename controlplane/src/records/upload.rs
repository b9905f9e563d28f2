//! Upload rows.

use quickwater_proto::{ObjectKey, UploadId, UploadRecord};
use quickwater_rpc::records as wire;

use super::shared::{
    algorithm, algorithm_to_wire, headers, headers_to_wire, id, pairs, pairs_to_wire,
};
use super::{RecordError, damaged, decode, encode};

const ROW: &str = "upload";

/// Makes an upload row.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_upload(upload: &UploadRecord) -> Result<Vec<u8>, RecordError> {
    let checksum = upload
        .checksum
        .map(|(algorithm, _)| algorithm_to_wire(algorithm));
    let row = wire::UploadRow {
        id: upload.id.0.to_be_bytes().to_vec(),
        key: upload.key.as_str().to_owned(),
        initiated_ms: upload.initiated_ms,
        headers: headers_to_wire(&upload.headers),
        tags: pairs_to_wire(&upload.tags),
        checksum_algorithm: checksum.unwrap_or(wire::Algorithm::Unspecified).into(),
        checksum_full_object: upload.checksum.is_some_and(|(_, full)| full),
        ufs_upload: upload.ufs_upload.clone(),
    };
    encode(ROW, &row)
}

/// Reads an upload row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_upload(value: &[u8]) -> Result<UploadRecord, RecordError> {
    let row: wire::UploadRow = decode(ROW, value)?;
    let algorithm = algorithm(ROW, row.checksum_algorithm)?;
    Ok(UploadRecord {
        id: UploadId(id(ROW, &row.id)?),
        key: ObjectKey::new(&row.key).map_err(|error| damaged(ROW, error))?,
        initiated_ms: row.initiated_ms,
        headers: headers(row.headers),
        tags: pairs(row.tags),
        checksum: algorithm.map(|algorithm| (algorithm, row.checksum_full_object)),
        ufs_upload: row.ufs_upload,
    })
}
