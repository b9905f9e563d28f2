//! Back to the promised number of copies after a worker was lost, or came back without
//! what it had. Done by the owner of the key, for as long as no UFS has the bytes. Which
//! bodies are looked at when is said by `decisions/copy_holders`.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, join, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use quickwater_proto::{
    BlobId, Bucket, BucketId, CHUNK_BYTES, CopyAt, CopyOf, NodeId, ObjectKey, ObjectRecord, PartOf,
    PersistState, Version, slot_of,
};

use crate::decisions::copy_holders::{Copied, Due, Looked, Own, Unnamed};
use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::BufferOf;
use crate::io::{
    Buffer, ChunkId, Copies, CopyBody, Disk, Durability, Environment, JOURNAL_CHUNK, Metadata,
    MetadataError, Peers,
};

/// Pause in which copies that ended gather (one message for all of them), and after which
/// it is looked again who is there.
const TICK: Duration = Duration::from_millis(200);
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
/// How often it is said again who has a body, when nobody knows whether that was heard.
const SET_AGAIN_MAX: usize = 2;
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

/// A body that has its copies, beside which no commit is kept.
struct Bare {
    /// Others that have it.
    all: Vec<CopyAt>,
    /// Those of them that got it just now.
    made: Vec<NodeId>,
    /// This worker, in the session that was named to them.
    owner: CopyAt,
}

impl Bare {
    /// What a row that names these is behind: nothing that was given in an earlier session
    /// of ours is named in this one.
    fn sessions(&self, named: &[CopyAt]) -> Vec<CopyAt> {
        named.iter().chain([&self.owner]).cloned().collect()
    }

    fn unnamed(&self, due: &Due) -> Unnamed {
        let before = due.unnamed.as_ref().map(|of| Arc::clone(&of.named));
        Unnamed {
            session: self.owner.session,
            named: before.unwrap_or_else(|| due.have.clone().into()),
        }
    }
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
            while !stop() {
                self.environment().sleep(TICK).await;
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
        for _ in 0..LOOKS_MAX {
            let Some(due) = holders.take(now, session, |due| load.fits(due)) else {
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
        if several {
            return self.take_whole(place, &record).await;
        }
        let want = copied.copies.saturating_sub(all.len() + 1);
        let (mut made, mut owner) = (Vec::new(), None);
        if want > 0 {
            (made, owner) = self
                .copy_there(&bucket, (blob, copied), want, &all, Some(entry))
                .await?;
            self.count_made(copied.bytes, made.len() as u64);
        }
        all.extend_from_slice(&made);
        let sessions: Vec<CopyAt> = all.iter().cloned().chain(owner).collect();
        let named = (&*sessions, copied.copies);
        let set = self.name_holders(place, record.version, named).await;
        let nodes: Vec<NodeId> = made.into_iter().map(|copy| copy.node).collect();
        let holders = &self.shared().holders;
        match set {
            Ok(true) => {
                // It may have ended meanwhile, and with it what was noted.
                if !holders.renew(blob, Arc::from(all), None) {
                    holders.tell(blob, &nodes);
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

    fn copied_here(&self, blob: BlobId, copied: &Copied) {
        self.count_made(copied.bytes, 1);
        let slot = slot_of(copied.bucket, &copied.key);
        self.shared().anchor(blob, slot);
        let now = self.environment().monotonic();
        self.shared().persist.hurry(copied.bucket, &copied.key, now);
    }

    /// Whether a body is a part of an upload that is not complete, and no UFS has it.
    async fn is_part(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        of: PartOf,
        blob: BlobId,
    ) -> Result<bool, FlowError> {
        let before = of.number.saturating_sub(1);
        let rows = self.metadata().parts(bucket, key, of.upload, before, 1);
        match rows.await {
            Ok(rows) => Ok(rows.iter().any(|row| row.blob == blob && row.held)),
            Err(MetadataError::NoSuchUpload) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings a body back here and to as many others as it should be on, without a commit
    /// beside it.
    async fn copy_bare(&self, bucket: &Bucket, due: &Due) -> Result<Bare, FlowError> {
        let Due { blob, copied, .. } = due;
        if !self.has_copy(*blob, copied.bytes) {
            self.copy_here(*blob, copied.bytes, None).await?;
            self.copied_here(*blob, copied);
        }
        let itself = self.peers().itself().ok_or_else(gone)?;
        let mut bare = Bare {
            all: due.have.clone(),
            made: Vec::new(),
            owner: itself,
        };
        let want = copied.copies.saturating_sub(bare.all.len() + 1);
        if want > 0 {
            let copying = self.copy_there(bucket, (*blob, copied), want, &due.have, None);
            let (made, owner) = copying.await?;
            self.count_made(copied.bytes, made.len() as u64);
            bare.made = made.iter().map(|copy| copy.node.clone()).collect();
            bare.all.extend(made);
            bare.owner = owner.unwrap_or(bare.owner);
        }
        // What others got in an earlier session of ours they may have let go of.
        if let Some(unnamed) = &due.unnamed
            && unnamed.session != bare.owner.session
        {
            self.shared().holders.tell(*blob, &bare.made);
            return Err(gone());
        }
        Ok(bare)
    }

    /// Brings a part of an upload back to its number of copies.
    async fn copy_part_again(
        &self,
        bucket: &Bucket,
        due: &Due,
        part: PartOf,
    ) -> Result<Made, FlowError> {
        let Due { blob, copied, .. } = due;
        let bare = self.copy_bare(bucket, due).await?;
        let holders = &self.shared().holders;
        // No Complete names others between the row and what is noted of it.
        let entered = self.enter_upload(part.upload).await;
        let _gate = entered.inspect_err(|_| holders.tell(*blob, &bare.made))?;
        let sessions = bare.sessions(&bare.all);
        let set = again(async || {
            let place = (copied.bucket, &copied.key);
            let named = (&*sessions, copied.copies);
            let metadata = self.metadata();
            metadata.set_part_holders(place, (part, *blob), named).await
        });
        match set.await {
            Ok(true) => {
                if !holders.renew(*blob, Arc::from(bare.all), None) {
                    holders.tell(*blob, &bare.made);
                }
                Ok(Made::Enough)
            }
            // It ended meanwhile, or is an object's by now: that is looked at next.
            Ok(false) => {
                holders.tell(*blob, &bare.made);
                Ok(Made::Enough)
            }
            // They may be named, or those whose names this drops be let go of.
            Err(error @ MetadataError::Unknown(_)) => {
                let unnamed = bare.unnamed(due);
                holders.renew(*blob, Arc::from(bare.all), Some(unnamed));
                Err(error.into())
            }
            Err(error) => {
                holders.tell(*blob, &bare.made);
                Err(error.into())
            }
        }
    }

    /// Brings one of the bodies of an object back to its number of copies. The row of the
    /// object names who has any of them, so it is written once all of them have theirs: a name
    /// dropped earlier would let go of what a worker that is merely away has.
    async fn copy_one_again(
        &self,
        bucket: &Bucket,
        due: &Due,
        record: &ObjectRecord,
    ) -> Result<Made, FlowError> {
        let Due { blob, copied, .. } = due;
        let bare = self.copy_bare(bucket, due).await?;
        let holders = &self.shared().holders;
        let unnamed = bare.unnamed(due);
        if !holders.renew(*blob, Arc::from(&*bare.all), Some(unnamed)) {
            holders.tell(*blob, &bare.made);
            return Ok(Made::Enough);
        }
        // One at a time: each says who has all of it by then.
        let _guard = self.lock_key(copied.bucket, &copied.key).await?;
        let mut named: Vec<CopyAt> = Vec::new();
        for extent in &record.extents {
            let Some(held) = holders.sessions(extent.blob) else {
                return Ok(Made::Waiting);
            };
            let stale = |of: &Unnamed| of.session != bare.owner.session;
            if held.have.len() + 1 < held.copies
                || held.unnamed.as_ref().is_some_and(stale)
                || !self.has_copy(extent.blob, extent.size)
            {
                return Ok(Made::Waiting);
            }
            let new = held.have.into_iter().filter(|at| !named.contains(at));
            let new: Vec<CopyAt> = new.collect();
            named.extend(new);
        }
        let place = (copied.bucket, &copied.key);
        let sessions = bare.sessions(&named);
        let wanted = (&*sessions, copied.copies);
        if !self.name_holders(place, record.version, wanted).await? {
            // Replaced, or described anew: the next look tells.
            return Ok(Made::Waiting);
        }
        for extent in &record.extents {
            holders.named(extent.blob, &named);
        }
        Ok(Made::Enough)
    }

    /// Names only ourselves for an object of several bodies that is to be in one place, once
    /// all of it is here. Until then its row goes on naming who has all of it.
    async fn take_whole(
        &self,
        place: (BucketId, &ObjectKey),
        record: &ObjectRecord,
    ) -> Result<Made, FlowError> {
        let mut extents = record.extents.iter();
        if !extents.all(|extent| self.has_copy(extent.blob, extent.size)) {
            return Ok(Made::Enough);
        }
        // If that is not known to be said, who is named keeps what it has.
        if self.name_holders(place, record.version, (&[], 1)).await? {
            for extent in &record.extents {
                self.shared().holders.end(extent.blob);
            }
        }
        Ok(Made::Over)
    }

    /// Says in the row of what is pending who has it.
    async fn name_holders(
        &self,
        place: (BucketId, &ObjectKey),
        version: Version,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Result<bool, MetadataError> {
        again(async || {
            let (metadata, named) = (self.metadata(), (copies, wanted));
            metadata.set_holders(place, version, true, named).await
        })
        .await
    }

    fn count_made(&self, bytes: u64, copies: u64) {
        let stats = &self.shared().stats;
        stats.copies_made.fetch_add(copies, Ordering::Relaxed);
        let made = &stats.copies_made_bytes;
        made.fetch_add(bytes * copies, Ordering::Relaxed);
    }

    /// What is kept beside a copy: it says whose bytes these are.
    fn entry_of(
        &self,
        bucket: &Bucket,
        copied: &Copied,
        record: &ObjectRecord,
    ) -> Result<Bytes, FlowError> {
        let journal = &self.shared().journal;
        let sequence = journal.begin();
        let entry = self
            .metadata()
            .journal_entry(bucket.id, &copied.key, record, sequence);
        // The commit is made: nothing is ever replayed from it.
        journal.settle(sequence);
        Ok(entry?)
    }

    /// Brings here what our own copy lacks. What is here of it stays, whatever fails.
    async fn copy_here(
        &self,
        blob: BlobId,
        bytes: u64,
        entry: Option<&Bytes>,
    ) -> Result<(), FlowError> {
        let _space = self.disk().reserve(bytes, chunks_of(bytes) + 1)?;
        let mut missing = chunks(blob, bytes).filter(|(chunk, _)| !self.disk().keeps(*chunk));
        let mut next = missing.next();
        while let Some((chunk, len)) = next {
            next = missing.next();
            let found = self.fetch_chunk(chunk, 0..len).await;
            let buffer = found.ok_or_else(gone)?;
            // The last one covers the others, if nothing follows.
            let durability = match next.is_none() && entry.is_none() {
                true => Durability::Flushed,
                false => Durability::Pinned,
            };
            let (_, written) = self.disk().write(chunk, buffer, durability).await;
            written?;
        }
        let Some(entry) = entry else {
            return Ok(());
        };
        let mut buffer = self.disk().buffer(entry.len()).await?;
        buffer.set_len(entry.len());
        buffer.as_mut_slice().copy_from_slice(entry);
        let place = ChunkId {
            blob,
            index: JOURNAL_CHUNK,
        };
        let (_, written) = self.disk().write(place, buffer, Durability::Flushed).await;
        Ok(written?)
    }

    async fn copy_there(
        &self,
        bucket: &Bucket,
        (blob, copied): (BlobId, &Copied),
        want: usize,
        have: &[CopyAt],
        entry: Option<Bytes>,
    ) -> Result<(Vec<CopyAt>, Option<CopyAt>), FlowError> {
        let not: Vec<NodeId> = have.iter().map(|copy| copy.node.clone()).collect();
        let place = (bucket, &copied.key);
        let body = CopyBody {
            blob,
            bytes: copied.bytes,
            part: copied.part,
            bare: entry.is_none(),
        };
        let mut copies = self.peers().copy(place, body, want, &not).await?;
        for (chunk, len) in chunks(blob, copied.bytes) {
            let buffer = self.read_any(chunk, len).await?;
            copies.send(buffer.into_bytes()).await?;
        }
        let nodes = copies.nodes();
        let finished = copies.finish(entry.unwrap_or_default()).await;
        let made = finished.inspect_err(|_| self.shared().holders.tell(blob, &nodes))?;
        Ok((made, copies.owner()))
    }

    async fn read_any(&self, chunk: ChunkId, len: u32) -> Result<BufferOf<W>, FlowError> {
        if let Ok(Some(buffer)) = self.disk().read(chunk, 0..len).await {
            return Ok(buffer);
        }
        self.fetch_chunk(chunk, 0..len).await.ok_or_else(gone)
    }
}

/// Says in a row who has it. After an unknown outcome the same is said again: what it
/// answers then settles the first, and is needed before anybody is told to look. A refusal
/// settles nothing.
async fn again(set: impl AsyncFn() -> Result<bool, MetadataError>) -> Result<bool, MetadataError> {
    let mut unknown = 0;
    loop {
        match set().await {
            Err(MetadataError::Unknown(_)) if unknown < SET_AGAIN_MAX => unknown += 1,
            Ok(set) => return Ok(set),
            Err(error @ MetadataError::Unknown(_)) => return Err(error),
            Err(error) if unknown > 0 => return Err(MetadataError::Unknown(error.to_string())),
            Err(error) => return Err(error),
        }
    }
}

fn gone() -> FlowError {
    FlowError::Unavailable("no copy of these bytes can be read now".into())
}

/// The chunks of a body, and their lengths.
fn chunks(blob: BlobId, bytes: u64) -> impl Iterator<Item = (ChunkId, u32)> {
    (0..chunks_of(bytes)).map(move |index| {
        let start = u64::from(index) * u64::from(CHUNK_BYTES);
        let len = (bytes - start).min(u64::from(CHUNK_BYTES)) as u32;
        (ChunkId { blob, index }, len)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::FutureExt;

    use super::*;

    fn unknown() -> MetadataError {
        MetadataError::Unknown("no answer".into())
    }

    /// What comes of the answers `said`, the last one first, and how many are left.
    fn asked(said: Vec<Result<bool, MetadataError>>) -> (Result<bool, MetadataError>, usize) {
        let said = RefCell::new(said);
        let set = again(async || said.borrow_mut().pop().unwrap());
        let answer = set.now_or_never().unwrap();
        (answer, said.into_inner().len())
    }

    #[test]
    fn only_an_answer_settles_what_was_not_answered() {
        let refused = || MetadataError::Unavailable("another session".into());
        assert_eq!(asked(vec![Ok(true), Err(unknown())]), (Ok(true), 0));
        assert_eq!(asked(vec![Err(refused())]), (Err(refused()), 0));
        // The first may have been heard.
        let (answer, _) = asked(vec![Err(refused()), Err(unknown())]);
        assert!(
            matches!(answer, Err(MetadataError::Unknown(_))),
            "{answer:?}"
        );
        let (answer, left) = asked(vec![Err(unknown()), Err(unknown()), Err(unknown())]);
        assert_eq!((answer, left), (Err(unknown()), 0));
    }
}
