//! What clients saw, and whether one machine could have done it. A commit's version
//! orders the writes of a key, so a history is right when versions never run
//! against the clock and no value has two.

use std::collections::BTreeMap;
use std::time::Duration;

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// The value written was given this version.
    Wrote(u128),
    /// This value was read, with its version; version 0: there was none.
    Read(u128, String),
    /// Nobody knows whether it was written.
    Unknown,
}

#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) key: usize,
    pub(super) began: Duration,
    pub(super) ended: Duration,
    /// What was to be written; reads: empty.
    pub(super) value: String,
    pub(super) seen: Seen,
}

impl Operation {
    fn version(&self) -> Option<u128> {
        match &self.seen {
            Seen::Wrote(version) | Seen::Read(version, _) => Some(*version),
            Seen::Unknown => None,
        }
    }
}

/// The first thing that no single machine would have done.
pub(super) fn fault(history: &[Operation]) -> Option<String> {
    values(history).or_else(|| order(history))
}

/// Each value was written once: it has one version, and each version one value.
fn values(history: &[Operation]) -> Option<String> {
    let mut versions: BTreeMap<(usize, String), u128> = BTreeMap::new();
    let mut owners: BTreeMap<(usize, u128), String> = BTreeMap::new();
    for operation in history {
        let (version, value) = match &operation.seen {
            Seen::Wrote(version) => (*version, operation.value.clone()),
            Seen::Read(version, value) if *version > 0 => (*version, value.clone()),
            _ => continue,
        };
        let before = versions.insert((operation.key, value.clone()), version);
        if before.is_some_and(|before| before != version) {
            return Some(format!("{value} was written twice: {operation:?}"));
        }
        let other = owners.insert((operation.key, version), value.clone());
        if other.is_some_and(|other| other != value) {
            return Some(format!("two values of one version: {operation:?}"));
        }
    }
    None
}

/// What ended before something began has no later version.
fn order(history: &[Operation]) -> Option<String> {
    let known: Vec<&Operation> = history.iter().filter(|o| o.version().is_some()).collect();
    let mut by_end = known.clone();
    by_end.sort_by_key(|o| o.ended);
    let mut by_begin = known;
    by_begin.sort_by_key(|o| o.began);
    let mut newest: BTreeMap<usize, &Operation> = BTreeMap::new();
    let mut ended = by_end.into_iter().peekable();
    for operation in by_begin {
        while let Some(before) = ended.next_if(|o| o.ended < operation.began) {
            let best = newest.entry(before.key).or_insert(before);
            if before.version() > best.version() {
                *best = before;
            }
        }
        let Some(before) = newest.get(&operation.key) else {
            continue;
        };
        let wrote = matches!(operation.seen, Seen::Wrote(_));
        let stale = operation.version() < before.version()
            || (wrote && operation.version() == before.version());
        if stale {
            return Some(format!("{operation:?} after {before:?}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(began: u64, ended: u64, value: &str, seen: Seen) -> Operation {
        Operation {
            key: 0,
            began: Duration::from_secs(began),
            ended: Duration::from_secs(ended),
            value: value.into(),
            seen,
        }
    }

    #[test]
    fn what_one_machine_would_not_do_is_seen() {
        let one = operation(0, 1, "a", Seen::Wrote(1));
        let two = operation(2, 3, "b", Seen::Wrote(2));
        let read = |began, ended, version, value: &str| {
            operation(began, ended, "", Seen::Read(version, value.into()))
        };
        assert_eq!(fault(&[one.clone(), two.clone(), read(4, 5, 2, "b")]), None);
        // At the same time either may be read, but not one after the other.
        assert_eq!(fault(&[one.clone(), two.clone(), read(2, 3, 1, "a")]), None);
        fault(&[one.clone(), two.clone(), read(4, 5, 1, "a")]).unwrap();
        fault(&[one.clone(), two.clone(), read(4, 5, 0, "")]).unwrap();
        fault(&[one.clone(), read(2, 3, 3, "a")]).unwrap();
        fault(&[one.clone(), operation(4, 5, "c", Seen::Wrote(1))]).unwrap();
        fault(&[two, operation(4, 5, "c", Seen::Wrote(1))]).unwrap();
    }
}
