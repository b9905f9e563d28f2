//! What the metadata says of buckets, objects and uploads.

use crate::{BlobId, BucketId, BucketName, ETag, ObjectKey, UfsIdentity, UploadId, Version};

/// A bucket: a top-level mount of a UFS location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Number used in keys.
    pub id: BucketId,
    /// Name clients use.
    pub name: BucketName,
    /// UFS location, e.g. `file:///data/b` or `s3://bucket/prefix`.
    pub ufs: String,
    /// Creation time, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// How long metadata read from the UFS may be trusted, milliseconds;
    /// `u64::MAX` = for ever.
    pub metadata_ttl_ms: u64,
    /// UFS options by name (endpoint, region, credentials *reference*, ...).
    pub options: Vec<(String, String)>,
    /// Bucket tags (S3 PutBucketTagging).
    pub tags: Vec<(String, String)>,
    /// The UFS location was made by CreateBucket and goes with DeleteBucket;
    /// otherwise it was mounted and only the mount goes.
    pub owned: bool,
}

/// Checksum algorithms of the S3 API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC), 4 bytes.
    Crc32,
    /// CRC-32C (Castagnoli), 4 bytes.
    Crc32c,
    /// CRC-64/NVME, 8 bytes.
    Crc64Nvme,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

impl ChecksumAlgorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// Name in S3 XML and in `x-amz-checksum-algorithm`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Header that carries a value, lowercase.
    #[must_use]
    pub const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Bytes of a value.
    #[must_use]
    pub const fn value_bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Parses the S3 name, any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|a| a.name().eq_ignore_ascii_case(name))
    }
}

/// What a checksum covers (S3 `ChecksumType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumKind {
    /// All bytes of the object.
    FullObject,
    /// The checksums of its parts; shown as `<base64>-<parts>`.
    Composite {
        /// Number of parts.
        parts: u16,
    },
}

/// A verified checksum, raw bytes (not base64).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// What it covers.
    pub kind: ChecksumKind,
    /// `algorithm.value_bytes()` bytes, big-endian for CRCs.
    pub value: Vec<u8>,
}

/// Headers stored with an object and returned with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectHeaders {
    /// `Content-Type`; none = `binary/octet-stream` on the wire.
    pub content_type: Option<String>,
    /// `Content-Encoding` without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`, as sent.
    pub expires: Option<String>,
    /// `x-amz-meta-*`: names lowercase without the prefix, in order of arrival.
    pub user: Vec<(String, String)>,
}

/// A run of an object's bytes held under one [`BlobId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Where the store keeps them.
    pub blob: BlobId,
    /// Bytes.
    pub size: u64,
}

/// Where the bytes of a version are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PersistState {
    /// The UFS holds it.
    #[default]
    Persisted,
    /// Only workers hold it yet.
    NotPersisted,
    /// A persist is running.
    Persisting,
    /// Never goes to the UFS.
    Transient,
}

/// One current version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Given by the commit.
    pub version: Version,
    /// Bytes.
    pub size: u64,
    /// Never empty.
    pub etag: ETag,
    /// `Last-Modified`, milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// Stored headers and user metadata.
    pub headers: ObjectHeaders,
    /// Checksums verified at ingest.
    pub checksums: Vec<Checksum>,
    /// Object tags.
    pub tags: Vec<(String, String)>,
    /// The bytes in order; sizes sum to `size`. Empty only when `size` is 0.
    pub extents: Vec<Extent>,
    /// Parts of a completed multipart upload, else empty.
    pub parts: Vec<PartRecord>,
    /// What the UFS holds for exactly this version.
    pub ufs: Option<UfsIdentity>,
    /// Where the bytes are safe.
    pub persist: PersistState,
    /// Known from a UFS listing only: headers and checksums are still to be read
    /// from the UFS before the object is shown on its own.
    pub partial: bool,
}

/// One part of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRecord {
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// MD5 of the part (or what the UFS answered).
    pub etag: ETag,
    /// When it was uploaded, milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// Checksums verified at ingest.
    pub checksums: Vec<Checksum>,
    /// Its bytes in the store.
    pub blob: BlobId,
    /// Only the store has them, whatever became of the upload since.
    pub held: bool,
}

/// A multipart upload in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRecord {
    /// Id shown to the client.
    pub id: UploadId,
    /// Destination key.
    pub key: ObjectKey,
    /// Start, milliseconds since the Unix epoch.
    pub initiated_ms: i64,
    /// Headers the object will have.
    pub headers: ObjectHeaders,
    /// Tags the object will have.
    pub tags: Vec<(String, String)>,
    /// Algorithm the client announced and whether the final value covers the
    /// whole object (`true`) or its parts.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
    /// The UFS's own name for the upload (an S3 upload id, a staging folder), or
    /// that it has none: [`UploadRecord::HELD_BACK`], [`UploadRecord::HELD_TRANSIENT`].
    pub ufs_upload: String,
}

impl UploadRecord {
    /// Stands for the UFS's name of an upload that is kept here until it is complete,
    /// and persisted then. No UFS gives such a name: it is not printable.
    pub const HELD_BACK: &str = "\u{1}write-back";
    /// As [`Self::HELD_BACK`], never persisted.
    pub const HELD_TRANSIENT: &str = "\u{1}transient";

    /// How the object of an upload begins that the UFS knows nothing of; `None`: the
    /// UFS knows it.
    #[must_use]
    pub fn held(&self) -> Option<PersistState> {
        match self.ufs_upload.as_str() {
            Self::HELD_BACK => Some(PersistState::NotPersisted),
            Self::HELD_TRANSIENT => Some(PersistState::Transient),
            _ => None,
        }
    }

    /// Whether the UFS knows nothing of it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held().is_some()
    }
}

/// Condition decided inside the commit (If-Match, If-None-Match on writes).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PutCondition {
    /// Always.
    #[default]
    None,
    /// Only when no object is there (`If-None-Match: *`).
    Absent,
    /// Only when the current ETag is this (`If-Match: "..."`).
    Match(ETag),
    /// Only when an object is there (`If-Match: *`).
    Present,
    /// Only when exactly this version is current (internal compare-and-swap).
    Version(Version),
}
