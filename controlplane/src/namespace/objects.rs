//! Objects: read, made current, removed and scanned.

use quickwater_proto::{
    BucketId, Committed, MetadataError, NodeId, ObjectKey, ObjectRecord, PersistState,
    PutCondition, ScanPage,
};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step, committed};
use super::pending::{current_held, follow_object, follow_removal};
use super::read::{Reading, all_rows};
use super::usage::count;
use super::{Namespace, SCAN_ROWS_MAX, Stop, record_error};
use crate::keyspace;
use crate::records::{
    DetailRef, EncodedObject, ObjectRow, VERSION_OFFSET, decode_summary, encode_object,
};
use crate::store::{KeyRange, Row, Store, Transaction};

impl<S: Store> Namespace<S> {
    /// The current version of an object, complete with parts and extents.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        Ok(self
            .read(&Current { bucket, key })
            .await?
            .map(|current| current.record))
    }

    /// Makes `record` current; `record.version` is ignored and given by the
    /// commit. A record that is not persisted becomes the key's pending change in
    /// the same commit; any other ends a pending change of the key.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::ConditionFailed`],
    /// [`MetadataError::NoSuchObject`] (a condition on an object that is not
    /// there), [`MetadataError::TooLarge`].
    pub async fn commit_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Result<Committed, MetadataError> {
        let (replaced, version) = self
            .mutate(&CommitObject {
                bucket,
                key,
                record,
                condition,
            })
            .await?;
        committed(replaced, version)
    }

    /// Removes an object, and with it the pending put of it, if there is one.
    /// `None`: it was not there.
    ///
    /// # Errors
    /// As [`Namespace::commit_object`].
    pub async fn remove_object(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        Ok(self
            .mutate(&RemoveObject {
                bucket,
                key,
                condition,
            })
            .await?
            .0)
    }

    /// Objects with `key >= from` and `key` beginning with `prefix`, at most
    /// `limit` and [`SCAN_ROWS_MAX`]. Parts, extents, headers and tags are left out.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn scan(
        &self,
        bucket: BucketId,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Result<ScanPage, MetadataError> {
        let range = keyspace::objects(bucket, prefix, from);
        let (rows, more) = self.rows(range, limit.min(SCAN_ROWS_MAX)).await?;
        let entries = rows.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(ScanPage { entries, more })
    }

    /// The same with whole records, but for what has rows of its own.
    pub(super) async fn scan_range(
        &self,
        range: KeyRange,
        limit: usize,
    ) -> Result<ScanPage, MetadataError> {
        let (rows, more) = self.rows(range, limit.min(SCAN_ROWS_MAX)).await?;
        let whole = |row: &Row| {
            let record = ObjectRow::decode(&row.value).and_then(ObjectRow::into_summary);
            Ok((object_key(row)?, record.map_err(record_error)?))
        };
        let entries = rows
            .iter()
            .map(whole)
            .collect::<Result<_, MetadataError>>()?;
        Ok(ScanPage { entries, more })
    }
}

/// A row as a listing shows it.
pub(super) fn entry(row: &Row) -> Result<(ObjectKey, ObjectRecord), MetadataError> {
    let record = decode_summary(&row.value);
    Ok((object_key(row)?, record.map_err(record_error)?))
}

fn object_key(row: &Row) -> Result<ObjectKey, MetadataError> {
    let Some((_, key)) = keyspace::parse_object(&row.key) else {
        tracing::error!(key = ?row.key, "unreadable object key");
        return Err(MetadataError::Unavailable("unreadable object key".into()));
    };
    Ok(key)
}

/// An object as the transaction sees it.
pub(super) struct CurrentObject {
    pub(super) record: ObjectRecord,
    detail: Option<DetailRef>,
}

struct Current<'a> {
    bucket: BucketId,
    key: &'a ObjectKey,
}

impl Reading for Current<'_> {
    type Answer = Option<CurrentObject>;

    async fn read<T: Transaction>(&self, transaction: &mut T) -> Result<Self::Answer, Stop> {
        let row = transaction
            .get_snapshot(&keyspace::object(self.bucket, self.key))
            .await?;
        complete(transaction, self.bucket, row).await
    }
}

/// The current object; another write to it in between conflicts.
pub(super) async fn current_object<T: Transaction>(
    transaction: &mut T,
    bucket: BucketId,
    key: &ObjectKey,
) -> Result<Option<CurrentObject>, Stop> {
    let row = transaction.get(&keyspace::object(bucket, key)).await?;
    complete(transaction, bucket, row).await
}

/// Adds the detail, which only changes together with the object row.
async fn complete<T: Transaction>(
    transaction: &mut T,
    bucket: BucketId,
    row: Option<bytes::Bytes>,
) -> Result<Option<CurrentObject>, Stop> {
    let Some(row) = row else { return Ok(None) };
    let row = ObjectRow::decode(&row)?;
    let detail = row.detail();
    let pieces = match detail {
        None => Vec::new(),
        Some(detail) => {
            let range = keyspace::details(bucket, detail.id);
            all_rows(transaction, range, detail.pieces as usize, true).await?
        }
    };
    let pieces: Vec<_> = pieces.into_iter().map(|piece| piece.value).collect();
    Ok(Some(CurrentObject {
        record: row.into_record(&pieces)?,
        detail,
    }))
}

/// The current version, where an If-Match or If-None-Match holds.
pub(super) async fn current_if<T: Transaction>(
    transaction: &mut T,
    (bucket, key): (BucketId, &ObjectKey),
    condition: &PutCondition,
) -> Result<Option<CurrentObject>, Stop> {
    let current = current_object(transaction, bucket, key).await?;
    check_condition(condition, current.as_ref().map(|current| &current.record))?;
    Ok(current)
}

/// Decides an If-Match or If-None-Match.
fn check_condition(
    condition: &PutCondition,
    current: Option<&ObjectRecord>,
) -> Result<(), MetadataError> {
    let holds = match (condition, current) {
        (PutCondition::None, _) | (PutCondition::Absent, None) => true,
        (PutCondition::Absent, Some(_)) => false,
        (_, None) => return Err(MetadataError::NoSuchObject),
        (PutCondition::Present, Some(_)) => true,
        (PutCondition::Match(etag), Some(current)) => *etag == current.etag,
        (PutCondition::Version(version), Some(current)) => *version == current.version,
    };
    if holds {
        Ok(())
    } else {
        Err(MetadataError::ConditionFailed)
    }
}

/// Writes the rows of a new current version in place of `current`, and what the
/// UFS has still to be told of it. Its detail must be under the operation's id.
pub(super) async fn replace_object<T: Transaction>(
    transaction: &mut T,
    operation: &Operation,
    place: (BucketId, &ObjectKey),
    encoded: &EncodedObject,
    current: Option<&CurrentObject>,
) -> Result<(), Stop> {
    let (bucket, key) = place;
    clear_detail(transaction, bucket, current);
    for (number, piece) in (0..).zip(&encoded.pieces) {
        transaction.set(&keyspace::detail(bucket, operation.id, number), piece);
    }
    let object = keyspace::object(bucket, key);
    transaction.set_versionstamped_value(&object, &encoded.row, VERSION_OFFSET);
    let before = current.map(|current| current.record.size);
    count(transaction, operation, bucket, before, Some(encoded.size));
    follow_object(transaction, operation, place, encoded).await
}

/// Removes the rows of the current version.
pub(super) fn clear_object<T: Transaction>(
    transaction: &mut T,
    operation: &Operation,
    (bucket, key): (BucketId, &ObjectKey),
    current: &CurrentObject,
) {
    clear_detail(transaction, bucket, Some(current));
    transaction.clear(&keyspace::object(bucket, key));
    let before = Some(current.record.size);
    count(transaction, operation, bucket, before, None);
}

fn clear_detail<T: Transaction>(
    transaction: &mut T,
    bucket: BucketId,
    current: Option<&CurrentObject>,
) {
    if let Some(detail) = current.and_then(|current| current.detail) {
        transaction.clear_range(keyspace::details(bucket, detail.id));
    }
}

struct CommitObject<'a> {
    bucket: BucketId,
    key: &'a ObjectKey,
    record: &'a ObjectRecord,
    condition: &'a PutCondition,
}

impl Mutation for CommitObject<'_> {
    type Answer = Option<ObjectRecord>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        require_bucket(transaction, self.bucket).await?;
        let place = (self.bucket, self.key);
        let current = current_if(transaction, place, self.condition).await?;
        let encoded = encode_object(self.record, operation.id)?;
        let mut operation = operation.clone();
        // The same bytes under another description: who has them has them still.
        if let Some(current) = &current
            && current.record.persist != PersistState::Persisted
            && current.record.extents == self.record.extents
            && let Some((_, holders)) = current_held(transaction, place).await?
        {
            let more = |node: &NodeId| !operation.holders.contains(node);
            let more: Vec<NodeId> = holders.nodes.into_iter().filter(more).collect();
            operation.holders.extend(more);
            operation.copies = holders.copies;
        }
        replace_object(transaction, &operation, place, &encoded, current.as_ref()).await?;
        Ok(Step::Commit(current.map(|current| current.record)))
    }
}

struct RemoveObject<'a> {
    bucket: BucketId,
    key: &'a ObjectKey,
    condition: &'a PutCondition,
}

impl Mutation for RemoveObject<'_> {
    type Answer = Option<ObjectRecord>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        require_bucket(transaction, self.bucket).await?;
        let place = (self.bucket, self.key);
        let current = current_if(transaction, place, self.condition).await?;
        let ended = follow_removal(transaction, place).await?;
        let Some(current) = current else {
            return Ok(match ended {
                true => Step::Commit(None),
                false => Step::Nothing(None),
            });
        };
        clear_object(transaction, operation, place, &current);
        Ok(Step::Commit(Some(current.record)))
    }
}
