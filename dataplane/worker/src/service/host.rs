//! What other workers ask this one for: their clients' requests, and what their own
//! work needs. Absent: asking (`relay.rs`, `across.rs`), connections (`peer`).

use std::net::SocketAddr;
use std::time::Duration;

use quickwater_engine::io::Disk;
use quickwater_engine::{CacheResult, World};
use quickwater_peer::{
    Answer, BODY_BYTES_MAX, Call, Capability, Kind, Layout, Message, RefusalKind, Relay, Task,
    decode,
};
use quickwater_proto::NodeId;
use quickwater_s3::auth::Identity;
use quickwater_s3::{Request, RequestView};

use super::answer::into_response;
use super::dispatch::{Call as Request_, Seen};
use super::documents::count_document;
use super::incoming::Incoming;
use super::place::Neighbours;
use super::relay::promised;
use super::{Observer, S3Service, ServiceAnswer};
use crate::buffers::PoolBuf;
use crate::http::watch::Holding;
use crate::http::{ConnectionInfo, HostId, Payload, RequestId, ResponseBody, Starved};
use crate::peer::{Host, PeerBody, Wire, WireError, drain};

/// Most bytes of a relayed request without its body: its head, twice over.
const RELAY_BYTES_MAX: usize = 2 * crate::http::HEAD_BYTES_MAX;

/// A head is there as it came, as it was read, and as a request.
const RELAY_FACTOR: usize = 3;

/// Who is told so looks for the owner again.
pub(super) const NOT_OURS: &str = "this worker does not own the key now";

impl<W, O> Host for S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    async fn host(&self, caller: &NodeId, call: Call, wire: &mut Wire) -> Result<(), WireError> {
        let Some(neighbours) = &self.neighbours else {
            return Err(WireError::Unexpected(Kind::Call));
        };
        let hosting = Hosting {
            neighbours,
            right: call.capability.clone().unwrap_or_default(),
        };
        tracing::trace!(%caller, task = ?call.task(), "a call of another worker");
        match call.task() {
            Task::Relay => self.host_relay(&hosting, caller, wire).await,
            Task::StoreCopy => self.host_store(&hosting, caller, wire).await,
            Task::FetchCopy => self.host_fetch(wire).await,
            Task::LookAtCopies => self.host_look(wire).await,
            Task::HasCopies => self.host_has(wire).await,
            Task::ReadStripe => self.host_stripe(&hosting, wire).await,
            Task::CountChunks => self.host_count(wire).await,
            Task::ForgetChunks => self.host_forget(wire).await,
            Task::TakeConnection => self.host_take(wire).await,
            Task::SendOn => self.host_send_on(wire).await,
            Task::ConnectionsEnded => self.host_ended(wire).await,
            task => self.host_errand(&hosting, task, wire).await,
        }
    }

    fn starved(&self) -> Starved {
        crate::http::Service::starved(self)
    }
}

/// A call that is served.
pub(super) struct Hosting<'n> {
    pub(super) neighbours: &'n Neighbours,
    pub(super) right: Capability,
}

impl Hosting<'_> {
    pub(super) async fn refuse(
        &self,
        wire: &mut Wire,
        kind: RefusalKind,
        text: impl Into<String>,
    ) -> Result<(), WireError> {
        self.neighbours.peers.refuse(wire, kind, text.into()).await
    }
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    async fn host_relay(
        &self,
        hosting: &Hosting<'_>,
        caller: &NodeId,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        if wire.left() > RELAY_BYTES_MAX {
            return Err(quickwater_peer::FrameError::TooLong.into());
        }
        let Some(_charge) = self.documents.charge(wire.left() * RELAY_FACTOR).await else {
            wire.skip().await?;
            let text = "no memory for it now";
            return hosting.refuse(wire, RefusalKind::Busy, text).await;
        };
        let relay: Relay = decode(&wire.take_all().await?)?;
        let headers: Vec<httparse::Header<'_>> = relay
            .headers
            .iter()
            .map(|header| httparse::Header {
                name: &header.name,
                value: &header.value,
            })
            .collect();
        let view = RequestView {
            method: &relay.method,
            target: &relay.target,
            headers: &headers,
        };
        let Some((identity, info)) = who(&relay) else {
            return hosting
                .refuse(wire, RefusalKind::Mistaken, "no request")
                .await;
        };
        let mut request = match Request::parse(&view, &self.config.dialect) {
            Ok(request) if is_allowed(&request, &hosting.right) => request,
            Ok(_) => {
                let text = "the request is not the one its capability is for";
                return hosting.refuse(wire, RefusalKind::NotAllowed, text).await;
            }
            // It was understood elsewhere: the settings of the workers differ.
            Err(error) => {
                let text = format!("the request is not understood here: {error}");
                return hosting.refuse(wire, RefusalKind::Mistaken, text).await;
            }
        };
        let slot = self.slot_of_request(&request).await;
        let here = slot.is_ok_and(|slot| {
            slot == usize::try_from(hosting.right.slot).ok()
                && slot.is_some_and(|slot| self.engine.permit_slot(slot).is_ok())
        });
        if !here {
            return hosting.refuse(wire, RefusalKind::NotHere, NOT_OURS).await;
        }
        request.revalidate |= relay.revalidate;
        let mut body = PeerBody::new(wire, relay.body_bytes);
        let mut seen = Seen {
            reads_stripes: relay.reads_stripes,
            guest: self.could_come(caller, &relay),
            ..Seen::default()
        };
        let answer = self
            .serve_relayed(&request, &identity, &mut body, &mut seen)
            .await;
        let owed = body.is_owed();
        let path = relay.target.split('?').next().unwrap_or_default();
        let (response, code) = into_response(answer, &view, path, &info);
        let code = code.unwrap_or_default();
        match seen.layout.take() {
            Some(layout) => send_layout(wire, response, layout, owed).await,
            None if seen.invited => self.send_invitation(seen.guest.as_ref(), wire).await,
            None => send_answer(wire, response, (code, seen.cache), owed).await,
        }
    }

    /// As for a client of our own.
    async fn serve_relayed(
        &self,
        request: &Request,
        identity: &Identity,
        body: &mut PeerBody<'_>,
        seen: &mut Seen,
    ) -> super::dispatch::Answer<W> {
        self.forbid(request)?;
        let body = Incoming::Peer(body);
        let charge = self.charge(request, &body).await?;
        let call = Request_ {
            request,
            identity,
            body,
        };
        let answer = self.perform(call, seen).await?;
        count_document(answer, charge)
    }
}

/// Who asks, by what the worker says that let it in.
fn who(relay: &Relay) -> Option<(Identity, ConnectionInfo)> {
    let identity = Identity {
        access_key: relay.access_key.clone(),
        presigned: relay.presigned,
        payload: promised(relay.payload.as_ref()?)?,
    };
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let info = ConnectionInfo {
        peer: relay.client.parse().unwrap_or(nobody),
        service: None,
        entry: None,
        request_id: RequestId::from_text(&relay.request_id)?,
        host_id: HostId::from_text(&relay.host_id)?,
    };
    Some((identity, info))
}

/// Whether a request is the one that a capability is for.
fn is_allowed(request: &Request, right: &Capability) -> bool {
    let bucket = request.bucket.as_ref().map(|bucket| bucket.as_str());
    let key = request.key.as_ref().map(|key| key.as_str());
    bucket.unwrap_or_default() == right.bucket
        && key.unwrap_or_default() == right.key
        && request.operation.name() == right.operation
}

/// Says where the bytes of an answer are, instead of sending them.
async fn send_layout<W: World>(
    wire: &mut Wire,
    response: ServiceAnswer<W>,
    layout: Layout,
    owed: bool,
) -> Result<(), WireError>
where
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
{
    let answer = Answer {
        status: response.status.into(),
        headers: response.headers,
        length: layout.end - layout.first,
        close: response.close,
        layout: true,
        ..Answer::default()
    };
    let layout = layout.encode_to_vec();
    wire.send(Kind::Answer, &answer, &layout, Duration::ZERO)
        .await?;
    match owed {
        true => drain(wire).await,
        false => Ok(()),
    }
}

/// Sends an answer with its body. `owed`: pieces of the request's body are still on their
/// way.
async fn send_answer<W: World>(
    wire: &mut Wire,
    response: ServiceAnswer<W>,
    (code, cache): (&str, Option<CacheResult>),
    owed: bool,
) -> Result<(), WireError>
where
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
{
    let (length, streams) = match &response.body {
        Payload::Empty | Payload::NotModified | Payload::Elsewhere(_) => (0, false),
        Payload::HeadOf(length) => (*length, false),
        Payload::Bytes(bytes) | Payload::Document { bytes, .. } => (bytes.len() as u64, true),
        Payload::Stream { length, .. } => (*length, true),
    };
    let answer = Answer {
        status: response.status.into(),
        headers: response.headers,
        code: code.to_owned(),
        text: String::new(),
        length,
        streams,
        not_modified: matches!(response.body, Payload::NotModified),
        head_of: matches!(response.body, Payload::HeadOf(_)),
        cache: match cache {
            None => 0,
            Some(CacheResult::Hit) => 1,
            Some(CacheResult::Miss) => 2,
            Some(CacheResult::Partial) => 3,
        },
        close: response.close,
        yes: false,
        layout: false,
        changed: false,
        hand_over: Vec::new(),
    };
    let mut before = wire.frame(Kind::Answer, &answer)?;
    if owed {
        wire.send_bytes(std::mem::take(&mut before)).await?;
        drain(wire).await?;
    }
    match response.body {
        Payload::Stream { length, body } => {
            wire.socket().hold(Holding::Buffers);
            let sent = send_stream(wire, before, length, body).await;
            wire.socket().let_go();
            sent
        }
        Payload::Bytes(bytes) => send_document(wire, before, &bytes).await,
        Payload::Document { bytes, charge } => {
            let sent = send_document(wire, before, &bytes).await;
            drop(charge);
            sent
        }
        _ if before.is_empty() => Ok(()),
        Payload::Empty | Payload::NotModified | Payload::HeadOf(_) | Payload::Elsewhere(_) => {
            wire.send_bytes(before).await
        }
    }
}

async fn send_document(
    wire: &mut Wire,
    mut before: Vec<u8>,
    bytes: &[u8],
) -> Result<(), WireError> {
    let pieces = bytes.chunks(BODY_BYTES_MAX);
    let count = pieces.len();
    for (at, piece) in pieces.enumerate() {
        let last = at + 1 == count;
        wire.send_small(std::mem::take(&mut before), piece, last)
            .await?;
    }
    match before.is_empty() {
        true => Ok(()),
        false => wire.send_bytes(before).await,
    }
}

/// Sends pieces as they come. If they end too early, the connection does.
pub(super) async fn send_stream<B: ResponseBody>(
    wire: &mut Wire,
    mut before: Vec<u8>,
    length: u64,
    mut body: B,
) -> Result<(), WireError> {
    let mut left = length;
    while left > 0 {
        let piece = match body.next().await {
            Ok(Some(piece)) if !piece.is_empty() && piece.len() as u64 <= left => piece,
            _ => {
                let broken = quickwater_peer::Frame::bare(Kind::Broken, 0).encode(&[])?;
                before.extend_from_slice(&broken);
                wire.send_bytes(before).await?;
                return Err(WireError::Unexpected(Kind::Broken));
            }
        };
        left -= piece.len() as u64;
        wire.send_piece(std::mem::take(&mut before), piece, left == 0)
            .await?;
    }
    Ok(())
}
