//! Housekeeping: uploads that nobody goes on with, uploads in a UFS that nobody
//! names, parts whose commit nobody knows. Absent: when it is done.

mod opened;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_proto::{
    Bucket, BucketId, CopyAt, NodeId, ObjectKey, PartOf, PartRecord, UfsError, UploadId,
    UploadRecord,
};

use crate::decisions::slots::Slots;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::put::forget_part;
use crate::io::{CopyBody, Environment, Metadata};

/// Rows read at a time.
const ROWS: usize = 1_000;
/// Parts of unknown fate remembered; what is beyond is freed by the next start.
const UNSURE_MAX: usize = 10_000;
/// After this long a commit whose outcome was unknown has come or never will.
const COMMIT_SETTLED: Duration = Duration::from_secs(60);

/// A part whose commit may have been made.
#[derive(Debug, Clone)]
pub(crate) struct UnsurePart {
    bucket: BucketId,
    key: ObjectKey,
    upload: UploadId,
    part: PartRecord,
    /// Who else has flushed its bytes.
    copies: Vec<CopyAt>,
    since: Duration,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Uploads of clients that were aborted.
    pub uploads: u64,
    /// Bytes of their parts.
    pub bytes: u64,
    /// Uploads that only a UFS had, aborted there.
    pub ufs_uploads: u64,
    /// Parts in the store that no row named, freed.
    pub parts: u64,
    /// Uploads in a UFS that could be ours or somebody else's: left alone.
    pub unclear: u64,
    /// What could not be done now; it is tried again by the next sweep.
    pub failures: u64,
}

/// A sweep under way.
struct Sweep {
    orphan_timeout: Duration,
    swept: Swept,
    /// Buckets whose UFS failed in this sweep: it is not asked again.
    deaf: HashSet<BucketId>,
}

impl<W: World> Engine<W> {
    /// Looks through everything once; among other workers each sees to the keys it owns.
    /// An upload counts as abandoned when no part of it was stored, nor is being
    /// received, for `orphan_timeout`; not before clients have had that long since
    /// `started` (monotonic), and since its key became this worker's.
    pub async fn sweep(&self, orphan_timeout: Duration, started: Duration) -> Swept {
        if self.permit_lease().is_err() {
            return Swept::default();
        }
        let mut sweep = Sweep {
            orphan_timeout,
            swept: Swept::default(),
            deaf: HashSet::new(),
        };
        let up = self.environment().monotonic().saturating_sub(started);
        if up >= orphan_timeout {
            self.sweep_buckets(&mut sweep).await;
        }
        self.sweep_opened(&mut sweep).await;
        self.sweep_unsure(&mut sweep).await;
        let stats = &self.shared().stats;
        let swept = sweep.swept;
        stats
            .swept_uploads
            .fetch_add(swept.uploads, Ordering::Relaxed);
        stats.swept_bytes.fetch_add(swept.bytes, Ordering::Relaxed);
        stats
            .swept_ufs_uploads
            .fetch_add(swept.ufs_uploads, Ordering::Relaxed);
        stats.swept_parts.fetch_add(swept.parts, Ordering::Relaxed);
        stats
            .sweep_failures
            .fetch_add(swept.failures, Ordering::Relaxed);
        swept
    }

    /// Remembers a part whose commit may have been made.
    pub(crate) fn note_unsure(
        &self,
        bucket: BucketId,
        of: &UploadRecord,
        (part, copies): (&PartRecord, &[CopyAt]),
    ) {
        let mut unsure = self.shared().unsure();
        if unsure.len() < UNSURE_MAX {
            unsure.push(UnsurePart {
                bucket,
                key: of.key.clone(),
                upload: of.id,
                part: part.clone(),
                copies: copies.to_vec(),
                since: self.environment().monotonic(),
            });
        }
    }

    async fn sweep_buckets(&self, sweep: &mut Sweep) {
        let Ok(buckets) = self.metadata().buckets().await else {
            sweep.swept.failures += 1;
            return;
        };
        for bucket in buckets {
            if self.sweep_uploads(&Arc::new(bucket), sweep).await.is_err() {
                sweep.swept.failures += 1;
            }
        }
    }

    async fn sweep_uploads(
        &self,
        bucket: &Arc<Bucket>,
        sweep: &mut Sweep,
    ) -> Result<(), FlowError> {
        let mut after: Option<(ObjectKey, UploadId)> = None;
        loop {
            let from = after.as_ref().map(|(key, id)| (key.as_str(), Some(*id)));
            let page = self.uploads(bucket, "", from, ROWS).await?;
            let whole = page.len() < ROWS;
            after = page.last().map(|u| (u.key.clone(), u.id));
            for upload in page {
                if self.sweep_upload(bucket, &upload, sweep).await.is_err() {
                    sweep.swept.failures += 1;
                }
            }
            if whole {
                return Ok(());
            }
        }
    }

    async fn sweep_upload(
        &self,
        bucket: &Arc<Bucket>,
        upload: &UploadRecord,
        sweep: &mut Sweep,
    ) -> Result<(), FlowError> {
        if !self.may_sweep(bucket.id, upload, sweep) {
            return Ok(());
        }
        if !self.is_abandoned(bucket, upload, sweep).await? {
            return Ok(());
        }
        // Of this, a Complete and an Abort one wins: they hold the same locks. So do
        // parts that are being published.
        let _guard = self.lock_key(bucket.id, &upload.key).await?;
        let _gate = self.close_upload(upload.id).await?;
        let there = self.metadata().upload(bucket.id, &upload.key, upload.id);
        if there.await?.is_none() || !self.is_abandoned(bucket, upload, sweep).await? {
            return Ok(());
        }
        // A Complete without an answer may still be applied.
        if self
            .shared()
            .persist
            .unanswered(bucket.id, &upload.key)
            .is_some()
        {
            return Ok(());
        }
        let told = !sweep.deaf.contains(&bucket.id);
        let (parts, ended) = self.end_upload(bucket, upload, told).await?;
        sweep.swept.uploads += 1;
        sweep.swept.bytes += parts.iter().map(|part| part.size).sum::<u64>();
        if ended.is_err() {
            sweep.swept.failures += 1;
            sweep.deaf.insert(bucket.id);
        }
        Ok(())
    }

    /// Whether an upload is this worker's to judge: parts that are being received are
    /// known to the owner of the key only, and the one before took what it knew with it.
    fn may_sweep(&self, bucket: BucketId, upload: &UploadRecord, sweep: &Sweep) -> bool {
        let (rights, slot) = (&self.shared().rights, Slots::of_key(bucket, &upload.key));
        let now = self.environment().monotonic();
        let taken = rights.taken_at(slot);
        let long = taken.is_zero() || now.saturating_sub(taken) >= sweep.orphan_timeout;
        rights.owns(slot) && long
    }

    /// Whether nobody stored a part of an upload, or is storing one, for too long.
    async fn is_abandoned(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        sweep: &Sweep,
    ) -> Result<bool, FlowError> {
        let timeout_ms = i64::try_from(sweep.orphan_timeout.as_millis()).unwrap_or(i64::MAX);
        let before = self.environment().wall_ms().saturating_sub(timeout_ms);
        if upload.initiated_ms > before || self.shared().in_use.any_of(upload.id) {
            return Ok(false);
        }
        let mut after = 0;
        loop {
            let (key, id) = (&upload.key, upload.id);
            let page = self.metadata().parts(bucket.id, key, id, after, ROWS);
            let page = match page.await {
                Ok(page) => page,
                // It ended meanwhile.
                Err(quickwater_proto::MetadataError::NoSuchUpload) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if page.iter().any(|part| part.modified_ms > before) {
                return Ok(false);
            }
            match page.last() {
                Some(last) if page.len() == ROWS => after = last.number,
                _ => return Ok(true),
            }
        }
    }

    /// Ends an upload: its rows, the bytes of its parts, and what the UFS has of it
    /// (unless the UFS is not to be asked now). The caller holds the key's slot and
    /// the upload's gate.
    pub(crate) async fn end_upload(
        &self,
        bucket: &Bucket,
        upload: &UploadRecord,
        ask_ufs: bool,
    ) -> Result<(Vec<PartRecord>, Result<(), UfsError>), FlowError> {
        let claim = match upload.is_held() {
            true => None,
            false => Some(self.note_named(bucket, upload).await?),
        };
        let (key, id) = (&upload.key, upload.id);
        let parts = self
            .changes(bucket.id, key)
            .abort_upload(bucket.id, key, id)
            .await?;
        for part in &parts {
            forget_part(self, part);
        }
        let ended = match claim {
            Some(claim) if ask_ufs => self.abort_opened(bucket, claim).await,
            _ => Ok(()),
        };
        Ok((parts, ended))
    }

    /// Frees parts whose commit turned out not to be made.
    async fn sweep_unsure(&self, sweep: &mut Sweep) {
        let now = self.environment().monotonic();
        let unsure = std::mem::take(&mut *self.shared().unsure());
        for unsure in unsure {
            if now.saturating_sub(unsure.since) < COMMIT_SETTLED {
                self.shared().unsure().push(unsure);
                continue;
            }
            match self.is_named(&unsure).await {
                Ok(true) => self.note_sure(&unsure),
                Ok(false) => {
                    let nodes = unsure.copies.iter().map(|at| at.node.clone());
                    let nodes: Vec<NodeId> = nodes.collect();
                    self.shared().holders.tell(unsure.part.blob, &nodes);
                    forget_part(self, &unsure.part);
                    sweep.swept.parts += 1;
                }
                Err(_) => {
                    sweep.swept.failures += 1;
                    self.shared().unsure().push(unsure);
                }
            }
        }
    }

    /// The commit of a part was made: who has flushed copies has them still, unless its UFS
    /// has got it meanwhile.
    fn note_sure(&self, unsure: &UnsurePart) {
        let UnsurePart { part, copies, .. } = unsure;
        let known = self.shared().holders.sessions(part.blob).is_some();
        if copies.is_empty() || known || !self.has_copy(part.blob, part.size) {
            return;
        }
        let body = CopyBody {
            blob: part.blob,
            bytes: part.size,
            part: Some(PartOf {
                upload: unsure.upload,
                number: part.number,
            }),
            bare: true,
        };
        self.note_copies((unsure.bucket, &unsure.key), body, copies);
    }

    /// Whether a row names the bytes of a part, or the object it became does.
    async fn is_named(&self, unsure: &UnsurePart) -> Result<bool, FlowError> {
        let UnsurePart {
            bucket,
            key,
            upload,
            part,
            ..
        } = unsure;
        let before = part.number.saturating_sub(1);
        let rows = self.metadata().parts(*bucket, key, *upload, before, 1);
        match rows.await {
            Ok(rows) => Ok(rows.iter().any(|row| row.blob == part.blob)),
            Err(quickwater_proto::MetadataError::NoSuchUpload) => {
                let object = self.metadata().object(*bucket, key).await?;
                let names = |object: quickwater_proto::ObjectRecord| {
                    object.extents.iter().any(|e| e.blob == part.blob)
                };
                Ok(object.is_some_and(names))
            }
            Err(error) => Err(error.into()),
        }
    }
}
