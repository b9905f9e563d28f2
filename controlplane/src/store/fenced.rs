//! A store as one session of a worker sees it: a commit goes through only while the
//! session is the one that counts, and nothing was taken from the worker since it
//! was judged. All its commits are flushed.
//!
//! The fence is a row read in the transaction itself, so it holds whatever the
//! clocks say and however late a commit arrives.

use std::sync::Arc;

use bytes::Bytes;

use super::around::{Around, Surrounded};
use super::transaction::{CommitError, CommitVersion, Store, StoreError, Transaction};
use crate::records::{Fence, decode_fence};

/// A store behind a fence.
#[derive(Debug, Clone)]
pub struct Fenced<S> {
    store: S,
    gate: Gate,
}

/// What must hold at each commit.
#[derive(Debug, Clone)]
pub struct Gate {
    key: Bytes,
    /// The session, and the table by which its right was judged.
    fence: Fence,
    /// Fence rows of workers whose sessions must be these.
    beside: Arc<[(Vec<u8>, u64)]>,
}

impl<S: Store> Fenced<S> {
    /// `store` for the session and table that `fence` says; `key` is the worker's
    /// fence row.
    #[must_use]
    pub fn new(store: S, key: Vec<u8>, fence: Fence) -> Self {
        let gate = Gate {
            key: key.into(),
            fence,
            beside: Arc::default(),
        };
        Self { store, gate }
    }

    /// Commits only while the sessions of these workers, by their fence rows, are the
    /// ones given, too.
    #[must_use]
    pub fn beside(mut self, others: Vec<(Vec<u8>, u64)>) -> Self {
        self.gate.beside = others.into();
        self
    }
}

impl<S: Store> Store for Fenced<S> {
    type Transaction = Surrounded<S::Transaction, Gate>;

    fn begin(&self) -> Self::Transaction {
        Surrounded::new(self.store.begin(), self.gate.clone())
    }

    async fn flush(&self) -> Result<(), CommitError> {
        self.store.flush().await
    }
}

impl Gate {
    async fn read<T: Transaction>(inner: &mut T, key: &[u8]) -> Result<Fence, CommitError> {
        let row = match inner.get(key).await {
            Ok(row) => row,
            Err(StoreError::TooOld) => return Err(CommitError::TooOld),
            Err(StoreError::Again(why)) => return Err(CommitError::Again(why)),
            Err(error) => {
                tracing::warn!(%error, "a fence cannot be read");
                return Err(CommitError::Unavailable("the fence cannot be read"));
            }
        };
        let Some(row) = row else {
            return Err(CommitError::Unavailable("the worker is not registered"));
        };
        decode_fence(&row).map_err(|error| {
            tracing::error!(%error, "unreadable metadata record");
            CommitError::Unavailable("the fence cannot be read")
        })
    }

    async fn check<T: Transaction>(&self, inner: &mut T) -> Result<(), CommitError> {
        for (key, session) in self.beside.iter() {
            if Self::read(inner, key).await?.session != *session {
                return Err(CommitError::Unavailable(
                    "a worker of these copies is in another session",
                ));
            }
        }
        let found = Self::read(inner, &self.key).await?;
        if found.session != self.fence.session {
            return Err(CommitError::Unavailable("another session has begun"));
        }
        match found.epoch <= self.fence.epoch {
            true => Ok(()),
            false => Err(CommitError::Unavailable("slots were taken meanwhile")),
        }
    }
}

impl<T: Transaction> Around<T> for Gate {
    async fn commit(self, mut inner: T, _: bool) -> Result<CommitVersion, CommitError> {
        self.check(&mut inner).await?;
        inner.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::encode_fence;
    use crate::store::EmbeddedStore;

    const KEY: &[u8] = b"\x60n1";

    async fn fence(store: &EmbeddedStore, session: u64, epoch: u64) {
        let mut transaction = store.begin();
        transaction.set(KEY, &encode_fence(Fence { session, epoch }).unwrap());
        transaction.commit().await.unwrap();
    }

    fn seen(store: &EmbeddedStore, session: u64, epoch: u64) -> Fenced<EmbeddedStore> {
        Fenced::new(store.clone(), KEY.to_vec(), Fence { session, epoch })
    }

    async fn write(store: &Fenced<EmbeddedStore>) -> Result<CommitVersion, CommitError> {
        let mut transaction = store.begin();
        transaction.set(b"\x10a", b"1");
        transaction.commit_relaxed().await
    }

    #[tokio::test]
    async fn only_the_session_that_counts_commits() {
        let store = EmbeddedStore::in_memory().unwrap();
        let (one, two) = (seen(&store, 1, 0), seen(&store, 2, 0));
        write(&one).await.unwrap_err();
        fence(&store, 1, 0).await;
        write(&one).await.unwrap();
        fence(&store, 2, 0).await;
        let refused = CommitError::Unavailable("another session has begun");
        assert_eq!(write(&one).await, Err(refused));
        write(&two).await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_judged_by_an_older_table_is_refused() {
        let store = EmbeddedStore::in_memory().unwrap();
        fence(&store, 1, 5).await;
        write(&seen(&store, 1, 4)).await.unwrap_err();
        write(&seen(&store, 1, 5)).await.unwrap();
        write(&seen(&store, 1, 9)).await.unwrap();
    }

    #[tokio::test]
    async fn a_commit_needs_the_sessions_of_all_who_hold_copies() {
        let store = EmbeddedStore::in_memory().unwrap();
        fence(&store, 1, 0).await;
        let other = |session| vec![(b"\x60n2".to_vec(), session)];
        let with = |session| seen(&store, 1, 0).beside(other(session));
        write(&with(4)).await.unwrap_err();
        let mut transaction = store.begin();
        let row = encode_fence(Fence {
            session: 4,
            epoch: 9,
        });
        transaction.set(b"\x60n2", &row.unwrap());
        transaction.commit().await.unwrap();
        write(&with(4)).await.unwrap();
        let anew = CommitError::Unavailable("a worker of these copies is in another session");
        assert_eq!(write(&with(3)).await, Err(anew));
    }

    #[tokio::test]
    async fn a_fence_that_moves_during_a_transaction_stops_it() {
        let store = EmbeddedStore::in_memory().unwrap();
        fence(&store, 1, 0).await;
        let fenced = seen(&store, 1, 0);
        let mut transaction = fenced.begin();
        transaction.get(b"\x10a").await.unwrap();
        transaction.set(b"\x10a", b"1");
        fence(&store, 2, 0).await;
        // It reads what was there when it began; the commit finds the conflict.
        assert_eq!(transaction.commit().await, Err(CommitError::Conflict));
    }
}
