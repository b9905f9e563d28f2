//! Copies: the source is read through the store like a GET and written like a PUT.

use std::ops::Range;
use std::sync::Arc;

use quickwater_engine::io::{Body, BodyDigests, Disk};
use quickwater_engine::{FlowError, ObjectReader, World};
use quickwater_peer::{Capability, CopySource as SourceMessage, Task, decode};
use quickwater_proto::{
    Bucket, CHUNK_BYTES, ChecksumAlgorithm, NodeId, ObjectKey, ObjectRecord, slot_of,
};
use quickwater_s3::body::Checksums;
use quickwater_s3::conditional::{self, Verdict};
use quickwater_s3::request::{Conditions, CopyObject, CopyPart, CopySource};
use quickwater_s3::{Request, S3Error, S3ErrorCode, response};

use super::across::code_named;
use super::answer::{Refusal, xml as document};
use super::body::BodyFailure;
use super::dispatch::{Answer, slow_down};
use super::permits::Permit;
use super::place::{Failed, Neighbours, Patience, refusal};
use super::read::Relayed;
use super::records::record_from_wire;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::hashing::Md5Stream;
use crate::http::watch::Holding;
use crate::peer::{CallFailure, Where, right_to};

/// The bytes of another object as a body: cut anew into full chunks, because
/// those of the source begin elsewhere (a range, parts of odd sizes).
struct CopyBody<W: World> {
    reader: Reader<W>,
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
        let next = match &mut self.reader {
            Reader::Own(reader) => reader.next().await.map_err(|error| match error {
                FlowError::Changed => BodyFailure::Changed,
                error => BodyFailure::Refused(super::answer::flow_error(error)),
            })?,
            Reader::Peer(relayed) => match relayed.next().await {
                Ok(piece) => Some(piece),
                Err(why) => {
                    let error = FlowError::Unavailable(format!("the source: {why}"));
                    return Err(BodyFailure::Refused(super::answer::flow_error(error)));
                }
            },
            Reader::Nothing => None,
        };
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

/// Where the bytes of a source come from.
enum Reader<W: World> {
    Own(Box<ObjectReader<W>>),
    /// Another worker.
    Peer(Box<Relayed<W::Disk>>),
    /// There are none.
    Nothing,
}

/// The object to copy from.
struct Source<W: World> {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    record: Arc<ObjectRecord>,
    /// Of another worker: the bytes, if any are wanted, and the place for them.
    other: Option<(Reader<W>, Permit)>,
}

/// What of a source is wanted.
#[derive(Clone, Copy)]
struct Asked {
    revalidate: bool,
    /// First and last byte.
    range: Option<(u64, u64)>,
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
        let asked = Asked {
            revalidate,
            range: None,
        };
        let source = self.source(&copy.source, &copy.conditions, asked).await?;
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
        let (reader, _permit) = self
            .source_bytes(&source.seen(), source.other, 0..size)
            .await?;
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
        let mut body = self.copy_body(reader, size, algorithm);
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
        let asked = Asked {
            revalidate,
            range: copy.range,
        };
        let source = self.source(&copy.source, &copy.conditions, asked).await?;
        let range = part_range(copy, source.record.size)?;
        let length = range.end - range.start;
        if length > self.config.dialect.put_bytes_max {
            return Err(S3ErrorCode::EntityTooLarge.into());
        }
        let (reader, _permit) = self
            .source_bytes(&source.seen(), source.other, range)
            .await?;
        let algorithm = upload.checksum.map(|(algorithm, _)| algorithm);
        let mut body = self.copy_body(reader, length, algorithm);
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
        reader: Reader<W>,
        length: u64,
        algorithm: Option<ChecksumAlgorithm>,
    ) -> CopyBody<W> {
        CopyBody {
            reader,
            disk: self.engine.disk().clone(),
            rest: None,
            checksums: Some(Checksums::new(algorithm)),
            md5: self.hashing.stream(length > 0),
            length,
            taken: 0,
        }
    }

    /// The bytes of a source, and a place for them.
    async fn source_bytes(
        &self,
        (bucket, key, record): &Seen,
        other: Option<(Reader<W>, Permit)>,
        range: Range<u64>,
    ) -> Result<(Reader<W>, Option<Permit>), Refusal> {
        if let Some((reader, permit)) = other {
            return Ok((reader, Some(permit)));
        }
        let permit = self.enter(range.end - range.start).await?;
        let reader = self.engine.read(bucket, key, record, range);
        Ok((Reader::Own(Box::new(reader.with_depth(1))), permit))
    }

    async fn source(
        &self,
        named: &CopySource,
        conditions: &Conditions,
        asked: Asked,
    ) -> Result<Source<W>, Refusal> {
        let bucket = self.engine.bucket(&named.bucket).await?;
        let source = self.source_anywhere(&bucket, &named.key, asked).await;
        let source = source.map_err(|error| match error {
            Refusal::Error(error) if error.code == S3ErrorCode::NoSuchKey => {
                let resource = format!("/{}/{}", named.bucket, named.key);
                S3Error::from(S3ErrorCode::NoSuchKey).at(resource).into()
            }
            error => error,
        })?;
        let record = &source.record;
        match conditional::decide_copy(conditions, &record.etag, record.modified_ms) {
            Verdict::Proceed => Ok(source),
            Verdict::NotModified | Verdict::PreconditionFailed => {
                Err(S3ErrorCode::PreconditionFailed.into())
            }
        }
    }

    async fn source_here(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        asked: Asked,
    ) -> Result<Source<W>, Refusal> {
        let record = self.engine.resolve(bucket, key, asked.revalidate).await?;
        Ok(Source {
            bucket: Arc::clone(bucket),
            key: key.clone(),
            record,
            other: None,
        })
    }

    /// Has the owner of a source give it, this worker or another one.
    async fn source_anywhere(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        asked: Asked,
    ) -> Result<Source<W>, Refusal> {
        let Some(neighbours) = &self.neighbours else {
            return self.source_here(bucket, key, asked).await;
        };
        let mut patience = Patience::new(true);
        loop {
            let (node, failed) = match self.place(neighbours, slot_of(bucket.id, key)) {
                Ok(Where::There(node)) => {
                    let place = (neighbours, &node);
                    match self.source_there(place, bucket, key, asked).await {
                        Ok(source) => return Ok(source),
                        Err(Failed::Here(refusal)) => return Err(refusal),
                        Err(Failed::Call(failed)) => (Some(node), failed),
                    }
                }
                Err(failed) if self.engine.permit_lease().is_ok() => (None, failed),
                Ok(_) | Err(_) => return self.source_here(bucket, key, asked).await,
            };
            if !patience.again(&failed).await {
                // Nothing was changed, whatever became of it.
                let failed = CallFailure {
                    begun: false,
                    ..failed
                };
                return Err(refusal(&failed, node.as_ref()));
            }
        }
    }

    /// Has another worker give the source. The place for its bytes is taken before: who
    /// gives them waits for nobody.
    async fn source_there(
        &self,
        (neighbours, node): (&Neighbours, &NodeId),
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        asked: Asked,
    ) -> Result<Source<W>, Failed> {
        let permit = self.permits.enter().await.ok_or_else(slow_down)?;
        let (first, last) = asked.range.unwrap_or_default();
        let message = SourceMessage {
            revalidate: asked.revalidate,
            ranged: asked.range.is_some(),
            first,
            last,
            bytes_max: self.config.dialect.put_bytes_max,
        };
        let right = Capability {
            key: key.as_str().to_owned(),
            ..right_to(bucket, "CopySource")
        };
        let peers = &neighbours.peers;
        let opened = peers.open(node, Task::CopySource, right, &message).await;
        let (mut call, answer, record) = opened?;
        if !answer.code.is_empty() {
            call.done();
            return Err(S3Error::new(code_named(&answer.code), answer.text).into());
        }
        let record: Option<ObjectRecord> = decode(&record).ok().and_then(record_from_wire);
        let record = record.ok_or_else(|| S3Error::from(S3ErrorCode::InternalError))?;
        let reader = match answer.streams {
            true => {
                call.wire().socket().hold(Holding::Buffers);
                let disk = self.engine.disk().clone();
                Reader::Peer(Box::new(Relayed::new(call, answer.length, disk, None)))
            }
            false => {
                call.done();
                Reader::Nothing
            }
        };
        Ok(Source {
            bucket: Arc::clone(bucket),
            key: key.clone(),
            record: Arc::new(record),
            other: Some((reader, permit)),
        })
    }
}

/// What is known of a source besides its bytes.
type Seen = (Arc<Bucket>, ObjectKey, Arc<ObjectRecord>);

impl<W: World> Source<W> {
    fn seen(&self) -> Seen {
        (
            Arc::clone(&self.bucket),
            self.key.clone(),
            Arc::clone(&self.record),
        )
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
