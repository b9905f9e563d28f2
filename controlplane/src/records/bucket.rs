//! Bucket rows, by name and by id.

use quickwater_proto::{Bucket, BucketId, BucketName};
use quickwater_rpc::records as wire;

use super::shared::{pairs, pairs_to_wire};
use super::{RecordError, damaged, decode, encode};

const ROW: &str = "bucket";

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

fn name(name: &str) -> Result<BucketName, RecordError> {
    BucketName::new(name).map_err(|error| damaged(ROW, error))
}
