//! What we have opened in a UFS and must see to its end. Absent: what ends it.

use crate::{ObjectKey, UploadId, Version};

/// A multipart upload that we began in a UFS, or were about to begin. Its row is
/// there before the UFS is asked, so no crash makes the UFS keep it for ever. An
/// upload of a client is named by its own row ([`crate::UploadRecord`]) once it is
/// begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedUpload {
    /// Ours; that of the client's upload, if it is one.
    pub id: UploadId,
    /// The key the object will have.
    pub key: ObjectKey,
    /// The version it brings to the UFS later; none: a client waits for it.
    pub version: Option<Version>,
    /// The UFS's name for it; none: no answer told it.
    pub ufs_upload: Option<String>,
    /// When the UFS was first asked, milliseconds since the Unix epoch.
    pub begun_ms: i64,
    /// When the UFS was last asked, milliseconds since the Unix epoch.
    pub asked_ms: i64,
    /// How often the UFS was asked without telling a name.
    pub asked: u32,
}

/// A multipart upload as a UFS lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UfsUploadSeen {
    /// The UFS's name for it.
    pub name: String,
    /// When it was begun, by the clock of the UFS, milliseconds since the Unix epoch.
    pub begun_ms: i64,
}

/// A part of an upload as a UFS lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UfsPartSeen {
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// Its entity tag, when it tells something about the bytes (an MD5).
    pub md5: Option<[u8; 16]>,
}
