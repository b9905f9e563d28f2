//! How much a bucket holds: counters by atomic add, spread over shards, never
//! read by a change.

use quickwater_proto::{BucketId, MetadataError};

use super::Namespace;
use super::mutate::Operation;
use crate::keyspace::{self, Counter};
use crate::store::{Row, Store, Transaction};

/// What a bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Objects.
    pub objects: u64,
    /// Bytes of objects.
    pub bytes: u64,
}

impl<S: Store> Namespace<S> {
    /// What a bucket holds, by counters that are exact up to changes under way.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn usage(&self, bucket: BucketId) -> Result<Usage, MetadataError> {
        let objects = self.total(bucket, Counter::Objects).await?;
        Ok(Usage {
            objects,
            bytes: self.total(bucket, Counter::Bytes).await?,
        })
    }

    async fn total(&self, bucket: BucketId, counter: Counter) -> Result<u64, MetadataError> {
        let range = keyspace::counters(bucket, counter);
        let (rows, _) = self.rows(range, keyspace::SHARDS.into()).await?;
        let shard = |row: &Row| {
            let number = <[u8; 8]>::try_from(row.value.as_ref());
            number.map(i64::from_le_bytes).unwrap_or_default()
        };
        // Single shards go below zero when others hold what they removed.
        let total = rows.iter().map(shard).fold(0, i64::wrapping_add);
        Ok(u64::try_from(total).unwrap_or_default())
    }
}

/// Keeps the counters of a bucket right when an object of `before` bytes becomes
/// one of `after` bytes.
pub(super) fn count<T: Transaction>(
    transaction: &mut T,
    operation: &Operation,
    bucket: BucketId,
    before: Option<u64>,
    after: Option<u64>,
) {
    let shard = keyspace::shard(operation.id);
    let mut add = |counter, before: u64, after: u64| {
        if before != after {
            let delta = after.wrapping_sub(before).cast_signed();
            transaction.add(&keyspace::counter(bucket, counter, shard), delta);
        }
    };
    add(
        Counter::Objects,
        before.is_some().into(),
        after.is_some().into(),
    );
    add(
        Counter::Bytes,
        before.unwrap_or_default(),
        after.unwrap_or_default(),
    );
}
