//! One thread of load: gives free connections their next request, moves bytes
//! until all are answered, counts.

mod slot;

use std::collections::VecDeque;
use std::io;
use std::sync::Barrier;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::call::{Call, Method};
use super::connection::{LOOK_BYTES, Progress};
use super::errors::Failure;
use super::heads::Heads;
use super::job::{Answer, Job, Next, Rules};
use super::poll::{Poll, Ready};
use super::tally::{Live, Tally};
use super::target::Target;
use crate::workload::{Action, Content, Feed, Schedule, Take, Workload};
use slot::Slot;

/// How often deadlines are looked at, and the longest wait.
const TICK: Duration = Duration::from_millis(50);
/// A connection that could not be opened rests.
const REST: Duration = Duration::from_millis(100);
/// Requests under way when the run is interrupted have this time to end.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes one read can drop or take.
const SCRATCH_BYTES: usize = 1 << 20;

/// Requests and when they are due.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) workload: Workload,
    pub(crate) schedule: Schedule,
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
        self.finish(&mut feed, stage);
        Ok(())
    }

    /// Counts what the open loop did not get to send.
    fn finish(&mut self, feed: &mut Feed<'_>, stage: &Stage) {
        if !self.load.stop.load(Ordering::Relaxed) {
            let end = stage.schedule.end_ns.unwrap_or(u64::MAX).min(self.now());
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

    fn rules<'s>(&self, stage: &'s Stage) -> Rules<'s> {
        Rules {
            space: &stage.workload.space,
            part_size: self.load.part_size,
            page: self.load.page,
        }
    }

    fn begin(&mut self, index: usize, action: Action, from_ns: u64, stage: &Stage) {
        let (job, call) = Job::start(action, self.rules(stage));
        self.with(index, |slot| {
            slot.job = Some(job);
            slot.from_ns = from_ns;
        });
        self.call(index, call, stage);
    }

    /// Sends a call over the slot's connection, opened if need be.
    fn call(&mut self, index: usize, call: Call, stage: &Stage) {
        let now = self.now();
        let deadline = now.saturating_add(self.load.timeout.as_nanos() as u64);
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        slot.deadline_ns = deadline;
        slot.retried = false;
        self.heads
            .write(&stage.workload.space, &call, &mut slot.connection.head);
        slot.connection.call = call;
        self.send_anew(index, stage);
    }

    /// Sends the call of the slot from its beginning.
    fn send_anew(&mut self, index: usize, stage: &Stage) {
        self.tally.calls += 1;
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        slot.connection.begin();
        if slot.connection.socket.is_some() {
            return self.send(index, stage);
        }
        if let Err(error) = self.open(index) {
            self.fail(index, &Failure::Connect(error.to_string()), stage);
        }
    }

    fn open(&mut self, index: usize) -> io::Result<()> {
        let sockets = &self.load.target.address.sockets;
        self.turn = (self.turn + 1) % sockets.len().max(1);
        let (Some(address), Some(slot)) = (sockets.get(self.turn), self.slots.get_mut(index))
        else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        slot.connection.open(*address)?;
        match &slot.connection.socket {
            Some(socket) => self.poll.add(socket, index, true),
            None => Ok(()),
        }
    }

    fn handle_ready(&mut self) {
        let mut position = 0;
        while let Some(ready) = self.poll.ready(position) {
            position += 1;
            if self
                .slots
                .get(ready.token)
                .is_some_and(|s| s.connection.connecting)
            {
                // A failure shows again with the first request.
                let _ = self.settle_connect(ready.token);
            }
        }
    }

    fn handle_stage_ready(&mut self, stage: &Stage) {
        let mut position = 0;
        while let Some(ready) = self.poll.ready(position) {
            position += 1;
            self.handle(ready, stage);
        }
    }

    fn handle(&mut self, ready: Ready, stage: &Stage) {
        let Some(slot) = self.slots.get_mut(ready.token) else {
            return;
        };
        if slot.connection.connecting {
            if let Err(failure) = self.settle_connect(ready.token) {
                return self.fail(ready.token, &failure, stage);
            }
            return self.send(ready.token, stage);
        }
        if slot.job.is_none() {
            // Nothing was asked: the server closes an idle connection.
            return slot.connection.close();
        }
        if ready.writable && !slot.connection.is_sent() {
            self.send(ready.token, stage);
        }
        if ready.readable {
            self.receive(ready.token, stage);
        }
    }

    /// A connect ended.
    fn settle_connect(&mut self, index: usize) -> Result<(), Failure> {
        let poll = &self.poll;
        let Some(slot) = self.slots.get_mut(index) else {
            return Ok(());
        };
        let connected = slot.connection.connected().map_err(io::Error::from);
        let listening = connected.and_then(|()| slot.connection.listen(poll, index, false));
        listening.map_err(|error| {
            slot.connection.close();
            Failure::Connect(error.to_string())
        })
    }

    fn send(&mut self, index: usize, stage: &Stage) {
        let content = self.load.content;
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if slot.job.is_none() {
            return;
        }
        match slot.connection.send(content) {
            Ok((progress, bytes)) => {
                let blocked = progress == Progress::Waiting;
                let listening = slot.connection.listen(&self.poll, index, blocked);
                self.moved(bytes);
                if let Err(error) = listening {
                    self.broken(index, Failure::Closed(error.to_string()), stage);
                }
            }
            // The answer to a refused upload may be there already: read first.
            Err(error) => self.send_failed(index, &Failure::Closed(error.to_string()), stage),
        }
    }

    fn send_failed(&mut self, index: usize, failure: &Failure, stage: &Stage) {
        let answered = self
            .slots
            .get(index)
            .is_some_and(|s| !s.connection.untouched());
        if !answered && self.try_receive(index, stage) {
            return;
        }
        self.broken(index, failure.clone(), stage);
    }

    /// Reads what may be there of an answer; true when the request is over.
    fn try_receive(&mut self, index: usize, stage: &Stage) -> bool {
        let Some(slot) = self.slots.get_mut(index) else {
            return false;
        };
        let read = slot
            .connection
            .receive(&mut self.scratch, self.load.content, self.load.verify);
        if matches!(read, Ok((Progress::Complete, _))) {
            self.answered(index, stage);
            return true;
        }
        false
    }

    fn receive(&mut self, index: usize, stage: &Stage) {
        let (content, verify) = (self.load.content, self.load.verify);
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.job.is_some()) else {
            return;
        };
        match slot.connection.receive(&mut self.scratch, content, verify) {
            Ok((progress, bytes)) => {
                self.moved(bytes);
                if progress == Progress::Complete {
                    self.answered(index, stage);
                }
            }
            Err(failure) => self.broken(index, failure, stage),
        }
    }

    fn moved(&mut self, bytes: u64) {
        if bytes > 0 {
            let now = self.now();
            self.tally.moved(now, bytes, self.load.live);
        }
    }

    /// A complete answer is there.
    fn answered(&mut self, index: usize, stage: &Stage) {
        let rules = self.rules(stage);
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let connection = &mut slot.connection;
        connection.used = true;
        if connection.call.method == Method::Get {
            self.tally.source(connection.answer().source);
        }
        let answer = Answer {
            head: connection.answer(),
            document: connection.document(),
        };
        let job = slot.job.as_mut();
        let next = match (connection.verdict(), job) {
            (Ok(()), Some(job)) => job.answered(&answer, rules),
            (Ok(()), None) => Ok(Next::Done),
            (Err(failure), _) => Err(failure),
        };
        if !connection.reusable() {
            connection.close();
        }
        match next {
            Ok(Next::Call(call)) => self.call(index, call, stage),
            Ok(Next::Timed(call)) => {
                let now = self.now();
                self.with(index, |slot| slot.from_ns = now);
                self.call(index, call, stage);
            }
            Ok(Next::Done) => self.succeed(index),
            Err(failure) => self.fail(index, &failure, stage),
        }
    }

    fn succeed(&mut self, index: usize) {
        let now = self.now();
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let counted = !std::mem::take(&mut slot.uncounted);
        if let Some(job) = slot.job.take().filter(|_| counted) {
            let latency = now.saturating_sub(slot.from_ns);
            self.tally
                .succeeded(now, latency, job.bytes(), self.load.live);
        }
        self.idle.push_back(index);
    }

    /// The connection broke. A connection that was used before and broke before
    /// an answer was closed by an idle server: the call is sent once more over a
    /// new one (RFC 9112, section 9.3.1; all our calls may be repeated).
    fn broken(&mut self, index: usize, failure: Failure, stage: &Stage) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let stale = slot.connection.used && slot.connection.untouched() && !slot.retried;
        slot.connection.close();
        if stale && matches!(failure, Failure::Closed(_)) {
            slot.retried = true;
            self.tally.reconnects += 1;
            return self.send_anew(index, stage);
        }
        self.fail(index, &failure, stage);
    }

    fn fail(&mut self, index: usize, failure: &Failure, stage: &Stage) {
        let now = self.now();
        let rests = matches!(failure, Failure::Connect(_));
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let call = &slot.connection.call;
        let key = call
            .object
            .map(|o| stage.workload.space.key(o))
            .unwrap_or_default();
        let what = format!("{} {key}", call.method.text());
        let job = slot.job.take();
        if !std::mem::take(&mut slot.uncounted) {
            self.tally.failed(now, failure, &what, self.load.live);
        }
        if let Some((job, call)) = job.as_ref().and_then(Job::abort) {
            slot.uncounted = true;
            slot.job = Some(job);
            return self.call(index, call, stage);
        }
        if rests {
            self.resting
                .push_back((now + REST.as_nanos() as u64, index));
        } else {
            self.idle.push_back(index);
        }
    }

    /// Ends requests that are over their time.
    fn expire(&mut self, now: u64, stage: &Stage) {
        for index in 0..self.slots.len() {
            let late = |s: &Slot| s.job.is_some() && s.deadline_ns <= now;
            if self.slots.get(index).is_some_and(late) {
                self.with(index, |slot| slot.connection.close());
                self.fail(index, &Failure::Timeout, stage);
            }
        }
    }

    /// Leaves requests that are under way: interrupted, neither done nor failed.
    fn drop_all(&mut self) {
        for index in 0..self.slots.len() {
            if let Some(slot) = self.slots.get_mut(index).filter(|s| s.job.is_some()) {
                slot.job = None;
                slot.connection.close();
                self.idle.push_back(index);
            }
        }
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
