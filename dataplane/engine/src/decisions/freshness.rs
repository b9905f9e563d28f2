//! Which parts of a bucket's namespace were compared with the UFS, and how far.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};
use quickwater_proto::BucketId;

use crate::error::FlowError;

/// Comparisons remembered; the oldest are forgotten first.
const SCANS_MAX: usize = 1_024;
/// Sub-prefixes remembered for one non-recursive comparison. More than this and
/// the comparison has to be recursive.
pub(crate) const PREFIXES_MAX: usize = 100_000;

/// What a comparison covers: keys of `prefix` greater than `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) bucket: BucketId,
    pub(crate) prefix: String,
    pub(crate) from: String,
    /// Only the level right below the prefix.
    pub(crate) one_level: bool,
}

impl Scope {
    /// Whether a comparison of `self` also answers for `other`.
    fn covers(&self, other: &Self) -> bool {
        if self.bucket != other.bucket || self.from > other.from {
            return false;
        }
        if self.one_level {
            return other.one_level && self.prefix == other.prefix;
        }
        other.prefix.starts_with(&self.prefix)
    }
}

/// Progress of one comparison.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// All keys up to and including this one were compared.
    pub(crate) through: String,
    /// Sub-prefixes the UFS has (one-level comparisons).
    pub(crate) prefixes: BTreeSet<String>,
    pub(crate) done: Option<Result<(), FlowError>>,
    /// How long it took, once done.
    pub(crate) took: Duration,
    /// Too many sub-prefixes to remember.
    pub(crate) overflow: bool,
    /// It failed because the UFS is out of reach.
    pub(crate) out_of_reach: bool,
    /// The UFS was out of reach since: it is asked again from then on only.
    pub(crate) ask_again_at: Duration,
}

impl Progress {
    /// It saw all of its scope.
    fn is_whole(&self) -> bool {
        matches!(self.done, Some(Ok(()))) && !self.overflow
    }
}

/// A comparison under way or done.
pub(crate) struct Scan {
    pub(crate) scope: Scope,
    pub(crate) begun: Duration,
    progress: Mutex<Progress>,
    changed: Event,
}

impl Scan {
    pub(crate) fn with<R>(&self, look: impl FnOnce(&Progress) -> R) -> R {
        look(&self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify(usize::MAX);
    }

    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }
}

/// All comparisons of this process.
#[derive(Default)]
pub(crate) struct Freshness {
    scans: Mutex<VecDeque<Arc<Scan>>>,
}

impl Freshness {
    /// A comparison that answers for `scope` and is at most `age_max` old, or a
    /// new one (`true`) that the caller has to run.
    pub(crate) fn find_or_begin(
        &self,
        scope: &Scope,
        now: Duration,
        age_max: Duration,
    ) -> (Arc<Scan>, bool) {
        let scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |scan: &Arc<Scan>| {
            // One that takes longer than its age limit is still worth its run:
            // else the pages of a huge listing would start over each time.
            let age = now.saturating_sub(scan.begun);
            let good = scan.with(|p| match &p.done {
                None => !p.overflow,
                Some(_) => {
                    // `never` is an age no sum with another one fits into.
                    let young = age <= age_max.saturating_add(p.took);
                    let spared = !age_max.is_zero() && now < p.ask_again_at;
                    p.is_whole() && (young || spared)
                }
            });
            good && scan.scope.covers(scope)
        };
        if let Some(scan) = scans.iter().rev().find(|s| usable(s)) {
            return (Arc::clone(scan), false);
        }
        drop(scans);
        (self.begin(scope, now), true)
    }

    /// A comparison of exactly `scope` that began after `since` and did not fail, or a new
    /// one (`true`) that the caller has to run.
    pub(crate) fn find_or_begin_since(
        &self,
        scope: &Scope,
        now: Duration,
        since: Duration,
    ) -> (Arc<Scan>, bool) {
        let scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |scan: &&Arc<Scan>| {
            let good = |p: &Progress| !p.overflow && !matches!(p.done, Some(Err(_)));
            scan.scope == *scope && scan.begun > since && scan.with(good)
        };
        if let Some(scan) = scans.iter().rev().find(usable) {
            return (Arc::clone(scan), false);
        }
        drop(scans);
        (self.begin(scope, now), true)
    }

    /// A new comparison, which the caller has to run.
    pub(crate) fn begin(&self, scope: &Scope, now: Duration) -> Arc<Scan> {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = scans
            .iter()
            .rev()
            .find(|s| s.scope == *scope && s.with(Progress::is_whole))
            .cloned();
        // The last whole one answers if the UFS should be away.
        let is_kept = |s: &Arc<Scan>| whole.as_ref().is_some_and(|whole| Arc::ptr_eq(s, whole));
        scans.retain(|s| s.scope != *scope || is_kept(s) || s.with(|p| p.done.is_none()));
        let scan = Arc::new(Scan {
            scope: scope.clone(),
            begun: now,
            progress: Mutex::default(),
            changed: Event::new(),
        });
        scans.push_back(Arc::clone(&scan));
        while scans.len() > SCANS_MAX {
            scans.pop_front();
        }
        scan
    }

    /// The last comparison that answered for all of `scope`, however old: for when
    /// the UFS cannot be asked, which is not tried again before `ask_again_at`.
    pub(crate) fn last_whole(&self, scope: &Scope, ask_again_at: Duration) -> Option<Arc<Scan>> {
        let scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = |s: &&Arc<Scan>| s.scope.covers(scope) && s.with(Progress::is_whole);
        let scan = scans.iter().filter(answers).max_by_key(|s| s.begun)?;
        scan.update(|p| p.ask_again_at = ask_again_at);
        Some(Arc::clone(scan))
    }

    /// Forgets what is known of a bucket.
    pub(crate) fn forget(&self, bucket: BucketId) {
        let mut scans = self.scans.lock().unwrap_or_else(PoisonError::into_inner);
        scans.retain(|s| s.scope.bucket != bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(prefix: &str, from: &str, one_level: bool) -> Scope {
        Scope {
            bucket: BucketId(1),
            prefix: prefix.into(),
            from: from.into(),
            one_level,
        }
    }

    #[test]
    fn a_wider_scan_answers_for_a_narrower_one() {
        assert!(scope("", "", false).covers(&scope("a/", "a/b", true)));
        assert!(!scope("", "b", false).covers(&scope("a/", "a", false)));
        assert!(!scope("a/", "", true).covers(&scope("a/", "", false)));
        assert!(!scope("a/", "", true).covers(&scope("a/b/", "", true)));
        assert!(scope("a/", "", true).covers(&scope("a/", "a/x", true)));
    }

    #[test]
    fn a_scan_that_is_trusted_for_ever_is_found_again() {
        let all = Freshness::default();
        let (now, never) = (Duration::from_secs(1), Duration::MAX);
        let (scan, _) = all.find_or_begin(&scope("", "", false), now, never);
        scan.update(|p| {
            p.took = Duration::from_millis(1);
            p.done = Some(Ok(()));
        });
        let later = Duration::from_secs(1 << 40);
        assert!(!all.find_or_begin(&scope("", "", false), later, never).1);
    }

    #[test]
    fn the_last_whole_scan_answers_while_the_ufs_is_away() {
        let all = Freshness::default();
        let second = Duration::from_secs(1);
        let again_at = 101 * second;
        let away = || Some(Err(FlowError::Unavailable("away".into())));
        let begin = |now| all.find_or_begin(&scope("a/", "", false), now, second);
        let (failed, _) = begin(second);
        failed.update(|p| p.done = away());
        assert!(all.last_whole(&scope("a/", "", false), again_at).is_none());
        let (whole, _) = begin(2 * second);
        whole.update(|p| p.done = Some(Ok(())));
        for at in [100, 200] {
            let (failed, new) = begin(at * second);
            assert!(new, "too old while the UFS is there");
            failed.update(|p| p.done = away());
            let found = all.last_whole(&scope("a/b", "a/b1", true), again_at);
            assert!(Arc::ptr_eq(&found.unwrap(), &whole));
        }
        let (found, new) = begin(again_at - Duration::from_millis(1));
        assert!(!new && Arc::ptr_eq(&found, &whole), "not asked yet");
        assert!(begin(again_at).1);
        assert!(all.last_whole(&scope("", "", false), again_at).is_none());
    }

    #[test]
    fn old_and_failed_scans_are_run_again() {
        let all = Freshness::default();
        let second = Duration::from_secs(1);
        let (scan, new) = all.find_or_begin(&scope("", "", false), second, second);
        assert!(new);
        assert!(
            !all.find_or_begin(&scope("x", "", true), 9 * second, second)
                .1,
            "under way"
        );
        scan.update(|p| p.done = Some(Ok(())));
        assert!(
            !all.find_or_begin(&scope("x", "", true), 2 * second, second)
                .1
        );
        assert!(
            all.find_or_begin(&scope("x", "", true), 3 * second, second)
                .1
        );
        scan.update(|p| p.done = Some(Err(FlowError::NoSuchBucket)));
        assert!(all.find_or_begin(&scope("", "", false), second, second).1);
    }
}
