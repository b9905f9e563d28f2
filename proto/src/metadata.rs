//! What the metadata answers to either plane.

use crate::{ObjectKey, ObjectRecord, Version};

/// Why the metadata could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The bucket is not there.
    #[error("no such bucket")]
    NoSuchBucket,
    /// A bucket of that name is there.
    #[error("the bucket exists")]
    BucketExists,
    /// The UFS location lies within another bucket's, or holds it; nothing
    /// changed. The text names both.
    #[error("{0}")]
    LocationOverlaps(String),
    /// The bucket still holds objects or uploads.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The upload is not there.
    #[error("no such upload")]
    NoSuchUpload,
    /// The [`PutCondition`] did not hold; nothing changed.
    #[error("the condition did not hold")]
    ConditionFailed,
    /// The condition named an object that is not there; nothing changed.
    #[error("no such object")]
    NoSuchObject,
    /// The part list does not match the parts uploaded; nothing changed.
    #[error("invalid part")]
    InvalidPart,
    /// Too large for a record (limits of the store).
    #[error("too large: {0}")]
    TooLarge(String),
    /// Not available now; nothing changed.
    #[error("metadata unavailable: {0}")]
    Unavailable(String),
    /// The commit may or may not have happened.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// A commit's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The version it was given.
    pub version: Version,
    /// What was current before, if anything.
    pub replaced: Option<ObjectRecord>,
}

/// A page of an ordered scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys in byte order with their records. `parts`, `extents`, `tags` and
    /// `headers` may be left empty in a scan: never commit such a record.
    pub entries: Vec<(ObjectKey, ObjectRecord)>,
    /// More keys follow the last entry.
    pub more: bool,
}
