//! Who else has the bytes of our keys that no UFS has: learnt from commits and from the
//! rows of slots that were taken in. Absent: copies kept here for others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quickwater_proto::{BlobId, BucketId, NodeId, ObjectKey};

/// Messages to others that copies have ended, at most; those beyond it find out
/// themselves, later.
const ENDED_MAX: usize = 100_000;

/// A body that others have, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Where the object is.
    pub bucket: BucketId,
    /// Its key.
    pub key: ObjectKey,
    /// Its bytes.
    pub bytes: u64,
    /// How many copies there should be, our own included.
    pub copies: usize,
    /// Who else has one.
    pub others: Arc<[NodeId]>,
}

#[derive(Debug, Default)]
struct State {
    of: HashMap<BlobId, Copied>,
    ended: HashMap<NodeId, Vec<BlobId>>,
    waiting: usize,
}

/// Other workers by blob, shared by all shards. Holds no more than there are pending
/// changes and TRANSIENT objects.
#[derive(Debug, Default)]
pub struct CopyHolders(Mutex<State>);

impl CopyHolders {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These others have a blob, nobody else. One that was to have one copy only is not
    /// kept account of.
    pub fn note(&self, blob: BlobId, copied: Copied) {
        let mut state = self.state();
        match copied.copies > 1 {
            true => state.of.insert(blob, copied),
            false => state.of.remove(&blob),
        };
    }

    /// Who else has a blob.
    #[must_use]
    pub fn of(&self, blob: BlobId) -> Arc<[NodeId]> {
        let state = self.state();
        let of = state.of.get(&blob).map(|copied| Arc::clone(&copied.others));
        of.unwrap_or_default()
    }

    /// Bodies for which `wanted` holds, at most `limit`, and how many there are of them.
    pub(crate) fn find(
        &self,
        limit: usize,
        mut wanted: impl FnMut(BlobId, &Copied) -> bool,
    ) -> (Vec<(BlobId, Copied)>, usize) {
        let (mut found, mut count) = (Vec::new(), 0);
        for (blob, copied) in &self.state().of {
            if wanted(*blob, copied) {
                count += 1;
                if found.len() < limit {
                    found.push((*blob, copied.clone()));
                }
            }
        }
        (found, count)
    }

    /// Forgets bodies that are not ours any more: nobody is told.
    pub(crate) fn retain(&self, mut ours: impl FnMut(&Copied) -> bool) {
        self.state().of.retain(|_, copied| ours(copied));
    }

    /// How many blobs others have.
    #[must_use]
    pub fn blobs(&self) -> usize {
        self.state().of.len()
    }

    /// A blob is not needed any more: who has it is told.
    pub(crate) fn end(&self, blob: BlobId) {
        let copied = self.state().of.remove(&blob);
        let others = copied.map(|copied| copied.others).unwrap_or_default();
        self.tell(blob, &others);
    }

    /// The same of copies that were not noted.
    pub(crate) fn tell(&self, blob: BlobId, others: &[NodeId]) {
        let mut state = self.state();
        for node in others {
            if state.waiting >= ENDED_MAX {
                return;
            }
            state.waiting += 1;
            state.ended.entry(node.clone()).or_default().push(blob);
        }
    }

    /// Who is to be told of what.
    pub(crate) fn take_ended(&self) -> HashMap<NodeId, Vec<BlobId>> {
        let mut state = self.state();
        state.waiting = 0;
        std::mem::take(&mut state.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_what_ended_is_told_once() {
        let holders = CopyHolders::default();
        let node = |name: &str| NodeId::new(name).unwrap();
        let (b, c) = (node("b"), node("c"));
        let copied = |others: &[NodeId]| Copied {
            bucket: BucketId(1),
            key: ObjectKey::new("k").unwrap(),
            bytes: 1,
            copies: others.len() + 1,
            others: others.into(),
        };
        holders.note(BlobId(1), copied(&[b.clone(), c.clone()]));
        holders.note(BlobId(2), copied(std::slice::from_ref(&b)));
        holders.note(BlobId(3), copied(&[]));
        assert_eq!(&*holders.of(BlobId(1)), [b.clone(), c.clone()]);
        assert_eq!(holders.blobs(), 2);
        holders.end(BlobId(1));
        holders.end(BlobId(2));
        assert!(holders.of(BlobId(1)).is_empty());
        let ended = holders.take_ended();
        assert_eq!(ended[&b], [BlobId(1), BlobId(2)]);
        assert_eq!(ended[&c], [BlobId(1)]);
        assert!(holders.take_ended().is_empty());
        holders.end(BlobId(3));
        assert!(holders.take_ended().is_empty(), "nobody has it");
        holders.tell(BlobId(4), std::slice::from_ref(&c));
        assert_eq!(holders.take_ended()[&c], [BlobId(4)]);
    }
}
