//! Large objects spread over the cluster, as workers serve them: an owner says where the
//! bytes of a GET are instead of passing them on, and whoever holds a stripe gives pieces of
//! it. Absent: asking for them (`peer/stripes.rs`), who holds which (the engine).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use quickwater_engine::io::{ChunkRun, Disk};
use quickwater_engine::{CacheResult, FlowError, World};
use quickwater_peer::{
    Answer, ChunkRuns, Content, Counts, FrameError, Kind, Layout, Message, ReadStripe, RefusalKind,
    decode,
};
use quickwater_proto::{
    BlobId, ETag, Extent, NodeId, ObjectHeaders, ObjectKey, ObjectRecord, PersistState,
    UfsIdentity, Version,
};
use quickwater_s3::{Request, S3ErrorCode};

use super::answer::{Refusal, ServiceAnswer, flow_error};
use super::dispatch::Seen;
use super::host::Hosting;
use super::objects::cache_line;
use super::permits::Permit;
use super::read::ObjectBytes;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::http::watch::Holding;
use crate::http::{Payload, Response};
use crate::peer::{
    CallFailure, Failure, Outgoing, Wire, WireError, content_to_wire, extent_of, extent_to_wire,
    run_of,
};

/// Most bytes of a message that asks for a piece: a token is an ETag or an inode.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a layout: 10,000 extents take a tenth of it.
const LAYOUT_BYTES_MAX: usize = 4 << 20;
/// Most bytes of a list of chunks.
const RUNS_BYTES_MAX: usize = 512 << 10;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// What tells another worker where the bytes of a range are.
    pub(super) fn layout(&self, record: &ObjectRecord, range: &Range<u64>) -> Layout {
        Layout {
            content: content_to_wire(record),
            extents: record.extents.iter().map(extent_to_wire).collect(),
            first: range.start,
            end: range.end,
            stored: match self.engine.stored(record, range.clone()) {
                CacheResult::Hit => 1,
                CacheResult::Miss => 2,
                CacheResult::Partial => 3,
            },
        }
    }

    /// Answers a GET whose owner has said where the bytes are.
    pub(super) async fn read_layout(
        &self,
        request: &Request,
        owner: &NodeId,
        ((record, layout), answer): ((Arc<ObjectRecord>, Layout), Answer),
        permit: Option<Permit>,
        seen: &mut Seen,
    ) -> Result<ServiceAnswer<W>, Refusal> {
        let range = layout.first..layout.end;
        let length = range.end - range.start;
        let status = u16::try_from(answer.status).unwrap_or(0);
        if length != answer.length || !matches!(status, 200 | 206) {
            return Err(S3ErrorCode::InternalError.into());
        }
        let bucket = self.engine.bucket(request.bucket()?).await?;
        let reader = self.engine.read(&bucket, request.key()?, &record, range);
        let source = (layout.stored != 2).then(|| owner.clone());
        let reader = reader.with_depth(self.permits.depth());
        let mut reader = reader.from_source(source);
        let cache = match layout.stored {
            1 => CacheResult::Hit,
            stored => match reader.forecast().await {
                CacheResult::Miss if stored == 3 => CacheResult::Partial,
                result => result,
            },
        };
        seen.cache = Some(cache);
        let mut headers = answer.headers;
        headers.extend_from_slice(cache_line(cache));
        let first = reader.next().await?.ok_or_else(|| {
            FlowError::Damaged("the object has fewer bytes than its record says".into())
        })?;
        let body = ObjectBytes::new(first, reader, permit);
        Ok(Response {
            status,
            headers,
            body: Payload::Stream { length, body },
            close: answer.close,
        })
    }

    /// Gives a piece of a stripe.
    pub(super) async fn host_stripe(
        &self,
        hosting: &Hosting<'_>,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        let asked: ReadStripe = take(wire, MESSAGE_BYTES_MAX).await?;
        // Held for one piece only, and waiting for nothing but the UFS.
        let Some(_permit) = hosting.neighbours.stripes.enter().await else {
            return hosting.refuse(wire, RefusalKind::Busy, "no place").await;
        };
        let given = self.piece_of(hosting, &asked).await;
        wire.socket().hold(Holding::Buffers);
        let sent = match given {
            Ok((piece, stored)) => {
                let answer = Answer {
                    status: 200,
                    length: piece.len() as u64,
                    yes: stored,
                    ..Answer::default()
                };
                match asked.unseen {
                    true => wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await,
                    false => wire.send_whole(Kind::Answer, &answer, piece).await,
                }
            }
            Err(error) => {
                let changed = error == FlowError::Changed;
                let error = flow_error(error);
                let answer = Answer {
                    status: error.status().into(),
                    code: error.code.as_str().to_owned(),
                    text: error.message.clone().into_owned(),
                    changed,
                    ..Answer::default()
                };
                wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await
            }
        };
        wire.socket().let_go();
        sent
    }

    async fn piece_of(
        &self,
        hosting: &Hosting<'_>,
        asked: &ReadStripe,
    ) -> Result<(PoolBuf, bool), FlowError> {
        let wrong = || FlowError::Invalid("no piece of an object".into());
        let key = ObjectKey::new(&hosting.right.key).map_err(|_| wrong())?;
        let (record, range) = piece_wanted(asked).ok_or_else(wrong)?;
        let name = quickwater_proto::BucketName::new(&hosting.right.bucket);
        let bucket = self.engine.bucket(&name.map_err(|_| wrong())?).await?;
        if bucket.id.0 != asked.bucket {
            return Err(FlowError::NoSuchBucket);
        }
        let source = NodeId::new(&asked.source).ok();
        let given = self.engine.give(&bucket, &key, &record, range, source);
        given.await
    }

    /// Says how many chunks are here.
    pub(super) async fn host_count(&self, wire: &mut Wire) -> Result<(), WireError> {
        let runs = take_runs(wire).await?;
        let counts = runs.iter().map(|run| self.engine.count_chunks(&[*run]));
        send_counts(wire, counts.collect()).await
    }

    /// Forgets chunks.
    pub(super) async fn host_forget(&self, wire: &mut Wire) -> Result<(), WireError> {
        let runs = take_runs(wire).await?;
        send_counts(wire, self.engine.forget_chunks(&runs)).await
    }
}

/// Where the bytes of an answer are, as the owner says.
///
/// # Errors
/// It was not said whole: nothing of the answer has gone to the client yet.
pub(super) async fn take_layout(
    call: &mut Outgoing,
) -> Result<(Arc<ObjectRecord>, Layout), CallFailure> {
    let layout: Layout = take(call.wire(), LAYOUT_BYTES_MAX)
        .await
        .map_err(|error| CallFailure::new(Failure::Broken, error.to_string()))?;
    let record = record_of(&layout);
    let record = record.ok_or_else(|| {
        CallFailure::new(Failure::Protocol, "a layout that is not one of the object")
    })?;
    Ok((record, layout))
}

/// What another worker's word makes of a version: enough to read it.
fn record_with(content: &Content, extents: Vec<Extent>) -> ObjectRecord {
    ObjectRecord {
        version: Version::default(),
        size: content.size,
        etag: ETag::new(&content.etag),
        modified_ms: content.modified_ns.div_euclid(1_000_000),
        headers: ObjectHeaders::default(),
        checksums: Vec::new(),
        tags: Vec::new(),
        extents,
        parts: Vec::new(),
        ufs: Some(UfsIdentity {
            size: content.size,
            modified_ns: content.modified_ns,
            token: content.token.clone(),
        }),
        persist: PersistState::Persisted,
        partial: false,
    }
}

/// The version that a layout is of; none: it is not whole.
fn record_of(layout: &Layout) -> Option<Arc<ObjectRecord>> {
    let content = layout.content.as_ref()?;
    let extents: Vec<_> = layout
        .extents
        .iter()
        .map(extent_of)
        .collect::<Option<_>>()?;
    let sizes = extents.iter().map(|extent| extent.size);
    let bytes = sizes.fold(0, u64::saturating_add);
    let fits = bytes == content.size && layout.first < layout.end && layout.end <= bytes;
    fits.then(|| Arc::new(record_with(content, extents)))
}

/// The version that a piece is of, with what lies before it as one extent that nobody reads,
/// and the range that is wanted.
fn piece_wanted(asked: &ReadStripe) -> Option<(Arc<ObjectRecord>, Range<u64>)> {
    let content = asked.content.as_ref()?;
    let extent = extent_of(asked.extent.as_ref()?)?;
    let end = asked.extent_start.checked_add(extent.size)?;
    let fits = asked.extent_start <= asked.first
        && asked.first < asked.until
        && asked.until <= end
        && end <= content.size;
    let before = Extent {
        blob: BlobId(0),
        size: asked.extent_start,
    };
    let extents = match asked.extent_start {
        0 => vec![extent],
        _ => vec![before, extent],
    };
    fits.then(|| {
        let record = Arc::new(record_with(content, extents));
        (record, asked.first..asked.until)
    })
}

async fn take<M: Message + Default>(wire: &mut Wire, most: usize) -> Result<M, WireError> {
    if wire.left() > most {
        return Err(FrameError::TooLong.into());
    }
    Ok(decode(&wire.take_all().await?)?)
}

async fn take_runs(wire: &mut Wire) -> Result<Vec<ChunkRun>, WireError> {
    let asked: ChunkRuns = take(wire, RUNS_BYTES_MAX).await?;
    let runs: Option<Vec<_>> = asked.runs.iter().map(run_of).collect();
    runs.ok_or(WireError::Unexpected(Kind::Call))
}

async fn send_counts(wire: &mut Wire, counts: Vec<u64>) -> Result<(), WireError> {
    let answer = Answer {
        status: 200,
        ..Answer::default()
    };
    let counts = Counts { counts }.encode_to_vec();
    wire.send(Kind::Answer, &answer, &counts, Duration::ZERO)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            size: 30,
            etag: "e".into(),
            modified_ns: 5,
            token: "inode".into(),
        }
    }

    fn extent(size: u64) -> quickwater_peer::ExtentAt {
        extent_to_wire(&Extent {
            blob: BlobId(7),
            size,
        })
    }

    fn layout() -> Layout {
        Layout {
            content: Some(content()),
            extents: vec![extent(10), extent(20)],
            first: 3,
            end: 30,
            stored: 1,
        }
    }

    #[test]
    fn a_layout_is_taken_whole_or_not_at_all() {
        let record = record_of(&layout()).unwrap();
        assert_eq!((record.size, record.extents.len()), (30, 2));
        assert_eq!(content_to_wire(&record), Some(content()));
        let wrong: [fn(&mut Layout); 6] = [
            |layout| layout.content = None,
            |layout| layout.extents.truncate(1),
            |layout| layout.extents[0].blob.truncate(15),
            |layout| layout.extents[0].size = u64::MAX,
            |layout| layout.end = 31,
            |layout| layout.first = 30,
        ];
        for change in wrong {
            let mut layout = layout();
            change(&mut layout);
            assert!(record_of(&layout).is_none(), "{layout:?}");
        }
    }

    #[test]
    fn a_piece_lies_within_its_extent() {
        let asked = ReadStripe {
            bucket: 1,
            content: Some(content()),
            extent: Some(extent(20)),
            extent_start: 10,
            first: 12,
            until: 30,
            source: String::new(),
            unseen: false,
        };
        let (record, range) = piece_wanted(&asked).unwrap();
        assert_eq!(range, 12..30);
        let sizes: Vec<_> = record.extents.iter().map(|extent| extent.size).collect();
        assert_eq!(sizes, [10, 20]);
        let wrong: [fn(&mut ReadStripe); 8] = [
            |asked| asked.content = None,
            |asked| asked.extent = None,
            |asked| asked.extent = Some(extent(0)),
            |asked| asked.extent_start = u64::MAX,
            |asked| asked.extent_start = 11,
            |asked| asked.first = 9,
            |asked| asked.until = 31,
            |asked| asked.until = 12,
        ];
        for change in wrong {
            let mut asked = asked.clone();
            change(&mut asked);
            assert!(piece_wanted(&asked).is_none(), "{asked:?}");
        }
    }

    #[test]
    fn runs_are_of_blobs_and_not_empty() {
        let run = quickwater_peer::Run {
            blob: vec![0; 16],
            first: 1,
            end: 2,
        };
        assert!(run_of(&run).is_some());
        assert!(
            run_of(&quickwater_peer::Run {
                first: 2,
                ..run.clone()
            })
            .is_none()
        );
        assert!(
            run_of(&quickwater_peer::Run {
                blob: vec![0; 3],
                ..run
            })
            .is_none()
        );
    }
}
