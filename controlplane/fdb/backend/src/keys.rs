//! Where in the cluster the store's keys are: all behind one prefix, so that a
//! cluster can hold other things, and more than one store. Pure.

use std::borrow::Cow;
use std::str::FromStr;

use bytes::Bytes;
use quickwater_controlplane::store::KeyRange;
use quickwater_controlplane::store::limits::SYSTEM_KEYS_START;

/// Longest prefix, bytes. It counts towards the longest key.
pub const KEY_PREFIX_BYTES_MAX: usize = 64;

/// What every key of the store begins with. Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPrefix(Bytes);

/// A prefix that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Too long.
    #[error("a key prefix has at most {KEY_PREFIX_BYTES_MAX} bytes")]
    TooLong,
    /// Those are FoundationDB's own keys.
    #[error("a key prefix cannot begin with the byte 0xff")]
    Reserved,
}

impl KeyPrefix {
    /// A prefix of any bytes.
    ///
    /// # Errors
    /// See [`PrefixError`].
    pub fn new(bytes: &[u8]) -> Result<Self, PrefixError> {
        if bytes.len() > KEY_PREFIX_BYTES_MAX {
            return Err(PrefixError::TooLong);
        }
        if bytes.first() == Some(&SYSTEM_KEYS_START) {
            return Err(PrefixError::Reserved);
        }
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    /// The prefix itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its length, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The key in the cluster.
    pub(crate) fn put<'a>(&self, key: &'a [u8]) -> Cow<'a, [u8]> {
        if self.0.is_empty() {
            return Cow::Borrowed(key);
        }
        Cow::Owned([self.0.as_ref(), key].concat())
    }

    /// The range in the cluster.
    pub(crate) fn put_range(&self, range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
        (
            self.put(&range.start).into_owned(),
            self.put(&range.end).into_owned(),
        )
    }

    /// The store's key of a key in the cluster, which begins with the prefix.
    pub(crate) fn take(&self, key: &[u8]) -> Bytes {
        Bytes::copy_from_slice(key.get(self.0.len()..).unwrap_or_default())
    }
}

impl FromStr for KeyPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        Self::new(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_behind_the_prefix_and_come_back() {
        for prefix in ["", "quickwater/"] {
            let prefix: KeyPrefix = prefix.parse().unwrap();
            let put = prefix.put(b"key");
            assert!(put.starts_with(&prefix.0) && put.ends_with(b"key"));
            assert_eq!(prefix.take(&put), "key");
            let (start, end) = prefix.put_range(&KeyRange::prefix(b""));
            assert_eq!(prefix.take(&start), "");
            assert_eq!(prefix.take(&end), b"\xff".as_slice());
        }
    }

    #[test]
    fn prefixes_are_checked() {
        assert_eq!(KeyPrefix::new(b"\xffx"), Err(PrefixError::Reserved));
        let long = [b'a'; KEY_PREFIX_BYTES_MAX + 1];
        assert_eq!(KeyPrefix::new(&long), Err(PrefixError::TooLong));
        KeyPrefix::new(&long[1..]).unwrap();
        KeyPrefix::new(b"\x01\xff").unwrap();
    }
}
