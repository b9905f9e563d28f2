//! The metadata store as the rules see it: ordered keys and serializable
//! transactions with `FoundationDB`'s semantics. No engine, file or thread here.

use std::future::Future;

use bytes::Bytes;

use super::limits::VERSION_BYTES;

/// An ordered key-value store with optimistic transactions.
pub trait Store: Clone + Send + Sync + 'static {
    /// Its transactions.
    type Transaction: Transaction;

    /// A new transaction. It sees the store as of its first read (or its first
    /// [`Transaction::add_read_conflict`]), and that is when its age begins.
    fn begin(&self) -> Self::Transaction;

    /// Returns when all commits that had returned before the call are on disk,
    /// relaxed ones too.
    ///
    /// # Errors
    /// [`CommitError::Unavailable`], [`CommitError::Unknown`]: they may not be.
    fn flush(&self) -> impl Future<Output = Result<(), CommitError>> + Send;
}

/// One transaction. Dropping it without a commit changes nothing.
///
/// Reads see the transaction's own writes. Keys beginning with `0xff` are
/// reserved. Writes are checked when made but answered for at commit: the first
/// bad one makes the commit fail, and nothing of the transaction is applied.
///
/// Poll its futures on a tokio runtime with time enabled; reads may do blocking
/// file reads inline.
pub trait Transaction: Send + 'static {
    /// The value of `key`; the commit fails with a conflict if another
    /// transaction writes it in between.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn get(&mut self, key: &[u8])
    -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// The value of `key` without a read conflict.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn get_snapshot(
        &mut self,
        key: &[u8],
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Rows of a range in key order. Unless it is a snapshot scan, what it
    /// covered (up to the last row, when it stopped at a limit) becomes a read
    /// conflict, so rows that appear in it count as well.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan(&mut self, scan: Scan) -> impl Future<Output = Result<Rows, StoreError>> + Send;

    /// Writes a row.
    fn set(&mut self, key: &[u8], value: &[u8]);

    /// Removes a row, if there.
    fn clear(&mut self, key: &[u8]);

    /// Removes every row of a range. The embedded store removes at most
    /// [`super::limits::CLEARED_ROWS_MAX`] rows in one transaction; the commit
    /// of more fails as [`CommitError::TooLarge`].
    fn clear_range(&mut self, range: KeyRange);

    /// Adds to a little-endian 64-bit number without reading it, wrapping
    /// around. A missing row counts as 0, a short one is padded, a long one cut
    /// to eight bytes.
    fn add(&mut self, key: &[u8], delta: i64);

    /// Writes a row whose bytes `offset..offset + 10` become the commit version.
    /// Until the commit the row cannot be read ([`StoreError::Unreadable`]).
    fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: usize);

    /// Makes the commit fail if another transaction writes into the range.
    fn add_read_conflict(&mut self, range: KeyRange);

    /// Makes others that read in the range fail, as a write would.
    fn add_write_conflict(&mut self, range: KeyRange);

    /// Commits. A transaction that wrote nothing always succeeds and answers the
    /// version it read at.
    ///
    /// Dropping the future gives up the answer, not the commit: never put it
    /// under a timeout or a select of your own.
    ///
    /// # Errors
    /// See [`CommitError`]; only [`CommitError::Unknown`] may have been applied.
    fn commit(self) -> impl Future<Output = Result<CommitVersion, CommitError>> + Send;

    /// Commits the same way, except that a power cut (with some engines the end of
    /// the process, too) may undo it for a while, together with every commit after it: what is left are the first commits in
    /// order, all of [`Transaction::commit`]'s among them. The embedded store
    /// flushes at most [`super::limits::UNFLUSHED_TIME_MAX`] later, and when it is
    /// closed. For what can be made again from elsewhere.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    fn commit_relaxed(self) -> impl Future<Output = Result<CommitVersion, CommitError>> + Send
    where
        Self: Sized,
    {
        self.commit()
    }
}

/// The place of a commit in the total order of commits. Later commits compare
/// greater, also across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitVersion(pub [u8; VERSION_BYTES]);

impl CommitVersion {
    /// From the version of a batch and the order within it.
    #[must_use]
    pub fn new(version: u64, order: u16) -> Self {
        let mut bytes = [0; VERSION_BYTES];
        bytes[..8].copy_from_slice(&version.to_be_bytes());
        bytes[8..].copy_from_slice(&order.to_be_bytes());
        Self(bytes)
    }

    /// The bytes, big-endian.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; VERSION_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for CommitVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Keys from `start` up to but without `end`. Empty when `start >= end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key in it.
    pub start: Bytes,
    /// First key after it.
    pub end: Bytes,
}

impl KeyRange {
    /// `start..end`.
    #[must_use]
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
        }
    }

    /// One key.
    #[must_use]
    pub fn point(key: &[u8]) -> Self {
        Self {
            start: Bytes::copy_from_slice(key),
            end: successor(key),
        }
    }

    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        match end.last_mut() {
            Some(last) => *last += 1,
            None => end.push(super::limits::SYSTEM_KEYS_START),
        }
        Self {
            start: Bytes::copy_from_slice(prefix),
            end: end.into(),
        }
    }

    /// Whether no key is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether it is one key, as [`KeyRange::point`] makes it.
    #[must_use]
    pub fn is_point(&self) -> bool {
        self.end.len() == self.start.len() + 1
            && self.end.ends_with(&[0])
            && self.end.starts_with(&self.start)
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && key < self.end.as_ref()
    }
}

/// The first key after `key`.
#[must_use]
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// What a scan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Which keys.
    pub range: KeyRange,
    /// Most rows, at most [`super::limits::SCAN_ROWS_MAX`].
    pub rows_max: usize,
    /// Stop after the row that reaches this many bytes of keys and values, at
    /// most [`super::limits::SCAN_BYTES_MAX`].
    pub bytes_max: usize,
    /// From the last key down.
    pub reverse: bool,
    /// Without a read conflict.
    pub snapshot: bool,
}

impl Scan {
    /// Forward over `range`, with a read conflict, `rows_max` rows.
    #[must_use]
    pub fn new(range: KeyRange, rows_max: usize) -> Self {
        let bytes_max = super::limits::SCAN_BYTES_MAX;
        Self {
            range,
            rows_max,
            bytes_max,
            reverse: false,
            snapshot: false,
        }
    }

    /// The same without a read conflict.
    #[must_use]
    pub fn snapshot(mut self) -> Self {
        self.snapshot = true;
        self
    }

    /// The same from the last key down.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// A scan's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// In the scan's order.
    pub rows: Vec<Row>,
    /// It stopped at a limit; more rows may follow the last one.
    pub more: bool,
}

/// Why a read failed. The transaction can only be dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Older than [`super::limits::TRANSACTION_AGE_MAX`]. Start again.
    #[error("the transaction is too old")]
    TooOld,
    /// The key is longer than [`super::limits::KEY_BYTES_MAX`].
    #[error("key too large")]
    KeyTooLarge,
    /// The key is the system's.
    #[error("reserved key")]
    ReservedKey,
    /// The row was versionstamped in this transaction and has no value yet.
    #[error("a versionstamped row cannot be read before its commit")]
    Unreadable,
    /// The store is recovering or behind, for moments as a rule. Start again.
    #[error("the store asks for another try: {0}")]
    Again(&'static str),
    /// The store cannot be read now.
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

impl StoreError {
    /// The same transaction may succeed when run again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TooOld | Self::Again(_))
    }
}

/// Why a commit failed, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Something read was written meanwhile; not applied. Try again.
    #[error("conflict with another transaction")]
    Conflict,
    /// Applied or not, now or (rarely) later: check before trying again.
    #[error("the outcome of the commit is unknown")]
    Unknown,
    /// Too long since the first read; not applied. Try again.
    #[error("the transaction is too old")]
    TooOld,
    /// The store is recovering, behind or throttling, for moments as a rule; not
    /// applied. Try again.
    #[error("the store asks for another try: {0}")]
    Again(&'static str),
    /// A limit on sizes is exceeded; not applied. Trying again is no use.
    #[error("the transaction is too large: {0}")]
    TooLarge(&'static str),
    /// A write that no store takes; not applied. A mistake of the caller.
    #[error("invalid write: {0}")]
    Invalid(&'static str),
    /// Overloaded, stopped or failed; not applied.
    #[error("store unavailable: {0}")]
    Unavailable(&'static str),
}

impl CommitError {
    /// Not applied, and the same transaction may succeed when run again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict | Self::TooOld | Self::Again(_))
    }

    /// The transaction may have been applied.
    #[must_use]
    pub fn maybe_committed(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}
