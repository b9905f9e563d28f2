//! An engine in memory: a model for tests, gone with the process.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::engine::{Batch, Durability, Engine, EngineError, RowIterator, Snapshot};
use super::transaction::{KeyRange, Row};

/// An engine that keeps every row in memory.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    rows: Arc<RwLock<Versions>>,
}

/// Every row with the values that a live snapshot may still need.
#[derive(Debug, Default)]
struct Versions {
    /// Newest value last.
    rows: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    /// Removed rows, to be dropped once no snapshot is older.
    removed: VecDeque<(u64, Bytes)>,
    /// Live snapshots by batch number.
    snapshots: BTreeMap<u64, usize>,
    last: u64,
}

impl Versions {
    fn oldest(&self) -> u64 {
        self.snapshots.keys().next().copied().unwrap_or(self.last)
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>, oldest: u64) {
        if value.is_none() {
            self.removed.push_back((self.last, key.clone()));
        }
        let versions = self.rows.entry(key).or_default();
        versions.push((self.last, value));
        let visible = versions
            .iter()
            .rposition(|(at, _)| *at <= oldest)
            .unwrap_or(0);
        versions.drain(..visible);
    }

    fn drop_removed(&mut self, oldest: u64) {
        while self.removed.front().is_some_and(|(at, _)| *at <= oldest) {
            let Some((_, key)) = self.removed.pop_front() else {
                return;
            };
            let last = self.rows.get(&key).and_then(|versions| versions.last());
            if last.is_some_and(|(at, value)| *at <= oldest && value.is_none()) {
                self.rows.remove(&key);
            }
        }
    }
}

/// What `versions` held at batch `at`.
fn visible(versions: &[(u64, Option<Bytes>)], at: u64) -> Option<&Bytes> {
    versions
        .iter()
        .rev()
        .find(|(version, _)| *version <= at)?
        .1
        .as_ref()
}

impl MemoryEngine {
    fn write(&self) -> RwLockWriteGuard<'_, Versions> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        let mut versions = self.write();
        let at = versions.last;
        *versions.snapshots.entry(at).or_default() += 1;
        Ok(Arc::new(MemorySnapshot {
            rows: Arc::clone(&self.rows),
            at,
        }))
    }

    fn apply(&self, batch: Batch, _: Durability) -> Result<(), EngineError> {
        let mut versions = self.write();
        let oldest = versions.oldest();
        versions.last += 1;
        for (key, value) in batch {
            versions.write(key, value, oldest);
        }
        versions.drop_removed(oldest);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

struct MemorySnapshot {
    rows: Arc<RwLock<Versions>>,
    at: u64,
}

impl MemorySnapshot {
    fn read(&self) -> RwLockReadGuard<'_, Versions> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first (or last) row between the bounds.
    fn next(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>), reverse: bool) -> Option<Row> {
        let versions = self.read();
        let mut rows = versions.rows.range::<[u8], _>(bounds);
        let row = |(key, versions): (&Bytes, &Vec<_>)| {
            let value = visible(versions, self.at)?.clone();
            Some(Row {
                key: key.clone(),
                value,
            })
        };
        if reverse {
            rows.rev().find_map(row)
        } else {
            rows.find_map(row)
        }
    }
}

impl Snapshot for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let versions = self.read();
        Ok(versions
            .rows
            .get(key)
            .and_then(|row| visible(row, self.at))
            .cloned())
    }

    fn scan<'a>(&'a self, range: &KeyRange, reverse: bool) -> RowIterator<'a> {
        let KeyRange { start, end } = range.clone();
        let mut last: Option<Bytes> = None;
        Box::new(std::iter::from_fn(move || {
            if start >= end {
                return None;
            }
            let bounds = match (&last, reverse) {
                (None, _) => (
                    Bound::Included(start.as_ref()),
                    Bound::Excluded(end.as_ref()),
                ),
                (Some(key), false) => {
                    (Bound::Excluded(key.as_ref()), Bound::Excluded(end.as_ref()))
                }
                (Some(key), true) => (
                    Bound::Included(start.as_ref()),
                    Bound::Excluded(key.as_ref()),
                ),
            };
            if let (Bound::Excluded(from), Bound::Excluded(to)) = bounds
                && from >= to
            {
                return None;
            }
            let row = self.next(bounds, reverse)?;
            last = Some(row.key.clone());
            Some(Ok(row))
        }))
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut versions = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = versions.snapshots.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                versions.snapshots.remove(&self.at);
            }
        }
    }
}
