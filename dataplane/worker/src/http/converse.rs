//! The life of one connection: head, service, response, again. Absent: accepting,
//! and the grammar of heads and bodies.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use monoio::buf::IoBufMut;

use super::count::bump;
use super::documents::DocumentCharge;
use super::identify::IdSource;
use super::limit::{HEAD_BYTES_MAX, HEAD_BYTES_START, HttpConfig, STOPPING_IDLE};
use super::parse::{Head, HeadScan, Refusal, header_slots, parse};
use super::quick::answer_quickly;
use super::receive::{RequestBody, Rest, linger};
use super::respond::{Keeping, ResponseHead, Sent, send};
use super::service::{ConnectionInfo, NoBody, Payload, Response, Service};
use super::transfer::{Socket, TransportError};
use super::watch::{Holding, Waiting};
use crate::handoff::{Departure, Parting};
use quickwater_proto::NodeId;
use quickwater_s3::RequestView;

/// What all connections of a shard share.
pub(crate) struct Room<S> {
    pub(crate) service: S,
    pub(crate) config: HttpConfig,
    pub(crate) ids: IdSource,
    /// Where heads of quick answers are put together; never held across a wait.
    pub(crate) scratch: RefCell<Vec<u8>>,
}

impl<S: Service> Room<S> {
    pub(crate) fn info(&self, peer: SocketAddr) -> ConnectionInfo {
        let (request_id, host_id) = self.ids.next();
        ConnectionInfo {
            peer,
            service: None,
            entry: None,
            request_id,
            host_id,
        }
    }

    fn document(&self, refusal: Refusal, info: &ConnectionInfo) -> Bytes {
        self.service
            .error_body(refusal.status, refusal.code, refusal.message, info)
    }
}

/// What follows one exchange.
enum After {
    /// The next one; these bytes of it are here already.
    Keep(Vec<u8>),
    /// Nothing.
    Close,
}

/// Whose connection it is.
pub(crate) struct Visitor {
    /// The client.
    pub(crate) peer: SocketAddr,
    /// The address it connected to, if the connection may be handed over.
    pub(crate) service: Option<SocketAddr>,
    /// The worker whose host the client's packets reach; `None`: this one.
    pub(crate) entry: Option<NodeId>,
}

impl Visitor {
    /// Of a connection that stays here.
    pub(crate) fn resident(peer: SocketAddr) -> Self {
        Visitor {
            peer,
            service: None,
            entry: None,
        }
    }
}

/// Serves a connection to its end. `inbound` came on it already.
pub(crate) async fn converse<S: Service>(
    room: Rc<Room<S>>,
    mut socket: Socket,
    visitor: Visitor,
    mut inbound: Vec<u8>,
) {
    let peer = visitor.peer;
    loop {
        let end;
        (inbound, end) = match read_head(&room, &mut socket, inbound).await {
            Ok(found) => found,
            Err(ending) => return ending.act(&room, socket, peer).await,
        };
        match answer_quickly(&room, &mut socket, peer, &inbound[..end]).await {
            Some(true) => {
                inbound.drain(..end);
                continue;
            }
            Some(false) => return,
            None => {}
        }
        // Boxed, so that an idle connection does not hold the memory of a busy one.
        let exchange = Box::pin(exchange(&room, &mut socket, &visitor, inbound, end));
        match exchange.await {
            After::Keep(rest) => inbound = rest,
            After::Close => return,
        }
    }
}

/// Why no further request came.
enum Ending {
    /// In silence.
    Quiet,
    /// With an answer.
    Refused(Refusal),
}

impl Ending {
    async fn act<S: Service>(self, room: &Room<S>, mut socket: Socket, peer: SocketAddr) {
        match self {
            Ending::Quiet => socket.say_goodbye().await,
            Ending::Refused(refusal) => {
                let info = room.info(peer);
                refuse(room, &mut socket, refusal, &info).await;
            }
        }
    }
}

/// Answers by ourselves and closes so that the answer can be read.
pub(crate) async fn refuse<S: Service>(
    room: &Room<S>,
    socket: &mut Socket,
    refusal: Refusal,
    info: &ConnectionInfo,
) {
    let head = ResponseHead {
        status: refusal.status,
        headers: refusal_headers(refusal),
        info,
        keeping: Keeping::Close,
    };
    let payload = Payload::<NoBody>::Bytes(room.document(refusal, info));
    let sent = send(socket, head, payload, false, &room.config, Bytes::new).await;
    if sent == Sent::Last {
        linger(socket, &room.config).await;
    }
}

fn refusal_headers(refusal: Refusal) -> &'static [u8] {
    const _: () = assert!(super::limit::RETRY_AFTER_SECONDS == 1);
    match refusal.status {
        503 => b"Content-Type: application/xml\r\nRetry-After: 1\r\n",
        _ => b"Content-Type: application/xml\r\n",
    }
}

/// Receives until a whole head is there: the bytes and the head's length.
async fn read_head<S: Service>(
    room: &Room<S>,
    socket: &mut Socket,
    mut inbound: Vec<u8>,
) -> Result<(Vec<u8>, usize), Ending> {
    socket.let_go();
    let config = &room.config;
    let mut scan = HeadScan::default();
    let mut deadline_ms = None;
    let mut long = None;
    loop {
        match scan.scan(&mut inbound) {
            Ok(Some(end)) => {
                if long.take().is_some() {
                    socket.let_go();
                }
                return Ok((inbound, end));
            }
            Ok(None) => {}
            Err(refusal) => {
                bump(&socket.stats().parse_errors);
                return Err(Ending::Refused(refusal));
            }
        }
        let (waiting, until_ms) = if inbound.is_empty() {
            deadline_ms = None;
            (Waiting::Idle, idle_deadline_ms(config, socket))
        } else {
            let header_ms = u64::try_from(config.header_timeout.as_millis()).unwrap_or(u64::MAX);
            let now_ms = socket.watchdog().now_ms();
            let until = *deadline_ms.get_or_insert(now_ms.saturating_add(header_ms));
            (Waiting::Read, until)
        };
        if inbound.len() == inbound.capacity() && !inbound.is_empty() {
            long = charge_long_head(room, socket)?;
        }
        make_room(&mut inbound);
        let (from, to) = (inbound.len(), inbound.capacity().min(HEAD_BYTES_MAX));
        let (result, slice) = socket
            .receive_until(inbound.slice_mut(from..to), waiting, until_ms)
            .await;
        inbound = slice.into_inner();
        match result {
            Ok(count) if count > 0 => {}
            other => return Err(ending(socket, other, inbound.is_empty())),
        }
    }
}

/// Counts a head that needs more than every connection has, while it arrives: heads
/// that never end would otherwise hold memory that nobody counts.
fn charge_long_head<S: Service>(
    room: &Room<S>,
    socket: &Socket,
) -> Result<Option<DocumentCharge>, Ending> {
    let Some(memory) = room.service.documents() else {
        return Ok(None);
    };
    let charge = memory.try_charge(HEAD_BYTES_MAX);
    let charge = charge.ok_or(Ending::Refused(Refusal::SLOW_DOWN))?;
    socket.hold(Holding::Documents);
    Ok(Some(charge))
}

fn idle_deadline_ms(config: &HttpConfig, socket: &Socket) -> u64 {
    let watchdog = socket.watchdog();
    let wait = if watchdog.is_stopping() {
        STOPPING_IDLE
    } else {
        config.idle_timeout
    };
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    watchdog.now_ms().saturating_add(wait_ms)
}

/// Small while idle, grown only for heads that need it. The scan refuses a head
/// before the buffer is full at its largest.
fn make_room(inbound: &mut Vec<u8>) {
    if inbound.is_empty() && inbound.capacity() != HEAD_BYTES_START {
        *inbound = Vec::with_capacity(HEAD_BYTES_START);
    } else if inbound.len() == inbound.capacity() {
        inbound.reserve_exact(HEAD_BYTES_MAX - inbound.len());
    }
}

fn ending(socket: &Socket, result: Result<usize, TransportError>, idle: bool) -> Ending {
    let stats = socket.stats();
    let count: &AtomicU64 = match (&result, idle) {
        (Err(TransportError::TimedOut), true) => {
            if !socket.watchdog().is_stopping() {
                bump(&stats.idle_timeouts);
            }
            return Ending::Quiet;
        }
        (Err(TransportError::TimedOut), false) => {
            bump(&stats.header_timeouts);
            return Ending::Refused(Refusal::TIMEOUT);
        }
        (_, true) => return Ending::Quiet,
        (_, false) => &stats.client_aborts,
    };
    bump(count);
    Ending::Quiet
}

/// One request and its response. `inbound` holds the head, `..end`, and what came
/// with it.
async fn exchange<S: Service>(
    room: &Room<S>,
    socket: &mut Socket,
    visitor: &Visitor,
    inbound: Vec<u8>,
    end: usize,
) -> After {
    let mut info = room.info(visitor.peer);
    if let Some(service) = visitor.service {
        info.service = Some(service);
        info.entry.clone_from(&visitor.entry);
    }
    let (front, early) = inbound.split_at(end);
    let mut slots = header_slots();
    let head = match parse(front, &mut slots) {
        Ok(head) => head,
        Err(refusal) => {
            bump(&socket.stats().parse_errors);
            refuse(room, socket, refusal, &info).await;
            return After::Close;
        }
    };
    bump(&socket.stats().requests);
    let mut body = RequestBody::new(socket, &head, early, &room.config);
    let response = loop {
        let view = RequestView {
            method: head.method,
            target: head.target,
            headers: head.headers,
        };
        let response = room.service.call(view, &info, &mut body).await;
        match response.body {
            Payload::Elsewhere(to) if info.service.is_some() => {
                match leave(room, &info, &to, body.socket(), &inbound).await {
                    Parting::Gone | Parting::Lost => return After::Close,
                    // Answered here after all.
                    Parting::Stayed => info.service = None,
                }
            }
            _ => break response,
        }
    };
    let success = (200..300).contains(&response.status);
    if success && body.settle_continue().await.is_err() {
        return After::Close;
    }
    let keeping = keeping(&head, &response, &mut body, &room.config);
    let sent = answer(room, &head, &info, response, keeping, body.socket()).await;
    match sent {
        Sent::Broken => After::Close,
        Sent::Last => {
            body.linger(&room.config).await;
            After::Close
        }
        Sent::Whole => match pass_over(body, &room.config).await {
            None => After::Close,
            Some(Rest::Early(count)) => {
                let mut rest = inbound;
                rest.drain(..rest.len() - count);
                After::Keep(rest)
            }
            Some(Rest::Ahead(rest)) => After::Keep(rest),
        },
    }
}

/// Has the connection go elsewhere. No operation of a ring is under way: a request
/// without body was read whole.
async fn leave<S: Service>(
    room: &Room<S>,
    info: &ConnectionInfo,
    to: &Departure,
    socket: &mut Socket,
    inbound: &[u8],
) -> Parting {
    match socket.duplicate() {
        Ok(other) => room.service.hand_over(to, info, other, inbound).await,
        Err(error) => {
            tracing::warn!(%error, "a connection is not handed over");
            Parting::Stayed
        }
    }
}

/// Decided before the response goes out, because it says so.
fn keeping<B>(
    head: &Head<'_, '_>,
    response: &Response<B>,
    body: &mut RequestBody<'_>,
    config: &HttpConfig,
) -> Keeping {
    let stopping = body.socket().watchdog().is_stopping();
    let drainable = body.can_be_drained(config.drain_bytes);
    if response.close || stopping || !head.keep_alive || !drainable {
        Keeping::Close
    } else if head.old_version {
        Keeping::Announced
    } else {
        Keeping::Default
    }
}

async fn answer<S: Service>(
    room: &Room<S>,
    head: &Head<'_, '_>,
    info: &ConnectionInfo,
    response: Response<S::Body>,
    keeping: Keeping,
    socket: &mut Socket,
) -> Sent {
    if !is_sendable(response.status, &response.headers) {
        tracing::error!(status = response.status, "a response that is not HTTP");
        refuse(room, socket, Refusal::INTERNAL, info).await;
        return Sent::Broken;
    }
    let response_head = ResponseHead {
        status: response.status,
        headers: &response.headers,
        info,
        keeping,
    };
    let silent = head.method == "HEAD";
    let failure = || room.document(Refusal::INTERNAL, info);
    send(
        socket,
        response_head,
        response.body,
        silent,
        &room.config,
        failure,
    )
    .await
}

/// Catches the mistakes of a service that would corrupt the connection.
fn is_sendable(status: u16, headers: &[u8]) -> bool {
    let lines = headers.is_empty() || (headers.ends_with(b"\r\n") && headers[0] != b'\r');
    (200..600).contains(&status) && lines
}

/// Throws away what is left of a body and finds the next request.
async fn pass_over(mut body: RequestBody<'_>, config: &HttpConfig) -> Option<Rest> {
    if !body.is_complete() {
        let linger_ms = u64::try_from(config.linger.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = body.socket().watchdog().now_ms().saturating_add(linger_ms);
        if !body.drain(deadline_ms).await {
            return None;
        }
    }
    Some(body.into_rest())
}
