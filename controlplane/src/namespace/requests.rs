//! Requests that are being sent to a UFS which may apply them after we have ended:
//! one row per key, there before the request is. Absent: the request.
//!
//! The row costs no flush. The commit that follows an answer removes it; a process
//! that is killed leaves it, and the next one knows that the key has to wait.

use quickwater_proto::{BucketId, MetadataError, ObjectKey, PendingChange, PendingRecord, Version};

use super::buckets::require_bucket;
use super::pending::{Place, current_pending};
use super::{Namespace, Stop};
use crate::keyspace;
use crate::records::{VERSION_OFFSET, encode_pending, version_of};
use crate::store::{CommitError, Store, Transaction};

/// Attempts at noting a request.
const NOTE_ATTEMPTS_MAX: u32 = 5;

impl<S: Store> Namespace<S> {
    /// Notes that a request which changes a key is about to be sent: visible on
    /// return, flushed some time later. [`PendingChange::Settling`] until
    /// `until_ms`; with that of [`PendingChange::UNDER_WAY`] the next commit or
    /// removal of the object ends it, else [`Namespace::end_pending`] with the
    /// version answered. What is pending for the key already stays.
    ///
    /// # Errors
    /// [`MetadataError::NoSuchBucket`], [`MetadataError::Unavailable`]: it may be
    /// noted, and no request is to be sent.
    pub async fn note_request(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        until_ms: i64,
    ) -> Result<Version, MetadataError> {
        let mut attempt = 1;
        loop {
            match self.try_note((bucket, key), until_ms).await {
                Ok(Ok(version)) => return Ok(version),
                // Noted twice is noted.
                Ok(Err(error))
                    if (error.is_retryable() || error == CommitError::Unknown)
                        && attempt < NOTE_ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                Ok(Err(error)) => return Err(MetadataError::Unavailable(error.to_string())),
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Store(error)) => {
                    return Err(MetadataError::Unavailable(error.to_string()));
                }
            }
        }
    }

    async fn try_note(
        &self,
        place: Place<'_>,
        until_ms: i64,
    ) -> Result<Result<Version, CommitError>, Stop> {
        let mut transaction = self.store.begin();
        require_bucket(&mut transaction, place.0).await?;
        let older = current_pending(&mut transaction, place).await?;
        let row = keyspace::pending(place.0, place.1);
        let kept = match older {
            Some(older) if !matches!(older.change, PendingChange::Settling { .. }) => {
                // Its bytes stay; that something was sent is handed on with it.
                let noted = PendingRecord {
                    superseded: true,
                    ..older
                };
                let value = encode_pending(&noted)?;
                transaction.set(&row, &value);
                Some(noted.version)
            }
            _ => {
                let noted = PendingRecord {
                    version: Version(0),
                    change: PendingChange::Settling { until_ms },
                    since_ms: self.clock.wall_ms(),
                    superseded: false,
                };
                let value = encode_pending(&noted)?;
                transaction.set_versionstamped_value(&row, &value, VERSION_OFFSET);
                None
            }
        };
        let committed = transaction.commit_relaxed().await;
        Ok(committed.map(|commit| kept.unwrap_or_else(|| version_of(commit))))
    }
}
