//! What is held here for its whole life (TRANSIENT): nothing but deleting it makes
//! room. Absent: what is still to be persisted (the queue counts that).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quickwater_proto::{ObjectRecord, PersistState, Version};

/// An object: its slot and its bytes.
type Held = (usize, u64);

/// Current TRANSIENT objects of the slots that are ours, shared by all shards. There are no
/// more of them than dirty space holds.
#[derive(Debug, Default)]
pub struct Transient {
    held: Mutex<HashMap<Version, Held>>,
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Transient {
    fn held(&self) -> MutexGuard<'_, HashMap<Version, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version of a key of this slot is current from now on, or was found so.
    pub fn add(&self, record: &ObjectRecord, slot: usize) {
        if record.persist == PersistState::Transient {
            let mut held = self.held();
            if let Some((_, bytes)) = held.insert(record.version, (slot, record.size)) {
                self.count_out(1, bytes);
            }
            self.objects.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(record.size, Ordering::Relaxed);
        }
    }

    /// A version is not current any more.
    pub(crate) fn remove(&self, record: &ObjectRecord) {
        if record.persist == PersistState::Transient
            && let Some((_, bytes)) = self.held().remove(&record.version)
        {
            self.count_out(1, bytes);
        }
    }

    /// These slots are not ours any more, or are about to be looked through anew.
    pub fn let_go(&self, given: impl Fn(usize) -> bool) {
        let (mut objects, mut total) = (0, 0);
        self.held().retain(|_, (slot, bytes)| {
            let goes = given(*slot);
            if goes {
                objects += 1;
                total += *bytes;
            }
            !goes
        });
        self.count_out(objects, total);
    }

    fn count_out(&self, objects: u64, bytes: u64) {
        self.objects.fetch_sub(objects, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Objects.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Bytes of these objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: u128, size: u64, persist: PersistState) -> ObjectRecord {
        ObjectRecord {
            version: Version(version),
            size,
            etag: quickwater_proto::ETag::new("e"),
            modified_ms: 0,
            headers: Default::default(),
            checksums: Vec::new(),
            tags: Vec::new(),
            extents: Vec::new(),
            parts: Vec::new(),
            ufs: None,
            persist,
            partial: false,
        }
    }

    #[test]
    fn each_version_counts_once_and_goes_with_its_slot() {
        let transient = Transient::default();
        let held = |version, size| record(version, size, PersistState::Transient);
        transient.add(&held(1, 10), 3);
        transient.add(&held(1, 10), 3);
        transient.add(&held(2, 20), 4);
        transient.add(&held(3, 40), 5);
        transient.add(&record(4, 80, PersistState::Persisted), 5);
        assert_eq!((transient.objects(), transient.bytes()), (3, 70));
        transient.remove(&held(2, 20));
        transient.remove(&held(2, 20));
        assert_eq!((transient.objects(), transient.bytes()), (2, 50));
        transient.let_go(|slot| slot == 5);
        assert_eq!((transient.objects(), transient.bytes()), (1, 10));
    }
}
