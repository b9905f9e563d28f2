//! Telling the UFS: every pending change, one per key at a time, until it has
//! acked. What failed is tried again for ever; nothing is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{join, select};
use quickwater_proto::{
    BlobId, Bucket, BucketId, ObjectKey, ObjectRecord, PendingChange, PersistState, PolicyMode,
    UfsErrorKind, UfsObject, Version, slot_of,
};

use crate::decisions::persist_queue::{Gone, Outcome, Place, QueueScope, Work};
use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::send_whole::Unsent;
use crate::io::{DirtyAmount, Disk, Environment, Metadata, Ufs};

/// Longest sleep of a persister with nothing due.
const IDLE: Duration = Duration::from_secs(1);

/// Pause before bytes that the UFS has may be evicted: one flush for all of them.
const RELEASE_PAUSE: Duration = Duration::from_millis(200);

impl<W: World> Engine<W> {
    /// Sends pending changes as they come due until `stop` says so; changes being
    /// sent then go on. So are parts of uploads that were handed over.
    pub async fn run_persister(&self, stop: impl Fn() -> bool) {
        join(
            self.send_changes(&stop),
            self.send_held_parts_for_ever(&stop),
        )
        .await;
    }

    async fn send_changes(&self, stop: impl Fn() -> bool) {
        let queue = &self.shared().persist;
        while !stop() {
            let changed = queue.listen();
            while let Some(work) = queue.take(self.environment().monotonic()) {
                let engine = self.clone();
                self.environment()
                    .spawn(async move { engine.send_change(work).await });
            }
            let now = self.environment().monotonic();
            let wait = queue.next_due().map_or(IDLE, |at| at.saturating_sub(now));
            // Due, but not to be taken: what runs now wakes us when it ends.
            let wait = if wait.is_zero() { IDLE } else { wait.min(IDLE) };
            let timer = std::pin::pin!(self.environment().sleep(wait));
            select(changed, timer).await;
        }
    }

    /// Waits until the UFS has the version `version` of a key, or a newer one.
    ///
    /// # Errors
    /// [`FlowError::NotPersisted`]: not within `longest`;
    /// [`FlowError::NeverPersisted`]: it was replaced or deleted before it was there.
    pub async fn wait_persisted(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
        longest: Duration,
    ) -> Result<(), FlowError> {
        let deadline = self.environment().monotonic().saturating_add(longest);
        let queue = &self.shared().persist;
        queue.hurry(bucket, key, self.environment().monotonic());
        loop {
            let changed = queue.listen();
            // What replaced it is waited for: until that is there, the UFS may have
            // neither. That nothing waits says nothing: it may have been taken back.
            let waits = queue.pending(bucket, key).is_some_and(|pending| {
                pending.version >= version
                    && !matches!(pending.change, PendingChange::Settling { .. })
            });
            if !waits && self.is_persisted(bucket, key, version).await? {
                return Ok(());
            }
            let left = deadline.saturating_sub(self.environment().monotonic());
            if left.is_zero() {
                return Err(FlowError::NotPersisted);
            }
            let timer = std::pin::pin!(self.environment().sleep(left));
            select(changed, timer).await;
        }
    }

    /// Whether the UFS has acked a version or a newer one, by what the metadata say.
    /// A version between its commit and the queue is not there yet.
    async fn is_persisted(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Version,
    ) -> Result<bool, FlowError> {
        let found = self.metadata().object(bucket, key).await;
        // The write is made: nothing here says that it is not.
        let found = found.map_err(|error| FlowError::Unknown(error.to_string()))?;
        let newest = found.filter(|record| record.version >= version);
        match newest.map(|record| record.persist) {
            Some(PersistState::Persisted) => Ok(true),
            Some(PersistState::NotPersisted | PersistState::Persisting) => Ok(false),
            Some(PersistState::Transient) | None => Err(FlowError::NeverPersisted),
        }
    }

    /// Where the bytes of a version are safe, as of now.
    #[must_use]
    pub fn persist_state(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
    ) -> PersistState {
        if record.persist != PersistState::NotPersisted {
            return record.persist;
        }
        match self.shared().persist.is_running(bucket, key) {
            true => PersistState::Persisting,
            false => PersistState::NotPersisted,
        }
    }

    async fn send_change(&self, work: Work) {
        let version = work.pending.version;
        let outcome = self.try_change(&work).await;
        let stats = &self.shared().stats;
        let missed = matches!(outcome, Outcome::Failed { .. } | Outcome::Missing { .. });
        if missed {
            stats.persist_failures.fetch_add(1, Ordering::Relaxed);
        }
        let now = self.environment().monotonic();
        let persist = &self.shared().persist;
        let (bucket, key) = &work.place;
        // What another worker owns could fail here for ever, and count as not sent.
        let foreign = || self.shared().rights.is_foreign(slot_of(*bucket, key));
        match outcome {
            outcome if missed && foreign() => persist.leave(&work, outcome, now),
            outcome => persist.finish(&work.place, version, outcome, now),
        }
    }

    async fn try_change(&self, work: &Work) -> Outcome {
        let bucket = match self.bucket_by_id(work.place.0).await {
            Ok(Some(bucket)) => bucket,
            // The rows of a bucket go with it.
            Ok(None) => return Outcome::Ended,
            Err(error) => return failed(error.to_string()),
        };
        // Whoever owns the key by now may be sending another change of it.
        if let Err(error) = self.permit(bucket.id, work.place.1.as_str()) {
            return failed(error.to_string());
        }
        let wanted = match work.pending.change {
            PendingChange::Put { .. } => Some(work.pending.version),
            _ => None,
        };
        self.end_stale(&bucket, &work.place.1, wanted).await;
        match work.pending.change {
            PendingChange::Put { .. } => self.try_put(&bucket, work).await,
            PendingChange::Delete => self.try_delete(&bucket, work).await,
            PendingChange::Settling { .. } | PendingChange::Hold { .. } => {
                self.conclude(&bucket, work, None).await
            }
        }
    }

    async fn try_put(&self, bucket: &Arc<Bucket>, work: &Work) -> Outcome {
        let key = &work.place.1;
        let record = match self.metadata().object(bucket.id, key).await {
            Ok(Some(record))
                if record.version == work.pending.version
                    && record.persist != PersistState::Persisted =>
            {
                record
            }
            Ok(_) => return self.reconsider(bucket, work).await,
            Err(error) => return failed(error.to_string()),
        };
        if !self.goes_in_parts(bucket, &record) {
            return match self.send_whole(bucket, key, &record).await {
                Ok(object) => self.conclude(bucket, work, Some((record, object))).await,
                Err(error) => self.unsent(bucket, work, error).await,
            };
        }
        match self.send_in_parts(bucket, key, &record).await {
            Ok((object, claim)) => {
                let outcome = self.conclude(bucket, work, Some((record, object))).await;
                // Else the next attempt learns from it that the UFS has the object.
                if matches!(outcome, Outcome::Ended | Outcome::Settling { .. }) {
                    self.forget_opened(bucket, claim).await;
                }
                outcome
            }
            Err(error) => self.unsent(bucket, work, error).await,
        }
    }

    async fn try_delete(&self, bucket: &Arc<Bucket>, work: &Work) -> Outcome {
        let key = &work.place.1;
        // Told again after its row is gone it would be waited for by nobody after a
        // crash, and could take what is put under the key then.
        match self.metadata().pending(bucket.id, key).await {
            Ok(Some(row))
                if row.version == work.pending.version && row.change == PendingChange::Delete => {}
            Ok(_) => return self.reconsider(bucket, work).await,
            Err(error) => return failed(error.to_string()),
        }
        if self.never_there(bucket, key).await {
            return self.conclude(bucket, work, None).await;
        }
        match self.ufs().delete(bucket, key).await {
            Ok(()) => {
                // Listings ask for it once nothing is pending any more.
                self.note_deleted(bucket.id, key);
                self.conclude(bucket, work, None).await
            }
            // A key the UFS cannot hold is not there.
            Err(error) if error.kind == UfsErrorKind::Unsupported => {
                self.conclude(bucket, work, None).await
            }
            Err(error) => self.unsent(bucket, work, error.into()).await,
        }
    }

    /// Whether the UFS has nothing that a delete could remove. What is deleted below a
    /// TRANSIENT path it has seldom ever had: it is asked first, so that paths which
    /// are never written there are not deleted from there either. No request for the
    /// key can be on its way: deletes wait for those.
    async fn never_there(&self, bucket: &Bucket, key: &ObjectKey) -> bool {
        if self.policy(bucket, key).mode != PolicyMode::Transient {
            return false;
        }
        let seen = self.ufs().head(bucket, key).await;
        // Who cannot tell may have it.
        seen.is_err_and(|error| error.kind == UfsErrorKind::NotFound)
    }

    /// The metadata does not have what the queue wants to be sent: a newer change is
    /// about to be queued, or this one was ended by a commit whose answer was lost.
    /// Which of them can be told under the key's slot.
    async fn reconsider(&self, bucket: &Arc<Bucket>, work: &Work) -> Outcome {
        match self.release_ended(bucket, work).await {
            Ok(true) => self.conclude(bucket, work, None).await,
            Ok(false) => Outcome::Ended,
            Err(error) => failed(error.to_string()),
        }
    }

    /// Whether a change is the last one of its key and ended, but for what may still
    /// settle; its bytes may be evicted then. If not, a newer one is queued.
    async fn release_ended(&self, bucket: &Bucket, work: &Work) -> Result<bool, FlowError> {
        let (key, version) = (&work.place.1, work.pending.version);
        let _guard = self.lock_key(bucket.id, key).await?;
        let queued = self.shared().persist.pending(bucket.id, key);
        if queued.is_none_or(|queued| queued.version != version) {
            return Ok(false);
        }
        let row = self.metadata().pending(bucket.id, key).await?;
        let untold = |change| !matches!(change, PendingChange::Settling { .. });
        if row.is_some_and(|row| untold(row.change)) {
            // Tried again, and shown to administrators.
            let text = "the metadata has another change of this key than the queue";
            return Err(FlowError::Unavailable(text.into()));
        }
        if let Some(record) = self.metadata().object(bucket.id, key).await?
            && record.persist == PersistState::Persisted
        {
            self.release_later(&work.place, Some(&record));
        }
        self.distrust(bucket.id, key);
        Ok(true)
    }

    async fn unsent(&self, bucket: &Bucket, work: &Work, error: Unsent) -> Outcome {
        let now = self.environment().monotonic();
        match error {
            Unsent::Ufs(error) => Outcome::Failed {
                late: (error.kind == UfsErrorKind::Timeout)
                    .then(|| now.saturating_add(self.ufs().late_max(bucket))),
                error: error.to_string(),
            },
            Unsent::Here(error) => failed(error),
            Unsent::Lost(blob, error) | Unsent::Elsewhere(blob, error) => {
                let queue = &self.shared().persist;
                let pending = queue.pending(bucket.id, &work.place.1);
                if pending.is_none_or(|p| p.version != work.pending.version) {
                    // Replaced meanwhile, and its bytes freed: nobody wants it.
                    return Outcome::Ended;
                }
                let gone = self.judge_gone(bucket, &work.place.1, blob).await;
                if gone == Some(Gone::Lost) {
                    let stats = &self.shared().stats;
                    stats.persist_lost.fetch_add(1, Ordering::Relaxed);
                }
                match gone {
                    Some(gone) => Outcome::Missing {
                        error: format!("{}: {error}", gone.text()),
                        gone,
                    },
                    None => failed(error),
                }
            }
        }
    }

    /// Why bytes that are not here come from nobody now, judged as for a GET; `None`: they
    /// may come, or it is not known.
    async fn judge_gone(&self, bucket: &Bucket, key: &ObjectKey, blob: BlobId) -> Option<Gone> {
        if self.shared().rights.is_alone() {
            return Some(Gone::Lost);
        }
        let holders = &self.shared().holders;
        let without = holders.without(blob);
        match self.metadata().lost(bucket.id, key, &without).await {
            Ok(true) => Some(Gone::Lost),
            Ok(false) => holders.are_away(blob).then_some(Gone::Away),
            Err(_) => None,
        }
    }

    /// The UFS has acked a change: the metadata and our memory are told, under the
    /// key's slot, so that no listing of before is believed.
    async fn conclude(
        &self,
        bucket: &Bucket,
        work: &Work,
        put: Option<(ObjectRecord, UfsObject)>,
    ) -> Outcome {
        let (key, version) = (&work.place.1, work.pending.version);
        let guard = match self.lock_key(bucket.id, key).await {
            Ok(guard) => guard,
            Err(error) => return failed(error.to_string()),
        };
        guard.mark_changed();
        let now = self.environment().monotonic();
        let settling = work.unanswered.filter(|until| {
            *until > now && !matches!(work.pending.change, PendingChange::Settling { .. })
        });
        let settling = settling.map(|until| (until, self.wall_at(until, now)));
        let identity = put.as_ref().map(|(_, object)| &object.identity);
        let until_ms = settling.map(|(_, ms)| ms);
        let ended = self
            .changes(bucket.id, key)
            .end_pending(bucket.id, key, version, identity, until_ms)
            .await;
        match ended {
            Ok(true) => {}
            // A newer change waits.
            Ok(false) => return Outcome::Ended,
            Err(error) => {
                // It may be ended: memory must not say that it is not persisted.
                self.distrust(bucket.id, key);
                return failed(error.to_string());
            }
        }
        // Now, under the slot: a later change of the key has a note in its place.
        self.drop_note(bucket.id, key);
        let stats = &self.shared().stats;
        // What only settled was counted when the UFS acked it.
        if !matches!(work.pending.change, PendingChange::Settling { .. }) {
            stats.persisted.fetch_add(1, Ordering::Relaxed);
            let waited_ms = self.environment().wall_ms() - work.pending.since_ms;
            stats.persist_lag.count(waited_ms);
        }
        match put {
            Some((mut record, object)) => {
                stats
                    .persisted_bytes
                    .fetch_add(record.size, Ordering::Relaxed);
                record.persist = PersistState::Persisted;
                record.ufs = Some(object.identity);
                self.release_later(&work.place, Some(&record));
                self.remember(bucket.id, key, Some(Arc::new(record)), &guard);
            }
            None => {
                self.release_later(&work.place, None);
                self.distrust(bucket.id, key);
            }
        }
        match settling {
            Some((until, until_ms)) => Outcome::Settling { until, until_ms },
            None => Outcome::Ended,
        }
    }

    /// Notes that a change has ended, and lets the bytes of a persisted object be
    /// evicted, once the metadata has that on disk.
    fn release_later(&self, place: &Place, record: Option<&ObjectRecord>) {
        let extents = record.into_iter().flat_map(|record| &record.extents);
        let chunks = extents.map(|extent| (extent.blob, chunks_of(extent.size)));
        let frees = record.map_or(DirtyAmount::default(), |record| {
            DirtyAmount::freed_by(1, record.size)
        });
        if self.shared().releases.add(place.clone(), chunks, frees) {
            let engine = self.clone();
            self.environment()
                .spawn(async move { engine.release_flushed().await });
        }
    }

    /// Flushes for all that was persisted in a while, not for each object.
    async fn release_flushed(&self) {
        let releases = &self.shared().releases;
        loop {
            self.environment().sleep(RELEASE_PAUSE).await;
            let ended = releases.begin_flush();
            // A store that fails to flush commits nothing more: nothing piles up.
            if self.metadata().flush().await.is_err() {
                releases.put_back(ended);
                continue;
            }
            for (blob, chunks) in ended {
                self.disk().release(blob, chunks);
                self.shared().holders.end(blob);
            }
            if releases.end_flush() {
                return;
            }
        }
    }

    /// Returns when no crash can bring back a change of a key that has ended: it
    /// would find the key, in the UFS or in the store, as it did not leave it. Under
    /// the key's slot.
    pub(crate) async fn flush_ended(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<(), FlowError> {
        match self.shared().releases.holds(&(bucket.id, key.clone())) {
            true => Ok(self.metadata().flush().await?),
            false => Ok(()),
        }
    }

    /// Lets the bytes of a version be evicted that the UFS has, as is known on disk.
    pub(crate) fn release_bytes(&self, record: &ObjectRecord) {
        for extent in &record.extents {
            self.disk().release(extent.blob, chunks_of(extent.size));
            self.shared().holders.end(extent.blob);
        }
    }

    /// Whether an object is sent as an upload of parts: it came so, it is too large
    /// for one request, or too large to be sent again from its beginning.
    fn goes_in_parts(&self, bucket: &Bucket, record: &ObjectRecord) -> bool {
        let most = match self.ufs().resumes(bucket) {
            true => self.config().persist.part_bytes,
            false => u64::MAX,
        };
        !record.parts.is_empty() || record.size > most.min(self.ufs().put_bytes_max(bucket))
    }

    fn wall_at(&self, until: Duration, now: Duration) -> i64 {
        let left = i64::try_from(until.saturating_sub(now).as_millis()).unwrap_or(i64::MAX);
        self.environment().wall_ms().saturating_add(left)
    }

    /// Waits until the UFS has every change of a bucket that was made here.
    ///
    /// # Errors
    /// [`FlowError::SlowDown`]: it takes too long.
    pub async fn settle_bucket(&self, bucket: &Bucket) -> Result<(), FlowError> {
        let queue = &self.shared().persist;
        let begun = self.environment().monotonic();
        let deadline = begun + self.config().wait_max;
        queue.retry_all(&QueueScope::bucket(bucket.id), begun);
        loop {
            let changed = queue.listen();
            if !queue.any_of(bucket.id) {
                return Ok(());
            }
            if self.environment().monotonic() >= deadline {
                return Err(FlowError::SlowDown(
                    "changes of this bucket are still on their way to the UFS".into(),
                ));
            }
            self.within(changed).await;
        }
    }
}

fn failed(error: String) -> Outcome {
    Outcome::Failed { error, late: None }
}
