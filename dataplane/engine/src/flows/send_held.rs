//! The parts of an upload that was handed over to the UFS are sent there in the
//! background, until all are there or the upload has ended; those that the last process
//! left, too. Absent: how one part is sent (`hand_over`).

use std::future::ready;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, StreamExt};
use quickwater_proto::{BucketId, ObjectKey, UploadId, UploadRecord};

use crate::engine::{Engine, Shared, World};
use crate::error::FlowError;
use crate::io::Environment;

/// Uploads of the last process that are gone on with at a time, one part of each.
const UPLOADS_AT_ONCE: usize = 2;

/// An upload of which parts are only here though the UFS has been told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HandedOver {
    bucket: BucketId,
    key: ObjectKey,
    id: UploadId,
}

impl HandedOver {
    fn new(bucket: BucketId, upload: &UploadRecord) -> Self {
        Self {
            bucket,
            key: upload.key.clone(),
            id: upload.id,
        }
    }
}

impl Shared {
    /// Takes in an upload that the last process handed over and that has held parts:
    /// the persister sends them. No more than there are pinned records.
    pub fn load_handed_over(&self, bucket: BucketId, upload: &UploadRecord) {
        self.handed_over().push(HandedOver::new(bucket, upload));
    }
}

impl<W: World> Engine<W> {
    /// Sends what the last process left, in the background.
    pub(crate) fn resume_held(&self) {
        let left = std::mem::take(&mut *self.shared().handed_over());
        if !left.is_empty() {
            self.send_in_background(left);
        }
    }

    /// Sends the held parts of one upload, in the background.
    pub(crate) fn send_held_later(&self, bucket: BucketId, upload: &UploadRecord) {
        self.send_in_background(vec![HandedOver::new(bucket, upload)]);
    }

    fn send_in_background(&self, uploads: Vec<HandedOver>) {
        let engine = self.clone();
        self.environment()
            .spawn(async move { engine.send_until_none(uploads).await });
    }

    /// Goes round the uploads, those that fail again and again, ever more slowly.
    async fn send_until_none(&self, mut left: Vec<HandedOver>) {
        let persist = &self.config().persist;
        let mut pause = persist.retry_initial;
        loop {
            let before = left.len();
            let sending = left.into_iter().map(|upload| async move {
                match self.send_all_held(&upload).await {
                    Ok(()) | Err(FlowError::NoSuchUpload) => None,
                    Err(_) => {
                        let failures = &self.shared().stats.held_failures;
                        failures.fetch_add(1, Ordering::Relaxed);
                        Some(upload)
                    }
                }
            });
            let sending = stream::iter(sending).buffer_unordered(UPLOADS_AT_ONCE);
            left = sending.filter_map(ready).collect().await;
            if left.is_empty() {
                return;
            }
            if left.len() < before {
                pause = persist.retry_initial;
            }
            self.environment().sleep(pause).await;
            pause = pause.saturating_mul(2).min(persist.retry_max);
        }
    }

    /// Sends the held parts of an upload one after the other, so that their space
    /// comes free.
    async fn send_all_held(&self, of: &HandedOver) -> Result<(), FlowError> {
        let Some(bucket) = self.bucket_by_id(of.bucket).await? else {
            return Ok(());
        };
        let upload = self.upload(&bucket, &of.key, of.id).await?;
        let parts = self.other_parts(&bucket, &upload, 0).await?;
        for part in parts.into_iter().filter(|part| part.held) {
            match self.send_held(&bucket, &upload, part).await {
                // Bytes that are gone do not come back: Complete says so. The other
                // parts are sent all the same.
                Ok(_) | Err(FlowError::Lost | FlowError::InvalidPart) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
