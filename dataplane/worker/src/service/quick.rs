//! A plain GET or HEAD of an object that memory knows: no allocation but those of
//! a device read and of a question to the persist queue. Absent: ranges,
//! conditions, misses, refusals: whatever is not plain or does not come out right
//! goes through `dispatch`, from the beginning.
//!
//! What is decided here is decided by the same code as there: the signature by
//! `s3::auth`, which version is current by `Engine::recall_object`, the header
//! lines by `objects`. A test compares both ways byte by byte.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use quickwater_engine::io::{ChunkId, Disk, Environment};
use quickwater_engine::{CacheResult, World};
use quickwater_proto::{ObjectKey, ObjectRecord, PersistState};
use quickwater_s3::request::{PlainRead, ReadObject};
use quickwater_s3::{RequestView, response};

use super::objects::{cache_line, head_lines, whole};
use super::permits::SMALL_BODY_MAX;
use super::{Answered, Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::http::{ConnectionInfo, QuickAnswer};

/// Part of a request's head, by place: the head is borrowed again when needed.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: u16,
    len: u16,
}

impl Span {
    /// Where `part`, a slice of `front`, lies in it.
    fn of(part: &str, front: &[u8]) -> Option<Self> {
        let at = (part.as_ptr() as usize).checked_sub(front.as_ptr() as usize)?;
        Some(Self {
            at: at.try_into().ok()?,
            len: part.len().try_into().ok()?,
        })
    }

    fn text(self, front: &[u8]) -> &str {
        let range = usize::from(self.at)..usize::from(self.at) + usize::from(self.len);
        front
            .get(range)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

/// A plain read that was let in, of a version that is current.
pub struct PlainAnswer<'s, W: World, O> {
    service: &'s S3Service<W, O>,
    record: Arc<ObjectRecord>,
    /// Where the bytes are safe.
    state: PersistState,
    /// GET and HEAD differ in this: what has to be read.
    chunk: Option<ChunkId>,
    read: ReadObject,
    begun: Instant,
    bucket: Span,
    path: Span,
    access_key: Option<Span>,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    pub(super) fn plain_answer(
        &self,
        view: &RequestView<'_>,
        front: &[u8],
    ) -> Option<PlainAnswer<'_, W, O>> {
        let begun = Instant::now();
        let plain = PlainRead::recognise(
            view,
            &self.config.dialect,
            self.config.policy,
            &self.access_key,
            self.engine.environment().wall_ms(),
            &mut self.signing_keys.borrow_mut(),
        )?;
        let (bucket, record) = self.engine.recall_object(plain.bucket, plain.key)?;
        let state = match record.persist {
            // Whether it is on its way to the UFS has to be looked up.
            PersistState::NotPersisted => {
                let key = ObjectKey::new(plain.key).ok()?;
                self.engine.persist_state(bucket, &key, &record)
            }
            settled => settled,
        };
        let chunk = match plain.head {
            true => None,
            false => Some(only_chunk(&record)?),
        };
        Some(PlainAnswer {
            service: self,
            record,
            state,
            chunk,
            read: ReadObject {
                checksums: plain.checksums,
                ..ReadObject::default()
            },
            begun,
            bucket: Span::of(plain.bucket, front)?,
            path: Span::of(view.target, front)?,
            access_key: match plain.access_key {
                Some(key) => Some(Span::of(key, front)?),
                None => None,
            },
        })
    }
}

/// The one chunk of a small object.
fn only_chunk(record: &ObjectRecord) -> Option<ChunkId> {
    let [extent] = record.extents.as_slice() else {
        return None;
    };
    let small = extent.size == record.size && (1..=SMALL_BODY_MAX).contains(&record.size);
    small.then_some(ChunkId {
        blob: extent.blob,
        index: 0,
    })
}

impl<W, O> QuickAnswer for PlainAnswer<'_, W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    async fn body(&mut self) -> Option<PoolBuf> {
        let disk = self.service.engine.disk();
        let Some(chunk) = self.chunk else {
            return disk.buffer(1).await.ok();
        };
        let size = u32::try_from(self.record.size).ok()?;
        // A miss, damage or a disk that fails: the long way knows what to do.
        let found = disk.read(chunk, 0..size).await.ok().flatten()?;
        let stats = &self.service.engine.shared().stats;
        stats
            .store_bytes
            .fetch_add(u64::from(size), Ordering::Relaxed);
        Some(found)
    }

    fn status(&self) -> u16 {
        200
    }

    fn length(&self) -> u64 {
        self.record.size
    }

    fn write_lines(&self, out: &mut Vec<u8>) {
        head_lines(out, &self.read, &self.record, &whole(&self.record));
        response::persist_state(out, self.state);
        if self.chunk.is_some() {
            out.extend_from_slice(cache_line(CacheResult::Hit));
        }
    }

    fn answered(&self, front: &[u8], info: &ConnectionInfo) {
        let (operation, method) = match self.chunk {
            Some(_) => ("GetObject", "GET"),
            None => ("HeadObject", "HEAD"),
        };
        self.service.observer.answered(&Answered {
            operation,
            method,
            path: self.path.text(front),
            bucket: Some(self.bucket.text(front)),
            status: 200,
            code: None,
            info,
            access_key: self.access_key.map(|key| key.text(front)),
            elapsed: self.begun.elapsed(),
            response_bytes: self.chunk.map_or(0, |_| self.record.size),
            cache: self.chunk.map(|_| CacheResult::Hit),
        });
    }
}
