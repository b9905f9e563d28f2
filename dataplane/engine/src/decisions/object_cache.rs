//! Object records kept in memory, bounded, with the time they were last checked
//! against the UFS.
//!
//! Only the holder of a key's slot lock may insert, so that an older record never
//! replaces a newer one.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use quickwater_proto::{BucketId, ObjectKey, ObjectRecord, Version};

const PARTS: usize = 64;
/// Memory of an entry beside its strings: map slot, Arc, record. Measured
/// generously so that the budget errs on the safe side.
const ENTRY_BYTES: usize = 640;

/// What is known of a key.
#[derive(Clone)]
pub(crate) struct Known {
    /// `None`: known not to exist.
    pub(crate) record: Option<Arc<ObjectRecord>>,
    /// Monotonic time of the last check against the UFS; `None` = never.
    pub(crate) checked: Option<Duration>,
}

struct Entry {
    /// Kept, so that growing and evicting hash nothing again.
    hash: u64,
    bucket: BucketId,
    key: ObjectKey,
    known: Known,
    used: bool,
    bytes: usize,
}

impl Entry {
    fn is(&self, bucket: BucketId, key: &str) -> bool {
        self.bucket == bucket && self.key.as_str() == key
    }
}

#[derive(Default)]
struct Part {
    map: HashTable<Entry>,
    /// Clock hand order: each key once.
    queue: VecDeque<(u64, BucketId, ObjectKey)>,
    bytes: usize,
}

/// The cache, shared by all shards.
pub(crate) struct ObjectCache {
    parts: Vec<Mutex<Part>>,
    /// Keyed at random: clients choose the keys.
    hasher: RandomState,
    part_bytes_max: usize,
}

impl ObjectCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            part_bytes_max: bytes_max / PARTS,
        }
    }

    fn hash(&self, bucket: BucketId, key: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(bucket.0);
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// The table takes the hash's low and top bits; these are neither.
    fn part(&self, hash: u64) -> MutexGuard<'_, Part> {
        let index = (hash >> 40) as usize % PARTS;
        self.parts[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a key: one hash, one short lock, no allocation.
    pub(crate) fn get(&self, bucket: BucketId, key: &str) -> Option<Known> {
        let hash = self.hash(bucket, key);
        let mut part = self.part(hash);
        let entry = part.map.find_mut(hash, |e| e.is(bucket, key))?;
        entry.used = true;
        Some(entry.known.clone())
    }

    /// Remembers, unless `counts` says that it must not be known any more. Asked under
    /// the lock that [`Self::clear`] takes: what makes it say so and then clears finds
    /// nothing left.
    pub(crate) fn insert_if(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        known: Known,
        counts: impl FnOnce() -> bool,
    ) {
        let hash = self.hash(bucket, key.as_str());
        let bytes = entry_bytes(key, &known);
        let fresh = Entry {
            hash,
            bucket,
            key: key.clone(),
            known,
            used: false,
            bytes,
        };
        let mut part = self.part(hash);
        if !counts() {
            drop(part);
            self.remove(bucket, key);
            return;
        }
        let same = |e: &Entry| e.is(bucket, key.as_str());
        match part.map.entry(hash, same, |e| e.hash) {
            Slot::Occupied(mut old) => {
                let old = std::mem::replace(old.get_mut(), fresh);
                part.bytes -= old.bytes;
            }
            Slot::Vacant(place) => {
                place.insert(fresh);
                part.queue.push_back((hash, bucket, key.clone()));
            }
        }
        part.bytes += bytes;
        part.shrink(self.part_bytes_max);
    }

    /// Forgets when the key was last checked, so that it is checked again.
    pub(crate) fn remove_version(&self, bucket: BucketId, key: &ObjectKey, version: Version) {
        let hash = self.hash(bucket, key.as_str());
        let mut part = self.part(hash);
        let entry = part.map.find_mut(hash, |e| e.is(bucket, key.as_str()));
        if let Some(entry) = entry
            && entry
                .known
                .record
                .as_ref()
                .is_some_and(|r| r.version == version)
        {
            entry.known.checked = None;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for part in &self.parts {
            *part.lock().unwrap_or_else(PoisonError::into_inner) = Part::default();
        }
    }

    pub(crate) fn remove(&self, bucket: BucketId, key: &ObjectKey) {
        let hash = self.hash(bucket, key.as_str());
        let mut part = self.part(hash);
        if let Some(old) = part.take(hash, bucket, key) {
            part.bytes -= old.bytes;
            // A re-insert must not queue it twice.
            part.queue.retain(|(_, b, k)| *b != bucket || k != key);
        }
    }
}

impl Part {
    fn take(&mut self, hash: u64, bucket: BucketId, key: &ObjectKey) -> Option<Entry> {
        let found = self
            .map
            .find_entry(hash, |e| e.is(bucket, key.as_str()))
            .ok()?;
        Some(found.remove().0)
    }

    fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some((hash, bucket, key)) = self.queue.pop_front() else {
                return;
            };
            match self.map.find_mut(hash, |e| e.is(bucket, key.as_str())) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.queue.push_back((hash, bucket, key));
                }
                Some(_) => {
                    if let Some(old) = self.take(hash, bucket, &key) {
                        self.bytes -= old.bytes;
                    }
                }
                None => {}
            }
        }
    }
}

fn entry_bytes(key: &ObjectKey, known: &Known) -> usize {
    let record = known.record.as_ref().map_or(0, |r| {
        let pairs = |list: &[(String, String)]| -> usize {
            list.iter().map(|(a, b)| a.len() + b.len() + 64).sum()
        };
        r.extents.len() * 32
            + r.parts.len() * 160
            + r.checksums.len() * 96
            + pairs(&r.headers.user)
            + pairs(&r.tags)
            + 256
    });
    ENTRY_BYTES + 2 * key.as_str().len() + record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> ObjectKey {
        ObjectKey::new(&format!("key-{n}")).unwrap()
    }

    #[test]
    fn stays_within_its_budget_and_keeps_what_is_used() {
        let cache = ObjectCache::new(PARTS * 10 * ENTRY_BYTES);
        let absent = Known {
            record: None,
            checked: None,
        };
        cache.insert_if(BucketId(1), &key(0), absent.clone(), || true);
        for n in 1..20_000 {
            cache.insert_if(BucketId(1), &key(n), absent.clone(), || true);
            assert!(
                cache.get(BucketId(1), "key-0").is_some(),
                "evicted the hot key at {n}"
            );
        }
        let held: usize = cache.parts.iter().map(|p| p.lock().unwrap().bytes).sum();
        assert!(held <= PARTS * 10 * ENTRY_BYTES, "{held}");
        let queued: usize = cache
            .parts
            .iter()
            .map(|p| p.lock().unwrap().queue.len())
            .sum();
        let mapped: usize = cache
            .parts
            .iter()
            .map(|p| p.lock().unwrap().map.len())
            .sum();
        assert_eq!(queued, mapped);
    }

    #[test]
    fn removed_is_gone() {
        let cache = ObjectCache::new(1 << 20);
        let known = Known {
            record: None,
            checked: None,
        };
        cache.insert_if(BucketId(1), &key(1), known.clone(), || true);
        // What does not count any more is not remembered, and what was there neither.
        cache.insert_if(BucketId(1), &key(1), known.clone(), || false);
        assert!(cache.get(BucketId(1), key(1).as_str()).is_none());
        cache.insert_if(BucketId(1), &key(1), known, || true);
        cache.remove(BucketId(1), &key(1));
        assert!(cache.get(BucketId(1), "key-1").is_none());
    }
}
