//! What the engine needs of other workers. Absent: clients' requests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use quickwater_engine::io::{ChunkId, ChunkRun, CopyBody, Given, StripeError, StripeRead};
use quickwater_engine::{DeletesBelow, FlowError};
use quickwater_peer::{
    Answer, Capability, HidesBelow, LookAgain, Message, SettleBucket, Task, encode,
};
use quickwater_proto::{BlobId, Bucket, CopyAt, Neighbour, NodeId, ObjectKey, slot_of};

use super::call::{CallFailure, Outgoing, Reply};
use super::connect::Peers;
use super::copies::OutgoingCopies;
use super::deletes::deletes_from_wire;
use super::directory::Where;
use super::limit::COPY_WAIT;
use super::stats::Failure;
use super::stripes::counted;
use crate::buffers::PoolBuf;

/// Keys that travel in one message: a fraction of what a frame holds.
pub(crate) const KEYS_PER_CALL: usize = 256;

/// The other workers as the engine sees them; there may be none.
#[derive(Clone, Default)]
pub struct EnginePeers(pub Option<Peers>);

/// Code of an answer that is none: see [`Answer::code`].
const NO_CODE: &str = "";

impl Peers {
    /// Asks `node` something that is answered in one frame.
    pub(crate) async fn ask<M: Message>(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        message: &M,
    ) -> Result<(Answer, Vec<u8>), CallFailure> {
        let (call, answer, body) = self.open(node, task, right, message).await?;
        if answer.streams {
            return Err(CallFailure {
                begun: true,
                ..CallFailure::new(Failure::Protocol, "bytes that were not asked for")
            });
        }
        call.done();
        Ok((answer, body))
    }

    /// The same when somebody waits who cannot wait long.
    pub(super) async fn ask_soon<M: Message>(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        message: &M,
    ) -> Result<(Answer, Vec<u8>), CallFailure> {
        self.ask_within(node, task, right, message, COPY_WAIT).await
    }

    /// The same within a time of the caller's choice, once the call is sent.
    pub(crate) async fn ask_within<M: Message>(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        message: &M,
        wait: Duration,
    ) -> Result<(Answer, Vec<u8>), CallFailure> {
        let opened = self.open_within(node, task, right, message, wait);
        let (mut call, answer) = opened.await?;
        let body = call.wire().take_all().await;
        let body = body.map_err(|error| CallFailure {
            begun: true,
            ..CallFailure::new(Failure::Broken, error.to_string())
        })?;
        call.done();
        Ok((answer, body))
    }

    /// As [`Self::ask_soon`] for an answer in one frame, whose body is still to be taken.
    pub(super) async fn open_soon<M: Message>(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        message: &M,
    ) -> Result<(Outgoing, Answer), CallFailure> {
        let opened = self.open_within(node, task, right, message, COPY_WAIT);
        opened.await
    }

    async fn open_within<M: Message>(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        message: &M,
        wait: Duration,
    ) -> Result<(Outgoing, Answer), CallFailure> {
        let body = encode(message);
        let body = body.map_err(|error| CallFailure::new(Failure::Protocol, error.to_string()))?;
        let mut call = self.call(node, task, right, &body).await?;
        call.wire().hurry(wait);
        let answer = match call.reply_within(wait).await? {
            Reply::Answer(answer) if !answer.streams => answer,
            Reply::Answer(_) | Reply::More(_) => {
                return Err(CallFailure {
                    begun: true,
                    ..CallFailure::new(Failure::Protocol, "what was not asked for")
                });
            }
        };
        Ok((call, *answer))
    }

    /// The same for an answer whose bytes follow.
    pub(crate) async fn open<M: Message>(
        &self,
        node: &NodeId,
        task: Task,
        right: Capability,
        message: &M,
    ) -> Result<(Outgoing, Answer, Vec<u8>), CallFailure> {
        let body = encode(message);
        let body = body.map_err(|error| CallFailure::new(Failure::Protocol, error.to_string()))?;
        let mut call = self.call(node, task, right, &body).await?;
        let answer = call.answer().await?;
        let body = call.wire().take_all().await;
        let body = body.map_err(|error| CallFailure {
            begun: true,
            ..CallFailure::new(Failure::Broken, error.to_string())
        })?;
        Ok((call, *answer, body))
    }
}

/// The right to something that concerns a bucket.
pub(crate) fn right_to(bucket: &Bucket, operation: &str) -> Capability {
    Capability {
        bucket: bucket.name.as_str().to_owned(),
        operation: operation.to_owned(),
        ..Capability::default()
    }
}

fn failed(failure: &CallFailure) -> FlowError {
    FlowError::Unavailable(format!("another worker: {failure}"))
}

/// What another worker's answer says of its own work.
fn done(answer: &Answer) -> Result<(), FlowError> {
    match answer.code.as_str() {
        NO_CODE => Ok(()),
        "SlowDown" => Err(FlowError::SlowDown(answer.text.clone())),
        code => Err(FlowError::Unavailable(format!("{code}: {}", answer.text))),
    }
}

impl EnginePeers {
    fn peers(&self) -> Result<&Peers, FlowError> {
        self.0
            .as_ref()
            .ok_or(FlowError::NotHere("there is nobody else"))
    }
}

impl quickwater_engine::io::Peers for EnginePeers {
    type Copies = OutgoingCopies;

    async fn copy(
        &self,
        place: (&Bucket, &ObjectKey),
        body: CopyBody,
        copies: usize,
        not: &[NodeId],
    ) -> Result<OutgoingCopies, FlowError> {
        self.peers()?.copy(place, body, copies, not).await
    }

    async fn fetch(
        &self,
        node: &NodeId,
        chunk: ChunkId,
        range: Range<u32>,
        into: &mut [u8],
    ) -> Result<bool, FlowError> {
        let fetched = self.peers()?.fetch_copy(node, chunk, range, into).await;
        fetched.map_err(|failure| failed(&failure))
    }

    async fn look_at_copies(&self, node: &NodeId, blobs: &[BlobId]) -> Result<(), FlowError> {
        let told = self.peers()?.look_at_copies(node, blobs).await;
        told.map_err(|failure| failed(&failure))
    }

    async fn has_copies(
        &self,
        node: &NodeId,
        blobs: &[(BlobId, u64)],
    ) -> Result<Vec<BlobId>, FlowError> {
        let asked = self.peers()?.has_copies(node, blobs).await;
        asked.map_err(|failure| failed(&failure))
    }

    fn others(&self) -> Vec<Neighbour> {
        let Some(peers) = &self.0 else {
            return Vec::new();
        };
        let directory = peers.directory();
        let mut others = directory.neighbours();
        others.retain(|one| one.node != *directory.node());
        others
    }

    fn zone(&self) -> Option<String> {
        let directory = self.0.as_ref()?.directory();
        let known = directory.neighbours().into_iter();
        let mut own = known.filter(|one| one.node == *directory.node());
        own.next().map(|own| own.zone)
    }

    fn itself(&self) -> Option<CopyAt> {
        // Learnt with the session, before anything is sent in it.
        let directory = self.0.as_ref()?.directory();
        Some(CopyAt {
            node: directory.node().clone(),
            session: directory.session()?,
        })
    }

    async fn look_again(&self, bucket: &Bucket, keys: Vec<ObjectKey>) -> Result<(), FlowError> {
        let Some(peers) = &self.0 else {
            return Err(FlowError::NotHere("there is nobody else"));
        };
        let mut by_owner: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for key in keys {
            match peers.directory().owner(slot_of(bucket.id, &key)) {
                Where::There(node) => {
                    let keys = by_owner.entry(node).or_default();
                    keys.push(key.as_str().to_owned());
                }
                Where::Here | Where::Nowhere => {
                    return Err(FlowError::NotHere("some of the keys change their owner"));
                }
            }
        }
        let of_owner = by_owner.iter().map(async |(node, keys)| {
            // One after the other: what an owner does side by side is its own to limit.
            for keys in keys.chunks(KEYS_PER_CALL) {
                let message = LookAgain {
                    keys: keys.to_vec(),
                };
                let right = right_to(bucket, "LookAgain");
                let asked = peers.ask(node, Task::LookAgain, right, &message).await;
                done(&asked.map_err(|failure| failed(&failure))?.0)?;
            }
            Ok(())
        });
        try_join_all(of_owner).await.map(|_| ())
    }

    async fn deletes_below(&self, bucket: &Bucket, prefix: &str) -> DeletesBelow {
        let Some(peers) = &self.0 else {
            return DeletesBelow::none();
        };
        let message = HidesBelow {
            prefix: prefix.to_owned(),
        };
        let others = peers.directory().others();
        let asked = others.iter().map(async |node| {
            let right = right_to(bucket, "HidesBelow");
            let asked = peers.ask(node, Task::HidesBelow, right, &message).await;
            match asked {
                Ok((answer, body)) if answer.code == NO_CODE => {
                    deletes_from_wire(answer.yes, &body)
                }
                Ok(_) => DeletesBelow::unknown(),
                Err(failure) => {
                    tracing::debug!(%node, %failure, "not known whether it holds deletes");
                    DeletesBelow::unknown()
                }
            }
        });
        let told = join_all(asked).await;
        told.into_iter()
            .fold(DeletesBelow::none(), DeletesBelow::and)
    }

    fn table(&self) -> u64 {
        self.0.as_ref().map_or(0, |peers| peers.directory().epoch())
    }

    async fn settle_bucket(&self, bucket: &Bucket) -> Result<(), FlowError> {
        let Some(peers) = &self.0 else {
            return Ok(());
        };
        let others = peers.directory().others();
        let settled = others.iter().map(async |node| {
            let right = right_to(bucket, "SettleBucket");
            let asked = peers.ask(node, Task::SettleBucket, right, &SettleBucket {});
            let settled = match asked.await {
                Ok((answer, _)) => done(&answer),
                Err(failure) => Err(failed(&failure)),
            };
            settled.map_err(|error| FlowError::Awaits {
                node: node.clone(),
                what: "send what it has of the bucket to the UFS",
                why: error.to_string(),
            })
        });
        try_join_all(settled).await.map(|_| ())
    }
}

impl quickwater_engine::io::StripePeers<PoolBuf> for EnginePeers {
    fn owner_elsewhere(&self, slot: usize) -> Option<NodeId> {
        match self.0.as_ref()?.directory().owner(slot) {
            Where::There(node) => Some(node),
            Where::Here | Where::Nowhere => None,
        }
    }

    async fn read_stripe(
        &self,
        node: &NodeId,
        read: &StripeRead<'_>,
        into: Option<PoolBuf>,
    ) -> Result<Given<PoolBuf>, StripeError> {
        match &self.0 {
            Some(peers) => peers.read_stripe(node, read, into).await,
            None => Err(StripeError::Unreached("there is nobody else".into())),
        }
    }

    async fn count_chunks(&self, node: &NodeId, runs: &[ChunkRun]) -> Result<u64, FlowError> {
        let counts = counted(self.peers()?.count_chunks(node, runs).await)?;
        Ok(counts.iter().sum())
    }

    async fn forget_chunks(&self, node: &NodeId, runs: &[ChunkRun]) -> Result<Vec<u64>, FlowError> {
        counted(self.peers()?.forget_chunks(node, runs).await)
    }
}
