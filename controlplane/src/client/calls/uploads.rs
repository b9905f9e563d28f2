//! Calls about multipart uploads, those that are open in a UFS included.

use quickwater_proto::{
    BucketId, Committed, CopyAt, ETag, Holders, ObjectKey, ObjectRecord, OpenedUpload, PartRecord,
    PutCondition, UploadId, UploadRecord,
};
use quickwater_rpc::cluster::{Call, Operation as O};

use super::{Got, committed, first, lost, of_bucket, of_upload, rows, too_large, with_row};
use crate::client::ControlClient;
use crate::cluster::wire::{condition_to_wire, copy_to_wire, number_to_wire, object_to_wire};
use crate::records::{
    decode_opened, decode_part, decode_part_holders, decode_upload, encode_opened, encode_part,
    encode_upload,
};

impl ControlClient {
    /// As [`crate::Namespace::note_opened`].
    pub async fn note_opened(&self, bucket: BucketId, opened: &OpenedUpload) -> Got<()> {
        let call = with_row(O::NoteOpened, bucket, encode_opened(opened))?;
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::forget_opened`].
    pub async fn forget_opened(&self, bucket: BucketId, key: &ObjectKey, id: UploadId) -> Got<()> {
        let call = of_upload(O::ForgetOpened, bucket, key, id);
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::opened`].
    pub async fn opened(
        &self,
        after: Option<(BucketId, &ObjectKey, UploadId)>,
        limit: usize,
    ) -> Got<Vec<(BucketId, OpenedUpload)>> {
        let mut call = match after {
            Some((bucket, key, id)) => of_upload(O::Opened, bucket, key, id),
            None => of_bucket(O::Opened, BucketId(0)),
        };
        call.positioned = after.is_some();
        call.limit = limit as u64;
        let answer = self.ask(call).await?;
        let buckets = answer.entries.iter().map(|entry| BucketId(entry.bucket));
        Ok(buckets.zip(rows(&answer, decode_opened)?).collect())
    }

    /// As [`crate::Namespace::create_upload`].
    pub async fn create_upload(&self, bucket: BucketId, upload: &UploadRecord) -> Got<()> {
        let call = with_row(O::CreateUpload, bucket, encode_upload(upload))?;
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::upload`].
    pub async fn upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Got<Option<UploadRecord>> {
        let answer = self.ask(of_upload(O::Upload, bucket, key, id)).await?;
        first(&answer, decode_upload)
    }

    /// As [`crate::Namespace::put_part`], when these others have flushed copies: refused if
    /// one of them was started anew.
    pub async fn put_part(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
        copies: &[CopyAt],
    ) -> Got<Option<PartRecord>> {
        let call = Call {
            part: encode_part(part).map_err(too_large)?,
            copies: copies.iter().map(copy_to_wire).collect(),
            ..with_row(O::PutPart, bucket, encode_upload(upload))?
        };
        first(&self.ask(call).await?, decode_part).map_err(lost)
    }

    /// As [`crate::Namespace::hand_over`].
    pub async fn hand_over(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        opened: UploadId,
    ) -> Got<()> {
        let call = Call {
            opened: number_to_wire(opened.0),
            ..with_row(O::HandOver, bucket, encode_upload(upload))?
        };
        self.ask(call).await.map(drop)
    }

    /// As [`crate::Namespace::parts`].
    pub async fn parts(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Got<Vec<PartRecord>> {
        let call = Call {
            from: after.to_string(),
            limit: limit as u64,
            ..of_upload(O::Parts, bucket, key, id)
        };
        rows(&self.ask(call).await?, decode_part)
    }

    /// As [`crate::Namespace::parts_held`].
    pub async fn parts_held(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Got<Vec<(PartRecord, Holders)>> {
        let call = Call {
            from: after.to_string(),
            limit: limit as u64,
            ..of_upload(O::Parts, bucket, key, id)
        };
        let both = |row: &[u8]| Ok((decode_part(row)?, decode_part_holders(row)?));
        rows(&self.ask(call).await?, both)
    }

    /// As [`crate::Namespace::uploads`].
    pub async fn uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Got<Vec<UploadRecord>> {
        let (from, id) = after.unwrap_or_default();
        let call = Call {
            text: prefix.to_owned(),
            from: from.to_owned(),
            upload: id.map_or_else(Vec::new, |id| number_to_wire(id.0)),
            positioned: after.is_some(),
            limit: limit as u64,
            ..of_bucket(O::Uploads, bucket)
        };
        rows(&self.ask(call).await?, decode_upload)
    }

    /// As [`crate::Namespace::complete_upload`], when these others have the bytes of parts,
    /// and `wanted` workers are to have each: refused if one of them was started anew, or if
    /// the rows of the parts name fewer.
    pub async fn complete_upload(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        condition: &PutCondition,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Got<Committed> {
        let call = Call {
            copies: copies.iter().map(copy_to_wire).collect(),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            object: Some(object_to_wire(record).map_err(too_large)?),
            condition: Some(condition_to_wire(condition)),
            ..with_row(O::CompleteUpload, bucket, encode_upload(upload))?
        };
        committed(&self.ask(call).await?)
    }

    /// As [`crate::Namespace::completed`].
    pub async fn completed(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Got<Option<ETag>> {
        let answer = self.ask(of_upload(O::Completed, bucket, key, id)).await?;
        Ok(answer.text.map(|text| ETag::new(&text)))
    }

    /// As [`crate::Namespace::abort_upload`].
    pub async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        id: UploadId,
    ) -> Got<Vec<PartRecord>> {
        let call = of_upload(O::AbortUpload, bucket, key, id);
        rows(&self.ask(call).await?, decode_part).map_err(lost)
    }
}
