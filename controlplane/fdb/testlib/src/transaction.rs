//! A transaction of the C API: what may be called when, faults, deadlines, and the
//! answer to its commit.

mod commit;
mod read;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quickwater_controlplane::store::{CommitVersion, KeyRange};

use crate::database::Database;
use crate::network;
use crate::promise::{Answer, Outcome, Promise};
use crate::session::Session;
use crate::strict;
use crate::trace;
use crate::watch::Watch;

pub(crate) const TRANSACTION_CANCELLED: i32 = 1025;
pub(crate) const TRANSACTION_TIMED_OUT: i32 = 1031;
const USED_DURING_COMMIT: i32 = 2017;
/// First wait before a retry; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A transaction handle.
pub(crate) struct Transaction {
    pub(super) database: Arc<Database>,
    state: Mutex<State>,
    /// Of a new or reset transaction, from the database.
    timeout: Option<Duration>,
}

/// How far the attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Committing,
    /// With the version, unless nothing was written.
    Committed(Option<CommitVersion>),
    Failed(i32),
}

/// One attempt.
struct State {
    /// Not there while it is committed and after.
    session: Option<Session>,
    phase: Phase,
    /// Attempts before this one.
    attempt: u32,
    /// Of all attempts of the process.
    number: u64,
    /// What a call without an answer did wrong; the commit says it.
    error: Option<i32>,
    writes: bool,
    reading_since: Option<Instant>,
    wanted_version: Option<i64>,
    deadline: Option<Instant>,
    cancelled: Arc<AtomicBool>,
    /// Read conflicts that wait for a version to read at.
    conflicts: Vec<KeyRange>,
    stamps: Vec<Promise>,
    watches: Vec<Watch>,
}

impl State {
    fn begin(database: &Database, attempt: u32, timeout: Option<Duration>) -> Self {
        Self {
            session: Some(Session::begin(database)),
            phase: Phase::Open,
            attempt,
            number: trace::next_attempt(),
            error: None,
            writes: false,
            reading_since: None,
            wanted_version: None,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            cancelled: Arc::default(),
            conflicts: Vec::new(),
            stamps: Vec::new(),
            watches: Vec::new(),
        }
    }
}

impl Transaction {
    pub(crate) fn begin(database: Arc<Database>, timeout: Option<Duration>) -> Arc<Self> {
        let state = Mutex::new(State::begin(&database, 0, timeout));
        Arc::new(Self {
            database,
            state,
            timeout,
        })
    }

    /// The attempt ends and another begins.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        let next = State::begin(&self.database, state.attempt + 1, self.timeout);
        let before = std::mem::replace(&mut *state, next);
        drop(state);
        end(before);
    }

    /// Nothing more comes of the attempt, but a commit on its way goes on.
    pub(crate) fn cancel(&self) {
        let mut state = self.state();
        state.cancelled.store(true, Ordering::SeqCst);
        state.error = Some(TRANSACTION_CANCELLED);
    }

    /// Sets the time that the attempt has left, counted from now; 0 is any time.
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) {
        self.state().deadline = timeout.map(|timeout| Instant::now() + timeout);
    }

    /// Answers when it makes sense to try again, or with the error when it does not.
    pub(crate) fn on_error(&self, code: i32, is_retryable: bool) -> Promise {
        if !is_retryable {
            return Promise::ready(Err(code));
        }
        let attempt = self.state().attempt.min(10);
        self.reset();
        let wait = BACKOFF_FIRST.saturating_mul(1 << attempt).min(BACKOFF_MAX);
        let promise = Promise::default();
        let later = promise.clone();
        network::spawn(async move {
            tokio::time::sleep(wait).await;
            later.set(Ok(Answer::Nothing));
        });
        promise
    }

    /// Does `write` in the open attempt; otherwise it is a mistake.
    pub(crate) fn write(&self, write: impl FnOnce(&mut Session) -> Result<(), i32>) {
        let mut state = self.state();
        let misused = state.phase != Phase::Open;
        strict::refuse(&self.database, misused, "a write during or after commit");
        if let (Phase::Open, Some(session)) = (state.phase, state.session.as_mut()) {
            let written = write(session);
            state.writes = true;
            if let Err(code) = written {
                state.error.get_or_insert(code);
            }
        }
    }

    /// Adds a read conflict. As in the real library that fixes no version to read
    /// at: without a read before, it is that of the commit.
    pub(crate) fn conflict(&self, range: KeyRange) {
        self.state().conflicts.push(range);
    }

    /// Leaves a trace of a call.
    pub(crate) fn trace(&self, call: &str, key: &[u8], value_bytes: usize) {
        let number = self.state().number;
        self.database.trace.note(number, call, key, value_bytes);
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the promise as a cluster would: from the network thread, maybe late.
    fn answer(&self, promise: &Promise, outcome: Outcome, state: &State) {
        let (promise, deadline) = (promise.clone(), state.deadline);
        let (database, cancelled) = (Arc::clone(&self.database), Arc::clone(&state.cancelled));
        network::spawn(async move {
            if !wait(&database, deadline).await {
                return promise.set(Err(TRANSACTION_TIMED_OUT));
            }
            promise.set(match cancelled.load(Ordering::SeqCst) {
                true => Err(TRANSACTION_CANCELLED),
                false => outcome,
            });
        });
    }
}

/// The delays of the plan. `false` when the deadline came first.
async fn wait(database: &Database, deadline: Option<Instant>) -> bool {
    if let Some(stall) = database.faults().stall() {
        // The thread itself stands still, and with it every other answer.
        std::thread::sleep(stall);
    }
    let until = Instant::now() + database.faults().delay().unwrap_or_default();
    let late = deadline.filter(|deadline| *deadline < until);
    tokio::time::sleep_until(late.unwrap_or(until).into()).await;
    late.is_none()
}

/// What still waits for an attempt that is over.
fn end(state: State) {
    state.cancelled.store(true, Ordering::SeqCst);
    for stamp in state.stamps {
        stamp.set(Err(TRANSACTION_CANCELLED));
    }
    for watch in state.watches {
        watch.promise.set(Err(TRANSACTION_CANCELLED));
    }
}
