//! The rules of the namespace: buckets, objects and uploads over any store.
//!
//! A [`Namespace`] answers what the data plane's metadata trait asks, with the
//! same names. Every rule is decided inside one transaction; every change is
//! applied exactly once, also when a commit's outcome was unknown (see
//! [`mutate`]). Absent: keys and values (`keyspace`, `records`), data bytes, S3
//! text, the UFS itself.

mod buckets;
mod clock;
mod complete;
mod directories;
mod fold;
mod format;
mod jobs;
mod journal;
mod listing;
mod location;
mod mounts;
mod mutate;
mod note;
mod objects;
mod opened;
mod pending;
mod pending_sum;
mod policies;
mod read;
mod rebuild;
mod requests;
mod sweeper;
#[cfg(test)]
mod tests;
mod uploads;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quickwater_proto::MetadataError;
use tokio::sync::Notify;

pub use clock::{SystemClock, WallClock};
pub use format::FormatError;
pub use jobs::{JobLimits, Saved};
pub use journal::Replayed;
pub(crate) use journal::{commit_note, journal_entry};
pub use listing::{Listed, Listing, ListingMarker};
pub use location::{Location, LocationError};
pub use mounts::{MountError, NewMount};
pub use mutate::Ticket;
pub use pending::HeldPage;
pub use pending_sum::{PendingSum, SUM_ROWS_MAX};
pub use policies::{
    POLICY_BY_BYTES_MAX, POLICY_VERSIONS_MAX, PolicyChange, PolicyError, StoredPolicies,
};
pub use rebuild::{Change, RebuildError, Restored};
pub use sweeper::Swept;
pub use usage::Usage;

use crate::records::RecordError;
use crate::store::{Store, StoreError};

/// Most buckets (S3: 10,000 per account; "Bucket quotas").
pub const BUCKETS_MAX: usize = 10_000;
/// Most rows in one answer of a scan, whatever was asked for.
pub const SCAN_ROWS_MAX: usize = 10_000;
/// How long the answer to a completed upload is remembered, milliseconds.
pub const COMPLETED_KEEP_MS: i64 = 24 * 60 * 60 * 1_000;

/// The namespace over a store. Clones share everything. Its futures need a tokio
/// runtime with time enabled.
#[derive(Clone)]
pub struct Namespace<S> {
    store: S,
    clock: Arc<dyn WallClock>,
    /// Most attempts of one change.
    attempts_max: u32,
    /// The change to be made has an id already.
    ticket: Option<Ticket>,
    /// What orders the newest commit of this process.
    newest: Arc<AtomicU64>,
    /// Told when buckets, mounts or policies have changed.
    renamed: Arc<Notify>,
    /// Another number whenever they have.
    names: Arc<AtomicU64>,
}

impl<S: Store> Namespace<S> {
    /// The namespace kept in `store`.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self::with_clock(store, SystemClock)
    }

    /// The same with another clock. Time only decides when rows may be swept.
    #[must_use]
    pub fn with_clock(store: S, clock: impl WallClock) -> Self {
        Self {
            store,
            clock: Arc::new(clock),
            attempts_max: mutate::ATTEMPTS_MAX,
            ticket: None,
            newest: Arc::default(),
            renamed: Arc::default(),
            // Anything: no two processes count alike.
            names: Arc::new(AtomicU64::new(crate::cluster::boottime().as_nanos() as u64)),
        }
    }

    /// The same rules over another view of the store, for one change whose id
    /// `ticket` says.
    #[must_use]
    pub fn over<T: Store>(&self, store: T, ticket: Option<Ticket>) -> Namespace<T> {
        Namespace {
            store,
            clock: Arc::clone(&self.clock),
            attempts_max: self.attempts_max,
            ticket,
            newest: Arc::clone(&self.newest),
            renamed: Arc::clone(&self.renamed),
            names: Arc::clone(&self.names),
        }
    }

    /// Returns when buckets, mounts or policies were changed through this namespace
    /// since it returned the last time. For one who waits.
    pub async fn renamed(&self) {
        self.renamed.notified().await;
    }

    /// Another number whenever buckets, mounts or policies were changed through this
    /// namespace; to be looked at before they are read.
    #[must_use]
    pub fn names_mark(&self) -> u64 {
        self.names.load(Ordering::Acquire)
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }
}

impl<S> std::fmt::Debug for Namespace<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Namespace")
    }
}

/// Why an attempt stopped.
#[derive(Debug)]
enum Stop {
    /// The rules refuse; the answer is final.
    Refused(MetadataError),
    /// The store could not be read.
    Store(StoreError),
}

impl From<MetadataError> for Stop {
    fn from(error: MetadataError) -> Self {
        Self::Refused(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Self {
        Self::Refused(record_error(error))
    }
}

/// A record that cannot be read is an operator's matter: it is logged here.
fn record_error(error: RecordError) -> MetadataError {
    match error {
        RecordError::TooLarge { .. } => MetadataError::TooLarge(error.to_string()),
        RecordError::UnknownSchema { .. } | RecordError::Damaged { .. } => {
            tracing::error!(%error, "unreadable metadata record");
            MetadataError::Unavailable(error.to_string())
        }
    }
}
