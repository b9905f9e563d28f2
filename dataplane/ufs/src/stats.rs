//! Counters of the under file systems: atomics only, read by the metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quickwater_proto::{UfsError, UfsErrorKind};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in order of their number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

named! {
    /// What was asked of a UFS.
    UfsOperation {
        /// Look at an object.
        Head = "head",
        /// Read an object or a range of it.
        Read = "read",
        /// Write an object.
        Put = "put",
        /// Remove an object.
        Delete = "delete",
        /// Begin a multipart upload.
        CreateUpload = "create_upload",
        /// Write a part.
        PutPart = "put_part",
        /// Write an object as parts.
        PutInParts = "put_in_parts",
        /// List the uploads of a key.
        ListUploads = "list_uploads",
        /// List the parts of an upload.
        ListParts = "list_parts",
        /// Make an object of the parts.
        CompleteUpload = "complete_upload",
        /// Throw an upload away.
        AbortUpload = "abort_upload",
        /// List keys.
        List = "list",
        /// Make a bucket's location.
        CreateLocation = "create_location",
        /// Remove a bucket's location.
        RemoveLocation = "remove_location",
        /// List what lies under the default UFS.
        ListLocations = "list_locations",
        /// Reachability check.
        Check = "check",
    }
}

named! {
    /// How it ended.
    UfsOutcome {
        /// Done.
        Ok = "ok",
        /// The caller gave up.
        Aborted = "aborted",
        /// [`UfsErrorKind::NotFound`].
        NotFound = "not_found",
        /// [`UfsErrorKind::AccessDenied`].
        AccessDenied = "access_denied",
        /// [`UfsErrorKind::Unavailable`].
        Unavailable = "unavailable",
        /// [`UfsErrorKind::Timeout`].
        Timeout = "timeout",
        /// [`UfsErrorKind::Throttled`].
        Throttled = "throttled",
        /// [`UfsErrorKind::Corrupt`].
        Corrupt = "corrupt",
        /// [`UfsErrorKind::Changed`].
        Changed = "changed",
        /// [`UfsErrorKind::NoSpace`].
        NoSpace = "no_space",
        /// [`UfsErrorKind::Unsupported`].
        Unsupported = "unsupported",
        /// [`UfsErrorKind::Invalid`].
        Invalid = "invalid",
        /// [`UfsErrorKind::Other`].
        Other = "other",
    }
}

impl From<UfsErrorKind> for UfsOutcome {
    fn from(kind: UfsErrorKind) -> Self {
        match kind {
            UfsErrorKind::NotFound => Self::NotFound,
            UfsErrorKind::AccessDenied => Self::AccessDenied,
            UfsErrorKind::Unavailable => Self::Unavailable,
            UfsErrorKind::Timeout => Self::Timeout,
            UfsErrorKind::Throttled => Self::Throttled,
            UfsErrorKind::Corrupt => Self::Corrupt,
            UfsErrorKind::Changed => Self::Changed,
            UfsErrorKind::NoSpace => Self::NoSpace,
            UfsErrorKind::Unsupported => Self::Unsupported,
            UfsErrorKind::Invalid => Self::Invalid,
            UfsErrorKind::Other => Self::Other,
        }
    }
}

impl<T> From<&Result<T, UfsError>> for UfsOutcome {
    fn from(result: &Result<T, UfsError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(error) => error.kind.into(),
        }
    }
}

/// Counters of all mounts of a client since it was made.
#[derive(Debug, Default)]
pub struct UfsStats {
    requests: [[AtomicU64; UfsOutcome::ALL.len()]; UfsOperation::ALL.len()],
    nanoseconds: [AtomicU64; UfsOperation::ALL.len()],
    /// Object bytes read from a UFS.
    pub read_bytes: AtomicU64,
    /// Object bytes handed to a UFS.
    pub written_bytes: AtomicU64,
    /// Entries of a UFS that are no S3 object (names that are not UTF-8 or too
    /// long, sockets, dangling links): not shown.
    pub skipped_names: AtomicU64,
    /// Headers or checksums a POSIX UFS could not keep as extended attributes.
    pub dropped_attributes: AtomicU64,
    /// Writes whose content an S3 store confirmed by length only, because its
    /// ETag is no MD5 and it gave no checksum we know.
    pub unverified_writes: AtomicU64,
}

impl UfsStats {
    /// Operations that ended, by operation and outcome.
    #[must_use]
    pub fn requests(&self, operation: UfsOperation, outcome: UfsOutcome) -> u64 {
        self.requests[operation as usize][outcome as usize].load(Relaxed)
    }

    /// Sum of the time operations took, waiting for the caller included.
    #[must_use]
    pub fn time(&self, operation: UfsOperation) -> Duration {
        Duration::from_nanos(self.nanoseconds[operation as usize].load(Relaxed))
    }

    pub(crate) fn record(&self, operation: UfsOperation, outcome: UfsOutcome, took: Duration) {
        self.requests[operation as usize][outcome as usize].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[operation as usize].fetch_add(nanoseconds, Relaxed);
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
