//! Who wrote what lately: decides whether a transaction's reads still hold.
//! Pure: no clock, thread or engine.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::limits::{CONFLICT_WINDOW_BYTES_MAX, TRANSACTION_AGE_MAX};
use super::transaction::KeyRange;

/// Memory charged for an entry beside its keys, bytes.
const ENTRY_BYTES: usize = 96;
/// Writes are forgotten in steps of this.
const STEP: Duration = Duration::from_millis(50);
/// Not worth sweeping below this, bytes.
const SWEEP_BYTES_MIN: usize = 1 << 20;

/// What the window says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Valid,
    Conflict,
    TooOld,
}

/// The last write of every key and range within the age limit.
#[derive(Debug)]
pub(super) struct ConflictWindow {
    keys: BTreeMap<Bytes, u64>,
    /// In order of version.
    ranges: VecDeque<(u64, KeyRange)>,
    /// Writes up to here may be forgotten.
    oldest: u64,
    /// The version that was current at a time, in order of both.
    marks: VecDeque<(Duration, u64)>,
    bytes: usize,
    bytes_after_sweep: usize,
    bytes_max: usize,
}

impl ConflictWindow {
    /// An empty window; transactions that read at `version` or later are judged.
    pub(super) fn new(version: u64) -> Self {
        Self::with_memory(version, CONFLICT_WINDOW_BYTES_MAX)
    }

    fn with_memory(version: u64, bytes_max: usize) -> Self {
        Self {
            keys: BTreeMap::new(),
            ranges: VecDeque::new(),
            oldest: version,
            marks: VecDeque::new(),
            bytes: 0,
            bytes_after_sweep: 0,
            bytes_max,
        }
    }

    /// Whether nothing in `reads` was written after `read_version`.
    pub(super) fn judge(&self, read_version: u64, reads: &[KeyRange]) -> Verdict {
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

    /// `key` was written at `version`.
    pub(super) fn record_key(&mut self, version: u64, key: &Bytes) {
        if self.keys.insert(key.clone(), version).is_none() {
            self.bytes += key.len() + ENTRY_BYTES;
        }
    }

    /// `range` was written at `version`, which is not less than any before.
    pub(super) fn record_range(&mut self, version: u64, range: KeyRange) {
        self.bytes += range_bytes(&range);
        self.ranges.push_back((version, range));
    }

    /// Forgets what no transaction young enough can ask for, and more when the
    /// memory is used up. `current` is the version reads begin at now.
    pub(super) fn advance(&mut self, now: Duration, current: u64) {
        if self.marks.back().is_none_or(|(at, _)| now >= *at + STEP) {
            self.marks.push_back((now, current));
        }
        while self
            .marks
            .get(1)
            .is_some_and(|(at, _)| *at + TRANSACTION_AGE_MAX <= now)
        {
            self.marks.pop_front();
        }
        if let Some((at, version)) = self.marks.front()
            && *at + TRANSACTION_AGE_MAX <= now
        {
            self.oldest = self.oldest.max(*version);
        }
        if self.bytes
            > (2 * self.bytes_after_sweep)
                .max(SWEEP_BYTES_MIN)
                .min(self.bytes_max)
        {
            self.sweep();
        }
        while self.bytes > self.bytes_max / 2 && self.bytes_after_sweep > self.bytes_max / 2 {
            self.forget_half(current);
            if self.oldest == current {
                break;
            }
        }
    }

    /// Gives up the older half of the window.
    fn forget_half(&mut self, current: u64) {
        let half = self.marks.len() / 2;
        self.marks.drain(..half);
        let version = match self.marks.front() {
            Some((_, version)) if half > 0 => *version,
            _ => current,
        };
        self.oldest = self.oldest.max(version);
        self.sweep();
    }

    fn sweep(&mut self) {
        let oldest = self.oldest;
        self.keys.retain(|_, version| *version > oldest);
        while self
            .ranges
            .front()
            .is_some_and(|(version, _)| *version <= oldest)
        {
            self.ranges.pop_front();
        }
        let keys: usize = self.keys.keys().map(|key| key.len() + ENTRY_BYTES).sum();
        let ranges: usize = self
            .ranges
            .iter()
            .map(|(_, range)| range_bytes(range))
            .sum();
        self.bytes = keys + ranges;
        self.bytes_after_sweep = self.bytes;
    }

    fn is_written(&self, range: &KeyRange, after: u64) -> bool {
        if range.is_empty() {
            return false;
        }
        let bounds = (
            Bound::Included(range.start.as_ref()),
            Bound::Excluded(range.end.as_ref()),
        );
        self.keys
            .range::<[u8], _>(bounds)
            .any(|(_, version)| *version > after)
            || self
                .ranges
                .iter()
                .rev()
                .take_while(|(version, _)| *version > after)
                .any(|(_, written)| written.start < range.end && range.start < written.end)
    }
}

fn range_bytes(range: &KeyRange) -> usize {
    range.start.len() + range.end.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn read(name: &str) -> Vec<KeyRange> {
        vec![KeyRange::point(name.as_bytes())]
    }

    #[test]
    fn a_later_write_conflicts_and_an_earlier_one_does_not() {
        let mut window = ConflictWindow::new(10);
        window.record_key(11, &key("b"));
        assert_eq!(window.judge(10, &read("b")), Verdict::Conflict);
        assert_eq!(window.judge(11, &read("b")), Verdict::Valid);
        assert_eq!(window.judge(10, &read("a")), Verdict::Valid);
        assert_eq!(window.judge(10, &[KeyRange::new("a", "b")]), Verdict::Valid);
        assert_eq!(
            window.judge(10, &[KeyRange::new("a", "c")]),
            Verdict::Conflict
        );
        assert_eq!(window.judge(10, &[KeyRange::new("c", "a")]), Verdict::Valid);
        assert_eq!(window.judge(9, &read("z")), Verdict::TooOld);
        assert_eq!(window.judge(9, &[]), Verdict::Valid);
    }

    #[test]
    fn ranges_conflict_where_they_overlap() {
        let mut window = ConflictWindow::new(10);
        window.record_range(11, KeyRange::new("c", "e"));
        window.record_range(12, KeyRange::new("m", "n"));
        assert_eq!(window.judge(10, &read("c")), Verdict::Conflict);
        assert_eq!(window.judge(10, &read("e")), Verdict::Valid);
        assert_eq!(window.judge(11, &read("c")), Verdict::Valid);
        assert_eq!(
            window.judge(11, &[KeyRange::new("a", "z")]),
            Verdict::Conflict
        );
    }

    #[test]
    fn what_is_too_old_to_be_asked_for_is_forgotten() {
        let mut window = ConflictWindow::new(0);
        for second in 0..12 {
            window.record_key(second + 1, &Bytes::from(second.to_string()));
            window.advance(Duration::from_secs(second), second + 1);
        }
        // A transaction that began at second 6 read version 7 or later.
        assert_eq!(window.judge(7, &read("6")), Verdict::Valid);
        assert_eq!(window.judge(7, &read("7")), Verdict::Conflict);
        assert_eq!(window.judge(5, &read("7")), Verdict::TooOld);
        window.sweep();
        assert_eq!(window.keys.len(), 5);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_is_kept_longest() {
        let mut window = ConflictWindow::with_memory(0, 100_000);
        for version in 1..=20_000_u64 {
            window.record_key(version, &Bytes::copy_from_slice(&version.to_be_bytes()));
            window.record_range(version, KeyRange::new("x", "y"));
            window.advance(Duration::from_millis(version), version);
            assert!(window.bytes <= 100_300, "{} bytes", window.bytes);
        }
        assert_eq!(window.judge(1, &read("a")), Verdict::TooOld);
        assert_eq!(window.judge(20_000, &read("a")), Verdict::Valid);
    }

    #[test]
    fn one_burst_beyond_memory_makes_all_before_it_too_old() {
        let mut window = ConflictWindow::with_memory(0, 10_000);
        for name in 0..1_000_u32 {
            window.record_key(1, &Bytes::copy_from_slice(&name.to_be_bytes()));
        }
        window.advance(Duration::ZERO, 1);
        assert_eq!(window.bytes, 0);
        assert_eq!(window.judge(0, &read("a")), Verdict::TooOld);
        assert_eq!(window.judge(1, &read("a")), Verdict::Valid);
    }
}
