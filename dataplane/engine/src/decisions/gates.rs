//! Gates of multipart uploads: parts are published side by side, but never while
//! their upload is being completed or aborted.
//!
//! Order of locks: a slot first, then a gate; who holds a gate waits for no slot.

use async_lock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use quickwater_proto::UploadId;

/// Uploads share gates when there are more of them; that only makes them wait.
const GATES: u128 = 1_024;

/// All gates of this process.
pub(crate) struct Gates(Vec<RwLock<()>>);

impl Gates {
    pub(crate) fn new() -> Self {
        Self((0..GATES).map(|_| RwLock::new(())).collect())
    }

    fn of(&self, upload: UploadId) -> &RwLock<()> {
        &self.0[(upload.0 % GATES) as usize]
    }

    /// To publish a part.
    pub(crate) async fn enter(&self, upload: UploadId) -> RwLockReadGuard<'_, ()> {
        self.of(upload).read().await
    }

    /// To end the upload: waits for those inside and keeps others out.
    pub(crate) async fn close(&self, upload: UploadId) -> RwLockWriteGuard<'_, ()> {
        self.of(upload).write().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn parts_go_side_by_side_and_the_end_goes_alone() {
        let gates = Gates::new();
        let id = UploadId(5);
        let first = gates.enter(id).now_or_never().unwrap();
        let second = gates.enter(id).now_or_never().unwrap();
        assert!(gates.close(id).now_or_never().is_none());
        drop((first, second));
        let _end = gates.close(id).now_or_never().unwrap();
        assert!(gates.enter(id).now_or_never().is_none());
        assert!(gates.enter(UploadId(6)).now_or_never().is_some());
    }
}
