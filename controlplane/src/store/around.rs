//! A transaction with something around its reads and its commit; everything else goes
//! through as it is. Absent: what that is (`fenced.rs`, `faulty.rs`).

use std::future::{Future, ready};

use bytes::Bytes;

use super::transaction::{
    CommitError, CommitVersion, KeyRange, Rows, Scan, StoreError, Transaction,
};

/// What happens around the calls of a transaction `T`.
pub trait Around<T: Transaction>: Send + 'static {
    /// Before each read, which fails as this does.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn before_read(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        ready(Ok(()))
    }

    /// In place of the commit of `inner`. `wrote`: it is more than reads.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    fn commit(
        self,
        inner: T,
        wrote: bool,
    ) -> impl Future<Output = Result<CommitVersion, CommitError>> + Send;
}

/// A transaction within what happens around it. Its relaxed commits are commits.
#[derive(Debug)]
pub struct Surrounded<T, A> {
    inner: T,
    around: A,
    wrote: bool,
}

impl<T: Transaction, A: Around<T>> Surrounded<T, A> {
    pub(crate) fn new(inner: T, around: A) -> Self {
        Self {
            inner,
            around,
            wrote: false,
        }
    }

    fn writing(&mut self) -> &mut T {
        self.wrote = true;
        &mut self.inner
    }
}

impl<T: Transaction, A: Around<T>> Transaction for Surrounded<T, A> {
    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.around.before_read().await?;
        self.inner.get(key).await
    }

    async fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.around.before_read().await?;
        self.inner.get_snapshot(key).await
    }

    async fn scan(&mut self, scan: Scan) -> Result<Rows, StoreError> {
        self.around.before_read().await?;
        self.inner.scan(scan).await
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.writing().set(key, value);
    }

    fn clear(&mut self, key: &[u8]) {
        self.writing().clear(key);
    }

    fn clear_range(&mut self, range: KeyRange) {
        self.writing().clear_range(range);
    }

    fn add(&mut self, key: &[u8], delta: i64) {
        self.writing().add(key, delta);
    }

    fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: usize) {
        self.writing()
            .set_versionstamped_value(key, template, offset);
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        self.inner.add_read_conflict(range);
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        self.writing().add_write_conflict(range);
    }

    async fn commit(self) -> Result<CommitVersion, CommitError> {
        self.around.commit(self.inner, self.wrote).await
    }
}
