//! A store in which something else happens around the next commit, whose outcome
//! may then be unknown.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use crate::store::{
    Around, CommitError, CommitVersion, EmbeddedStore, EmbeddedTransaction, Store, Surrounded,
    Transaction,
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
    hook: Hook,
}

#[derive(Clone, Default)]
pub(super) struct Hook {
    next: Arc<Mutex<Option<(Fate, Meanwhile)>>>,
    late: Arc<Mutex<Option<EmbeddedTransaction>>>,
}

impl HookedStore {
    pub(super) fn new(inner: EmbeddedStore) -> Self {
        Self {
            inner,
            hook: Hook::default(),
        }
    }

    /// The next commit has this fate, then `meanwhile` happens.
    pub(super) fn next_commit(
        &self,
        fate: Fate,
        meanwhile: impl Future<Output = ()> + Send + 'static,
    ) {
        *self.hook.next.lock().unwrap() = Some((fate, Box::pin(meanwhile)));
    }

    /// The late commit arrives.
    pub(super) async fn land(&self) -> Result<CommitVersion, CommitError> {
        let late = self.hook.late.lock().unwrap().take();
        late.expect("a commit is late").commit().await
    }
}

impl Store for HookedStore {
    type Transaction = Surrounded<EmbeddedTransaction, Hook>;

    fn begin(&self) -> Self::Transaction {
        Surrounded::new(self.inner.begin(), self.hook.clone())
    }

    async fn flush(&self) -> Result<(), CommitError> {
        self.inner.flush().await
    }
}

impl Around<EmbeddedTransaction> for Hook {
    async fn commit(
        self,
        inner: EmbeddedTransaction,
        _: bool,
    ) -> Result<CommitVersion, CommitError> {
        let next = self.next.lock().unwrap().take();
        let Some((fate, meanwhile)) = next else {
            return inner.commit().await;
        };
        match fate {
            Fate::Overtaken => {
                meanwhile.await;
                return inner.commit().await;
            }
            Fate::Applied => _ = inner.commit().await?,
            Fate::Lost => {}
            Fate::Late => *self.late.lock().unwrap() = Some(inner),
        }
        meanwhile.await;
        Err(CommitError::Unknown)
    }
}
