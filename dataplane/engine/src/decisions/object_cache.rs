//! Object records kept in memory, bounded, with the time they were last checked
//! against the UFS.
//!
//! Only the holder of a key's slot lock may insert, so that an older record never
//! replaces a newer one.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    known: Known,
    used: bool,
    bytes: usize,
}

type CacheKey = (BucketId, ObjectKey);

#[derive(Default)]
struct Part {
    map: HashMap<CacheKey, Entry>,
    /// Clock hand order: each key once.
    queue: std::collections::VecDeque<CacheKey>,
    bytes: usize,
}

/// The cache, shared by all shards.
pub(crate) struct ObjectCache {
    parts: Vec<Mutex<Part>>,
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

    fn part(&self, key: &CacheKey) -> std::sync::MutexGuard<'_, Part> {
        let index = self.hasher.hash_one(key) as usize % PARTS;
        self.parts[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, bucket: BucketId, key: &ObjectKey) -> Option<Known> {
        let key = (bucket, key.clone());
        let mut part = self.part(&key);
        let entry = part.map.get_mut(&key)?;
        entry.used = true;
        Some(entry.known.clone())
    }

    pub(crate) fn insert(&self, bucket: BucketId, key: &ObjectKey, known: Known) {
        let key = (bucket, key.clone());
        let bytes = entry_bytes(&key, &known);
        let mut part = self.part(&key);
        let entry = Entry {
            known,
            used: false,
            bytes,
        };
        match part.map.insert(key.clone(), entry) {
            Some(old) => part.bytes -= old.bytes,
            None => part.queue.push_back(key),
        }
        part.bytes += bytes;
        part.shrink(self.part_bytes_max);
    }

    /// Forgets when the key was last checked, so that it is checked again.
    pub(crate) fn remove_version(&self, bucket: BucketId, key: &ObjectKey, version: Version) {
        let key = (bucket, key.clone());
        let mut part = self.part(&key);
        if let Some(entry) = part.map.get_mut(&key)
            && entry
                .known
                .record
                .as_ref()
                .is_some_and(|r| r.version == version)
        {
            entry.known.checked = None;
        }
    }

    pub(crate) fn remove(&self, bucket: BucketId, key: &ObjectKey) {
        let key = (bucket, key.clone());
        let mut part = self.part(&key);
        if let Some(old) = part.map.remove(&key) {
            part.bytes -= old.bytes;
            // A re-insert must not queue it twice.
            part.queue.retain(|k| *k != key);
        }
    }
}

impl Part {
    fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some(key) = self.queue.pop_front() else {
                return;
            };
            match self.map.get_mut(&key) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.queue.push_back(key);
                }
                Some(entry) => {
                    self.bytes -= entry.bytes;
                    self.map.remove(&key);
                }
                None => {}
            }
        }
    }
}

fn entry_bytes(key: &CacheKey, known: &Known) -> usize {
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
    ENTRY_BYTES + 2 * key.1.as_str().len() + record
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
        cache.insert(BucketId(1), &key(0), absent.clone());
        for n in 1..20_000 {
            cache.insert(BucketId(1), &key(n), absent.clone());
            assert!(
                cache.get(BucketId(1), &key(0)).is_some(),
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
        cache.insert(
            BucketId(1),
            &key(1),
            Known {
                record: None,
                checked: None,
            },
        );
        cache.remove(BucketId(1), &key(1));
        assert!(cache.get(BucketId(1), &key(1)).is_none());
    }
}
