//! One connection with one call at a time: sends the head and the body, reads the
//! answer, says whether it is the right one.

use std::io::{self, IoSlice, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, connect,
    recv, sendmsg, socket_with, sockopt,
};
use rustls::ClientConnection;

use super::answer::{Framing, Head, parse};
use super::call::{Call, Expect, Method, Piece, Upload};
use super::errors::Failure;
use super::secure::{self, Secure};
use crate::workload::{Content, Object, Versions};

/// Bytes read at once while they are looked at.
pub(crate) const LOOK_BYTES: usize = 256 << 10;
/// Bytes read at once where a head is expected: a small answer fits.
const FIRST_BYTES: usize = 32 << 10;
/// Bytes dropped at once by the kernel.
const DROP_BYTES: u64 = 1 << 20;
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body that is kept (a page of 1,000 keys of 1 KiB, escaped).
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Pieces of a body sent by one system call.
const PIECES_MAX: usize = 4;

/// How far a call is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More will come; for a send: it is blocked until the socket is writable.
    Waiting,
    /// Sent, or answered completely.
    Complete,
}

/// What a read of an object that is overwritten may see.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) versions: Arc<Versions>,
    pub(crate) object: Object,
    /// The oldest version, when the read began.
    pub(crate) oldest: u32,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Option<OwnedFd>,
    /// Bytes go through it, if there is one.
    tls: Option<Box<ClientConnection>>,
    /// The socket's connect has not ended.
    pub(crate) connecting: bool,
    /// Writable is waited for.
    pub(crate) blocked: bool,
    /// An answer came over this socket before.
    pub(crate) used: bool,
    pub(crate) call: Call,
    /// Head to send.
    pub(crate) head: Vec<u8>,
    /// Bytes sent of head and body.
    sent: u64,
    /// Beginning of a head that is not all there.
    partial: Vec<u8>,
    answer: Head,
    framing: Option<Framing>,
    /// Body bytes received.
    received: u64,
    differs: bool,
    document: Vec<u8>,
    /// The body may be one of several.
    pub(crate) watch: Option<Watch>,
    /// Contents that all bytes until now belong to.
    possible: Vec<u64>,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Self {
            socket: None,
            tls: None,
            connecting: false,
            blocked: false,
            used: false,
            call: Call::new(Method::Get, None, Expect::Success),
            head: Vec::new(),
            sent: 0,
            partial: Vec::new(),
            answer: Head::default(),
            framing: None,
            received: 0,
            differs: false,
            document: Vec::new(),
            watch: None,
            possible: Vec::new(),
        }
    }

    /// Begins to connect.
    pub(crate) fn open(&mut self, address: SocketAddr) -> Result<(), Errno> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.socket = Some(socket);
        (self.connecting, self.blocked, self.used) = (true, true, false);
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        (self.socket, self.tls) = (None, None);
        (self.connecting, self.blocked) = (false, false);
    }

    /// How the connect ended, with its TLS handshake.
    pub(crate) fn connected(&mut self, secure: Option<&Secure>) -> io::Result<()> {
        self.connecting = false;
        let socket = self.socket.as_ref().ok_or(Errno::BADF)?;
        sockopt::socket_error(socket)??;
        self.tls = secure.map(|secure| secure.shake(socket)).transpose()?;
        Ok(())
    }

    /// Forgets what is known of an answer: a call begins.
    pub(crate) fn begin(&mut self) {
        self.sent = 0;
        self.partial.clear();
        self.framing = None;
        self.received = 0;
        self.differs = false;
        self.possible.clear();
        self.document.clear();
    }

    /// Whether nothing of an answer has arrived.
    pub(crate) fn untouched(&self) -> bool {
        self.framing.is_none() && self.partial.is_empty()
    }

    /// Sends as much as the socket takes. The number is body bytes.
    pub(crate) fn send(&mut self, content: &Content) -> io::Result<(Progress, u64)> {
        let socket = self.socket.as_ref().ok_or(Errno::NOTCONN)?;
        let head_length = self.head.len() as u64;
        let total = head_length + self.call.upload.length();
        let before = self.sent.max(head_length);
        let mut progress = Progress::Complete;
        loop {
            if let Some(tls) = &mut self.tls
                && !secure::flush(tls, socket)?
            {
                progress = Progress::Waiting;
                break;
            }
            if self.sent == total {
                break;
            }
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let count = gather(
                &self.head,
                &self.call.upload,
                content,
                self.sent,
                &mut pieces,
            );
            let pieces = pieces.get(..count).unwrap_or_default();
            if let Some(tls) = &mut self.tls {
                self.sent += tls.writer().write_vectored(pieces)? as u64;
                continue;
            }
            match sendmsg(
                socket,
                pieces,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => self.sent += sent as u64,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    progress = Progress::Waiting;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((progress, self.sent.max(head_length) - before))
    }

    /// Whether all of the call was sent.
    pub(crate) fn is_sent(&self) -> bool {
        let sealed = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        self.sent == self.head.len() as u64 + self.call.upload.length() && !sealed
    }

    /// Reads once; with TLS until all that was opened is read. The number is bytes
    /// of the answer's body.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        content: &Content,
        verify: bool,
    ) -> Result<(Progress, u64), Failure> {
        let before = self.received;
        loop {
            let done = match self.left_to_drop(verify) {
                Some(left) => self.drop_bytes(scratch, left)?,
                None => self.look_at_bytes(scratch, content, verify)?,
            };
            // The socket does not become readable for it again.
            let more = |tls: &mut Box<ClientConnection>| secure::holds_content(tls);
            if done == Progress::Complete || !self.tls.as_mut().is_some_and(more) {
                return Ok((done, self.received - before));
            }
        }
    }

    /// Body bytes that need not be looked at.
    fn left_to_drop(&self, verify: bool) -> Option<u64> {
        let plain =
            !verify && matches!(self.call.expect, Expect::Piece(_)) && is_read(self.answer.status);
        match self.framing {
            Some(Framing::Fixed(left)) if plain => Some(left),
            _ => None,
        }
    }

    /// MSG_TRUNC on TCP: the kernel drops the bytes without copying (tcp(7)).
    fn drop_bytes(&mut self, scratch: &mut [u8], left: u64) -> Result<Progress, Failure> {
        let most = left.min(DROP_BYTES).min(scratch.len() as u64);
        let space = scratch.get_mut(..most as usize).unwrap_or_default();
        let Some(count) = self.read(space, RecvFlags::TRUNC)? else {
            return Ok(Progress::Waiting);
        };
        if count == 0 {
            return Err(Failure::Closed("in the middle of a body".into()));
        }
        self.received += count as u64;
        let left = left - count as u64;
        self.framing = Some(Framing::Fixed(left));
        Ok(progress(left == 0))
    }

    fn look_at_bytes(
        &mut self,
        scratch: &mut [u8],
        content: &Content,
        verify: bool,
    ) -> Result<Progress, Failure> {
        let most = if self.framing.is_some() {
            LOOK_BYTES
        } else {
            FIRST_BYTES
        };
        let most = most.min(scratch.len());
        let space = scratch.get_mut(..most).unwrap_or_default();
        let Some(count) = self.read(space, RecvFlags::empty())? else {
            return Ok(Progress::Waiting);
        };
        if count == 0 {
            return self.ended();
        }
        let bytes = scratch.get(..count).unwrap_or_default();
        if self.framing.is_some() {
            return self.body(bytes, content, verify);
        }
        if self.partial.is_empty() {
            return self.first(bytes, content, verify);
        }
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        self.first(&all, content, verify)
    }

    /// The server closed: the end of a body that is framed so, else a fault.
    fn ended(&self) -> Result<Progress, Failure> {
        match (&self.framing, self.untouched()) {
            (Some(Framing::Close), _) => Ok(Progress::Complete),
            (_, true) => Err(Failure::Closed("before an answer".into())),
            _ => Err(Failure::Closed("in the middle of an answer".into())),
        }
    }

    /// Bytes from the beginning of an answer.
    fn first(
        &mut self,
        mut bytes: &[u8],
        content: &Content,
        verify: bool,
    ) -> Result<Progress, Failure> {
        let want_etag = matches!(self.call.upload, Upload::Piece(_));
        loop {
            let Some((head, used)) = parse(bytes, want_etag)? else {
                if bytes.len() > HEAD_BYTES_MAX {
                    return Err(Failure::Protocol("a head of more than 64 KiB"));
                }
                self.partial.extend_from_slice(bytes);
                return Ok(Progress::Waiting);
            };
            bytes = bytes.get(used..).unwrap_or_default();
            // 100 Continue and its like are not the answer.
            if (100..200).contains(&head.status) {
                continue;
            }
            self.framing = Some(Framing::of(&head, self.call.method == Method::Head));
            self.answer = head;
            return self.body(bytes, content, verify);
        }
    }

    fn body(&mut self, bytes: &[u8], content: &Content, verify: bool) -> Result<Progress, Failure> {
        let Some(framing) = &mut self.framing else {
            return Ok(Progress::Waiting);
        };
        let check = match self.call.expect {
            Expect::Piece(piece) if is_read(self.answer.status) => Some(piece),
            _ => None,
        };
        let (received, differs, document) =
            (&mut self.received, &mut self.differs, &mut self.document);
        let (watch, possible) = (&self.watch, &mut self.possible);
        framing.accept(bytes, |now| {
            match check {
                Some(piece) if verify => match watch {
                    None => *differs |= !same(content, piece, *received, now),
                    Some(watch) => {
                        let fits = |c: &u64| content.matches(*c, piece.offset + *received, now);
                        if *received == 0 {
                            let all = watch.versions.contents(watch.object, watch.oldest);
                            possible.extend(all.filter(fits));
                        } else {
                            possible.retain(fits);
                        }
                        *differs |= possible.is_empty();
                    }
                },
                Some(_) => {}
                None => {
                    let room = DOCUMENT_BYTES_MAX.saturating_sub(document.len());
                    document.extend_from_slice(now.get(..room.min(now.len())).unwrap_or_default());
                }
            }
            *received += now.len() as u64;
        })?;
        Ok(progress(framing.is_over()))
    }

    fn read(&mut self, space: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Failure> {
        let socket = self
            .socket
            .as_ref()
            .ok_or(Failure::Protocol("no connection"))?;
        if let Some(tls) = &mut self.tls {
            let taken = secure::take(tls, socket, space);
            return taken.map_err(|error| Failure::Closed(error.to_string()));
        }
        match recv(socket, space, flags) {
            Ok((_, count)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(Failure::Closed(error.to_string())),
        }
    }

    pub(crate) const fn answer(&self) -> &Head {
        &self.answer
    }

    pub(crate) fn document(&self) -> &[u8] {
        &self.document
    }

    /// Whether the socket can take another call after a complete answer.
    pub(crate) fn reusable(&self) -> bool {
        self.is_sent() && !self.answer.close && self.framing != Some(Framing::Close)
    }

    /// Whether a complete answer is the right one.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let status = self.answer.status;
        let good = match self.call.expect {
            Expect::Piece(_) => status == if self.call.range.is_some() { 206 } else { 200 },
            Expect::Head(_) | Expect::Page(..) => status == 200,
            Expect::Probe(_) => matches!(status, 200 | 404),
            Expect::Success => (200..300).contains(&status),
            Expect::Gone => (200..300).contains(&status) || status == 404,
        };
        if !good {
            return Err(Failure::status(status, &self.document));
        }
        match self.call.expect {
            Expect::Piece(piece) => self.judge_piece(piece),
            Expect::Head(expected) => length(expected, self.answer.length.unwrap_or(0)),
            Expect::Page(expected, most) => {
                // More objects than asked for may be left from another run.
                let found = super::xml::count(&self.document, "Key");
                let same = (expected..=most).contains(&found);
                same.then_some(())
                    .ok_or(Failure::Listing { expected, found })
            }
            Expect::Probe(_) | Expect::Success | Expect::Gone => Ok(()),
        }
    }

    fn judge_piece(&self, piece: Piece) -> Result<(), Failure> {
        if let Some((first, count)) = self.call.range {
            let last = first + count.saturating_sub(1);
            if self.answer.range != Some((first, last)) {
                return Err(Failure::Range(match self.answer.range {
                    Some((first, last)) => format!("bytes {first}-{last}"),
                    None => "no Content-Range".into(),
                }));
            }
        }
        length(piece.length, self.received)?;
        if self.differs {
            return Err(Failure::Content);
        }
        Ok(())
    }
}

const fn is_read(status: u16) -> bool {
    matches!(status, 200 | 206)
}

fn length(expected: u64, found: u64) -> Result<(), Failure> {
    let same = expected == found;
    same.then_some(())
        .ok_or(Failure::Length { expected, found })
}

const fn progress(complete: bool) -> Progress {
    if complete {
        Progress::Complete
    } else {
        Progress::Waiting
    }
}

/// Whether bytes are those of the piece, `at` bytes after its beginning. More
/// bytes than the piece has are left to the length check.
fn same(content: &Content, piece: Piece, at: u64, bytes: &[u8]) -> bool {
    content.matches(piece.content, piece.offset + at, bytes)
}

/// The next slices to send, after `sent` bytes of head and body.
fn gather<'a>(
    head: &'a [u8],
    upload: &'a Upload,
    content: &'a Content,
    sent: u64,
    pieces: &mut [IoSlice<'a>; PIECES_MAX],
) -> usize {
    let mut count = 0;
    let mut push = |bytes: &'a [u8]| {
        if let Some(slot) = pieces.get_mut(count).filter(|_| !bytes.is_empty()) {
            *slot = IoSlice::new(bytes);
            count += 1;
        }
        count < PIECES_MAX
    };
    let head_left = head.get(usize::try_from(sent).unwrap_or(usize::MAX)..);
    let mut room = push(head_left.unwrap_or_default());
    let mut done = sent.saturating_sub(head.len() as u64);
    match upload {
        Upload::Nothing => {}
        Upload::Text(text) => {
            push(text.as_bytes().get(done as usize..).unwrap_or_default());
        }
        Upload::Piece(piece) => {
            while room && done < piece.length {
                let bytes = content.slice(piece.content, piece.offset + done, piece.length - done);
                done += bytes.len() as u64;
                room = push(bytes);
            }
        }
    }
    count
}
