//! Which directory each bucket was written to: the identity that its mark must show.
//! Absent: the mark itself, which is in the directory.

use quickwater_proto::{BucketId, MetadataError};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step};
use super::read::Get;
use super::{Namespace, Stop, record_error};
use crate::keyspace;
use crate::records::{decode_directory, encode_directory};
use crate::store::{Store, Transaction};

impl<S: Store> Namespace<S> {
    /// The identity of the directory a bucket was written to; `None`: it was never
    /// marked.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn directory(&self, bucket: BucketId) -> Result<Option<String>, MetadataError> {
        let value = self.read(&Get(&keyspace::directory(bucket))).await?;
        value
            .map(|value| decode_directory(&value).map_err(record_error))
            .transpose()
    }

    /// Keeps the identity of a bucket's directory, or forgets it. Flushed on return.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`] when there is nothing it could be kept for.
    pub async fn set_directory(
        &self,
        bucket: BucketId,
        identity: Option<&str>,
    ) -> Result<(), MetadataError> {
        self.rename(&SetDirectory { bucket, identity }).await?;
        Ok(())
    }
}

struct SetDirectory<'a> {
    bucket: BucketId,
    identity: Option<&'a str>,
}

impl Mutation for SetDirectory<'_> {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        let key = keyspace::directory(self.bucket);
        match self.identity {
            Some(identity) => {
                require_bucket(transaction, self.bucket).await?;
                transaction.set(&key, &encode_directory(identity)?);
            }
            None => transaction.clear(&key),
        }
        Ok(Step::Commit(()))
    }
}
