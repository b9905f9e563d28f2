//! Which worker a request is for, and whether that is this one. Absent: going there.

use std::sync::Arc;
use std::time::Instant;

use quickwater_engine::{FlowError, World};
use quickwater_proto::{Bucket, NodeId, slot_of, slot_of_text};
use quickwater_s3::{Operation, Request, S3Error, S3ErrorCode};

use super::answer::Refusal;
use super::permits::Permits;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::http::TransportError;
use crate::peer::{CallFailure, Failure, Peers, RELAY_WAIT, RETRY_PAUSE, Where};

/// What a shard among other workers has for them.
pub(super) struct Neighbours {
    pub(super) peers: Peers,
    /// Places for bodies that are relayed. Who has one waits for a place at another
    /// worker, never the other way round.
    pub(super) relays: Permits,
    /// Places for sources of copies, which wait for pieces of stripes only.
    pub(super) sources: Permits,
    /// Places for pieces of stripes, which wait for nobody.
    pub(super) stripes: Permits,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// The slot whose owner answers a request; none: any worker does.
    pub(super) async fn slot_of_request(
        &self,
        request: &Request,
    ) -> Result<Option<usize>, Refusal> {
        let folder = |prefix: &str| prefix.rfind('/').map_or(0, |at| at + 1);
        // Listings of a folder go to one worker, which compares it with the UFS for
        // all; so does the end of a bucket.
        let stand_in = match &request.operation {
            Operation::ListObjects(query) => &query.prefix[..folder(&query.prefix)],
            Operation::ListObjectsV2(query) => &query.prefix[..folder(&query.prefix)],
            Operation::DeleteBucket => "",
            _ => {
                let Some(key) = &request.key else {
                    return Ok(None);
                };
                let bucket = self.bucket_if_any(request).await?;
                return Ok(bucket.map(|bucket| slot_of(bucket.id, key)));
            }
        };
        let bucket = self.bucket_if_any(request).await?;
        Ok(bucket.map(|bucket| slot_of_text(bucket.id, stand_in)))
    }

    /// Without a bucket there is nothing to be owned: any worker says so.
    async fn bucket_if_any(&self, request: &Request) -> Result<Option<Arc<Bucket>>, Refusal> {
        match self.engine.bucket(request.bucket()?).await {
            Ok(bucket) => Ok(Some(bucket)),
            Err(FlowError::NoSuchBucket) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Who answers for a slot. This worker, too, while it has no lease: it says so.
    pub(super) fn place(&self, neighbours: &Neighbours, slot: usize) -> Result<Where, CallFailure> {
        let moving = |why| Err(CallFailure::new(Failure::NoOwner, why));
        match neighbours.peers.directory().owner(slot) {
            Where::Here if self.engine.shared().rights.owns(slot) => Ok(Where::Here),
            Where::Here => moving("its keys are being taken over"),
            Where::Nowhere => moving("its keys are being handed over"),
            there @ Where::There(_) => Ok(there),
        }
    }
}

/// Why another worker gave no answer.
pub(super) enum Failed {
    /// That worker, or the way there.
    Call(CallFailure),
    /// This worker, or the client.
    Here(Refusal),
}

impl From<CallFailure> for Failed {
    fn from(failed: CallFailure) -> Self {
        Self::Call(failed)
    }
}

impl From<S3Error> for Failed {
    fn from(error: S3Error) -> Self {
        Self::Here(error.into())
    }
}

/// How long a request looks for an owner that takes it, as slots move and workers restart.
pub(super) struct Patience {
    until: Instant,
    /// What broke off may be asked for once more: nothing changes when it is done twice.
    repeatable: bool,
}

impl Patience {
    pub(super) fn new(repeatable: bool) -> Self {
        Self {
            until: Instant::now() + RELAY_WAIT,
            repeatable,
        }
    }

    /// Whether to try again, after a pause. What may have been begun is not, or once.
    pub(super) async fn again(&mut self, failed: &CallFailure) -> bool {
        let again = !failed.begun || std::mem::take(&mut self.repeatable);
        if !again || failed.failure == Failure::Busy || Instant::now() >= self.until {
            return false;
        }
        monoio::time::sleep(RETRY_PAUSE).await;
        true
    }
}

/// What a client is told when a call of another worker came to nothing. `node`: which one;
/// none: nobody was found to be asked.
pub(super) fn refusal(failed: &CallFailure, node: Option<&NodeId>) -> Refusal {
    let named = node.map_or("nobody", NodeId::as_str);
    tracing::warn!(node = named, error = %failed, failure = ?failed.failure, begun = failed.begun, "a call of another worker failed");
    if failed.begun {
        let text = format!("worker {named}, which owns the key: {failed}");
        return FlowError::Unsettled(text).into();
    }
    match node {
        Some(node) => {
            let text = format!(
                "This worker cannot answer for it now: worker {node}, which owns the key, cannot \
                 be reached. Try again, or another worker."
            );
            S3Error::new(S3ErrorCode::SlowDown, text).into()
        }
        None => FlowError::NotHere("the worker that owns the key cannot be reached").into(),
    }
}

/// What a client did to its body, in the words of the peer protocol.
pub(super) fn client_failure(error: &TransportError) -> quickwater_peer::Promise {
    match error {
        TransportError::TimedOut => quickwater_peer::Promise::TimedOut,
        TransportError::BadFraming(_) => quickwater_peer::Promise::Malformed,
        TransportError::Closed | TransportError::NoRoom | TransportError::Io(_) => {
            quickwater_peer::Promise::Gone
        }
    }
}
