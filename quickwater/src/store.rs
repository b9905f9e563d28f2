//! The metadata store that the program runs on: embedded, or FoundationDB. No rule
//! about objects here.

use bytes::Bytes;
use quickwater_controlplane::store::{
    CommitError, CommitVersion, EmbeddedStore, EmbeddedTransaction, KeyRange, Rows, Scan, Store,
    StoreError, StoreStats, Transaction,
};
use quickwater_foundationdb::{FoundationStore, FoundationTransaction};

/// The store of every namespace of this program. Clones share it.
#[derive(Debug, Clone)]
pub(crate) enum MetadataStore {
    /// On this machine.
    Embedded(EmbeddedStore),
    /// In a cluster.
    Foundation(FoundationStore),
}

/// A transaction of a [`MetadataStore`].
pub(crate) enum MetadataTransaction {
    /// On this machine.
    Embedded(EmbeddedTransaction),
    /// In a cluster.
    Foundation(FoundationTransaction),
}

impl MetadataStore {
    /// A store in memory, for tests.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Result<Self, quickwater_controlplane::store::EngineError> {
        EmbeddedStore::in_memory().map(Self::Embedded)
    }

    /// What it has done since it was opened.
    pub(crate) fn stats(&self) -> StoreStats {
        match self {
            Self::Embedded(store) => store.stats(),
            Self::Foundation(store) => store.stats(),
        }
    }

    /// Nothing is committed any more until a restart.
    pub(crate) fn has_failed(&self) -> bool {
        match self {
            Self::Embedded(store) => store.has_failed(),
            Self::Foundation(store) => store.is_lost(),
        }
    }

    /// Gives a shared store back at the end of the service.
    pub(crate) async fn release(&self) {
        match self {
            Self::Embedded(_) => {}
            Self::Foundation(store) => store.release().await,
        }
    }
}

impl Store for MetadataStore {
    type Transaction = MetadataTransaction;

    fn begin(&self) -> MetadataTransaction {
        match self {
            Self::Embedded(store) => MetadataTransaction::Embedded(store.begin()),
            Self::Foundation(store) => MetadataTransaction::Foundation(store.begin()),
        }
    }

    async fn flush(&self) -> Result<(), CommitError> {
        match self {
            Self::Embedded(store) => store.flush().await,
            Self::Foundation(store) => store.flush().await,
        }
    }
}

/// Does the same with whichever transaction it is.
macro_rules! either {
    ($own:expr, $transaction:ident => $call:expr) => {
        match $own {
            Self::Embedded($transaction) => $call,
            Self::Foundation($transaction) => $call,
        }
    };
}

impl Transaction for MetadataTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        either!(self, inner => inner.get(key).await)
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        either!(self, inner => inner.get_snapshot(key).await)
    }

    async fn scan(&mut self, scan: Scan) -> Result<Rows, StoreError> {
        either!(self, inner => inner.scan(scan).await)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        either!(self, inner => inner.set(key, value));
    }

    fn clear(&mut self, key: &[u8]) {
        either!(self, inner => inner.clear(key));
    }

    fn clear_range(&mut self, range: KeyRange) {
        either!(self, inner => inner.clear_range(range));
    }

    fn add(&mut self, key: &[u8], delta: i64) {
        either!(self, inner => inner.add(key, delta));
    }

    fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: usize) {
        either!(self, inner => inner.set_versionstamped_value(key, template, offset));
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        either!(self, inner => inner.add_read_conflict(range));
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        either!(self, inner => inner.add_write_conflict(range));
    }

    async fn commit(self) -> Result<CommitVersion, CommitError> {
        either!(self, inner => inner.commit().await)
    }

    async fn commit_relaxed(self) -> Result<CommitVersion, CommitError> {
        either!(self, inner => inner.commit_relaxed().await)
    }
}
