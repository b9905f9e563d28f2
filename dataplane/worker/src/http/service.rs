//! What the HTTP layer asks of a service and what the service gives back.
//! Absent: S3.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;

use super::documents::{DocumentCharge, DocumentMemory};
use super::identify::{HostId, RequestId};
use super::receive::RequestBody;
use super::watch::Starved;
use crate::buffers::PoolBuf;
use crate::handoff::{Departure, Parting};
use quickwater_proto::NodeId;
use quickwater_s3::RequestView;

/// Answers requests on one shard.
///
/// `call` is never dropped before it completes, so it must end by itself: every
/// wait inside has a deadline.
pub trait Service {
    /// Response bodies that come piece by piece.
    type Body: ResponseBody;
    /// Answers that need no more than one read; [`NoQuick`] when there are none.
    type Quick<'s>: QuickAnswer
    where
        Self: 's;

    /// Takes a request without body on the short way, if it is one for it. `front`
    /// is the whole head the request was parsed from. `None` decides nothing:
    /// [`Service::call`] is asked next.
    fn quick(&self, request: RequestView<'_>, front: &[u8]) -> Option<Self::Quick<'_>>;

    /// Answers one request. It need not read the body; what is left of it is
    /// thrown away or closes the connection.
    async fn call<'a>(
        &'a self,
        request: RequestView<'a>,
        info: &'a ConnectionInfo,
        body: &'a mut RequestBody<'_>,
    ) -> Response<Self::Body>;

    /// Whether connections may be handed to other workers: then requests come with the
    /// address their client connected to.
    fn hands_over(&self) -> bool {
        false
    }

    /// Whether a connection that was just accepted may be handed over. To be asked once.
    fn may_leave(&self, _client: SocketAddr, _service: SocketAddr) -> bool {
        false
    }

    /// Hands the connection to who [`Payload::Elsewhere`] named. `socket` is another
    /// descriptor of it, `unread` are the bytes that were received and not answered.
    async fn hand_over(
        &self,
        _to: &Departure,
        _info: &ConnectionInfo,
        _socket: OwnedFd,
        _unread: &[u8],
    ) -> Parting {
        Parting::Stayed
    }

    /// How many requests wait now for what other connections hold.
    fn starved(&self) -> Starved {
        Starved::default()
    }

    /// Where long request heads are counted, if anywhere.
    fn documents(&self) -> Option<&Rc<DocumentMemory>> {
        None
    }

    /// The XML document for a request that this layer refuses by itself.
    fn error_body(&self, status: u16, code: &str, message: &str, info: &ConnectionInfo) -> Bytes;
}

/// A service that others hold, too.
impl<S: Service> Service for Rc<S> {
    type Body = S::Body;
    type Quick<'s>
        = S::Quick<'s>
    where
        Self: 's;

    fn quick(&self, request: RequestView<'_>, front: &[u8]) -> Option<Self::Quick<'_>> {
        S::quick(self, request, front)
    }

    async fn call<'a>(
        &'a self,
        request: RequestView<'a>,
        info: &'a ConnectionInfo,
        body: &'a mut RequestBody<'_>,
    ) -> Response<Self::Body> {
        S::call(self, request, info, body).await
    }

    fn hands_over(&self) -> bool {
        S::hands_over(self)
    }

    fn may_leave(&self, client: SocketAddr, service: SocketAddr) -> bool {
        S::may_leave(self, client, service)
    }

    async fn hand_over(
        &self,
        to: &Departure,
        info: &ConnectionInfo,
        socket: OwnedFd,
        unread: &[u8],
    ) -> Parting {
        S::hand_over(self, to, info, socket, unread).await
    }

    fn starved(&self) -> Starved {
        S::starved(self)
    }

    fn documents(&self) -> Option<&Rc<DocumentMemory>> {
        S::documents(self)
    }

    fn error_body(&self, status: u16, code: &str, message: &str, info: &ConnectionInfo) -> Bytes {
        S::error_body(self, status, code, message, info)
    }
}

/// An answer on the short way: a 2xx with its whole body in one buffer. Methods are
/// called in the order they stand here.
pub trait QuickAnswer {
    /// The body, with room for the head in front of it; empty for HEAD. `None`:
    /// it cannot be had so quickly, and [`Service::call`] is asked.
    async fn body(&mut self) -> Option<PoolBuf>;
    /// Status code.
    fn status(&self) -> u16;
    /// `Content-Length`.
    fn length(&self) -> u64;
    /// Appends header lines, as in [`Response::headers`].
    fn write_lines(&self, out: &mut Vec<u8>);
    /// The answer will be sent: counts it. `front` is that of [`Service::quick`].
    fn answered(&self, front: &[u8], info: &ConnectionInfo);
}

/// For services without a short way.
#[derive(Debug, Clone, Copy)]
pub enum NoQuick {}

impl QuickAnswer for NoQuick {
    async fn body(&mut self) -> Option<PoolBuf> {
        match *self {}
    }

    fn status(&self) -> u16 {
        match *self {}
    }

    fn length(&self) -> u64 {
        match *self {}
    }

    fn write_lines(&self, _out: &mut Vec<u8>) {
        match *self {}
    }

    fn answered(&self, _front: &[u8], _info: &ConnectionInfo) {
        match *self {}
    }
}

/// A response body of known length.
pub trait ResponseBody {
    /// The next piece, not empty; all pieces together have exactly the length
    /// announced. It is not called again once they have.
    ///
    /// # Errors
    /// The body can't be finished. If nothing was sent yet the client gets a 500,
    /// otherwise the connection is broken.
    async fn next(&mut self) -> Result<Option<PoolBuf>, BodyAborted>;
}

/// A response body could not be finished; whoever knows why has logged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response body was broken off")]
pub struct BodyAborted;

/// A response body for services that stream nothing.
#[derive(Debug, Clone, Copy)]
pub enum NoBody {}

impl ResponseBody for NoBody {
    async fn next(&mut self) -> Result<Option<PoolBuf>, BodyAborted> {
        match *self {}
    }
}

/// What is known about a request besides what the client sent.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// The address it connected to, if the connection may be handed over.
    pub service: Option<SocketAddr>,
    /// The worker whose host the client's packets reach; `None`: this one, unless it is
    /// not known.
    pub entry: Option<NodeId>,
    /// `x-amz-request-id` of the response.
    pub request_id: RequestId,
    /// `x-amz-id-2` of the response.
    pub host_id: HostId,
}

/// A response.
#[derive(Debug)]
pub struct Response<B> {
    /// Status code, 200 to 599.
    pub status: u16,
    /// Complete `Name: value\r\n` lines, without Date, Server, Content-Length,
    /// Connection, x-amz-request-id and x-amz-id-2.
    pub headers: Vec<u8>,
    /// The body.
    pub body: Payload<B>,
    /// Close the connection after it.
    pub close: bool,
}

/// A response's body. To HEAD the length is announced and nothing is sent.
#[derive(Debug)]
pub enum Payload<B> {
    /// No bytes.
    Empty,
    /// What GET would send has this length; nothing is sent.
    HeadOf(u64),
    /// None: the connection is to be handed over, and whoever has it then answers.
    Elsewhere(Box<Departure>),
    /// As `Empty`, without Content-Length (RFC 9110 §15.4.5).
    NotModified,
    /// These bytes.
    Bytes(Bytes),
    /// These bytes, of memory that is counted until they are sent.
    Document {
        /// The body.
        bytes: Bytes,
        /// Dropped when the bytes are.
        charge: DocumentCharge,
    },
    /// `length` bytes, piece by piece.
    Stream {
        /// All pieces together.
        length: u64,
        /// The pieces.
        body: B,
    },
}
