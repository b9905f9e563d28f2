//! Names of objects from their indexes: key spaces of any size without a list.

use std::fmt::Write as _;

use super::random::text_seed;
use super::{Object, Sizes};

/// Keys of one "directory", so that file systems behind an endpoint stay quick.
const KEYS_PER_DIRECTORY: u64 = 1000;

/// Objects `0..` with names, sizes and contents.
#[derive(Debug, Clone)]
pub(crate) struct KeySpace {
    /// Ends in `/`; all keys of the space and no others begin with it.
    prefix: String,
    sizes: Sizes,
    seed: u64,
}

impl KeySpace {
    /// A space under `prefix` for one use. Spaces of other sizes or seeds have
    /// other names, so objects of an earlier run are never mistaken.
    pub(crate) fn new(prefix: &str, used_for: &str, sizes: Sizes, seed: u64) -> Self {
        let prefix = format!("{prefix}{used_for}-{}-{seed}/", sizes.slug());
        Self {
            seed: text_seed(&prefix),
            prefix,
            sizes,
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn object(&self, index: u64) -> Object {
        Object {
            index,
            size: self.sizes.size(self.seed, index),
            content: super::random::mix(self.seed, !index),
        }
    }

    /// Appends the key of an index. Keys sort as their indexes do.
    pub(crate) fn write_key(&self, index: u64, out: &mut String) {
        let (directory, name) = (index / KEYS_PER_DIRECTORY, index % KEYS_PER_DIRECTORY);
        out.push_str(&self.prefix);
        // Writing to a String cannot fail.
        let _ = write!(out, "{directory:08}/{name:03}");
    }

    pub(crate) fn key(&self, index: u64) -> String {
        let mut key = String::new();
        self.write_key(index, &mut key);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_indexes() {
        let space = KeySpace::new("p/", "get", Sizes::Fixed(10), 1);
        let keys: Vec<_> = [0, 9, 10, 999, 1000, 123_456_789]
            .map(|i| space.key(i))
            .to_vec();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        assert_eq!(keys[5], "p/get-10-1/00123456/789");
    }

    #[test]
    fn other_sizes_and_seeds_have_other_names_and_contents() {
        let a = KeySpace::new("p/", "get", Sizes::Fixed(10), 1);
        let b = KeySpace::new("p/", "get", Sizes::Fixed(10), 2);
        assert_ne!(a.key(5), b.key(5));
        assert_ne!(a.object(5).content, b.object(5).content);
        assert_ne!(a.object(5).content, a.object(6).content);
        assert_eq!(a.object(5), a.object(5));
    }
}
