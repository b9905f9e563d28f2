//! Makes lost metadata again, of what workers' stores tell: their journals, notes and
//! the names kept beside them.
//!
//! 1. [`Namespace::begin_rebuild`]: empty metadata, or those of a rebuild that was
//!    cut; the names (buckets, mounts, policies) are entered.
//! 2. [`Namespace::enter_known`]: every change that a store tells, in any order. The
//!    newest of each key stays, in a row of its own, so memory is bounded and doing it
//!    again changes nothing.
//! 3. [`Namespace::known_changes`] and [`Namespace::restore`]: the newest changes that
//!    have not ended become objects and pending changes, as by their first commit.
//!    What ended is the UFS's to tell.
//! 4. [`Namespace::end_rebuild`]: until then no service takes the metadata.
//!
//! Those of a cluster also note which workers have which bytes
//! ([`Namespace::enter_blobs`]), make changes that name them
//! ([`Namespace::restore_held`]), and end with what workers are taken in by
//! ([`Namespace::end_rebuild_of_cluster`]).
//!
//! Absent: reading stores, and which data are whole.

use std::io::Read;

use quickwater_proto::{
    BlobId, BucketId, BucketName, MetadataError, NodeId, ObjectKey, PendingChange,
};

use super::Namespace;
use super::Stop;
use super::mutate::{Mutation, Operation, Step};
use super::objects::replace_object;
use super::pending::{begin_pending, current_pending};
use super::read::Get;
use super::record_error;
use crate::cluster::Rebuilt;
use crate::dump::{self, DumpError, Rows};
use crate::keyspace;
use crate::records::{JournalEntry, Known, decode_bucket_id, decode_known, encode_known};
use crate::store::{CommitError, KeyRange, Row, Store, Transaction, successor};

/// What the format row of metadata that are being rebuilt begins with; of what they are rebuilt
/// is behind it.
pub(super) const UNFINISHED: &str = "unfinished rebuild of ";
/// Rows of names written in one transaction.
const NAMES_ROWS: usize = 500;
/// Attempts at several changes in one transaction before fewer are tried. Each of hundreds
/// of reads may meet an error, so a store that works for one change may not for all.
const PART_ATTEMPTS: u32 = 8;
/// Rows of [`Namespace::enter_known`] removed in one transaction.
const CLEARED_ROWS: usize = 10_000;
/// Stores that are remembered to have a blob; there are not that many copies.
const STORES_MAX: usize = 1_000;
/// First key of the namespace; those before are a store's own.
const FIRST_KEY: &[u8] = b"\x01";
const END_KEY: &[u8] = b"\xff";

/// Why metadata were not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// They have rows that no rebuild wrote.
    #[error(
        "the metadata to rebuild into are not empty: a service wrote them, or a rebuild that is \
         complete (also one that was killed at its very end). After a rebuild, start the service. \
         To rebuild anew all the same, stop everything and remove these metadata first (the \
         directory `metadata`; FoundationDB: the prefix); of a cluster collect workers that ran \
         since again: an older file does not know what they have acked"
    )]
    NotEmpty,
    /// A rebuild was cut that went by something else: what it entered would be mixed with the rest.
    #[error(
        "a rebuild was begun of {begun}, and this one is of {now}: go on with the same, or remove \
         what it wrote (the directory `metadata`; FoundationDB: the prefix) and begin anew"
    )]
    Other {
        /// What the first goes by.
        begun: String,
        /// What this one goes by.
        now: String,
    },
    /// The names cannot be read, or the store does not answer as it should.
    #[error(transparent)]
    Rows(#[from] DumpError),
    /// A change was refused, or its outcome is not known.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// A change of a key, as found in a store.
pub type Change = (BucketId, ObjectKey, Known);

/// What became of changes given to [`Namespace::restore`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Objects and deletes that are there now, and were not.
    pub made: u64,
    /// There already: a rebuild was cut behind them.
    pub known: u64,
    /// Their buckets are not there.
    pub homeless: u64,
}

impl Restored {
    fn add(&mut self, other: Self) {
        self.made += other.made;
        self.known += other.known;
        self.homeless += other.homeless;
    }
}

impl<S: Store> Namespace<S> {
    /// Begins, or goes on with a rebuild that was cut. `names`: what
    /// [`dump::export_names`] wrote. `of`: what it goes by (files, choices), for people; the
    /// same of one that goes on. Answers whether it goes on.
    ///
    /// # Errors
    /// See [`RebuildError`].
    pub async fn begin_rebuild(
        &self,
        names: Option<&mut dyn Read>,
        of: &str,
    ) -> Result<bool, RebuildError> {
        let format = keyspace::format();
        let range = KeyRange::new(FIRST_KEY, END_KEY);
        let is_empty = dump::page(&self.store, &range, 1).await?.0.is_empty();
        if !is_empty {
            let found = dump::page(&self.store, &KeyRange::point(&format), 1).await?;
            let begun = found.0.first().and_then(|row| {
                let value = std::str::from_utf8(&row.value).ok()?;
                value.strip_prefix(UNFINISHED)
            });
            match begun {
                None => return Err(RebuildError::NotEmpty),
                Some(begun) if begun != of => {
                    let (begun, now) = (begun.to_owned(), of.to_owned());
                    return Err(RebuildError::Other { begun, now });
                }
                Some(_) => {}
            }
        }
        let unfinished = Row {
            key: format.into(),
            value: format!("{UNFINISHED}{of}").into_bytes().into(),
        };
        dump::write(&self.store, &[unfinished]).await?;
        if let Some(names) = names {
            let mut rows = Rows::open(names)?;
            let mut batch = Vec::new();
            while let Some(row) = rows.next()? {
                batch.push(row);
                if batch.len() == NAMES_ROWS {
                    dump::write(&self.store, &batch).await?;
                    batch.clear();
                }
            }
            dump::write(&self.store, &batch).await?;
        }
        Ok(!is_empty)
    }

    /// Enters changes; of each key the newest stays.
    ///
    /// # Errors
    /// Entering them again does no harm.
    pub async fn enter_known(&self, changes: &[Change]) -> Result<(), RebuildError> {
        self.in_parts(Enter(changes), |()| {}).await
    }

    /// The newest changes in order of bucket and key, after one.
    ///
    /// # Errors
    /// [`RebuildError::Metadata`].
    pub async fn known_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Result<Vec<Change>, RebuildError> {
        let (rows, _) = self.rows(keyspace::rebuilds(after), limit).await?;
        let change = |row: &Row| {
            let place = keyspace::parse_rebuild(&row.key);
            let (bucket, key) = place
                .ok_or_else(|| MetadataError::Unavailable("unreadable key of a change".into()))?;
            let known = decode_known(&row.value).map_err(record_error)?;
            Ok((bucket, key, known))
        };
        let changes: Result<_, MetadataError> = rows.iter().map(change).collect();
        Ok(changes?)
    }

    /// Makes the changes current and pending. A key that is there is left as it is.
    ///
    /// # Errors
    /// Restoring them again does no harm.
    pub async fn restore(&self, entries: &[JournalEntry]) -> Result<Restored, RebuildError> {
        let held = entries.iter().map(|entry| (entry, &[][..]));
        self.restore_as(&held.collect::<Vec<_>>()).await
    }

    /// The same of changes whose bytes these workers have. Of one with bytes that nobody has
    /// the row says that they are lost.
    ///
    /// # Errors
    /// Restoring them again does no harm.
    pub async fn restore_held(
        &self,
        entries: &[(JournalEntry, Vec<NodeId>)],
    ) -> Result<Restored, RebuildError> {
        let held = entries.iter().map(|(entry, nodes)| (entry, &nodes[..]));
        self.restore_as(&held.collect::<Vec<_>>()).await
    }

    async fn restore_as(&self, held: &[Held<'_>]) -> Result<Restored, RebuildError> {
        let mut all = Restored::default();
        self.in_parts(Restore(held), |part| all.add(part)).await?;
        Ok(all)
    }

    /// Makes changes that may be made twice, and each by itself. What is too much for one
    /// transaction of a store that is slow or has trouble is made in smaller ones.
    async fn in_parts<B: Batch>(
        &self,
        batch: B,
        mut made: impl FnMut(B::Answer),
    ) -> Result<(), RebuildError> {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let attempts = match part.halves() {
                Some(_) => PART_ATTEMPTS,
                None => self.attempts_max,
            };
            let operation = self.relaxed().await?;
            let done = self.mutate_at_most(&part, &operation, attempts).await;
            match (done, part.halves()) {
                (Ok((answer, _)), _) => made(answer),
                (
                    Err(MetadataError::Unavailable(_) | MetadataError::Unknown(_)),
                    Some((first, second)),
                ) => parts.extend([second, first]),
                (Err(error), _) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Notes which stores, by number, have which blobs.
    ///
    /// # Errors
    /// Noting it again does no harm.
    pub async fn enter_blobs(&self, blobs: &[(BlobId, u32)]) -> Result<(), RebuildError> {
        let row = |(blob, source): &(BlobId, u32)| Row {
            key: keyspace::rebuild_blob(*blob, *source).into(),
            value: [].as_slice().into(),
        };
        let rows: Vec<Row> = blobs.iter().map(row).collect();
        Ok(dump::write(&self.store, &rows).await?)
    }

    /// The numbers of the stores that have a blob, in order.
    ///
    /// # Errors
    /// [`RebuildError::Rows`].
    pub async fn stores_of(&self, blob: BlobId) -> Result<Vec<u32>, RebuildError> {
        let range = keyspace::rebuild_blobs(blob);
        let (rows, _) = dump::page(&self.store, &range, STORES_MAX).await?;
        let stores = rows.iter();
        Ok(stores
            .filter_map(|row| keyspace::parse_rebuild_blob(&row.key))
            .collect())
    }

    /// Ends it: what was only for the rebuild goes, and the metadata belong to the
    /// store `journal_of`, whose entries up to `through` are not replayed.
    ///
    /// # Errors
    /// It is unfinished still; go on with it.
    pub async fn end_rebuild(&self, journal_of: &[u8], through: u64) -> Result<(), RebuildError> {
        self.clear_known().await?;
        self.set_journal_of(journal_of).await?;
        self.set_journal_through(through).await?;
        self.flush().await?;
        self.finish_format().await?;
        Ok(())
    }

    /// Ends that of a cluster: what was only for the rebuild goes, and workers are taken in
    /// as `rebuilt` says.
    ///
    /// # Errors
    /// It is unfinished still; go on with it.
    pub async fn end_rebuild_of_cluster(&self, rebuilt: &Rebuilt) -> Result<(), RebuildError> {
        self.clear_known().await?;
        loop {
            let all = keyspace::all_rebuild_blobs();
            let (rows, _) = dump::page(&self.store, &all, CLEARED_ROWS).await?;
            let Some(last) = rows.last() else { break };
            self.clear(KeyRange::new(all.start, successor(&last.key)))
                .await?;
        }
        dump::write(&self.store, &rebuilt.rows().map_err(record_error)?).await?;
        self.flush().await?;
        self.finish_format().await?;
        Ok(())
    }

    async fn clear_known(&self) -> Result<(), RebuildError> {
        loop {
            let changes = self.known_changes(None, CLEARED_ROWS).await?;
            let Some((bucket, key, _)) = changes.last() else {
                break;
            };
            let mut range = keyspace::rebuilds(None);
            range.end = keyspace::rebuilds(Some((*bucket, key))).start;
            self.clear(range).await?;
        }
        Ok(())
    }

    /// An operation that is made again if a power cut takes it.
    async fn relaxed(&self) -> Result<Operation, MetadataError> {
        let operation = self.operation().await?;
        Ok(Operation {
            relaxed: true,
            ..operation
        })
    }

    async fn clear(&self, range: KeyRange) -> Result<(), RebuildError> {
        let mut transaction = self.store.begin();
        transaction.clear_range(range);
        match transaction.commit_relaxed().await {
            // The loop looks again.
            Ok(_) | Err(CommitError::Unknown) => Ok(()),
            Err(error) if error.is_retryable() => Ok(()),
            Err(error) => Err(MetadataError::Unavailable(error.to_string()).into()),
        }
    }

    /// The name of a bucket.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn bucket_name(&self, bucket: BucketId) -> Result<Option<BucketName>, MetadataError> {
        let row = self.read(&Get(&keyspace::bucket_id(bucket))).await?;
        let name = row.map(|row| decode_bucket_id(&row).map_err(record_error));
        name.transpose()
    }

    /// The last number that a bucket was given, as far as the names tell.
    ///
    /// # Errors
    /// [`RebuildError::Metadata`].
    pub async fn last_bucket(&self) -> Result<u64, RebuildError> {
        let buckets = self.buckets().await?;
        let highest = buckets.iter().map(|bucket| bucket.id.0).max();
        let range = KeyRange::point(&keyspace::last_bucket_id());
        let (rows, _) = dump::page(&self.store, &range, 1).await?;
        let given = rows.first().map(|row| counter(&row.value));
        Ok(given.flatten().max(highest).unwrap_or(0))
    }
}

fn counter(value: &[u8]) -> Option<u64> {
    let bytes = <[u8; 8]>::try_from(value).ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// Changes of which each may be made by itself.
trait Batch: Mutation {
    /// Itself in two; `None`: it is one change, or none.
    fn halves(&self) -> Option<(Self, Self)>
    where
        Self: Sized;
}

fn halves<T>(all: &[T]) -> Option<(&[T], &[T])> {
    (all.len() > 1).then(|| all.split_at(all.len() / 2))
}

struct Enter<'a>(&'a [Change]);

impl Batch for Enter<'_> {
    fn halves(&self) -> Option<(Self, Self)> {
        halves(self.0).map(|(first, second)| (Self(first), Self(second)))
    }
}

impl Mutation for Enter<'_> {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        for (bucket, key, known) in self.0 {
            let row = keyspace::rebuild(*bucket, key);
            let before = transaction.get(&row).await?;
            let before = before.map(|value| decode_known(&value)).transpose()?;
            // In one store a change has one sequence; copies of it are the same.
            if before.is_none_or(|before| before < *known) {
                transaction.set(&row, &encode_known(known)?);
            }
        }
        Ok(Step::Commit(()))
    }
}

/// An entry, and who has its bytes.
type Held<'a> = (&'a JournalEntry, &'a [NodeId]);

struct Restore<'a>(&'a [Held<'a>]);

impl Batch for Restore<'_> {
    fn halves(&self) -> Option<(Self, Self)> {
        halves(self.0).map(|(first, second)| (Self(first), Self(second)))
    }
}

impl Mutation for Restore<'_> {
    type Answer = Restored;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Restored>, Stop> {
        let mut restored = Restored::default();
        for (entry, holders) in self.0 {
            let place = (entry.bucket, &entry.key);
            let bucket = transaction.get(&keyspace::bucket_id(entry.bucket)).await?;
            if bucket.is_none() {
                restored.homeless += 1;
            } else if current_pending(transaction, place).await?.is_some() {
                restored.known += 1;
            } else {
                restored.made += 1;
                // Requests of changes that nobody knows of may be under way.
                let operation = Operation {
                    replayed: true,
                    holders: holders.to_vec(),
                    ..Operation::journaled(entry)
                };
                if entry.removed {
                    let change = PendingChange::Delete;
                    begin_pending(transaction, &operation, place, change).await?;
                } else {
                    let object = &entry.object;
                    replace_object(transaction, &operation, place, object, None).await?;
                }
            }
        }
        Ok(Step::Commit(restored))
    }
}
