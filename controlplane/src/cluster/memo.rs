//! What calls that change something were answered, for those who ask again because
//! the answer did not reach them. Absent: what is stored; a restart forgets it all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use quickwater_rpc::cluster::Answer;
use tokio::sync::watch;

/// How long an answer is remembered: longer than any call is sent again.
const KEEP: Duration = Duration::from_secs(60);
/// Most answers remembered; older ones go first.
const ANSWERS_MAX: usize = 65_536;
/// Most bytes of them.
const BYTES_MAX: usize = 64 << 20;

type Slot = watch::Receiver<Option<Arc<Answer>>>;

/// All answers.
#[derive(Debug, Default)]
pub(super) struct Memo(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<u128, Slot>,
    /// Answers that were given, oldest first.
    done: VecDeque<(u128, Instant, usize)>,
    bytes: usize,
}

/// What is known of a call.
pub(super) enum Known {
    /// Nothing: make it, then say how it went.
    New(Promise),
    /// It is being made, or was.
    Asked(Slot),
}

/// Somebody makes the call and will say how it went; dropped, nobody knows.
pub(super) struct Promise {
    id: u128,
    sender: watch::Sender<Option<Arc<Answer>>>,
}

impl Memo {
    /// What is known of a call; if nothing, the caller makes it.
    pub(super) fn look(&self, id: u128) -> Known {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get(&id) {
            return Known::Asked(slot.clone());
        }
        let (sender, slot) = watch::channel(None);
        inner.slots.insert(id, slot);
        Known::New(Promise { id, sender })
    }

    /// Notes an answer.
    pub(super) fn keep(&self, promise: &Promise, answer: &Arc<Answer>) {
        promise.sender.send_replace(Some(Arc::clone(answer)));
        let bytes = answer.encoded_len();
        let mut inner = self.lock();
        inner.done.push_back((promise.id, Instant::now(), bytes));
        inner.bytes += bytes;
        inner.trim();
    }

    /// Forgets a call that changed nothing, so that it can be made anew.
    pub(super) fn forget(&self, promise: Promise) {
        self.lock().slots.remove(&promise.id);
    }

    /// Forgets a call whose maker ended without an answer.
    pub(super) fn forget_orphan(&self, id: u128) {
        let mut inner = self.lock();
        let slot = inner.slots.get(&id);
        if slot.is_some_and(|slot| slot.has_changed().is_err() && slot.borrow().is_none()) {
            inner.slots.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn trim(&mut self) {
        while let Some((id, at, bytes)) = self.done.front().copied() {
            let over = self.done.len() > ANSWERS_MAX || self.bytes > BYTES_MAX;
            if !over && at.elapsed() < KEEP {
                break;
            }
            self.done.pop_front();
            self.bytes -= bytes;
            self.slots.remove(&id);
        }
    }
}
