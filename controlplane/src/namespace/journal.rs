//! Commits that a journal outside of the metadata has too: visible at once,
//! flushed later, made again from the journal when a power cut has undone them.
//!
//! The journal belongs to the data plane, whose flush of the data covers the
//! entry as well. Its entries have rising sequences. An entry is settled when it
//! is committed or will never be; [`Namespace::set_journal_through`] notes up to
//! where all are. That is an ordinary relaxed commit: relaxed commits reach the
//! disk in order, so where the note is, the commits before it are. What is beyond
//! the note is given to [`Namespace::replay`], in order of sequence, before
//! anything else is changed.
//!
//! The row of the operation tells whether an entry was committed, also when the
//! object has been replaced or removed since. It is swept once the note is past
//! it. A key belongs to one writer at a time from the entry to the end of its
//! commit, so entries of a key are committed in their order.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use quickwater_proto::{
    BlobId, BucketId, Committed, MetadataError, ObjectKey, ObjectRecord, PersistState, Version,
};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step, committed};
use super::note::Note;
use super::objects::{current_object, replace_object};
use super::read::Get;
use super::{Namespace, Stop, record_error};
use crate::keyspace;
use crate::records::{
    EncodedObject, JournalEntry, decode_journal_entry, encode_journal_entry, encode_note,
    encode_object, order_of,
};
use crate::store::{Store, Transaction};

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// It was not committed and is now.
    Committed(Box<Committed>),
    /// It was committed before.
    Known,
    /// Its bucket is gone, and the object with it.
    BucketGone,
}

/// The commit of `record` as bytes for a journal; `now_ms`: when it began, `after`:
/// what orders the newest commit known then.
pub(crate) fn journal_entry(
    (bucket, key): (BucketId, &ObjectKey),
    record: &ObjectRecord,
    sequence: u64,
    now_ms: i64,
    after: u64,
) -> Result<Bytes, MetadataError> {
    let id = BlobId::random().map_err(|error| MetadataError::Unavailable(error.to_string()))?;
    let entry = JournalEntry {
        sequence,
        operation: id.0,
        now_ms,
        bucket,
        key: key.clone(),
        object: encode_object(record, id.0).map_err(record_error)?,
        after,
        removed: false,
    };
    let bytes = encode_journal_entry(entry).map_err(record_error)?;
    Ok(bytes.into())
}

/// What the commit `version` made of a key, as bytes for a journal.
pub(crate) fn commit_note(
    (bucket, key): (BucketId, &ObjectKey),
    record: Option<&ObjectRecord>,
    version: Version,
    sequence: u64,
    now_ms: i64,
) -> Result<Bytes, MetadataError> {
    let id = BlobId::random().map_err(|error| MetadataError::Unavailable(error.to_string()))?;
    let object = match record {
        Some(record) => encode_object(record, id.0).map_err(record_error)?,
        None => EncodedObject {
            row: Vec::new(),
            pieces: Vec::new(),
            size: 0,
            persist: PersistState::NotPersisted,
        },
    };
    let note = JournalEntry {
        sequence,
        operation: id.0,
        now_ms,
        bucket,
        key: key.clone(),
        object,
        after: order_of(version),
        removed: record.is_none(),
    };
    Ok(encode_note(note).map_err(record_error)?.into())
}

impl<S: Store> Namespace<S> {
    /// The commit of `record` as bytes for a journal.
    ///
    /// # Errors
    /// [`MetadataError::TooLarge`]; [`MetadataError::Unavailable`] without a source
    /// of random numbers.
    pub fn journal_entry(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        sequence: u64,
    ) -> Result<Bytes, MetadataError> {
        let after = self.newest();
        journal_entry((bucket, key), record, sequence, self.clock.wall_ms(), after)
    }

    /// What the commit `version` made of a key, as bytes for the same journal: the
    /// record, or its removal. It is not replayed; it tells a rebuild what no entry
    /// does.
    ///
    /// # Errors
    /// As [`Namespace::journal_entry`].
    pub fn commit_note(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: Option<&ObjectRecord>,
        version: Version,
        sequence: u64,
    ) -> Result<Bytes, MetadataError> {
        let now_ms = self.clock.wall_ms();
        commit_note((bucket, key), record, version, sequence, now_ms)
    }

    /// What orders the newest commit of this process.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Makes the entries from now on newer than all commits before, also those of
    /// other processes. Once at a start, before anything is changed.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`], [`MetadataError::Unknown`].
    pub async fn begin_order(&self) -> Result<(), MetadataError> {
        self.mutate(&Start).await.map(drop)
    }

    /// Commits what an entry says: visible to all on return, flushed later. The
    /// journal must have it flushed; the caller keeps others off the key.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::Unavailable`] (not
    /// committed), [`MetadataError::Unknown`].
    pub async fn commit_journaled(&self, entry: &[u8]) -> Result<Committed, MetadataError> {
        let entry = decode_journal_entry(entry).map_err(record_error)?;
        let operation = Operation::journaled(&entry);
        let (replaced, version) = self.mutate_as(&Journaled(&entry), &operation).await?;
        committed(replaced, version)
    }

    /// Commits what an entry says as any other change: flushed on return, and never
    /// replayed. Its operation is the entry's.
    ///
    /// # Errors
    /// As [`Namespace::commit_journaled`].
    pub async fn commit_entry(&self, entry: &[u8]) -> Result<Committed, MetadataError> {
        let entry = decode_journal_entry(entry).map_err(record_error)?;
        let operation = Operation {
            holders: match &self.ticket {
                Some(ticket) => ticket.holders.clone(),
                None => Vec::new(),
            },
            ..Operation::entered(&entry)
        };
        if let Some(ticket) = &self.ticket {
            self.refuse_repeat(ticket, &operation).await?;
        }
        let (replaced, version) = self.mutate_as(&Journaled(&entry), &operation).await?;
        committed(replaced, version)
    }

    /// Commits what an entry says, unless that was done before.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`], [`MetadataError::Unknown`]: replay it again.
    pub async fn replay(&self, entry: &[u8]) -> Result<Replayed, MetadataError> {
        let entry = decode_journal_entry(entry).map_err(record_error)?;
        let operation = Operation {
            replayed: true,
            ..Operation::journaled(&entry)
        };
        match self.mutate_as(&Replay(&entry), &operation).await {
            Ok((Some(replaced), version)) => {
                Ok(Replayed::Committed(Box::new(committed(replaced, version)?)))
            }
            Ok((None, _)) => Ok(Replayed::Known),
            Err(MetadataError::NoSuchBucket) => Ok(Replayed::BucketGone),
            Err(error) => Err(error),
        }
    }

    /// The store whose journal belongs to this metadata, as noted by
    /// [`Namespace::set_journal_of`].
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn journal_of(&self) -> Result<Option<Bytes>, MetadataError> {
        self.read(&Get(&keyspace::journal_of())).await
    }

    /// Notes, flushed, whose journal belongs to this metadata: buckets have numbers
    /// in it that mean others, or nothing, in any other metadata.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`], [`MetadataError::Unknown`]; noting it again
    /// does no harm.
    pub async fn set_journal_of(&self, store: &[u8]) -> Result<(), MetadataError> {
        self.note(&JournalOf(store)).await.map(drop)
    }

    /// The sequence up to which all entries of the journal are settled, 0 at first.
    /// Entries up to here are not replayed, so new ones must be above it.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn journal_through(&self) -> Result<u64, MetadataError> {
        let row = self.read(&Get(&keyspace::journal_through())).await?;
        sequence(row.as_deref())
    }

    /// Notes that all entries up to `through` are settled: their commits have
    /// returned, or they will never be replayed. Never goes back.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`], [`MetadataError::Unknown`]; noting it again
    /// later does no harm.
    pub async fn set_journal_through(&self, through: u64) -> Result<(), MetadataError> {
        self.note(&Through(through)).await.map(drop)
    }
}

/// Whose journal belongs to this metadata.
struct JournalOf<'a>(&'a [u8]);

impl Note for JournalOf<'_> {
    type Answer = ();
    const RELAXED: bool = false;

    async fn write<T: Transaction>(&self, transaction: &mut T) -> Result<Step<()>, Stop> {
        transaction.set(&keyspace::journal_of(), self.0);
        Ok(Step::Commit(()))
    }
}

/// Up to where the journal is settled.
struct Through(u64);

impl Note for Through {
    type Answer = ();
    const RELAXED: bool = true;

    async fn write<T: Transaction>(&self, transaction: &mut T) -> Result<Step<()>, Stop> {
        let key = keyspace::journal_through();
        let row = transaction.get(&key).await?;
        if sequence(row.as_deref())? >= self.0 {
            return Ok(Step::Nothing(()));
        }
        transaction.set(&key, &self.0.to_be_bytes());
        Ok(Step::Commit(()))
    }
}

fn sequence(row: Option<&[u8]>) -> Result<u64, MetadataError> {
    let Some(row) = row else { return Ok(0) };
    match row.try_into() {
        Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
        Err(_) => {
            tracing::error!("the row of the settled journal is damaged");
            let why = "the row of the settled journal is damaged";
            Err(MetadataError::Unavailable(why.into()))
        }
    }
}

/// Any commit.
struct Start;

impl Mutation for Start {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        transaction.add(&keyspace::starts(), 1);
        Ok(Step::Commit(()))
    }
}

/// Its operation is known not to be committed by anybody else.
struct Journaled<'a>(&'a JournalEntry);

impl Mutation for Journaled<'_> {
    type Answer = Option<ObjectRecord>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        let JournalEntry {
            bucket,
            key,
            object,
            ..
        } = self.0;
        require_bucket(transaction, *bucket).await?;
        let current = current_object(transaction, *bucket, key).await?;
        let place = (*bucket, key);
        replace_object(transaction, operation, place, object, current.as_ref()).await?;
        Ok(Step::Commit(current.map(|current| current.record)))
    }
}

/// Nothing to do when its operation is there.
struct Replay<'a>(&'a JournalEntry);

impl Mutation for Replay<'_> {
    type Answer = Option<Option<ObjectRecord>>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        if transaction.get(&operation.key).await?.is_some() {
            return Ok(Step::Nothing(None));
        }
        Ok(
            match Journaled(self.0).apply(transaction, operation).await? {
                Step::Commit(replaced) => Step::Commit(Some(replaced)),
                Step::Nothing(replaced) => Step::Nothing(Some(replaced)),
            },
        )
    }
}
