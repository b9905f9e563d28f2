//! A key as bytes: built field by field, and taken apart. Absent: which tables there are.

use quickwater_proto::BucketId;

use super::escape;

/// A key as it is built.
pub(super) struct Key(pub(super) Vec<u8>);

impl Key {
    pub(super) fn new(table: u8) -> Self {
        Self(vec![table])
    }

    pub(super) fn of(table: u8, bucket: BucketId) -> Self {
        Self::new(table).u64(bucket.0)
    }

    pub(super) fn u8(self, number: u8) -> Self {
        Self(self.raw(&[number]))
    }

    pub(super) fn u64(self, number: u64) -> Self {
        Self(self.raw(&number.to_be_bytes()))
    }

    pub(super) fn u128(self, number: u128) -> Self {
        Self(self.raw(&number.to_be_bytes()))
    }

    /// Times before the epoch count as the epoch.
    pub(super) fn time(self, ms: i64) -> Self {
        self.u64(u64::try_from(ms).unwrap_or(0))
    }

    pub(super) fn escaped(mut self, text: &str) -> Self {
        escape::append_terminated(&mut self.0, text.as_bytes());
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(bytes);
        self.0
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// What is left of a key as it is taken apart.
pub(super) struct Parser<'k>(pub(super) &'k [u8]);

impl<'k> Parser<'k> {
    pub(super) fn of(key: &'k [u8], table: u8) -> Option<Self> {
        let (first, rest) = key.split_first()?;
        (*first == table).then_some(Self(rest))
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn bucket(&mut self) -> Option<BucketId> {
        Some(BucketId(u64::from_be_bytes(self.take()?)))
    }

    pub(super) fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}
