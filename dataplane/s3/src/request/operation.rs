//! One variant per S3 action, with its typed inputs. Bodies are parsed by
//! [`crate::xml`] when they have arrived.

use quickwater_proto::{PutCondition, UploadId};

use super::{
    BucketDefault, CompleteUpload, CopyObject, CopyPart, CreateUpload, GetAttributes, ListBuckets,
    ListObjects, ListObjectsV2, ListParts, ListUploads, PutObject, ReadObject,
};
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
