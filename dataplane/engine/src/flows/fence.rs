//! Requests of write-through that got no answer: the UFS may still apply them, so
//! the key's next change waits until they are certainly dead. Absent: changes that
//! are told later (`persist`).
//!
//! A request to a UFS that outlives us is noted before it is sent, without a flush;
//! the commit that follows its answer takes the note away. A request without an
//! answer stays noted and queued until the UFS can no longer apply it. Meanwhile
//! the same change may be sent again, and the UFS may show that it was applied;
//! every other change is told to slow down.
//!
//! A pending change whose bytes nobody has is not waited for: once nothing of it can be
//! under way, a change that goes through takes its place, and its commit ends it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use futures_util::future::select;
use quickwater_proto::{
    Bucket, ETag, ObjectHeaders, ObjectKey, PendingChange, PersistState, UfsError, UfsErrorKind,
    UploadId, Version,
};

use crate::decisions::persist_queue::{Replacing, SentChange, Stands, Unanswered};
use crate::decisions::slots::SlotGuard;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{BodyDigests, Environment, Metadata, Ufs};

/// Attempts at noting that a request got no answer before its key is given up on.
const NOTE_ATTEMPTS_MAX: usize = 3;

/// What a request is to do to its key.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    Put(&'a ObjectHeaders, &'a BodyDigests),
    Complete(UploadId, &'a ETag),
    Delete,
}

impl Change<'_> {
    /// The same for changes that do the same.
    fn same(&self) -> u64 {
        let text = match self {
            Self::Put(headers, digests) => format!("put {headers:?} {digests:?}"),
            Self::Complete(upload, etag) => format!("complete {upload:?} {etag:?}"),
            Self::Delete => "delete".to_owned(),
        };
        BuildHasherDefault::<DefaultHasher>::default().hash_one(text)
    }

    /// What the UFS shows after it.
    fn shows(&self) -> Option<ETag> {
        match self {
            Self::Put(_, digests) => Some(ETag::from_md5(&digests.md5)),
            Self::Complete(_, etag) => Some((*etag).clone()),
            Self::Delete => None,
        }
    }
}

/// A request that may be sent now.
pub(crate) struct Noted<'a> {
    /// The row that notes it, where the UFS outlives us.
    row: Option<Version>,
    /// One that does the same got no answer before.
    again: bool,
    /// What it takes the place of is not sent meanwhile. The row stays that one's, and says
    /// that something else was sent.
    replaces: Option<Replacing<'a>>,
}

impl Noted<'_> {
    /// The commit that follows the request is made.
    pub(crate) fn committed(self) {
        if let Some(replaces) = self.replaces {
            replaces.done();
        }
    }
}

impl<W: World> Engine<W> {
    /// Waits until the UFS has every change of a key, then takes its slot: what is
    /// written to the UFS now cannot be overtaken by an older change, not even by one
    /// that a crash brings back.
    ///
    /// # Errors
    /// [`FlowError::SlowDown`]: not in time; [`FlowError::Fenced`]: not for long. The
    /// metadata is unavailable.
    pub(crate) async fn lock_settled(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        change: Change<'_>,
    ) -> Result<SlotGuard<'_>, FlowError> {
        let guard = self.lock_unfenced(bucket, key, change).await?;
        self.flush_ended(bucket, key).await?;
        Ok(guard)
    }

    async fn lock_unfenced(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        change: Change<'_>,
    ) -> Result<SlotGuard<'_>, FlowError> {
        let queue = &self.shared().persist;
        let begun = self.environment().monotonic();
        let deadline = begun + self.config().wait_max;
        // Once: a change that fails is due again when its backoff says so.
        queue.hurry(bucket.id, key, begun);
        let mut looked = false;
        loop {
            let changed = queue.listen();
            let guard = self.lock_key(bucket.id, key).await?;
            if queue.pending(bucket.id, key).is_none() {
                return Ok(guard);
            }
            if let Some(request) = queue.unanswered(bucket.id, key) {
                let sent = request.sent.as_ref();
                if sent.is_some_and(|sent| sent.same == change.same()) {
                    return Ok(guard);
                }
                if !std::mem::replace(&mut looked, true)
                    && self.was_applied(bucket, key, &request, &guard).await
                {
                    return Ok(guard);
                }
                if request.until > deadline {
                    let now = self.environment().monotonic();
                    return Err(unanswered(request.until.saturating_sub(now)));
                }
            }
            let now = self.environment().monotonic();
            let until = match queue.stands(bucket.id, key, now) {
                Stands::Replaceable => return Ok(guard),
                Stands::Fenced(until) if until > deadline => {
                    return Err(unanswered(until.saturating_sub(now)));
                }
                // Nobody says that it is over.
                Stands::Fenced(until) => until,
                Stands::Waits => deadline,
            };
            drop(guard);
            if now >= deadline {
                return Err(FlowError::SlowDown(
                    "an earlier change of this key is still on its way to the UFS".into(),
                ));
            }
            let timer = std::pin::pin!(self.environment().sleep(until.saturating_sub(now)));
            select(changed, timer).await;
        }
    }

    /// Whether the UFS shows that a request without an answer was applied: it is
    /// dead then, for a store applies a request once.
    async fn was_applied(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        request: &Unanswered,
        guard: &SlotGuard<'_>,
    ) -> bool {
        let Some(shows) = request.sent.as_ref().and_then(|sent| sent.shows.as_ref()) else {
            return false;
        };
        let shown = match self.ufs().head(bucket, key).await {
            Ok(object) => Some(object.etag),
            Err(error) if error.kind == UfsErrorKind::NotFound => None,
            // Not known: wait.
            Err(_) => return false,
        };
        if shown != *shows {
            return false;
        }
        guard.mark_changed();
        self.distrust(bucket.id, key);
        let ended = self
            .changes(bucket.id, key)
            .end_pending(bucket.id, key, request.version, None, None)
            .await;
        if ended.is_err() {
            return false;
        }
        let place = (bucket.id, key.clone());
        self.shared().persist.settled(&place, request.version);
        true
    }

    /// Notes that a request is about to be sent.
    ///
    /// # Errors
    /// It must not be sent; nothing changed.
    pub(crate) async fn note_request(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        _guard: &SlotGuard<'_>,
    ) -> Result<Noted<'_>, FlowError> {
        let queue = &self.shared().persist;
        if !queue.has_room() {
            let text = "too many changes are not settled yet";
            return Err(FlowError::SlowDown(text.into()));
        }
        let again = queue.unanswered(bucket.id, key).is_some();
        let now = self.environment().monotonic();
        let replaces = queue.replace(bucket.id, key, now).map_err(|_| {
            let text = "an earlier change of this key is on its way to the UFS again";
            FlowError::SlowDown(text.into())
        })?;
        let late_max = self.ufs().late_max(bucket);
        if late_max.is_zero() || !self.ufs().outlives_us(bucket) {
            return Ok(Noted {
                row: None,
                again,
                replaces,
            });
        }
        let until_ms = match (again, PendingChange::UNDER_WAY) {
            // The commit after its answer must not take the note of the first away.
            (true, _) => self.wall_after(late_max.saturating_mul(2)),
            (false, PendingChange::Settling { until_ms }) => until_ms,
            (false, _) => i64::MAX,
        };
        let noted = self
            .changes(bucket.id, key)
            .note_request(bucket.id, key, until_ms)
            .await
            .map_err(|error| match FlowError::from(error) {
                FlowError::Unknown(text) => FlowError::Unavailable(text),
                other => other,
            })?;
        Ok(Noted {
            row: Some(noted),
            again,
            replaces,
        })
    }

    /// After a request was answered with success: an earlier one that does the same
    /// and got no answer is still waited for.
    pub(crate) fn answered(&self, bucket: &Bucket, key: &ObjectKey, noted: &Noted<'_>) {
        // The content is there now, so that seeing it says nothing.
        self.wait_for_first(bucket, key, (noted.row, noted.again), |sent| SentChange {
            shows: None,
            ..sent
        });
    }

    /// The row of the request that was sent again now notes the first one.
    fn wait_for_first(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        (row, again): (Option<Version>, bool),
        learned: impl Fn(SentChange) -> SentChange,
    ) {
        if !again {
            return;
        }
        if let Some(first) = self.shared().persist.unanswered(bucket.id, key) {
            let request = Unanswered {
                version: row.unwrap_or(first.version),
                until: first.until,
                sent: first.sent.map(learned),
            };
            self.queue_unanswered(bucket, key, request);
        }
    }

    /// After a request failed: when the UFS may still apply it, the key's other
    /// changes wait from now on. Gives the error back.
    pub(crate) async fn failed_request(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        noted: Noted<'_>,
        change: Change<'_>,
        error: UfsError,
        guard: SlotGuard<'_>,
    ) -> UfsError {
        let late_max = self.ufs().late_max(bucket);
        let late = error.kind == UfsErrorKind::Timeout && !late_max.is_zero();
        if let Some(replaces) = noted.replaces {
            // It is pending as before. Its row says since the note that another request was
            // sent, and is nobody's to end or to change.
            self.distrust(bucket.id, key);
            if late {
                replaces.late(self.environment().monotonic().saturating_add(late_max));
            }
            return error;
        }
        if !late {
            self.distrust(bucket.id, key);
            self.wait_for_first(bucket, key, (noted.row, noted.again), |sent| sent);
            if let (Some(row), false) = (noted.row, noted.again) {
                // Best effort: the next commit or start ends what stays.
                let metadata = self.changes(bucket.id, key);
                let ending = metadata.end_pending(bucket.id, key, row, None, None);
                let _ = ending.await;
            }
            return error;
        }
        let now = self.environment().monotonic();
        let shows = match noted.again {
            true => None,
            false => self.shown_only_by(bucket, key, change),
        };
        self.distrust(bucket.id, key);
        let request = Unanswered {
            version: noted.row.unwrap_or_default(),
            until: now.saturating_add(late_max),
            sent: Some(SentChange {
                same: change.same(),
                shows,
            }),
        };
        self.queue_unanswered(bucket, key, request);
        let Some(row) = noted.row else { return error };
        let until_ms = Some(self.wall_after(late_max));
        for _ in 0..NOTE_ATTEMPTS_MAX {
            let metadata = self.changes(bucket.id, key);
            let noting = metadata.end_pending(bucket.id, key, row, None, until_ms);
            if noting.await.is_ok() {
                return error;
            }
        }
        // A commit of what readers find in the UFS could take the note away.
        guard.keep();
        error
    }

    /// What the UFS shows when the change was applied, if it is known not to have
    /// shown it before.
    fn shown_only_by(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        change: Change<'_>,
    ) -> Option<Option<ETag>> {
        let known = self.shared().objects.get(bucket.id, key.as_str())?;
        known.checked?;
        let before = match &known.record {
            Some(record) if record.persist != PersistState::Persisted => return None,
            record => record.as_ref().map(|record| &record.etag),
        };
        let after = change.shows();
        (before != after.as_ref()).then_some(after)
    }

    fn queue_unanswered(&self, bucket: &Bucket, key: &ObjectKey, request: Unanswered) {
        let environment = self.environment();
        let now = (environment.monotonic(), environment.wall_ms());
        let place = (bucket.id, key.clone());
        self.shared().persist.settle(place, request, now);
    }

    fn wall_after(&self, wait: Duration) -> i64 {
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.environment().wall_ms().saturating_add(wait_ms)
    }
}

fn unanswered(left: Duration) -> FlowError {
    FlowError::Fenced(left.as_secs().saturating_add(1))
}
