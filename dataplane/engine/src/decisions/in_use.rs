//! Uploads that a client goes on with at the moment: no sweep ends them. Absent: what
//! it does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quickwater_proto::UploadId;

/// How many requests go on with each upload, shared by all shards.
#[derive(Default)]
pub(crate) struct InUse(Mutex<HashMap<UploadId, usize>>);

/// A request that goes on with an upload until this is dropped.
pub(crate) struct Use {
    all: Arc<InUse>,
    of: UploadId,
}

impl InUse {
    fn counts(&self) -> MutexGuard<'_, HashMap<UploadId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of an upload begins to come, or its Complete begins.
    pub(crate) fn begin(self: &Arc<Self>, of: UploadId) -> Use {
        *self.counts().entry(of).or_default() += 1;
        let all = Arc::clone(self);
        Use { all, of }
    }

    /// Whether a client goes on with an upload at the moment.
    pub(crate) fn any_of(&self, of: UploadId) -> bool {
        self.counts().contains_key(&of)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.all.counts().entry(self.of) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_in_use_until_the_last_request_ends() {
        let all = Arc::new(InUse::default());
        let first = all.begin(UploadId(1));
        let second = all.begin(UploadId(1));
        drop(first);
        assert!(all.any_of(UploadId(1)) && !all.any_of(UploadId(2)));
        drop(second);
        assert!(!all.any_of(UploadId(1)));
    }
}
