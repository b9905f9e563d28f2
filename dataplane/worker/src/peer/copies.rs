//! Copies on other workers: who is asked for one, the body on its way, the proof that it
//! was flushed; and what is asked of who keeps some. Absent: keeping copies
//! (`service/copies.rs`).

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures_util::future::join_all;
use quickwater_engine::FlowError;
use quickwater_engine::io::{ChunkId, Copies, CopyBody};
use quickwater_peer::{
    Capability, CopyList, FetchCopy, StoreCopy, StoredCopy, Task, decode, encode,
};
use quickwater_proto::{
    BlobId, Bucket, CopyAt, Neighbour, NodeId, ObjectKey, PartOf, UploadId, rendezvous_score,
    slot_of,
};

use super::ask::right_to;
use super::call::{CallFailure, Outgoing, Reply};
use super::connect::Peers;
use super::limit::COPY_WAIT;
use super::stats::Failure;

/// Copies of one body on their way.
pub struct OutgoingCopies {
    copies: Vec<OutgoingCopy>,
    /// This worker, as it was named to the others.
    owner: CopyAt,
}

/// One of them.
struct OutgoingCopy {
    node: NodeId,
    /// Gone once it has failed: its connection with it.
    call: Option<Outgoing>,
    /// Pieces that were asked for and not sent yet.
    granted: u32,
    sent: u64,
    sum: Digest,
}

/// Who is asked next: another zone than those that have a copy if there is one, then the
/// best by rendezvous.
fn next<'n>(
    candidates: &'n [Neighbour],
    slot: usize,
    asked: &HashSet<NodeId>,
    zones: &HashSet<String>,
) -> Option<&'n Neighbour> {
    let left = candidates.iter().filter(|one| !asked.contains(&one.node));
    left.max_by(|a, b| {
        let (new_a, new_b) = (!zones.contains(&a.zone), !zones.contains(&b.zone));
        let score = |one: &Neighbour| rendezvous_score(slot, &one.node, one.capacity_bytes);
        let by_score = || score(a).total_cmp(&score(b));
        new_a
            .cmp(&new_b)
            .then_with(by_score)
            .then_with(|| a.node.cmp(&b.node))
    })
}

/// The zones of this worker and of those that have a body.
fn zones_of(own: &Neighbour, known: &[Neighbour], have: &[NodeId]) -> HashSet<String> {
    let others = known.iter().filter(|one| have.contains(&one.node));
    let all = others.chain([own]);
    all.map(|one| one.zone.clone()).collect()
}

impl Peers {
    /// See [`quickwater_engine::io::Peers::copy`].
    pub(super) async fn copy(
        &self,
        (bucket, key): (&Bucket, &ObjectKey),
        body: CopyBody,
        copies: usize,
        not: &[NodeId],
    ) -> Result<OutgoingCopies, FlowError> {
        let directory = self.directory();
        let (own, candidates) = directory.candidates();
        let slot = slot_of(bucket.id, key);
        let mut asked: HashSet<NodeId> = not.iter().cloned().collect();
        let mut zones = zones_of(&own, &directory.neighbours(), not);
        let message = StoreCopy {
            bucket: bucket.id.0,
            blob: blob_to_wire(body.blob),
            bytes: body.bytes,
            session: own.session,
            upload: body
                .part
                .map_or_else(Vec::new, |part| part.upload.0.to_be_bytes().to_vec()),
            part_number: body.part.map_or(0, |part| part.number.into()),
            bare: body.bare,
        };
        let mut begun = Vec::with_capacity(copies);
        let mut refused = String::new();
        while begun.len() < copies {
            let Some(one) = next(&candidates, slot, &asked, &zones) else {
                tracing::warn!(
                    others = candidates.len(),
                    refused,
                    "too few workers take a copy"
                );
                return Err(FlowError::TooFewWorkers {
                    wanted: copies + 1,
                    possible: begun.len() + 1,
                });
            };
            asked.insert(one.node.clone());
            let right = Capability {
                key: key.as_str().to_owned(),
                ..right_to(bucket, "StoreCopy")
            };
            match self.begin_copy(&one.node, right, &message).await {
                Ok(copy) => {
                    zones.insert(one.zone.clone());
                    begun.push(copy);
                }
                Err(failed) => {
                    tracing::debug!(node = %one.node, error = %failed, "a worker takes no copy");
                    refused = format!("{refused}; {}: {failed}", one.node);
                }
            }
        }
        Ok(OutgoingCopies {
            copies: begun,
            owner: CopyAt {
                node: own.node,
                session: own.session,
            },
        })
    }

    async fn begin_copy(
        &self,
        node: &NodeId,
        right: Capability,
        message: &StoreCopy,
    ) -> Result<OutgoingCopy, CallFailure> {
        let body = encode(message);
        let body = body.map_err(|error| CallFailure::new(Failure::Protocol, error.to_string()))?;
        let mut call = self.call(node, Task::StoreCopy, right, &body).await?;
        call.wire().hurry(COPY_WAIT);
        let granted = match call.reply_within(COPY_WAIT).await? {
            Reply::More(pieces) => pieces,
            Reply::Answer(answer) => {
                let why = format!("{} {}", answer.code, answer.text);
                return Err(CallFailure::new(Failure::Busy, why));
            }
        };
        Ok(OutgoingCopy {
            node: node.clone(),
            call: Some(call),
            granted,
            sent: 0,
            sum: Digest::new(CrcAlgorithm::Crc32Iscsi),
        })
    }

    /// See [`quickwater_engine::io::Peers::fetch`].
    pub(super) async fn fetch_copy(
        &self,
        node: &NodeId,
        chunk: ChunkId,
        range: Range<u32>,
        into: &mut [u8],
    ) -> Result<bool, CallFailure> {
        let message = FetchCopy {
            blob: chunk.blob.0.to_be_bytes().to_vec(),
            chunk: chunk.index,
            first: range.start,
            end: range.end,
        };
        let right = Capability {
            operation: "FetchCopy".into(),
            ..Capability::default()
        };
        let asked = self.open_soon(node, Task::FetchCopy, right, &message);
        let (mut call, answer) = asked.await?;
        let left = call.wire().left();
        if !answer.code.is_empty() {
            if left == 0 {
                call.done();
            }
            return Err(CallFailure::new(Failure::Busy, answer.code));
        }
        if left != if answer.yes { into.len() } else { 0 } {
            let why = "other bytes than were asked for";
            return Err(CallFailure::new(Failure::Protocol, why));
        }
        let taken = call.wire().take_into(into).await;
        taken.map_err(|error| CallFailure::new(Failure::Broken, error.to_string()))?;
        call.done();
        Ok(answer.yes)
    }

    /// See [`quickwater_engine::io::Peers::has_copies`].
    pub(super) async fn has_copies(
        &self,
        node: &NodeId,
        blobs: &[(BlobId, u64)],
    ) -> Result<Vec<BlobId>, CallFailure> {
        let message = CopyList {
            blobs: blobs.iter().map(|(blob, _)| blob_to_wire(*blob)).collect(),
            bytes: blobs.iter().map(|(_, bytes)| *bytes).collect(),
        };
        let right = Capability {
            operation: "HasCopies".into(),
            ..Capability::default()
        };
        let asked = self.ask_soon(node, Task::HasCopies, right, &message);
        let list: CopyList = decode(&asked.await?.1)
            .map_err(|error| CallFailure::new(Failure::Protocol, error.to_string()))?;
        Ok(list.blobs.iter().filter_map(|b| blob_of(b)).collect())
    }

    /// See [`quickwater_engine::io::Peers::look_at_copies`].
    pub(super) async fn look_at_copies(
        &self,
        node: &NodeId,
        blobs: &[BlobId],
    ) -> Result<(), CallFailure> {
        let message = CopyList {
            blobs: blobs.iter().map(|blob| blob_to_wire(*blob)).collect(),
            bytes: Vec::new(),
        };
        let right = Capability {
            operation: "LookAtCopies".into(),
            ..Capability::default()
        };
        let asked = self.ask_soon(node, Task::LookAtCopies, right, &message);
        asked.await.map(drop)
    }
}

pub(crate) fn blob_to_wire(blob: BlobId) -> Vec<u8> {
    blob.0.to_be_bytes().to_vec()
}

/// The part that bytes are; `Err`: it is not understood.
pub(crate) fn part_of(message: &StoreCopy) -> Result<Option<PartOf>, ()> {
    if message.upload.is_empty() {
        return Ok(None);
    }
    let upload = <[u8; 16]>::try_from(&*message.upload).map_err(drop)?;
    Ok(Some(PartOf {
        upload: UploadId(u128::from_be_bytes(upload)),
        number: u16::try_from(message.part_number).map_err(drop)?,
    }))
}

/// A blob by its sixteen bytes; none: it is not that.
pub(crate) fn blob_of(bytes: &[u8]) -> Option<BlobId> {
    Some(BlobId(u128::from_be_bytes(bytes.try_into().ok()?)))
}

impl OutgoingCopy {
    async fn send(&mut self, piece: &Bytes, last: bool) -> Result<(), CallFailure> {
        let gone = || CallFailure::new(Failure::Broken, "the copy has failed before");
        let mut call = self.call.take().ok_or_else(gone)?;
        while self.granted == 0 {
            match call.reply_within(COPY_WAIT).await? {
                Reply::More(pieces) => self.granted += pieces,
                Reply::Answer(answer) => {
                    let why = format!("{} {}", answer.code, answer.text);
                    return Err(CallFailure::new(Failure::Busy, why));
                }
            }
        }
        call.send_shared(piece.clone(), last).await?;
        self.granted -= 1;
        if !last {
            self.sum.update(piece);
            self.sent += piece.len() as u64;
        }
        self.call = Some(call);
        Ok(())
    }

    /// Sends the entry and waits for the proof.
    async fn finish(&mut self, entry: &Bytes) -> Result<CopyAt, CallFailure> {
        self.send(entry, true).await?;
        let gone = || CallFailure::new(Failure::Broken, "the copy has failed before");
        let mut call = self.call.take().ok_or_else(gone)?;
        let answer = loop {
            match call.reply_within(COPY_WAIT).await? {
                // For what was sent since.
                Reply::More(_) => {}
                Reply::Answer(answer) => break answer,
            }
        };
        let body = call.wire().take_all().await;
        let body = body.map_err(|error| CallFailure::new(Failure::Broken, error.to_string()))?;
        if !answer.code.is_empty() {
            let why = format!("{} {}", answer.code, answer.text);
            return Err(CallFailure::new(Failure::Busy, why));
        }
        let proof: StoredCopy = decode(&body)
            .map_err(|error| CallFailure::new(Failure::Protocol, error.to_string()))?;
        let sum = self.sum.finalize() as u32;
        if (proof.bytes, proof.crc32c) != (self.sent, sum) || proof.session == 0 {
            let why = "the copy is not what was sent";
            return Err(CallFailure::new(Failure::Protocol, why));
        }
        call.done();
        Ok(CopyAt {
            node: self.node.clone(),
            session: proof.session,
        })
    }
}

fn failed(node: &NodeId, failure: &CallFailure) -> FlowError {
    tracing::warn!(%node, error = %failure, "a copy on another worker failed");
    FlowError::Unavailable(format!("the copy on worker {node}: {failure}"))
}

impl Copies for OutgoingCopies {
    async fn send(&mut self, chunk: Bytes) -> Result<(), FlowError> {
        // Each to its end: what is on a connection is not cut in two.
        let sent = self.copies.iter_mut().map(async |copy| {
            let sent = copy.send(&chunk, false).await;
            sent.map_err(|failure| failed(&copy.node, &failure))
        });
        join_all(sent).await.into_iter().collect()
    }

    async fn finish(&mut self, entry: Bytes) -> Result<Vec<CopyAt>, FlowError> {
        let finished = self.copies.iter_mut().map(async |copy| {
            let finished = copy.finish(&entry).await;
            finished.map_err(|failure| failed(&copy.node, &failure))
        });
        join_all(finished).await.into_iter().collect()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.copies.iter().map(|copy| copy.node.clone()).collect()
    }

    fn owner(&self) -> Option<CopyAt> {
        Some(self.owner.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(name: &str, zone: &str) -> Neighbour {
        Neighbour {
            node: NodeId::new(name).unwrap(),
            address: String::new(),
            zone: zone.into(),
            capacity_bytes: 1 << 30,
            session: 1,
            live: true,
            draining: false,
        }
    }

    #[test]
    fn another_zone_comes_first_and_everybody_is_asked_once() {
        let all = [
            neighbour("b", "z1"),
            neighbour("c", "z1"),
            neighbour("d", "z2"),
        ];
        for slot in 0..64 {
            let mut asked = HashSet::new();
            let zones = HashSet::from(["z1".to_owned()]);
            let first = next(&all, slot, &asked, &zones).unwrap();
            assert_eq!(first.node.as_str(), "d");
            while let Some(one) = next(&all, slot, &asked, &zones) {
                assert!(asked.insert(one.node.clone()));
            }
            assert_eq!(asked.len(), all.len());
        }
    }

    #[test]
    fn slots_are_spread_over_those_of_a_zone() {
        let all = [neighbour("b", ""), neighbour("c", "")];
        let zones = HashSet::from([String::new()]);
        let first = |slot| {
            next(&all, slot, &HashSet::new(), &zones)
                .unwrap()
                .node
                .clone()
        };
        let of_b = (0..1_000).filter(|slot| first(*slot) == all[0].node);
        assert!((350..650).contains(&of_b.count()));
    }
}
