//! Request bodies: from the socket straight into the caller's buffer, transfer
//! coding removed. Absent: aws-chunked, which is content (see the S3 dialect).

use monoio::buf::IoBufMut;

use super::count::bump;
use super::frame::{Framing, Next};
use super::limit::{DISCARD_READ_BYTES, FRAMING_READ_BYTES, HttpConfig};
use super::parse::{BodyKind, Head};
use super::transfer::{Pace, Socket, TransportError};
use super::watch::{Holding, Waiting};
use crate::buffers::{FillTail, PoolBuf};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The body of one request.
///
/// Bytes that came along with the head are handed out first. `100 Continue` is
/// sent when the client waits for it and the body is first read.
pub struct RequestBody<'c> {
    socket: &'c mut Socket,
    /// Received with the head and not taken yet: body, then maybe more requests.
    early: &'c [u8],
    /// Read ahead by `fill` and not taken yet: `ahead[taken..]`.
    ahead: Vec<u8>,
    taken: usize,
    framing: Framing,
    length: Option<u64>,
    owes_continue: bool,
    failed: Option<TransportError>,
    pace: Pace,
    write_pace: Pace,
}

impl<'c> RequestBody<'c> {
    pub(crate) fn new(
        socket: &'c mut Socket,
        head: &Head<'_, '_>,
        early: &'c [u8],
        config: &HttpConfig,
    ) -> Self {
        let framing = Framing::new(head.body);
        RequestBody {
            socket,
            early,
            ahead: Vec::new(),
            taken: 0,
            framing,
            length: match head.body {
                BodyKind::Length(length) => Some(length),
                BodyKind::Chunked => None,
            },
            owes_continue: head.expect_continue && early.is_empty(),
            failed: None,
            pace: Pace::new(config.body_timeout, config.min_rate),
            write_pace: Pace::new(config.write_timeout, config.min_rate),
        }
    }

    /// Length of the whole body; `None` when it came in chunked coding.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// From now on, until the next request, the connection holds memory for documents:
    /// it may be cut while its client stalls and others wait for some.
    pub fn hold_documents(&self) {
        self.socket.hold(Holding::Documents);
    }

    /// Appends up to `max` bytes to the content of `buffer`, received straight
    /// into it, as soon as some are there. 0 is the end of the body. The buffer
    /// always comes back.
    ///
    /// # Errors
    /// The rest of the body will not come; further calls return the same error.
    pub async fn read_into(
        &mut self,
        mut buffer: PoolBuf,
        max: usize,
    ) -> (PoolBuf, Result<usize, TransportError>) {
        let room = max.min(buffer.tail_room());
        let most = match self.next_content().await {
            Ok(0) => return (buffer, Ok(0)),
            Ok(_) if room == 0 => return (buffer, Err(TransportError::NoRoom)),
            Ok(most) => most.min(room as u64) as usize,
            Err(error) => return (buffer, Err(error)),
        };
        let waiting = self.buffered();
        if !waiting.is_empty() {
            let count = buffer.append(&waiting[..most.min(waiting.len())]);
            self.consume(count);
            return (buffer, Ok(count));
        }
        let (result, filled) = self.receive(FillTail::new(buffer, most)).await;
        if let Ok(count) = result {
            self.framing.take(count as u64);
        }
        (filled.into_inner(), result)
    }

    /// The next bytes of the body, read ahead if there are none: for lines between
    /// payload bytes. Empty at the end. The same bytes come again until they are
    /// consumed.
    ///
    /// # Errors
    /// The rest of the body will not come; further calls return the same error.
    pub async fn fill(&mut self) -> Result<&[u8], TransportError> {
        self.fill_by(FRAMING_READ_BYTES).await
    }

    /// Takes the first `count` bytes of what `fill` returned, at most all of it.
    pub fn consume(&mut self, count: usize) {
        let most = match self.framing.next() {
            Next::Content(most) => most,
            Next::Markup | Next::End => 0,
        };
        let count = (count as u64).min(most).min(self.buffered().len() as u64);
        self.framing.take(count);
        self.skip(count as usize);
    }

    async fn fill_by(&mut self, size: usize) -> Result<&[u8], TransportError> {
        let most = self.next_content().await?;
        if most > 0 && self.buffered().is_empty() {
            self.read_ahead(size.min(usize::try_from(most).unwrap_or(size)))
                .await?;
        }
        let buffered = self.buffered();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(&buffered[..most.min(buffered.len())])
    }

    /// Reads framing until content or the end (0) comes next: most bytes of
    /// content that follow in one piece.
    async fn next_content(&mut self) -> Result<u64, TransportError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        loop {
            match self.framing.next() {
                Next::End => return Ok(0),
                Next::Content(most) => return Ok(most),
                Next::Markup if self.buffered().is_empty() => {
                    self.read_ahead(FRAMING_READ_BYTES).await?;
                }
                Next::Markup => {
                    let input = match self.early {
                        [] => &self.ahead[self.taken..],
                        early => early,
                    };
                    match self.framing.advance(input) {
                        Ok(used) => self.skip(used),
                        Err(bad) => {
                            bump(&self.socket.stats().parse_errors);
                            return Err(self.fail(TransportError::BadFraming(bad.0)));
                        }
                    }
                }
            }
        }
    }

    fn buffered(&self) -> &[u8] {
        match self.early {
            [] => &self.ahead[self.taken..],
            early => early,
        }
    }

    fn skip(&mut self, count: usize) {
        match self.early {
            [] => self.taken = (self.taken + count).min(self.ahead.len()),
            early => self.early = &early[count.min(early.len())..],
        }
    }

    /// Only called with nothing buffered.
    async fn read_ahead(&mut self, size: usize) -> Result<(), TransportError> {
        let mut ahead = std::mem::take(&mut self.ahead);
        self.taken = 0;
        ahead.clear();
        ahead.reserve_exact(size);
        let (result, slice) = self.receive(ahead.slice_mut(0..size)).await;
        self.ahead = slice.into_inner();
        result.map(|_| ())
    }

    /// Receives at least one byte.
    async fn receive<B: IoBufMut>(&mut self, buffer: B) -> (Result<usize, TransportError>, B) {
        if let Err(error) = self.send_continue().await {
            return (Err(self.fail(error)), buffer);
        }
        self.socket.hold(Holding::Buffers);
        let (result, buffer) = self.socket.receive(buffer, &mut self.pace).await;
        let result = match result {
            Ok(0) => Err(self.fail(TransportError::Closed)),
            Ok(count) => Ok(count),
            Err(error) => Err(self.fail(error)),
        };
        (result, buffer)
    }

    async fn send_continue(&mut self) -> Result<(), TransportError> {
        if !std::mem::take(&mut self.owes_continue) {
            return Ok(());
        }
        self.socket.send(CONTINUE, &mut self.write_pace).await
    }

    /// Before a success: sends the `100 Continue` of an empty body, which nobody
    /// reads. Some clients (botocore) wait for it even then, and take the final
    /// status for that of their next request when it does not come.
    pub(crate) async fn settle_continue(&mut self) -> Result<(), TransportError> {
        match self.is_complete() {
            true => self.send_continue().await,
            false => Ok(()),
        }
    }

    fn fail(&mut self, error: TransportError) -> TransportError {
        let stats = self.socket.stats();
        match &error {
            TransportError::TimedOut => bump(&stats.body_timeouts),
            TransportError::Closed | TransportError::Io(_) => bump(&stats.client_aborts),
            TransportError::BadFraming(_) | TransportError::NoRoom => {}
        }
        self.failed = Some(error.clone());
        error
    }

    /// The socket, to send the response.
    pub(crate) fn socket(&mut self) -> &mut Socket {
        self.socket
    }

    /// Whether the whole body was taken.
    pub(crate) fn is_complete(&self) -> bool {
        self.framing.next() == Next::End
    }

    /// Whether the next request on this connection can be found: what is left of
    /// the body is known to be small, and the client will surely send it.
    pub(crate) fn can_be_drained(&self, most: u64) -> bool {
        let little = self.framing.remaining().is_some_and(|left| left <= most);
        self.failed.is_none() && little && !self.owes_continue
    }

    /// Throws away the rest of the body. `false`: it did not come in time.
    pub(crate) async fn drain(&mut self, linger_deadline_ms: u64) -> bool {
        loop {
            let count = match self.fill_by(DISCARD_READ_BYTES).await {
                Ok([]) => return true,
                Ok(bytes) => bytes.len(),
                Err(_) => return false,
            };
            self.consume(count);
            if self.socket.watchdog().now_ms() > linger_deadline_ms {
                return false;
            }
        }
    }

    /// What came behind the body.
    pub(crate) fn into_rest(self) -> Rest {
        if self.taken == self.ahead.len() {
            return Rest::Early(self.early.len());
        }
        let mut rest = self.ahead;
        rest.drain(..self.taken);
        Rest::Ahead(rest)
    }

    /// Swallows what the client still sends, so that closing does not reset the
    /// connection before the client has read the answer (RFC 9112 §9.6).
    pub(crate) async fn linger(self, config: &HttpConfig) {
        linger(self.socket, config).await;
    }
}

/// Bytes received behind a body: the beginning of the next request.
pub(crate) enum Rest {
    /// So many at the end of what was received with the head.
    Early(usize),
    /// These.
    Ahead(Vec<u8>),
}

/// See [`RequestBody::linger`].
pub(crate) async fn linger(socket: &mut Socket, config: &HttpConfig) {
    socket.finish_sending().await;
    let linger_ms = u64::try_from(config.linger.as_millis()).unwrap_or(u64::MAX);
    let deadline_ms = socket.watchdog().now_ms().saturating_add(linger_ms);
    let mut buffer = Vec::with_capacity(DISCARD_READ_BYTES);
    let mut swallowed = 0;
    while swallowed < super::limit::LINGER_BYTES_MAX && socket.watchdog().now_ms() < deadline_ms {
        buffer.clear();
        let (result, back) = socket
            .receive_until(buffer, Waiting::Read, deadline_ms)
            .await;
        buffer = back;
        match result {
            Ok(count) if count > 0 => swallowed += count as u64,
            _ => return,
        }
    }
}
