//! Appending by group commit: while a write or flush is in flight, collect.
//!
//! One commit task per shard runs while something is queued. It takes all that
//! is there and fits, writes it, flushes once if anybody asked for it, enters
//! the records into the index, answers, and looks again. No timers. Absent:
//! where free segments come from (`prepare`).

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use monoio::fs::File;
use quickwater_engine::io::{ChunkId, DiskError, Durability};

use super::allocator::Resume;
use super::device;
use super::footer::{Entry, encode_footer, footer_bytes};
use super::group::{BATCH_BYTES_MAX, Group, LONG_MAX, Member, frame_long, is_small};
use super::index::Location;
use super::local::{Receiver, Sender, oneshot};
use super::prepare;
use super::record::{UNIT_BYTES, footprint};
use super::segment::{Segment, unit_bytes};
use super::shard::Shard;
use super::stats::StoreStats;
use crate::buffers::{FRONT_ROOM_BYTES, LARGE_BYTES, PoolBuf};

/// Most records queued on a shard; the next is refused.
const QUEUE_MAX: usize = 4096;

/// Answer to one write: the buffer back, and whether it is stored.
pub(super) type Written = (PoolBuf, Result<(), DiskError>);

/// A record to be written.
pub(super) struct Pending {
    pub(super) chunk: ChunkId,
    pub(super) data: PoolBuf,
    durability: Durability,
    /// It is a copy of this record, made because that one's segment goes.
    moved_from: Option<Location>,
    data_len: u32,
    sender: Sender<Written>,
}

impl Pending {
    /// A record and where its answer will come.
    pub(super) fn new(
        chunk: ChunkId,
        data: PoolBuf,
        durability: Durability,
        moved_from: Option<Location>,
    ) -> (Self, Receiver<Written>) {
        let (sender, receiver) = oneshot();
        let data_len = data.len() as u32;
        let pending = Self {
            chunk,
            data,
            durability,
            moved_from,
            data_len,
            sender,
        };
        (pending, receiver)
    }

    /// Bytes of data, also while the buffer is away.
    pub(super) fn data_len(&self) -> u32 {
        self.data_len
    }

    /// Whether it must not be evicted.
    pub(super) fn pinned(&self) -> bool {
        self.durability == Durability::Flushed
    }

    fn answer(self, outcome: Result<(), DiskError>) {
        self.sender.send((self.data, outcome));
    }

    fn footprint(&self) -> u64 {
        footprint(self.data_len as usize) as u64
    }
}

/// A segment being written.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    file: Rc<File>,
    /// First free unit.
    tail: u32,
    entries: Vec<Entry>,
}

impl Active {
    /// A segment whose header is on disk (a new lap begins at unit 1).
    pub(super) fn new(resume: Resume, file: Rc<File>) -> Self {
        Self {
            segment: resume.segment,
            file,
            tail: resume.tail,
            entries: resume.entries,
        }
    }

    /// Bytes that `more` records can take together.
    fn room(&self, segment_bytes: u64, more: usize) -> u64 {
        let footer = footer_bytes(self.entries.len() + more) as u64;
        segment_bytes.saturating_sub(footer + unit_bytes(self.tail))
    }
}

/// The next segment to write.
#[derive(Default)]
pub(super) enum Spare {
    /// Nobody makes one.
    #[default]
    None,
    /// A task is at it.
    Preparing,
    /// Here it is.
    Ready(Active),
    /// There is none; those who wait must be told.
    Failed(DiskError),
}

/// What a shard has to write and where.
#[derive(Default)]
pub(super) struct Log {
    queue: VecDeque<Pending>,
    /// Copies of records whose segment goes; they go first.
    urgent: VecDeque<Pending>,
    running: bool,
    active: Option<Active>,
    pub(super) spare: Spare,
    /// The commit task can do nothing before a segment comes.
    pub(super) starved: bool,
    /// Bytes of the active segment kept for pinned copies.
    pub(super) reserved: u64,
    batch: Option<PoolBuf>,
}

impl Log {
    /// Nothing queued, nothing being written or prepared.
    pub(super) fn is_idle(&self) -> bool {
        !self.running && !matches!(self.spare, Spare::Preparing)
    }

    /// Bytes of pinned copies the active segment could take.
    pub(super) fn pinned_room(&self, segment_bytes: u64) -> u64 {
        // A footer entry per record of at least one unit: less than 1 in 64.
        let active = self.active.as_ref();
        let room = active.map_or(0, |active| active.room(segment_bytes, 0));
        room - room / 64
    }

    /// Takes what can be written together. Empty: the first does not fit.
    fn collect(&mut self, segment_bytes: u64) -> Vec<Pending> {
        let mut members = Vec::new();
        let (mut batch, mut long, mut taken) = (0, 0, 0);
        let Some(active) = &self.active else {
            return members;
        };
        loop {
            let urgent = !self.urgent.is_empty();
            let queue = if urgent {
                &mut self.urgent
            } else {
                &mut self.queue
            };
            let Some(next) = queue.front() else { break };
            let need = next.footprint();
            let kept = if urgent { 0 } else { self.reserved };
            let room = active.room(segment_bytes, members.len() + 1);
            let (is_small, pinned) = (is_small(next), next.pinned());
            if is_small && batch + need > BATCH_BYTES_MAX as u64
                || !is_small && long == LONG_MAX
                || taken + need + kept > room
            {
                break;
            }
            taken += need;
            if is_small {
                batch += need;
            } else {
                long += 1;
            }
            if urgent && pinned {
                self.reserved = self.reserved.saturating_sub(need);
            }
            members.extend(queue.pop_front());
        }
        members
    }

    fn fail_all(&mut self, error: &DiskError) {
        let urgent = std::mem::take(&mut self.urgent);
        for pending in urgent.into_iter().chain(std::mem::take(&mut self.queue)) {
            pending.answer(Err(error.clone()));
        }
    }
}

/// Queues a write; gives its buffer back when the queue is full.
pub(super) fn enqueue(shard: &Rc<Shard>, pending: Pending) -> Result<(), PoolBuf> {
    let mut log = shard.log.borrow_mut();
    if log.queue.len() >= QUEUE_MAX {
        return Err(pending.data);
    }
    log.queue.push_back(pending);
    wake(shard, &mut log);
    Ok(())
}

/// Queues the copy of a record whose segment goes.
pub(super) fn enqueue_copy(shard: &Rc<Shard>, pending: Pending) {
    let mut log = shard.log.borrow_mut();
    log.urgent.push_back(pending);
    wake(shard, &mut log);
}

fn wake(shard: &Rc<Shard>, log: &mut Log) {
    if log.running {
        shard.signal.raise();
        return;
    }
    log.running = true;
    monoio::spawn(commit_all(Rc::clone(shard)));
}

/// Waits for a write's answer. The commit task answers every write within a few
/// device deadlines; the limit here is a second line.
pub(super) async fn outcome(shard: &Shard, written: Receiver<Written>) -> Written {
    let limit = 4 * shard.core.config.io_timeout;
    let answer = device::within(limit, written).await;
    answer.unwrap_or_else(|| (PoolBuf::detached(), Err(DiskError::Overloaded)))
}

enum Step {
    Commit(Group, Rc<File>),
    Seal(Active),
    Await,
    Again,
    Idle,
}

async fn commit_all(shard: Rc<Shard>) {
    loop {
        let step = next_step(&shard);
        match step {
            Step::Commit(group, file) => commit(&shard, group, file).await,
            Step::Seal(active) => seal(&shard, active).await,
            Step::Await => await_segment(&shard).await,
            Step::Again => {}
            Step::Idle => return,
        }
    }
}

fn next_step(shard: &Rc<Shard>) -> Step {
    let core = &shard.core;
    let mut log = shard.log.borrow_mut();
    if core.stats.is_suspect() {
        log.fail_all(&DiskError::Suspect);
    }
    if log.queue.is_empty() && log.urgent.is_empty() {
        log.running = false;
        return Step::Idle;
    }
    let members = log.collect(core.segment_bytes);
    if !members.is_empty()
        && let Some(active) = &mut log.active
    {
        let group = Group::new(&active.segment, active.tail, members);
        active.tail = group.end;
        let listed = group.small.iter().chain(&group.long).map(Member::entry);
        active.entries.extend(listed);
        return Step::Commit(group, Rc::clone(&active.file));
    }
    if let Some(copy) = log.urgent.pop_front() {
        // Its evictor decides what becomes of the original.
        copy.answer(Err(DiskError::Full));
        return Step::Again;
    }
    need_segment(shard, &mut log)
}

/// The first in the queue does not fit: go on to the next segment.
fn need_segment(shard: &Rc<Shard>, log: &mut Log) -> Step {
    match std::mem::take(&mut log.spare) {
        Spare::Ready(fresh) => {
            log.starved = false;
            let full = log.active.replace(fresh);
            prepare::start_with(shard, log);
            full.map_or(Step::Again, Step::Seal)
        }
        Spare::Failed(error) => {
            log.starved = false;
            if error == DiskError::Full {
                StoreStats::add(&shard.core.stats.full, 1);
            }
            log.fail_all(&error);
            Step::Again
        }
        Spare::Preparing => {
            log.spare = Spare::Preparing;
            log.starved = true;
            Step::Await
        }
        Spare::None => {
            log.starved = true;
            prepare::start_with(shard, log);
            Step::Await
        }
    }
}

/// Waits until a segment, an error or a copy comes; the preparing task has
/// deadlines of its own and always ends with a signal.
async fn await_segment(shard: &Shard) {
    shard.signal.wait().await;
}

/// The shard's own buffer for groups and footers.
async fn take_batch(shard: &Shard) -> Result<PoolBuf, DiskError> {
    let held = shard.log.borrow_mut().batch.take();
    match held {
        Some(batch) => Ok(batch),
        None => {
            let timeout = shard.core.config.buffer_timeout;
            let batch = shard.pool.acquire(LARGE_BYTES, timeout).await;
            batch.map_err(|_| DiskError::Overloaded)
        }
    }
}

async fn commit(shard: &Rc<Shard>, group: Group, file: Rc<File>) {
    let core = &shard.core;
    let (group, outcome) = write_group(shard, group, &file).await;
    let count = (group.small.len() + group.long.len()) as u64;
    if let Err(error) = outcome {
        group
            .into_members()
            .for_each(|m| m.pending.answer(Err(error.clone())));
        return;
    }
    StoreStats::add(&core.stats.groups, 1);
    StoreStats::add(&core.stats.records, count);
    let (flushed, cached): (Vec<_>, Vec<_>) = group
        .into_members()
        .partition(|m| m.pending.durability == Durability::Flushed);
    cached.into_iter().for_each(|member| publish(shard, member));
    if flushed.is_empty() {
        return;
    }
    match flush(shard, file).await {
        Ok(()) => flushed
            .into_iter()
            .for_each(|member| publish(shard, member)),
        Err(error) => {
            let refuse = |m: Member| m.pending.answer(Err(error.clone()));
            flushed.into_iter().for_each(refuse);
        }
    }
}

fn publish(shard: &Shard, member: Member) {
    let (chunk, location) = (member.pending.chunk, member.location());
    match member.pending.moved_from {
        None => shard.core.publish(chunk, location),
        Some(old) => shard.core.publish_moved(chunk, old, location),
    }
    member.pending.answer(Ok(()));
}

/// Starts all writes of a group, waits for all, and puts the buffers back.
async fn write_group(
    shard: &Shard,
    mut group: Group,
    file: &Rc<File>,
) -> (Group, Result<(), DiskError>) {
    let secrets = &shard.core.secrets;
    let mut running = Vec::with_capacity(group.long.len());
    for member in &mut group.long {
        let range = frame_long(secrets, member.place, &mut member.pending);
        let data = std::mem::replace(&mut member.pending.data, PoolBuf::detached());
        let offset = unit_bytes(member.place.offset);
        running.push(start_write(shard, file, data, range, offset));
    }
    let mut outcome = write_batch(shard, &group, file).await;
    for (member, operation) in group.long.iter_mut().zip(running) {
        let (data, written) = finish_write(shard, operation).await;
        member.pending.data = data;
        outcome = outcome.and(written);
    }
    (group, outcome)
}

async fn write_batch(shard: &Shard, group: &Group, file: &Rc<File>) -> Result<(), DiskError> {
    if group.small.is_empty() {
        return Ok(());
    }
    let mut batch = take_batch(shard).await?;
    let mut outcome = Ok(());
    if let Some((range, offset)) = group.fill_batch(&shard.core.secrets, &mut batch) {
        let operation = start_write(shard, file, batch, range, offset);
        (batch, outcome) = finish_write(shard, operation).await;
    }
    keep_batch(shard, batch);
    outcome
}

fn keep_batch(shard: &Shard, batch: PoolBuf) {
    if !batch.is_detached() {
        shard.log.borrow_mut().batch = Some(batch);
    }
}

/// Starts a write and counts it.
pub(super) fn start_write(
    shard: &Shard,
    file: &Rc<File>,
    data: PoolBuf,
    range: std::ops::Range<usize>,
    offset: u64,
) -> Receiver<device::Transferred> {
    StoreStats::add(&shard.core.stats.write_ops, 1);
    StoreStats::add(&shard.core.stats.written_bytes, range.len() as u64);
    device::write(Rc::clone(file), data, range, offset)
}

/// Waits for a write; any failure makes the store suspect.
pub(super) async fn finish_write(
    shard: &Shard,
    operation: Receiver<device::Transferred>,
) -> (PoolBuf, Result<(), DiskError>) {
    let ended = device::within(shard.core.config.io_timeout, operation).await;
    let (data, outcome) = ended.unwrap_or_else(|| {
        let late = Err(io::ErrorKind::TimedOut.into());
        (PoolBuf::detached(), late)
    });
    let outcome = outcome.map_err(|cause| {
        shard.core.suspect("writing", &cause);
        DiskError::Io(cause.to_string())
    });
    (data, outcome)
}

async fn flush(shard: &Shard, file: Rc<File>) -> Result<(), DiskError> {
    StoreStats::add(&shard.core.stats.flushes, 1);
    let ended = device::within(shard.core.config.io_timeout, device::flush(file)).await;
    ended
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
        .map_err(|cause| {
            shard.core.suspect("flushing", &cause);
            DiskError::Io(cause.to_string())
        })
}

/// Writes the record list of a full segment and lets it be evicted. Without a
/// buffer the list is left out; recovery scans the segment then.
async fn seal(shard: &Shard, active: Active) {
    let core = &shard.core;
    let (id, generation) = (active.segment.id, active.segment.generation());
    let footer = encode_footer(&core.secrets, id, generation, &active.entries);
    let mut offset = core.segment_bytes - footer.len() as u64;
    for piece in footer.chunks(LARGE_BYTES) {
        debug_assert!(piece.len().is_multiple_of(UNIT_BYTES));
        let Ok(mut batch) = take_batch(shard).await else {
            tracing::warn!(segment = id, "no buffer to write a segment's footer");
            break;
        };
        let range = FRONT_ROOM_BYTES..FRONT_ROOM_BYTES + piece.len();
        batch.memory_mut()[range.clone()].copy_from_slice(piece);
        let operation = start_write(shard, &active.file, batch, range, offset);
        let (batch, written) = finish_write(shard, operation).await;
        keep_batch(shard, batch);
        if written.is_err() {
            break;
        }
        offset += piece.len() as u64;
    }
    core.allocator().seal(active.segment);
}
