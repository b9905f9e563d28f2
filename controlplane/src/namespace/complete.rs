//! CompleteMultipartUpload: one transaction makes the object current, ends the
//! upload and remembers the answer for a repeat.

use quickwater_proto::{
    BucketId, Committed, ETag, Holders, MetadataError, ObjectKey, ObjectRecord, PartRecord,
    PutCondition, UploadId, UploadRecord,
};

use super::buckets::require_bucket;
use super::mutate::{Mutation, Operation, Step, committed};
use super::objects::{current_if, replace_object};
use super::read::Get;
use super::uploads::{all_parts, end_upload, require_upload};
use super::{COMPLETED_KEEP_MS, Namespace, Stop, record_error};
use crate::keyspace;
use crate::records::{Completed, decode_completed, encode_completed, encode_object};
use crate::store::{Store, Transaction};

impl<S: Store> Namespace<S> {
    /// Commits the object and ends the upload in one transaction, and remembers
    /// the answer (see [`Namespace::completed`]). `record.parts` must be parts
    /// as they are stored now, in ascending order; the others are forgotten.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchUpload`], [`MetadataError::InvalidPart`], and as
    /// [`Namespace::commit_object`].
    pub async fn complete_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Result<Committed, MetadataError> {
        let (replaced, version) = self
            .mutate(&CompleteUpload {
                bucket,
                upload,
                record,
                condition,
            })
            .await?;
        committed(replaced, version)
    }

    /// The ETag of an upload completed within the last day, if it was.
    ///
    /// # Errors
    /// [`MetadataError::Unavailable`].
    pub async fn completed(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<ETag>, MetadataError> {
        let value = self.read(&Get(&keyspace::completed(bucket, id))).await?;
        let Some(value) = value else { return Ok(None) };
        let row = decode_completed(&value).map_err(record_error)?;
        let known = row.key == *key && row.expires_ms > self.clock.wall_ms();
        Ok(known.then_some(row.etag))
    }
}

struct CompleteUpload<'a> {
    bucket: BucketId,
    upload: &'a UploadRecord,
    record: &'a ObjectRecord,
    condition: &'a PutCondition,
}

impl Mutation for CompleteUpload<'_> {
    type Answer = Option<ObjectRecord>;

    async fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<Step<Self::Answer>, Stop> {
        let UploadRecord { id, key, .. } = self.upload;
        require_bucket(transaction, self.bucket).await?;
        require_upload(transaction, self.bucket, key, *id).await?;
        let stored = all_parts(transaction, self.bucket, *id).await?;
        check_parts(&self.record.parts, &stored)?;
        check_copies(&self.record.parts, &stored, operation)?;
        let place = (self.bucket, key);
        let current = current_if(transaction, place, self.condition).await?;
        let encoded = encode_object(self.record, operation.id)?;
        replace_object(transaction, operation, place, &encoded, current.as_ref()).await?;
        end_upload(transaction, self.bucket, key, *id);
        self.remember(transaction, operation)?;
        Ok(Step::Commit(current.map(|current| current.record)))
    }
}

impl CompleteUpload<'_> {
    fn remember<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> Result<(), Stop> {
        let id = self.upload.id;
        let completed = Completed {
            key: self.upload.key.clone(),
            etag: self.record.etag.clone(),
            expires_ms: operation.now_ms.saturating_add(COMPLETED_KEEP_MS),
        };
        let row = keyspace::completed(self.bucket, id);
        let expiry = keyspace::completed_expiry(completed.expires_ms, self.bucket, id);
        transaction.set(&row, &encode_completed(&completed)?);
        transaction.set(&expiry, &[]);
        Ok(())
    }
}

/// Every part listed is stored as listed, and the list ascends.
fn check_parts(
    listed: &[PartRecord],
    stored: &[(PartRecord, Holders)],
) -> Result<(), MetadataError> {
    let ascending = listed.windows(2).all(|two| two[0].number < two[1].number);
    let is_stored = |part: &PartRecord| {
        let found = find(stored, part.number);
        found.is_some_and(|(stored, _)| is_same(stored, part))
    };
    match ascending && !listed.is_empty() && listed.iter().all(is_stored) {
        true => Ok(()),
        false => Err(MetadataError::InvalidPart),
    }
}

/// As many workers as are wanted have the bytes of every part: those whom the part's row
/// names, and who make the commit or are named by it, whose sessions are fenced. Who is not
/// named by the row may have let go of what it had, also who makes the commit: it may have
/// lost the key meanwhile, and got it back. A part that no row says anything of only the
/// worker that took it has. A worker of before parts had copies does not say how many are
/// wanted: as many as the row says.
fn check_copies(
    listed: &[PartRecord],
    stored: &[(PartRecord, Holders)],
    operation: &Operation,
) -> Result<(), MetadataError> {
    let Some((owner, others)) = operation.holders.split_first() else {
        return Ok(());
    };
    for part in listed.iter().filter(|part| part.size > 0) {
        let Some((_, held)) = find(stored, part.number) else {
            continue;
        };
        let wanted = match operation.copies {
            0 => held.copies,
            wanted => wanted,
        };
        let own = held.nodes.is_empty() || held.nodes.contains(owner);
        let both = others.iter().filter(|node| *node != owner);
        let both = both.filter(|node| held.nodes.contains(node)).count();
        if both + usize::from(own) < wanted {
            let why = "a part is on fewer workers than it is to be";
            return Err(MetadataError::Unavailable(why.into()));
        }
    }
    Ok(())
}

fn find(stored: &[(PartRecord, Holders)], number: u16) -> Option<&(PartRecord, Holders)> {
    let found = stored.binary_search_by_key(&number, |(part, _)| part.number);
    found.ok().and_then(|at| stored.get(at))
}

/// Whether a part is the one listed: all of it but where its bytes are by now, which
/// an object does not say of its parts and a list that came over the wire has lost.
fn is_same(stored: &PartRecord, listed: &PartRecord) -> bool {
    let PartRecord {
        number,
        size,
        etag,
        modified_ms,
        checksums,
        blob,
        held: _,
    } = stored;
    let same = (listed.number, listed.size, listed.modified_ms, listed.blob);
    same == (*number, *size, *modified_ms, *blob)
        && listed.etag == *etag
        && listed.checksums == *checksums
}
