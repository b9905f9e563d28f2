//! Responses to bytes on the socket. Absent: deciding what to answer, and
//! reading.

use bytes::Bytes;

use super::count::bump;
use super::limit::{HttpConfig, INLINE_BODY_BYTES_MAX};
use super::service::{BodyAborted, ConnectionInfo, Payload, ResponseBody};
use super::transfer::{Pace, Socket, TransportError};
use super::watch::{Holding, Watchdog};
use crate::buffers::PoolBuf;

/// Room for the lines this layer adds to a response's own.
const OWN_LINES_BYTES: usize = 256;

/// What the connection can do after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The response went out whole; the connection may live on.
    Whole,
    /// The response went out whole and said `Connection: close`.
    Last,
    /// It did not: the connection is broken and must look like it.
    Broken,
}

/// What the `Connection` header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Nothing: HTTP/1.1 keeps by default.
    Default,
    /// `keep-alive`, for HTTP/1.0.
    Announced,
    /// `close`.
    Close,
}

/// The head of a response.
pub(crate) struct ResponseHead<'a> {
    pub(crate) status: u16,
    pub(crate) headers: &'a [u8],
    pub(crate) info: &'a ConnectionInfo,
    pub(crate) keeping: Keeping,
}

impl ResponseHead<'_> {
    fn write(&self, length: Option<u64>, watchdog: &Watchdog, spare: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(OWN_LINES_BYTES + self.headers.len() + spare);
        self.begin(&mut out, length, watchdog);
        out.extend_from_slice(b"\r\n");
        out
    }

    /// All of it but the empty line at its end.
    pub(crate) fn begin(&self, out: &mut Vec<u8>, length: Option<u64>, watchdog: &Watchdog) {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, u64::from(self.status));
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        watchdog.write_date(out);
        out.extend_from_slice(b"\r\nServer: Quickwater\r\nx-amz-request-id: ");
        out.extend_from_slice(self.info.request_id.as_str().as_bytes());
        out.extend_from_slice(b"\r\nx-amz-id-2: ");
        out.extend_from_slice(self.info.host_id.as_str().as_bytes());
        if let Some(length) = length {
            out.extend_from_slice(b"\r\nContent-Length: ");
            push_decimal(out, length);
        }
        out.extend_from_slice(match self.keeping {
            Keeping::Default => b"\r\n",
            Keeping::Announced => b"\r\nConnection: keep-alive\r\n",
            Keeping::Close => b"\r\nConnection: close\r\n",
        });
        out.extend_from_slice(self.headers);
    }
}

/// Sends a response; `silent`: the request was HEAD.
pub(crate) async fn send<B: ResponseBody>(
    socket: &mut Socket,
    head: ResponseHead<'_>,
    payload: Payload<B>,
    silent: bool,
    config: &HttpConfig,
    failure: impl FnOnce() -> Bytes,
) -> Sent {
    let mut pace = Pace::new(config.write_timeout, config.min_rate);
    let bodyless = matches!(head.status, 204 | 304);
    let result = match payload {
        Payload::NotModified => send_head(socket, &head, None, &mut pace).await,
        Payload::Empty if bodyless => send_head(socket, &head, None, &mut pace).await,
        Payload::Empty => send_head(socket, &head, Some(0), &mut pace).await,
        Payload::HeadOf(length) if silent => {
            send_head(socket, &head, Some(length), &mut pace).await
        }
        // A length with nothing behind it would swallow the next response.
        Payload::Elsewhere(_) => return break_off(socket, "a departure that was refused twice"),
        Payload::HeadOf(_) => return break_off(socket, "a head of a body for a request with one"),
        Payload::Bytes(_) | Payload::Document { .. } | Payload::Stream { .. } if bodyless => {
            send_head(socket, &head, None, &mut pace).await
        }
        Payload::Bytes(bytes) | Payload::Document { bytes, .. } if silent => {
            send_head(socket, &head, Some(bytes.len() as u64), &mut pace).await
        }
        Payload::Stream { length, .. } if silent || length == 0 => {
            send_head(socket, &head, Some(length), &mut pace).await
        }
        Payload::Bytes(bytes) => send_bytes(socket, &head, bytes, &mut pace).await,
        Payload::Document { bytes, charge } => {
            socket.hold(Holding::Documents);
            let sent = send_bytes(socket, &head, bytes, &mut pace).await;
            drop(charge);
            sent
        }
        Payload::Stream { length, mut body } => {
            let first = match body.next().await {
                Ok(Some(first)) => first,
                Ok(None) | Err(_) => return send_failure(socket, head, &mut pace, failure()).await,
            };
            let stream = Stream { length, sent: 0 };
            return stream.send(socket, &head, first, body, &mut pace).await;
        }
    };
    settle(socket, head.keeping, result)
}

async fn send_head(
    socket: &mut Socket,
    head: &ResponseHead<'_>,
    length: Option<u64>,
    pace: &mut Pace,
) -> Result<(), TransportError> {
    let bytes = head.write(length, socket.watchdog(), 0);
    socket.send(bytes, pace).await
}

/// Head and body in one send when the body is small; otherwise the head goes with
/// the first part of it.
async fn send_bytes(
    socket: &mut Socket,
    head: &ResponseHead<'_>,
    mut bytes: Bytes,
    pace: &mut Pace,
) -> Result<(), TransportError> {
    let inline = bytes.split_to(bytes.len().min(INLINE_BODY_BYTES_MAX));
    let length = inline.len() + bytes.len();
    let mut front = head.write(Some(length as u64), socket.watchdog(), inline.len());
    front.extend_from_slice(&inline);
    drop(inline);
    socket.send(front, pace).await?;
    if bytes.is_empty() {
        return Ok(());
    }
    socket.send(bytes, pace).await
}

/// Nothing was sent yet, so an honest error is still possible.
async fn send_failure(
    socket: &mut Socket,
    head: ResponseHead<'_>,
    pace: &mut Pace,
    document: Bytes,
) -> Sent {
    bump(&socket.stats().responses_broken);
    let head = ResponseHead {
        status: 500,
        headers: b"Content-Type: application/xml\r\n",
        keeping: Keeping::Close,
        ..head
    };
    let result = send_bytes(socket, &head, document, pace).await;
    settle(socket, head.keeping, result)
}

/// A body of announced length on its way out.
struct Stream {
    length: u64,
    sent: u64,
}

impl Stream {
    async fn send<B: ResponseBody>(
        mut self,
        socket: &mut Socket,
        head: &ResponseHead<'_>,
        first: PoolBuf,
        mut body: B,
        pace: &mut Pace,
    ) -> Sent {
        socket.hold(Holding::Buffers);
        let front = head.write(Some(self.length), socket.watchdog(), 0);
        let mut piece = match self.accept(first) {
            Ok(piece) => piece,
            Err(why) => return break_off(socket, why),
        };
        if !piece.write_front(&front)
            && let Err(error) = socket.send(front, pace).await
        {
            return settle(socket, head.keeping, Err(error));
        }
        loop {
            if let Err(error) = socket.send(piece, pace).await {
                return settle(socket, head.keeping, Err(error));
            }
            if self.sent == self.length {
                return settle(socket, head.keeping, Ok(()));
            }
            piece = match body.next().await {
                Ok(Some(next)) => match self.accept(next) {
                    Ok(piece) => piece,
                    Err(why) => return break_off(socket, why),
                },
                Ok(None) => return break_off(socket, "a body shorter than announced"),
                Err(BodyAborted) => return break_off(socket, "a body that failed midway"),
            };
        }
    }

    /// Counts a piece; one too long or empty must not go out.
    fn accept(&mut self, piece: PoolBuf) -> Result<PoolBuf, &'static str> {
        if piece.is_empty() {
            return Err("an empty piece of a body");
        }
        self.sent += piece.len() as u64;
        if self.sent > self.length {
            return Err("a body longer than announced");
        }
        Ok(piece)
    }
}

pub(crate) fn settle(
    socket: &Socket,
    keeping: Keeping,
    result: Result<(), TransportError>,
) -> Sent {
    let Err(error) = result else {
        return match keeping {
            Keeping::Close => Sent::Last,
            Keeping::Default | Keeping::Announced => Sent::Whole,
        };
    };
    let stats = socket.stats();
    match error {
        TransportError::TimedOut => bump(&stats.write_timeouts),
        _ => bump(&stats.client_aborts),
    }
    socket.reset_on_close();
    Sent::Broken
}

fn break_off(socket: &Socket, why: &str) -> Sent {
    tracing::warn!(why, "response broken off");
    bump(&socket.stats().responses_broken);
    socket.reset_on_close();
    Sent::Broken
}

fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Reason phrases (RFC 9110 §15) of what S3 answers; empty for others, which the
/// grammar allows.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_whole() {
        for value in [0, 7, 10, 65_536, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, value);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }
}
