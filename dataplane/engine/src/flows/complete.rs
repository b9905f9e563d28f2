//! Complete: one commit makes an object of the parts of an upload, once it is sure that all of
//! them are where they were promised to be.

use std::sync::Arc;

use async_lock::RwLockWriteGuard;
use quickwater_proto::{
    Bucket, Checksum, CopyAt, ETag, Extent, Holders, NodeId, ObjectRecord, PartOf, PartRecord,
    PersistState, PutCondition, UploadRecord, Version,
};

use crate::decisions::copy_holders::Copied;
use crate::decisions::slots::SlotGuard;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::fence::Change;
use crate::flows::multipart::{PARTS_READ, no_such_upload};
use crate::flows::put::forget_part;
use crate::io::{Environment, Metadata, Peers, Ufs};

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
        // Until the commit: what the request takes the place of is not sent meanwhile.
        let (identity, persist, noted) = match upload.held() {
            Some(persist) => (None, persist, None),
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
                (Some(object.identity), PersistState::Persisted, Some(noted))
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
        if let Some(noted) = noted {
            noted.committed();
        }
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
