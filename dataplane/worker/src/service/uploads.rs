//! Multipart uploads: create, take in parts, complete, abort.

use std::sync::Arc;

use quickwater_engine::{CompletedUpload, FlowError, NewUpload, World};
use quickwater_proto::{
    Bucket, Checksum, ChecksumAlgorithm, ETag, ObjectKey, PartRecord, PersistState, UploadId,
    UploadRecord,
};
use quickwater_s3::body::PayloadDecoder;
use quickwater_s3::checksum;
use quickwater_s3::request::{CompleteUpload, CreateUpload};
use quickwater_s3::{Request, S3Error, S3ErrorCode, response, xml};

use super::answer::{Refusal, ServiceAnswer, empty, xml as document};
use super::body::ObjectBody;
use super::dispatch::{Answer, Call};
use super::policy::forbid_waiting;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;

/// Parts read from the metadata at a time.
const PARTS_READ: usize = 1_000;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn create_upload(&self, request: &Request, new: &CreateUpload) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let new = NewUpload {
            headers: new.headers.clone(),
            tags: new.tags.clone(),
            checksum: new.checksum,
        };
        let upload = self
            .engine
            .create_upload(&bucket, request.key()?, new)
            .await?;
        let body = response::create_upload(&bucket.name, &upload.key, upload.id);
        let mut answer = document(200, body);
        response::create_upload_head(&mut answer.headers, upload.checksum);
        Ok(answer)
    }

    pub(super) async fn upload_part(
        &self,
        call: Call<'_, '_, '_>,
        upload: UploadId,
        number: u16,
    ) -> Answer<W> {
        let bucket = self.bucket_of(call.request).await?;
        let upload = self
            .engine
            .upload(&bucket, call.request.key()?, upload)
            .await?;
        let mut plan = self.plan(&call)?;
        if let Some((algorithm, _)) = upload.checksum {
            plan.want(algorithm);
        }
        plan.want_default();
        let _permit = self.enter(plan.length).await?;
        let disk = self.engine.disk().clone();
        let mut body = ObjectBody::new(call.body, PayloadDecoder::new(plan), disk, &self.hashing);
        let part = self
            .engine
            .put_part(&bucket, &upload, number, &mut body)
            .await?;
        let mut headers = Vec::new();
        response::put_part_head(&mut headers, &part.etag, &part.checksums);
        Ok(empty(200, headers))
    }

    pub(super) async fn abort_upload(&self, request: &Request, upload: UploadId) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        self.engine
            .abort_upload(&bucket, request.key()?, upload)
            .await?;
        Ok(empty(204, Vec::new()))
    }

    pub(super) async fn complete_upload(
        &self,
        call: Call<'_, '_, '_>,
        complete: &CompleteUpload,
    ) -> Answer<W> {
        let request = call.request;
        let key = request.key()?;
        let bucket = self.bucket_of(request).await?;
        let body = self.document(call).await?;
        let named = xml::parse_complete(&body)?;
        let first = async {
            let upload = self.engine.upload(&bucket, key, complete.upload).await?;
            if request.wait_persisted.is_some() {
                forbid_waiting(upload.held() == Some(PersistState::Transient))?;
            }
            let parts = self.matching_parts(&bucket, &upload, &named).await?;
            let done = self.completed_upload(&upload, complete, parts)?;
            let made = self.engine.complete_upload(&bucket, &upload, done).await;
            Ok::<_, Refusal>(made?)
        };
        let record = match first.await {
            Ok(record) => record,
            // It ended, maybe while this waited for another Complete of the same upload.
            Err(refusal) if refusal.is(S3ErrorCode::NoSuchUpload) => {
                let again = self.completed_again(&bucket, request, complete.upload, &named);
                return again.await?.ok_or(refusal);
            }
            Err(refusal) => return Err(refusal),
        };
        let mut answer = completed(&bucket, key, &record.etag, &record.checksums);
        self.promise(request, &bucket, &record, &mut answer.headers)
            .await?;
        Ok(answer)
    }

    /// The answer to a repeat of a Complete that was already made, with the promise
    /// the first one had; `None` when it is no such repeat.
    async fn completed_again(
        &self,
        bucket: &Arc<Bucket>,
        request: &Request,
        id: UploadId,
        named: &[xml::CompletedPart],
    ) -> Result<Option<ServiceAnswer<W>>, Refusal> {
        let key = request.key()?;
        let Some((etag, now)) = self.engine.completed(bucket, key, id).await? else {
            return Ok(None);
        };
        // Another list is not that repeat.
        let md5s: Vec<[u8; 16]> = named.iter().filter_map(|part| part.etag.as_md5()).collect();
        if md5s.len() != named.len() || checksum::multipart_etag(&md5s) != etag {
            return Ok(None);
        }
        let still = now.as_ref().filter(|record| record.etag == etag);
        let checksums = still.map_or(&[][..], |record| &record.checksums);
        let mut answer = completed(bucket, key, &etag, checksums);
        let waits = request.wait_persisted.is_some();
        match &now {
            Some(record) if record.persist != PersistState::Transient => {}
            _ if !waits => {}
            _ if still.is_some() => forbid_waiting(true)?,
            _ => return Err(FlowError::NeverPersisted.into()),
        }
        // What replaced it since is waited for: it never gets there itself any more.
        if let Some(record) = now.as_ref().filter(|_| waits || still.is_some()) {
            self.promise(request, bucket, record, &mut answer.headers)
                .await?;
        }
        Ok(Some(answer))
    }

    /// The parts the client names, each checked against what was uploaded.
    async fn matching_parts(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        named: &[xml::CompletedPart],
    ) -> Result<Vec<PartRecord>, Refusal> {
        let least = self.part_bytes_min(bucket, upload)?;
        let mut parts = Vec::with_capacity(named.len());
        // A page at a time: those nobody names may be many.
        let mut page = Vec::new().into_iter();
        for (at, wanted) in named.iter().enumerate() {
            let mut found = page.find(|p: &PartRecord| p.number >= wanted.number);
            if found.is_none() {
                let before = wanted.number.saturating_sub(1);
                let rows = self
                    .engine
                    .parts(bucket, &upload.key, upload.id, before, PARTS_READ)
                    .await?;
                page = rows.into_iter();
                found = page.next();
            }
            let part = found
                .filter(|p| p.number == wanted.number && p.etag == wanted.etag)
                .filter(|p| wanted.checksums.iter().all(|c| p.checksums.contains(c)));
            let part = part.ok_or(S3ErrorCode::InvalidPart)?;
            let last = at + 1 == named.len();
            if !last && part.size < least {
                return Err(too_small(&part, least).into());
            }
            parts.push(part);
        }
        Ok(parts)
    }

    /// Smallest part but for the last. What the UFS is to have it must be able to take:
    /// it refuses smaller ones only when it completes them, long after our ack.
    fn part_bytes_min(&self, bucket: &Bucket, upload: &UploadRecord) -> Result<u64, Refusal> {
        let ours = self.config.part_bytes_min;
        match upload.held() {
            Some(PersistState::Transient) => Ok(ours),
            _ => Ok(ours.max(self.engine.part_bytes_min(bucket)?)),
        }
    }

    /// ETag and checksums of the object the parts make.
    fn completed_upload(
        &self,
        upload: &UploadRecord,
        complete: &CompleteUpload,
        parts: Vec<PartRecord>,
    ) -> Result<CompletedUpload, Refusal> {
        let md5s: Vec<[u8; 16]> = parts.iter().filter_map(|p| p.etag.as_md5()).collect();
        let etag = checksum::multipart_etag(&md5s);
        let size: u64 = parts.iter().map(|p| p.size).sum();
        if complete
            .object_size
            .is_some_and(|expected| expected != size)
        {
            let text = "x-amz-mp-object-size does not match the size of the parts.";
            return Err(S3Error::request(text).into());
        }
        let checksums: Vec<Checksum> = object_checksum(upload, &parts).into_iter().collect();
        if let Some(promised) = &complete.checksum
            && let Some(computed) = checksums.iter().find(|c| c.algorithm == promised.algorithm)
            && computed.value != promised.value
        {
            return Err(S3ErrorCode::BadDigest.into());
        }
        Ok(CompletedUpload {
            parts,
            etag,
            checksums,
            condition: complete.condition.clone(),
        })
    }
}

fn completed<W: World>(
    bucket: &Bucket,
    key: &ObjectKey,
    etag: &ETag,
    checksums: &[Checksum],
) -> ServiceAnswer<W> {
    let location = format!("/{}/{key}", bucket.name);
    let body = response::complete_upload(&location, &bucket.name, key, etag, checksums);
    document(200, body)
}

/// The object's checksum as announced; CRC64NVME of all bytes when none was.
fn object_checksum(upload: &UploadRecord, parts: &[PartRecord]) -> Option<Checksum> {
    let (algorithm, full) = upload
        .checksum
        .unwrap_or((ChecksumAlgorithm::Crc64Nvme, true));
    let of = |part: &PartRecord| {
        let found = part.checksums.iter().find(|c| c.algorithm == algorithm);
        found.map(|c| c.value.clone())
    };
    let values: Vec<Vec<u8>> = parts.iter().map(of).collect::<Option<_>>()?;
    match full {
        true => {
            let sized = values
                .iter()
                .zip(parts)
                .map(|(v, p)| (v.as_slice(), p.size));
            checksum::full_object(algorithm, sized)
        }
        false => checksum::composite(algorithm, values.iter().map(Vec::as_slice)),
    }
}

fn too_small(part: &PartRecord, least: u64) -> S3Error {
    S3Error::from(S3ErrorCode::EntityTooSmall)
        .with("ProposedSize", part.size.to_string())
        .with("MinSizeAllowed", least.to_string())
        .with("PartNumber", part.number.to_string())
        .with("ETag", part.etag.to_string())
}
