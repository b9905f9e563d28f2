//! A store in which something else happens around the next commit, whose outcome
//! may then be unknown.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::store::{
    CommitError, CommitVersion, EmbeddedStore, EmbeddedTransaction, KeyRange, Rows, Scan, Store,
    StoreError, Transaction,
};

type Meanwhile = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What becomes of a commit. All but the last end as unknown.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// Applied at once.
    Applied,
    /// Never applied.
    Lost,
    /// Applied when the test says so.
    Late,
    /// Something else is applied first; the outcome is known.
    Overtaken,
}

#[derive(Clone)]
pub(super) struct HookedStore {
    inner: EmbeddedStore,
    next: Arc<Mutex<Option<(Fate, Meanwhile)>>>,
    late: Arc<Mutex<Option<EmbeddedTransaction>>>,
}

impl HookedStore {
    pub(super) fn new(inner: EmbeddedStore) -> Self {
        Self {
            inner,
            next: Arc::default(),
            late: Arc::default(),
        }
    }

    /// The next commit has this fate, then `meanwhile` happens.
    pub(super) fn next_commit(
        &self,
        fate: Fate,
        meanwhile: impl Future<Output = ()> + Send + 'static,
    ) {
        *self.next.lock().unwrap() = Some((fate, Box::pin(meanwhile)));
    }

    /// The late commit arrives.
    pub(super) async fn land(&self) -> Result<CommitVersion, CommitError> {
        let late = self.late.lock().unwrap().take();
        late.expect("a commit is late").commit().await
    }
}

impl Store for HookedStore {
    type Transaction = HookedTransaction;

    fn begin(&self) -> HookedTransaction {
        HookedTransaction {
            inner: self.inner.begin(),
            store: self.clone(),
        }
    }

    async fn flush(&self) -> Result<(), CommitError> {
        self.inner.flush().await
    }
}

pub(super) struct HookedTransaction {
    inner: EmbeddedTransaction,
    store: HookedStore,
}

impl Transaction for HookedTransaction {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(key).await
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get_snapshot(key).await
    }

    async fn scan(&mut self, scan: Scan) -> Result<Rows, StoreError> {
        self.inner.scan(scan).await
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.inner.set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.inner.clear(key);
    }

    fn clear_range(&mut self, range: KeyRange) {
        self.inner.clear_range(range);
    }

    fn add(&mut self, key: &[u8], delta: i64) {
        self.inner.add(key, delta);
    }

    fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: usize) {
        self.inner.set_versionstamped_value(key, template, offset);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        self.inner.add_read_conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.inner.add_write_conflict(range);
    }

    async fn commit(self) -> Result<CommitVersion, CommitError> {
        let next = self.store.next.lock().unwrap().take();
        let Some((fate, meanwhile)) = next else {
            return self.inner.commit().await;
        };
        match fate {
            Fate::Overtaken => {
                meanwhile.await;
                return self.inner.commit().await;
            }
            Fate::Applied => _ = self.inner.commit().await?,
            Fate::Lost => {}
            Fate::Late => *self.store.late.lock().unwrap() = Some(self.inner),
        }
        meanwhile.await;
        Err(CommitError::Unknown)
    }
}
