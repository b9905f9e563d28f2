//! PUT: as the policy of the path says. Here also write-through: to the UFS and to
//! the store while the body arrives; acked when the UFS has accepted all of it and
//! the commit is flushed.

use std::sync::Arc;

use async_lock::RwLockReadGuard;
use bytes::Bytes;
use quickwater_proto::{
    BlobId, Bucket, CHUNK_BYTES, Extent, ObjectHeaders, ObjectKey, ObjectRecord, PersistState,
    PolicyMode, PutCondition, UfsError, UfsErrorKind, UfsObject, UploadId, UploadRecord, Version,
};

use crate::decisions::read_plan::chunks_of;
use crate::decisions::slots::SlotGuard;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::dirty_room::Room;
use crate::flows::fence::Change;
use crate::flows::opened::upload_of;
use crate::flows::read::BufferOf;
use crate::io::{
    Body, BodyDigests, Buffer, ChunkId, Disk, Durability, Environment, Metadata, Ufs, UfsUpload,
};

/// What to store beside the bytes.
#[derive(Debug, Clone, Default)]
pub struct PutObject {
    /// Stored headers and user metadata.
    pub headers: ObjectHeaders,
    /// Object tags.
    pub tags: Vec<(String, String)>,
    /// If-Match, If-None-Match.
    pub condition: PutCondition,
}

/// Why a PUT failed: the body or the rest.
#[derive(Debug)]
pub enum PutError<E> {
    /// The client's body; the error is the body's own.
    Body(E),
    /// Anything else.
    Flow(FlowError),
}

impl<E> From<FlowError> for PutError<E> {
    fn from(error: FlowError) -> Self {
        Self::Flow(error)
    }
}

/// The bytes of one body on their way to the store, all under one blob.
struct Copy<W: World> {
    engine: Engine<W>,
    blob: BlobId,
    chunks: u32,
    /// The store takes no more of it, or is to take none: not an error of the PUT.
    broken: bool,
}

impl<W: World> Engine<W> {
    /// Stores an object as the policy of its path says.
    ///
    /// # Errors
    /// Nothing changed, but for [`FlowError::Unknown`]: old or new.
    pub async fn put<B: Body<Buffer = BufferOf<W>>>(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        put: PutObject,
        body: &mut B,
    ) -> Result<Arc<ObjectRecord>, PutError<B::Error>> {
        self.permit(bucket.id, key.as_str())?;
        let policy = self.policy(bucket, key);
        self.check_name(bucket, key, policy.mode)?;
        let persist = match policy.mode {
            PolicyMode::ReadOnly => return Err(read_only().into()),
            PolicyMode::Transient if self.shared().is_draining() => {
                return Err(FlowError::NotHere(DRAINING).into());
            }
            PolicyMode::WriteBack => PersistState::NotPersisted,
            PolicyMode::Transient => PersistState::Transient,
            PolicyMode::WriteThrough => {
                return self.put_through(bucket, key, put, body, true).await;
            }
            PolicyMode::NoCache => return self.put_through(bucket, key, put, body, false).await,
        };
        let space = match self.dirty_room(&policy, body.length())? {
            Room::Kept(space) => space,
            Room::Through => return self.put_through(bucket, key, put, body, true).await,
        };
        self.check_early(bucket, key, &put.condition).await?;
        let record = self
            .put_back(bucket, key, put, body, (persist, &policy))
            .await;
        drop(space);
        record
    }

    /// Refuses a key that the UFS could never be given, before anything is acked.
    pub(crate) fn check_name(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        mode: PolicyMode,
    ) -> Result<(), FlowError> {
        match mode {
            // Told its own error, or never told to the UFS.
            PolicyMode::ReadOnly | PolicyMode::Transient => Ok(()),
            PolicyMode::WriteThrough | PolicyMode::WriteBack | PolicyMode::NoCache => {
                let held = self.ufs().can_hold(bucket, key);
                held.map_err(|error| FlowError::KeyTooLong(error.message))
            }
        }
    }

    /// Decided again at the commit; this spares the body of a lost race.
    async fn check_early(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<(), FlowError> {
        if *condition == PutCondition::None {
            return Ok(());
        }
        let guard = self.lock_key(bucket.id, key).await?;
        self.check_condition(bucket, key, condition, &guard).await
    }

    /// Stores an object in the UFS, and, if `keep`, a clean copy in the store.
    async fn put_through<B: Body<Buffer = BufferOf<W>>>(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        put: PutObject,
        body: &mut B,
        keep: bool,
    ) -> Result<Arc<ObjectRecord>, PutError<B::Error>> {
        self.check_early(bucket, key, &put.condition).await?;
        let size = body.length();
        if size <= self.ufs().put_bytes_max(bucket) {
            let upload = self.ufs().put(bucket, key, &put.headers, size).await;
            let upload = upload.map_err(FlowError::harmless)?;
            return self.put_by(upload, bucket, key, put, body, keep).await;
        }
        let id = UploadId(self.environment().random_u128());
        let opening = self.open_upload(bucket, key, &put.headers, id, None);
        let claim = opening.await.map_err(FlowError::from)?;
        let of = UploadRecord {
            headers: put.headers.clone(),
            ..upload_of(&claim.opened)
        };
        let upload = self.ufs().put_in_parts(bucket, &of, size, 0, Vec::new());
        let done = match upload.await {
            Ok(upload) => self.put_by(upload, bucket, key, put, body, keep).await,
            Err(error) => Err(FlowError::from(error).into()),
        };
        match &done {
            Ok(_) => self.forget_opened(bucket, claim).await,
            // Of this and a Complete under way the store lets one win.
            Err(_) => self.abort_or_keep(bucket, claim).await,
        }
        done
    }

    /// Stores an object through an upload to the UFS.
    async fn put_by<B: Body<Buffer = BufferOf<W>>>(
        &self,
        mut upload: <W::Ufs as Ufs>::Upload,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        put: PutObject,
        body: &mut B,
        keep: bool,
    ) -> Result<Arc<ObjectRecord>, PutError<B::Error>> {
        let size = body.length();
        let blob = BlobId(self.environment().random_u128());
        let mut copy = Copy {
            engine: self.clone(),
            blob,
            chunks: 0,
            broken: !keep,
        };
        let received = self.receive(body, &mut upload, &mut copy).await;
        let (last, digests) = match received {
            Ok(received) => received,
            Err(error) => {
                upload.abort().await;
                copy.discard();
                return Err(error);
            }
        };
        let published = async {
            let change = Change::Put(&put.headers, &digests);
            let guard = match self.lock_settled(bucket, key, change).await {
                Ok(guard) => guard,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            };
            if let Err(error) = self
                .check_condition(bucket, key, &put.condition, &guard)
                .await
            {
                upload.abort().await;
                return Err(error);
            }
            let noted = match self.note_request(bucket, key, &guard).await {
                Ok(noted) => noted,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            };
            guard.mark_changed();
            let object = match self.publish(upload, last, &digests).await {
                Ok(object) => object,
                Err(error) => {
                    let failed = self.failed_request(bucket, key, noted, change, error, guard);
                    return Err(after_publish_began(failed.await));
                }
            };
            self.answered(bucket, key, &noted);
            let record = self.record_of(&put, size, blob, &digests, &object);
            let record = self.commit(bucket, key, record, &guard).await?;
            noted.committed();
            Ok(record)
        };
        Ok(published.await.inspect_err(|_| copy.discard())?)
    }

    /// Takes the body in: every piece goes to the store and to the UFS, but for
    /// the last, which the UFS gets only when all checks have passed. Until then
    /// the UFS cannot hold a complete object.
    async fn receive<B: Body<Buffer = BufferOf<W>>>(
        &self,
        body: &mut B,
        upload: &mut impl UfsUpload,
        copy: &mut Copy<W>,
    ) -> Result<(Option<Bytes>, BodyDigests), PutError<B::Error>> {
        let mut held: Option<Bytes> = None;
        let mut short = false;
        while let Some(buffer) = body.next().await.map_err(PutError::Body)? {
            // Chunks are found by their number: only the last may be short.
            if short {
                let text = "a body gave a short piece before its end";
                return Err(FlowError::Invalid(text.into()).into());
            }
            short = buffer.as_slice().len() < CHUNK_BYTES as usize;
            let buffer = copy.keep(buffer).await;
            if let Some(previous) = held.replace(buffer.into_bytes()) {
                upload.send(previous).await.map_err(FlowError::harmless)?;
            }
        }
        let digests = body.finish().map_err(PutError::Body)?;
        Ok((held, digests))
    }

    pub(crate) async fn publish(
        &self,
        mut upload: impl UfsUpload,
        last: Option<Bytes>,
        digests: &BodyDigests,
    ) -> Result<UfsObject, UfsError> {
        if let Some(last) = last {
            upload.send(last).await?;
        }
        upload.finish(digests).await
    }

    fn record_of(
        &self,
        put: &PutObject,
        size: u64,
        blob: BlobId,
        digests: &BodyDigests,
        object: &UfsObject,
    ) -> ObjectRecord {
        ObjectRecord {
            version: Version::default(),
            size,
            etag: quickwater_proto::ETag::from_md5(&digests.md5),
            modified_ms: object.identity.modified_ns.div_euclid(1_000_000),
            headers: put.headers.clone(),
            checksums: digests.checksums.clone(),
            tags: put.tags.clone(),
            extents: if size == 0 {
                Vec::new()
            } else {
                vec![Extent { blob, size }]
            },
            parts: Vec::new(),
            ufs: Some(object.identity.clone()),
            persist: PersistState::Persisted,
            partial: false,
        }
    }

    /// Commits what the UFS has accepted and makes it current.
    pub(crate) async fn commit(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        mut record: ObjectRecord,
        guard: &SlotGuard<'_>,
    ) -> Result<Arc<ObjectRecord>, FlowError> {
        let committed = self
            .changes(bucket.id, key)
            .commit_object(bucket.id, key, &record, &PutCondition::None)
            .await;
        let committed = committed.map_err(|error| {
            // The UFS holds the new object already: old or new.
            self.distrust(bucket.id, key);
            match FlowError::from(error) {
                FlowError::NoSuchBucket => FlowError::NoSuchBucket,
                other => FlowError::Unknown(other.to_string()),
            }
        })?;
        if let Some(old) = &committed.replaced {
            self.forget_bytes(old);
        }
        self.drop_note(bucket.id, key);
        record.version = committed.version;
        let record = Arc::new(record);
        self.remember(bucket.id, key, Some(Arc::clone(&record)), guard);
        Ok(record)
    }

    /// Whether the condition holds for the current version, as the UFS has it.
    pub(crate) async fn check_condition(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        condition: &PutCondition,
        guard: &SlotGuard<'_>,
    ) -> Result<(), FlowError> {
        if *condition == PutCondition::None {
            return Ok(());
        }
        let current = self.check(bucket, key, true, guard).await?;
        match (condition, current) {
            (PutCondition::Match(_) | PutCondition::Present | PutCondition::Version(_), None) => {
                Err(FlowError::NoSuchKey)
            }
            (PutCondition::Absent, Some(_)) => Err(FlowError::PreconditionFailed),
            (PutCondition::Match(etag), Some(now)) if *etag != now.etag => {
                Err(FlowError::PreconditionFailed)
            }
            (PutCondition::Version(version), Some(now)) if *version != now.version => {
                Err(FlowError::PreconditionFailed)
            }
            _ => Ok(()),
        }
    }

    /// Receives a body into the store and an upload of the UFS without making it
    /// an object: a part. Returns its blob and digests once published.
    pub(crate) async fn put_bytes<B: Body<Buffer = BufferOf<W>>>(
        &self,
        bucket: &Bucket,
        of: &UploadRecord,
        body: &mut B,
        mut upload: <W::Ufs as Ufs>::Upload,
        slot: usize,
    ) -> Result<Received<'_>, PutError<B::Error>> {
        let blob = BlobId(self.environment().random_u128());
        let mut copy = Copy {
            engine: self.clone(),
            blob,
            chunks: 0,
            broken: self.bypasses(bucket, &of.key),
        };
        let received = self.receive(body, &mut upload, &mut copy).await;
        let (last, digests) = match received {
            Ok(received) => received,
            Err(error) => {
                upload.abort().await;
                copy.discard();
                return Err(error);
            }
        };
        let published = async {
            let guard = self.lock_slot(slot).await?;
            // Complete and Abort wait for parts that are being published, and
            // parts find out here that the upload has ended.
            let gate = self.enter_upload(of.id).await?;
            self.upload(bucket, &of.key, of.id).await?;
            let published = self.publish(upload, last, &digests).await;
            let object = published.map_err(after_publish_began)?;
            Ok::<_, FlowError>((guard, gate, object))
        };
        let (guard, gate, object) = published.await.inspect_err(|_| copy.discard())?;
        Ok(Received {
            _guard: guard,
            _gate: gate,
            blob,
            digests,
            object,
        })
    }
}

/// A part that is in the store and in the UFS; its slot is held until committed.
pub(crate) struct Received<'a> {
    _guard: SlotGuard<'a>,
    _gate: RwLockReadGuard<'a, ()>,
    pub(crate) blob: BlobId,
    pub(crate) digests: BodyDigests,
    pub(crate) object: UfsObject,
}

/// From the last byte on, the UFS may have accepted the object whatever it says.
fn after_publish_began(error: UfsError) -> FlowError {
    match error.kind {
        UfsErrorKind::AccessDenied | UfsErrorKind::Unsupported | UfsErrorKind::NoSpace => {
            error.into()
        }
        UfsErrorKind::Throttled => FlowError::SlowDown(error.message),
        UfsErrorKind::Unavailable => FlowError::Unsettled(error.message),
        _ => FlowError::Unknown(error.message),
    }
}

impl<W: World> Copy<W> {
    /// Stores the next chunk if the store will have it; a full or failing store
    /// does not fail the PUT.
    async fn keep(&mut self, buffer: BufferOf<W>) -> BufferOf<W> {
        if self.broken {
            return buffer;
        }
        let chunk = ChunkId {
            blob: self.blob,
            index: self.chunks,
        };
        let (buffer, stored) = self
            .engine
            .disk()
            .write(chunk, buffer, Durability::Cached)
            .await;
        match stored {
            Ok(()) => self.chunks += 1,
            Err(_) => {
                self.broken = true;
                let stats = &self.engine.shared().stats;
                stats
                    .uncached
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        buffer
    }

    fn discard(&self) {
        self.engine.disk().forget(self.blob, self.chunks);
    }
}

/// What a write that no UFS is to get is told by a worker that has to get rid of such.
pub(crate) const DRAINING: &str = "this worker is drained and takes nothing that stays here";

/// What a write to a READ_ONLY path is told.
pub(crate) fn read_only() -> FlowError {
    FlowError::Denied("the policy of this path is READ_ONLY".into())
}

/// Frees the bytes of a part that did not make it into an object, here and wherever copies
/// are.
pub(crate) fn forget_part<W: World>(engine: &Engine<W>, part: &quickwater_proto::PartRecord) {
    engine.disk().forget(part.blob, chunks_of(part.size));
    engine.shared().holders.end(part.blob);
}
