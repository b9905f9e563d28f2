//! Bucket rows, by name and by id, and the directory of a bucket.

use quickwater_proto::{Bucket, BucketId, BucketName};
use quickwater_rpc::records as wire;

use super::shared::{pairs, pairs_to_wire};
use super::{RecordError, damaged, decode, encode};

const ROW: &str = "bucket";
const DIRECTORY_ROW: &str = "directory";

/// Makes a bucket row.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_bucket(bucket: &Bucket) -> Result<Vec<u8>, RecordError> {
    let row = wire::BucketRow {
        id: bucket.id.0,
        name: bucket.name.as_str().to_owned(),
        ufs: bucket.ufs.clone(),
        created_ms: bucket.created_ms,
        metadata_ttl_ms: bucket.metadata_ttl_ms,
        options: pairs_to_wire(&bucket.options),
        tags: pairs_to_wire(&bucket.tags),
        owned: bucket.owned,
    };
    encode(ROW, &row)
}

/// Reads a bucket row.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_bucket(value: &[u8]) -> Result<Bucket, RecordError> {
    let row: wire::BucketRow = decode(ROW, value)?;
    Ok(Bucket {
        id: BucketId(row.id),
        name: name(&row.name)?,
        ufs: row.ufs,
        created_ms: row.created_ms,
        metadata_ttl_ms: row.metadata_ttl_ms,
        options: pairs(row.options),
        tags: pairs(row.tags),
        owned: row.owned,
    })
}

/// Makes the row that stands for a bucket's life, by id.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_bucket_id(name: &BucketName) -> Result<Vec<u8>, RecordError> {
    encode(
        ROW,
        &wire::BucketIdRow {
            name: name.as_str().to_owned(),
        },
    )
}

/// Reads the name a bucket id stands for.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_bucket_id(value: &[u8]) -> Result<BucketName, RecordError> {
    let row: wire::BucketIdRow = decode(ROW, value)?;
    name(&row.name)
}

/// Makes the row of a bucket's directory.
///
/// # Errors
/// [`RecordError::TooLarge`].
pub fn encode_directory(identity: &str) -> Result<Vec<u8>, RecordError> {
    let identity = identity.to_owned();
    encode(DIRECTORY_ROW, &wire::DirectoryRow { identity })
}

/// Reads the identity of a bucket's directory.
///
/// # Errors
/// Another schema, or damaged.
pub fn decode_directory(value: &[u8]) -> Result<String, RecordError> {
    let row: wire::DirectoryRow = decode(DIRECTORY_ROW, value)?;
    match row.identity.as_str() {
        "" => Err(damaged(DIRECTORY_ROW, "no identity")),
        _ => Ok(row.identity),
    }
}

fn name(name: &str) -> Result<BucketName, RecordError> {
    BucketName::new(name).map_err(|error| damaged(ROW, error))
}
