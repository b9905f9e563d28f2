//! Requests that are being sent to a UFS which may apply them after we have ended:
//! one row per key, there before the request is. Absent: the request.
//!
//! The row costs no flush. The commit that follows an answer removes it; a process
//! that is killed leaves it, and the next one knows that the key has to wait.

use quickwater_proto::{BucketId, MetadataError, ObjectKey, PendingChange, PendingRecord, Version};

use super::buckets::require_bucket;
use super::mutate::Step;
use super::note::Note;
use super::pending::{Place, current_held};
use super::{Namespace, Stop};
use crate::keyspace;
use crate::records::{VERSION_OFFSET, encode_held, encode_pending};
use crate::store::{Store, Transaction};

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
        let note = Request {
            place: (bucket, key),
            until_ms,
            now_ms: self.clock.wall_ms(),
        };
        match self.note(&note).await {
            Ok((kept, version)) => kept
                .or(version)
                .ok_or_else(|| MetadataError::Unavailable("no version was given".into())),
            Err(MetadataError::Unknown(why)) => Err(MetadataError::Unavailable(why)),
            Err(error) => Err(error),
        }
    }
}

/// Answers the version of what was pending before and stays.
struct Request<'a> {
    place: Place<'a>,
    until_ms: i64,
    now_ms: i64,
}

impl Note for Request<'_> {
    type Answer = Option<Version>;
    const RELAXED: bool = true;

    async fn write<T: Transaction>(&self, transaction: &mut T) -> Result<Step<Self::Answer>, Stop> {
        require_bucket(transaction, self.place.0).await?;
        let older = current_held(transaction, self.place).await?;
        let row = keyspace::pending(self.place.0, self.place.1);
        match older {
            Some((older, holders)) if !matches!(older.change, PendingChange::Settling { .. }) => {
                // Its bytes stay; that something was sent is handed on with it.
                let noted = PendingRecord {
                    superseded: true,
                    ..older
                };
                transaction.set(&row, &encode_held(&noted, &holders)?);
                Ok(Step::Commit(Some(noted.version)))
            }
            _ => {
                let noted = PendingRecord {
                    version: Version(0),
                    change: PendingChange::Settling {
                        until_ms: self.until_ms,
                    },
                    since_ms: self.now_ms,
                    superseded: false,
                };
                let value = encode_pending(&noted)?;
                transaction.set_versionstamped_value(&row, &value, VERSION_OFFSET);
                Ok(Step::Commit(None))
            }
        }
    }
}
