//! Calls of a transaction that answer with a future, the commit apart.

use std::time::Instant;

use super::{Phase, State, Transaction, USED_DURING_COMMIT};
use crate::database::Counts;
use crate::promise::{Answer, Promise};
use crate::session::Session;
use crate::strict;
use crate::watch::Watch;

const TRANSACTION_TOO_OLD: i32 = 1007;
const FUTURE_VERSION: i32 = 1009;
const ACCESSED_UNREADABLE: i32 = 1036;
const NO_COMMIT_VERSION: i32 = 2021;

impl Transaction {
    /// A read. Its rows are those of the call, whenever the answer comes.
    pub(crate) fn read(&self, read: impl FnOnce(&mut Session) -> Result<Answer, i32>) -> Promise {
        let promise = Promise::default();
        let mut state = self.state();
        let outcome = self.begin_read(&mut state).and_then(|()| {
            let session = state.session.as_mut().ok_or(USED_DURING_COMMIT)?;
            read(session)
        });
        let unreadable = matches!(outcome, Err(ACCESSED_UNREADABLE));
        strict::refuse(&self.database, unreadable, "a read of a versionstamped row");
        self.answer(&promise, outcome, &state);
        promise
    }

    /// The version it reads at.
    pub(crate) fn read_version(&self) -> Promise {
        self.read(|session| {
            let version = session.read_version()?;
            Ok(Answer::Number(i64::try_from(version).unwrap_or(i64::MAX)))
        })
    }

    /// Reads at this version. Only the newest can be had here: an older one is too
    /// old, a newer one is from the future.
    pub(crate) fn set_read_version(&self, version: i64) {
        self.state().wanted_version = Some(version);
    }

    /// A watch on the value as the transaction sees it.
    pub(crate) fn watch(&self, key: &[u8]) -> Promise {
        let promise = Promise::default();
        let mut state = self.state();
        let value = self.begin_read(&mut state).and_then(|()| {
            let session = state.session.as_mut().ok_or(USED_DURING_COMMIT)?;
            session.get(key, true)
        });
        match value {
            Ok(value) => state.watches.push(Watch {
                key: key.to_vec(),
                value,
                promise: promise.clone(),
            }),
            Err(code) => self.answer(&promise, Err(code), &state),
        }
        promise
    }

    /// The version of the commit, once there is one.
    pub(crate) fn stamp(&self) -> Promise {
        let mut state = self.state();
        let promise = Promise::default();
        match state.phase {
            Phase::Open | Phase::Committing => state.stamps.push(promise.clone()),
            Phase::Committed(version) => promise.set(super::commit::stamp(version)),
            Phase::Failed(_) => promise.set(Err(NO_COMMIT_VERSION)),
        }
        promise
    }

    /// Bytes that the transaction has affected.
    pub(crate) fn size(&self) -> Promise {
        let mut state = self.state();
        let bytes = state.session.as_mut().map(Session::bytes);
        let bytes = bytes.ok_or(USED_DURING_COMMIT);
        Promise::ready(bytes.map(|bytes| Answer::Number(i64::try_from(bytes).unwrap_or(i64::MAX))))
    }

    fn begin_read(&self, state: &mut State) -> Result<(), i32> {
        let misused = state.phase != Phase::Open;
        strict::refuse(&self.database, misused, "a read during or after commit");
        if misused {
            return Err(USED_DURING_COMMIT);
        }
        if let Some(code) = state.error {
            return Err(code);
        }
        if let Some(code) = self.database.faults().read() {
            return Err(code);
        }
        if state.reading_since.is_none() {
            Counts::add(&self.database.counts.read_versions);
            self.database.trace.note(state.number, "version", b"", 0);
            state.reading_since = Some(Instant::now());
        }
        let session = state.session.as_mut().ok_or(USED_DURING_COMMIT)?;
        match (state.wanted_version, session.read_version()?) {
            (Some(wanted), version) if wanted > i64::try_from(version).unwrap_or(i64::MAX) => {
                Err(FUTURE_VERSION)
            }
            (Some(wanted), version) if wanted < i64::try_from(version).unwrap_or(i64::MAX) => {
                Err(TRANSACTION_TOO_OLD)
            }
            _ => {
                for range in state.conflicts.drain(..) {
                    session.read_conflict(range);
                }
                Ok(())
            }
        }
    }
}
