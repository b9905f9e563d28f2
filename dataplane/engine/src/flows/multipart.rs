//! Multipart uploads: parts go to the UFS and the store as they come and are
//! invisible until one commit makes them an object.

use std::sync::Arc;

use quickwater_proto::{
    Bucket, Checksum, ChecksumAlgorithm, ETag, Extent, ObjectHeaders, ObjectKey, ObjectRecord,
    PartRecord, PersistState, PutCondition, UfsErrorKind, UploadId, UploadRecord, Version,
};

use crate::decisions::slots::Slots;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::put::{PutError, forget_part};
use crate::flows::read::BufferOf;
use crate::io::{Body, Environment, Metadata, Ufs};

/// Parts read from the metadata at a time.
const PARTS_READ: usize = 1_000;

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
        let id = UploadId(self.environment().random_u128());
        let ufs_upload = self
            .ufs()
            .create_upload(bucket, key, &new.headers, id)
            .await?;
        let upload = UploadRecord {
            id,
            key: key.clone(),
            initiated_ms: self.environment().wall_ms(),
            headers: new.headers,
            tags: new.tags,
            checksum: new.checksum,
            ufs_upload,
        };
        if let Err(error) = self.metadata().create_upload(bucket.id, &upload).await {
            // Best effort: what stays is swept with the UFS's own leftovers.
            let _ = self.ufs().abort_upload(bucket, &upload).await;
            return Err(error.into());
        }
        Ok(upload)
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
        let size = body.length();
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
        };
        let replaced = self.metadata().put_part(bucket.id, upload, &part).await;
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

    /// The ETag of an upload that was completed within the last day.
    ///
    /// # Errors
    /// The metadata is unavailable.
    pub async fn completed(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<ETag>, FlowError> {
        Ok(self.metadata().completed(bucket.id, key, id).await?)
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
        let guard = self.lock_key(bucket.id, key).await?;
        let _gate = self.close_upload(upload.id).await?;
        // An Abort, another Complete or a part sent again may have won meanwhile.
        self.upload(bucket, key, upload.id).await?;
        self.check_parts(bucket, upload, &done.parts).await?;
        self.check_condition(bucket, key, &done.condition, &guard)
            .await?;
        guard.mark_changed();
        let published = self
            .ufs()
            .complete_upload(bucket, upload, &done.parts, &done.etag, &done.checksums)
            .await;
        let object = published.map_err(|error| {
            self.distrust(bucket.id, key);
            no_such_upload(error)
        })?;
        let mut record = ObjectRecord {
            version: Version::default(),
            size: done.parts.iter().map(|p| p.size).sum(),
            etag: done.etag,
            modified_ms: object.identity.modified_ns.div_euclid(1_000_000),
            headers: upload.headers.clone(),
            checksums: done.checksums,
            tags: upload.tags.clone(),
            extents: extents_of(&done.parts),
            parts: done.parts,
            ufs: Some(object.identity),
            persist: PersistState::Persisted,
            partial: false,
        };
        let committed = self
            .metadata()
            .complete_upload(bucket.id, upload, &record, &PutCondition::None)
            .await;
        let committed = committed.map_err(|error| {
            self.distrust(bucket.id, key);
            FlowError::Unknown(error.to_string())
        })?;
        if let Some(old) = &committed.replaced {
            self.forget_bytes(old);
        }
        record.version = committed.version;
        let record = Arc::new(record);
        self.remember(bucket.id, key, Some(Arc::clone(&record)));
        Ok(record)
    }

    /// Whether exactly these parts are still the uploaded ones: what the UFS makes
    /// an object of must be what is committed.
    async fn check_parts(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        named: &[PartRecord],
    ) -> Result<(), FlowError> {
        let mut named = named.iter().peekable();
        let mut after = 0;
        while named.peek().is_some() {
            let page = self
                .parts(bucket, &upload.key, upload.id, after, PARTS_READ)
                .await?;
            let Some(last) = page.last() else {
                return Err(FlowError::InvalidPart);
            };
            after = last.number;
            while let Some(want) = named.next_if(|part| part.number <= after) {
                if !page
                    .iter()
                    .any(|part| part.number == want.number && part.blob == want.blob)
                {
                    return Err(FlowError::InvalidPart);
                }
            }
        }
        Ok(())
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
        let parts = self.metadata().abort_upload(bucket.id, key, id).await?;
        for part in &parts {
            forget_part(self, part);
        }
        self.ufs().abort_upload(bucket, &upload).await?;
        Ok(())
    }
}

fn no_such_upload(error: quickwater_proto::UfsError) -> FlowError {
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
