//! The words both planes share: validated names and the records they exchange.
//!
//! Absent on purpose: rules, IO, clocks, randomness other than [`BlobId::random`].

mod copies;
mod job;
mod metadata;
mod names;
mod object;
mod opened;
mod pending;
mod placement;
mod policy;
mod ufs;

pub use copies::{ChangeOf, CopyAt, CopyOf, CopyState, Holders, PartOf};
pub use job::{JobAction, JobOutcome, LeftAlone};
pub use metadata::{Committed, MetadataError, ScanPage};
pub use names::{BlobId, BucketId, BucketName, ETag, InvalidName, ObjectKey, UploadId, Version};
pub use object::{
    Bucket, Checksum, ChecksumAlgorithm, ChecksumKind, Extent, ObjectHeaders, ObjectRecord,
    PartRecord, PersistState, PutCondition, UploadRecord,
};
pub use opened::{OpenedUpload, UfsPartSeen, UfsUploadSeen};
pub use pending::{PendingChange, PendingPage, PendingRecord};
pub use placement::{
    InvalidNodeId, Neighbour, NodeId, SLOTS, SlotTable, TableError, WORKER_NAME_SUFFIX,
    rendezvous_score, slot_of, slot_of_text, stripe_slot,
};
pub use policy::{
    Glob, GlobError, OverLimit, POLICY_PATH_BYTES_MAX, POLICY_RULES_MAX, PathPolicy, PolicyError,
    PolicyMode, PolicyProblem, PolicyTable, WRITE_REPLICAS_MAX,
};
pub use ufs::{UfsEntry, UfsError, UfsErrorKind, UfsIdentity, UfsObject};

/// Bytes in one chunk, the unit of caching.
pub const CHUNK_BYTES: u32 = 1 << 20;
/// Largest object key, bytes of UTF-8 (S3: "Creating object key names").
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest part number of a multipart upload (S3: "multipart upload limits").
pub const PART_NUMBER_MAX: u16 = 10_000;
