//! Reused buffers for pieces read from files, within a budget of bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quickwater_proto::{UfsError, UfsErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A pool of equal buffers.
#[derive(Debug)]
pub(crate) struct ReadBuffers {
    piece_bytes: usize,
    budget: Arc<Semaphore>,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer on loan.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    pub(crate) bytes: Vec<u8>,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
    _permit: OwnedSemaphorePermit,
}

impl ReadBuffers {
    pub(crate) fn new(piece_bytes: usize, budget_bytes: usize) -> Self {
        let count = (budget_bytes / piece_bytes.max(1)).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            piece_bytes,
            budget: Arc::new(Semaphore::new(count)),
            free: Arc::default(),
        }
    }

    pub(crate) fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    /// An empty buffer with room for one piece.
    pub(crate) async fn take(&self, limit: Duration) -> Result<ReadBuffer, UfsError> {
        let permit = timeout(limit, Arc::clone(&self.budget).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let message = "no memory for reading came free in time";
            return Err(UfsError::new(UfsErrorKind::Throttled, message));
        };
        let reused = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        Ok(ReadBuffer {
            bytes: reused.unwrap_or_else(|| Vec::with_capacity(self.piece_bytes)),
            home: Arc::clone(&self.free),
            _permit: permit,
        })
    }
}

impl ReadBuffer {
    /// The same memory as shared bytes; back in the pool when the last is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // No more buffers exist than the budget has permits, so this is bounded.
        self.home
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn buffers_are_bounded_and_come_back() {
        let pool = ReadBuffers::new(16, 32);
        let short = Duration::from_millis(5);
        let first = pool.take(short).await.unwrap();
        let second = pool.take(short).await.unwrap().into_bytes();
        let error = pool.take(short).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Throttled);
        drop((first, second));
        let again = pool.take(short).await.unwrap();
        assert_eq!((again.bytes.len(), again.bytes.capacity()), (0, 16));
    }
}
