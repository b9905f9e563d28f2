//! Copies: the source is read through the store like a GET and written like a PUT.

use std::ops::Range;
use std::sync::Arc;

use quickwater_engine::io::{Body, BodyDigests, Disk};
use quickwater_engine::{FlowError, ObjectReader, World};
use quickwater_proto::{Bucket, CHUNK_BYTES, ChecksumAlgorithm, ObjectKey, ObjectRecord};
use quickwater_s3::body::Checksums;
use quickwater_s3::conditional::{self, Verdict};
use quickwater_s3::request::{Conditions, CopyObject, CopyPart, CopySource};
use quickwater_s3::{Request, S3Error, S3ErrorCode, response};

use super::answer::{Refusal, xml as document};
use super::body::BodyFailure;
use super::dispatch::Answer;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::hashing::Md5Stream;

/// The bytes of another object as a body: cut anew into full chunks, because
/// those of the source begin elsewhere (a range, parts of odd sizes).
struct CopyBody<W: World> {
    reader: ObjectReader<W>,
    disk: W::Disk,
    /// What the last chunk did not need.
    rest: Option<PoolBuf>,
    /// Gone once finished.
    checksums: Option<Checksums>,
    md5: Md5Stream,
    length: u64,
    taken: u64,
}

impl<W: World> CopyBody<W>
where
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
{
    async fn piece(&mut self) -> Result<PoolBuf, BodyFailure> {
        if let Some(rest) = self.rest.take() {
            return Ok(rest);
        }
        let next = self.reader.next().await;
        let next = next.map_err(|error| match error {
            FlowError::Changed => BodyFailure::Changed,
            error => BodyFailure::Refused(super::answer::flow_error(error)),
        })?;
        next.ok_or_else(|| BodyFailure::Refused(S3ErrorCode::InternalError.into()))
    }

    /// The next `want` bytes in one buffer.
    async fn chunk(&mut self, want: usize) -> Result<PoolBuf, BodyFailure> {
        let first = self.piece().await?;
        if first.len() == want {
            return Ok(first);
        }
        let mut whole = self
            .disk
            .buffer(want)
            .await
            .map_err(|_| BodyFailure::Overloaded)?;
        let mut piece = first;
        loop {
            let most = piece.len().min(want - whole.len());
            let moved = whole.append(&piece.as_slice()[..most]);
            piece.consume(moved);
            if whole.len() == want {
                self.rest = Some(piece).filter(|p| !p.is_empty());
                return Ok(whole);
            }
            // Given back before the next is asked for.
            drop(piece);
            piece = self.piece().await?;
        }
    }
}

impl<W: World> Body for CopyBody<W>
where
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
{
    type Buffer = PoolBuf;
    type Error = BodyFailure;

    fn length(&self) -> u64 {
        self.length
    }

    async fn next(&mut self) -> Result<Option<PoolBuf>, BodyFailure> {
        while self.taken < self.length {
            let want = (self.length - self.taken).min(u64::from(CHUNK_BYTES));
            let next = self.chunk(want as usize).await?;
            self.taken += want;
            if let Some(checksums) = &mut self.checksums {
                checksums.update(next.as_slice());
            }
            let more = self.taken < self.length;
            if let Some(hashed) = self.md5.exchange(next, more).await {
                return Ok(Some(hashed));
            }
        }
        Ok(self.md5.hashed().await)
    }

    fn finish(&mut self) -> Result<BodyDigests, BodyFailure> {
        let checksums = self.checksums.take().ok_or(BodyFailure::Lost)?.finish();
        let md5 = self.md5.finish();
        if md5.length() != self.length {
            return Err(BodyFailure::Refused(S3ErrorCode::InternalError.into()));
        }
        let md5 = md5.finish();
        Ok(BodyDigests { md5, checksums })
    }
}

/// The object to copy from.
struct Source {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    record: Arc<ObjectRecord>,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn copy_object(&self, request: &Request, copy: &CopyObject) -> Answer<W> {
        match self.copy_version(request, copy, false).await {
            // Nothing was published yet: copy what is there now.
            Err(Refusal::Changed) => self.copy_version(request, copy, true).await,
            answer => answer,
        }
    }

    async fn copy_version(
        &self,
        request: &Request,
        copy: &CopyObject,
        revalidate: bool,
    ) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let key = request.key()?;
        let source = self
            .source(&copy.source, &copy.conditions, revalidate)
            .await?;
        let size = source.record.size;
        if size > self.config.dialect.put_bytes_max {
            let text = "The specified copy source is larger than the maximum allowable size.";
            return Err(S3Error::request(text).into());
        }
        let itself = source.bucket.id == bucket.id && source.key == *key;
        if itself && copy.headers.is_none() && copy.tags.is_none() {
            let text = "This copy request is illegal because it is trying to copy an object to \
                        itself without changing the object's metadata.";
            return Err(S3Error::request(text).into());
        }
        let _permit = self.enter(size).await?;
        let put = quickwater_engine::PutObject {
            headers: copy
                .headers
                .clone()
                .unwrap_or_else(|| source.record.headers.clone()),
            tags: copy
                .tags
                .clone()
                .unwrap_or_else(|| source.record.tags.clone()),
            condition: copy.condition.clone(),
        };
        let algorithm = copy
            .checksum
            .or_else(|| source.record.checksums.first().map(|c| c.algorithm));
        let algorithm = algorithm.or(Some(ChecksumAlgorithm::Crc64Nvme));
        let mut body = self.copy_body(&source, 0..size, algorithm);
        let record = self.engine.put(&bucket, key, put, &mut body).await?;
        self.say_outgrown(&bucket, key, &record);
        let answer = response::copy_object(&record.etag, record.modified_ms, &record.checksums);
        let mut answer = document(200, answer);
        self.promise(request, &bucket, &record, &mut answer.headers)
            .await?;
        Ok(answer)
    }

    pub(super) async fn upload_part_copy(&self, request: &Request, copy: &CopyPart) -> Answer<W> {
        match self.copy_part(request, copy, false).await {
            Err(Refusal::Changed) => self.copy_part(request, copy, true).await,
            answer => answer,
        }
    }

    async fn copy_part(&self, request: &Request, copy: &CopyPart, revalidate: bool) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let upload = self
            .engine
            .upload(&bucket, request.key()?, copy.upload)
            .await?;
        let source = self
            .source(&copy.source, &copy.conditions, revalidate)
            .await?;
        let range = part_range(copy, source.record.size)?;
        let length = range.end - range.start;
        if length > self.config.dialect.put_bytes_max {
            return Err(S3ErrorCode::EntityTooLarge.into());
        }
        let _permit = self.enter(length).await?;
        let mut body = self.copy_body(&source, range, upload.checksum.map(|(a, _)| a));
        let part = self
            .engine
            .put_part(&bucket, &upload, copy.number, &mut body)
            .await?;
        Ok(document(
            200,
            response::copy_part(&part.etag, part.modified_ms, &part.checksums),
        ))
    }

    fn copy_body(
        &self,
        source: &Source,
        range: Range<u64>,
        algorithm: Option<ChecksumAlgorithm>,
    ) -> CopyBody<W> {
        let length = range.end - range.start;
        let reader = self
            .engine
            .read(&source.bucket, &source.key, &source.record, range);
        CopyBody {
            reader: reader.with_depth(1),
            disk: self.engine.disk().clone(),
            rest: None,
            checksums: Some(Checksums::new(algorithm)),
            md5: self.hashing.stream(length > 0),
            length,
            taken: 0,
        }
    }

    async fn source(
        &self,
        named: &CopySource,
        conditions: &Conditions,
        revalidate: bool,
    ) -> Result<Source, Refusal> {
        let bucket = self.engine.bucket(&named.bucket).await?;
        let record = match self.engine.resolve(&bucket, &named.key, revalidate).await {
            Ok(record) => record,
            Err(FlowError::NoSuchKey) => {
                let resource = format!("/{}/{}", named.bucket, named.key);
                return Err(S3Error::from(S3ErrorCode::NoSuchKey).at(resource).into());
            }
            Err(error) => return Err(error.into()),
        };
        match conditional::decide_copy(conditions, &record.etag, record.modified_ms) {
            Verdict::Proceed => Ok(Source {
                bucket,
                key: named.key.clone(),
                record,
            }),
            Verdict::NotModified | Verdict::PreconditionFailed => {
                Err(S3ErrorCode::PreconditionFailed.into())
            }
        }
    }
}

/// The bytes of the source that become the part: first and last are inclusive.
fn part_range(copy: &CopyPart, size: u64) -> Result<Range<u64>, Refusal> {
    match copy.range {
        None => Ok(0..size),
        Some((first, last)) if first <= last && last < size => Ok(first..last + 1),
        Some(_) => Err(S3ErrorCode::InvalidRange.into()),
    }
}
