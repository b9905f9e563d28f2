//! Back to the promised number of copies after a worker was lost, or came back without
//! what it had. Done by the owner of the key, for as long as no UFS has the bytes. Which
//! bodies are looked at when is said by `decisions/copy_holders`.

mod bare;
mod bytes;
mod named;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use quickwater_proto::{BlobId, CopyAt, CopyOf, NodeId, ObjectRecord, PersistState, slot_of};

use crate::decisions::copy_holders::{Copied, Due, Looked, Own};
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
/// Bodies copied at the same time, and bytes of memory for that; each takes so many at most.
const BODIES_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: u64 = 16 << 20;
const BODY_BYTES_MAX: u64 = 2 << 20;
/// Bodies asked for in one message, and messages at the same time.
const ASKED_MAX: usize = 1_024;
const ASKS_AT_ONCE: usize = 4;
/// Failures after which a worker that does not say whether it has a body counts as one
/// that has not.
const ASK_FAILURES_MAX: u32 = 5;
/// Pause after which a body is looked at again that waits for others of its object.
const PAUSE_WAITING: Duration = Duration::from_secs(3);
/// Bodies begun between two waits.
const LOOKS_MAX: usize = 4_096;
/// Pause after a failure, doubled by each, up to the longest; half of it is chance.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How far all bodies were judged.
#[derive(Debug, Default)]
struct Walk {
    after: Option<BlobId>,
    /// Others have changed: what waits need not wait any longer.
    hurry: bool,
}

/// What is under way.
#[derive(Debug, Default, Clone, Copy)]
struct Load {
    bodies: usize,
    bytes: u64,
    asked: usize,
}

impl Load {
    fn of(job: &Job) -> Self {
        match job {
            Job::Copy(due) => Self {
                bodies: 1,
                bytes: due.copied.bytes.min(BODY_BYTES_MAX),
                asked: 0,
            },
            Job::Ask(_, bodies) => Self {
                asked: bodies.len(),
                ..Self::default()
            },
        }
    }

    fn add(&mut self, other: Self) {
        self.bodies += other.bodies;
        self.bytes += other.bytes;
        self.asked += other.asked;
    }

    fn sub(&mut self, other: Self) {
        self.bodies -= other.bodies;
        self.bytes -= other.bytes;
        self.asked -= other.asked;
    }

    fn fits(&self, due: &Due) -> bool {
        if is_asked(due) {
            return self.asked < ASKED_MAX * ASKS_AT_ONCE;
        }
        let bytes = due.copied.bytes.min(BODY_BYTES_MAX);
        self.bodies < BODIES_AT_ONCE && self.bytes + bytes <= BYTES_AT_ONCE
    }
}

/// Something to be done.
enum Job {
    /// Make the copies that are missing.
    Copy(Due),
    /// Ask a worker which of these it has.
    Ask(CopyAt, Vec<Due>),
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

fn is_asked(due: &Due) -> bool {
    !due.ask.is_empty() && due.failures < ASK_FAILURES_MAX
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
        let (mut work, mut load) = (FuturesUnordered::new(), Load::default());
        while !stop() {
            self.look_around(&mut walk);
            self.begin_jobs(&mut load, |job| work.push(self.do_job(job)));
            let mut tick = pin!(self.environment().sleep(TICK));
            loop {
                if work.is_empty() {
                    tick.await;
                    break;
                }
                match select(work.next(), tick.as_mut()).await {
                    Either::Left((ended, _)) => {
                        load.sub(ended.unwrap_or_default());
                        self.begin_jobs(&mut load, |job| work.push(self.do_job(job)));
                    }
                    Either::Right(_) => break,
                }
            }
        }
        // What is on a connection is not cut in two.
        while work.next().await.is_some() {}
    }

    /// Judges bodies: all of them soon when others have changed, and all of them in turn
    /// always, because slots and our own disk change, too.
    fn look_around(&self, walk: &mut Walk) {
        let holders = &self.shared().holders;
        if holders.meet(&self.peers().others()) {
            *walk = Walk {
                after: None,
                hurry: true,
            };
            let now = self.environment().monotonic();
            self.shared().persist.retry_gone(now);
        }
        self.judge_all(walk);
        self.leave_to_next(holders.take_left());
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

    fn begin_jobs(&self, load: &mut Load, mut begin: impl FnMut(Job)) {
        if self.permit_lease().is_err() {
            return;
        }
        let holders = &self.shared().holders;
        let mut asks: HashMap<CopyAt, Vec<Due>> = HashMap::new();
        let now = self.environment().monotonic();
        let session = self.peers().itself().map(|at| at.session);
        let rights = &self.shared().rights;
        let since = |of: &Copied| rights.taken_at(slot_of(of.bucket, &of.key));
        for _ in 0..LOOKS_MAX {
            let Some(due) = holders.take(now, session, since, |due| load.fits(due)) else {
                break;
            };
            if is_asked(&due) {
                load.asked += 1;
                // One after the other: what it says may be enough.
                asks.entry(due.ask[0].clone()).or_default().push(due);
                continue;
            }
            let own = self.own_copy(due.blob, &due.copied);
            // All who are there have it: others have to come.
            if own == Own::Here && due.unnamed.is_none() && due.have.len() >= holders.usable() {
                holders.looked(due.blob, Looked::Stuck(now + PAUSE_MAX), own);
                continue;
            }
            let job = Job::Copy(due);
            load.add(Load::of(&job));
            begin(job);
        }
        for (at, mut bodies) in asks {
            while !bodies.is_empty() {
                let some = bodies.split_off(bodies.len().saturating_sub(ASKED_MAX));
                begin(Job::Ask(at.clone(), some));
            }
        }
    }

    /// Does it, and tells what load it was.
    async fn do_job(&self, job: Job) -> Load {
        let load = Load::of(&job);
        match job {
            Job::Copy(due) => self.copy_missing(&due).await,
            Job::Ask(at, bodies) => self.ask_for(&at, &bodies).await,
        }
        load
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
                Err(_) => Looked::Failed(now + self.pause_after(due.failures)),
            };
            holders.looked(due.blob, looked, self.own_copy(due.blob, &due.copied));
        }
    }

    async fn copy_missing(&self, due: &Due) {
        let made = self.copy_again(due).await;
        let now = self.environment().monotonic();
        let (holders, stats) = (&self.shared().holders, &self.shared().stats);
        let own = self.own_copy(due.blob, &due.copied);
        let looked = match made {
            Ok(Made::Enough) => Looked::Learnt(now + PAUSE_FIRST),
            Ok(Made::Waiting) => Looked::Stuck(now + PAUSE_WAITING),
            Ok(Made::Over) if own != Own::Foreign => return holders.end(due.blob),
            Ok(Made::Over) => Looked::Learnt(now),
            Err(_) => {
                stats.copies_failed.fetch_add(1, Ordering::Relaxed);
                Looked::Failed(now + self.pause_after(due.failures))
            }
        };
        holders.looked(due.blob, looked, own);
    }

    fn pause_after(&self, failures: u32) -> Duration {
        let pause = PAUSE_MAX.min(PAUSE_FIRST * 2u32.saturating_pow(failures.min(16)));
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
        let copying = self.copy_apart(&bucket, (blob, copied), &all, Some(entry));
        let (made, owner) = copying.await?;
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
        match set {
            Ok(true) => {
                // It may have ended meanwhile, and with it what was noted.
                match holders.renew(blob, Arc::from(all), None) {
                    true if nodes.is_empty() => {}
                    true => holders.doubt(blob),
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
