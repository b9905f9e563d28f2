//! Object operations: read, look at, write, remove, tag.

use std::ops::Range;
use std::sync::Arc;

use quickwater_engine::{CacheResult, FlowError, World};
use quickwater_proto::{Bucket, ObjectKey, ObjectRecord, PersistState, PutCondition};
use quickwater_s3::body::PayloadDecoder;
use quickwater_s3::conditional::{self, Verdict};
use quickwater_s3::request::{GetAttributes, OBJECT_TAGS_MAX, PutObject, ReadObject};
use quickwater_s3::response::{AttributesView, ObjectView};
use quickwater_s3::{Operation, Request, S3Error, S3ErrorCode, response, xml};

use super::answer::{Refusal, ServiceAnswer, empty, flow_error, xml as document};
use super::body::ObjectBody;
use super::dispatch::{Answer, Call, Seen, slow_down};
use super::permits::{Permit, SMALL_BODY_MAX};
use super::read::ObjectBytes;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::http::{Payload, Response};

/// Room for the header lines of a usual answer, bytes.
const HEADER_LINES_BYTES: usize = 512;

/// What of an object is asked for.
pub(super) struct Wanted {
    range: Range<u64>,
    /// 206 with Content-Range.
    partial: bool,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) async fn get_object(
        &self,
        request: &Request,
        read: &ReadObject,
        seen: &mut Seen,
    ) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        match self
            .get_version(&bucket, request, read, request.revalidate, seen)
            .await
        {
            // Nothing was sent yet: serve the version that is there now.
            Err(Refusal::Changed) => self.get_version(&bucket, request, read, true, seen).await,
            answer => answer,
        }
    }

    async fn get_version(
        &self,
        bucket: &Arc<Bucket>,
        request: &Request,
        read: &ReadObject,
        revalidate: bool,
        seen: &mut Seen,
    ) -> Answer<W> {
        let key = request.key()?;
        let record = self.engine.resolve(bucket, key, revalidate).await?;
        let wanted = judge(read, &record)?;
        let length = wanted.range.end - wanted.range.start;
        let (status, mut headers) = head(read, &record, &wanted);
        let state = self.engine.persist_state(bucket.id, key, &record);
        response::persist_state(&mut headers, state);
        if length == 0 {
            seen.cache = Some(CacheResult::Hit);
            headers.extend_from_slice(cache_line(CacheResult::Hit));
            return Ok(Response {
                status,
                headers,
                body: Payload::Empty,
                close: false,
            });
        }
        if seen.reads_stripes
            && self
                .engine
                .is_elsewhere(bucket, key, &record, &wanted.range)
        {
            seen.layout = Some(self.layout(&record, &wanted.range));
            return Ok(Response {
                status,
                headers,
                body: Payload::HeadOf(length),
                close: false,
            });
        }
        if self.invites(seen, length) {
            return Ok(Response {
                status,
                headers,
                body: Payload::HeadOf(length),
                close: false,
            });
        }
        let permit = self.enter(length).await?;
        let reader = self.engine.read(bucket, key, &record, wanted.range);
        let mut reader = reader.with_depth(self.permits.depth());
        let cache = reader.forecast().await;
        seen.cache = Some(cache);
        headers.extend_from_slice(cache_line(cache));
        let first = reader.next().await?.ok_or_else(|| {
            FlowError::Damaged("the object has fewer bytes than its record says".into())
        })?;
        let body = ObjectBytes::new(first, reader, permit);
        Ok(Response {
            status,
            headers,
            body: Payload::Stream { length, body },
            close: false,
        })
    }

    /// A place for a body of `length` bytes; small ones need none.
    pub(super) async fn enter(&self, length: u64) -> Result<Option<Permit>, S3Error> {
        if length <= SMALL_BODY_MAX {
            return Ok(None);
        }
        self.permits.enter().await.map(Some).ok_or_else(slow_down)
    }

    pub(super) async fn head_object(&self, request: &Request, read: &ReadObject) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let key = request.key()?;
        let record = self
            .engine
            .resolve(&bucket, key, request.revalidate)
            .await?;
        let wanted = judge(read, &record)?;
        let length = wanted.range.end - wanted.range.start;
        let (status, mut headers) = head(read, &record, &wanted);
        let state = self.engine.persist_state(bucket.id, key, &record);
        response::persist_state(&mut headers, state);
        Ok(Response {
            status,
            headers,
            body: Payload::HeadOf(length),
            close: false,
        })
    }

    pub(super) async fn put_object(&self, call: Call<'_, '_, '_>, put: &PutObject) -> Answer<W> {
        let request = call.request;
        let key = request.key()?;
        let bucket = self.bucket_of(request).await?;
        let mut plan = self.plan(&call)?;
        plan.want_default();
        let _permit = self.enter(plan.length).await?;
        let disk = self.engine.disk().clone();
        let mut body = ObjectBody::new(call.body, PayloadDecoder::new(plan), disk, &self.hashing);
        let put = quickwater_engine::PutObject {
            headers: put.headers.clone(),
            tags: put.tags.clone(),
            condition: put.condition.clone(),
        };
        let record = self.engine.put(&bucket, key, put, &mut body).await?;
        self.say_outgrown(&bucket, key, &record);
        let mut headers = Vec::new();
        response::put_head(&mut headers, &record.etag, &record.checksums);
        self.promise(request, &bucket, &record, &mut headers)
            .await?;
        Ok(empty(200, headers))
    }

    /// One line for a write-back that was not one, whatever its path promises.
    pub(super) fn say_outgrown(&self, bucket: &Bucket, key: &ObjectKey, record: &ObjectRecord) {
        if record.persist != PersistState::Persisted {
            return;
        }
        if let Some(limit_bytes) = self.engine.outgrows(bucket, key, record.size) {
            let (bucket, bytes) = (&bucket.name, record.size);
            tracing::info!(
                %bucket, %key, bytes, limit_bytes,
                "written through instead of back: larger than the space for what the UFS does not have"
            );
        }
    }

    /// Waits for persistence if the client wants it, and says what the 200 to a
    /// write promises.
    pub(super) async fn promise(
        &self,
        request: &Request,
        bucket: &Bucket,
        record: &ObjectRecord,
        headers: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let mut state = record.persist;
        if let (PersistState::NotPersisted, Some(longest)) = (state, request.wait_persisted) {
            let (key, version) = (request.key()?, record.version);
            self.engine
                .wait_persisted(bucket.id, key, version, longest)
                .await?;
            state = PersistState::Persisted;
        }
        response::durability(headers, state, self.engine.copies_of(record));
        Ok(())
    }

    pub(super) async fn delete_object(
        &self,
        request: &Request,
        condition: &PutCondition,
    ) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        self.engine
            .delete(&bucket, request.key()?, condition)
            .await?;
        Ok(empty(204, Vec::new()))
    }

    pub(super) async fn delete_objects(&self, call: Call<'_, '_, '_>) -> Answer<W> {
        let bucket = self.bucket_of(call.request).await?;
        let body = self.document(call).await?;
        let wanted = xml::parse_delete(&body)?;
        let results = self.delete_entries(&bucket, wanted.entries).await?;
        Ok(document(
            200,
            response::delete_objects(&results, wanted.quiet),
        ))
    }

    pub(super) async fn delete_entry(
        &self,
        bucket: &Arc<Bucket>,
        entry: &xml::DeleteEntry,
    ) -> Result<(), S3Error> {
        self.forbid_write(bucket.name.as_str(), entry.key.as_str())?;
        let done = self.engine.delete(bucket, &entry.key, &entry.condition);
        done.await.map_err(flow_error)
    }

    pub(super) async fn object_acl(&self, request: &Request) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        self.engine.resolve(&bucket, request.key()?, false).await?;
        Ok(document(
            200,
            response::owner_acl(&self.config.dialect.owner),
        ))
    }

    pub(super) async fn object_attributes(
        &self,
        request: &Request,
        query: &GetAttributes,
    ) -> Answer<W> {
        let bucket = self.bucket_of(request).await?;
        let record = self
            .engine
            .resolve(&bucket, request.key()?, request.revalidate)
            .await?;
        let view = AttributesView {
            etag: &record.etag,
            size: record.size,
            checksums: &record.checksums,
            parts: &record.parts,
        };
        let mut answer: ServiceAnswer<W> = document(200, response::attributes(query, &view));
        response::attributes_head(&mut answer.headers, record.modified_ms);
        Ok(answer)
    }

    pub(super) async fn object_tagging(&self, call: Call<'_, '_, '_>) -> Answer<W> {
        let request = call.request;
        let key = request.key()?;
        let bucket = self.bucket_of(request).await?;
        match &request.operation {
            Operation::GetObjectTagging => {
                let record = self.engine.resolve(&bucket, key, false).await?;
                Ok(document(200, response::tagging(&record.tags)))
            }
            Operation::PutObjectTagging => {
                let body = self.document(call).await?;
                let tags = xml::parse_tagging(&body, OBJECT_TAGS_MAX)?;
                self.engine.set_tags(&bucket, key, tags).await?;
                Ok(empty(200, Vec::new()))
            }
            _ => {
                self.engine.set_tags(&bucket, key, Vec::new()).await?;
                Ok(empty(204, Vec::new()))
            }
        }
    }
}

/// Decides conditions and what part of the object is meant.
fn judge(read: &ReadObject, record: &ObjectRecord) -> Result<Wanted, Refusal> {
    match conditional::decide_read(&read.conditions, &record.etag, record.modified_ms) {
        Verdict::Proceed => {}
        Verdict::NotModified => {
            let mut headers = Vec::new();
            response::not_modified_head(&mut headers, &view(read, record, None));
            return Err(Refusal::NotModified(headers));
        }
        Verdict::PreconditionFailed => return Err(S3ErrorCode::PreconditionFailed.into()),
    }
    if let Some(number) = read.part_number {
        return part(record, number);
    }
    let Some(range) = read.range.filter(|_| {
        conditional::range_applies(read.if_range.as_ref(), &record.etag, record.modified_ms)
    }) else {
        return Ok(whole(record));
    };
    Ok(Wanted {
        range: range.resolve(record.size)?,
        partial: true,
    })
}

/// The bytes of one part. An object that was not uploaded in parts is its own
/// part 1.
fn part(record: &ObjectRecord, number: u16) -> Result<Wanted, Refusal> {
    if record.parts.is_empty() && number == 1 {
        return Ok(Wanted {
            range: 0..record.size,
            partial: record.size > 0,
        });
    }
    let mut start = 0;
    for part in &record.parts {
        if part.number == number {
            return Ok(Wanted {
                range: start..start + part.size,
                partial: part.size > 0,
            });
        }
        start += part.size;
    }
    Err(S3ErrorCode::InvalidPartNumber.into())
}

/// Status and header lines.
fn head(read: &ReadObject, record: &ObjectRecord, wanted: &Wanted) -> (u16, Vec<u8>) {
    let mut headers = Vec::with_capacity(HEADER_LINES_BYTES);
    let status = head_lines(&mut headers, read, record, wanted);
    (status, headers)
}

/// Appends the header lines of a GET or HEAD that do not depend on where the
/// bytes are; returns the status. The only place for them: two ways of answering
/// use it.
pub(super) fn head_lines(
    out: &mut Vec<u8>,
    read: &ReadObject,
    record: &ObjectRecord,
    wanted: &Wanted,
) -> u16 {
    let range = wanted.partial.then(|| wanted.range.clone());
    response::object_head(out, &view(read, record, range))
}

/// The header line that says where the bytes of a GET are.
pub(super) const fn cache_line(cache: CacheResult) -> &'static [u8] {
    match cache {
        CacheResult::Hit => b"x-quickwater-cache: hit\r\n",
        CacheResult::Miss => b"x-quickwater-cache: miss\r\n",
        CacheResult::Partial => b"x-quickwater-cache: partial\r\n",
    }
}

/// All of an object.
pub(super) fn whole(record: &ObjectRecord) -> Wanted {
    Wanted {
        range: 0..record.size,
        partial: false,
    }
}

fn view<'a>(
    read: &'a ReadObject,
    record: &'a ObjectRecord,
    range: Option<Range<u64>>,
) -> ObjectView<'a> {
    let numbered = read
        .part_number
        .and_then(|n| record.parts.iter().find(|p| p.number == n));
    let checksums = match (read.checksums, numbered) {
        (true, Some(part)) => part.checksums.as_slice(),
        (true, None) if range.is_none() || read.part_number.is_some() => &record.checksums,
        _ => &[],
    };
    ObjectView {
        etag: &record.etag,
        size: record.size,
        modified_ms: record.modified_ms,
        headers: &record.headers,
        checksums,
        tag_count: record.tags.len(),
        parts_count: numbered.and_then(|_| u16::try_from(record.parts.len()).ok()),
        range,
        overrides: read.overrides.as_deref(),
    }
}
