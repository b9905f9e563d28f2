//! What a worker alone has: sent to the UFS when that is there, kept until it is, given away by
//! nobody before. After the engine's persister, its `HeldCopies`, and the end of a process.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quickwater_rpc::cluster as messages;

use super::{ANSWER_WAIT, HAND_OVER_WAIT, LOOK_PAUSE, Mistake, Refused, Seen, Worker};
use crate::cluster::wire;
use crate::namespace::{SystemClock, WallClock as _};

impl Worker {
    /// Sends what the UFS does not have, for ever.
    pub(super) async fn persist(self: Rc<Self>) {
        let life = self.life.get();
        loop {
            self.sleep(life, LOOK_PAUSE).await;
            if self.scene.ufs.is_away(self.sim.now()) {
                continue;
            }
            let queue = self.mind.borrow().queue.clone();
            // What has waited longest of what can be sent.
            let can = queue.into_iter();
            let can =
                can.filter(|(key, (_, value))| self.permits(*key) && self.reaches(*key, value));
            let Some((key, (version, value))) = can.min_by_key(|(_, (version, _))| *version) else {
                continue;
            };
            self.mind.borrow_mut().running.insert(key);
            // Longer than the time between two writes of a key, mostly.
            let time = Duration::from_millis(300 + self.sim.below(1_500));
            self.sleep(life, time).await;
            let away = self.scene.ufs.is_away(self.sim.now());
            if !away && self.permits(key) && self.reaches(key, &value) {
                self.scene.ufs.put(&value);
                self.conclude(life, key, version, &value).await;
            }
            self.mind.borrow_mut().running.remove(&key);
        }
    }

    async fn conclude(&self, life: u64, key: usize, version: u128, value: &str) {
        let lock = Arc::clone(&self.locks.borrow()[key]);
        let _guard = lock.lock_owned().await;
        self.wake(life).await;
        if !self.permits(key) {
            return;
        }
        let call = messages::Call {
            once: wire::number_to_wire(self.sim.random_u128()),
            began_ms: SystemClock.wall_ms(),
            version: wire::number_to_wire(version),
            ufs: Some(messages::UfsIdentity::default()),
            ..wire::about(
                messages::Operation::EndPending,
                self.scene.bucket,
                &self.scene.keys[key],
            )
        };
        if self.call(life, call).await.is_ok() {
            self.disk.remove(key, value);
            let mut mind = self.mind.borrow_mut();
            if mind.queue.get(&key).is_some_and(|(of, _)| *of == version) {
                mind.queue.remove(&key);
            }
        }
    }

    /// Lets go of what nobody needs any more: see `HeldCopies`.
    pub(super) async fn keep(self: Rc<Self>) {
        let life = self.life.get();
        loop {
            self.sleep(life, Duration::from_millis(500)).await;
            for (key, value) in self.disk.judged() {
                let Ok((version, current, pending)) = self.look(life, key).await else {
                    continue;
                };
                if current != value || !pending {
                    self.disk.remove(key, &value);
                } else if self.permits(key) {
                    // Its outcome was unknown: the slot is taken in anew.
                    let mut mind = self.mind.borrow_mut();
                    mind.queue.entry(key).or_insert((version, value));
                }
            }
        }
    }

    /// SIGTERM: hands over for a while, says goodbye, and is back some time later.
    pub(in super::super) fn end(self: &Rc<Self>, away: Duration) {
        let worker = Rc::clone(self);
        self.sim.spawn(async move {
            let life = worker.life.get();
            worker.mind.borrow_mut().stopping = true;
            let deadline = worker.sim.now() + HAND_OVER_WAIT;
            while worker.sim.now() < deadline {
                worker.sleep(life, LOOK_PAUSE).await;
                let mind = worker.mind.borrow();
                if mind.owned.is_empty() && mind.queue.is_empty() {
                    break;
                }
            }
            let answers_on = worker.scene.mistake == Some(Mistake::AnswersAfterGoodbye);
            worker.mind.borrow_mut().closed = !answers_on;
            for key in 0..worker.scene.slots.len() {
                worker.quiesce(life, key).await;
            }
            let session = worker.mind.borrow().session;
            worker.mind.borrow_mut().left = true;
            if let Some(session) = session {
                let (control, node) = (Rc::clone(&worker.control), worker.node.clone());
                let handle = async move { control.cluster()?.leave(&node, session).await.ok() };
                // It may get lost: then they wait for the lease.
                worker.network.call(worker.at, ANSWER_WAIT, handle).await;
                worker.wake(life).await;
            }
            if answers_on {
                worker.sleep(life, HAND_OVER_WAIT).await;
            }
            worker.life.set(life + 1);
            worker.mind.take();
            worker.disk.restarted();
            worker.sim.sleep(away).await;
            if worker.life.get() == life + 1 {
                worker.restart();
            }
        });
    }

    /// What it has of a key, for people.
    pub(in super::super) fn tells(&self, key: usize) -> String {
        let mind = self.mind.borrow();
        format!(
            "session {:?}, owned {:?}, queue {:?}, running {:?}, wanted {:?}, disk {:?}, key {key}",
            mind.session, mind.owned, mind.queue, mind.running, mind.wanted, self.disk
        )
    }

    /// Under WRITE_BACK, unless the slot is to be given away: see the engine's `policy`.
    pub(super) fn writes_back(&self, key: usize) -> bool {
        let mind = self.mind.borrow();
        let told = mind.stopping || mind.wanted.contains(&key);
        let clears = told && self.scene.mistake != Some(Mistake::ClearsNothing);
        let away = self.scene.ufs.is_away(self.sim.now());
        self.scene.keeps && (!clears || away)
    }

    /// Whether bytes are here, or on another worker that runs.
    pub(super) fn reaches(&self, key: usize, value: &str) -> bool {
        let workers = self.scene.workers.borrow();
        let mut others = workers.iter().filter(|other| other.at != self.at);
        self.disk.has(key, value) || others.any(|other| other.gives(key, value))
    }

    fn gives(&self, key: usize, value: &str) -> bool {
        let runs =
            self.frozen_until.get() <= self.sim.now() && self.mind.borrow().session.is_some();
        runs && self.disk.has(key, value)
    }

    /// The answer, if the bytes can be read.
    pub(super) fn bytes_of(
        &self,
        key: usize,
        version: u128,
        value: String,
    ) -> Result<Seen, Refused> {
        match value.is_empty() || self.scene.ufs.has(&value) || self.reaches(key, &value) {
            true => Ok(Seen::Read(version, value)),
            false => Err(Refused),
        }
    }
}
