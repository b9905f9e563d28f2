//! The store: a database of the client library and what it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foundationdb::Database;
use quickwater_controlplane::store::limits::KEY_BYTES_MAX;
use quickwater_controlplane::store::{CommitError, Latency, Store, StoreError, StoreStats};

use crate::claim::Claim;
use crate::errors::read_error;
use crate::keys::KeyPrefix;
use crate::transaction::FoundationTransaction;

/// Pause of a ping that is to be sent again.
const PING_PAUSE: Duration = Duration::from_millis(50);

/// A store on FoundationDB. Clones share everything.
#[derive(Clone)]
pub struct FoundationStore {
    shared: Arc<Shared>,
}

/// What the store and its transactions share.
pub(crate) struct Shared {
    pub(crate) database: Database,
    pub(crate) prefix: KeyPrefix,
    pub(crate) counters: Counters,
    /// There once the store is this process's alone.
    pub(crate) claim: OnceLock<Arc<Claim>>,
}

/// Counts since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    latency: Latency,
    conflicts: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

impl Counters {
    /// A commit ended that way after that time.
    pub(crate) fn count<T>(&self, outcome: &Result<T, CommitError>, took: Duration) {
        let counter = match outcome {
            Ok(_) => &self.commits,
            Err(CommitError::Conflict) => &self.conflicts,
            Err(CommitError::Unknown) => &self.unknown,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if outcome.is_ok() {
            self.latency.count(took);
        }
    }
}

impl FoundationStore {
    pub(crate) fn new(database: Database, prefix: KeyPrefix) -> Self {
        let shared = Shared {
            database,
            prefix,
            counters: Counters::default(),
            claim: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What it has done since it was opened. Every commit is a batch and a flush
    /// of its own here; the time is that of whole commits.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        let commits = read(&counters.commits);
        let latency = counters.latency.read();
        StoreStats {
            commits,
            conflicts: read(&counters.conflicts),
            refused: read(&counters.refused),
            unknown: read(&counters.unknown),
            batches: commits,
            flushes: commits,
            flush_us: latency.sum_us,
            latency,
        }
    }

    /// Asks the cluster for its version, again and again where it wants that.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], or [`StoreError::Again`] to the last: no version
    /// within `wait`.
    pub async fn ping(&self, wait: Duration) -> Result<i64, StoreError> {
        let mut last = StoreError::Unavailable(format!(
            "FoundationDB: no answer within {} ms",
            wait.as_millis()
        ));
        let asked = tokio::time::timeout(wait, async {
            loop {
                match self.version().await {
                    Err(error) if error.is_retryable() => last = error,
                    answer => return answer,
                }
                tokio::time::sleep(PING_PAUSE).await;
            }
        });
        match asked.await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(last),
        }
    }

    async fn version(&self) -> Result<i64, StoreError> {
        let transaction = self.shared.database.create_trx().map_err(read_error)?;
        transaction.get_read_version().await.map_err(read_error)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(crate) fn current_claim(&self) -> Option<&Arc<Claim>> {
        self.shared.claim.get()
    }

    /// `false` when there was one.
    pub(crate) fn set_claim(&self, claim: Arc<Claim>) -> bool {
        self.shared.claim.set(claim).is_ok()
    }

    /// Longest key, bytes: [`KEY_BYTES_MAX`] less the prefix.
    #[must_use]
    pub fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX - self.shared.prefix.bytes()
    }
}

impl std::fmt::Debug for FoundationStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FoundationStore")
            .field("prefix", &self.shared.prefix)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Store for FoundationStore {
    type Transaction = FoundationTransaction;

    fn begin(&self) -> FoundationTransaction {
        FoundationTransaction::begin(Arc::clone(&self.shared))
    }

    /// A commit that has returned is on the disks of the cluster's logs.
    async fn flush(&self) -> Result<(), CommitError> {
        Ok(())
    }
}
