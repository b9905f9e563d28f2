//! Telling the UFS of an object in parts, by an upload that is gone on with after
//! a failure or a restart: what the UFS has of it is not sent again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quickwater_proto::{
    Bucket, ObjectKey, ObjectRecord, PartRecord, UfsError, UfsErrorKind, UfsObject, UfsPartSeen,
    UploadId, UploadRecord,
};

use crate::decisions::opened::Claim;
use crate::engine::{Engine, World};
use crate::flows::opened::{Unopened, upload_of};
use crate::flows::send_whole::Unsent;
use crate::io::{BodyDigests, Environment, Ufs};

/// An upload to send an object by.
struct Way {
    claim: Claim,
    /// What the UFS has of it; none: it has ended, perhaps with the object.
    sent: Option<Vec<UfsPartSeen>>,
    /// It was begun by an earlier attempt.
    resumed: bool,
}

impl From<Unopened> for Unsent {
    fn from(error: Unopened) -> Self {
        match error {
            Unopened::Ufs(error) if error.kind == UfsErrorKind::Timeout => unseen(error).into(),
            Unopened::Ufs(error) => error.into(),
            Unopened::Metadata(error) => Self::Here(error.to_string()),
            Unopened::Full => Self::Here("too many uploads are to be ended first".into()),
        }
    }
}

impl<W: World> Engine<W> {
    /// Sends an object as the parts of one upload. The claim is given back to be
    /// ended when the metadata knows.
    pub(crate) async fn send_in_parts(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        record: &ObjectRecord,
    ) -> Result<(UfsObject, Claim), Unsent> {
        let way = self.way_for(bucket, key, record).await?;
        let upload = UploadRecord {
            headers: record.headers.clone(),
            tags: record.tags.clone(),
            ..upload_of(&way.claim.opened)
        };
        let resumed = way.resumed;
        let sent = match record.parts.is_empty() {
            true => self.send_cut(bucket, &upload, record, way.sent).await,
            false => self.send_each_part(bucket, &upload, record, way.sent).await,
        };
        match sent {
            Ok(object) => Ok((object, way.claim)),
            Err(error) => {
                self.after_failure(bucket, record, way.claim, resumed, &error)
                    .await;
                Err(error)
            }
        }
    }

    /// The upload an earlier attempt has begun for this version, or a new one.
    async fn way_for(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        record: &ObjectRecord,
    ) -> Result<Way, Unsent> {
        let opened = &self.shared().opened;
        let notes = opened.of_key(bucket.id, key).into_iter();
        let mut usable =
            notes.filter(|note| note.version == Some(record.version) && note.ufs_upload.is_some());
        if self.ufs().resumes(bucket)
            && let Some(note) = usable.next()
            && let Some(claim) = opened.claim(bucket.id, key, note.id)
        {
            let upload = upload_of(&claim.opened);
            match self.ufs().uploaded_parts(bucket, &upload).await {
                Ok(sent) => {
                    let stats = &self.shared().stats;
                    stats.persist_resumed.fetch_add(1, Ordering::Relaxed);
                    return Ok(Way {
                        claim,
                        sent: Some(sent),
                        resumed: true,
                    });
                }
                // Nobody can say what is there: from the beginning, then.
                Err(error) if cannot_tell(error.kind) => {
                    self.abort_or_keep(bucket, claim).await;
                }
                Err(error) if error.kind != UfsErrorKind::NotFound => {
                    return Err(unseen(error).into());
                }
                // The UFS tells by ETag and headers whether it has what was to become of it.
                Err(_) if !record.parts.is_empty() => {
                    return Ok(Way {
                        claim,
                        sent: None,
                        resumed: true,
                    });
                }
                Err(_) => self.forget_opened(bucket, claim).await,
            }
        }
        let id = UploadId(self.environment().random_u128());
        let version = Some(record.version);
        let opening = self.open_upload(bucket, key, &record.headers, id, version);
        Ok(Way {
            claim: opening.await?,
            sent: Some(Vec::new()),
            resumed: false,
        })
    }

    /// Sends an object that came in one piece, cut into parts.
    async fn send_cut(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        record: &ObjectRecord,
        sent: Option<Vec<UfsPartSeen>>,
    ) -> Result<UfsObject, Unsent> {
        let md5 = record.etag.as_md5();
        let md5 = md5.ok_or_else(|| Unsent::Here("the ETag is not an MD5".into()))?;
        let part_bytes = self.config().persist.part_bytes;
        let to_ufs = self.ufs().put_in_parts(
            bucket,
            upload,
            record.size,
            part_bytes,
            sent.unwrap_or_default(),
        );
        let digests = BodyDigests {
            md5,
            checksums: record.checksums.clone(),
        };
        let extents = record.extents.iter();
        let pieces = extents.map(|extent| (extent.blob, extent.size)).collect();
        self.send_bytes(to_ufs.await?, pieces, &digests).await
    }

    /// Sends a completed multipart upload with the same parts, so that a store that
    /// derives its ETag from them shows the same.
    async fn send_each_part(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        record: &ObjectRecord,
        sent: Option<Vec<UfsPartSeen>>,
    ) -> Result<UfsObject, Unsent> {
        if let Some(sent) = sent {
            for part in record.parts.iter().filter(|part| !has(&sent, part)) {
                self.send_part(bucket, upload, part).await?;
            }
        }
        let (etag, checksums) = (&record.etag, &record.checksums);
        let completed = self
            .ufs()
            .complete_upload(bucket, upload, &record.parts, etag, checksums)
            .await;
        Ok(completed?)
    }

    async fn send_part(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Result<(), Unsent> {
        let md5 = part.etag.as_md5();
        let md5 = md5.ok_or_else(|| Unsent::Here("the ETag of a part is not an MD5".into()))?;
        let to_ufs = self.ufs().put_part(bucket, upload, part.number, part.size);
        let digests = BodyDigests {
            md5,
            checksums: part.checksums.clone(),
        };
        let pieces = vec![(part.blob, part.size)];
        match self.send_bytes(to_ufs.await?, pieces, &digests).await {
            Err(Unsent::Ufs(error)) => Err(unseen(error).into()),
            sent => sent.map(drop),
        }
    }

    /// What becomes of the upload of an attempt that failed: it is kept for the
    /// next one where that can go on with it and the version is still wanted.
    async fn after_failure(
        &self,
        bucket: &Bucket,
        record: &ObjectRecord,
        claim: Claim,
        resumed: bool,
        error: &Unsent,
    ) {
        let pending = self.shared().persist.pending(bucket.id, &claim.opened.key);
        let wanted = pending.is_some_and(|pending| pending.version == record.version);
        let kind = match error {
            Unsent::Ufs(error) => Some(error.kind),
            Unsent::Lost(..) | Unsent::Elsewhere(..) | Unsent::Here(_) => None,
        };
        match kind {
            Some(UfsErrorKind::NotFound) => self.forget_opened(bucket, claim).await,
            // What is there cannot be completed.
            Some(UfsErrorKind::Invalid | UfsErrorKind::Corrupt) if resumed => {
                self.abort_or_keep(bucket, claim).await;
            }
            _ if !wanted || !self.ufs().resumes(bucket) => {
                self.abort_or_keep(bucket, claim).await;
            }
            _ => {}
        }
    }
}

/// Whether the UFS has the bytes of a part.
fn has(sent: &[UfsPartSeen], part: &PartRecord) -> bool {
    let same = |seen: &UfsPartSeen| {
        seen.number == part.number
            && seen.size == part.size
            && seen.md5.is_some()
            && seen.md5 == part.etag.as_md5()
    };
    sent.iter().any(same)
}

/// Whether asking again for the parts of an upload is of no use.
fn cannot_tell(kind: UfsErrorKind) -> bool {
    matches!(
        kind,
        UfsErrorKind::Unsupported
            | UfsErrorKind::AccessDenied
            | UfsErrorKind::Invalid
            | UfsErrorKind::Corrupt
    )
}

/// What is sent to an upload is invisible until it is complete: without an answer
/// there is nothing that could be applied late.
fn unseen(error: UfsError) -> UfsError {
    match error.kind {
        UfsErrorKind::Timeout => UfsError::new(UfsErrorKind::Unavailable, error.message),
        _ => error,
    }
}
