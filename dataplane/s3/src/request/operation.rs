//! One variant per S3 action, with its typed inputs. Bodies are parsed by
//! [`crate::xml`] when they have arrived.

use quickwater_proto::{Checksum, ChecksumAlgorithm, ObjectHeaders, PutCondition, UploadId};

use super::{ByteRange, Conditions, CopySource, IfRange};
use crate::error::S3ErrorCode;

/// An S3 action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// `GET /`.
    ListBuckets(ListBuckets),
    /// `PUT /bucket`; the body may be a `CreateBucketConfiguration`.
    CreateBucket,
    /// `HEAD /bucket`.
    HeadBucket,
    /// `DELETE /bucket`.
    DeleteBucket,
    /// `GET /bucket?location`.
    GetBucketLocation,
    /// `GET /bucket?versioning`: the empty configuration.
    GetBucketVersioning,
    /// `GET /bucket?acl`: the owner has full control.
    GetBucketAcl,
    /// `GET /bucket?logging` and its like: the answer of a bucket where it was
    /// never set.
    GetBucketDefault(BucketDefault),
    /// `GET /bucket?policy` and its like: this error, once the bucket is known
    /// to exist.
    GetAbsentConfiguration(S3ErrorCode),
    /// `DELETE /bucket?policy` and its like: 204, there is nothing to delete.
    DeleteAbsentConfiguration,
    /// `GET /bucket?tagging`.
    GetBucketTagging,
    /// `PUT /bucket?tagging`.
    PutBucketTagging,
    /// `DELETE /bucket?tagging`.
    DeleteBucketTagging,
    /// `GET /bucket`.
    ListObjects(ListObjects),
    /// `GET /bucket?list-type=2`.
    ListObjectsV2(ListObjectsV2),
    /// `GET /bucket?uploads`.
    ListMultipartUploads(ListUploads),
    /// `POST /bucket?delete`.
    DeleteObjects,
    /// `GET /bucket/key`.
    GetObject(ReadObject),
    /// `HEAD /bucket/key`.
    HeadObject(ReadObject),
    /// `PUT /bucket/key`.
    PutObject(Box<PutObject>),
    /// `PUT /bucket/key` with `x-amz-copy-source`.
    CopyObject(Box<CopyObject>),
    /// `DELETE /bucket/key`.
    DeleteObject {
        /// `If-Match`.
        condition: PutCondition,
    },
    /// `GET /bucket/key?acl`: the owner has full control.
    GetObjectAcl,
    /// `GET /bucket/key?attributes`.
    GetObjectAttributes(GetAttributes),
    /// `GET /bucket/key?tagging`.
    GetObjectTagging,
    /// `PUT /bucket/key?tagging`.
    PutObjectTagging,
    /// `DELETE /bucket/key?tagging`.
    DeleteObjectTagging,
    /// `POST /bucket/key?uploads`.
    CreateMultipartUpload(Box<CreateUpload>),
    /// `PUT /bucket/key?partNumber&uploadId`.
    UploadPart {
        /// Which upload.
        upload: UploadId,
        /// 1 to 10,000.
        number: u16,
    },
    /// The same with `x-amz-copy-source`.
    UploadPartCopy(Box<CopyPart>),
    /// `POST /bucket/key?uploadId`.
    CompleteMultipartUpload(Box<CompleteUpload>),
    /// `DELETE /bucket/key?uploadId`.
    AbortMultipartUpload {
        /// Which upload.
        upload: UploadId,
    },
    /// `GET /bucket/key?uploadId`.
    ListParts(ListParts),
}

/// What body an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// None that means anything.
    None,
    /// Bytes of an object or part.
    Object,
    /// XML of at most [`crate::xml::BODY_BYTES_MAX`] bytes.
    Xml,
}

impl Operation {
    /// The name of the action, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ListBuckets(_) => "ListBuckets",
            Self::CreateBucket => "CreateBucket",
            Self::HeadBucket => "HeadBucket",
            Self::DeleteBucket => "DeleteBucket",
            Self::GetBucketLocation => "GetBucketLocation",
            Self::GetBucketVersioning => "GetBucketVersioning",
            Self::GetBucketAcl => "GetBucketAcl",
            Self::GetBucketDefault(_) | Self::GetAbsentConfiguration(_) => "GetBucketConfiguration",
            Self::DeleteAbsentConfiguration => "DeleteBucketConfiguration",
            Self::GetBucketTagging => "GetBucketTagging",
            Self::PutBucketTagging => "PutBucketTagging",
            Self::DeleteBucketTagging => "DeleteBucketTagging",
            Self::ListObjects(_) => "ListObjects",
            Self::ListObjectsV2(_) => "ListObjectsV2",
            Self::ListMultipartUploads(_) => "ListMultipartUploads",
            Self::DeleteObjects => "DeleteObjects",
            Self::GetObject(_) => "GetObject",
            Self::HeadObject(_) => "HeadObject",
            Self::PutObject(_) => "PutObject",
            Self::CopyObject(_) => "CopyObject",
            Self::DeleteObject { .. } => "DeleteObject",
            Self::GetObjectAcl => "GetObjectAcl",
            Self::GetObjectAttributes(_) => "GetObjectAttributes",
            Self::GetObjectTagging => "GetObjectTagging",
            Self::PutObjectTagging => "PutObjectTagging",
            Self::DeleteObjectTagging => "DeleteObjectTagging",
            Self::CreateMultipartUpload(_) => "CreateMultipartUpload",
            Self::UploadPart { .. } => "UploadPart",
            Self::UploadPartCopy(_) => "UploadPartCopy",
            Self::CompleteMultipartUpload(_) => "CompleteMultipartUpload",
            Self::AbortMultipartUpload { .. } => "AbortMultipartUpload",
            Self::ListParts(_) => "ListParts",
        }
    }

    /// Whether the operation may change anything.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(
            self,
            Self::CreateBucket
                | Self::DeleteBucket
                | Self::DeleteAbsentConfiguration
                | Self::PutBucketTagging
                | Self::DeleteBucketTagging
                | Self::DeleteObjects
                | Self::PutObject(_)
                | Self::CopyObject(_)
                | Self::DeleteObject { .. }
                | Self::PutObjectTagging
                | Self::DeleteObjectTagging
                | Self::CreateMultipartUpload(_)
                | Self::UploadPart { .. }
                | Self::UploadPartCopy(_)
                | Self::CompleteMultipartUpload(_)
                | Self::AbortMultipartUpload { .. }
        )
    }

    /// What body the operation takes.
    #[must_use]
    pub const fn body(&self) -> BodyKind {
        match self {
            Self::PutObject(_) | Self::UploadPart { .. } => BodyKind::Object,
            Self::CreateBucket
            | Self::PutBucketTagging
            | Self::PutObjectTagging
            | Self::DeleteObjects
            | Self::CompleteMultipartUpload(_) => BodyKind::Xml,
            _ => BodyKind::None,
        }
    }

    /// `Cache-Control` is stored with the object rather than meant for us.
    pub(super) const fn has_stored_headers(&self) -> bool {
        matches!(
            self,
            Self::PutObject(_) | Self::CopyObject(_) | Self::CreateMultipartUpload(_)
        )
    }
}

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
