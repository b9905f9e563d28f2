//! Uploads in a UFS that we opened, or may have, and nobody uses: ended, or left
//! alone when they could be somebody else's.

use quickwater_proto::{Bucket, BucketId, ObjectKey, OpenedUpload, UfsErrorKind, UploadId};

use super::{ROWS, Sweep};
use crate::decisions::opened::{Claim, begun_by_us};
use crate::decisions::slots::Slots;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::opened::upload_of;
use crate::io::{Environment, Metadata, Ufs};

impl<W: World> Engine<W> {
    /// Ends what was opened in UFSs and has no user.
    pub(super) async fn sweep_opened(&self, sweep: &mut Sweep) {
        let mut after = None;
        loop {
            let page = self.shared().opened.page(after.take(), ROWS);
            let whole = page.len() < ROWS;
            after = page.last().map(|(b, o)| (*b, o.key.clone(), o.id));
            for (bucket, opened) in page {
                if sweep.deaf.contains(&bucket) {
                    continue;
                }
                if self.sweep_one_opened(bucket, opened, sweep).await.is_err() {
                    sweep.swept.failures += 1;
                    sweep.deaf.insert(bucket);
                }
            }
            if whole {
                return;
            }
        }
    }

    async fn sweep_one_opened(
        &self,
        bucket: BucketId,
        opened: OpenedUpload,
        sweep: &mut Sweep,
    ) -> Result<(), FlowError> {
        let (rights, slot) = (&self.shared().rights, Slots::of_key(bucket, &opened.key));
        let unanswered = || self.shared().persist.unanswered(bucket, &opened.key);
        // Another worker's; or one had the key before this one, and may still be sending.
        if !rights.owns(slot) || (!rights.is_alone() && unanswered().is_some()) {
            return Ok(());
        }
        let Some(bucket) = self.bucket_by_id(bucket).await? else {
            self.shared().opened.forget_bucket(bucket);
            return Ok(());
        };
        let (key, id) = (&opened.key, opened.id);
        let Some(claim) = self.shared().opened.claim(bucket.id, key, id) else {
            return Ok(());
        };
        let waiting = self.shared().persist.pending(bucket.id, key);
        match claim.opened.version {
            // The next attempt goes on with it.
            Some(version) if waiting.is_some_and(|w| w.version == version) => return Ok(()),
            Some(_) => {}
            None => {
                let row = self.metadata().upload(bucket.id, key, id).await?;
                let named = match &claim.opened.ufs_upload {
                    Some(name) => self.row_names(&bucket, key).await?.contains(name),
                    None => false,
                };
                if named || row.is_some() {
                    // A row names it: its own, or that of an upload handed over.
                    self.forget_opened(&bucket, claim).await;
                    return Ok(());
                }
            }
        }
        if claim.opened.version.is_some() && claim.opened.ufs_upload.is_some() {
            return self.end_opened(&bucket, claim, sweep).await;
        }
        let longest = sweep.orphan_timeout.max(self.ufs().late_max(&bucket));
        let longest_ms = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
        let since_ms = self.environment().wall_ms().saturating_sub(longest_ms);
        if claim.opened.asked_ms > since_ms {
            return Ok(());
        }
        match claim.opened.ufs_upload.is_some() {
            true => self.end_opened(&bucket, claim, sweep).await,
            false => self.search_opened(&bucket, claim, since_ms, sweep).await,
        }
    }

    async fn end_opened(
        &self,
        bucket: &Bucket,
        claim: Claim,
        sweep: &mut Sweep,
    ) -> Result<(), FlowError> {
        self.abort_opened(bucket, claim).await?;
        sweep.swept.ufs_uploads += 1;
        Ok(())
    }

    /// Looks for an upload whose name we were never told. Ours is one of that very
    /// key, begun when we asked, without any part (who knows no name sends none),
    /// and named by no row. Are there more such than we asked for, then somebody
    /// else's is among them, and all are left alone.
    async fn search_opened(
        &self,
        bucket: &Bucket,
        claim: Claim,
        since_ms: i64,
        sweep: &mut Sweep,
    ) -> Result<(), FlowError> {
        let key = &claim.opened.key;
        let seen = match self.ufs().open_uploads(bucket, key).await {
            Ok(seen) => seen,
            // A store that cannot list them keeps them.
            Err(error) if error.kind == UfsErrorKind::Unsupported => {
                sweep.swept.unclear += 1;
                self.forget_opened(bucket, claim).await;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // After the look at the UFS: what it showed has its name by now, or is being
        // told it.
        let opened = &self.shared().opened;
        let Some(asked) = opened.asked_before(bucket.id, key, claim.opened.id, since_ms) else {
            return Ok(());
        };
        let named = self.names_of_key(bucket, key).await?;
        let mut ours = Vec::new();
        for candidate in begun_by_us(&claim.opened, &seen, self.ufs().late_max(bucket)) {
            if named.iter().any(|name| self.ufs().names(name, candidate)) {
                continue;
            }
            let upload = upload_of(&OpenedUpload {
                ufs_upload: Some(candidate.name.clone()),
                ..claim.opened.clone()
            });
            match self.ufs().uploaded_parts(bucket, &upload).await {
                Ok(parts) if parts.is_empty() => ours.push(upload),
                Ok(_) => {}
                Err(error) if error.kind == UfsErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if ours.len() > asked {
            sweep.swept.unclear += ours.len() as u64;
            ours.clear();
        }
        for upload in &ours {
            self.ufs().abort_upload(bucket, upload).await?;
            sweep.swept.ufs_uploads += 1;
        }
        self.forget_opened(bucket, claim).await;
        Ok(())
    }

    /// Every name by which a row of ours knows an upload of a key in the UFS. Notes
    /// first: their names move to rows, not back.
    async fn names_of_key(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Vec<String>, FlowError> {
        let notes = self.shared().opened.of_key(bucket.id, key).into_iter();
        let mut named: Vec<String> = notes.filter_map(|note| note.ufs_upload).collect();
        named.extend(self.row_names(bucket, key).await?);
        Ok(named)
    }

    /// Every name by which the row of an upload of a key knows it.
    async fn row_names(&self, bucket: &Bucket, key: &ObjectKey) -> Result<Vec<String>, FlowError> {
        let mut named = Vec::new();
        let mut after: Option<UploadId> = None;
        loop {
            // Those of the key itself come before those of keys that begin with it.
            let from = after.map(|id| (key.as_str(), Some(id)));
            let page = self.uploads(bucket, key.as_str(), from, ROWS).await?;
            let more = page.len() == ROWS;
            let of_key = page.into_iter().filter(|upload| upload.key == *key);
            let before = named.len();
            for upload in of_key {
                after = Some(upload.id);
                named.push(upload.ufs_upload);
            }
            if !more || named.len() < before + ROWS {
                return Ok(named);
            }
        }
    }
}
