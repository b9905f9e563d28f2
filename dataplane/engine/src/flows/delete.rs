//! DELETE: first from the UFS, then the commit, under the key's slot; under
//! write-back the commit alone, and the UFS is told later.

use std::sync::Arc;

use quickwater_proto::{
    Bucket, JobOutcome, LeftAlone, ObjectKey, ObjectRecord, PendingChange, PolicyMode,
    PutCondition, UfsErrorKind, Version,
};

use crate::decisions::slots::SlotGuard;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::fence::Change;
use crate::flows::put::read_only;
use crate::io::{Metadata, Ufs};

/// Which version of a key may be removed.
#[derive(Clone, Copy)]
enum Which<'a> {
    /// One for which this holds, or none at all.
    Condition(&'a PutCondition),
    /// One that is there and was committed up to here.
    Through(Version),
}

impl<W: World> Engine<W> {
    /// Removes an object; not being there is success, as S3 has it.
    ///
    /// # Errors
    /// Nothing changed, but for [`FlowError::Unknown`]: there or gone.
    pub async fn delete(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<(), FlowError> {
        let which = Which::Condition(condition);
        self.remove(bucket, key, which).await.map(drop)
    }

    /// Removes an object for a job; one that is not known here is gone.
    pub(crate) async fn delete_for_job(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        through: Option<Version>,
    ) -> Result<JobOutcome, FlowError> {
        match through {
            Some(version) => self.remove(bucket, key, Which::Through(version)).await,
            None => self.delete_known(bucket, key).await,
        }
    }

    /// Removes the current version of a key, whatever it is, and tells whether
    /// there was one.
    async fn delete_known(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
    ) -> Result<JobOutcome, FlowError> {
        if self.policy(bucket, key).mode == PolicyMode::ReadOnly {
            return Err(read_only());
        }
        match self.resolve(bucket, key, false).await {
            Err(FlowError::NoSuchKey) => return Ok(JobOutcome::Left(LeftAlone::Gone)),
            // Under write-back the UFS need not be there.
            Err(FlowError::Unavailable(_)) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        let which = Which::Condition(&PutCondition::None);
        self.remove(bucket, key, which).await
    }

    async fn remove(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        which: Which<'_>,
    ) -> Result<JobOutcome, FlowError> {
        match self.policy(bucket, key).mode {
            PolicyMode::ReadOnly => return Err(read_only()),
            PolicyMode::WriteBack | PolicyMode::Transient => {
                return self.delete_back(bucket, key, which).await;
            }
            PolicyMode::WriteThrough | PolicyMode::NoCache => {}
        }
        let change = Change::Delete;
        let guard = self.lock_settled(bucket, key, change).await?;
        if let Some(left) = self.judge(bucket, key, which, &guard).await? {
            return Ok(JobOutcome::Left(left));
        }
        let noted = self.note_request(bucket, key, &guard).await?;
        guard.mark_changed();
        match self.ufs().delete(bucket, key).await {
            Ok(()) => {}
            // A key the UFS cannot hold is not there.
            Err(error) if error.kind == UfsErrorKind::Unsupported => {}
            Err(error) => {
                let failed = self.failed_request(bucket, key, noted, change, error, guard);
                return Err(failed.await.into());
            }
        }
        self.note_deleted(bucket.id, key);
        self.answered(bucket, key, &noted);
        let removed = self
            .changes(bucket.id, key)
            .remove_object(bucket.id, key, &PutCondition::None)
            .await;
        let removed = removed.map_err(|error| {
            self.distrust(bucket.id, key);
            FlowError::Unknown(error.to_string())
        })?;
        noted.committed();
        self.drop_note(bucket.id, key);
        Ok(self.removed(bucket, key, removed, &guard))
    }

    /// Whether the object must stay, and why. Only under the slot's lock.
    async fn judge(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        which: Which<'_>,
        guard: &SlotGuard<'_>,
    ) -> Result<Option<LeftAlone>, FlowError> {
        let through = match which {
            Which::Condition(condition) => {
                self.check_condition(bucket, key, condition, guard).await?;
                return Ok(None);
            }
            Which::Through(version) => version,
        };
        let current = self.metadata().object(bucket.id, key).await?;
        Ok(match current {
            None => Some(LeftAlone::Gone),
            Some(current) if current.version > through => Some(LeftAlone::Newer),
            Some(_) => None,
        })
    }

    /// The object's row is gone: so are its bytes.
    fn removed(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        old: Option<ObjectRecord>,
        guard: &SlotGuard<'_>,
    ) -> JobOutcome {
        if let Some(old) = &old {
            self.forget_bytes(old);
        }
        self.remember(bucket.id, key, None, guard);
        JobOutcome::Done {
            bytes: old.map_or(0, |old| old.size),
        }
    }

    /// Removes an object here and tells the UFS later. The UFS is not asked: what
    /// it may have under the key is hidden from now on.
    async fn delete_back(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        which: Which<'_>,
    ) -> Result<JobOutcome, FlowError> {
        let guard = self.lock_key(bucket.id, key).await?;
        if let Some(left) = self.judge(bucket, key, which, &guard).await? {
            return Ok(JobOutcome::Left(left));
        }
        if !self.shared().persist.has_room() {
            let text = "too many changes are not persisted yet";
            return Err(FlowError::SlowDown(text.into()));
        }
        guard.mark_changed();
        let removed = self
            .changes(bucket.id, key)
            .remove_object_pending(bucket.id, key, &PutCondition::None)
            .await;
        let (version, old) = match removed {
            Ok(removed) => removed,
            Err(error) => return Err(self.give_up_change(bucket, key, error, guard)),
        };
        self.keep_note(bucket.id, key, None, version).await;
        self.told_later(bucket, key, version, PendingChange::Delete);
        Ok(self.removed(bucket, key, old, &guard))
    }
}
