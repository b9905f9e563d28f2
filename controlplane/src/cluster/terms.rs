//! Whether the metadata are those that a worker has seen, or older ones: a backup, a
//! snapshot, an export. Pure.
//!
//! As in a log of Raft, a place in the history of the metadata is a term and a number: the
//! control process, and the version of its store. The metadata keep all terms, and where
//! each began. So metadata that went on from an older state never pass for the newer ones,
//! however far they have come since.

use crate::records::{Term, Terms};

/// Terms that are remembered. A worker that has seen none of so many is refused.
const TERMS_MAX: usize = 1_024;
/// Terms given up that are remembered.
const DISOWNED_MAX: usize = 256;

/// How far the metadata are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which control process.
    pub term: u128,
    /// The version of its store: everything up to it is on disk.
    pub version: u64,
}

/// What a position that somebody has seen is to these metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// They came by it.
    Past,
    /// They never did: they are older than that, or others went on from an older state.
    Ahead,
    /// They never did, and an operator gave up what there was.
    GivenUp,
}

impl Terms {
    /// Begins a term behind `version`; whether that was not done yet.
    pub(super) fn begin(&mut self, id: u128, version: u64) -> bool {
        if self.terms.last().is_some_and(|last| last.id == id) {
            return false;
        }
        self.terms.push(Term { id, began: version });
        let surplus = self.terms.len().saturating_sub(TERMS_MAX);
        self.terms.drain(..surplus);
        true
    }

    /// Corrects where the latest began; whether there was anything to correct.
    pub(super) fn begins_at(&mut self, id: u128, version: u64) -> bool {
        let last = self.terms.last_mut().filter(|last| last.id == id);
        let Some(last) = last.filter(|last| last.began != version) else {
            return false;
        };
        last.began = version;
        true
    }

    /// What was seen of these terms, and is not in these metadata, counts no more.
    pub(super) fn disown(&mut self, terms: &[u128]) {
        for term in terms {
            if !self.disowned.contains(term) {
                self.disowned.push(*term);
            }
        }
        let surplus = self.disowned.len().saturating_sub(DISOWNED_MAX);
        self.disowned.drain(..surplus);
    }

    pub(super) fn standing(&self, seen: &Position) -> Standing {
        let at = self.terms.iter().position(|term| term.id == seen.term);
        let reached = at.is_some_and(|at| match self.terms.get(at + 1) {
            Some(next) => seen.version <= next.began,
            None => true,
        });
        match reached {
            true => Standing::Past,
            false if self.disowned.contains(&seen.term) => Standing::GivenUp,
            false => Standing::Ahead,
        }
    }

    /// The latest.
    pub(super) fn current(&self) -> u128 {
        self.terms.last().map_or(0, |term| term.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u128, version: u64) -> Position {
        Position { term, version }
    }

    fn history(terms: &[(u128, u64)]) -> Terms {
        let mut made = Terms::default();
        for (id, began) in terms {
            assert!(made.begin(*id, *began));
        }
        made
    }

    #[test]
    fn what_the_metadata_came_by_is_past() {
        let terms = history(&[(1, 0), (2, 10), (3, 20)]);
        for seen in [at(1, 0), at(1, 10), at(2, 20), at(3, 20), at(3, 99)] {
            assert_eq!(terms.standing(&seen), Standing::Past, "{seen:?}");
        }
    }

    #[test]
    fn a_backup_is_older_than_what_was_seen_however_far_it_goes_on() {
        // Copied while term 2 was at version 15, then started.
        let terms = history(&[(1, 0), (2, 10), (4, 15), (5, 1_000)]);
        assert_eq!(terms.standing(&at(2, 15)), Standing::Past);
        assert_eq!(terms.standing(&at(2, 16)), Standing::Ahead);
        // A term that began after the copy.
        assert_eq!(terms.standing(&at(3, 12)), Standing::Ahead);
    }

    #[test]
    fn the_newer_metadata_put_back_know_what_was_seen() {
        // The backup's term 4 told nobody; these went on from 3.
        let terms = history(&[(1, 0), (2, 10), (3, 20), (6, 31)]);
        assert_eq!(terms.standing(&at(3, 31)), Standing::Past);
        // Whoever was taken in by the backup meanwhile has seen something else.
        assert_eq!(terms.standing(&at(4, 16)), Standing::Ahead);
    }

    #[test]
    fn what_was_given_up_is_no_hindrance_and_the_rest_is() {
        let mut terms = history(&[(1, 0), (2, 10), (4, 15)]);
        terms.disown(&[2, 2]);
        assert_eq!(terms.disowned, [2]);
        assert_eq!(terms.standing(&at(2, 99)), Standing::GivenUp);
        assert_eq!(terms.standing(&at(2, 15)), Standing::Past);
        assert_eq!(terms.standing(&at(3, 12)), Standing::Ahead);
    }

    #[test]
    fn a_term_begins_once_and_the_first_are_forgotten() {
        let mut terms = history(&[(1, 0)]);
        assert!(!terms.begin(1, 5) && !terms.begins_at(2, 5) && !terms.begins_at(1, 0));
        assert!(terms.begins_at(1, 1));
        assert_eq!(terms.current(), 1);
        for id in 2..=TERMS_MAX as u128 + 1 {
            terms.begin(id, id as u64);
        }
        assert_eq!(terms.terms.len(), TERMS_MAX);
        assert_eq!(terms.standing(&at(1, 0)), Standing::Ahead);
        assert_eq!(terms.standing(&at(2, 2)), Standing::Past);
        let many: Vec<u128> = (0..2 * DISOWNED_MAX as u128).collect();
        terms.disown(&many);
        assert_eq!(terms.disowned.len(), DISOWNED_MAX);
        // Both at their largest are one row.
        crate::records::encode_terms(&terms).unwrap();
    }
}
