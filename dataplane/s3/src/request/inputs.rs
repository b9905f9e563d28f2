//! The typed inputs of the operations, already checked against the limits of S3.

use quickwater_proto::{Checksum, ChecksumAlgorithm, ObjectHeaders, PutCondition, UploadId};

use super::{ByteRange, Conditions, CopySource, IfRange};

/// Configurations that S3 answers with 200 even where nobody set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketDefault {
    /// `?logging`.
    Logging,
    /// `?notification`.
    Notification,
    /// `?accelerate`.
    Accelerate,
    /// `?requestPayment`.
    RequestPayment,
}

/// Inputs of ListBuckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListBuckets {
    /// Only names that begin so.
    pub prefix: String,
    /// Only names greater than this.
    pub after: String,
    /// Most buckets of this page; `None` = all.
    pub max_buckets: Option<u16>,
}

/// Inputs of ListObjects (version 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListObjects {
    /// Only keys that begin so.
    pub prefix: String,
    /// Rolls up keys after the prefix; never empty.
    pub delimiter: Option<String>,
    /// Only keys and common prefixes greater than this.
    pub marker: String,
    /// 0 to 1,000.
    pub max_keys: u16,
    /// `encoding-type=url`.
    pub encode_url: bool,
}

/// Inputs of ListObjectsV2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListObjectsV2 {
    /// Only keys that begin so.
    pub prefix: String,
    /// Rolls up keys after the prefix; never empty.
    pub delimiter: Option<String>,
    /// As sent, for the answer.
    pub start_after: Option<String>,
    /// As sent, for the answer.
    pub continuation_token: Option<String>,
    /// Only keys and common prefixes greater than this: what the token says, or
    /// else `start-after`.
    pub after: String,
    /// 0 to 1,000.
    pub max_keys: u16,
    /// `encoding-type=url`.
    pub encode_url: bool,
    /// Entries show their owner.
    pub fetch_owner: bool,
}

/// Inputs of ListMultipartUploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListUploads {
    /// Only keys that begin so.
    pub prefix: String,
    /// Rolls up keys after the prefix; never empty.
    pub delimiter: Option<String>,
    /// Only uploads after (`key_marker`, `upload_id_marker`).
    pub key_marker: String,
    /// Second half of the marker; without it all uploads of the key are skipped.
    pub upload_id_marker: Option<UploadId>,
    /// 0 to 1,000.
    pub max_uploads: u16,
    /// `encoding-type=url`.
    pub encode_url: bool,
}

/// Inputs of ListParts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListParts {
    /// Which upload.
    pub upload: UploadId,
    /// Only parts greater than this.
    pub after: u16,
    /// 0 to 1,000.
    pub max_parts: u16,
    /// `encoding-type=url`.
    pub encode_url: bool,
}

/// Inputs of GetObject and HeadObject.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadObject {
    /// `Range`, when it makes sense.
    pub range: Option<ByteRange>,
    /// `If-Range`.
    pub if_range: Option<IfRange>,
    /// `partNumber`; never together with `range`.
    pub part_number: Option<u16>,
    /// `If-*`.
    pub conditions: Conditions,
    /// `response-*`; none given = none here.
    pub overrides: Option<Box<ResponseOverrides>>,
    /// `x-amz-checksum-mode: ENABLED`.
    pub checksums: bool,
}

/// `response-*` parameters: header values to answer with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseOverrides {
    /// `response-content-type`.
    pub content_type: Option<String>,
    /// `response-content-language`.
    pub content_language: Option<String>,
    /// `response-expires`.
    pub expires: Option<String>,
    /// `response-cache-control`.
    pub cache_control: Option<String>,
    /// `response-content-disposition`.
    pub content_disposition: Option<String>,
    /// `response-content-encoding`.
    pub content_encoding: Option<String>,
}

/// Inputs of PutObject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutObject {
    /// Headers to store.
    pub headers: ObjectHeaders,
    /// `x-amz-tagging`.
    pub tags: Vec<(String, String)>,
    /// `If-Match`, `If-None-Match`.
    pub condition: PutCondition,
}

/// Inputs of CopyObject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyObject {
    /// What to copy.
    pub source: CopySource,
    /// Conditions on the source.
    pub conditions: Conditions,
    /// Headers of the copy; `None` = those of the source.
    pub headers: Option<ObjectHeaders>,
    /// Tags of the copy; `None` = those of the source.
    pub tags: Option<Vec<(String, String)>>,
    /// `x-amz-checksum-algorithm`.
    pub checksum: Option<ChecksumAlgorithm>,
    /// Condition on the destination.
    pub condition: PutCondition,
}

/// Inputs of CreateMultipartUpload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateUpload {
    /// Headers to store.
    pub headers: ObjectHeaders,
    /// `x-amz-tagging`.
    pub tags: Vec<(String, String)>,
    /// Algorithm, and whether the value covers the whole object.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// Inputs of UploadPartCopy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPart {
    /// Which upload.
    pub upload: UploadId,
    /// 1 to 10,000.
    pub number: u16,
    /// What to copy.
    pub source: CopySource,
    /// Conditions on the source.
    pub conditions: Conditions,
    /// First and last byte of the source; must lie within it.
    pub range: Option<(u64, u64)>,
}

/// Inputs of CompleteMultipartUpload beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteUpload {
    /// Which upload.
    pub upload: UploadId,
    /// Condition on the key.
    pub condition: PutCondition,
    /// `x-amz-checksum-*`: what the object must have.
    pub checksum: Option<Checksum>,
    /// `x-amz-checksum-type`: `true` = `FULL_OBJECT`.
    pub full_object: Option<bool>,
    /// `x-amz-mp-object-size`: what the object must measure, bytes.
    pub object_size: Option<u64>,
}

/// Inputs of GetObjectAttributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetAttributes {
    /// What to show.
    pub attributes: Attributes,
    /// Most parts to show, 0 to 1,000.
    pub max_parts: u16,
    /// Only parts greater than this.
    pub part_number_marker: u16,
}

/// `x-amz-object-attributes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `ETag`.
    pub etag: bool,
    /// `Checksum`.
    pub checksum: bool,
    /// `ObjectParts`.
    pub parts: bool,
    /// `StorageClass`.
    pub storage_class: bool,
    /// `ObjectSize`.
    pub size: bool,
}
