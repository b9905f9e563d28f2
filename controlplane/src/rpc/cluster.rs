//! The cluster service on the wire: who calls is read from the certificate, messages
//! are translated. No rules here.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt as _};
use quickwater_proto::{Neighbour, NodeId, SLOTS, SlotTable};
use quickwater_rpc::cluster as wire;
use quickwater_rpc::cluster::cluster_server::{Cluster as Service, ClusterServer};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::identity::{Role, ends_at};
use crate::cluster::wire::MESSAGE_BYTES_MAX;
use crate::cluster::{Beat, Cluster, Moved, News, Part, Past, Peers, Position, RegisterError};
use crate::records::Member;
use crate::store::Store;

/// Most parts of a worker, and characters of what it says of one.
const PARTS_MAX: usize = 16;
const PART_CHARS_MAX: usize = 500;
/// Header with the session of a stream of calls.
pub(crate) const SESSION_HEADER: &str = "quickwater-session";
/// Calls of one stream at a time; more wait in the stream.
const CALLS_MAX: usize = 1_024;
/// Answers that travel in one message.
const ANSWERS_PER_MESSAGE: usize = 64;
/// Messages of a session that wait to be sent.
const OUTBOX: usize = 16;
/// Longest text of a registration, bytes.
const TEXT_BYTES_MAX: usize = 256;

/// The cluster service, to be added to a server that asks for certificates.
#[must_use]
pub fn cluster_routes<S: Store>(cluster: Cluster<S>) -> Routes {
    let server = ClusterServer::new(ClusterService { cluster })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(server)
}

struct ClusterService<S> {
    cluster: Cluster<S>,
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The worker that calls, and when its certificate ends: TLS looked at that when its connection
/// was made, which may be long ago.
fn worker<T>(request: &Request<T>) -> Result<(NodeId, SystemTime), Status> {
    let certificates = request.peer_certs();
    let first = certificates.as_ref().and_then(|all| all.first());
    let Some(first) = first else {
        return Err(Status::unauthenticated("no certificate"));
    };
    match (Role::of_certificate(first), ends_at(first)) {
        (Some(Role::Worker(_)), Some(until)) if until <= SystemTime::now() => Err(over()),
        (Some(Role::Worker(node)), Some(until)) => Ok((node, until)),
        _ => Err(Status::permission_denied("not the certificate of a worker")),
    }
}

fn over() -> Status {
    Status::unauthenticated(
        "the certificate of this worker has ended: renew it (quickwater cluster renew) and restart the worker",
    )
}

fn table_to_wire(table: &SlotTable) -> wire::Table {
    let (members, owners, yielding) = table.to_parts();
    wire::Table {
        epoch: table.epoch,
        members,
        owners,
        yielding,
    }
}

/// A table as it came.
///
/// # Errors
/// It is none.
pub(crate) fn table_from_wire(
    table: &wire::Table,
) -> Result<SlotTable, quickwater_proto::TableError> {
    SlotTable::from_parts(table.epoch, &table.members, &table.owners, &table.yielding)
}

pub(crate) fn position_to_wire(position: &Position) -> wire::Position {
    wire::Position {
        term: position.term.to_be_bytes().to_vec(),
        version: position.version,
    }
}

/// How far the metadata are, as it came; `None`: it is not that.
pub(crate) fn position_from_wire(position: &wire::Position) -> Option<Position> {
    Some(Position {
        term: u128::from_be_bytes(position.term.as_slice().try_into().ok()?),
        version: position.version,
    })
}

fn peers_to_wire(peers: &Peers) -> wire::Peers {
    let peer = |peer: &Neighbour| wire::Peer {
        node: peer.node.to_string(),
        address: peer.address.clone(),
        zone: peer.zone.clone(),
        capacity_bytes: peer.capacity_bytes,
        session: peer.session,
        live: peer.live,
        draining: peer.draining,
    };
    let over = |(node, session): &(NodeId, u64)| wire::Over {
        node: node.to_string(),
        session: *session,
    };
    wire::Peers {
        key: peers.key.to_vec(),
        members: peers.members.iter().map(peer).collect(),
        over: peers.over.iter().map(over).collect(),
    }
}

/// What workers need to talk to each other, as it came; `None`: it is not that.
pub(crate) fn peers_from_wire(peers: &wire::Peers) -> Option<Peers> {
    let peer = |peer: &wire::Peer| {
        Some(Neighbour {
            node: NodeId::new(&peer.node).ok()?,
            address: peer.address.clone(),
            zone: peer.zone.clone(),
            capacity_bytes: peer.capacity_bytes,
            session: peer.session,
            live: peer.live,
            draining: peer.draining,
        })
    };
    let over = |over: &wire::Over| Some((NodeId::new(&over.node).ok()?, over.session));
    Some(Peers {
        key: peers.key.as_slice().try_into().ok()?,
        members: peers.members.iter().map(peer).collect::<Option<_>>()?,
        over: peers.over.iter().map(over).collect::<Option<_>>()?,
    })
}

/// Numbers of the bits that are set.
pub(crate) fn slots(bits: &[u8]) -> BTreeSet<usize> {
    if bits.is_empty() {
        return BTreeSet::new();
    }
    let set = |slot: &usize| {
        bits.get(slot / 8)
            .is_some_and(|b| b & (1 << (slot % 8)) != 0)
    };
    (0..SLOTS).filter(set).collect()
}

/// What a worker tells of its optional parts, no more than people read.
fn parts(told: Vec<wire::Part>) -> Vec<Part> {
    let cut = |text: String| text.chars().take(PART_CHARS_MAX).collect();
    let kept = told.into_iter().take(PARTS_MAX).map(|part| Part {
        name: cut(part.name),
        state: cut(part.state),
        detail: cut(part.detail),
    });
    kept.collect()
}

fn moved(told: wire::Moved) -> Moved {
    Moved {
        sent_bytes: told.sent_bytes,
        received_bytes: told.received_bytes,
        requests: told.requests,
        persisted_bytes: told.persisted_bytes,
    }
}

/// One bit per slot; empty when there is none.
pub(crate) fn bits(slots: &[usize]) -> Vec<u8> {
    if slots.is_empty() {
        return Vec::new();
    }
    let mut bits = vec![0; SLOTS / 8];
    for slot in slots {
        if let Some(byte) = bits.get_mut(slot / 8) {
            *byte |= 1 << (slot % 8);
        }
    }
    bits
}

fn member(node: NodeId, request: wire::RegisterRequest) -> Result<Member, Status> {
    let texts = [
        &request.advertise,
        &request.zone,
        &request.s3_address,
        &request.version,
        &request.cluster,
    ];
    let fits = texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX);
    if !fits || request.store.len() > TEXT_BYTES_MAX {
        return Err(Status::invalid_argument("a text is too long"));
    }
    if request.node != node.as_str() {
        let why = format!(
            "the certificate is that of node '{node}', not of '{}': start the worker with --node-id {node}, or give it its own certificate",
            request.node.escape_debug()
        );
        return Err(Status::permission_denied(why));
    }
    Ok(Member {
        node,
        advertise: request.advertise,
        zone: request.zone,
        capacity_bytes: request.capacity_bytes,
        s3_address: request.s3_address,
        store: request.store,
        shards: request.shards,
        version: request.version,
        gone: false,
        draining: false,
        removed: false,
        lease_ms: 0,
    })
}

fn past(request: &wire::RegisterRequest) -> Result<Past, Status> {
    let seen = request.seen.as_ref().map(|seen| {
        position_from_wire(seen).ok_or_else(|| Status::invalid_argument("no position"))
    });
    if request.process.len() > TEXT_BYTES_MAX {
        return Err(Status::invalid_argument("a text is too long"));
    }
    Ok(Past {
        cluster: request.cluster.clone(),
        seen: seen.transpose()?,
        process: request.process.clone(),
        begins: request.begins,
    })
}

fn refused(error: RegisterError) -> Status {
    match error {
        RegisterError::NameTaken { .. } | RegisterError::Twin { .. } => {
            Status::already_exists(error.to_string())
        }
        RegisterError::OtherCluster { .. }
        | RegisterError::Older { .. }
        | RegisterError::Restart { .. } => Status::failed_precondition(error.to_string()),
        RegisterError::Unavailable(_) => Status::unavailable(error.to_string()),
    }
}

fn ended() -> Status {
    Status::aborted("the session has ended; register again")
}

#[tonic::async_trait]
impl<S: Store> Service for ClusterService<S> {
    type AttendStream = Outgoing<wire::FromControl>;
    type MetadataStream = Outgoing<wire::Answers>;

    async fn register(
        &self,
        request: Request<wire::RegisterRequest>,
    ) -> Result<Response<wire::RegisterAnswer>, Status> {
        let (node, _) = worker(&request)?;
        let request = request.into_inner();
        let past = past(&request)?;
        let member = member(node, request)?;
        let registered = self.cluster.register(member, &past).await;
        let admitted = registered.map_err(refused)?;
        let lease_ms = u64::try_from(self.cluster.lease().as_millis()).unwrap_or(u64::MAX);
        let table = table_to_wire(&self.cluster.tables().borrow());
        let peers = peers_to_wire(&self.cluster.peers().borrow());
        Ok(Response::new(wire::RegisterAnswer {
            session: admitted.session,
            cluster: self.cluster.name().to_owned(),
            lease_ms,
            table: Some(table),
            peers: Some(peers),
            position: Some(position_to_wire(&admitted.position)),
            undone: admitted.undone,
        }))
    }

    async fn attend(
        &self,
        request: Request<Streaming<wire::FromWorker>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let (node, until) = worker(&request)?;
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let cluster = self.cluster.clone();
        let beats = request.into_inner();
        tokio::spawn(attend(cluster, (node, until), beats, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn metadata(
        &self,
        request: Request<Streaming<wire::Calls>>,
    ) -> Result<Response<Self::MetadataStream>, Status> {
        let (node, _) = worker(&request)?;
        let session = request.metadata().get(SESSION_HEADER);
        let session = session.and_then(|text| text.to_str().ok()?.parse().ok());
        let session = session.ok_or_else(|| Status::invalid_argument("no session"))?;
        if !self.cluster.attends(&node, session) {
            return Err(ended());
        }
        let (sender, receiver) = mpsc::channel(CALLS_MAX);
        let cluster = self.cluster.clone();
        tokio::spawn(make_calls(
            cluster,
            (node, session),
            request.into_inner(),
            sender,
        ));
        let answers = ReceiverStream::new(receiver).ready_chunks(ANSWERS_PER_MESSAGE);
        let answers = answers.map(|answers| Ok(wire::Answers { answers }));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A session from its first heartbeat to its last, which is before its certificate ends: others
/// accept no new connection of it from then on.
async fn attend<S: Store>(
    cluster: Cluster<S>,
    (node, until): (NodeId, SystemTime),
    mut beats: Streaming<wire::FromWorker>,
    out: mpsc::Sender<Result<wire::FromControl, Status>>,
) {
    let stream = cluster.orders().attend(&node, out.clone());
    let mut tables = cluster.tables();
    tables.mark_changed();
    let mut news = cluster.news();
    news.mark_changed();
    let mut peers = cluster.peers();
    peers.mark_changed();
    loop {
        let message = tokio::select! {
            beat = beats.message() => match beat {
                Ok(Some(wire::FromWorker { answer: Some(answer), .. })) => {
                    cluster.orders().answered(&node, answer);
                    continue;
                }
                Ok(Some(beat)) if SystemTime::now() < until || beat.leaving => {
                    taken(&cluster, &node, beat).await
                }
                Ok(Some(_)) => {
                    tracing::warn!(%node, "the certificate of a worker has ended: it loses its lease. Renew it (quickwater cluster renew) and restart the worker");
                    Err(over())
                }
                // The worker went away; its lease runs on without it.
                Ok(None) | Err(_) => break,
            },
            changed = news.changed() => match changed {
                Ok(()) => {
                    let News { buckets, policies } = *news.borrow_and_update();
                    Ok(wire::FromControl {
                        news: Some(wire::News { buckets, policies }),
                        ..wire::FromControl::default()
                    })
                }
                Err(_) => break,
            },
            changed = peers.changed() => match changed {
                Ok(()) => {
                    let peers = peers_to_wire(&peers.borrow_and_update());
                    Ok(wire::FromControl {
                        peers: Some(peers),
                        ..wire::FromControl::default()
                    })
                }
                Err(_) => break,
            },
            changed = tables.changed() => match changed {
                Ok(()) => {
                    let table = table_to_wire(&tables.borrow_and_update());
                    // Before it takes slots a worker has to know whose requests are over.
                    let told = peers_to_wire(&peers.borrow_and_update());
                    Ok(wire::FromControl {
                        peers: Some(told),
                        table: Some(table),
                        ..wire::FromControl::default()
                    })
                }
                Err(_) => break,
            },
        };
        let last = message.is_err();
        if out.send(message).await.is_err() || last {
            break;
        }
    }
    cluster.orders().part(&node, stream);
}

async fn taken<S: Store>(
    cluster: &Cluster<S>,
    node: &NodeId,
    message: wire::FromWorker,
) -> Result<wire::FromControl, Status> {
    if message.leaving {
        let left = cluster.leave(node, message.session).await;
        left.map_err(|error| Status::unavailable(error.to_string()))?;
        return Ok(wire::FromControl {
            beat: message.beat,
            ..wire::FromControl::default()
        });
    }
    let beat = Beat {
        epoch: message.epoch,
        kept: slots(&message.kept),
        state: message.state,
        used_bytes: message.used_bytes,
        dirty_bytes: message.dirty_bytes,
        holds: message.holds,
        changes: message.changes,
        transient_objects: message.transient_objects,
        copies_kept: message.copies_kept,
        parts_held: message.parts_held,
        draining: message.draining,
        parts: parts(message.parts),
        ready: slots(&message.ready),
        stopping: message.stopping,
        moved: message.moved.map(moved),
    };
    match cluster.beat(node, message.session, beat) {
        true => Ok(wire::FromControl {
            beat: message.beat,
            draining: cluster.drains(node),
            wanted: bits(&cluster.wanted(node)),
            position: Some(position_to_wire(&cluster.position())),
            ..wire::FromControl::default()
        }),
        false => Err(ended()),
    }
}

/// Makes the calls of a stream, side by side.
async fn make_calls<S: Store>(
    cluster: Cluster<S>,
    (node, session): (NodeId, u64),
    mut calls: Streaming<wire::Calls>,
    out: mpsc::Sender<wire::Answer>,
) {
    let places = Arc::new(Semaphore::new(CALLS_MAX));
    let node = Arc::new(node);
    // A stream that breaks is the worker's to notice.
    while let Ok(Some(batch)) = calls.message().await {
        for call in batch.calls {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let (cluster, node, out) = (cluster.clone(), Arc::clone(&node), out.clone());
            // To its end, whatever becomes of the stream.
            tokio::spawn(async move {
                let answer = cluster.call(&node, session, call).await;
                // Nobody waits for it any more; who asks again gets it then.
                let _ = out.send(answer).await;
                drop(place);
            });
        }
    }
}
