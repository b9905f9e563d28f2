//! One TLS connection: bytes of the wire in and out of rustls, in bounded buffers.
//! Absent: sockets, waiting, what records look like.
//!
//! Only sealed bytes lie in the buffers here; content stays in rustls until it is
//! taken.

use std::io::{BufRead as _, ErrorKind, Write as _};
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, Error, ServerConfig, ServerConnection};

use super::memory::{BUSY_BYTES, Charge, SMALL_BYTES, TlsMemory};

/// Most content of a record (RFC 8446 §5.1, RFC 5246 §6.2.1).
pub(crate) const PLAINTEXT_BYTES_MAX: usize = 16 << 10;
/// Most bytes by which rustls's records are longer than their content: header,
/// nonce sent along (TLS 1.2) or type (TLS 1.3), tag.
pub(crate) const OVERHEAD_BYTES_MAX: usize = 5 + 8 + 16;
/// Most bytes a client may send until the handshake is done: a hello of a whole
/// record, a finish, and what came in the same read.
const GREETING_BYTES_MAX: usize = 32 << 10;

/// How far a handshake is. What was written to `outbound` is sent first in any case.
#[derive(Debug)]
pub(crate) enum Step {
    /// More bytes of the client.
    Receive,
    /// It is done.
    Done,
    /// The end; the client was told why.
    Failed(Error),
}

/// What the bytes received so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// That many bytes of content were taken.
    Content(usize),
    /// The client will send no more.
    End,
    /// More bytes are needed.
    Starved,
}

/// A TLS connection, from its first byte on.
pub(crate) struct Session {
    connection: Connection,
    /// Received; rustls has seen what is before `seen`.
    inbound: Box<[u8]>,
    seen: usize,
    filled: usize,
    /// Bytes rustls has seen since it last gave content.
    owed: usize,
    memory: Rc<TlsMemory>,
    /// For what rustls holds of a body on its way.
    busy: Option<Charge>,
    _charge: Charge,
}

impl Session {
    /// # Errors
    /// The configuration is not one for servers.
    pub(crate) fn new(
        config: Arc<ServerConfig>,
        memory: &Rc<TlsMemory>,
        charge: Charge,
    ) -> Result<Self, Error> {
        let connection = ServerConnection::new(config)?;
        Ok(Self::over(connection.into(), memory, charge))
    }

    /// A connection we begin ourselves, to who has a certificate with that name.
    ///
    /// # Errors
    /// The configuration is not one for clients.
    pub(crate) fn to(
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
        memory: &Rc<TlsMemory>,
        charge: Charge,
    ) -> Result<Self, Error> {
        let connection = ClientConnection::new(config, name)?;
        Ok(Self::over(connection.into(), memory, charge))
    }

    fn over(connection: Connection, memory: &Rc<TlsMemory>, charge: Charge) -> Self {
        Session {
            connection,
            inbound: Box::default(),
            seen: 0,
            filled: 0,
            owed: 0,
            memory: Rc::clone(memory),
            busy: None,
            _charge: charge,
        }
    }

    /// The other side's own certificate (DER) and the protocol agreed upon, once the
    /// handshake is done.
    pub(crate) fn other_side(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        let chain = self.connection.peer_certificates();
        let own = chain.and_then(|chain| chain.first());
        (own.map(AsRef::as_ref), self.connection.alpn_protocol())
    }

    /// Whose memory this is.
    pub(crate) fn memory(&self) -> &Rc<TlsMemory> {
        &self.memory
    }

    /// What was received and not looked at yet.
    pub(crate) fn unseen(&self) -> &[u8] {
        self.inbound.get(self.seen..self.filled).unwrap_or_default()
    }

    /// Goes on with the handshake as far as the bytes here allow.
    pub(crate) fn shake(&mut self, outbound: &mut Vec<u8>) -> Step {
        loop {
            let fed = self.feed();
            outbound.append(&mut self.outgoing());
            match fed {
                Err(error) => return Step::Failed(error),
                Ok(_) if !self.connection.is_handshaking() => {
                    self.owed = 0;
                    return Step::Done;
                }
                Ok(_) if self.owed > GREETING_BYTES_MAX => {
                    return Step::Failed(Error::General("a handshake too long".into()));
                }
                Ok(true) => {}
                Ok(false) => return Step::Receive,
            }
        }
    }

    /// Shows rustls some of what was received; `false`: there is nothing more.
    fn feed(&mut self) -> Result<bool, Error> {
        let mut rest = self.inbound.get(self.seen..self.filled).unwrap_or_default();
        let before = rest.len();
        if before > 0 {
            let read = self.connection.read_tls(&mut rest);
            read.map_err(|error| Error::General(error.to_string()))?;
        }
        let count = before - rest.len();
        self.seen += count;
        self.owed += count;
        self.connection.process_new_packets()?;
        Ok(count > 0)
    }

    /// Opens records until there is content, which `take` gets and says how much of
    /// it it took, or until nothing is left to open.
    ///
    /// # Errors
    /// The connection is broken off; [`Session::outgoing`] tells the client why.
    pub(crate) fn advance(&mut self, mut take: impl FnMut(&[u8]) -> usize) -> Result<Taken, Error> {
        loop {
            let mut reader = self.connection.reader();
            match reader.fill_buf() {
                // Said goodbye.
                Ok([]) => return Ok(Taken::End),
                Ok(content) => {
                    let count = take(content);
                    reader.consume(count);
                    self.owed = 0;
                    return Ok(Taken::Content(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::General(error.to_string())),
            }
            if !self.feed()? {
                return Ok(Taken::Starved);
            }
        }
    }

    /// The buffer to receive into; [`Session::restore`] brings it back. Only when
    /// starved. Idle connections and handshakes get along with a small one; `None`:
    /// there is no memory for what comes.
    pub(crate) fn space(&mut self, idle: bool) -> Option<Box<[u8]>> {
        let idle = self.connection.is_handshaking() || (idle && self.owed == 0);
        match (idle, &self.busy) {
            (true, Some(_)) => {
                self.busy = None;
                self.memory.give_back(std::mem::take(&mut self.inbound));
            }
            (false, None) => {
                self.busy = Some(self.memory.charge(BUSY_BYTES)?);
                self.inbound = self.memory.lend();
            }
            (true, None) | (false, Some(_)) => {}
        }
        if self.inbound.is_empty() {
            self.inbound = vec![0; SMALL_BYTES].into();
        }
        (self.seen, self.filled) = (0, 0);
        Some(std::mem::take(&mut self.inbound))
    }

    /// The buffer with `count` bytes received. See [`Session::space`].
    pub(crate) fn restore(&mut self, inbound: Box<[u8]>, count: usize) {
        self.filled = count.min(inbound.len());
        self.inbound = inbound;
    }

    /// Seals as much of `content` as fits into `out`: how much that was, and how
    /// many bytes there are to send. None to send: all was sent before.
    ///
    /// # Errors
    /// rustls refuses: the keys of a TLS 1.2 connection are used up.
    pub(crate) fn seal(&mut self, content: &[u8], out: &mut [u8]) -> Result<(usize, usize), Error> {
        let (mut taken, mut written) = (0, self.drain(out)?);
        while taken < content.len() && written + OVERHEAD_BYTES_MAX < out.len() {
            let room = (out.len() - written - OVERHEAD_BYTES_MAX).min(PLAINTEXT_BYTES_MAX);
            let rest = content.get(taken..).unwrap_or_default();
            let piece = rest.get(..room).unwrap_or(rest);
            let count = self.connection.writer().write(piece);
            taken += count.map_err(|error| Error::General(error.to_string()))?;
            let more = self.drain(out.get_mut(written..).unwrap_or_default())?;
            if more == 0 {
                return Err(Error::EncryptError);
            }
            written += more;
        }
        Ok((taken, written))
    }

    /// Moves what rustls wants to send to `out`, as much as fits.
    fn drain(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let length = out.len();
        let mut rest = out;
        while self.connection.wants_write() && !rest.is_empty() {
            let written = self.connection.write_tls(&mut rest);
            written.map_err(|error| Error::General(error.to_string()))?;
        }
        Ok(length - rest.len())
    }

    /// All that rustls wants to send: handshake messages, alerts. Small, since
    /// [`Session::seal`] leaves no content behind but at most one record.
    pub(crate) fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            if let Err(error) = self.connection.write_tls(&mut bytes) {
                // A vector takes everything.
                tracing::error!(%error, "records into memory");
                break;
            }
        }
        bytes
    }

    /// Says goodbye; [`Session::outgoing`] has it.
    pub(crate) fn close(&mut self) {
        self.connection.send_close_notify();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.memory.give_back(std::mem::take(&mut self.inbound));
    }
}
