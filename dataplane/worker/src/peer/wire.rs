//! Frames on a socket, each wait under a deadline. Absent: what they mean, and who
//! sends which when. No future in here may be dropped half-way; nobody does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use monoio::buf::IoBufMut;
use quickwater_peer::{Frame, FrameError, Kind, Message, MessageError, PREFIX_BYTES, decode};

use super::limit::{FRAME_WAIT, MIN_RATE, PIECE_WAIT};
use super::stats::{PeerStats, add};
use crate::buffers::{FillTail, PoolBuf};
use crate::http::transfer::{Pace, Socket, TransportError};
use crate::http::watch::Waiting;

/// Read size when bytes are thrown away.
const DISCARD_BYTES: usize = 16 << 10;
/// Bytes taken at a time on their way to where there is room for all.
const PART_BYTES: usize = 64 << 10;

/// Why a connection cannot go on. It is closed after any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// Nothing more comes or goes.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What came is not the message it should be.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The checksum of a body does not hold.
    #[error("a body damaged on its way")]
    Damaged,
    /// A frame that has no place here.
    #[error("a frame of kind {0:?} where it has no place")]
    Unexpected(Kind),
}

impl WireError {
    /// Whether the other side does not keep to the protocol.
    pub(crate) fn is_protocol(&self) -> bool {
        !matches!(self, Self::Transport(_))
    }
}

/// A connection to another worker, or of one.
pub(crate) struct Wire {
    socket: Socket,
    stats: Arc<PeerStats>,
    pace: Pace,
    /// Number of the request under way.
    request: u64,
    /// Of the body of the frame that came last: what is still to come, its checksum as
    /// announced and as it is.
    left: usize,
    sum: u32,
    digest: Digest,
}

impl Wire {
    pub(crate) fn new(socket: Socket, stats: Arc<PeerStats>) -> Self {
        Self {
            socket,
            stats,
            pace: pace(),
            request: 0,
            left: 0,
            sum: 0,
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Begins the next request of this connection.
    pub(crate) fn begin(&mut self) {
        self.request += 1;
        self.pace = pace();
    }

    /// Of the request under way no wait is longer than this.
    pub(crate) fn hurry(&mut self, wait: Duration) {
        self.pace = Pace::new(wait, MIN_RATE);
    }

    /// Says that nothing more will be sent; to an idle connection.
    pub(crate) async fn say_goodbye(&mut self) {
        self.socket.say_goodbye().await;
    }

    /// The bytes of a frame without body.
    pub(crate) fn frame<M: Message>(&self, kind: Kind, head: &M) -> Result<Vec<u8>, WireError> {
        Ok(Frame::bare(kind, self.request).encode(&head.encode_to_vec())?)
    }

    /// Sends a frame whose body is small enough to be copied.
    pub(crate) async fn send<M: Message>(
        &mut self,
        kind: Kind,
        head: &M,
        body: &[u8],
        wait: Duration,
    ) -> Result<(), WireError> {
        let frame = Frame {
            kind,
            deadline_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..Frame::piece(self.request, body, false)
        };
        let mut bytes = frame.encode(&head.encode_to_vec())?;
        bytes.extend_from_slice(body);
        add(&self.stats.bytes_sent, body.len() as u64);
        self.send_bytes(bytes).await
    }

    /// Sends frames that were put together before.
    pub(crate) async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<(), WireError> {
        Ok(self.socket.send(bytes, &mut self.pace).await?)
    }

    /// Sends a piece of a body, behind frames put together before.
    pub(crate) async fn send_piece(
        &mut self,
        mut before: Vec<u8>,
        mut piece: PoolBuf,
        last: bool,
    ) -> Result<(), WireError> {
        let frame = Frame::piece(self.request, piece.as_slice(), last);
        before.extend_from_slice(&frame.encode(&[])?);
        add(&self.stats.bytes_sent, piece.len() as u64);
        if !piece.write_front(&before) {
            self.send_bytes(before).await?;
        }
        Ok(self.socket.send(piece, &mut self.pace).await?)
    }

    /// Sends a frame whose body is a buffer.
    pub(crate) async fn send_whole<M: Message>(
        &mut self,
        kind: Kind,
        head: &M,
        mut body: PoolBuf,
    ) -> Result<(), WireError> {
        let frame = Frame {
            kind,
            ..Frame::piece(self.request, body.as_slice(), false)
        };
        let before = frame.encode(&head.encode_to_vec())?;
        add(&self.stats.bytes_sent, body.len() as u64);
        if !body.write_front(&before) {
            self.send_bytes(before).await?;
        }
        Ok(self.socket.send(body, &mut self.pace).await?)
    }

    /// As [`Wire::send_piece`], of bytes that others send, too.
    pub(crate) async fn send_shared(&mut self, piece: Bytes, last: bool) -> Result<(), WireError> {
        let frame = Frame::piece(self.request, &piece, last);
        add(&self.stats.bytes_sent, piece.len() as u64);
        self.send_bytes(frame.encode(&[])?).await?;
        Ok(self.socket.send(piece, &mut self.pace).await?)
    }

    /// As [`Wire::send_piece`], of bytes that are copied.
    pub(crate) async fn send_small(
        &mut self,
        mut before: Vec<u8>,
        piece: &[u8],
        last: bool,
    ) -> Result<(), WireError> {
        let frame = Frame::piece(self.request, piece, last);
        before.extend_from_slice(&frame.encode(&[])?);
        before.extend_from_slice(piece);
        add(&self.stats.bytes_sent, piece.len() as u64);
        self.send_bytes(before).await
    }

    /// The next call; its number is that of the request from now on.
    pub(crate) async fn receive_call(&mut self, wait: Duration) -> Result<Vec<u8>, WireError> {
        let (frame, head) = self.receive_any(wait, Waiting::Idle).await?;
        if frame.kind != Kind::Call {
            return Err(WireError::Unexpected(frame.kind));
        }
        self.request = frame.request;
        self.pace = pace();
        Ok(head)
    }

    /// The next frame of the request under way. What is left of the body of the one
    /// before must have been taken.
    pub(crate) async fn receive(&mut self, wait: Duration) -> Result<(Frame, Vec<u8>), WireError> {
        let (frame, head) = self.receive_any(wait, Waiting::Read).await?;
        match frame.request == self.request {
            true => Ok((frame, head)),
            false => Err(WireError::Unexpected(frame.kind)),
        }
    }

    async fn receive_any(
        &mut self,
        wait: Duration,
        waiting: Waiting,
    ) -> Result<(Frame, Vec<u8>), WireError> {
        let prefix = self.receive_whole(PREFIX_BYTES, wait, waiting).await?;
        let prefix: &[u8; PREFIX_BYTES] = prefix.as_slice().try_into().map_err(|_| closed())?;
        let frame = Frame::decode(prefix)?;
        let head = match frame.head_bytes {
            0 => Vec::new(),
            bytes => self.receive_whole(bytes, FRAME_WAIT, Waiting::Read).await?,
        };
        Frame::check(prefix, &head)?;
        self.left = frame.body_bytes;
        self.sum = frame.body_sum;
        self.digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        add(&self.stats.bytes_received, frame.body_bytes as u64);
        self.check_sum()?;
        Ok((frame, head))
    }

    async fn receive_whole(
        &mut self,
        bytes: usize,
        wait: Duration,
        waiting: Waiting,
    ) -> Result<Vec<u8>, WireError> {
        let mut buffer = Vec::with_capacity(bytes);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.socket.watchdog().now_ms().saturating_add(wait_ms);
        while buffer.len() < bytes {
            let from = buffer.len();
            let slice = buffer.slice_mut(from..bytes);
            // In the middle of a frame nobody is idle.
            let waiting = if from == 0 { waiting } else { Waiting::Read };
            let (result, slice) = self.socket.receive_until(slice, waiting, until_ms).await;
            buffer = slice.into_inner();
            if result? == 0 {
                return Err(closed());
            }
        }
        Ok(buffer)
    }

    /// Bytes of the frame's body that were not taken yet.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Appends what comes of the frame's body to `buffer`, at most `max` bytes. The
    /// checksum is judged with the last byte.
    pub(crate) async fn take(
        &mut self,
        buffer: PoolBuf,
        max: usize,
    ) -> (PoolBuf, Result<usize, WireError>) {
        let before = buffer.len();
        let room = max.min(self.left).min(buffer.tail_room());
        if room == 0 {
            return (buffer, Err(TransportError::NoRoom.into()));
        }
        let target = FillTail::new(buffer, room);
        let (result, target) = self.socket.receive(target, &mut self.pace).await;
        let buffer = target.into_inner();
        let result = match result {
            Ok(0) => Err(closed()),
            Ok(count) => {
                let fresh = buffer.as_slice().get(before..).unwrap_or_default();
                self.digest.update(fresh);
                self.left -= count.min(self.left);
                self.check_sum().map(|()| count)
            }
            Err(error) => Err(error.into()),
        };
        (buffer, result)
    }

    /// All that is left of the frame's body.
    pub(crate) async fn take_buffer(
        &mut self,
        mut buffer: PoolBuf,
    ) -> (PoolBuf, Result<(), WireError>) {
        while self.left > 0 {
            let (back, result) = self.take(buffer, self.left).await;
            buffer = back;
            if let Err(error) = result {
                return (buffer, Err(error));
            }
        }
        (buffer, Ok(()))
    }

    /// At most `max` bytes of what is left of the frame's body, some at least.
    pub(crate) async fn take_some(&mut self, max: usize) -> Result<Vec<u8>, WireError> {
        let room = max.min(self.left);
        let (result, buffer) = self
            .socket
            .receive(Vec::with_capacity(room).slice_mut(0..room), &mut self.pace)
            .await;
        let buffer = buffer.into_inner();
        if result? == 0 {
            return Err(closed());
        }
        self.digest.update(&buffer);
        self.left -= buffer.len().min(self.left);
        self.check_sum()?;
        Ok(buffer)
    }

    /// All that is left of the frame's body, which has a limit of its own.
    pub(crate) async fn take_all(&mut self) -> Result<Vec<u8>, WireError> {
        let mut all = Vec::with_capacity(self.left);
        while self.left > 0 {
            all.extend_from_slice(&self.take_some(self.left).await?);
        }
        Ok(all)
    }

    /// The same into bytes that are there already: no more memory than for a part of them.
    pub(crate) async fn take_into(&mut self, mut into: &mut [u8]) -> Result<(), WireError> {
        while self.left > 0 {
            let some = self.take_some(self.left.min(PART_BYTES)).await?;
            let (next, rest) = into
                .split_at_mut_checked(some.len())
                .ok_or(TransportError::NoRoom)?;
            next.copy_from_slice(&some);
            into = rest;
        }
        Ok(())
    }

    /// Throws away what is left of the frame's body.
    pub(crate) async fn skip(&mut self) -> Result<(), WireError> {
        while self.left > 0 {
            self.take_some(DISCARD_BYTES).await?;
        }
        Ok(())
    }

    fn check_sum(&self) -> Result<(), WireError> {
        match self.left > 0 || self.digest.finalize() as u32 == self.sum {
            true => Ok(()),
            false => Err(WireError::Damaged),
        }
    }
}

fn closed() -> WireError {
    TransportError::Closed.into()
}

fn pace() -> Pace {
    Pace::new(PIECE_WAIT, MIN_RATE)
}

/// Reads a head.
pub(crate) fn head<M: Message + Default>(bytes: &[u8]) -> Result<M, WireError> {
    Ok(decode(bytes)?)
}
