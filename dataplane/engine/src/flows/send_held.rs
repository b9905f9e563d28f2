//! The parts of an upload that was handed over to the UFS are sent there in the
//! background, until all are there or the upload has ended; those that the last process
//! left, too. Absent: how one part is sent (`hand_over`), whose turn it is
//! (`decisions/held_queue`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::select;
use quickwater_proto::{Bucket, BucketId, UfsErrorKind, UploadRecord, slot_of};

use crate::decisions::held_queue::{HandedOver, Turn};
use crate::decisions::persist_queue::QueueScope;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Environment, Metadata, Ufs};
use crate::shared::Shared;

/// Our clock and that of a UFS are not further apart than this, milliseconds.
const CLOCKS_APART_MS: i64 = 60_000;

/// Longest sleep with nothing due.
const IDLE: Duration = Duration::from_secs(1);

impl Shared {
    /// Takes in an upload that was handed over and has held parts: the persister sends
    /// them.
    pub fn load_handed_over(&self, bucket: BucketId, upload: &UploadRecord) {
        self.held.add(HandedOver::new(bucket, upload));
    }

    /// Uploads that were handed over and are not known to have all their parts in the UFS.
    #[must_use]
    pub fn handed_over(&self) -> usize {
        self.held.uploads()
    }

    /// Makes everything of a scope that waits for a later attempt due now, held parts
    /// of uploads included; how many changes and uploads. An attempt under way is followed
    /// by the next at once, should it fail. A UFS that did not take an
    /// upload when room was short is asked again, too.
    pub fn retry_all(&self, scope: &QueueScope, now: Duration) -> u64 {
        self.relief.hurry();
        self.persist.retry_all(scope, now) + self.held.hurry(scope, now)
    }
}

impl<W: World> Engine<W> {
    /// Sends held parts until `stop` says so, and hands uploads over for want of room.
    pub(crate) async fn send_held_parts_for_ever(&self, stop: impl Fn() -> bool) {
        let held = &self.shared().held;
        while !stop() {
            let changed = held.listen();
            while let Some(upload) = held.take(self.environment().monotonic()) {
                let engine = self.clone();
                self.environment()
                    .spawn(async move { engine.send_turn(upload).await });
            }
            if held.take_relief(self.environment().monotonic()) {
                let engine = self.clone();
                self.environment()
                    .spawn(async move { engine.relieve().await });
            }
            let now = self.environment().monotonic();
            let wait = held.next_due().map_or(IDLE, |at| at.saturating_sub(now));
            let timer = std::pin::pin!(self.environment().sleep(wait.min(IDLE)));
            select(changed, timer).await;
        }
    }

    async fn send_turn(&self, upload: HandedOver) {
        let mut sent = 0;
        if self
            .shared()
            .rights
            .is_foreign(slot_of(upload.bucket, &upload.key))
        {
            // Its next owner sends them; should that be this worker, it is taken in anew.
            let now = self.environment().monotonic();
            self.shared().held.finish(&upload, Turn::Ended, now);
            return;
        }
        let turn = match self.send_all_held(&upload, &mut sent).await {
            Ok(()) | Err(FlowError::NoSuchUpload) => Turn::Ended,
            Err(_) => {
                let failures = &self.shared().stats.held_failures;
                failures.fetch_add(1, Ordering::Relaxed);
                Turn::Failed { sent: sent > 0 }
            }
        };
        let now = self.environment().monotonic();
        self.shared().held.finish(&upload, turn, now);
    }

    /// Sends the held parts of an upload one after the other, so that their space
    /// comes free.
    async fn send_all_held(&self, of: &HandedOver, sent: &mut u64) -> Result<(), FlowError> {
        let Some(bucket) = self.bucket_by_id(of.bucket).await? else {
            return Ok(());
        };
        let upload = self.upload(&bucket, &of.key, of.id).await?;
        let parts = self.other_parts(&bucket, &upload, 0).await?;
        let mut elsewhere = None;
        for part in parts.into_iter().filter(|part| part.held) {
            match self.send_held(&bucket, &upload, part).await {
                Ok(_) => *sent += 1,
                // Bytes that are gone do not come back: Complete says so. The other
                // parts are sent all the same.
                Err(FlowError::Lost | FlowError::InvalidPart) => {}
                // Those of another worker come back with it.
                Err(error @ FlowError::NotHere(_)) => elsewhere = Some(error),
                Err(FlowError::NoSuchUpload) => return self.end_gone(&bucket, &upload).await,
                Err(error) => return Err(error),
            }
        }
        elsewhere.map_or(Ok(()), Err)
    }

    /// Ends an upload that the UFS does not have any more: what was sent of it is lost,
    /// so it can never be completed, and its held parts would keep their space. Its
    /// client is told what S3 tells of an upload that somebody else aborted.
    async fn end_gone(&self, bucket: &Arc<Bucket>, upload: &UploadRecord) -> Result<(), FlowError> {
        let _guard = self.lock_key(bucket.id, &upload.key).await?;
        let _gate = self.close_upload(upload.id).await?;
        let there = self.metadata().upload(bucket.id, &upload.key, upload.id);
        let Some(upload) = there.await? else {
            return Ok(());
        };
        let persist = &self.shared().persist;
        if persist.unanswered(bucket.id, &upload.key).is_some() {
            // Perhaps it is gone because it was completed: that may be asked again.
            let text = "a Complete of this upload, or another change, got no answer";
            return Err(FlowError::Unavailable(text.into()));
        }
        if self.may_be_completed(bucket, &upload).await? {
            let text = "this upload may be gone because it was completed";
            return Err(FlowError::Unavailable(text.into()));
        }
        let (_, aborted) = self.end_upload(bucket, &upload, true).await?;
        // It has ended whatever the UFS answers: the next turn does not find it.
        let gone = &self.shared().stats.held_gone;
        gone.fetch_add(1, Ordering::Relaxed);
        Ok(aborted?)
    }

    /// Whether the UFS has an object in parts that is not older than an upload. It may be
    /// what a Complete made of it, although nobody knows of one: a power cut may take the
    /// note of a request. Who repeats that Complete is told of the object.
    async fn may_be_completed(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
    ) -> Result<bool, FlowError> {
        let object = match self.ufs().head(bucket, &upload.key).await {
            Ok(object) => object,
            Err(error) if error.kind == UfsErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let made_ms = object.identity.modified_ns.div_euclid(1_000_000);
        let begun_ms = upload.initiated_ms.saturating_sub(CLOCKS_APART_MS);
        Ok(object.etag.as_md5().is_none() && made_ms >= begun_ms)
    }
}
