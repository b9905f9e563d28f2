//! Below which folders the UFS lost keys, and when: what a comparison remembers of such a
//! folder may be gone with them. Absent: the clock, who asks other workers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::BucketId;

use crate::flows::list::successor;

/// Most memory for names of folders, bytes as counted: then all are forgotten.
const BYTES_MAX: usize = 2 << 20;
/// What an entry takes besides its name, about.
const ENTRY_BYTES: usize = 96;
/// Folders told at a time; of more only the time of the last delete is told.
const TOLD_MAX: usize = 1_000;
/// Bytes of their names likewise: they travel in one message.
const TOLD_BYTES_MAX: usize = 256 << 10;
/// Clocks of two machines differ by less than one part in so many.
const DRIFT: u32 = 1_000;

/// What deletes did to the folders right below a prefix. All times are ages: they mean the
/// same to another worker, whose clock is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeletesBelow {
    /// Keys below the prefix are gone that the UFS still has.
    pub unsent: bool,
    /// Every delete that is younger is told of.
    pub known_for: Duration,
    /// Folders that lost a key, and how long ago the last one.
    pub folders: HashMap<String, Duration>,
}

impl DeletesBelow {
    /// Nothing is known, not even that nothing was deleted.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            unsent: true,
            ..Self::default()
        }
    }

    /// There are none.
    #[must_use]
    pub fn none() -> Self {
        Self {
            known_for: Duration::MAX,
            ..Self::default()
        }
    }

    /// Adds what another one knows, at the same time or a little before.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.unsent |= other.unsent;
        self.known_for = self.known_for.min(other.known_for);
        for (folder, age) in other.folders {
            let known = self.folders.entry(folder).or_insert(age);
            *known = age.min(*known);
        }
        self
    }

    /// Whether `folder` may have lost a key in the time given. Two times may be counted by
    /// different clocks.
    pub(crate) fn touched(&self, folder: &str, within: Duration) -> bool {
        let within = within.saturating_add(within / DRIFT);
        let touched = |age: &Duration| *age <= within;
        self.known_for <= within || self.folders.get(folder).is_some_and(touched)
    }
}

/// The deletes of this process that the UFS has applied. A folder that lost keys again and
/// again is kept once.
#[derive(Default)]
pub(crate) struct RecentDeletes(Mutex<Log>);

#[derive(Default)]
struct Log {
    /// When folders last lost a key, whatever is between them and the key; `""`: the bucket.
    folders: BTreeMap<(BucketId, String), Duration>,
    bytes: usize,
    /// Nothing is missing since then; `None`: nobody has asked or told yet.
    since: Option<Duration>,
    /// The table of owners by which others were asked last.
    table: u64,
}

impl RecentDeletes {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The UFS has a key no more; to be called after it said so, and before anybody else
    /// learns of it.
    pub(crate) fn note(&self, bucket: BucketId, key: &str, now: Duration) {
        let mut log = self.log();
        log.since.get_or_insert(now);
        let folders = key.match_indices('/').map(|(at, _)| &key[..=at]);
        for folder in std::iter::once("").chain(folders) {
            let name = (bucket, folder.to_owned());
            if log.folders.insert(name, now).is_none() {
                log.bytes += ENTRY_BYTES + folder.len();
            }
        }
        if log.bytes > BYTES_MAX {
            log.forget(now);
        }
    }

    /// Other workers are asked by this table of owners: of what was deleted before by those
    /// that are not in it any more nobody can tell.
    pub(crate) fn note_table(&self, table: u64, now: Duration) {
        let mut log = self.log();
        if log.table != table {
            log.table = table;
            log.forget(now);
        }
    }

    /// The folders right below `prefix`, which is empty or ends with `/`, that lost keys.
    pub(crate) fn below(&self, bucket: BucketId, prefix: &str, now: Duration) -> DeletesBelow {
        let mut log = self.log();
        let since = *log.since.get_or_insert(now);
        let age = |at: Duration| now.saturating_sub(at);
        let mut found = DeletesBelow {
            unsent: false,
            known_for: age(since),
            folders: HashMap::new(),
        };
        let whole = (bucket, prefix.to_owned());
        let Some(last) = log.folders.get(&whole).copied() else {
            return found;
        };
        let mut told_bytes = 0;
        let mut from = Bound::Excluded(whole);
        while let Some(((of, name), at)) = log.folders.range((from, Bound::Unbounded)).next() {
            // What is deeper has an entry for this level, which is first.
            if *of != bucket || !name.starts_with(prefix) {
                break;
            }
            told_bytes += name.len();
            if found.folders.len() == TOLD_MAX || told_bytes > TOLD_BYTES_MAX {
                found.folders.clear();
                found.known_for = age(last);
                break;
            }
            found.folders.insert(name.clone(), age(*at));
            from = Bound::Included((bucket, successor(name)));
        }
        found
    }
}

impl Log {
    fn forget(&mut self, now: Duration) {
        self.folders.clear();
        self.bytes = 0;
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_folder_above_a_key_is_touched_for_those_who_looked_before() {
        let deletes = RecentDeletes::default();
        deletes.below(BUCKET, "", Duration::ZERO);
        deletes.note(BUCKET, "a/b/c/k", 10 * SECOND);
        deletes.note(BUCKET, "a/d/k", 15 * SECOND);
        deletes.note(BucketId(2), "a/e/k", 15 * SECOND);
        let below = |prefix| deletes.below(BUCKET, prefix, 20 * SECOND);
        for (prefix, folder, age) in [("", "a/", 5), ("a/", "a/b/", 10), ("a/b/", "a/b/c/", 10)] {
            let seen = below(prefix);
            assert!(seen.touched(folder, age * SECOND), "{folder}");
            assert!(!seen.touched(folder, (age - 1) * SECOND), "{folder}");
        }
        let names = |prefix| {
            let mut names: Vec<_> = below(prefix).folders.into_keys().collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["a/"]);
        assert_eq!(names("a/"), ["a/b/", "a/d/"]);
        assert!(names("a/b/c/").is_empty() && names("b/").is_empty());
        assert!(!below("a/").touched("a/z/", 19 * SECOND));
        assert!(below("a/").touched("a/z/", 20 * SECOND), "nobody knows");
    }

    #[test]
    fn what_is_forgotten_is_not_taken_for_untouched() {
        let deletes = RecentDeletes::default();
        deletes.below(BUCKET, "", Duration::ZERO);
        let long = "x".repeat(900);
        for number in 0..3_000 {
            deletes.note(BUCKET, &format!("{long}{number}/k"), 10 * SECOND);
        }
        assert!(deletes.log().bytes <= BYTES_MAX);
        let seen = deletes.below(BUCKET, "", 20 * SECOND);
        assert!(seen.touched("elsewhere/", 10 * SECOND));
        assert!(!seen.touched("elsewhere/", 9 * SECOND));
    }

    #[test]
    fn of_too_many_folders_the_last_delete_is_told() {
        let deletes = RecentDeletes::default();
        deletes.below(BUCKET, "", Duration::ZERO);
        for number in 0..=TOLD_MAX {
            let at = SECOND * u32::try_from(number).unwrap();
            deletes.note(BUCKET, &format!("a/{number}/k"), at);
        }
        let seen = deletes.below(BUCKET, "a/", 1_010 * SECOND);
        assert!(seen.folders.is_empty());
        assert!(seen.touched("a/0/", 10 * SECOND) && !seen.touched("a/0/", 9 * SECOND));
        assert_eq!(deletes.below(BUCKET, "", 1_010 * SECOND).folders.len(), 1);
    }

    #[test]
    fn another_table_of_owners_begins_anew() {
        let deletes = RecentDeletes::default();
        deletes.note_table(7, SECOND);
        deletes.note_table(7, 5 * SECOND);
        let known = |now| deletes.below(BUCKET, "", now).known_for;
        assert_eq!(known(11 * SECOND), 10 * SECOND);
        deletes.note_table(8, 11 * SECOND);
        assert_eq!(known(12 * SECOND), SECOND);
    }

    #[test]
    fn the_youngest_of_all_workers_counts() {
        let one = |age: u32| DeletesBelow {
            known_for: 100 * SECOND,
            folders: HashMap::from([("a/".into(), age * SECOND)]),
            ..DeletesBelow::none()
        };
        let both = DeletesBelow::none().and(one(9)).and(one(5)).and(one(7));
        assert!(both.touched("a/", 5 * SECOND) && !both.touched("a/", 4 * SECOND));
        assert_eq!(both.known_for, 100 * SECOND);
        assert!(!both.clone().unsent && both.and(DeletesBelow::unknown()).unsent);
        assert!(!DeletesBelow::none().touched("a/", Duration::from_secs(1 << 40)));
    }
}
