//! The life of one job: what is there is found and counted, then one page of keys
//! after the other is handled and noted. Absent: what is done to an object.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures_util::stream::{self, StreamExt};
use quickwater_proto::{JobOutcome, LeftAlone, MetadataError, ObjectKey, Version};

use super::job::{Job, JobKind, JobState, Tally};
use super::service::{Inner, Live};
use super::worker::{JobFailure, Retry};
use super::{ATTEMPT_PAUSE, ATTEMPT_PAUSE_MAX, PAGE_BYTES, PAGE_OBJECTS, UNREACHED_MAX};
use crate::namespace::{SCAN_ROWS_MAX, Saved};
use crate::store::Store;

/// A job under way.
pub(super) struct Run<S> {
    jobs: Arc<Inner<S>>,
    live: Live,
    /// Objects in a row that could not be reached.
    unreached: AtomicU32,
    bucket_gone: AtomicBool,
}

/// An object of the job's path.
struct Entry {
    key: ObjectKey,
    size: u64,
    version: Version,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    /// To stop, or given up: nothing more is begun.
    Break,
    /// The job is not ours any more.
    Ended,
}

impl<S: Store> Run<S> {
    pub(super) fn new(jobs: Arc<Inner<S>>, live: Live) -> Self {
        Self {
            jobs,
            live,
            unreached: AtomicU32::new(0),
            bucket_gone: AtomicBool::new(false),
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// How far it is cannot be noted, or its keys not read: it goes on later from
    /// the last note.
    pub(super) async fn run(&self) -> Result<(), MetadataError> {
        let _counted = self.jobs.stats.run(self.live.with(|job| job.kind));
        let now_ms = self.jobs.namespace.now_ms();
        self.live.with(|job| {
            job.state = JobState::Running;
            if job.started_ms == 0 {
                job.started_ms = now_ms;
            }
        });
        let Some(version) = self.save().await? else {
            return Ok(());
        };
        tracing::info!(job = self.id(), kind = self.kind(), "job runs");
        let mut next = Next::GoOn;
        if self.live.with(|job| job.through.is_none()) {
            next = self.find(version).await?;
        }
        if next == Next::GoOn {
            next = self.walk().await?;
        }
        if next != Next::Ended {
            self.end(next).await?;
        }
        Ok(())
    }

    /// Notes how far it is; the version of the note, or nothing if it has ended.
    async fn save(&self) -> Result<Option<Version>, MetadataError> {
        let job = self.live.with(|job| job.clone());
        match self.jobs.namespace.save_job(&job).await? {
            Saved::Kept { stopping, version } => {
                if stopping {
                    self.live.stop.raise();
                }
                Ok(Some(version))
            }
            Saved::Ended => Ok(None),
        }
    }

    /// Learns what is there. `begun`: the version of the job's first note.
    async fn find(&self, begun: Version) -> Result<Next, MetadataError> {
        let (kind, path) = self.live.with(|job| (job.kind, job.path.clone()));
        let mut through = begun;
        if kind != JobKind::Free {
            match self.compare(&path).await {
                None => return Ok(Next::Break),
                Some(Ok(())) => {}
                Some(Err(failure)) => {
                    self.unlisted(&failure);
                    if kind != JobKind::Delete || failure.retry == Retry::BucketGone {
                        return Ok(Next::Break);
                    }
                }
            }
            // After what the comparison found was committed.
            match self.save().await? {
                Some(version) => through = version,
                None => return Ok(Next::Ended),
            }
        }
        let Some(found) = self.count(through).await? else {
            return Ok(Next::Break);
        };
        self.live.with(|job| {
            job.through = Some(through);
            job.found = found;
        });
        let saved = self.save().await?;
        Ok(saved.map_or(Next::Ended, |_| Next::GoOn))
    }

    fn unlisted(&self, failure: &JobFailure) {
        let message = match failure.retry {
            Retry::BucketGone => "the bucket was removed".to_owned(),
            _ => format!("the UFS cannot be listed: {}", failure.message),
        };
        self.live.with(|job| {
            job.unlisted = true;
            job.note("", &message);
        });
    }

    /// `None`: told to stop.
    async fn compare(&self, path: &str) -> Option<Result<(), JobFailure>> {
        let (name, bucket) = self.live.with(|job| (job.bucket_name.clone(), job.bucket));
        let mut attempt = 1;
        loop {
            let compare = self
                .jobs
                .worker
                .compare(&name, bucket, path, &self.live.stop);
            match self.live.stop.unless(compare).await? {
                Err(failure) if attempt < failure.retry.attempts_max() => {
                    self.pause(attempt).await?;
                    attempt += 1;
                }
                compared => return Some(compared),
            }
        }
    }

    /// Waits before the next attempt; `None`: told to stop.
    async fn pause(&self, attempt: u32) -> Option<()> {
        let pause = ATTEMPT_PAUSE
            .saturating_mul(4_u32.saturating_pow(attempt - 1))
            .min(ATTEMPT_PAUSE_MAX);
        self.live.stop.unless(tokio::time::sleep(pause)).await
    }

    /// Objects the job means; `None`: told to stop.
    async fn count(&self, through: Version) -> Result<Option<Tally>, MetadataError> {
        let mut job = self.live.with(|job| job.clone());
        let mut found = Tally::default();
        loop {
            let (entries, more) = self.page(&job, SCAN_ROWS_MAX).await?;
            for entry in &entries {
                if job.kind != JobKind::Delete || entry.version <= through {
                    found.add(entry.size);
                }
            }
            match entries.last() {
                Some(last) if more => last.key.as_str().clone_into(&mut job.position),
                _ => return Ok(Some(found)),
            }
            if self.live.stop.is_raised() {
                return Ok(None);
            }
        }
    }

    /// The next objects after the job's position, and whether more may follow.
    async fn page(&self, job: &Job, limit: usize) -> Result<(Vec<Entry>, bool), MetadataError> {
        let namespace = &self.jobs.namespace;
        let mut rows = Vec::new();
        if let Some(own) = job.own_key()
            && job.position.as_str() < own
        {
            // No key that begins with it is before it.
            let first = namespace.scan(job.bucket, own, own, 1).await?;
            let own = |(key, _): &(ObjectKey, _)| key.as_str() == own;
            rows.extend(first.entries.into_iter().filter(own));
        }
        let from = match job.position.as_str() {
            "" => String::new(),
            position => format!("{position}\0"),
        };
        let prefix = job.prefix();
        let below = namespace.scan(job.bucket, &prefix, &from, limit).await?;
        rows.extend(below.entries);
        let entry = |(key, record): (ObjectKey, quickwater_proto::ObjectRecord)| Entry {
            key,
            size: record.size,
            version: record.version,
        };
        Ok((rows.into_iter().map(entry).collect(), below.more))
    }

    /// Handles all keys, page by page.
    async fn walk(&self) -> Result<Next, MetadataError> {
        loop {
            if self.is_over() {
                return Ok(Next::Break);
            }
            let job = self.live.with(|job| job.clone());
            let (mut entries, mut more) = self.page(&job, PAGE_OBJECTS).await?;
            more |= cut(&mut entries);
            let Some(last) = entries.last().map(|entry| entry.key.clone()) else {
                return Ok(Next::GoOn);
            };
            stream::iter(entries)
                .for_each_concurrent(self.jobs.config.concurrency.max(1), |entry| {
                    self.handle(&job, entry)
                })
                .await;
            if self.is_over() {
                return Ok(Next::Break);
            }
            self.live
                .with(|job| last.as_str().clone_into(&mut job.position));
            if !more {
                return Ok(Next::GoOn);
            }
            if self.save().await?.is_none() {
                return Ok(Next::Ended);
            }
        }
    }

    /// Whether nothing more is to be begun.
    fn is_over(&self) -> bool {
        self.live.stop.is_raised()
            || self.bucket_gone.load(Ordering::Relaxed)
            || self.unreached.load(Ordering::Relaxed) >= UNREACHED_MAX
    }

    async fn handle(&self, job: &Job, entry: Entry) {
        if self.is_over() {
            return;
        }
        let newer = job.through.is_some_and(|through| entry.version > through);
        if newer && job.kind == JobKind::Delete {
            return self.leave(LeftAlone::Newer);
        }
        match self.attempt(job, &entry).await {
            Ok(JobOutcome::Done { bytes }) => self.done(bytes),
            Ok(JobOutcome::Left(why)) => self.leave(why),
            Ok(JobOutcome::Stopped) => return,
            Err(failure) => return self.failed(&entry.key, &failure),
        }
        self.unreached.store(0, Ordering::Relaxed);
    }

    /// Acts on an object, more than once if that may help.
    async fn attempt(&self, job: &Job, entry: &Entry) -> Result<JobOutcome, JobFailure> {
        let (worker, stop, key) = (&self.jobs.worker, &self.live.stop, &entry.key);
        let mut attempt = 1;
        loop {
            let act = worker.act(&job.bucket_name, job.bucket, key, job.action(), stop);
            // Not cut short: what came of it must be known.
            match act.await {
                Err(failure) if attempt < failure.retry.attempts_max() => {
                    if self.pause(attempt).await.is_none() {
                        return Err(failure);
                    }
                    attempt += 1;
                }
                // An attempt before this one did it, whatever it answered.
                Ok(JobOutcome::Left(LeftAlone::Gone))
                    if attempt > 1 && job.kind == JobKind::Delete =>
                {
                    return Ok(JobOutcome::Done { bytes: entry.size });
                }
                outcome => return outcome,
            }
        }
    }

    fn done(&self, bytes: u64) {
        let kind = self.live.with(|job| {
            job.done.add(bytes);
            job.kind.index()
        });
        let stats = &self.jobs.stats;
        stats.done[kind].fetch_add(1, Ordering::Relaxed);
        stats.bytes[kind].fetch_add(bytes, Ordering::Relaxed);
    }

    fn leave(&self, why: LeftAlone) {
        let kind = self.live.with(|job| {
            job.leave(why, 1);
            job.kind.index()
        });
        self.jobs.stats.left[kind].fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self, key: &ObjectKey, failure: &JobFailure) {
        match failure.retry {
            Retry::BucketGone => return self.bucket_gone.store(true, Ordering::Relaxed),
            Retry::Final => self.unreached.store(0, Ordering::Relaxed),
            Retry::Unreached | Retry::Busy => {
                self.unreached.fetch_add(1, Ordering::Relaxed);
            }
        }
        let kind = self.live.with(|job| {
            job.fail(key.as_str(), &failure.message);
            job.kind.index()
        });
        self.jobs.stats.failed[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that it has ended: at its last key, or before.
    async fn end(&self, next: Next) -> Result<(), MetadataError> {
        let now_ms = self.jobs.namespace.now_ms();
        let stopping = self.live.stop.is_raised();
        let bucket_gone = self.bucket_gone.load(Ordering::Relaxed);
        let unreached = self.unreached.load(Ordering::Relaxed);
        self.live.with(|job| {
            if next == Next::GoOn {
                return job.finish(now_ms);
            }
            if bucket_gone {
                job.note("", "the bucket was removed");
            } else if unreached >= UNREACHED_MAX {
                job.give_up(unreached);
            }
            job.stopping = stopping;
            job.end(now_ms);
        });
        self.save().await?;
        let job = self.live.with(|job| job.clone());
        tracing::info!(
            job = job.id,
            kind = job.kind.name(),
            state = job.state.name(),
            done = job.done.objects,
            bytes = job.done.bytes,
            failed = job.failed,
            "job ended"
        );
        Ok(())
    }

    fn id(&self) -> u64 {
        self.live.with(|job| job.id)
    }

    fn kind(&self) -> &'static str {
        self.live.with(|job| job.kind.name())
    }
}

/// Leaves what is not too much for one note; whether something was cut off.
fn cut(entries: &mut Vec<Entry>) -> bool {
    let mut bytes = 0_u64;
    let fits = |entry: &Entry| {
        let begun = bytes < PAGE_BYTES;
        bytes = bytes.saturating_add(entry.size);
        begun
    };
    let keep = entries.iter().map(fits).take_while(|fits| *fits).count();
    let whole = entries.len();
    entries.truncate(keep);
    keep < whole
}
