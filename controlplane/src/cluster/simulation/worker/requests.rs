//! What a worker does for clients: a write, a read, and the metadata calls of both. After the
//! engine's flows and the client's calls.

use std::rc::Rc;
use std::sync::Arc;

use quickwater_proto::{MetadataError, PersistState, PutCondition};
use quickwater_rpc::cluster as messages;

use super::{ANSWER_WAIT, CALL_WAIT, LOOK_PAUSE, Mistake, Refused, Seen, Stage, Worker};
use crate::cluster::wire;
use crate::namespace::{SystemClock, WallClock as _};

impl Worker {
    /// A metadata call, sent again by the next session when one ends.
    pub(super) async fn call(
        &self,
        life: u64,
        mut call: messages::Call,
    ) -> Result<messages::Answer, MetadataError> {
        let deadline = self.sim.now() + CALL_WAIT;
        let mut last = None;
        loop {
            let session = self.mind.borrow().session;
            let Some(session) = session.filter(|session| Some(*session) != last) else {
                if self.sim.now() >= deadline {
                    let why = "out of reach".to_owned();
                    return Err(match call.again {
                        true => MetadataError::Unknown(why),
                        false => MetadataError::Unavailable(why),
                    });
                }
                self.sleep(life, LOOK_PAUSE).await;
                continue;
            };
            let (control, node) = (Rc::clone(&self.control), self.node.clone());
            let sent = call.clone();
            let handle = async move {
                let cluster = control.cluster()?;
                if !cluster.attends(&node, session) {
                    return None;
                }
                Some(cluster.call(&node, session, sent).await)
            };
            let answer = self.network.call(self.at, ANSWER_WAIT, handle).await;
            self.wake(life).await;
            if let Some(answer) = answer {
                return wire::error(&answer).map_or(Ok(answer), Err);
            }
            // The session is given up whole.
            let mut mind = self.mind.borrow_mut();
            if mind.session == Some(session) {
                mind.session = None;
            }
            last = Some(session);
            call.again = true;
        }
    }

    /// See the engine's `remember`. `since`: when the lock was taken.
    fn remember(&self, key: usize, known: (u128, String), since: u64) {
        let mut mind = self.mind.borrow_mut();
        let late = mind.lapses != since;
        if !late || self.scene.mistake == Some(Mistake::LateIsRemembered) {
            mind.remembered.insert(key, known);
        }
    }

    /// PUT.
    pub(in super::super) async fn write(&self, key: usize, value: &str) -> Result<Seen, Refused> {
        let life = self.life.get();
        self.wake(life).await;
        let lock = Arc::clone(&self.locks.borrow()[key]);
        let _guard = lock.lock_owned().await;
        self.wake(life).await;
        if !self.permits(key) {
            return Err(Refused);
        }
        let since = self.mind.borrow().lapses;
        let back = self.writes_back(key);
        match back {
            true => self.disk.set(key, value, Stage::Begun),
            false if self.scene.ufs.is_away(self.sim.now()) => return Err(Refused),
            false => self.scene.ufs.put(value),
        }
        let persist = match back {
            true => PersistState::NotPersisted,
            false => PersistState::Persisted,
        };
        let call = messages::Call {
            once: wire::number_to_wire(self.sim.random_u128()),
            began_ms: SystemClock.wall_ms(),
            object: Some(wire::object_to_wire(&super::super::record(value, persist)).unwrap()),
            condition: Some(wire::condition_to_wire(&PutCondition::None)),
            ..wire::about(
                messages::Operation::CommitObject,
                self.scene.bucket,
                &self.scene.keys[key],
            )
        };
        match self.call(life, call).await {
            Ok(answer) => {
                let version = wire::number(&answer.version).unwrap();
                let mut mind = self.mind.borrow_mut();
                mind.queue.remove(&key);
                if back {
                    self.disk.set(key, value, Stage::Final);
                    mind.queue.insert(key, (version, value.to_owned()));
                }
                drop(mind);
                self.remember(key, (version, value.to_owned()), since);
                Ok(Seen::Wrote(version))
            }
            Err(MetadataError::Unavailable(_)) => {
                self.disk.remove(key, value);
                Err(Refused)
            }
            Err(_) => {
                if back {
                    self.disk.set(key, value, Stage::Unknown);
                }
                let mut mind = self.mind.borrow_mut();
                mind.remembered.remove(&key);
                // The next session fences it.
                mind.session = None;
                Ok(Seen::Unknown)
            }
        }
    }

    /// GET, as the engine's `resolve` does it.
    pub(in super::super) async fn read(&self, key: usize) -> Result<Seen, Refused> {
        let life = self.life.get();
        self.wake(life).await;
        let (since, known) = {
            let mind = self.mind.borrow();
            (mind.lapses, mind.remembered.get(&key).cloned())
        };
        if let Some((version, value)) = known {
            if !self.permits(key) {
                return Err(Refused);
            }
            if self.mind.borrow().lapses == since {
                return self.bytes_of(key, version, value);
            }
        }
        let lock = Arc::clone(&self.locks.borrow()[key]);
        let _guard = lock.lock_owned().await;
        self.wake(life).await;
        if !self.permits(key) {
            return Err(Refused);
        }
        if let Some((version, value)) = self.mind.borrow().remembered.get(&key).cloned() {
            return self.bytes_of(key, version, value);
        }
        let since = self.mind.borrow().lapses;
        let call = wire::about(
            messages::Operation::Object,
            self.scene.bucket,
            &self.scene.keys[key],
        );
        let answer = self.call(life, call).await.map_err(|_| Refused)?;
        let found = match &answer.object {
            Some(found) => {
                let record = wire::object(found).unwrap();
                (record.version.0, record.etag.as_str().to_owned())
            }
            None => (0, String::new()),
        };
        if found.0 > 0 {
            self.remember(key, found.clone(), since);
        }
        match self.permits(key) {
            true => self.bytes_of(key, found.0, found.1),
            false => Err(Refused),
        }
    }
}
