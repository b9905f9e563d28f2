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

use bytes::Bytes;
use quickwater_proto::{BlobId, BucketId, Committed, MetadataError, ObjectKey, ObjectRecord};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step, committed};
use super::objects::{current_object, replace_object};
use super::read::Get;
use super::{Namespace, Stop, record_error};
use crate::keyspace;
use crate::records::{JournalEntry, decode_journal_entry, encode_journal_entry, encode_object};
use crate::store::{CommitError, Store, StoreError, Transaction};

/// Attempts at noting how far the journal is settled.
const NOTE_ATTEMPTS_MAX: u32 = 5;

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
        let id = BlobId::random().map_err(|error| MetadataError::Unavailable(error.to_string()))?;
        let entry = JournalEntry {
            sequence,
            operation: id.0,
            now_ms: self.clock.wall_ms(),
            bucket,
            key: key.clone(),
            object: encode_object(record, id.0).map_err(record_error)?,
        };
        let bytes = encode_journal_entry(entry).map_err(record_error)?;
        Ok(bytes.into())
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
        let mut transaction = self.store.begin();
        transaction.set(&keyspace::journal_of(), store);
        match transaction.commit().await {
            Ok(_) => Ok(()),
            Err(CommitError::Unknown) => Err(MetadataError::Unknown("journal note".into())),
            Err(error) => Err(MetadataError::Unavailable(error.to_string())),
        }
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
        let mut attempt = 1;
        loop {
            match self.note(through).await? {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retryable() && attempt < NOTE_ATTEMPTS_MAX => attempt += 1,
                Err(CommitError::Unknown) => {
                    return Err(MetadataError::Unknown("journal note".into()));
                }
                Err(error) => return Err(MetadataError::Unavailable(error.to_string())),
            }
        }
    }

    async fn note(&self, through: u64) -> Result<Result<(), CommitError>, MetadataError> {
        let unavailable = |error: StoreError| MetadataError::Unavailable(error.to_string());
        let key = keyspace::journal_through();
        let mut transaction = self.store.begin();
        let row = transaction.get(&key).await.map_err(unavailable)?;
        if sequence(row.as_deref())? >= through {
            return Ok(Ok(()));
        }
        transaction.set(&key, &through.to_be_bytes());
        Ok(transaction.commit_relaxed().await.map(drop))
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
