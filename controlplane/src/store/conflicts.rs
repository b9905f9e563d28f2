//! Who wrote what lately: decides whether a transaction's reads still hold.
//! Pure: no clock, thread or engine.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::time::Duration;

use bytes::Bytes;

use super::generation::Generation;
use super::limits::{CONFLICT_WINDOW_BYTES_MAX, TRANSACTION_AGE_MAX};
use super::transaction::KeyRange;

/// Memory charged for a range beside its keys, bytes.
const RANGE_BYTES: usize = 160;
/// Memory charged for a row of `last`, bytes: with a table half full.
const LAST_BYTES: usize = 40;
/// Writes are forgotten in steps of this.
const STEP: Duration = Duration::from_millis(50);
/// And of this part of the memory.
const STEP_MEMORY_PART: usize = 64;

/// What the window says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Valid,
    Conflict,
    TooOld,
}

/// The writes within the age limit.
#[derive(Debug)]
pub(super) struct ConflictWindow {
    /// The last write of every key, by the key's fingerprint. Keys that share one
    /// conflict with each other, which costs a retry and is as rare as it is.
    last: HashMap<u64, u64, BuildHasherDefault<Ready>>,
    /// Fingerprints differ between processes: nobody can make keys share one.
    fingerprints: RandomState,
    /// Every key written, oldest first; never empty.
    generations: VecDeque<Generation>,
    /// In order of version.
    ranges: VecDeque<(u64, KeyRange)>,
    /// Writes up to here may be forgotten.
    oldest: u64,
    bytes: usize,
    bytes_max: usize,
}

impl ConflictWindow {
    /// An empty window; transactions that read at `version` or later are judged.
    pub(super) fn new(version: u64) -> Self {
        Self::with_memory(version, CONFLICT_WINDOW_BYTES_MAX)
    }

    fn with_memory(version: u64, bytes_max: usize) -> Self {
        Self {
            last: HashMap::default(),
            fingerprints: RandomState::new(),
            generations: VecDeque::from([Generation::new(Duration::ZERO, version)]),
            ranges: VecDeque::new(),
            oldest: version,
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether nothing in `reads` was written after `read_version`.
    pub(super) fn judge(&mut self, read_version: u64, reads: &[KeyRange]) -> Verdict {
        if reads.is_empty() {
            Verdict::Valid
        } else if read_version < self.oldest {
            Verdict::TooOld
        } else if reads
            .iter()
            .any(|range| self.is_written(range, read_version))
        {
            Verdict::Conflict
        } else {
            Verdict::Valid
        }
    }

    /// `key` was written at `version`, which is not less than any before.
    pub(super) fn record_key(&mut self, version: u64, key: &Bytes) {
        let fingerprint = self.fingerprints.hash_one(key.as_ref());
        self.last.insert(fingerprint, version);
        if let Some(open) = self.generations.back_mut() {
            self.bytes += LAST_BYTES + open.record(version, fingerprint, key);
        }
    }

    /// `range` was written at `version`, which is not less than any before.
    pub(super) fn record_range(&mut self, version: u64, range: KeyRange) {
        self.bytes += range_bytes(&range);
        self.ranges.push_back((version, range));
    }

    /// Forgets what no transaction young enough can ask for, and more when the
    /// memory is used up. `current` is the version reads begin at now, and of the
    /// last write.
    pub(super) fn advance(&mut self, now: Duration, current: u64) {
        let step_bytes = self.bytes_max / STEP_MEMORY_PART;
        let is_over = |open: &Generation| now >= open.began + STEP || open.bytes() >= step_bytes;
        if self.generations.back().is_none_or(is_over) {
            self.begin_generation(now, current);
        }
        let is_old = |generation: &Generation| generation.began + TRANSACTION_AGE_MAX <= now;
        while self.generations.get(1).is_some_and(is_old) {
            self.forget_generation();
        }
        if let Some(first) = self.generations.front().filter(|first| is_old(first)) {
            self.oldest = self.oldest.max(first.after);
        }
        while self.bytes > self.bytes_max && self.oldest < current {
            if self.generations.len() == 1 {
                self.begin_generation(now, current);
            }
            self.forget_generation();
        }
        self.forget_ranges();
    }

    /// Only between batches: the writes of a version stay together.
    fn begin_generation(&mut self, now: Duration, current: u64) {
        if let Some(open) = self.generations.back_mut() {
            open.close();
        }
        self.generations.push_back(Generation::new(now, current));
    }

    /// Gives up the oldest writes.
    fn forget_generation(&mut self) {
        let Some(forgotten) = self.generations.pop_front() else {
            return;
        };
        self.bytes -= forgotten.bytes();
        for (fingerprint, version) in forgotten.writes() {
            self.bytes -= LAST_BYTES;
            if let Entry::Occupied(last) = self.last.entry(fingerprint)
                && *last.get() == version
            {
                last.remove();
            }
        }
        if let Some(first) = self.generations.front() {
            self.oldest = self.oldest.max(first.after);
        }
        self.forget_ranges();
    }

    fn forget_ranges(&mut self) {
        while let Some((version, range)) = self.ranges.front()
            && *version <= self.oldest
        {
            self.bytes -= range_bytes(range);
            self.ranges.pop_front();
        }
    }

    fn is_written(&mut self, range: &KeyRange, after: u64) -> bool {
        if range.is_empty() {
            return false;
        }
        let keys = match range.is_point() {
            true => self.is_key_written(&range.start, after),
            false => self.is_range_written(range, after),
        };
        keys || self
            .ranges
            .iter()
            .rev()
            .take_while(|(version, _)| *version > after)
            .any(|(_, written)| written.start < range.end && range.start < written.end)
    }

    fn is_key_written(&self, key: &Bytes, after: u64) -> bool {
        let fingerprint = self.fingerprints.hash_one(key.as_ref());
        self.last
            .get(&fingerprint)
            .is_some_and(|version| *version > after)
    }

    /// Looks through the generations newer than `after`.
    fn is_range_written(&mut self, range: &KeyRange, after: u64) -> bool {
        let closed = self.generations.len().saturating_sub(1);
        for (number, generation) in self.generations.iter_mut().enumerate().rev() {
            if number < closed {
                generation.sort();
            }
            if generation.is_written(range, after) {
                return true;
            }
            if generation.after <= after {
                break;
            }
        }
        false
    }
}

fn range_bytes(range: &KeyRange) -> usize {
    range.start.len() + range.end.len() + RANGE_BYTES
}

/// Hashes what is a hash already.
#[derive(Debug, Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
