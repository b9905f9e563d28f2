//! Room for writes that find none: of the open uploads whose parts only this store has,
//! the largest that nobody goes on with is handed over to the UFS, or the next if that
//! UFS does not take it. Absent: what follows (`hand_over`, `send_held`), when it is to
//! be done (`decisions/held_queue`), whose turn it is (`decisions/relief`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quickwater_proto::{Bucket, BucketId, PersistState, PolicyMode, UploadRecord};

use crate::decisions::held_queue::Relieved;
use crate::decisions::relief::{After, Best, Candidate};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Environment, Metadata};

/// An upload to which nothing happened for so long is idle: who sends parts without a
/// pause is about to complete it.
const IDLE: Duration = Duration::from_secs(5);
/// Uploads read at a time.
const ROWS: usize = 1_000;
/// Uploads looked at; the next look goes on where this one ended.
const LOOKS_MAX: usize = 10_000;
/// Uploads whose parts are read at the same time: each read is a round trip to the metadata.
const LOOKS_AT_ONCE: usize = 32;
/// Uploads tried after one look, of a bucket each.
const TRIES_MAX: usize = 8;
/// What took longer to fail than this ends the turn: others had theirs meanwhile, and
/// there may be room by now.
const TRIES_TIME_MAX: Duration = Duration::from_secs(1);

/// The best upload of each bucket so far, and how many were looked at.
#[derive(Default)]
struct Look {
    best: BTreeMap<BucketId, (Arc<Bucket>, Best)>,
    looked: usize,
}

impl Look {
    fn found_any(&self) -> bool {
        self.best.values().any(|(_, best)| best.has_any())
    }
}

impl<W: World> Engine<W> {
    /// Hands over the largest idle upload that its UFS takes, if there is one.
    pub(crate) async fn relieve(&self) {
        let relieved = match self.hand_over_largest().await {
            Ok(relieved) => relieved,
            Err(_) => {
                self.count_held_failure();
                Relieved::Nothing
            }
        };
        let now = self.environment().monotonic();
        self.shared().held.end_relief(relieved, now);
    }

    fn count_held_failure(&self) {
        let failures = &self.shared().stats.held_failures;
        failures.fetch_add(1, Ordering::Relaxed);
    }

    async fn hand_over_largest(&self) -> Result<Relieved, FlowError> {
        let (look, more) = self.look_for_idle().await?;
        let chosen = look.best.into_values();
        let mut candidates: Vec<_> = chosen
            .filter_map(|(bucket, best)| Some((bucket, best.chosen()?)))
            .collect();
        candidates.sort_by_key(|(_, candidate)| candidate.rank());
        let began = self.environment().monotonic();
        for (bucket, candidate) in candidates.into_iter().take(TRIES_MAX) {
            if self.try_candidate(&bucket, candidate).await {
                return Ok(Relieved::Made);
            }
            if self.environment().monotonic().saturating_sub(began) > TRIES_TIME_MAX {
                break;
            }
        }
        Ok(match more {
            true => Relieved::NothingYet,
            false => Relieved::Nothing,
        })
    }

    /// Hands one upload over; whether that was done.
    async fn try_candidate(&self, bucket: &Arc<Bucket>, candidate: Candidate) -> bool {
        let (relief, environment) = (&self.shared().relief, self.environment());
        if !relief.take(bucket.id, environment.monotonic()) {
            return false;
        }
        let upload = self.upload(bucket, &candidate.key, candidate.upload.1);
        let handed_over = match upload.await {
            Ok(upload) => self.hand_over(bucket, &upload).await,
            Err(error) => Err(error),
        };
        match handed_over {
            Ok(_) => {
                relief.succeeded(bucket.id);
                true
            }
            Err(FlowError::NoSuchUpload) => {
                relief.vanished(bucket.id);
                false
            }
            Err(_) => {
                self.count_held_failure();
                relief.failed(bucket.id, candidate.upload, environment.monotonic());
                false
            }
        }
    }

    /// Looks through the uploads of all buckets that may have a turn; whether some are
    /// left for the next look.
    async fn look_for_idle(&self) -> Result<(Look, bool), FlowError> {
        let (relief, now) = (&self.shared().relief, self.environment().monotonic());
        let buckets = self.metadata().buckets().await?.into_iter();
        let buckets: BTreeMap<_, _> = buckets.map(|b| (b.id, Arc::new(b))).collect();
        let mut look = Look::default();
        for (id, after) in relief.round(buckets.keys().copied().collect()) {
            let Some((bucket, best)) = buckets.get(&id).zip(relief.due(id, now)) else {
                // Its pause does not end the round through its uploads.
                if after.is_some() {
                    relief.go_on_at(id, after);
                }
                continue;
            };
            let kept = (Arc::clone(bucket), best);
            look.best.entry(id).or_insert(kept);
            let mut after = after;
            let looked = self.look_at(bucket, &mut after, &mut look).await;
            if !matches!(looked, Ok(true)) {
                relief.go_on_at(id, after);
            }
            match looked {
                Ok(true) => {}
                Ok(false) => return Ok((look, true)),
                // What was found by then is tried; the next look goes on here.
                Err(_) if look.found_any() => {
                    self.count_held_failure();
                    return Ok((look, true));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((look, false))
    }

    /// Looks at the uploads of a bucket that come `after`, which moves on with every page that
    /// was seen; whether they were all.
    async fn look_at(
        &self,
        bucket: &Arc<Bucket>,
        after: &mut After,
        look: &mut Look,
    ) -> Result<bool, FlowError> {
        while look.looked < LOOKS_MAX {
            let from = after.as_ref().map(|(key, id)| (key.as_str(), Some(*id)));
            let rows = ROWS.min(LOOKS_MAX - look.looked);
            let page = self.uploads(bucket, "", from, rows).await?;
            let whole = page.len() < rows;
            // To find none is work, too.
            look.looked += page.len().max(1);
            let seen = page
                .iter()
                .map(async |upload| (upload, self.idle_bytes(bucket, upload).await));
            let mut seen = stream::iter(seen).buffered(LOOKS_AT_ONCE);
            while let Some((upload, bytes)) = seen.next().await {
                let bytes = bytes?;
                let best = look.best.get_mut(&bucket.id).filter(|_| bytes > 0);
                if let Some((_, best)) = best {
                    best.see((bytes, upload.id), &upload.key);
                }
            }
            drop(seen);
            if let Some(last) = page.last() {
                *after = Some((last.key.clone(), last.id));
            }
            if whole {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes that handing an upload over frees; none if it may not be, or is in use.
    async fn idle_bytes(&self, bucket: &Bucket, upload: &UploadRecord) -> Result<u64, FlowError> {
        let before = i64::try_from(IDLE.as_millis()).unwrap_or(i64::MAX);
        let before = self.environment().wall_ms().saturating_sub(before);
        if upload.held() != Some(PersistState::NotPersisted)
            || upload.initiated_ms > before
            || self.shared().in_use.any_of(upload.id)
            || self.policy(bucket, &upload.key).mode == PolicyMode::ReadOnly
        {
            return Ok(0);
        }
        let parts = self.other_parts(bucket, upload, 0).await?;
        match parts.iter().any(|part| part.modified_ms > before) {
            true => Ok(0),
            false => Ok(parts.iter().map(|part| part.size).sum()),
        }
    }
}
