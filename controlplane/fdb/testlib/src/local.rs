//! A transaction of the embedded store that answers questions.

use futures_util::FutureExt as _;
use quickwater_controlplane::store::{
    CommitError, EmbeddedStore, EmbeddedTransaction, Store, StoreError, Transaction,
};

use crate::wire::{Question, Reply};

const CLIENT_INVALID_OPERATION: i32 = 2000;
const INTERNAL_ERROR: i32 = 4100;

/// A transaction in this process.
pub(crate) struct Local(EmbeddedTransaction);

impl Local {
    /// A new one.
    #[must_use]
    pub(crate) fn begin(store: &EmbeddedStore) -> Self {
        Self(store.begin())
    }

    /// Answers all but the commit.
    pub(crate) fn answer(&mut self, question: Question) -> Reply {
        let own = &mut self.0;
        match question {
            Question::ReadVersion => own.read_version().map_or_else(read_failed, Reply::Number),
            Question::Get(key, true) => at_once(own.get_snapshot(&key), Reply::Value),
            Question::Get(key, false) => at_once(own.get(&key), Reply::Value),
            Question::Scan(scan) => at_once(own.scan(scan), Reply::Rows),
            Question::Bytes => Reply::Number(own.affected_bytes() as u64),
            Question::Begin | Question::Commit => Reply::Failed(CLIENT_INVALID_OPERATION),
            write => {
                self.write(write);
                Reply::Done
            }
        }
    }

    fn write(&mut self, write: Question) {
        let own = &mut self.0;
        match write {
            Question::Set(key, value) => own.set(&key, &value),
            Question::Clear(key) => own.clear(&key),
            Question::ClearRange(range) => own.clear_range(range),
            Question::Add(key, delta) => own.add(&key, delta),
            Question::Stamp(key, template, offset) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                own.set_versionstamped_value(&key, &template, offset);
            }
            Question::ReadConflict(range) => own.add_read_conflict(range),
            Question::WriteConflict(range) => own.add_write_conflict(range),
            // The rest are no writes.
            _ => {}
        }
    }

    /// Commits.
    pub(crate) async fn commit(self) -> Reply {
        match self.0.commit().await {
            Ok(version) => Reply::Committed(version),
            Err(error) => Reply::Failed(commit_code(&error)),
        }
    }
}

/// Reads of a store in memory wait for nothing.
fn at_once<T>(
    answer: impl Future<Output = Result<T, StoreError>>,
    reply: impl Fn(T) -> Reply,
) -> Reply {
    match answer.now_or_never() {
        Some(answer) => answer.map_or_else(read_failed, reply),
        None => Reply::Failed(INTERNAL_ERROR),
    }
}

fn read_failed(error: StoreError) -> Reply {
    Reply::Failed(match error {
        StoreError::TooOld => 1007,
        StoreError::Unreadable => 1036,
        StoreError::Again(_) => 1037,
        StoreError::ReservedKey => 2004,
        StoreError::KeyTooLarge => 2102,
        StoreError::Unavailable(_) => INTERNAL_ERROR,
    })
}

fn commit_code(error: &CommitError) -> i32 {
    match error {
        CommitError::TooOld => 1007,
        CommitError::Conflict => 1020,
        CommitError::Unknown => 1021,
        CommitError::Again(_) | CommitError::Unavailable(_) => 1042,
        CommitError::Invalid("reserved key") => 2004,
        CommitError::Invalid(_) => CLIENT_INVALID_OPERATION,
        CommitError::TooLarge("key") => 2102,
        CommitError::TooLarge("value") => 2103,
        CommitError::TooLarge(_) => 2101,
    }
}
