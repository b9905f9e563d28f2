//! What we have opened in UFSs: noted before the UFS is asked, forgotten when the
//! UFS has ended it or an upload's own row names it. Absent: who ends it, and when.

use quickwater_proto::{BucketId, MetadataError, ObjectKey, OpenedUpload, UploadId};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step};
use super::{Namespace, SCAN_ROWS_MAX, Stop, record_error};
use crate::keyspace;
use crate::records::{decode_opened, encode_opened};
use crate::store::{Store, Transaction};

impl<S: Store> Namespace<S> {
    /// Notes an upload in the UFS of a bucket, in place of what was noted of it.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::TooLarge`].
    pub async fn note_opened(
        &self,
        bucket: BucketId,
        opened: &OpenedUpload,
    ) -> Result<(), MetadataError> {
        self.mutate(&Note { bucket, opened }).await?;
        Ok(())
    }

    /// Forgets an upload in the UFS; not being noted is success.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`], [`MetadataError::Unknown`].
    pub async fn forget_opened(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<(), MetadataError> {
        self.mutate(&Forget { bucket, key, id }).await?;
        Ok(())
    }

    /// Uploads noted in UFSs, in order of bucket, key and id, after one, at most
    /// `limit` and [`SCAN_ROWS_MAX`].
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn opened(
        &self,
        after: Option<(BucketId, &ObjectKey, UploadId)>,
        limit: usize,
    ) -> Result<Vec<(BucketId, OpenedUpload)>, MetadataError> {
        let range = keyspace::all_opened(after);
        let (rows, _) = self.rows(range, limit.min(SCAN_ROWS_MAX)).await?;
        let entry = |row: &crate::store::Row| {
            let bucket = keyspace::parse_opened_bucket(&row.key);
            let bucket =
                bucket.ok_or_else(|| MetadataError::Unavailable("unreadable opened key".into()))?;
            let opened = decode_opened(&row.value).map_err(record_error)?;
            Ok((bucket, opened))
        };
        rows.iter().map(entry).collect()
    }
}

struct Note<'a> {
    bucket: BucketId,
    opened: &'a OpenedUpload,
}

impl Mutation for Note<'_> {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        require_bucket(transaction, self.bucket).await?;
        let key = keyspace::opened(self.bucket, &self.opened.key, self.opened.id);
        transaction.set(&key, &encode_opened(self.opened)?);
        Ok(Step::Commit(()))
    }
}

struct Forget<'a> {
    bucket: BucketId,
    key: &'a ObjectKey,
    id: UploadId,
}

impl Mutation for Forget<'_> {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        let key = keyspace::opened(self.bucket, self.key, self.id);
        if transaction.get(&key).await?.is_none() {
            return Ok(Step::Nothing(()));
        }
        transaction.clear(&key);
        Ok(Step::Commit(()))
    }
}
