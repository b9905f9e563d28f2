//! One thread of load: gives free connections their next request, moves bytes
//! until all are answered, counts.

mod slot;
mod steps;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::connection::LOOK_BYTES;
use super::heads::Heads;
use super::poll::Poll;
use super::tally::{Live, Tally};
use super::target::Target;
use crate::workload::{Content, Feed, Schedule, Take, Versions, Workload};
use slot::Slot;

/// How often deadlines are looked at, and the longest wait.
const TICK: Duration = Duration::from_millis(50);
/// Requests under way when the run is interrupted have this time to end.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes one read can drop or take.
const SCRATCH_BYTES: usize = 1 << 20;

/// Requests and when they are due.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) workload: Workload,
    pub(crate) schedule: Schedule,
    /// Overwrites differ, and reads are held against what they may see.
    pub(crate) versions: Option<Arc<Versions>>,
}

/// What all threads of a round share.
pub(crate) struct Load<'a> {
    pub(crate) target: &'a Target,
    pub(crate) content: &'a Content,
    /// Not counted, before the round.
    pub(crate) warmup: Option<Stage>,
    pub(crate) stage: Stage,
    /// Connections of all threads.
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    /// Threads are bound to these.
    pub(crate) cpus: &'a [u32],
    pub(crate) timeout: Duration,
    pub(crate) part_size: u64,
    pub(crate) page: u64,
    pub(crate) verify: bool,
    /// The round goes on with the numbers after those of the warm-up.
    pub(crate) new_objects: bool,
    /// Set: no more requests.
    pub(crate) stop: &'a AtomicBool,
    pub(crate) live: &'a Live,
    /// Numbers of requests in warm-up and round.
    pub(crate) counters: [AtomicU64; 2],
}

/// Where threads wait for each other between warm-up and round, so that the one
/// who measures the server can look in between.
pub(crate) struct Gate {
    pub(crate) ready: Barrier,
    pub(crate) go: Barrier,
    pub(crate) start: OnceLock<Instant>,
}

impl Gate {
    /// For this many threads and the one who opens the gate.
    pub(crate) fn new(threads: u32) -> Self {
        let all = threads as usize + 1;
        Self {
            ready: Barrier::new(all),
            go: Barrier::new(all),
            start: OnceLock::new(),
        }
    }
}

/// Runs one thread's share: connects, warms up, waits at the gate, measures.
/// Never leaves the others waiting at the gate.
pub(crate) fn drive(load: &Load<'_>, gate: &Gate, thread: u32) -> io::Result<Tally> {
    let before = prepare(load, thread);
    gate.ready.wait();
    gate.go.wait();
    let mut driver = before?;
    driver.start = *gate.start.get_or_init(Instant::now);
    if load.new_objects {
        driver.skipped = load.counters[0].load(Ordering::Relaxed);
    }
    driver.run(&load.stage, &load.counters[1], u64::from(thread))?;
    Ok(driver.tally)
}

fn prepare<'a>(load: &'a Load<'a>, thread: u32) -> io::Result<Driver<'a>> {
    crate::machine::bind(load.cpus, thread)?;
    let mut driver = Driver::new(load, thread)?;
    driver.connect()?;
    if let Some(warmup) = &load.warmup {
        driver.start = Instant::now();
        driver.run(warmup, &load.counters[0], u64::from(thread))?;
        driver.tally = Tally::default();
        driver.heads.forget();
    }
    Ok(driver)
}

struct Driver<'a> {
    load: &'a Load<'a>,
    poll: Poll,
    heads: Heads<'a>,
    slots: Vec<Slot>,
    /// Slots without a request, first in, first out.
    idle: VecDeque<usize>,
    /// Slots that rest until a time, in order of time.
    resting: VecDeque<(u64, usize)>,
    start: Instant,
    /// Addresses are taken in turns.
    turn: usize,
    /// Added to numbers of requests.
    skipped: u64,
    scratch: Vec<u8>,
    tally: Tally,
}

impl<'a> Driver<'a> {
    fn new(load: &'a Load<'a>, thread: u32) -> io::Result<Self> {
        let share =
            load.connections / load.threads + u32::from(thread < load.connections % load.threads);
        Ok(Self {
            load,
            poll: Poll::new()?,
            heads: Heads::new(load.target, load.content),
            slots: (0..share).map(|_| Slot::new()).collect(),
            idle: (0..share as usize).collect(),
            resting: VecDeque::new(),
            start: Instant::now(),
            turn: thread as usize,
            skipped: 0,
            scratch: vec![0; SCRATCH_BYTES.max(LOOK_BYTES)],
            tally: Tally::default(),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Opens all connections before time counts. One that fails is tried again
    /// by its first request, and that counts.
    fn connect(&mut self) -> io::Result<()> {
        for index in 0..self.slots.len() {
            // A failure shows again with the first request.
            let _ = self.open(index);
        }
        let end = Instant::now() + self.load.timeout.min(GRACE);
        while self.slots.iter().any(|s| s.connection.connecting) && Instant::now() < end {
            self.poll.wait(TICK)?;
            self.handle_ready();
        }
        for index in 0..self.slots.len() {
            if self
                .slots
                .get(index)
                .is_some_and(|s| s.connection.connecting)
            {
                self.with(index, |slot| slot.connection.close());
            }
        }
        Ok(())
    }

    /// Sends requests until none is due any more and all are answered.
    fn run(&mut self, stage: &Stage, counter: &'a AtomicU64, thread: u64) -> io::Result<()> {
        let load = self.load;
        let mut feed = Feed::new(stage.schedule, counter, thread, u64::from(load.threads));
        let (mut done, mut stopped_at, mut looked_at) = (false, None, 0);
        loop {
            let now = self.now();
            self.heads.set_time(unix_seconds());
            if now >= looked_at {
                self.expire(now, stage);
                looked_at = now + TICK.as_nanos() as u64;
            }
            if load.stop.load(Ordering::Relaxed) {
                let since = *stopped_at.get_or_insert(now);
                if now > since + GRACE.as_nanos() as u64 {
                    self.drop_all();
                }
                done = true;
            }
            let due = if done {
                None
            } else {
                self.assign(&mut feed, stage, now, &mut done)
            };
            if done && self.idle.len() + self.resting.len() == self.slots.len() {
                break;
            }
            let wait = due.map_or(TICK, |due| {
                Duration::from_nanos(due.saturating_sub(now)).min(TICK)
            });
            self.poll.wait(wait)?;
            self.handle_stage_ready(stage);
        }
        self.finish(&mut feed);
        Ok(())
    }

    /// Counts what the open loop did not get to send.
    fn finish(&mut self, feed: &mut Feed<'_>) {
        if !self.load.stop.load(Ordering::Relaxed) {
            // Nobody will answer them: what they have waited until now is the least.
            let end = self.now();
            let latency = &mut self.tally.latency;
            self.tally.unsent += feed.abandon(end, |waited| latency.record(waited));
        }
        while let Some((_, index)) = self.resting.pop_front() {
            self.idle.push_back(index);
        }
    }

    /// Gives free connections requests; says when the next one is due.
    fn assign(
        &mut self,
        feed: &mut Feed<'_>,
        stage: &Stage,
        now: u64,
        done: &mut bool,
    ) -> Option<u64> {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            self.idle.extend(self.resting.pop_front().map(|r| r.1));
        }
        while let Some(&index) = self.idle.front() {
            match feed.take(now) {
                Take::Wait(until) => return Some(until),
                Take::Done => {
                    *done = true;
                    return None;
                }
                Take::Send { number, from_ns } => {
                    let Some(action) = stage.workload.action(number + self.skipped) else {
                        *done = true;
                        return None;
                    };
                    self.idle.pop_front();
                    self.begin(index, action, from_ns, stage);
                }
            }
        }
        None
    }

    fn with(&mut self, index: usize, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.get_mut(index) {
            change(slot);
        }
    }
}

/// Wall time for signatures, seconds since 1970.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
