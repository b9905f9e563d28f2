//! The steps of a request on its connection: call, send, receive, judge, count.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::slot::Slot;
use super::{Driver, Stage};
use crate::client::call::{Call, Method};
use crate::client::connection::{Progress, Watch};
use crate::client::errors::Failure;
use crate::client::job::{Answer, Job, Next, Rules};
use crate::client::poll::Ready;
use crate::workload::{Action, Versions, content};

/// A connection that could not be opened rests.
const REST: Duration = Duration::from_millis(100);

/// A write gets a version of its own, of an object that nobody else writes now; where
/// there is none it becomes a read.
fn versioned(action: Action, stage: &Stage, versions: &Versions) -> (Action, Option<(u64, u32)>) {
    let Action::Put(object) = action else {
        return (action, None);
    };
    let Some((index, version)) = versions.begin_write(object.index) else {
        return (Action::Get(object), None);
    };
    let mut object = stage.workload.space.object(index);
    object.content = content(object, version);
    (Action::Put(object), Some((index, version)))
}

impl Driver<'_> {
    fn rules<'s>(&self, stage: &'s Stage) -> Rules<'s> {
        Rules {
            space: &stage.workload.space,
            part_size: self.load.part_size,
            page: self.load.page,
        }
    }

    pub(super) fn begin(&mut self, index: usize, action: Action, from_ns: u64, stage: &Stage) {
        let (mut action, mut writes, mut watch) = (action, None, None);
        if let Some(versions) = &stage.versions {
            (action, writes) = versioned(action, stage, versions);
            watch = match action {
                Action::Get(object) => Some(Watch {
                    versions: Arc::clone(versions),
                    object,
                    oldest: versions.oldest(object.index),
                }),
                _ => None,
            };
        }
        let (job, call) = Job::start(action, self.rules(stage));
        self.with(index, |slot| {
            slot.job = Some(job);
            slot.from_ns = from_ns;
            slot.writes = writes;
            slot.connection.watch = watch;
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

    pub(super) fn open(&mut self, index: usize) -> io::Result<()> {
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

    pub(super) fn handle_ready(&mut self) {
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

    pub(super) fn handle_stage_ready(&mut self, stage: &Stage) {
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
            self.tally.reconnects += 1;
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
        let secure = self.load.target.address.secure.as_ref();
        let connected = slot.connection.connected(secure);
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
            self.tally.reconnects += 1;
            connection.close();
        }
        match next {
            Ok(Next::Call(call)) => self.call(index, call, stage),
            Ok(Next::Timed(call)) => {
                let now = self.now();
                self.with(index, |slot| slot.from_ns = now);
                self.call(index, call, stage);
            }
            Ok(Next::Done) => {
                self.wrote(index, stage, true);
                self.succeed(index);
            }
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
            self.tally.resent += 1;
            return self.send_anew(index, stage);
        }
        self.fail(index, &failure, stage);
    }

    /// The write of a versioned object ended, if there was one.
    fn wrote(&mut self, index: usize, stage: &Stage, acked: bool) {
        let write = self.slots.get_mut(index).and_then(|s| s.writes.take());
        if let (Some((object, version)), Some(versions)) = (write, &stage.versions) {
            versions.wrote(object, version, acked);
        }
    }

    fn fail(&mut self, index: usize, failure: &Failure, stage: &Stage) {
        self.wrote(index, stage, false);
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
        let waited = now.saturating_sub(slot.from_ns);
        if !std::mem::take(&mut slot.uncounted) {
            self.tally.failed(now, failure, &what, self.load.live);
            // What fails fast must not make the open loop look quick.
            if stage.schedule.rate.is_some() && failure.is_unanswered() {
                let timeout = u64::try_from(self.load.timeout.as_nanos()).unwrap_or(u64::MAX);
                self.tally.unanswered(waited.max(timeout));
            }
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
    pub(super) fn expire(&mut self, now: u64, stage: &Stage) {
        for index in 0..self.slots.len() {
            let late = |s: &Slot| s.job.is_some() && s.deadline_ns <= now;
            if self.slots.get(index).is_some_and(late) {
                self.with(index, |slot| slot.connection.close());
                self.fail(index, &Failure::Timeout, stage);
            }
        }
    }

    /// Leaves requests that are under way: interrupted, neither done nor failed.
    pub(super) fn drop_all(&mut self) {
        for index in 0..self.slots.len() {
            if let Some(slot) = self.slots.get_mut(index).filter(|s| s.job.is_some()) {
                slot.job = None;
                slot.connection.close();
                self.idle.push_back(index);
            }
        }
    }
}
