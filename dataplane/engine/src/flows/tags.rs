//! Object and bucket tags: our own metadata, never the UFS's.

use std::sync::Arc;

use quickwater_proto::{Bucket, ObjectKey, PersistState, PutCondition};

use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::Metadata;

impl<W: World> Engine<W> {
    /// Replaces the tags of the current version.
    ///
    /// # Errors
    /// [`FlowError::NoSuchKey`], or the metadata is unavailable.
    pub async fn set_tags(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        tags: Vec<(String, String)>,
    ) -> Result<(), FlowError> {
        let guard = self.lock_key(bucket.id, key).await?;
        let current = self
            .check(bucket, key, false, &guard)
            .await?
            .ok_or(FlowError::NoSuchKey)?;
        let mut record = (*current).clone();
        record.tags = tags;
        let condition = PutCondition::Version(current.version);
        let committed = self
            .changes(bucket.id, key)
            .commit_object(bucket.id, key, &record, &condition)
            .await;
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) if current.persist != PersistState::Persisted => {
                return Err(self.give_up_change(bucket, key, error, guard));
            }
            Err(error) => {
                self.distrust(bucket.id, key);
                return Err(error.into());
            }
        };
        if record.persist != PersistState::Persisted {
            let version = committed.version;
            self.keep_note(bucket.id, key, Some(&record), version).await;
        }
        self.made_current(bucket, key, record, committed, &guard);
        Ok(())
    }

    /// Replaces the tags of a bucket.
    ///
    /// # Errors
    /// The metadata refuses or is unavailable.
    pub async fn set_bucket_tags(
        &self,
        bucket: &Arc<Bucket>,
        tags: &[(String, String)],
    ) -> Result<(), FlowError> {
        self.metadata().set_bucket_tags(bucket.id, tags).await?;
        self.shared().forget_buckets();
        Ok(())
    }
}
