//! DELETE: first from the UFS, then the commit, under the key's slot; under
//! write-back the commit alone, and the UFS is told later.

use std::sync::Arc;

use quickwater_proto::{Bucket, ObjectKey, PendingChange, PolicyMode, PutCondition, UfsErrorKind};

use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::put::read_only;
use crate::io::{Metadata, Ufs};

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
        match self.policy(bucket, key).mode {
            PolicyMode::ReadOnly => return Err(read_only()),
            PolicyMode::WriteBack | PolicyMode::Transient => {
                return self.delete_back(bucket, key, condition).await;
            }
            PolicyMode::WriteThrough | PolicyMode::NoCache => {}
        }
        let guard = self.lock_settled(bucket, key).await?;
        self.check_condition(bucket, key, condition, &guard).await?;
        guard.mark_changed();
        match self.ufs().delete(bucket, key).await {
            Ok(()) => {}
            // A key the UFS cannot hold is not there.
            Err(error) if error.kind == UfsErrorKind::Unsupported => {}
            Err(error) => {
                self.distrust(bucket.id, key);
                return Err(error.into());
            }
        }
        let removed = self
            .metadata()
            .remove_object(bucket.id, key, &PutCondition::None)
            .await;
        let removed = removed.map_err(|error| {
            self.distrust(bucket.id, key);
            FlowError::Unknown(error.to_string())
        })?;
        if let Some(old) = removed {
            self.forget_bytes(&old);
        }
        self.remember(bucket.id, key, None);
        Ok(())
    }

    /// Removes an object here and tells the UFS later. The UFS is not asked: what
    /// it may have under the key is hidden from now on.
    async fn delete_back(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        condition: &PutCondition,
    ) -> Result<(), FlowError> {
        let guard = self.lock_key(bucket.id, key).await?;
        self.check_condition(bucket, key, condition, &guard).await?;
        if !self.shared().persist.has_room() {
            let text = "too many changes are not persisted yet";
            return Err(FlowError::SlowDown(text.into()));
        }
        guard.mark_changed();
        let removed = self
            .metadata()
            .remove_object_pending(bucket.id, key, &PutCondition::None)
            .await;
        let (version, old) = match removed {
            Ok(removed) => removed,
            Err(error) => return Err(self.give_up_change(bucket, key, error, guard)),
        };
        self.told_later(bucket, key, version, PendingChange::Delete);
        if let Some(old) = old {
            self.forget_bytes(&old);
        }
        self.remember(bucket.id, key, None);
        Ok(())
    }
}
