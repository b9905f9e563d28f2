//! Back to the promised number of copies after a worker was lost, or came back without
//! what it had. Done by the owner of the key, for as long as no UFS has the bytes. Which
//! bodies are looked at when is said by `decisions/copy_holders`. Bodies that have their copies
//! in fewer zones than they could get one more in another zone.

mod bare;
mod bytes;
mod load;
mod named;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use quickwater_proto::{BlobId, CopyAt, CopyOf, NodeId, ObjectRecord, PersistState, slot_of};

use self::load::{ASKED_MAX, Load, Pace, is_asked};
use crate::decisions::copy_holders::{Copied, Due, Lack, Looked, Own};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Environment, Metadata, MetadataError, Peers};

/// Pause in which copies that ended gather (one message for all of them), and after which
/// it is looked again who is there.
const TICK: Duration = Duration::from_millis(200);
/// Who could not be told that copies ended is told again every so many of them.
const TELL_AGAIN_TICKS: u32 = 10;
/// Bodies judged under one lock, and how often in a tick: when others have changed, and
/// when nothing has happened that is known of.
const WALK_MAX: usize = 1_024;
const WALKS_CHANGED: usize = 16;
const WALKS_CALM: usize = 2;
/// Pause after which a body is looked at again that waits for others of its object.
const PAUSE_WAITING: Duration = Duration::from_secs(3);
/// Bodies begun between two waits.
const LOOKS_MAX: usize = 4_096;
/// Pause after a failure, doubled by each, up to the longest; half of it is chance.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_FIRST_MISPLACED: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How far all bodies were judged.
#[derive(Debug, Default)]
struct Walk {
    after: Option<BlobId>,
    /// Others have changed: what waits need not wait any longer.
    hurry: bool,
}

/// What is under way.
#[derive(Debug, Default)]
struct Progress {
    load: Load,
    pace: Pace,
}

/// Something to be done.
enum Job {
    /// Make the copies that are missing.
    Copy(Due),
    /// Ask a worker which of these it has.
    Ask(CopyAt, Vec<Due>),
}

impl Job {
    fn load(&self) -> Load {
        match self {
            Self::Copy(due) => Load::of_copy(due),
            Self::Ask(_, bodies) => Load::of_asked(bodies.len()),
        }
    }
}

/// A job that has ended.
struct Ended {
    load: Load,
    /// Whether a body that lacks only zones could not be copied; none: it was another job.
    misplaced_failed: Option<bool>,
}

/// What became of making copies.
enum Made {
    /// There are as many as there should be.
    Enough,
    /// Of this body. Its row names them once the others of its object have theirs.
    Waiting,
    /// The body is not needed any more.
    Over,
}

impl<W: World> Engine<W>
where
    W::Disk: Clone,
{
    /// Keeps the number of copies, and tells who has some that ended, until `stop` says
    /// so. One shard does it for all.
    pub async fn run_copier(&self, stop: impl Fn() -> bool) {
        let telling = async {
            for tick in 1u32.. {
                if stop() {
                    break;
                }
                self.environment().sleep(TICK).await;
                if tick.is_multiple_of(TELL_AGAIN_TICKS) {
                    self.shared().holders.tell_again();
                }
                self.tell_holders().await;
                self.tell_of_stripes().await;
            }
        };
        join(telling, self.keep_number(&stop)).await;
    }

    async fn keep_number(&self, stop: &impl Fn() -> bool) {
        let mut walk = Walk::default();
        let (mut work, mut progress) = (FuturesUnordered::new(), Progress::default());
        while !stop() {
            if self.look_around(&mut walk) {
                progress.pace = Pace::default();
            }
            self.begin_jobs(&mut progress, |job| work.push(self.do_job(job)));
            let mut tick = pin!(self.environment().sleep(TICK));
            loop {
                if work.is_empty() {
                    tick.await;
                    break;
                }
                match select(work.next(), tick.as_mut()).await {
                    Either::Left((ended, _)) => {
                        self.end_job(&mut progress, ended);
                        self.begin_jobs(&mut progress, |job| work.push(self.do_job(job)));
                    }
                    Either::Right(_) => break,
                }
            }
        }
        // What is on a connection is not cut in two.
        while work.next().await.is_some() {}
    }

    /// Judges bodies: all of them soon when others have changed (`true`), and all of them in
    /// turn always, because slots and our own disk change, too.
    fn look_around(&self, walk: &mut Walk) -> bool {
        let holders = &self.shared().holders;
        let (others, zone) = (self.peers().others(), self.peers().zone());
        let changed = holders.meet(&others, zone.as_deref());
        if changed {
            *walk = Walk {
                after: None,
                hurry: true,
            };
            let now = self.environment().monotonic();
            self.shared().persist.retry_gone(now);
        }
        self.judge_all(walk);
        self.leave_to_next(holders.take_left());
        changed
    }

    /// Bodies of keys that others own by now are kept like copies for them, and go when no
    /// row names them: of parts nothing else says that they are here.
    fn leave_to_next(&self, left: Vec<(BlobId, Copied)>) {
        let (kept, now) = (&self.shared().kept, self.environment().monotonic());
        for (blob, copied) in left {
            let slot = slot_of(copied.bucket, &copied.key);
            if !self.shared().rights.is_foreign(slot) {
                // It came back meanwhile.
                self.shared().holders.take_back(blob, copied);
                continue;
            }
            if kept.has(blob) || !self.has_copy(blob, copied.bytes) {
                continue;
            }
            self.shared().forget_anchor(blob);
            let copy = CopyOf {
                bucket: copied.bucket,
                key: copied.key,
                blob,
                part: copied.part,
                // What this worker may commit of a slot that is another's is fenced.
                owner: None,
            };
            kept.keep(copy, copied.bytes, false, now);
        }
    }

    fn judge_all(&self, walk: &mut Walk) {
        let holders = &self.shared().holders;
        let walks = match walk.hurry {
            true => WALKS_CHANGED,
            false => WALKS_CALM,
        };
        for _ in 0..walks {
            let own = |blob, copied: &Copied| self.own_copy(blob, copied);
            walk.after = holders.walk(walk.after, WALK_MAX, walk.hurry, own);
            if walk.after.is_none() {
                walk.hurry = false;
                return;
            }
        }
    }

    fn own_copy(&self, blob: BlobId, copied: &Copied) -> Own {
        let slot = slot_of(copied.bucket, &copied.key);
        match self.has_copy(blob, copied.bytes) {
            _ if self.shared().rights.is_foreign(slot) => Own::Foreign,
            true => Own::Here,
            false => Own::Missing,
        }
    }

    fn begin_jobs(&self, progress: &mut Progress, mut begin: impl FnMut(Job)) {
        if self.permit_lease().is_err() {
            return;
        }
        let holders = &self.shared().holders;
        let mut asks: HashMap<CopyAt, Vec<Due>> = HashMap::new();
        let now = self.environment().monotonic();
        let session = self.peers().itself().map(|at| at.session);
        let rights = &self.shared().rights;
        let since = |of: &Copied| rights.taken_at(slot_of(of.bucket, &of.key));
        let misplaced_max = progress.pace.misplaced_max(now);
        let load = &mut progress.load;
        for _ in 0..LOOKS_MAX {
            let fits = |due: &Due| load.fits(due, misplaced_max);
            let Some(due) = holders.take(now, session, since, fits) else {
                break;
            };
            if is_asked(&due) {
                load.add(Load::of_asked(1));
                // One after the other: what it says may be enough.
                asks.entry(due.ask[0].clone()).or_default().push(due);
                continue;
            }
            let own = self.own_copy(due.blob, &due.copied);
            // All who are there have it, or all zones: others have to come.
            let stuck = match due.lack {
                Lack::Copies => due.have.len() >= holders.usable(),
                Lack::Zones => holders.beside(due.copied.copies, &due.have).is_none(),
            };
            if own == Own::Here && due.unnamed.is_none() && stuck {
                holders.looked(due.blob, Looked::Stuck(now + PAUSE_MAX), own);
                continue;
            }
            let job = Job::Copy(due);
            load.add(job.load());
            begin(job);
        }
        for (at, mut bodies) in asks {
            while !bodies.is_empty() {
                let some = bodies.split_off(bodies.len().saturating_sub(ASKED_MAX));
                begin(Job::Ask(at.clone(), some));
            }
        }
    }

    fn end_job(&self, progress: &mut Progress, ended: Option<Ended>) {
        let Some(ended) = ended else {
            return;
        };
        progress.load.sub(ended.load);
        if let Some(failed) = ended.misplaced_failed {
            let pause = |failures| self.pause_after(PAUSE_FIRST_MISPLACED, failures);
            let now = self.environment().monotonic();
            progress.pace.ended(failed, now, pause);
        }
    }

    async fn do_job(&self, job: Job) -> Ended {
        let load = job.load();
        let misplaced_failed = match job {
            Job::Copy(due) => {
                let failed = self.copy_missing(&due).await;
                (due.lack == Lack::Zones).then_some(failed)
            }
            Job::Ask(at, bodies) => {
                self.ask_for(&at, &bodies).await;
                None
            }
        };
        Ended {
            load,
            misplaced_failed,
        }
    }

    async fn ask_for(&self, at: &CopyAt, bodies: &[Due]) {
        let asked: Vec<_> = bodies
            .iter()
            .map(|due| (due.blob, due.copied.bytes))
            .collect();
        let found = self.peers().has_copies(&at.node, &asked).await;
        let holders = &self.shared().holders;
        let now = self.environment().monotonic();
        for due in bodies {
            let looked = match &found {
                Ok(found) => {
                    holders.asked(due.blob, at, found.contains(&due.blob));
                    Looked::Learnt(now)
                }
                Err(_) => Looked::Failed(now + self.pause_after(PAUSE_FIRST, due.failures)),
            };
            holders.looked(due.blob, looked, self.own_copy(due.blob, &due.copied));
        }
    }

    /// `true`: it failed.
    async fn copy_missing(&self, due: &Due) -> bool {
        let made = self.copy_again(due).await;
        let now = self.environment().monotonic();
        let (holders, stats) = (&self.shared().holders, &self.shared().stats);
        let own = self.own_copy(due.blob, &due.copied);
        let failed = made.is_err();
        let first = match due.lack {
            Lack::Copies => PAUSE_FIRST,
            Lack::Zones => PAUSE_FIRST_MISPLACED,
        };
        let looked = match made {
            Ok(Made::Enough) => Looked::Learnt(now + PAUSE_FIRST),
            Ok(Made::Waiting) => Looked::Stuck(now + PAUSE_WAITING),
            Ok(Made::Over) if own != Own::Foreign => {
                holders.end(due.blob);
                return failed;
            }
            Ok(Made::Over) => Looked::Learnt(now),
            Err(_) => {
                stats.copies_failed.fetch_add(1, Ordering::Relaxed);
                Looked::Failed(now + self.pause_after(first, due.failures))
            }
        };
        holders.looked(due.blob, looked, own);
        failed
    }

    fn pause_after(&self, first: Duration, failures: u32) -> Duration {
        let pause = PAUSE_MAX.min(first * 2u32.saturating_pow(failures.min(16)));
        let chance = (self.environment().random_u128() % 1_000) as u32;
        pause / 2 + pause / 2_000 * chance
    }

    /// Brings a body back to its number of copies.
    async fn copy_again(&self, due: &Due) -> Result<Made, FlowError> {
        let Due { blob, copied, .. } = due;
        let (blob, place) = (*blob, (copied.bucket, &copied.key));
        let Some(bucket) = self.bucket_by_id(copied.bucket).await? else {
            return Ok(Made::Over);
        };
        // The part first: Complete moves it from the one row to the other.
        if let Some(part) = copied.part
            && self.is_part(place, part, blob).await?
        {
            return self.copy_part_again(&bucket, due, part).await;
        }
        let record = self.metadata().object(place.0, place.1).await?;
        let current = |record: &ObjectRecord| {
            let mut extents = record.extents.iter();
            record.persist != PersistState::Persisted && extents.any(|e| e.blob == blob)
        };
        let Some(record) = record.filter(current) else {
            return Ok(Made::Over);
        };
        let several = record.extents.len() > 1;
        if (several || copied.part.is_some()) && copied.copies > 1 {
            return self.copy_one_again(&bucket, due, &record).await;
        }
        let mut all = due.have.clone();
        let entry = self.entry_of(&bucket, copied, &record)?;
        if !self.has_copy(blob, copied.bytes) {
            self.copy_here(blob, copied.bytes, Some(&entry)).await?;
            self.copied_here(blob, copied);
        }
        self.shared().holders.found(blob);
        if several {
            return self.take_whole(place, &record).await;
        }
        let (made, owner) = self.copy_apart(&bucket, due, Some(entry)).await?;
        all.extend_from_slice(&made);
        let sessions: Vec<CopyAt> = all.iter().cloned().chain(owner).collect();
        let named = (&*sessions, copied.copies);
        let guard = self.lock_since(due).await;
        let set = match &guard {
            Ok(_) => self.name_holders(place, record.version, named).await,
            Err(error) => Err(MetadataError::Unavailable(error.to_string())),
        };
        let nodes: Vec<NodeId> = made.into_iter().map(|copy| copy.node).collect();
        let holders = &self.shared().holders;
        let before = holders.named_still(due);
        match set {
            Ok(true) => {
                // It may have ended meanwhile, and with it what was noted.
                match holders.renew(blob, Arc::from(all), None) {
                    true => holders.doubt(blob, &before),
                    false => holders.tell(blob, &nodes),
                }
                Ok(Made::Enough)
            }
            Ok(false) => {
                holders.tell(blob, &nodes);
                Ok(Made::Over)
            }
            // They may be named: nobody says that they are not needed.
            Err(error @ MetadataError::Unknown(_)) => Err(error.into()),
            Err(error) => {
                holders.tell(blob, &nodes);
                Err(error.into())
            }
        }
    }
}
