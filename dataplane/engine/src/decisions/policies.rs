//! The path policies in force: one immutable table that all shards read and the
//! control plane replaces as a whole. No parsing, no rules here.

use arc_swap::ArcSwap;
use quickwater_proto::{PathPolicy, PolicyTable};

/// The policies in force. Readers never wait, not even while it is replaced.
#[derive(Debug, Default)]
pub struct Policies(ArcSwap<Edition>);

/// A table and the version of the document it was made of; 0: none was set.
#[derive(Debug, Default)]
struct Edition {
    version: u64,
    table: PolicyTable,
}

impl Policies {
    /// The policy of an object; with an empty key, of the bucket itself. Ask once
    /// per request and keep the answer: the next one may differ.
    #[must_use]
    pub fn policy(&self, bucket: &str, key: &str) -> PathPolicy {
        self.0.load().table.policy(bucket, key)
    }

    /// The version in force.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.load().version
    }

    /// Puts a newer table in force. An older one that arrives late changes
    /// nothing. Requests under way keep the policy they were given.
    pub fn replace(&self, version: u64, table: PolicyTable) {
        let new = std::sync::Arc::new(Edition { version, table });
        self.0.rcu(|old| match old.version < version {
            true => std::sync::Arc::clone(&new),
            false => std::sync::Arc::clone(old),
        });
    }

    /// Something of the table in force, such as the text of a rule.
    pub fn read<T>(&self, look: impl FnOnce(&PolicyTable) -> T) -> T {
        look(&self.0.load().table)
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::PolicyMode;

    use super::*;

    fn table(mode: PolicyMode) -> PolicyTable {
        let policy = PathPolicy {
            mode,
            ..PathPolicy::default()
        };
        PolicyTable::new(policy, []).unwrap()
    }

    #[test]
    fn the_newest_table_stays() {
        let policies = Policies::default();
        assert_eq!(policies.policy("b", "k").mode, PolicyMode::WriteThrough);
        policies.replace(2, table(PolicyMode::ReadOnly));
        policies.replace(1, table(PolicyMode::NoCache));
        assert_eq!(policies.policy("b", "k").mode, PolicyMode::ReadOnly);
        assert_eq!(policies.version(), 2);
        policies.replace(3, table(PolicyMode::NoCache));
        assert_eq!(policies.policy("b", "k").mode, PolicyMode::NoCache);
    }

    #[test]
    fn readers_see_one_table_or_the_other() {
        let policies = Policies::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..2_000 {
                    let mode = PolicyMode::ALL[version as usize % PolicyMode::ALL.len()];
                    policies.replace(version, table(mode));
                }
            });
            let mut last = 0;
            while last < 1_999 {
                let (version, mode) = {
                    let edition = policies.0.load();
                    (edition.version, edition.table.policy("b", "k").mode)
                };
                assert!(version >= last);
                let expected = match version {
                    0 => PolicyMode::WriteThrough,
                    v => PolicyMode::ALL[v as usize % PolicyMode::ALL.len()],
                };
                assert_eq!(mode, expected);
                last = version;
            }
        });
    }
}
