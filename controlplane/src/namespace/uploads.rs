//! Multipart uploads in progress: begun, filled with parts, listed, aborted.
//!
//! A part reads the upload's row and writes its own, so parts do not conflict
//! with each other, but every one of them does with Complete and Abort, which
//! remove the upload's row.

use quickwater_proto::{
    BlobId, BucketId, Holders, MetadataError, NodeId, ObjectKey, PART_NUMBER_MAX, PartOf,
    PartRecord, UploadId, UploadRecord,
};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step};
use super::read::{Get, Page, Reading, all_rows};
use super::{Namespace, SCAN_ROWS_MAX, Stop, record_error};
use crate::keyspace;
use crate::records::{
    RecordError, decode_part, decode_part_holders, decode_upload, encode_part_held, encode_upload,
};
use crate::store::{Scan, Store, Transaction};

impl<S: Store> Namespace<S> {
    /// Commits a new upload. From now on its row names what was noted as opened
    /// in the UFS for it ([`Namespace::note_opened`]).
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::TooLarge`].
    pub async fn create_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
    ) -> Result<(), MetadataError> {
        self.mutate(&CreateUpload { bucket, upload }).await?;
        Ok(())
    }

    /// Finds an upload of `key`.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<UploadRecord>, MetadataError> {
        let value = self.read(&Get(&keyspace::upload(bucket, key, id))).await?;
        value
            .map(|value| decode_upload(&value).map_err(record_error))
            .transpose()
    }

    /// Commits a part, replacing one of the same number (which is returned). The workers of
    /// the ticket have the bytes of one that is [held](PartRecord::held).
    ///
    /// # Errors
    /// [`MetadataError::NoSuchUpload`] when it ended meanwhile;
    /// [`MetadataError::InvalidPart`] for a number that is not 1 to 10,000.
    pub async fn put_part(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Result<Option<PartRecord>, MetadataError> {
        if !(1..=PART_NUMBER_MAX).contains(&part.number) {
            return Err(MetadataError::InvalidPart);
        }
        Ok(self
            .mutate(&PutPart {
                bucket,
                upload,
                part,
            })
            .await?
            .0)
    }

    /// From now on the workers of the ticket have the bytes of a part, and nobody else.
    /// `false`: `blob` is not that part, or not any more, or the UFS has it.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`], [`MetadataError::Unknown`].
    pub async fn set_part_holders(
        &self,
        bucket: BucketId,
        of: PartOf,
        blob: BlobId,
    ) -> Result<bool, MetadataError> {
        Ok(self.mutate(&SetPartHolders { bucket, of, blob }).await?.0)
    }

    /// Whether a part that no UFS has is this blob, and its row names `node`.
    pub(super) async fn names_part(
        &self,
        bucket: BucketId,
        of: PartOf,
        (blob, node): (BlobId, &NodeId),
    ) -> Result<bool, MetadataError> {
        let holders = self.part_holders(bucket, of, blob).await?;
        Ok(holders.is_some_and(|holders| holders.nodes.contains(node)))
    }

    /// Who has the bytes of a part that no UFS has, as its row says. `None`: it is another
    /// blob, the UFS has it, or there is no such part.
    pub(crate) async fn part_holders(
        &self,
        bucket: BucketId,
        of: PartOf,
        blob: BlobId,
    ) -> Result<Option<Holders>, MetadataError> {
        let row = keyspace::part(bucket, of.upload, of.number);
        let Some(row) = self.read(&Get(&row)).await? else {
            return Ok(None);
        };
        let part = decode_part(&row).map_err(record_error)?;
        let holders = decode_part_holders(&row).map_err(record_error)?;
        Ok((part.held && part.blob == blob).then_some(holders))
    }

    /// The UFS knows an upload from now on, under the name that `upload` says; parts
    /// that are there are held ([`PartRecord::held`]). Its row names what was noted as
    /// opened in the UFS under `opened`.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchUpload`] when it ended meanwhile.
    pub async fn hand_over(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        opened: UploadId,
    ) -> Result<(), MetadataError> {
        let over = HandOver {
            bucket,
            upload,
            opened,
        };
        self.mutate(&over).await?;
        Ok(())
    }

    /// Parts with a number greater than `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchUpload`].
    pub async fn parts(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        let parts = self.parts_held(bucket, key, id, after, limit).await?;
        Ok(parts.into_iter().map(|(part, _)| part).collect())
    }

    /// The same with those who have the bytes of each; nobody: its row does not say.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchUpload`].
    pub async fn parts_held(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<(PartRecord, Holders)>, MetadataError> {
        self.read(&Parts {
            bucket,
            key,
            id,
            after,
            limit,
        })
        .await
    }

    /// Uploads in order of (key, id), after (`key_after`, `id_after`), whose key
    /// begins with `prefix`, at most `limit` and [`SCAN_ROWS_MAX`]. After a key
    /// alone: none of that key's.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Result<Vec<UploadRecord>, MetadataError> {
        let range = keyspace::uploads(bucket, prefix, after);
        let (rows, _) = self.rows(range, limit.min(SCAN_ROWS_MAX)).await?;
        rows.iter()
            .map(|row| decode_upload(&row.value).map_err(record_error))
            .collect()
    }

    /// Ends an upload without an object; its parts are returned to be freed.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchUpload`] when it ended already.
    pub async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        Ok(self.mutate(&AbortUpload { bucket, key, id }).await?.0)
    }
}

/// An upload that must be there; a race with its end conflicts.
pub(super) async fn require_upload<T: Transaction>(
    transaction: &mut T,
    bucket: BucketId,
    key: &ObjectKey,
    id: UploadId,
) -> Result<(), Stop> {
    let row = transaction.get(&keyspace::upload(bucket, key, id)).await?;
    let row = row.ok_or(MetadataError::NoSuchUpload)?;
    decode_upload(&row)?;
    Ok(())
}

/// All parts of an upload; a race with one of them conflicts.
pub(super) async fn all_parts<T: Transaction>(
    transaction: &mut T,
    bucket: BucketId,
    id: UploadId,
) -> Result<Vec<(PartRecord, Holders)>, Stop> {
    let range = keyspace::parts(bucket, id, 0);
    let rows = all_rows(transaction, range, PART_NUMBER_MAX.into(), false).await?;
    Ok(rows
        .iter()
        .map(|row| decode_part_row(&row.value))
        .collect::<Result<_, _>>()?)
}

fn decode_part_row(value: &[u8]) -> Result<(PartRecord, Holders), RecordError> {
    Ok((decode_part(value)?, decode_part_holders(value)?))
}

/// Removes the rows of an upload.
pub(super) fn end_upload<T: Transaction>(
    transaction: &mut T,
    bucket: BucketId,
    key: &ObjectKey,
    id: UploadId,
) {
    transaction.clear(&keyspace::upload(bucket, key, id));
    transaction.clear_range(keyspace::parts(bucket, id, 0));
}

struct Parts<'a> {
    bucket: BucketId,
    key: &'a ObjectKey,
    id: UploadId,
    after: u16,
    limit: usize,
}

impl Reading for Parts<'_> {
    type Answer = Vec<(PartRecord, Holders)>;

    async fn read<T: Transaction>(&self, transaction: &mut T) -> Result<Self::Answer, Stop> {
        let upload = keyspace::upload(self.bucket, self.key, self.id);
        if transaction.get_snapshot(&upload).await?.is_none() {
            return Err(MetadataError::NoSuchUpload.into());
        }
        let mut range = keyspace::parts(self.bucket, self.id, self.after);
        let limit = self.limit.min(PART_NUMBER_MAX.into());
        let mut parts = Vec::new();
        while parts.len() < limit {
            let scan = Scan::new(range.clone(), limit - parts.len());
            let page = Page(scan).read(transaction).await?;
            for row in &page.rows {
                parts.push(decode_part_row(&row.value)?);
            }
            match page.rows.last() {
                Some(last) if page.more => range.start = crate::store::successor(&last.key),
                _ => break,
            }
        }
        Ok(parts)
    }
}

struct CreateUpload<'a> {
    bucket: BucketId,
    upload: &'a UploadRecord,
}

impl Mutation for CreateUpload<'_> {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        require_bucket(transaction, self.bucket).await?;
        let key = keyspace::upload(self.bucket, &self.upload.key, self.upload.id);
        if transaction.get(&key).await?.is_some() {
            return Err(MetadataError::Unavailable("the upload id is taken".into()).into());
        }
        transaction.set(&key, &encode_upload(self.upload)?);
        transaction.clear(&keyspace::opened(
            self.bucket,
            &self.upload.key,
            self.upload.id,
        ));
        Ok(Step::Commit(()))
    }
}

struct PutPart<'a> {
    bucket: BucketId,
    upload: &'a UploadRecord,
    part: &'a PartRecord,
}

impl Mutation for PutPart<'_> {
    type Answer = Option<PartRecord>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        let UploadRecord { id, key, .. } = self.upload;
        // A forced removal of the bucket leaves upload rows to the sweeper.
        require_bucket(transaction, self.bucket).await?;
        require_upload(transaction, self.bucket, key, *id).await?;
        let row = keyspace::part(self.bucket, *id, self.part.number);
        let replaced = transaction.get(&row).await?;
        let replaced = replaced.map(|value| decode_part(&value)).transpose()?;
        // What only the worker that took it has stands in no row.
        let holders = match self.part.held && operation.holders.len() > 1 {
            true => operation.held(),
            false => Holders::default(),
        };
        transaction.set(&row, &encode_part_held(self.part, &holders)?);
        Ok(Step::Commit(replaced))
    }
}

struct SetPartHolders {
    bucket: BucketId,
    of: PartOf,
    blob: BlobId,
}

impl Mutation for SetPartHolders {
    type Answer = bool;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<bool>, Stop> {
        require_bucket(transaction, self.bucket).await?;
        let key = keyspace::part(self.bucket, self.of.upload, self.of.number);
        let Some(row) = transaction.get(&key).await? else {
            return Ok(Step::Nothing(false));
        };
        let part = decode_part(&row)?;
        // Bytes that nobody has would be lost: that is not noted.
        if !part.held || part.blob != self.blob || operation.holders.is_empty() {
            return Ok(Step::Nothing(false));
        }
        transaction.set(&key, &encode_part_held(&part, &operation.held())?);
        Ok(Step::Commit(true))
    }
}

struct HandOver<'a> {
    bucket: BucketId,
    upload: &'a UploadRecord,
    opened: UploadId,
}

impl Mutation for HandOver<'_> {
    type Answer = ();

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<()>, Stop> {
        let UploadRecord { id, key, .. } = self.upload;
        require_bucket(transaction, self.bucket).await?;
        require_upload(transaction, self.bucket, key, *id).await?;
        // Rows written before there was a mark have none.
        for (part, holders) in all_parts(transaction, self.bucket, *id).await? {
            if !part.held {
                let held = PartRecord { held: true, ..part };
                let row = keyspace::part(self.bucket, *id, held.number);
                transaction.set(&row, &encode_part_held(&held, &holders)?);
            }
        }
        let row = keyspace::upload(self.bucket, key, *id);
        transaction.set(&row, &encode_upload(self.upload)?);
        transaction.clear(&keyspace::opened(self.bucket, key, self.opened));
        Ok(Step::Commit(()))
    }
}

struct AbortUpload<'a> {
    bucket: BucketId,
    key: &'a ObjectKey,
    id: UploadId,
}

impl Mutation for AbortUpload<'_> {
    type Answer = Vec<PartRecord>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        _: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        require_bucket(transaction, self.bucket).await?;
        require_upload(transaction, self.bucket, self.key, self.id).await?;
        let parts = all_parts(transaction, self.bucket, self.id).await?;
        end_upload(transaction, self.bucket, self.key, self.id);
        let parts = parts.into_iter().map(|(part, _)| part).collect();
        Ok(Step::Commit(parts))
    }
}
