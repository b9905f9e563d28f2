//! Metadata calls of workers: each is made once however often it is sent, and a change only
//! for who owns its key, behind the fence of that worker. Absent: what the calls do (`calls`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quickwater_proto::{BlobId, BucketId, MetadataError, NodeId, slot_of};
use quickwater_rpc::cluster as messages;
use tokio::sync::watch;

use super::memo::{self, Known};
use super::wire::{self, Mistaken};
use super::{Cluster, calls};
use crate::keyspace;
use crate::namespace::{SystemClock, Ticket, WallClock as _};
use crate::records::Fence;
use crate::store::{Fenced, Store};

/// How far the clock of a worker may be from ours: rows of operations are kept for
/// three minutes of it.
const CLOCKS_APART_MAX_MS: u64 = 60_000;

impl<S: Store> Cluster<S> {
    /// Makes a metadata call of a worker, once however often it is sent.
    pub async fn call(
        &self,
        node: &NodeId,
        session: u64,
        call: messages::Call,
    ) -> messages::Answer {
        let id = call.id;
        let answer = match self.answer(node, session, call).await {
            Ok(answer) => (*answer).clone(),
            Err(error) => wire::error_to_wire(&error),
        };
        let known = self.0.namespace.newest();
        messages::Answer {
            id,
            known,
            ..answer
        }
    }

    async fn answer(
        &self,
        node: &NodeId,
        session: u64,
        call: messages::Call,
    ) -> Result<Arc<messages::Answer>, MetadataError> {
        let operation = messages::Operation::try_from(call.operation).map_err(Mistaken::new)?;
        if operation == messages::Operation::Lost {
            let key = wire::key(&call.key)?;
            let without = wire::copies(&call.copies)?;
            let (bucket, part) = (BucketId(call.bucket), wire::part_of(&call)?);
            let flag = match part {
                Some(part) => {
                    let blob = BlobId(wire::number(&call.blob)?);
                    self.is_part_lost(node, (bucket, part, blob), &without)
                        .await?
                }
                None => self.is_lost(node, (bucket, &key), &without).await?,
            };
            return Ok(Arc::new(messages::Answer {
                flag,
                more: part.is_some(),
                ..messages::Answer::default()
            }));
        }
        if operation == messages::Operation::CopyState {
            return Ok(Arc::new(self.copy_state(node, &call).await?));
        }
        if !wire::changes(operation) {
            return calls::make(&self.0.namespace, operation, &call)
                .await
                .map(Arc::new);
        }
        let ticket = Ticket {
            id: wire::number(&call.once)?,
            began_ms: call.began_ms,
            again: call.again,
            holders: holders(node, &call)?,
            copies: call.wanted as usize,
        };
        if SystemClock.wall_ms().abs_diff(ticket.began_ms) > CLOCKS_APART_MAX_MS {
            let why = "the clocks of worker and control plane are more than a minute apart";
            return Err(refused(&call, why));
        }
        loop {
            let promise = match self.0.memo.look(ticket.id) {
                Known::New(promise) => promise,
                Known::Asked(mut slot) => {
                    if let Some(answer) = settled(&mut slot).await {
                        return Ok(answer);
                    }
                    // Whoever made it ended without an answer, or changed nothing.
                    self.0.memo.forget_orphan(ticket.id);
                    continue;
                }
            };
            let made = self.make(node, (session, operation), &call, ticket).await;
            return Ok(match made {
                Err(error @ MetadataError::Unavailable(_)) => {
                    self.0.memo.forget(promise);
                    return Err(error);
                }
                Err(error) => self.remember(&promise, wire::error_to_wire(&error)),
                Ok(answer) => self.remember(&promise, answer),
            });
        }
    }

    fn remember(&self, promise: &memo::Promise, answer: messages::Answer) -> Arc<messages::Answer> {
        let answer = Arc::new(answer);
        self.0.memo.keep(promise, &answer);
        answer
    }

    /// Makes a change for a worker if the key is its own, behind its fence.
    async fn make(
        &self,
        node: &NodeId,
        (session, operation): (u64, messages::Operation),
        call: &messages::Call,
        ticket: Ticket,
    ) -> Result<messages::Answer, MetadataError> {
        let table = Arc::clone(&self.0.table.borrow());
        if let Some((bucket, key)) = calls::changed_key(operation, call)? {
            let slot = slot_of(bucket, &key);
            if table.owner(slot) != Some(node) {
                return Err(refused(call, "the key belongs to another worker now"));
            }
            // Looked at after the table, which they are never behind: what it loses later is
            // for the fence.
            if !self.tenures().holds_since(slot, call.epoch) {
                return Err(refused(call, "the key was another worker's meanwhile"));
            }
        }
        let fence = Fence {
            session,
            epoch: table.epoch,
        };
        let store = self.0.namespace.store().clone();
        let beside = wire::copies(&call.copies)?;
        let beside = beside.iter();
        let beside = beside.map(|copy| (keyspace::fence(&copy.node), copy.session));
        let store = Fenced::new(store, keyspace::fence(node), fence).beside(beside.collect());
        let names = self.0.namespace.over(store, Some(ticket));
        let made = calls::make(&names, operation, call).await;
        self.0.changed.store(true, Ordering::Release);
        let of_bucket = matches!(
            operation,
            messages::Operation::CreateBucket
                | messages::Operation::DeleteBucket
                | messages::Operation::SetBucketTags
        );
        if of_bucket {
            self.bucket_changed();
        }
        made
    }
}

/// Who has the bytes of what a call commits: who makes it, and those it names. Itself it
/// names for the sake of the session only, which the commit has to be of.
pub(super) fn holders(node: &NodeId, call: &messages::Call) -> Result<Vec<NodeId>, Mistaken> {
    let mut holders = vec![node.clone()];
    for copy in wire::copies(&call.copies)? {
        if copy.node == *node {
            continue;
        }
        if holders.contains(&copy.node) {
            return Err(Mistaken::new("two copies on one worker"));
        }
        holders.push(copy.node);
    }
    Ok(holders)
}

/// A call that is not made now. One that was sent before may have been made then: whoever takes
/// it for not made lets go of bytes that a row may name.
fn refused(call: &messages::Call, why: &str) -> MetadataError {
    match call.again {
        true => MetadataError::Unknown(why.into()),
        false => MetadataError::Unavailable(why.into()),
    }
}

/// The answer of a call that somebody else makes; none: there will be none.
async fn settled(
    slot: &mut watch::Receiver<Option<Arc<messages::Answer>>>,
) -> Option<Arc<messages::Answer>> {
    match slot.wait_for(Option::is_some).await {
        Ok(answer) => answer.clone(),
        Err(_gone) => None,
    }
}
