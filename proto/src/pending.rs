//! What the UFS has still to be told about a key. Absent: when it is told.

use crate::{BucketId, NodeId, ObjectKey, Version};

/// The change of a key that the UFS does not have yet. One per key: a newer
/// change takes the place of an older one, and is never before it in the UFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRecord {
    /// The commit that made this change.
    pub version: Version,
    /// What the UFS must be told.
    pub change: PendingChange,
    /// Since when the UFS is behind for this key, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// An older change of this key was pending when this one was committed: a
    /// request for that one may have been sent. A held one hands this on.
    pub superseded: bool,
}

/// What the UFS must be told about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingChange {
    /// The current version, of this many bytes.
    Put {
        /// Bytes of the object.
        size: u64,
    },
    /// The key is gone; what the UFS shows under it must not be believed.
    Delete,
    /// Nothing: the current version, of this many bytes, is kept by the workers only.
    Hold {
        /// Bytes of the object.
        size: u64,
    },
    /// Nothing any more, but a request without an answer may still be applied:
    /// until then no other change may be sent.
    Settling {
        /// When it is certain to be dead, milliseconds since the Unix epoch; see
        /// [`PendingChange::UNDER_WAY`].
        until_ms: i64,
    },
}

impl PendingChange {
    /// A request is being sent, or was by a process that has ended without saying
    /// what became of it.
    pub const UNDER_WAY: Self = Self::Settling { until_ms: i64::MAX };
}

/// A page of pending changes in order of bucket and key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingPage {
    /// The changes.
    pub entries: Vec<(BucketId, ObjectKey, PendingRecord)>,
    /// Who has the bytes, one list for each entry: empty when a change has none, or when
    /// nobody keeps account of it.
    pub holders: Vec<Vec<NodeId>>,
    /// On how many workers the bytes of each are to be, one number for each entry.
    pub copies: Vec<usize>,
    /// More follows the last entry.
    pub more: bool,
}
