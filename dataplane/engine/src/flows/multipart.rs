//! Multipart uploads: parts go to the UFS and the store as they come and are
//! invisible until one commit makes them an object.

use std::sync::Arc;

use async_lock::RwLockWriteGuard;
use quickwater_proto::{
    Bucket, Checksum, ChecksumAlgorithm, CopyAt, ETag, Extent, Holders, NodeId, ObjectHeaders,
    ObjectKey, ObjectRecord, PartOf, PartRecord, PersistState, PolicyMode, PutCondition,
    UfsErrorKind, UploadId, UploadRecord, Version,
};

use crate::decisions::copy_holders::Copied;
use crate::decisions::slots::{SlotGuard, Slots};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::fence::Change;
use crate::flows::put::{DRAINING, PutError, forget_part, read_only};
use crate::flows::read::BufferOf;
use crate::flows::write_back::{Pinned, Room};
use crate::io::{Body, Copies, Environment, Metadata, Peers, Ufs};

/// Parts read from the metadata at a time.
pub(crate) const PARTS_READ: usize = 1_000;

/// What a new upload will become.
#[derive(Debug, Clone, Default)]
pub struct NewUpload {
    /// Stored headers and user metadata.
    pub headers: ObjectHeaders,
    /// Object tags.
    pub tags: Vec<(String, String)>,
    /// Checksum algorithm announced, and whether it covers the whole object.
    pub checksum: Option<(ChecksumAlgorithm, bool)>,
}

/// What Complete makes of an upload; computed by the caller from its parts.
#[derive(Debug, Clone)]
pub struct CompletedUpload {
    /// The parts named by the client, in order.
    pub parts: Vec<PartRecord>,
    /// ETag of the object.
    pub etag: ETag,
    /// Checksums of the object.
    pub checksums: Vec<Checksum>,
    /// If-Match, If-None-Match.
    pub condition: PutCondition,
}

/// Who else has the bytes of parts.
#[derive(Debug, Default)]
struct PartCopies {
    /// Each of them has some.
    others: Vec<CopyAt>,
    /// How many workers have each part at least, this one included.
    wanted: usize,
}

impl<W: World> Engine<W> {
    /// Begins an upload.
    ///
    /// # Errors
    /// The UFS or the metadata refuses; nothing is left behind.
    pub async fn create_upload(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        new: NewUpload,
    ) -> Result<UploadRecord, FlowError> {
        self.permit(bucket.id, key.as_str())?;
        let id = UploadId(self.environment().random_u128());
        let mode = self.policy(bucket, key).mode;
        self.check_name(bucket, key, mode)?;
        let claim = match mode {
            PolicyMode::ReadOnly => return Err(read_only()),
            PolicyMode::Transient if self.shared().is_draining() => {
                return Err(FlowError::NotHere(DRAINING));
            }
            PolicyMode::WriteBack => Err(UploadRecord::HELD_BACK),
            PolicyMode::Transient => Err(UploadRecord::HELD_TRANSIENT),
            PolicyMode::WriteThrough | PolicyMode::NoCache => {
                let opening = self.ask_upload(bucket, key, &new.headers, id, None);
                Ok(opening.await?)
            }
        };
        let ufs_upload = match &claim {
            Ok(claim) => claim.opened.ufs_upload.clone().unwrap_or_default(),
            Err(held) => (*held).to_owned(),
        };
        let upload = UploadRecord {
            id,
            key: key.clone(),
            initiated_ms: self.environment().wall_ms(),
            headers: new.headers,
            tags: new.tags,
            checksum: new.checksum,
            ufs_upload,
        };
        let made = self
            .changes(bucket.id, &upload.key)
            .create_upload(bucket.id, &upload)
            .await;
        match (made, claim) {
            // The commit took the note back: the upload's own row names it now.
            (Ok(()), Ok(claim)) => claim.end(),
            (Ok(()), Err(_)) => {}
            (Err(error), claim) => {
                if let Ok(claim) = claim {
                    self.abort_or_keep(bucket, claim).await;
                }
                return Err(error.into());
            }
        }
        Ok(upload)
    }

    /// Smallest part, the last one excepted, of an upload that the UFS completes, bytes.
    ///
    /// # Errors
    /// The bucket's location is invalid.
    pub fn part_bytes_min(&self, bucket: &Bucket) -> Result<u64, FlowError> {
        Ok(self.ufs().part_bytes_min(bucket)?)
    }

    /// Finds an upload.
    ///
    /// # Errors
    /// [`FlowError::NoSuchUpload`], or the metadata is unavailable.
    pub async fn upload(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<UploadRecord, FlowError> {
        self.permit(bucket.id, key.as_str())?;
        self.metadata()
            .upload(bucket.id, key, id)
            .await?
            .ok_or(FlowError::NoSuchUpload)
    }

    /// Takes in one part.
    ///
    /// # Errors
    /// The part did not change, but for [`FlowError::Unknown`].
    pub async fn put_part<B: Body<Buffer = BufferOf<W>>>(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        number: u16,
        body: &mut B,
    ) -> Result<PartRecord, PutError<B::Error>> {
        let _in_use = self.shared().in_use.begin(upload.id);
        let size = body.length();
        let handed_over;
        let upload = match upload.is_held() {
            false => upload,
            true => match self.part_room(bucket, upload, (number, size)).await? {
                Room::Kept(space) => {
                    let put = self.put_part_back(bucket, upload, number, body).await;
                    drop(space);
                    return put;
                }
                Room::Through => {
                    handed_over = self.hand_over(bucket, upload).await?;
                    &handed_over
                }
            },
        };
        let to_ufs = self.ufs().put_part(bucket, upload, number, size).await;
        let to_ufs = to_ufs.map_err(no_such_upload)?;
        let slot = Slots::of_part(upload.id, number);
        let received = self.put_bytes(bucket, upload, body, to_ufs, slot).await?;
        let part = PartRecord {
            number,
            size,
            etag: ETag::from_md5(&received.digests.md5),
            modified_ms: received.object.identity.modified_ns.div_euclid(1_000_000),
            checksums: received.digests.checksums.clone(),
            blob: received.blob,
            held: false,
        };
        let replaced = self
            .changes(bucket.id, &upload.key)
            .put_part(bucket.id, upload, &part)
            .await;
        drop(received);
        let replaced = replaced.map_err(|error| {
            forget_part(self, &part);
            FlowError::from(error)
        })?;
        if let Some(old) = replaced {
            forget_part(self, &old);
        }
        Ok(part)
    }

    /// Takes in a part that no UFS has until the upload is complete and persisted: this
    /// store has it, and as many others as the policy asks for.
    async fn put_part_back<B: Body<Buffer = BufferOf<W>>>(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        number: u16,
        body: &mut B,
    ) -> Result<PartRecord, PutError<B::Error>> {
        let (size, key) = (body.length(), &upload.key);
        let mut pinned = Pinned::new(self);
        let of = PartOf {
            upload: upload.id,
            number,
        };
        let copy = pinned.as_copy(size, Some(of));
        // Before the body is asked for: without room for them nothing is taken in.
        let policy = self.policy(bucket, key);
        let begun = self.begin_copies(bucket, key, &policy, copy);
        pinned.copies = begun.await?;
        let received = self.receive_pinned(body, &mut pinned).await;
        let (last, digests) = received.inspect_err(|_| pinned.discard())?;
        let part = PartRecord {
            number,
            size,
            etag: ETag::from_md5(&digests.md5),
            modified_ms: self.environment().wall_ms(),
            checksums: digests.checksums,
            blob: pinned.blob,
            // Also in the row of an upload that is handed over meanwhile.
            held: true,
        };
        let owner = pinned.copies.as_ref().and_then(Copies::owner);
        let nodes = pinned.copies.as_ref().map(Copies::nodes);
        let nodes = nodes.unwrap_or_default();
        let mut copies = Vec::new();
        let stored = async {
            if let Some(last) = last {
                copies = self.write_last(&mut pinned, last).await?;
            }
            let slot = Slots::of_key(bucket.id, key);
            self.shared().anchor(part.blob, slot);
            // Whoever gives the slot away sees these bytes, or has taken our right before.
            self.permit_slot(slot)?;
            let _guard = self.lock_slot(Slots::of_part(upload.id, number)).await?;
            let _gate = self.enter_upload(upload.id).await?;
            let now = self.upload(bucket, key, upload.id).await?;
            let sessions: Vec<CopyAt> = copies.iter().cloned().chain(owner).collect();
            let metadata = self.changes(bucket.id, key);
            let replaced = metadata.put_part_copied(bucket.id, upload, &part, &sessions);
            let replaced = replaced.await?;
            // While no Complete can come in between.
            self.note_copies((bucket.id, key), copy, &copies);
            if !now.is_held() {
                // It was handed over while this part came: that was too early for it.
                self.shared().load_handed_over(bucket.id, &now);
            }
            Ok::<_, FlowError>(replaced)
        };
        match stored.await {
            Ok(Some(old)) => forget_part(self, &old),
            Ok(None) => {}
            // It may be committed: its bytes stay until a sweep knows.
            Err(error @ FlowError::Unknown(_)) => {
                self.note_unsure(bucket.id, upload, (&part, &copies));
                return Err(error.into());
            }
            Err(error) => {
                self.shared().holders.tell(part.blob, &nodes);
                forget_part(self, &part);
                return Err(error.into());
            }
        }
        Ok(part)
    }

    /// Parts with a number greater than `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// The metadata is unavailable.
    pub async fn parts(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<PartRecord>, FlowError> {
        Ok(self
            .metadata()
            .parts(bucket.id, key, id, after, limit)
            .await?)
    }

    /// Uploads in order of key and id.
    ///
    /// # Errors
    /// The metadata is unavailable.
    pub async fn uploads(
        &self,
        bucket: &Bucket,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Result<Vec<UploadRecord>, FlowError> {
        Ok(self
            .metadata()
            .uploads(bucket.id, prefix, after, limit)
            .await?)
    }

    /// The ETag of an upload that was completed within the last day, and what its key
    /// holds now: that object, a newer one, or nothing any more.
    ///
    /// # Errors
    /// The metadata is unavailable.
    pub async fn completed(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<(ETag, Option<ObjectRecord>)>, FlowError> {
        let Some(etag) = self.metadata().completed(bucket.id, key, id).await? else {
            return Ok(None);
        };
        let now = self.metadata().object(bucket.id, key).await?;
        Ok(Some((etag, now)))
    }

    /// Makes an object of an upload: one commit.
    ///
    /// # Errors
    /// Nothing changed, but for [`FlowError::Unknown`]: Complete may be repeated.
    pub async fn complete_upload(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        done: CompletedUpload,
    ) -> Result<Arc<ObjectRecord>, FlowError> {
        let key = &upload.key;
        // It may wait for its lock: no sweep comes first meanwhile.
        let _in_use = self.shared().in_use.begin(upload.id);
        let mut done = done;
        let (upload, guard, _gate) = self.lock_complete(bucket, upload, &mut done).await?;
        let (upload, change) = (&upload, Change::Complete(upload.id, &done.etag));
        let unnamed = self.check_parts(bucket, upload, &done.parts).await?;
        let mut copies = PartCopies::default();
        if upload.is_held() {
            self.check_bytes(bucket, upload, &done.parts).await?;
            copies = self.copies_of_parts(bucket, upload, &done.parts).await?;
        }
        self.check_condition(bucket, key, &done.condition, &guard)
            .await?;
        guard.mark_changed();
        let (identity, persist) = match upload.held() {
            Some(persist) => (None, persist),
            None => {
                let noted = self.note_request(bucket, key, &guard).await?;
                let published = self
                    .ufs()
                    .complete_upload(bucket, upload, &done.parts, &done.etag, &done.checksums)
                    .await;
                let object = match published {
                    Ok(object) => object,
                    Err(error) => {
                        let failed = self.failed_request(bucket, key, noted, change, error, guard);
                        return Err(no_such_upload(failed.await));
                    }
                };
                self.answered(bucket, key, &noted);
                (Some(object.identity), PersistState::Persisted)
            }
        };
        let modified_ms = match &identity {
            Some(identity) => identity.modified_ns.div_euclid(1_000_000),
            None => self.environment().wall_ms(),
        };
        let record = ObjectRecord {
            version: Version::default(),
            size: done.parts.iter().map(|p| p.size).sum(),
            etag: done.etag,
            modified_ms,
            headers: upload.headers.clone(),
            checksums: done.checksums,
            tags: upload.tags.clone(),
            extents: extents_of(&done.parts),
            parts: done.parts,
            ufs: identity,
            persist,
            partial: false,
        };
        let named = (&*copies.others, copies.wanted);
        let metadata = self.changes(bucket.id, key);
        let committed = metadata.complete_copied(bucket.id, upload, &record, named);
        let committed = match committed.await {
            Ok(committed) => committed,
            Err(error) if upload.is_held() => {
                return Err(self.give_up_change(bucket, key, error, guard));
            }
            Err(error) => {
                // The UFS holds the new object already: old or new.
                self.distrust(bucket.id, key);
                return Err(FlowError::Unknown(error.to_string()));
            }
        };
        // Their rows went with the upload.
        for part in &unnamed {
            forget_part(self, part);
        }
        if record.persist == PersistState::Persisted {
            // Of an upload that was handed over, and the UFS has it.
            self.release_bytes(&record);
            self.drop_note(bucket.id, key);
        } else {
            for extent in &record.extents {
                self.shared().holders.promise(extent.blob, copies.wanted);
                self.shared().holders.named(extent.blob, &copies.others);
            }
            let version = committed.version;
            self.keep_note(bucket.id, key, Some(&record), version).await;
        }
        Ok(self.made_current(bucket, key, record, committed, &guard))
    }

    /// Takes the locks of a Complete; the upload as it is under them. An Abort, another
    /// Complete or a part sent again may have won meanwhile. What the UFS is to make an
    /// object of, it has all parts of.
    async fn lock_complete(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        done: &mut CompletedUpload,
    ) -> Result<(UploadRecord, SlotGuard<'_>, RwLockWriteGuard<'_, ()>), FlowError> {
        let (key, id) = (&upload.key, upload.id);
        let mut now = self.upload(bucket, key, id).await?;
        loop {
            let guard = match now.is_held() {
                true => self.lock_key(bucket.id, key).await?,
                false => {
                    let parts = std::mem::take(&mut done.parts);
                    done.parts = self.send_held_parts(bucket, &now, parts).await?;
                    let change = Change::Complete(id, &done.etag);
                    self.lock_settled(bucket, key, change).await?
                }
            };
            let gate = self.close_upload(id).await?;
            let seen = self.upload(bucket, key, id).await?;
            if seen.is_held() == now.is_held() {
                return Ok((seen, guard, gate));
            }
            // It was handed over to the UFS, which happens once.
            now = seen;
        }
    }

    /// Whether exactly these parts are still the uploaded ones: what the UFS makes
    /// an object of must be what is committed. The others are returned.
    async fn check_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        named: &[PartRecord],
    ) -> Result<Vec<PartRecord>, FlowError> {
        let mut named = named.iter().peekable();
        let mut unnamed = Vec::new();
        let mut after = 0;
        loop {
            let page = self
                .parts(bucket, &upload.key, upload.id, after, PARTS_READ)
                .await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.number;
            for part in page {
                match named.next_if(|want| want.number <= part.number) {
                    Some(want) if want.number == part.number && want.blob == part.blob => {}
                    Some(_) => return Err(FlowError::InvalidPart),
                    None => unnamed.push(part),
                }
            }
        }
        match named.peek() {
            Some(_) => Err(FlowError::InvalidPart),
            None => Ok(unnamed),
        }
    }

    /// Whether the bytes of parts that no UFS has are here. They are on the worker that
    /// took them, and the key may have another owner since: what it acked then, nobody
    /// could read.
    async fn check_bytes(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        parts: &[PartRecord],
    ) -> Result<(), FlowError> {
        let missing = |part: &&PartRecord| !self.has_copy(part.blob, part.size);
        if !parts.iter().any(|part| missing(&part)) {
            return Ok(());
        }
        if self.shared().rights.is_alone() {
            return Err(self.part_missing());
        }
        // Of those whom the same workers have, or not, one tells of all.
        let mut asked: Vec<(Arc<[CopyAt]>, Vec<CopyAt>)> = Vec::new();
        for part in parts.iter().filter(missing) {
            let holders = &self.shared().holders;
            let known = (holders.of(part.blob), holders.without(part.blob));
            if holders.is_elsewhere(part.blob) || asked.contains(&known) {
                continue;
            }
            let place = (bucket.id, &upload.key);
            let of = PartOf {
                upload: upload.id,
                number: part.number,
            };
            let lost = self.metadata().lost_part(place, (of, part.blob), &known.1);
            if lost.await? {
                return Err(FlowError::Lost);
            }
            asked.push(known);
        }
        Err(self.part_missing())
    }

    /// Who else has the bytes of parts that no UFS has: at least as many others have each as
    /// the policy asks for, in their sessions of now. What has fewer copies gets them.
    async fn copies_of_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        parts: &[PartRecord],
    ) -> Result<PartCopies, FlowError> {
        let wanted = usize::from(self.policy(bucket, &upload.key).write_replicas).max(1);
        let (mut others, mut missing): (Vec<CopyAt>, _) = (Vec::new(), false);
        let holders = &self.shared().holders;
        let unknown = |part: &PartRecord| part.size > 0 && holders.sessions(part.blob).is_none();
        if wanted > 1 && parts.iter().any(unknown) {
            self.note_parts(bucket, upload, wanted).await?;
        }
        for part in parts.iter().filter(|part| part.size > 0) {
            let held = holders.sessions(part.blob);
            let promised = held.as_ref().map(|held| held.copies);
            let is_named = held.as_ref().is_none_or(|held| held.unnamed.is_none());
            let have = held.map(|held| held.have).unwrap_or_default();
            if have.len() + 1 < wanted || !is_named {
                missing = true;
                if promised.is_some_and(|copies| copies < wanted) {
                    holders.promise(part.blob, wanted);
                }
            }
            let new = have.into_iter().filter(|at| !others.contains(at));
            let new: Vec<CopyAt> = new.collect();
            others.extend(new);
        }
        match missing {
            true => Err(FlowError::NotHere(
                "parts of this upload are on fewer workers than writeReplicas asks for; they \
                 are copied again, and it can be completed then",
            )),
            false => Ok(PartCopies { others, wanted }),
        }
    }

    /// Keeps account of the parts of an upload of which none is kept, by their rows: of those
    /// that were acked when the policy asked for no copies, and of those whose commit nobody
    /// could tell the outcome of. Each is to have `wanted` copies.
    async fn note_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        wanted: usize,
    ) -> Result<(), FlowError> {
        let Some(CopyAt { node, .. }) = self.peers().itself() else {
            return Err(FlowError::NotHere("this worker has no session"));
        };
        let mut after = 0;
        loop {
            let (key, id) = (&upload.key, upload.id);
            let rows = self
                .metadata()
                .parts_held(bucket.id, key, id, after, PARTS_READ);
            let rows = rows.await?;
            let more = rows.len() == PARTS_READ;
            after = rows.last().map_or(after, |(last, _)| last.number);
            for (part, held) in rows {
                self.note_part(bucket, upload, (&part, &held), (&node, wanted));
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn note_part(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        (part, held): (&PartRecord, &Holders),
        (itself, wanted): (&NodeId, usize),
    ) {
        let holders = &self.shared().holders;
        if !part.held || part.size == 0 || holders.sessions(part.blob).is_some() {
            return;
        }
        let others = held.nodes.iter().filter(|node| *node != itself);
        // A row does not say in which session: they are asked.
        let others = others.map(|node| CopyAt {
            node: node.clone(),
            session: 0,
        });
        let copied = Copied {
            bucket: bucket.id,
            key: upload.key.clone(),
            part: Some(PartOf {
                upload: upload.id,
                number: part.number,
            }),
            bytes: part.size,
            copies: wanted.max(held.copies),
            others: others.collect(),
        };
        let named = held.nodes.contains(itself);
        holders.note_row(part.blob, copied, named);
    }

    /// What is told of a part whose bytes are neither here nor in its UFS.
    pub(crate) fn part_missing(&self) -> FlowError {
        match self.shared().rights.is_alone() {
            true => FlowError::Lost,
            false => FlowError::NotHere(
                "parts of this upload are on another worker only, and in no UFS; it can be \
                 completed when that worker is back, or when they are uploaded again",
            ),
        }
    }

    /// Throws an upload away.
    ///
    /// # Errors
    /// [`FlowError::NoSuchUpload`] when it ended already.
    pub async fn abort_upload(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<(), FlowError> {
        // The key's slot keeps a Complete from running at the same time.
        let _guard = self.lock_key(bucket.id, key).await?;
        let _gate = self.close_upload(id).await?;
        let upload = self.upload(bucket, key, id).await?;
        let (_, ended) = self.end_upload(bucket, &upload, true).await?;
        // Should the UFS not have ended it, a sweep sees to that.
        Ok(ended?)
    }
}

pub(crate) fn no_such_upload(error: quickwater_proto::UfsError) -> FlowError {
    match error.kind {
        UfsErrorKind::NotFound => FlowError::NoSuchUpload,
        _ => error.into(),
    }
}

fn extents_of(parts: &[PartRecord]) -> Vec<Extent> {
    let sized = parts.iter().filter(|p| p.size > 0);
    sized
        .map(|p| Extent {
            blob: p.blob,
            size: p.size,
        })
        .collect()
}
