//! GETs per mount. A shard finds the counters of a bucket in a table of its own; only
//! for a bucket it has not seen yet does it ask for them, under a lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use quickwater_engine::CacheResult;

use super::hot::{RESULTS, result_label};
use super::{Metric, Metrics, Samples};

/// Buckets with counters of their own, each some series for ever; GETs of others are
/// counted together.
pub(super) const NAMED_MAX: usize = 256;
/// What those others are called; no bucket can have this name.
pub(super) const OTHERS: &str = "_others";

type Counts = [AtomicU64; RESULTS.len()];

/// The counters of all buckets that were read since the start.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    named: Mutex<HashMap<Box<str>, Arc<Counts>>>,
    others: Arc<Counts>,
}

impl Mounts {
    fn of(&self, bucket: &str) -> Arc<Counts> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = named.get(bucket) {
            return Arc::clone(counts);
        }
        if named.len() >= NAMED_MAX {
            return Arc::clone(&self.others);
        }
        let counts = Arc::<Counts>::default();
        named.insert(bucket.into(), Arc::clone(&counts));
        counts
    }

    pub(super) fn read(&self, samples: &mut Samples) {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<(&str, &Counts)> = named.iter().map(|(b, c)| (&**b, &**c)).collect();
        rows.sort_unstable_by_key(|(bucket, _)| *bucket);
        if named.len() >= NAMED_MAX {
            rows.push((OTHERS, &self.others));
        }
        for (bucket, counts) in rows {
            for result in RESULTS {
                let labels = [bucket, result_label(result)];
                let count = counts[result as usize].load(Relaxed);
                samples.count(Metric::MountRequests, &labels, count);
            }
        }
    }
}

/// One shard's way to count GETs by mount. A clone has a table of its own.
#[derive(Debug, Clone)]
pub struct MountCounts {
    metrics: Arc<Metrics>,
    known: RefCell<HashMap<Box<str>, Arc<Counts>>>,
}

impl MountCounts {
    /// Counts into `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            known: RefCell::default(),
        }
    }

    /// Counts where the bytes of a GET were.
    pub fn count(&self, bucket: &str, result: CacheResult) {
        let mut known = self.known.borrow_mut();
        if let Some(counts) = known.get(bucket) {
            counts[result as usize].fetch_add(1, Relaxed);
            return;
        }
        let mounts = &self.metrics.mounts;
        let counts = match known.len() < NAMED_MAX {
            true => mounts.of(bucket),
            false => Arc::clone(&mounts.others),
        };
        counts[result as usize].fetch_add(1, Relaxed);
        if known.len() < NAMED_MAX {
            known.insert(bucket.into(), counts);
        }
    }
}
