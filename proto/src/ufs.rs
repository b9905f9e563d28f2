//! What an under file system (UFS) reports.

use crate::{Checksum, ETag, ObjectHeaders};

/// Identifies the exact content a UFS holds under a key: two equal identities
/// mean the same bytes. POSIX: size, mtime and inode; S3: size, ETag and time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UfsIdentity {
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Inode (POSIX) or ETag (S3).
    pub token: String,
}

/// An object as the UFS knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UfsObject {
    /// Which content.
    pub identity: UfsIdentity,
    /// Its entity tag: the MD5 where known, else an opaque `<32 hex>-1`.
    pub etag: ETag,
    /// Stored headers, as far as the UFS keeps them.
    pub headers: ObjectHeaders,
    /// Checksums, as far as the UFS keeps them.
    pub checksums: Vec<Checksum>,
}

/// One line of a UFS listing, in S3 key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UfsEntry {
    /// An object. `etag` as in [`UfsObject`].
    Object {
        /// The key.
        key: String,
        /// Which content.
        identity: UfsIdentity,
        /// Entity tag, when the listing gives one.
        etag: Option<ETag>,
    },
    /// A common prefix, with its trailing `/` (non-recursive listings only).
    Prefix(String),
}

/// What the caller can do about a UFS failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UfsErrorKind {
    /// The object (or bucket, or upload) is not there.
    NotFound,
    /// The UFS refuses us.
    AccessDenied,
    /// Cannot be reached, refused the connection or answered 5xx: retry later.
    Unavailable,
    /// No answer in time: outcome of a write unknown.
    Timeout,
    /// Asked to slow down.
    Throttled,
    /// Fewer or other bytes than it announced.
    Corrupt,
    /// The content changed since it was looked at.
    Changed,
    /// Full.
    NoSpace,
    /// The UFS cannot hold such a key or object (the text says why).
    Unsupported,
    /// The request itself was wrong (bad part order, part too small, ...).
    Invalid,
    /// Anything else.
    Other,
}

/// A UFS failure. The text is for logs and admins; secrets never appear in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("UFS {kind:?}: {message}")]
pub struct UfsError {
    /// What to do about it.
    pub kind: UfsErrorKind,
    /// What happened.
    pub message: String,
}

impl UfsError {
    /// Makes an error.
    #[must_use]
    pub fn new(kind: UfsErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}
