//! One writer per key at a time, so that a file system call that was given up but
//! still runs cannot undo a later one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quickwater_proto::{UfsError, UfsErrorKind};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio::time::timeout;

type Table = Mutex<HashMap<String, Arc<Turn<()>>>>;

/// The keys being written.
#[derive(Debug, Default)]
pub(super) struct KeyLocks {
    table: Arc<Table>,
}

/// The right to change a key; given to the thread that does it.
#[derive(Debug)]
pub(super) struct KeyGuard {
    table: Arc<Table>,
    key: String,
    turn: Option<OwnedMutexGuard<()>>,
}

impl KeyLocks {
    /// Waits until nobody else changes the key.
    pub(super) async fn lock(&self, key: &str, limit: Duration) -> Result<KeyGuard, UfsError> {
        let turn = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(table.entry(key.to_owned()).or_default())
        };
        // The guard's drop also clears the table when the wait ends without a turn.
        let mut guard = KeyGuard {
            table: Arc::clone(&self.table),
            key: key.to_owned(),
            turn: None,
        };
        match timeout(limit, turn.lock_owned()).await {
            Ok(turn) => {
                guard.turn = Some(turn);
                Ok(guard)
            }
            Err(_) => {
                let message = format!("an earlier change of '{key}' has not ended");
                Err(UfsError::new(UfsErrorKind::Unavailable, message))
            }
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn = None;
        // Clones are made under this lock only: one reference means no waiter.
        if table
            .get(&self.key)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_per_key_and_no_traces() {
        let locks = KeyLocks::default();
        let short = Duration::from_millis(5);
        let held = locks.lock("a", short).await.unwrap();
        assert!(locks.lock("a", short).await.is_err());
        drop(locks.lock("b", short).await.unwrap());
        drop(held);
        drop(locks.lock("a", short).await.unwrap());
        assert!(locks.table.lock().unwrap().is_empty());
    }
}
