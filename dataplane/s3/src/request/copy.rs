//! `x-amz-copy-source` and its range.

use quickwater_proto::{BucketName, ObjectKey};

use super::address::{bucket_name, object_key};
use crate::error::S3Error;
use crate::uri::decode;
use crate::view::Fields;

const HEADER: &str = "x-amz-copy-source";
const RANGE_HEADER: &str = "x-amz-copy-source-range";

/// The object to copy from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// Its bucket.
    pub bucket: BucketName,
    /// Its key.
    pub key: ObjectKey,
}

impl CopySource {
    /// Reads `[/]bucket/key[?versionId=null]`, percent-encoded.
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, S3Error> {
        let text = fields.header(HEADER)?.unwrap_or_default();
        let refuse = || {
            S3Error::argument(
                HEADER,
                &text,
                "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            )
        };
        if text.starts_with("arn:") {
            return Err(S3Error::not_implemented(HEADER));
        }
        let path = match text.split_once("?versionId=") {
            None => text.as_ref(),
            Some((path, "null")) => path,
            Some(_) => return Err(S3Error::not_implemented("versionId")),
        };
        // The whole may be encoded, slashes included.
        let decoded = decode(path, false).map_err(|_| refuse())?;
        let decoded = decoded.strip_prefix('/').unwrap_or(&decoded);
        let (bucket, key) = decoded.split_once('/').ok_or_else(refuse)?;
        if key.is_empty() {
            return Err(refuse());
        }
        Ok(Self {
            bucket: bucket_name(bucket)?,
            key: object_key(key)?,
        })
    }
}

/// `bytes=first-last`, both there (S3: UploadPartCopy).
pub(super) fn copy_range(fields: &Fields<'_>) -> Result<Option<(u64, u64)>, S3Error> {
    let Some(text) = fields.filled(RANGE_HEADER)? else {
        return Ok(None);
    };
    match super::ByteRange::parse(&text) {
        Some(super::ByteRange::FromTo(first, last)) if text.starts_with("bytes=") => {
            Ok(Some((first, last)))
        }
        _ => Err(S3Error::argument(
            RANGE_HEADER,
            &text,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy",
        )),
    }
}
