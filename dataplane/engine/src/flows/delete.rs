//! DELETE: first from the UFS, then the commit, under the key's slot.

use std::sync::Arc;

use quickwater_proto::{Bucket, ObjectKey, PutCondition, UfsErrorKind};

use crate::engine::{Engine, World};
use crate::error::FlowError;
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
        let guard = self.lock_key(bucket.id, key).await?;
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
}
