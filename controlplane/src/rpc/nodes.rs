//! Calls about the workers of a cluster: drained, removed, and what goes with them.

use std::collections::HashMap;

use quickwater_proto::{BucketId, NodeId, ObjectKey, PendingChange};
use quickwater_rpc::admin::{
    ClusterAcceptOlderReply, ClusterAcceptOlderRequest, LostObject, NodeDrainReply,
    NodeDrainRequest, NodeLostReply, NodeLostRequest, NodeRemoveReply, NodeRemoveRequest,
    RefusedWorker, UnansweredObject,
};
use tonic::Status;

use super::admin::AdminService;
use super::status;
use super::views::ClusterView;
use crate::cluster::{self, ClusterError, Fate, Leaving};
use crate::store::Store;

fn node(name: &str) -> Result<NodeId, Status> {
    NodeId::new(name).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn refused(error: ClusterError) -> Status {
    match error {
        ClusterError::NoSuchNode(_) => Status::not_found(error.to_string()),
        ClusterError::Present(_) | ClusterError::Gone(_) => {
            Status::failed_precondition(error.to_string())
        }
        ClusterError::Metadata(error) => status::metadata(error),
    }
}

impl<S: Store> AdminService<S> {
    fn cluster(&self) -> Result<&dyn ClusterView, Status> {
        let cluster = self.views.cluster.as_deref();
        cluster.ok_or_else(|| {
            Status::failed_precondition("this service runs alone: it has no workers to manage")
        })
    }

    pub(super) async fn drain_node(
        &self,
        request: NodeDrainRequest,
    ) -> Result<NodeDrainReply, Status> {
        let node = node(&request.name)?;
        let drained = self.cluster()?.drain(&node, !request.cancel).await;
        let alone = drained.map_err(refused)?;
        Ok(NodeDrainReply { alone })
    }

    pub(super) async fn remove_node(
        &self,
        request: NodeRemoveRequest,
    ) -> Result<NodeRemoveReply, Status> {
        let node = node(&request.name)?;
        let removed = self.cluster()?.remove(&node).await;
        removed.map_err(refused)?;
        Ok(NodeRemoveReply {})
    }

    /// Workers that are not taken in.
    pub(super) fn refused_workers(&self) -> Vec<RefusedWorker> {
        let cluster = self.views.cluster.as_deref();
        let refused = cluster.map(|cluster| cluster.refused_workers());
        refused.unwrap_or_default().iter().map(shown).collect()
    }

    pub(super) async fn accept_older(
        &self,
        request: ClusterAcceptOlderRequest,
    ) -> Result<ClusterAcceptOlderReply, Status> {
        let accepted = self.cluster()?.accept_older(request.dry_run).await;
        let workers = accepted.map_err(refused)?;
        Ok(ClusterAcceptOlderReply {
            workers: workers.iter().map(shown).collect(),
        })
    }

    pub(super) async fn lost_objects(
        &self,
        request: NodeLostRequest,
    ) -> Result<NodeLostReply, Status> {
        let after = place(&request.page_token)?;
        let after = after.as_ref().map(|(bucket, key)| (*bucket, key));
        let found = self
            .cluster()?
            .goes_with(&node(&request.name)?, after)
            .await
            .map_err(refused)?;
        let buckets = self.namespace.buckets().await.map_err(status::metadata)?;
        let names: HashMap<BucketId, String> = buckets
            .into_iter()
            .map(|bucket| (bucket.id, bucket.name.to_string()))
            .collect();
        let mut reply = NodeLostReply::default();
        for leaving in &found.objects {
            let Some(object) = object(leaving, &names) else {
                continue;
            };
            match &leaving.fate {
                Fate::Lost => reply.objects.push(object),
                Fate::Unanswered(workers) => reply.unanswered.push(UnansweredObject {
                    object: Some(object),
                    workers: workers.iter().map(ToString::to_string).collect(),
                }),
                Fate::InPart => reply.in_part.push(object),
            }
        }
        let next = found.next;
        let next = next.map(|(bucket, key)| format!("{}/{key}", bucket.0));
        reply.next_page_token = next.unwrap_or_default();
        Ok(reply)
    }
}

fn object(leaving: &Leaving, names: &HashMap<BucketId, String>) -> Option<LostObject> {
    let (size, transient) = match leaving.pending.change {
        PendingChange::Put { size } => (size, false),
        PendingChange::Hold { size } => (size, true),
        PendingChange::Delete | PendingChange::Settling { .. } => return None,
    };
    let (bucket, key) = &leaving.place;
    Some(LostObject {
        bucket: names.get(bucket).cloned().unwrap_or_default(),
        key: key.as_str().to_owned(),
        size,
        transient,
    })
}

fn shown(refused: &cluster::RefusedWorker) -> RefusedWorker {
    RefusedWorker {
        name: refused.node.to_string(),
        why: refused.error.to_string(),
    }
}

/// The place a token names: `BUCKET_ID/KEY`.
fn place(token: &str) -> Result<Option<(BucketId, ObjectKey)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.split_once('/').and_then(|(bucket, key)| {
        let bucket = BucketId(bucket.parse().ok()?);
        Some((bucket, ObjectKey::new(key).ok()?))
    });
    let place = parsed.ok_or_else(|| Status::invalid_argument("not a page token"))?;
    Ok(Some(place))
}
