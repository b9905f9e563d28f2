//! Writes that may be made twice: no row says that they were. Absent: what is noted.

use std::future::Future;

use quickwater_proto::{MetadataError, Version};
use tokio::time::{Instant, sleep};

use super::mutate::{ATTEMPTS_TIME_MAX, Step, backoff};
use super::{Namespace, Stop};
use crate::records::version_of;
use crate::store::{CommitError, Store, Transaction};

/// A write that does no harm when it is made again, or lands after it was made again:
/// what it decides by is read with conflicts.
pub(super) trait Note: Send + Sync {
    /// What it answers.
    type Answer: Send;
    /// Flushed some time later.
    const RELAXED: bool;

    /// Reads and writes. Called once per attempt.
    fn write<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> impl Future<Output = Result<Step<Self::Answer>, Stop>> + Send;
}

impl<S: Store> Namespace<S> {
    /// Makes a note. The version is that of its last commit, none when there was
    /// nothing to write. Tried again for as long as a change, after an unknown outcome
    /// too.
    ///
    /// # Errors
    /// [`MetadataError::Unknown`]: it may be made, or be made later.
    pub(super) async fn note<N: Note>(
        &self,
        note: &N,
    ) -> Result<(N::Answer, Option<Version>), MetadataError> {
        let deadline = Instant::now() + ATTEMPTS_TIME_MAX;
        let mut is_unknown = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.try_note(note).await {
                Ok(noted) => return Ok(noted),
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Again(error)) => error,
                Err(Failed::Unknown(error)) => {
                    is_unknown = true;
                    error
                }
            };
            let wait = backoff(attempt);
            if attempt >= self.attempts_max || Instant::now() + wait >= deadline {
                return Err(match is_unknown {
                    true => MetadataError::Unknown(error),
                    false => MetadataError::Unavailable(error),
                });
            }
            sleep(wait).await;
        }
    }

    async fn try_note<N: Note>(&self, note: &N) -> Result<(N::Answer, Option<Version>), Failed> {
        let mut transaction = self.store.begin();
        let answer = match note.write(&mut transaction).await? {
            Step::Commit(answer) => answer,
            Step::Nothing(answer) => return Ok((answer, None)),
        };
        let committed = match N::RELAXED {
            true => transaction.commit_relaxed().await,
            false => transaction.commit().await,
        };
        Ok((answer, Some(version_of(committed?))))
    }
}

/// What became of an attempt that noted nothing.
enum Failed {
    Again(String),
    Unknown(String),
    Refused(MetadataError),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Store(error) if error.is_retryable() => Self::Again(error.to_string()),
            Stop::Store(error) => Self::Refused(MetadataError::Unavailable(error.to_string())),
            Stop::Refused(error) => Self::Refused(error),
        }
    }
}

impl From<CommitError> for Failed {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Unknown => Self::Unknown(error.to_string()),
            _ if error.is_retryable() => Self::Again(error.to_string()),
            _ => Self::Refused(MetadataError::Unavailable(error.to_string())),
        }
    }
}
