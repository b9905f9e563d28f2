//! Appending by group commit: while a write or flush is in flight, collect.
//!
//! One commit task per shard runs while something is queued. It takes all that
//! is there and fits, writes it, flushes once if anybody asked for it, enters
//! the records into the index, answers, and looks again. No timers. Absent:
//! where free segments come from (`prepare`).

use std::io;
use std::rc::Rc;

use monoio::fs::File;
use quickwater_engine::io::{DiskError, Durability};

use super::device;
use super::footer::encode_footer;
use super::group::{Group, Member, frame_long};
use super::local::Receiver;
use super::log::{Active, Log, Pending, QUEUE_MAX, Spare, Written};
use super::prepare;
use super::record::UNIT_BYTES;
use super::segment::unit_bytes;
use super::shard::Shard;
use super::stats::StoreStats;
use crate::buffers::{FRONT_ROOM_BYTES, LARGE_BYTES, PoolBuf};

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
    TakeBatch,
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
            Step::TakeBatch => take_batch(&shard).await,
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
    if log.is_empty() {
        log.running = false;
        return Step::Idle;
    }
    if log.batch.is_none() {
        return Step::TakeBatch;
    }
    if let Some((group, file)) = log.next_group(core.segment_bytes) {
        return Step::Commit(group, file);
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

/// Gets the shard's own buffer for groups and footers, once.
async fn take_batch(shard: &Shard) {
    let timeout = shard.core.config.buffer_timeout;
    let batch = shard.pool.acquire(LARGE_BYTES, timeout).await;
    let mut log = shard.log.borrow_mut();
    match batch {
        Ok(batch) => log.batch = Some(batch),
        Err(_) => log.fail_all(&DiskError::Overloaded),
    }
}

async fn commit(shard: &Rc<Shard>, group: Group, file: Rc<File>) {
    let core = &shard.core;
    let (group, outcome) = write_group(shard, group, &file).await;
    let count = group.members().count() as u64;
    if let Err(error) = outcome {
        group
            .into_members()
            .for_each(|m| m.pending.answer(Err(error.clone())));
        return;
    }
    StoreStats::add(&core.stats.groups, 1);
    StoreStats::add(&core.stats.records, count);
    let (flushed, written): (Vec<_>, Vec<_>) = group
        .into_members()
        .partition(|m| m.pending.durability == Durability::Flushed);
    written
        .into_iter()
        .for_each(|member| publish(shard, member));
    if flushed.is_empty() {
        return;
    }
    match flush_active(shard, file).await {
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
    if member.pending.is_orphan() {
        return;
    }
    let (chunk, location) = (member.pending.chunk, member.location());
    match member.pending.moved_from {
        None => shard.core.publish(chunk, location),
        Some(old) => shard.core.publish_moved(chunk, old, location),
    }
    #[cfg(test)]
    super::trace::note(super::trace::Event::Placed(chunk, location));
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
    // Taken before the group was made, and only this task uses it.
    let held = shard.log.borrow_mut().batch.take();
    let mut batch = held.ok_or(DiskError::Overloaded)?;
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

/// Flushes the segment being written; only the commit task, which calls this,
/// writes records to it, so nothing was written since.
async fn flush_active(shard: &Shard, file: Rc<File>) -> Result<(), DiskError> {
    flush(shard, file).await?;
    if let Some(active) = &mut shard.log.borrow_mut().active {
        active.unflushed = false;
    }
    Ok(())
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

/// Flushes a full segment that holds pinned records no flush has covered, writes
/// its record list and lets it be evicted. The next segment takes records only
/// afterwards, so a flush there answers for these too; and a list on disk names
/// no pinned record that is not. What could not be done is not missed: the store
/// is suspect then, and the next open scans the segment.
async fn seal(shard: &Shard, active: Active) {
    if !active.unflushed || flush(shard, Rc::clone(&active.file)).await.is_ok() {
        write_footer(shard, &active).await;
    }
    shard.core.allocator().seal(active.segment);
}

async fn write_footer(shard: &Shard, active: &Active) {
    let core = &shard.core;
    let (id, generation) = (active.segment.id, active.segment.generation());
    let footer = encode_footer(&core.secrets, id, generation, &active.entries);
    let mut offset = core.segment_bytes - footer.len() as u64;
    for piece in footer.chunks(LARGE_BYTES) {
        debug_assert!(piece.len().is_multiple_of(UNIT_BYTES));
        let Some(mut batch) = shard.log.borrow_mut().batch.take() else {
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
}
