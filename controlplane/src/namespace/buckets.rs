//! Buckets: found, made, tagged and removed.
//!
//! The row by id is there exactly as long as the bucket and never changes: every
//! change inside a bucket reads it, so that it races with the bucket's removal
//! and with nothing else.

use quickwater_proto::{Bucket, BucketId, BucketName, MetadataError};

use super::location::Location;
use super::mutate::{Mutation, Operation, Step};
use super::read::{Get, all_rows};
use super::{BUCKETS_MAX, Namespace, Stop, record_error};
use crate::keyspace;
use crate::records::{decode_bucket, decode_bucket_id, encode_bucket, encode_bucket_id};
use crate::store::{KeyRange, Row, Scan, Store, Transaction};

impl<S: Store> Namespace<S> {
    /// Finds a bucket by name.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn bucket(&self, name: &BucketName) -> Result<Option<Bucket>, MetadataError> {
        let value = self.read(&Get(&keyspace::bucket(name))).await?;
        value
            .map(|value| decode_bucket(&value).map_err(record_error))
            .transpose()
    }

    /// All buckets in order of name, at most [`BUCKETS_MAX`].
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn buckets(&self) -> Result<Vec<Bucket>, MetadataError> {
        let (rows, _) = self.rows(keyspace::buckets(), BUCKETS_MAX).await?;
        rows.iter()
            .map(|row| decode_bucket(&row.value).map_err(record_error))
            .collect()
    }

    /// Commits a new bucket; its id is chosen here and never used again.
    ///
    /// # Errors
    /// [`MetadataError::BucketExists`], [`MetadataError::LocationOverlaps`],
    /// [`MetadataError::TooLarge`] (also for too many buckets).
    pub async fn create_bucket(&self, bucket: &Bucket) -> Result<Bucket, MetadataError> {
        Ok(self.rename(&CreateBucket { bucket }).await?.0)
    }

    /// Removes a bucket. `only_empty`: refuse while it has objects, uploads or
    /// pending changes: where a delete is pending, the UFS still holds what the
    /// client takes to be gone, so its location cannot go yet. Otherwise forget
    /// them all, whose rows are then swept in pages.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::BucketNotEmpty`].
    pub async fn delete_bucket(
        &self,
        bucket: BucketId,
        only_empty: bool,
    ) -> Result<(), MetadataError> {
        let only = if only_empty { Only::Empty } else { Only::Any };
        self.rename(&DeleteBucket { bucket, only }).await?;
        Ok(())
    }

    /// Forgets a bucket unless the UFS is behind for it: what only workers have
    /// would be lost.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::BucketNotEmpty`].
    pub(super) async fn forget_bucket(&self, bucket: BucketId) -> Result<(), MetadataError> {
        let only = Only::Settled;
        self.rename(&DeleteBucket { bucket, only }).await?;
        Ok(())
    }

    /// Replaces a bucket's tags.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::TooLarge`].
    pub async fn set_bucket_tags(
        &self,
        bucket: BucketId,
        tags: &[(String, String)],
    ) -> Result<(), MetadataError> {
        self.rename(&SetTags { bucket, tags }).await?;
        Ok(())
    }
}

/// The name of a bucket that must be there; a race with its removal conflicts.
pub(super) async fn require_bucket<T: Transaction>(
    transaction: &mut T,
    bucket: BucketId,
) -> Result<BucketName, Stop> {
    let row = transaction.get(&keyspace::bucket_id(bucket)).await?;
    let row = row.ok_or(MetadataError::NoSuchBucket)?;
    Ok(decode_bucket_id(&row)?)
}

struct CreateBucket<'a> {
    bucket: &'a Bucket,
}

impl Mutation for CreateBucket<'_> {
    type Answer = Bucket;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Bucket>, Stop> {
        let others = all_rows(transaction, keyspace::buckets(), BUCKETS_MAX, false).await?;
        check_new(self.bucket, &decode_all(&others)?)?;
        let bucket = Bucket {
            id: next_id(transaction).await?,
            ..self.bucket.clone()
        };
        let by_id = keyspace::bucket_id(bucket.id);
        transaction.set(&by_id, &encode_bucket_id(&bucket.name)?);
        transaction.set(&keyspace::bucket(&bucket.name), &encode_bucket(&bucket)?);
        Ok(Step::Commit(bucket))
    }
}

fn decode_all(rows: &[Row]) -> Result<Vec<Bucket>, Stop> {
    Ok(rows
        .iter()
        .map(|row| decode_bucket(&row.value))
        .collect::<Result<_, _>>()?)
}

/// Whether a bucket may join the others.
pub(super) fn check_new(bucket: &Bucket, others: &[Bucket]) -> Result<(), MetadataError> {
    if others.iter().any(|other| other.name == bucket.name) {
        return Err(MetadataError::BucketExists);
    }
    if others.len() >= BUCKETS_MAX {
        return Err(MetadataError::TooLarge(format!(
            "{BUCKETS_MAX} buckets are the limit"
        )));
    }
    let Some(place) = Location::of(bucket) else {
        return Ok(());
    };
    let overlaps = |other: &&Bucket| Location::of(other).is_some_and(|at| at.overlaps(&place));
    match others.iter().find(overlaps) {
        None => Ok(()),
        Some(other) => Err(MetadataError::LocationOverlaps(format!(
            "the UFS location {} overlaps {} of bucket '{}'",
            bucket.ufs, other.ufs, other.name
        ))),
    }
}

/// Ids count up from 1; the counter outlives every bucket.
async fn next_id<T: Transaction>(transaction: &mut T) -> Result<BucketId, Stop> {
    let key = keyspace::last_bucket_id();
    let last = transaction.get(&key).await?.unwrap_or_default();
    let last = match <[u8; 8]>::try_from(last.as_ref()) {
        Ok(number) => u64::from_be_bytes(number),
        Err(_) if last.is_empty() => 0,
        Err(_) => return Err(damaged_counter()),
    };
    let id = last.checked_add(1).ok_or_else(damaged_counter)?;
    transaction.set(&key, &id.to_be_bytes());
    Ok(BucketId(id))
}

fn damaged_counter() -> Stop {
    tracing::error!("the row of the last bucket id is damaged");
    MetadataError::Unavailable("the row of the last bucket id is damaged".into()).into()
}

struct DeleteBucket {
    bucket: BucketId,
    only: Only,
}

/// Which buckets may be removed.
#[derive(Clone, Copy)]
enum Only {
    /// Those with nothing in them.
    Empty,
    /// Those whose UFS has everything.
    Settled,
    /// All.
    Any,
}

impl Only {
    /// Rows there must be none of.
    fn forbidden(self, bucket: BucketId) -> Vec<KeyRange> {
        let pendings = keyspace::bucket_pendings(bucket);
        match self {
            Self::Empty => vec![
                keyspace::objects(bucket, "", ""),
                keyspace::all_uploads(bucket),
                pendings,
            ],
            Self::Settled => vec![pendings],
            Self::Any => Vec::new(),
        }
    }
}

impl Mutation for DeleteBucket {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        let name = require_bucket(transaction, self.bucket).await?;
        for range in self.only.forbidden(self.bucket) {
            let found = transaction.scan(Scan::new(range, 1)).await?;
            if !found.rows.is_empty() {
                return Err(MetadataError::BucketNotEmpty.into());
            }
        }
        transaction.clear(&keyspace::bucket(&name));
        transaction.clear(&keyspace::bucket_id(self.bucket));
        transaction.clear(&keyspace::directory(self.bucket));
        // Even an empty bucket has counters and completed uploads.
        transaction.set(&keyspace::trash(self.bucket), &[]);
        Ok(Step::Commit(()))
    }
}

struct SetTags<'a> {
    bucket: BucketId,
    tags: &'a [(String, String)],
}

impl Mutation for SetTags<'_> {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        let name = require_bucket(transaction, self.bucket).await?;
        let key = keyspace::bucket(&name);
        let row = transaction
            .get(&key)
            .await?
            .ok_or(MetadataError::NoSuchBucket)?;
        let bucket = Bucket {
            tags: self.tags.to_vec(),
            ..decode_bucket(&row)?
        };
        transaction.set(&key, &encode_bucket(&bucket)?);
        Ok(Step::Commit(()))
    }
}
