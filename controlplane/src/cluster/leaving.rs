//! How workers go for good: drained, or removed by who says that they are lost; and
//! what goes with them. Absent: who takes their slots (`membership`).

use std::time::Duration;

use quickwater_proto::{
    BlobId, BucketId, CopyAt, MetadataError, NodeId, ObjectKey, PartOf, PendingChange,
    PendingRecord,
};

use super::fate::{Fate, Presence, fate};
use super::{Cluster, rows};
use crate::records::Member;
use crate::store::Store;

/// About how long the session of a worker stays open that stands still or cannot be reached:
/// then its connection counts as dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Why a worker was not drained or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nobody has the name.
    #[error("no worker '{0}'; `quickwater node list` shows all")]
    NoSuchNode(NodeId),
    /// It is not lost.
    #[error(
        "worker {0} is there: its session is open. Stop its process first; to have it give its \
         slots away in peace use `quickwater node drain {0}`. Does it stand still, or is its \
         machine cut off? Then its session ends after some {seconds} s: try again",
        seconds = SILENCE_MAX.as_secs()
    )]
    Present(NodeId),
    /// It went already.
    #[error("worker {0} is gone already")]
    Gone(NodeId),
    /// The store does not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Objects whose bytes go with one worker, or may, and where to go on.
#[derive(Debug, Default)]
pub struct LeavingPage {
    /// Those of them that the page has.
    pub objects: Vec<Leaving>,
    /// After which key more may follow.
    pub next: Option<(BucketId, ObjectKey)>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Its key.
    pub place: (BucketId, ObjectKey),
    /// What is pending of it.
    pub pending: PendingRecord,
    /// What becomes of its bytes.
    pub fate: Fate,
}

impl<S: Store> Cluster<S> {
    /// Has a worker get rid of its slots and of what only it has, or ends that.
    /// Answers whether there is no other to take its slots.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn drain(&self, node: &NodeId, draining: bool) -> Result<bool, ClusterError> {
        let _changing = self.0.changing.lock().await;
        let known = self.known(node)?;
        if known.gone {
            return Err(ClusterError::Gone(node.clone()));
        }
        if known.draining != draining {
            let member = Member { draining, ..known };
            rows::note(self.0.namespace.store(), &member)
                .await
                .map_err(MetadataError::from)?;
            self.members().drain(node, draining);
            self.0.wake.notify_one();
            tracing::info!(%node, draining, "a worker is drained");
        }
        Ok(!self.members().others(node, self.0.clock.now()))
    }

    /// Whether a worker is to get rid of what it has.
    #[must_use]
    pub fn drains(&self, node: &NodeId) -> bool {
        let members = self.members();
        members.seat(node).is_some_and(|seat| seat.member.draining)
    }

    /// Takes a worker for lost: its slots go to others at once, and what only it had
    /// is answered as lost until it is written again or deleted. Should it come back all
    /// the same, that is there again.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn remove(&self, node: &NodeId) -> Result<(), ClusterError> {
        let _changing = self.0.changing.lock().await;
        let known = self.known(node)?;
        if self.0.orders.attends(node) {
            return Err(ClusterError::Present(node.clone()));
        }
        if known.removed {
            return Ok(());
        }
        let member = Member {
            removed: true,
            ..known
        };
        let session = rows::leave(self.0.namespace.store(), &member)
            .await
            .map_err(MetadataError::from)?;
        self.members().remove(node, session);
        self.0.wake.notify_one();
        tracing::warn!(%node, "a worker was removed: what only it had is lost");
        Ok(())
    }

    fn known(&self, node: &NodeId) -> Result<Member, ClusterError> {
        let members = self.members();
        let seat = members.seat(node);
        let member = seat.map(|seat| seat.member.clone());
        member.ok_or_else(|| ClusterError::NoSuchNode(node.clone()))
    }

    /// Whether what is pending of a key, and `asking` does not have, went with workers
    /// that were removed. Those `without` do not have it either, if these are their sessions
    /// of now: a row names who has any of several bodies.
    pub(super) async fn is_lost(
        &self,
        asking: &NodeId,
        (bucket, key): (BucketId, &ObjectKey),
        without: &[CopyAt],
    ) -> Result<bool, MetadataError> {
        let pending = self.0.namespace.pending_held(bucket, key).await?;
        let Some((pending, holders)) = pending else {
            return Ok(false);
        };
        let (PendingChange::Put { size } | PendingChange::Hold { size }) = pending.change else {
            return Ok(false);
        };
        // A rebuild of the metadata found them nowhere.
        let holders = holders.nodes;
        if holders.is_empty() {
            return Ok(size > 0);
        }
        Ok(self.are_gone(asking, &holders, without))
    }

    /// The same of the bytes `blob` of a part that no UFS has.
    pub(super) async fn is_part_lost(
        &self,
        asking: &NodeId,
        (bucket, part, blob): (BucketId, PartOf, BlobId),
        without: &[CopyAt],
    ) -> Result<bool, MetadataError> {
        let named = self.0.namespace.part_holders(bucket, part, blob).await?;
        // What only the worker that took it has stands in no row.
        let named = named.filter(|named| !named.nodes.is_empty());
        Ok(named.is_some_and(|named| self.are_gone(asking, &named.nodes, without)))
    }

    /// Whether none of these has what they are named for.
    fn are_gone(&self, asking: &NodeId, holders: &[NodeId], without: &[CopyAt]) -> bool {
        let members = self.members();
        let removed = |node: &NodeId| members.seat(node).is_some_and(|seat| seat.member.removed);
        let lacks = |at: &CopyAt| {
            let seat = members.seat(&at.node);
            seat.is_some_and(|seat| seat.session == at.session)
        };
        let lacks = |node: &NodeId| without.iter().any(|at| at.node == *node && lacks(at));
        let gone = |node: &NodeId| node == asking || removed(node) || lacks(node);
        holders.iter().all(gone)
    }

    /// A page of the current objects that go with this worker, or may: no other worker that
    /// answers now has all of their bytes, as far as their rows say.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn goes_with(
        &self,
        node: &NodeId,
        after: Option<(BucketId, &ObjectKey)>,
    ) -> Result<LeavingPage, ClusterError> {
        self.known(node)?;
        let page = self.0.namespace.pending_held_by(node, after).await?;
        let now = self.0.clock.now();
        let members = self.members();
        let presence = |holder: &NodeId| match members.seat(holder) {
            _ if holder == node => Presence::Removed,
            Some(seat) if seat.member.removed => Presence::Removed,
            Some(seat) if seat.is_live(now) && self.0.orders.attends(holder) => Presence::Answers,
            _ => Presence::Silent,
        };
        let leaving = page
            .rows
            .into_iter()
            .filter_map(|(place, pending, holders)| {
                let fate = fate(&holders, presence)?;
                Some(Leaving {
                    place,
                    pending,
                    fate,
                })
            });
        Ok(LeavingPage {
            objects: leaving.collect(),
            next: page.next,
        })
    }
}
