//! Multipart uploads: parts go to the UFS and the store as they come and are
//! invisible until one commit makes them an object (`complete`).

use std::sync::Arc;

use quickwater_proto::{
    Bucket, ChecksumAlgorithm, CopyAt, ETag, ObjectHeaders, ObjectKey, ObjectRecord, PartOf,
    PartRecord, PolicyMode, UfsErrorKind, UploadId, UploadRecord,
};

use crate::decisions::slots::Slots;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::dirty_room::Room;
use crate::flows::pinned::Pinned;
use crate::flows::put::{DRAINING, PutError, forget_part, read_only};
use crate::flows::read::BufferOf;
use crate::io::{Body, Copies, Environment, Metadata, Ufs};

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
