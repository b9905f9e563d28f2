//! Runs a change until it is applied exactly once or refused. No rules here.
//!
//! A commit may end with an unknown outcome, and what was sent may even land
//! after the retry has begun. So every change has an operation id, and every
//! attempt, the first too, makes the row of that id a read conflict and writes
//! it: of two attempts only one can ever land. An attempt after an unknown
//! outcome reads the row first; when it is there, the answer is that of the
//! attempt which wrote it.
//!
//! To look whether the object is already as wanted would not do: another writer
//! may have replaced it since, and the retry would bring the old one back.
//!
//! A retry that is refused, or has nothing to do, where an earlier attempt of
//! unknown outcome would have changed something, read other rows than that one
//! did. These were written in between, so the earlier attempt can only end in a
//! conflict and the refusal is final. This holds because attempts decide by what
//! they read with conflicts and nothing else.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_proto::{BlobId, Committed, Holders, MetadataError, NodeId, ObjectRecord, Version};
use tokio::time::{Instant, sleep};

use super::read::Get;
use super::{Namespace, Stop, record_error};
use crate::keyspace;
use crate::records::{
    JournalEntry, VERSION_OFFSET, decode_operation, encode_operation, order_of, version_of,
};
use crate::store::{CommitError, KeyRange, Store, StoreError, Transaction};

/// Longest a change is attempted. The last attempt's commit may take longer, as
/// long as the store allows.
pub(super) const ATTEMPTS_TIME_MAX: Duration = Duration::from_secs(10);
/// Most attempts of one change.
pub(super) const ATTEMPTS_MAX: u32 = 200;
/// Longest wait before the second attempt; doubled before each later one.
const BACKOFF_FIRST: Duration = Duration::from_millis(1);
/// Longest wait before an attempt.
const BACKOFF_MAX: Duration = Duration::from_millis(64);
/// Milliseconds in the time unit of operation keys.
pub(super) const MINUTE_MS: i64 = 60_000;

/// A change of the namespace: rules over one transaction.
pub(super) trait Mutation: Send + Sync {
    /// What it answers.
    type Answer: Clone + Send + Sync;

    /// Reads with conflicts, decides, writes. Called once per attempt.
    fn apply<T: Transaction>(
        &self,
        transaction: &mut T,
        operation: &Operation,
    ) -> impl Future<Output = Result<Step<Self::Answer>, Stop>> + Send;
}

/// What an attempt decided.
pub(super) enum Step<A> {
    /// Commit, then answer this.
    Commit(A),
    /// Nothing to change; answer this.
    Nothing(A),
}

/// The id of a change that somebody else gave it, so that it can be sent twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Random.
    pub id: u128,
    /// When it was first sent, milliseconds since the Unix epoch.
    pub began_ms: i64,
    /// It was sent before: its row, if there is one, is that of an answer which
    /// nobody remembers.
    pub again: bool,
    /// The workers that have the bytes of what it commits, who makes it first.
    pub holders: Vec<NodeId>,
    /// On how many workers they are to be; 0: on these.
    pub copies: usize,
}

/// A change under way, the same for all its attempts.
#[derive(Clone)]
pub(super) struct Operation {
    /// Random, so it also serves as an id of what the change makes.
    pub(super) id: u128,
    /// When it began, milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
    /// Its row: there once it is committed.
    pub(super) key: Vec<u8>,
    /// A power cut may undo it: a journal has it, or it is made again.
    pub(super) relaxed: bool,
    /// A power cut has undone it, and maybe earlier ones of which no entry is left.
    pub(super) replayed: bool,
    /// The workers that have the bytes of what is committed, if a worker commits.
    pub(super) holders: Vec<NodeId>,
    /// On how many workers they are to be; 0: on these.
    pub(super) copies: usize,
}

impl Operation {
    fn begin(now_ms: i64) -> Result<Self, MetadataError> {
        let id = BlobId::random().map_err(|error| MetadataError::Unavailable(error.to_string()))?;
        let minute = u64::try_from(now_ms / MINUTE_MS).unwrap_or(0);
        Ok(Self {
            id: id.0,
            now_ms,
            key: keyspace::operation(minute, id.0),
            relaxed: false,
            replayed: false,
            holders: Vec::new(),
            copies: 0,
        })
    }

    fn of(ticket: &Ticket) -> Self {
        let minute = u64::try_from(ticket.began_ms / MINUTE_MS).unwrap_or(0);
        Self {
            id: ticket.id,
            now_ms: ticket.began_ms,
            key: keyspace::operation(minute, ticket.id),
            relaxed: false,
            replayed: false,
            holders: ticket.holders.clone(),
            copies: ticket.copies,
        }
    }

    /// The operation of an entry of a journal that is not replayed: an id like any
    /// other.
    pub(super) fn entered(entry: &JournalEntry) -> Self {
        Self::of(&Ticket {
            id: entry.operation,
            began_ms: entry.now_ms,
            again: false,
            holders: Vec::new(),
            copies: 0,
        })
    }

    /// The operation of an entry of a journal.
    pub(super) fn journaled(entry: &JournalEntry) -> Self {
        Self {
            id: entry.operation,
            now_ms: entry.now_ms,
            key: keyspace::journaled(entry.sequence, entry.operation),
            relaxed: true,
            replayed: false,
            holders: Vec::new(),
            copies: 0,
        }
    }

    /// Who has the bytes of what is committed.
    pub(super) fn held(&self) -> Holders {
        let nodes = self.holders.clone();
        let copies = match self.copies {
            0 => nodes.len(),
            copies => copies,
        };
        Holders { nodes, copies }
    }

    /// A number below `limit` that differs between operations and attempts.
    fn jitter(&self, attempt: u32, limit: Duration) -> Duration {
        let seed = self
            .id
            .wrapping_add(u128::from(attempt))
            .wrapping_mul(JITTER_FACTOR);
        let micros = limit.as_micros().max(1);
        Duration::from_micros(((seed >> 64) % micros) as u64)
    }
}

/// Odd, with its bits spread: consecutive attempts land far apart.
const JITTER_FACTOR: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// What became of an attempt.
enum Attempt<A> {
    /// Answered; the version is that of the commit, if there was one.
    Done(A, Option<Version>),
    /// Try again.
    Again,
    /// Try again, and why.
    Later(&'static str),
    /// Committed or not.
    Unknown,
    /// Not now; trying again makes sense only to settle an earlier attempt.
    Unavailable(String),
    /// Final.
    Refused(MetadataError),
}

impl<S: Store> Namespace<S> {
    /// Applies `mutation` exactly once. The version is that of its commit, none
    /// when there was nothing to change.
    pub(super) async fn mutate<M: Mutation>(
        &self,
        mutation: &M,
    ) -> Result<(M::Answer, Option<Version>), MetadataError> {
        self.mutate_as(mutation, &self.operation().await?).await
    }

    /// A new operation, or that of the ticket.
    pub(super) async fn operation(&self) -> Result<Operation, MetadataError> {
        match &self.ticket {
            None => Operation::begin(self.clock.wall_ms()),
            Some(ticket) => {
                let operation = Operation::of(ticket);
                self.refuse_repeat(ticket, &operation).await?;
                Ok(operation)
            }
        }
    }

    /// A change that was sent before and is committed: what it answered is not known
    /// any more.
    pub(super) async fn refuse_repeat(
        &self,
        ticket: &Ticket,
        operation: &Operation,
    ) -> Result<(), MetadataError> {
        if ticket.again && self.read(&Get(&operation.key)).await?.is_some() {
            let why = "it was committed, and its answer lost";
            return Err(MetadataError::Unknown(why.into()));
        }
        Ok(())
    }

    /// The same, of a change of buckets, mounts or policies.
    pub(super) async fn rename<M: Mutation>(
        &self,
        mutation: &M,
    ) -> Result<(M::Answer, Option<Version>), MetadataError> {
        let done = self.mutate(mutation).await;
        // Also after an error: the outcome may be unknown.
        self.names.fetch_add(1, Ordering::AcqRel);
        self.renamed.notify_one();
        done
    }

    /// The same for an operation that is known already.
    pub(super) async fn mutate_as<M: Mutation>(
        &self,
        mutation: &M,
        operation: &Operation,
    ) -> Result<(M::Answer, Option<Version>), MetadataError> {
        self.mutate_at_most(mutation, operation, self.attempts_max)
            .await
    }

    /// The same with so many attempts at the most.
    pub(super) async fn mutate_at_most<M: Mutation>(
        &self,
        mutation: &M,
        operation: &Operation,
        attempts_max: u32,
    ) -> Result<(M::Answer, Option<Version>), MetadataError> {
        let deadline = Instant::now() + ATTEMPTS_TIME_MAX;
        let mut unsettled = Vec::new();
        let mut why = String::from("too many conflicts");
        for attempt in 1..=attempts_max {
            match self
                .attempt(mutation, operation, attempt, &mut unsettled)
                .await
            {
                Attempt::Done(answer, version) => return Ok((answer, version)),
                Attempt::Refused(MetadataError::Unavailable(text)) if !unsettled.is_empty() => {
                    return Err(MetadataError::Unknown(text));
                }
                Attempt::Refused(error) => return Err(error),
                Attempt::Unavailable(text) if unsettled.is_empty() => {
                    return Err(MetadataError::Unavailable(text));
                }
                Attempt::Unavailable(text) => why = text,
                Attempt::Unknown => "the outcome of the commit is unknown".clone_into(&mut why),
                Attempt::Later(text) => text.clone_into(&mut why),
                Attempt::Again => {}
            }
            let wait = operation.jitter(attempt, backoff(attempt));
            if Instant::now() + wait >= deadline {
                break;
            }
            sleep(wait).await;
        }
        Err(match unsettled.is_empty() {
            true => MetadataError::Unavailable(why),
            false => MetadataError::Unknown(why),
        })
    }

    /// One attempt. Answers whose outcome stays unknown are put into `unsettled`.
    async fn attempt<M: Mutation>(
        &self,
        mutation: &M,
        operation: &Operation,
        attempt: u32,
        unsettled: &mut Vec<(u32, M::Answer)>,
    ) -> Attempt<M::Answer> {
        let mut transaction = self.store.begin();
        if unsettled.is_empty() {
            transaction.add_read_conflict(KeyRange::point(&operation.key));
        } else {
            match settle(&mut transaction, operation, unsettled).await {
                Ok(Some((answer, version))) => {
                    self.newest.fetch_max(order_of(version), Ordering::Relaxed);
                    return Attempt::Done(answer, Some(version));
                }
                Ok(None) => {}
                Err(stop) => return stop.into(),
            }
        }
        let answer = match mutation.apply(&mut transaction, operation).await {
            Ok(Step::Commit(answer)) => answer,
            Ok(Step::Nothing(answer)) => return Attempt::Done(answer, None),
            Err(stop) => return stop.into(),
        };
        match encode_operation(attempt) {
            Ok(row) => transaction.set_versionstamped_value(&operation.key, &row, VERSION_OFFSET),
            Err(error) => return Attempt::Refused(record_error(error)),
        }
        let committed = match operation.relaxed {
            true => transaction.commit_relaxed().await,
            false => transaction.commit().await,
        };
        match committed {
            Ok(commit) => {
                let version = version_of(commit);
                self.newest.fetch_max(order_of(version), Ordering::Relaxed);
                Attempt::Done(answer, Some(version))
            }
            Err(CommitError::Unknown) => {
                unsettled.push((attempt, answer));
                Attempt::Unknown
            }
            Err(error) => error.into(),
        }
    }
}

/// The answer of the earlier attempt that was committed after all.
async fn settle<T: Transaction, A: Clone>(
    transaction: &mut T,
    operation: &Operation,
    unsettled: &[(u32, A)],
) -> Result<Option<(A, Version)>, Stop> {
    let Some(row) = transaction.get(&operation.key).await? else {
        return Ok(None);
    };
    let (committed, version) = decode_operation(&row)?;
    match unsettled.iter().find(|(attempt, _)| *attempt == committed) {
        Some((_, answer)) => Ok(Some((answer.clone(), version))),
        None => Err(MetadataError::Unknown(format!("attempt {committed} is not ours")).into()),
    }
}

/// Longest wait before the attempt after this one.
pub(super) fn backoff(attempt: u32) -> Duration {
    BACKOFF_FIRST
        .saturating_mul(1 << attempt.min(16))
        .min(BACKOFF_MAX)
}

/// The answer of a change that always commits something.
pub(super) fn committed(
    replaced: Option<ObjectRecord>,
    version: Option<Version>,
) -> Result<Committed, MetadataError> {
    // Never answered with a version that was not given: it would order writes.
    let version = version.ok_or_else(|| MetadataError::Unknown("no version was given".into()))?;
    Ok(Committed { version, replaced })
}

impl<A> From<Stop> for Attempt<A> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(error) => Self::Refused(error),
            Stop::Store(StoreError::TooOld) => Self::Again,
            Stop::Store(StoreError::Again(why)) => Self::Later(why),
            Stop::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl<A> From<CommitError> for Attempt<A> {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict | CommitError::TooOld => Self::Again,
            CommitError::Again(why) => Self::Later(why),
            CommitError::Unknown => Self::Unknown,
            CommitError::TooLarge(what) => Self::Refused(MetadataError::TooLarge(what.into())),
            CommitError::Unavailable(why) => Self::Unavailable(why.into()),
            CommitError::Invalid(why) => {
                tracing::error!(why, "the rules made a write no store takes");
                Self::Refused(MetadataError::Unavailable(why.into()))
            }
        }
    }
}
