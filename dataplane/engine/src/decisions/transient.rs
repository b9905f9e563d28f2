//! How much is held here for its whole life (TRANSIENT): nothing but deleting it makes
//! room. Absent: what is still to be persisted (the queue counts that).

use std::sync::atomic::{AtomicU64, Ordering};

use quickwater_proto::{ObjectRecord, PersistState};

/// Counts of current TRANSIENT objects, shared by all shards.
#[derive(Debug, Default)]
pub struct Transient {
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Transient {
    /// A version is current from now on, or was found so at start.
    pub fn add(&self, record: &ObjectRecord) {
        if record.persist == PersistState::Transient {
            self.objects.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(record.size, Ordering::Relaxed);
        }
    }

    /// A version is not current any more.
    pub(crate) fn remove(&self, record: &ObjectRecord) {
        if record.persist == PersistState::Transient {
            self.forget(record.size);
        }
    }

    /// An object of so many bytes is another worker's to see to by now.
    pub fn forget(&self, bytes: u64) {
        take(&self.objects, 1);
        take(&self.bytes, bytes);
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

/// A commit whose outcome nobody knew may be counted once too seldom: never below none.
fn take(from: &AtomicU64, amount: u64) {
    let less = |now: u64| Some(now.saturating_sub(amount));
    let _ = from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}
