//! The commit: faults, crashes, a deadline that gives up the answer and not the
//! commit, and everything that waits for its end.

use std::sync::Arc;

use bytes::Bytes;
use quickwater_controlplane::store::CommitVersion;

use super::{Phase, State, TRANSACTION_TIMED_OUT, Transaction, USED_DURING_COMMIT, wait};
use crate::database::{Counts, Database};
use crate::faults::{CommitFault, Crash};
use crate::network;
use crate::promise::{Answer, Outcome, Promise};
use crate::session::Session;
use crate::strict;

const NO_COMMIT_VERSION: i32 = 2021;
/// The version of a transaction that wrote nothing.
const READ_ONLY_VERSION: i64 = -1;

type Committed = Result<Option<CommitVersion>, i32>;

impl Transaction {
    pub(crate) fn commit(self: &Arc<Self>) -> Promise {
        let promise = Promise::default();
        let mut state = self.state();
        let misused = state.phase != Phase::Open;
        strict::refuse(&self.database, misused, "a commit during or after commit");
        let mut session = match (misused, state.session.take()) {
            (false, Some(session)) => session,
            _ => return Promise::ready(Err(USED_DURING_COMMIT)),
        };
        for range in state.conflicts.drain(..) {
            session.read_conflict(range);
        }
        state.phase = Phase::Committing;
        if state.writes {
            self.database.trace.note(state.number, "commit", b"", 0);
        }
        let (attempt, error, writes) = (state.attempt, state.error, state.writes);
        self.check_strictly(&state, &mut session);
        if let Some(at) = state.deadline {
            let (own, late) = (Arc::clone(self), promise.clone());
            network::spawn(async move {
                tokio::time::sleep_until(at.into()).await;
                own.finish(attempt, &late, Err(TRANSACTION_TIMED_OUT));
            });
        }
        drop(state);
        let (own, answer) = (Arc::clone(self), promise.clone());
        match (error, writes) {
            (Some(code), _) => network::spawn(async move {
                own.finish(attempt, &answer, Err(code));
            }),
            (None, false) => network::spawn(async move {
                own.finish(attempt, &answer, Ok(None));
            }),
            (None, true) => network::spawn(async move {
                let outcome = apply(&own.database, session).await;
                own.finish(attempt, &answer, outcome);
            }),
        }
        promise
    }

    /// The version of the commit, or that it wrote nothing.
    pub(crate) fn committed_version(&self) -> Result<i64, i32> {
        match self.state().phase {
            Phase::Committed(None) => Ok(READ_ONLY_VERSION),
            Phase::Committed(Some(CommitVersion(bytes))) => {
                let version = bytes.iter().take(8);
                Ok(version.fold(0, |version, byte| version << 8 | i64::from(*byte)))
            }
            Phase::Failed(code) => Err(code),
            Phase::Open | Phase::Committing => Err(USED_DURING_COMMIT),
        }
    }

    fn check_strictly(&self, state: &State, session: &mut Session) {
        let large = state.writes && session.bytes() > strict::TRANSACTION_BYTES;
        strict::refuse(&self.database, large, "a transaction of more than 1 MB");
        let reserved = state.error == Some(2004);
        strict::refuse(&self.database, reserved, "a write to a system key");
        let age = state.reading_since.map(|since| since.elapsed());
        let old = match (age, self.database.faults().strict_age()) {
            (Some(age), Some(most)) => state.writes && age > most,
            _ => false,
        };
        strict::refuse(&self.database, old, "a commit long after the first read");
    }

    /// The first end of an attempt's commit counts.
    fn finish(&self, attempt: u32, promise: &Promise, outcome: Committed) {
        let (stamps, watches) = {
            let mut state = self.state();
            if state.attempt != attempt || state.phase != Phase::Committing {
                return;
            }
            state.phase = match outcome {
                Ok(version) => Phase::Committed(version),
                Err(code) => Phase::Failed(code),
            };
            (
                std::mem::take(&mut state.stamps),
                std::mem::take(&mut state.watches),
            )
        };
        for waiting in stamps {
            waiting.set(outcome.map_or_else(Err, stamp));
        }
        for watch in watches {
            match outcome {
                Ok(_) => watch.start(Arc::clone(&self.database)),
                Err(code) => watch.promise.set(Err(code)),
            }
        }
        promise.set(outcome.map(|_| Answer::Nothing));
    }
}

/// The versionstamp of a commit.
pub(super) fn stamp(version: Option<CommitVersion>) -> Outcome {
    let version = version.ok_or(NO_COMMIT_VERSION)?;
    Ok(Answer::Key(Bytes::copy_from_slice(version.as_bytes())))
}

/// Applies what a session wrote, or not, as the plan says.
async fn apply(database: &Arc<Database>, session: Session) -> Committed {
    wait(database, None).await;
    Counts::add(&database.counts.commits);
    let crash = database.faults().crash();
    if crash == Some(Crash::Before) {
        std::process::abort();
    }
    let outcome = match database.faults().commit() {
        None => session.commit().await.map(Some),
        Some(CommitFault::Lost(code)) => Err(code),
        Some(CommitFault::Applied(code)) => session.commit().await.and(Err(code)),
        Some(CommitFault::Late(code, by)) => {
            network::spawn(async move {
                tokio::time::sleep(by).await;
                // Nobody waits for the answer any more.
                let _ = session.commit().await;
            });
            Err(code)
        }
    };
    if crash == Some(Crash::After) {
        std::process::abort();
    }
    outcome
}
