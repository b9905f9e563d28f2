//! Uploads that we begin in a UFS: noted before the UFS is asked, so that none is
//! ever left open there, whatever ends us in between. Absent: when a note without
//! a user is looked at (`sweep`).

use quickwater_proto::{
    Bucket, MetadataError, ObjectHeaders, ObjectKey, OpenedUpload, UfsError, UfsErrorKind,
    UploadId, UploadRecord, Version,
};

use crate::decisions::opened::Claim;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Environment, Metadata, Ufs};

/// Why an upload was not begun.
pub(crate) enum Unopened {
    /// The UFS said no, or nothing.
    Ufs(UfsError),
    /// It could not be noted.
    Metadata(MetadataError),
    /// Too many are noted already.
    Full,
}

impl From<Unopened> for FlowError {
    fn from(error: Unopened) -> Self {
        match error {
            // Without an answer that makes sense there may be one, which nobody can see.
            Unopened::Ufs(error) if is_unknown(error.kind) => Self::Unavailable(error.message),
            Unopened::Ufs(error) => error.into(),
            // Nothing of it can be seen, whatever became of the note.
            Unopened::Metadata(MetadataError::Unknown(text)) => Self::Unavailable(text),
            Unopened::Metadata(error) => error.into(),
            Unopened::Full => {
                Self::SlowDown("too many uploads are to be ended in the UFS first".into())
            }
        }
    }
}

impl<W: World> Engine<W> {
    /// Begins an upload in the UFS; `version`: what it brings there later. Its name
    /// is flushed on return, before a part of it is sent.
    pub(crate) async fn open_upload(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        id: UploadId,
        version: Option<Version>,
    ) -> Result<Claim, Unopened> {
        let claim = self.ask_upload(bucket, key, headers, id, version).await?;
        let noted = self
            .changes(bucket.id, &claim.opened.key)
            .note_opened(bucket.id, &claim.opened)
            .await;
        match noted {
            Ok(()) => Ok(claim),
            Err(error) => {
                // Parts of an upload without a name could not be told from others'.
                self.abort_or_keep(bucket, claim).await;
                Err(Unopened::Metadata(error))
            }
        }
    }

    /// Begins an upload in the UFS whose name gets a row of its own next.
    pub(crate) async fn ask_upload(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        id: UploadId,
        version: Option<Version>,
    ) -> Result<Claim, Unopened> {
        let mut claim = self.note_asked(bucket, key, id, version).await?;
        let id = claim.opened.id;
        let name = match self.ufs().create_upload(bucket, key, headers, id).await {
            Ok(name) => name,
            Err(error) => {
                // Without an answer it may be there; else there is nothing to end.
                match is_unknown(error.kind) {
                    false if claim.opened.asked <= 1 => self.forget_opened(bucket, claim).await,
                    false => one_less(&mut claim),
                    true => {}
                }
                return Err(Unopened::Ufs(error));
            }
        };
        let mut unanswered = None;
        if claim.opened.asked > 1 {
            // The note goes on standing for the attempts that got no answer.
            let apart = OpenedUpload {
                id: UploadId(self.environment().random_u128()),
                asked: 1,
                ..claim.opened.clone()
            };
            let apart = self.shared().opened.begin(bucket.id, apart);
            unanswered = Some(std::mem::replace(&mut claim, apart));
        }
        claim.update(OpenedUpload {
            ufs_upload: Some(name),
            ..claim.opened.clone()
        });
        if let Some(mut unanswered) = unanswered {
            one_less(&mut unanswered);
        }
        Ok(claim)
    }

    /// Notes that the UFS is about to be asked for an upload.
    async fn note_asked(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        id: UploadId,
        version: Option<Version>,
    ) -> Result<Claim, Unopened> {
        let opened = &self.shared().opened;
        let now_ms = self.environment().wall_ms();
        // Attempts for one version share a note: it counts them.
        let mut known = opened.of_key(bucket.id, key).into_iter();
        let known =
            known.find(|o| version.is_some() && o.version == version && o.ufs_upload.is_none());
        let claim = known.and_then(|known| opened.claim(bucket.id, key, known.id));
        let mut claim = match claim {
            Some(claim) => claim,
            None if !opened.has_room() => return Err(Unopened::Full),
            None => opened.begin(
                bucket.id,
                OpenedUpload {
                    id,
                    key: key.clone(),
                    version,
                    ufs_upload: None,
                    begun_ms: now_ms,
                    asked_ms: now_ms,
                    asked: 0,
                },
            ),
        };
        claim.update(OpenedUpload {
            ufs_upload: self.ufs().upload_name(bucket, claim.opened.id),
            asked_ms: now_ms,
            asked: claim.opened.asked.saturating_add(1),
            ..claim.opened.clone()
        });
        match self
            .changes(bucket.id, &claim.opened.key)
            .note_opened(bucket.id, &claim.opened)
            .await
        {
            Ok(()) => Ok(claim),
            Err(error @ MetadataError::Unknown(_)) => Err(Unopened::Metadata(error)),
            Err(error) => {
                if claim.opened.asked == 1 {
                    claim.end();
                }
                Err(Unopened::Metadata(error))
            }
        }
    }

    /// Notes an upload that its own row will not name any more.
    pub(crate) async fn note_named(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
    ) -> Result<Claim, MetadataError> {
        let now_ms = self.environment().wall_ms();
        let opened = OpenedUpload {
            id: upload.id,
            key: upload.key.clone(),
            version: None,
            ufs_upload: Some(upload.ufs_upload.clone()),
            begun_ms: upload.initiated_ms,
            asked_ms: now_ms,
            asked: 1,
        };
        let claim = self.shared().opened.begin(bucket.id, opened);
        self.changes(bucket.id, &claim.opened.key)
            .note_opened(bucket.id, &claim.opened)
            .await?;
        Ok(claim)
    }

    /// The UFS has no such upload any more. A note that stays is found by a sweep
    /// to name nothing.
    pub(crate) async fn forget_opened(&self, bucket: &Bucket, claim: Claim) {
        let OpenedUpload { key, id, .. } = &claim.opened;
        let forgotten = self
            .changes(bucket.id, key)
            .forget_opened(bucket.id, key, *id)
            .await;
        if forgotten.is_ok() {
            claim.end();
        }
    }

    /// Ends an upload in the UFS. Its note stays until the UFS has done so.
    pub(crate) async fn abort_opened(&self, bucket: &Bucket, claim: Claim) -> Result<(), UfsError> {
        let aborted = self
            .ufs()
            .abort_upload(bucket, &upload_of(&claim.opened))
            .await;
        match aborted {
            Ok(()) => {
                self.forget_opened(bucket, claim).await;
                Ok(())
            }
            Err(error) => {
                // So that a sweep after a restart need not search for it.
                let _ = self
                    .changes(bucket.id, &claim.opened.key)
                    .note_opened(bucket.id, &claim.opened)
                    .await;
                Err(error)
            }
        }
    }

    /// Ends an upload in the UFS, or leaves that to a sweep, which counts failures.
    pub(crate) async fn abort_or_keep(&self, bucket: &Bucket, claim: Claim) {
        let _ = self.abort_opened(bucket, claim).await;
    }

    /// Ends what was opened for versions of a key that are not wanted any more.
    pub(crate) async fn end_stale(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        wanted: Option<Version>,
    ) {
        let opened = &self.shared().opened;
        let resumes = self.ufs().resumes(bucket);
        for stale in opened.of_key(bucket.id, key) {
            let used = resumes && stale.version == wanted;
            if stale.version.is_none() || used || stale.ufs_upload.is_none() {
                continue;
            }
            if let Some(claim) = opened.claim(bucket.id, key, stale.id) {
                self.abort_or_keep(bucket, claim).await;
            }
        }
    }
}

/// One attempt more whose outcome is known. The row may say one too many.
fn one_less(claim: &mut Claim) {
    claim.update(OpenedUpload {
        asked: claim.opened.asked.saturating_sub(1),
        ..claim.opened.clone()
    });
}

/// An upload as the UFS calls want it.
pub(crate) fn upload_of(opened: &OpenedUpload) -> UploadRecord {
    UploadRecord {
        id: opened.id,
        key: opened.key.clone(),
        initiated_ms: opened.begun_ms,
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        checksum: None,
        ufs_upload: opened.ufs_upload.clone().unwrap_or_default(),
    }
}

/// Whether the UFS may have done what it was asked for.
fn is_unknown(kind: UfsErrorKind) -> bool {
    matches!(
        kind,
        UfsErrorKind::Timeout | UfsErrorKind::Corrupt | UfsErrorKind::Other
    )
}
