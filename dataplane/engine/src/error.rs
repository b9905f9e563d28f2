//! Why a request could not be served, by what the client is told.

use quickwater_proto::{MetadataError, NodeId, UfsError, UfsErrorKind};

use crate::io::DiskError;

/// A flow's failure. Each kind has one S3 answer; "nothing changed" holds for
/// all but [`FlowError::Unknown`] and [`FlowError::Unsettled`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// No bucket of that name.
    #[error("no such bucket")]
    NoSuchBucket,
    /// No object under that key.
    #[error("no such key")]
    NoSuchKey,
    /// No such multipart upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// A bucket of that name exists.
    #[error("the bucket exists")]
    BucketExists,
    /// The bucket still holds objects or uploads.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// If-Match or If-None-Match did not hold.
    #[error("a precondition did not hold")]
    PreconditionFailed,
    /// The part list does not match what was uploaded.
    #[error("a part is missing or its ETag differs")]
    InvalidPart,
    /// The UFS refuses our credentials or the file's permissions do.
    #[error("the UFS denies access: {0}")]
    Denied(String),
    /// The UFS cannot hold such a key or object.
    #[error("not possible on this UFS: {0}")]
    Unsupported(String),
    /// The UFS cannot hold a key of this length.
    #[error("the key is too long for this UFS: {0}")]
    KeyTooLong(String),
    /// The request was wrong in a way only the UFS noticed.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// Overloaded or out of space: slow down and come back.
    #[error("overloaded: {0}")]
    SlowDown(String),
    /// No room for data that the UFS does not have; worth another try in so many seconds.
    #[error("the space for data that is not persisted yet is full; come back in {0} s")]
    NoRoom(u64),
    /// Fewer other workers take a copy than a write needs; nothing changed.
    #[error("writeReplicas asks for {wanted} copies and {possible} can be kept now")]
    TooFewWorkers {
        /// Copies asked for.
        wanted: usize,
        /// Copies that can be kept now, our own included.
        possible: usize,
    },
    /// Another worker answers for it, or this one's right to has ended.
    #[error("not answered here: {0}")]
    NotHere(&'static str),
    /// Another worker has to do its part first, and does not now.
    #[error("worker {node} has to {what} first, and does not now: {why}")]
    Awaits {
        /// Which one.
        node: NodeId,
        /// What it has to do.
        what: &'static str,
        /// What it says, or why nothing comes.
        why: String,
    },
    /// An earlier request for the key got no answer from the UFS and may still be
    /// applied; nothing changed, another change is taken in so many seconds.
    #[error(
        "an earlier request for this key got no answer from the UFS and may still be applied; \
         another change is taken in {0} s"
    )]
    Fenced(u64),
    /// Out of reach for now; nothing changed.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A write whose outcome is not known: old or new.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The UFS went out of reach during a write: old or new.
    #[error("unavailable, outcome unknown: {0}")]
    Unsettled(String),
    /// A write that is acked by its policy, but is not where its client wants it.
    #[error("stored and safe here, but the UFS does not have it yet; it will")]
    NotPersisted,
    /// The same, of a write that was replaced or deleted since.
    #[error(
        "stored here, but replaced by a TRANSIENT object or deleted before the UFS was known to \
         have it; it does not go there any more"
    )]
    NeverPersisted,
    /// The bytes at hand are not the bytes promised; they were not sent.
    #[error("damaged data: {0}")]
    Damaged(String),
    /// Bytes that only this node had are gone. Retrying does not bring them back.
    #[error("lost: no copy is left of bytes that the UFS never had")]
    Lost,
    /// The UFS holds another content than the one being read; look again.
    #[error("the object changed in the UFS")]
    Changed,
    /// More than can ever be kept here, and it goes nowhere else.
    #[error(
        "{what}, {bytes} bytes, is more than can ever be kept: at most {limit} bytes on disk may \
         be data that the UFS does not have (write_cache.dirty_ratio of the capacity, or what \
         `memory` can index), and what is TRANSIENT never gets there. The policies WRITE_BACK and WRITE_THROUGH have no such \
         limit"
    )]
    NeverFits {
        /// What is too large.
        what: &'static str,
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A limit of the metadata.
    #[error("too large: {0}")]
    TooLarge(String),
}

impl From<MetadataError> for FlowError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::NoSuchBucket => Self::NoSuchBucket,
            MetadataError::BucketExists => Self::BucketExists,
            MetadataError::LocationOverlaps(text) => Self::Invalid(text),
            MetadataError::BucketNotEmpty => Self::BucketNotEmpty,
            MetadataError::NoSuchUpload => Self::NoSuchUpload,
            MetadataError::ConditionFailed => Self::PreconditionFailed,
            MetadataError::NoSuchObject => Self::NoSuchKey,
            MetadataError::InvalidPart => Self::InvalidPart,
            MetadataError::TooLarge(text) => Self::TooLarge(text),
            MetadataError::Unavailable(text) => Self::Unavailable(text),
            MetadataError::Unknown(text) => Self::Unknown(text),
        }
    }
}

impl From<UfsError> for FlowError {
    fn from(error: UfsError) -> Self {
        let text = error.message;
        match error.kind {
            UfsErrorKind::NotFound => Self::NoSuchKey,
            UfsErrorKind::AccessDenied => Self::Denied(text),
            UfsErrorKind::Unavailable | UfsErrorKind::Other => Self::Unavailable(text),
            UfsErrorKind::Changed => Self::Changed,
            UfsErrorKind::Timeout => Self::Unknown(text),
            UfsErrorKind::Throttled | UfsErrorKind::NoSpace => Self::SlowDown(text),
            UfsErrorKind::Corrupt => Self::Damaged(text),
            UfsErrorKind::Unsupported => Self::Unsupported(text),
            UfsErrorKind::Invalid => Self::Invalid(text),
        }
    }
}

impl FlowError {
    /// The failure of a UFS call that cannot have changed anything: a read, or a
    /// write whose last byte was not sent yet.
    pub(crate) fn harmless(error: UfsError) -> Self {
        match error.kind {
            UfsErrorKind::Timeout => Self::Unavailable(error.message),
            _ => error.into(),
        }
    }

    /// The failure to read the content that a record names. That it is gone means
    /// that another version is current there.
    pub(crate) fn reading(error: UfsError) -> Self {
        match error.kind {
            UfsErrorKind::NotFound | UfsErrorKind::Changed => Self::Changed,
            _ => Self::harmless(error),
        }
    }
}

impl From<DiskError> for FlowError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Full | DiskError::DirtyFull | DiskError::Overloaded => {
                Self::SlowDown(error.to_string())
            }
            DiskError::Suspect | DiskError::Io(_) => Self::Unavailable(error.to_string()),
        }
    }
}
