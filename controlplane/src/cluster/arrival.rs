//! How a worker is taken in, or not: what it knows of the past must be in these metadata,
//! and no other process may be there under its name. Absent: what follows from its session
//! (`membership`).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{MetadataError, NodeId};
use quickwater_rpc::cluster as messages;
use quickwater_rpc::cluster::order::What;

use super::rebuilt::goes_on;
use super::terms::{Position, Standing};
use super::{Cluster, ClusterError, boottime, rows};
use crate::records::Member;
use crate::store::Store;

/// Longest wait for a sign of life of the process that has the name, once another one
/// wants it. A process that ended is known at once: its connection is closed.
const PROOF_WAIT: Duration = Duration::from_secs(3);
/// How long after the last attempt a refused worker is shown.
const SHOWN: Duration = Duration::from_secs(60);
/// Refused workers that are remembered; names are those of certificates.
const REFUSED_MAX: usize = 4_096;

/// What a worker says of its past when it registers.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The cluster that its directory belongs to; empty: none yet.
    pub cluster: String,
    /// How far the metadata were that it has seen.
    pub seen: Option<Position>,
    /// Random name of its process; empty: it does not say.
    pub process: Vec<u8>,
    /// Its process has had no session: it remembers nothing of the metadata.
    pub begins: bool,
}

/// A worker that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Its session.
    pub session: u64,
    /// How far the metadata are.
    pub position: Position,
    /// It has seen newer metadata that were given up: what it has and no row names is to
    /// be set aside.
    pub undone: bool,
}

/// Why a worker was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Another process has the name and may still answer under it.
    #[error(
        "a worker named {node} with another cache directory may still run: its lease lasts {} s \
         more. Give each worker its own --node-id, or wait",
        left.as_secs() + 1
    )]
    NameTaken {
        /// The name.
        node: NodeId,
        /// Its lease.
        left: Duration,
    },
    /// Another process with the same directory, or a copy of it, is there.
    #[error(
        "a worker named {node} with the same directory runs at {address} (S3 at {s3}) and \
         answers: this is a second process, on a copy of that directory. Stop one of them. A \
         machine that was copied needs a --node-id of its own and an empty directory"
    )]
    Twin {
        /// The name.
        node: NodeId,
        /// Where other workers reach the one that is there.
        address: String,
        /// Its S3 endpoint.
        s3: String,
    },
    /// It was part of another cluster.
    #[error(
        "the worker's directory belongs to cluster {theirs}, this is cluster {ours}: the metadata \
         is not the one its data was written with. Put the old metadata back, or start the worker \
         with an empty directory"
    )]
    OtherCluster {
        /// Which one.
        theirs: String,
        /// This one.
        ours: String,
    },
    /// It has seen newer metadata.
    #[error(
        "these metadata are older than what worker {node} has seen (version {seen} of a control \
         process that they do not know to have come so far): a backup, a snapshot or an export? \
         Stop the control plane and put the newer metadata back, then nothing is lost. Or give \
         up what was written since: `quickwater cluster accept-older`"
    )]
    Older {
        /// The worker.
        node: NodeId,
        /// The version it has seen.
        seen: u64,
    },
    /// What it has seen was given up while it ran.
    #[error(
        "the newer metadata that worker {node} has seen were given up: restart it, so that it \
         forgets them and sets aside what no row names"
    )]
    Restart {
        /// The worker.
        node: NodeId,
    },
    /// The store does not answer.
    #[error("metadata unavailable: {0}")]
    Unavailable(String),
}

impl RegisterError {
    /// In a word, for metrics; none: it is told there as trouble of the store.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::NameTaken { .. } | Self::Twin { .. } => Some(Reason::Name),
            Self::OtherCluster { .. } => Some(Reason::Cluster),
            Self::Older { .. } | Self::Restart { .. } => Some(Reason::Older),
            Self::Unavailable(_) => None,
        }
    }
}

/// Why workers are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Another one has the name.
    Name,
    /// Its directory is another cluster's.
    Cluster,
    /// It has seen newer metadata.
    Older,
}

impl Reason {
    /// All.
    pub const ALL: [Self; 3] = [Self::Name, Self::Cluster, Self::Older];

    /// The value of the metrics' label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Cluster => "cluster",
            Self::Older => "older_metadata",
        }
    }
}

/// A worker that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWorker {
    /// Its name.
    pub node: NodeId,
    /// Why, and what to do.
    pub error: RegisterError,
    /// In a word.
    pub reason: Reason,
    /// The newer metadata that it has seen.
    pub seen: Option<Position>,
    /// When it tried last, by [`boottime`].
    last: Duration,
}

/// Refused workers by name.
pub(super) type RefusedWorkers = BTreeMap<(NodeId, Reason), RefusedWorker>;

impl<S: Store> Cluster<S> {
    /// Opens a session for a worker.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub async fn register(&self, member: Member, past: &Past) -> Result<Admission, RegisterError> {
        let node = member.node.clone();
        let taken_in = self.take_in(member, past).await;
        match &taken_in {
            Ok(_) => {
                // Whoever else wants the name is refused as before.
                self.refused()
                    .retain(|(name, reason), _| *name != node || *reason == Reason::Name);
                self.members().hold(&node, false);
            }
            Err(error) => self.note_refused(&node, error, past),
        }
        taken_in
    }

    async fn take_in(&self, member: Member, past: &Past) -> Result<Admission, RegisterError> {
        let node = member.node.clone();
        if !past.cluster.is_empty() && past.cluster != self.0.name {
            return Err(RegisterError::OtherCluster {
                theirs: past.cluster.clone(),
                ours: self.0.name.clone(),
            });
        }
        let undone = match goes_on(&self.0.witnesses, &member, past) {
            true => false,
            false => self.is_undone(&node, past)?,
        };
        self.no_twin(&member, past).await?;
        let session = self.open_session(member).await?;
        self.processes().insert(node.clone(), past.process.clone());
        let observed = self.observe().await;
        observed.map_err(|error| RegisterError::Unavailable(error.to_string()))?;
        tracing::info!(%node, session, "a worker registered");
        Ok(Admission {
            session,
            position: self.position(),
            undone,
        })
    }

    /// Whether a worker has seen what was given up.
    fn is_undone(&self, node: &NodeId, past: &Past) -> Result<bool, RegisterError> {
        let Some(seen) = &past.seen else {
            return Ok(false);
        };
        let standing = self.terms().standing(seen);
        match (standing, past.begins) {
            (Standing::Past, _) => Ok(false),
            (Standing::GivenUp, true) => Ok(true),
            (Standing::GivenUp, false) => Err(RegisterError::Restart { node: node.clone() }),
            (Standing::Ahead, _) => Err(RegisterError::Older {
                node: node.clone(),
                seen: seen.version,
            }),
        }
    }

    /// Makes sure that no other process answers under the name. One that ended has no
    /// connection; one that froze, or whose machine is gone, does not answer: its session
    /// ends with the next one, and when it wakes it is the twin.
    async fn no_twin(&self, member: &Member, past: &Past) -> Result<(), RegisterError> {
        let node = &member.node;
        let there = self.processes().get(node).cloned().unwrap_or_default();
        let said = !there.is_empty() && !past.process.is_empty();
        if !said || there == past.process || !self.0.orders.attends(node) {
            return Ok(());
        }
        let asked = What::Totals(messages::Scope::default());
        let answer = self.0.orders.give(node, asked);
        let lives = matches!(tokio::time::timeout(PROOF_WAIT, answer).await, Ok(Ok(_)));
        if !lives {
            return Ok(());
        }
        let there = self.members().seat(node).map(|seat| seat.member.clone());
        let there = there.unwrap_or_else(|| member.clone());
        Err(RegisterError::Twin {
            node: node.clone(),
            address: there.advertise,
            s3: there.s3_address,
        })
    }

    async fn open_session(&self, member: Member) -> Result<u64, RegisterError> {
        let node = member.node.clone();
        let mut row = self.0.changing.lock().await;
        // It may have lost slots while it was dead: it has to see that before it is there again.
        let settled = self.settle(&mut row).await;
        settled.map_err(|error| RegisterError::Unavailable(error.to_string()))?;
        // A drain is ended by who began it, not by a restart.
        let known = self.members().seat(&node).map(|seat| seat.member.clone());
        let member = Member {
            draining: known.as_ref().is_some_and(|known| known.draining),
            ..member
        };
        if known.is_some_and(|known| known.removed) {
            tracing::warn!(%node, "a worker that was removed is back: what it has counts again");
        }
        let now = self.0.clock.now();
        if let Some(left) = self.members().other_lives(&node, &member.store, now) {
            return Err(RegisterError::NameTaken { node, left });
        }
        let lease = self.members().longest_lease(&node, now);
        let member = Member {
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            ..member
        };
        let opened = rows::register(self.0.namespace.store(), &member).await;
        let session = opened.map_err(|error| RegisterError::Unavailable(error.to_string()))?;
        self.members().register(member, session, self.0.clock.now());
        self.tell_peers();
        self.0.wake.notify_one();
        Ok(session)
    }

    fn note_refused(&self, node: &NodeId, error: &RegisterError, past: &Past) {
        let Some(reason) = error.reason() else { return };
        if let RegisterError::Older { .. } = error {
            // Nobody else is to answer for its keys by rows that are not the newest.
            self.members().hold(node, true);
        }
        let noted = RefusedWorker {
            node: node.clone(),
            error: error.clone(),
            reason,
            seen: past.seen,
            last: boottime(),
        };
        let mut refused = self.refused();
        let key = (node.clone(), reason);
        let known = refused.get(&key).map(|known| &known.error);
        // A lease that runs out is no news.
        let news = known
            .is_none_or(|known| std::mem::discriminant(known) != std::mem::discriminant(error));
        if news {
            tracing::warn!(%node, %error, "a worker was refused");
        }
        if refused.len() < REFUSED_MAX || refused.contains_key(&key) {
            refused.insert(key, noted);
        }
    }

    /// Workers that are not taken in. Those that have seen newer metadata are shown until
    /// that is settled, others for a minute.
    #[must_use]
    pub fn refused_workers(&self) -> Vec<RefusedWorker> {
        let now = boottime();
        let mut refused = self.refused();
        refused
            .retain(|_, one| one.reason == Reason::Older || now.saturating_sub(one.last) < SHOWN);
        refused.values().cloned().collect()
    }

    /// Gives up what workers have seen beyond these metadata, for good; who they are.
    /// `dry_run`: only says so.
    ///
    /// # Errors
    /// [`ClusterError::Metadata`].
    pub async fn accept_older(&self, dry_run: bool) -> Result<Vec<RefusedWorker>, ClusterError> {
        let refused = self.refused_workers().into_iter();
        let older = |one: &RefusedWorker| matches!(one.error, RegisterError::Older { .. });
        let refused: Vec<_> = refused.filter(older).collect();
        let terms: Vec<u128> = refused
            .iter()
            .filter_map(|one| one.seen)
            .map(|seen| seen.term)
            .collect();
        if dry_run || terms.is_empty() {
            return Ok(refused);
        }
        let changed = rows::change_terms(self.0.namespace.store(), |known| {
            known.disown(&terms);
            true
        });
        let changed = changed.await.map_err(MetadataError::from)?;
        *self.terms() = changed;
        for one in &refused {
            tracing::warn!(node = %one.node, "what a worker has seen beyond these metadata was given up");
            self.members().hold(&one.node, false);
            self.refused().remove(&(one.node.clone(), Reason::Older));
        }
        self.0.wake.notify_one();
        Ok(refused)
    }

    /// How far the metadata were on disk a moment ago.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            term: self.terms().current(),
            version: self.0.version.load(Ordering::Acquire),
        }
    }

    /// Looks how far the metadata are.
    pub(super) async fn observe(&self) -> Result<(), MetadataError> {
        let store = self.0.namespace.store();
        let term = self.terms().current();
        let Some(version) = rows::version_in(store, term).await? else {
            let why = "another control process goes on with these metadata";
            return Err(MetadataError::Unavailable(why.into()));
        };
        // Nobody is told of what a power cut would undo.
        let flushed = store.flush().await;
        flushed.map_err(|error| MetadataError::Unavailable(error.to_string()))?;
        self.0.version.fetch_max(version, Ordering::AcqRel);
        Ok(())
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Vec<u8>>> {
        let processes = self.0.processes.lock();
        processes.unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, RefusedWorkers> {
        let refused = self.0.refused.lock();
        refused.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "arrival_tests.rs"]
mod tests;
