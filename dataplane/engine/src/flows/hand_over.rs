//! An upload that is kept here until it is complete, and finds no room for its parts,
//! is handed over to the UFS: parts that come from then on go through, those that were
//! acked before are sent after them and are kept until the UFS has them. Absent: the
//! way of parts that go through (`multipart`, `put`), sending again (`send_held`).
//!
//! One commit names the UFS's upload in the row of ours. Before it the upload is what
//! it was; after it every part whose row says `held` is still only here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use quickwater_proto::{
    Bucket, MetadataError, PartRecord, PathPolicy, PersistState, UfsErrorKind, UploadId,
    UploadRecord,
};

use crate::decisions::dirty_space;
use crate::decisions::read_plan::chunks_of;
use crate::decisions::slots::Slots;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::dirty_room::{Room, Space};
use crate::flows::multipart::{PARTS_READ, no_such_upload};
use crate::flows::send_whole::Unsent;
use crate::io::{BodyDigests, DirtyAmount, Disk, DiskError, Environment, Metadata, Ufs, UfsUpload};

/// Parts of one upload sent at a time when it is to be completed.
const PARTS_AT_ONCE: usize = 4;

impl<W: World> Engine<W> {
    /// Keeps room for a part of an upload that the UFS does not know.
    pub(crate) async fn part_room(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        (number, bytes): (u16, u64),
    ) -> Result<Room<Space<W>>, FlowError> {
        match self.reserve_dirty(bytes) {
            Ok(space) => return Ok(Room::Kept(space)),
            Err(DiskError::DirtyFull) => {}
            Err(error) => return Err(self.no_room(error)),
        }
        if upload.held() == Some(PersistState::Transient) {
            let (others, space) = (
                self.other_parts(bucket, upload, number).await?,
                self.disk().dirty_space(),
            );
            let taken = others
                .iter()
                .map(|part| DirtyAmount::needed_for(part.size))
                .fold(DirtyAmount::default(), DirtyAmount::and);
            let instead = dirty_space::of_transient_part(bytes, taken, space);
            let waits = instead == dirty_space::Instead::SlowDown;
            if waits && dirty_space::is_blocked(bytes, self.dirty_prospect()) {
                self.shared().held.want_room();
            }
            let all = bytes + others.iter().map(|part| part.size).sum::<u64>();
            return self.without_room(instead, "the upload with this part", all);
        }
        // What was begun as write-back may go to the UFS, whatever its policy is now.
        let policy: PathPolicy = self.policy(bucket, &upload.key);
        let (frees, space) = self.dirty_prospect();
        match dirty_space::of_part(&policy, bytes, frees, space) {
            dirty_space::Instead::SlowDown => Err(self.no_room(DiskError::DirtyFull)),
            _ => Ok(Room::Through),
        }
    }

    /// The parts of an upload but for one.
    pub(crate) async fn other_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        but: u16,
    ) -> Result<Vec<PartRecord>, FlowError> {
        let mut others = Vec::new();
        let mut after = 0;
        loop {
            let (key, id) = (&upload.key, upload.id);
            let page = self.parts(bucket, key, id, after, PARTS_READ).await?;
            let more = page.len() == PARTS_READ;
            after = page.last().map_or(after, |last| last.number);
            others.extend(page.into_iter().filter(|part| part.number != but));
            if !more {
                return Ok(others);
            }
        }
    }

    /// Begins an upload in the UFS for one that it does not know; the upload as it is
    /// from then on. Parts there are sent in the background.
    pub(crate) async fn hand_over(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
    ) -> Result<UploadRecord, FlowError> {
        // No part, Complete or Abort meanwhile.
        let _gate = self.close_upload(upload.id).await?;
        let now = self.upload(bucket, &upload.key, upload.id).await?;
        if !now.is_held() {
            return Ok(now);
        }
        // A number of its own: should nobody learn whether the row was written, a
        // sweep finds by the name whether it is of use.
        let id = UploadId(self.environment().random_u128());
        let opening = self.open_upload(bucket, &now.key, &now.headers, id, None);
        let claim = opening.await?;
        let through = UploadRecord {
            ufs_upload: claim.opened.ufs_upload.clone().unwrap_or_default(),
            ..now
        };
        let noted = claim.opened.id;
        match self
            .changes(bucket.id, &through.key)
            .hand_over(bucket.id, &through, noted)
            .await
        {
            Ok(()) => claim.end(),
            Err(MetadataError::Unknown(text)) => return Err(FlowError::Unavailable(text)),
            Err(error) => {
                self.abort_or_keep(bucket, claim).await;
                return Err(error.into());
            }
        }
        let uploads = &self.shared().stats.dirty_uploads;
        uploads.fetch_add(1, Ordering::Relaxed);
        self.shared().load_handed_over(bucket.id, &through);
        Ok(through)
    }

    /// Sends those of `parts` that are held; all as they are then.
    pub(crate) async fn send_held_parts(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        parts: Vec<PartRecord>,
    ) -> Result<Vec<PartRecord>, FlowError> {
        let sending = parts.into_iter().map(|part| async move {
            match part.held {
                true => self.send_held(bucket, upload, part).await,
                false => Ok(part),
            }
        });
        let sending = stream::iter(sending).buffered(PARTS_AT_ONCE);
        sending.try_collect().await
    }

    /// Sends a part to the UFS, unless it is there, and lets its bytes be evicted; the
    /// part as it is then. One that was sent anew meanwhile is given back as it was.
    pub(crate) async fn send_held(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        part: PartRecord,
    ) -> Result<PartRecord, FlowError> {
        let part = match self.same_part(bucket, upload, &part).await? {
            Some(now) if now.held => now,
            Some(now) => return Ok(now),
            None => return Ok(part),
        };
        let digests = BodyDigests {
            md5: part.etag.as_md5().ok_or(FlowError::InvalidPart)?,
            checksums: part.checksums.clone(),
        };
        let to_ufs = self.ufs().put_part(bucket, upload, part.number, part.size);
        let to_ufs = to_ufs.await.map_err(part_unsent)?;
        let pieces = vec![(part.blob, part.size)];
        let sending = self.send_all_but_last(to_ufs, pieces, &digests);
        let (to_ufs, last) = match sending.await {
            Ok(sent) => sent,
            // Another has sent it meanwhile, and since then its bytes may be evicted.
            Err(Unsent::Lost(..)) => {
                return match self.same_part(bucket, upload, &part).await? {
                    Some(now) if now.held => Err(self.part_missing()),
                    now => Ok(now.unwrap_or(part)),
                };
            }
            Err(error) => return Err(unsent(error)),
        };
        let guards = async {
            let slot = self
                .lock_slot(Slots::of_part(upload.id, part.number))
                .await?;
            let gate = self.enter_upload(upload.id).await?;
            let now = self.same_part(bucket, upload, &part).await?;
            Ok::<_, FlowError>((slot, gate, now))
        };
        let (_slot, _gate, now) = match guards.await {
            Ok(guards) => guards,
            Err(error) => {
                to_ufs.abort().await;
                return Err(error);
            }
        };
        if now.as_ref().is_none_or(|now| !now.held) {
            to_ufs.abort().await;
            return Ok(now.unwrap_or(part));
        }
        let published = self.publish(to_ufs, last, &digests).await;
        published.map_err(part_unsent)?;
        let sent = PartRecord {
            held: false,
            ..part
        };
        // Without an answer it is sent again, or released with its upload.
        self.changes(bucket.id, &upload.key)
            .put_part(bucket.id, upload, &sent)
            .await?;
        self.disk().release(sent.blob, chunks_of(sent.size));
        self.shared().holders.end(sent.blob);
        Ok(sent)
    }

    /// The row of a part, if it still is of the same bytes.
    async fn same_part(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Result<Option<PartRecord>, FlowError> {
        let (key, id, before) = (&upload.key, upload.id, part.number.saturating_sub(1));
        let rows = self.parts(bucket, key, id, before, 1).await?;
        let mut rows = rows.into_iter();
        Ok(rows.next().filter(|row| row.blob == part.blob))
    }
}

/// A part that could not be sent changed nothing that can be seen.
fn part_unsent(error: quickwater_proto::UfsError) -> FlowError {
    match error.kind {
        UfsErrorKind::Timeout => FlowError::Unavailable(error.message),
        _ => no_such_upload(error),
    }
}

fn unsent(error: Unsent) -> FlowError {
    match error {
        Unsent::Ufs(error) => part_unsent(error),
        Unsent::Lost(..) => FlowError::Lost,
        Unsent::Elsewhere(_, text) | Unsent::Here(text) => FlowError::Unavailable(text),
    }
}
