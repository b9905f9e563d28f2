//! Bodies between workers: of a relayed request on its way in, of an answer on its way
//! back. Absent: what they are for.

use quickwater_peer::{Cancel, Grant, Kind, PIECES_MAX, Promise};

use super::limit::{FRAME_WAIT, PIECE_WAIT};
use super::wire::{Wire, WireError, head};
use crate::buffers::PoolBuf;
use crate::http::{FRAMING_READ_BYTES, TransportError};

/// The body of a request that another worker relays. Pieces are asked for when the
/// body is first read, and then as they are taken.
pub(crate) struct PeerBody<'w> {
    wire: &'w mut Wire,
    length: Option<u64>,
    asked: bool,
    /// The last piece has come.
    last: bool,
    /// Read ahead by `fill` and not taken yet: `ahead[taken..]`.
    ahead: Vec<u8>,
    taken: usize,
    failed: Option<TransportError>,
}

impl<'w> PeerBody<'w> {
    pub(crate) fn new(wire: &'w mut Wire, length: Option<u64>) -> Self {
        Self {
            wire,
            length,
            asked: false,
            last: false,
            ahead: Vec::new(),
            taken: 0,
            failed: None,
        }
    }

    /// Length of the whole body, if known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// As [`crate::http::RequestBody::read_into`].
    pub(crate) async fn read_into(
        &mut self,
        mut buffer: PoolBuf,
        max: usize,
    ) -> (PoolBuf, Result<usize, TransportError>) {
        match self.next_content().await {
            Ok(false) => return (buffer, Ok(0)),
            Ok(true) => {}
            Err(error) => return (buffer, Err(error)),
        }
        let ahead = self.ahead.get(self.taken..).unwrap_or_default();
        if !ahead.is_empty() {
            let most = ahead.get(..max).unwrap_or(ahead);
            let count = buffer.append(most);
            self.taken += count;
            return (buffer, Ok(count));
        }
        let (buffer, result) = self.wire.take(buffer, max).await;
        (buffer, result.map_err(|error| self.fail(error)))
    }

    /// As [`crate::http::RequestBody::fill`].
    pub(crate) async fn fill(&mut self) -> Result<&[u8], TransportError> {
        if self.next_content().await? && self.taken == self.ahead.len() {
            let some = self.wire.take_some(FRAMING_READ_BYTES).await;
            self.ahead = some.map_err(|error| self.fail(error))?;
            self.taken = 0;
        }
        Ok(self.ahead.get(self.taken..).unwrap_or_default())
    }

    /// As [`crate::http::RequestBody::consume`].
    pub(crate) fn consume(&mut self, count: usize) {
        self.taken = (self.taken + count).min(self.ahead.len());
    }

    /// Waits until there is content; `false`: there is none any more.
    async fn next_content(&mut self) -> Result<bool, TransportError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        while self.taken == self.ahead.len() && self.wire.left() == 0 {
            if self.last {
                return Ok(false);
            }
            let piece = self.next_piece().await;
            let came = piece.map_err(|error| self.fail(error))?;
            if let Some(why) = came {
                return Err(self.fail(WireError::Transport(why)));
            }
        }
        Ok(true)
    }

    /// Asks for more and waits for the next piece; or how the client failed.
    async fn next_piece(&mut self) -> Result<Option<TransportError>, WireError> {
        let pieces = match std::mem::replace(&mut self.asked, true) {
            false => PIECES_MAX,
            true => 1,
        };
        let grant = self.wire.frame(Kind::Grant, &Grant { pieces })?;
        self.wire.send_bytes(grant).await?;
        let (frame, bytes) = self.wire.receive(PIECE_WAIT).await?;
        match frame.kind {
            Kind::Piece => {
                self.last = frame.last;
                Ok(None)
            }
            Kind::Cancel => {
                self.last = true;
                Ok(Some(match head::<Cancel>(&bytes)?.why() {
                    Promise::TimedOut => TransportError::TimedOut,
                    Promise::Malformed => TransportError::BadFraming("as the other worker saw"),
                    Promise::Gone => TransportError::Closed,
                }))
            }
            kind => Err(WireError::Unexpected(kind)),
        }
    }

    fn fail(&mut self, error: WireError) -> TransportError {
        let error = match error {
            WireError::Transport(error) => error,
            other => {
                tracing::warn!(error = %other, "a relayed body broke off");
                TransportError::Closed
            }
        };
        self.failed = Some(error.clone());
        error
    }

    /// Whether pieces may still be on their way. They end with the last one or a
    /// [`Kind::Cancel`], see [`drain`].
    pub(crate) fn is_owed(&self) -> bool {
        self.asked && !(self.last && self.wire.left() == 0)
    }
}

/// Swallows what a caller had sent before it saw the answer.
pub(crate) async fn drain(wire: &mut Wire) -> Result<(), WireError> {
    wire.skip().await?;
    // Those granted, and the end.
    for _ in 0..=PIECES_MAX {
        let (frame, _) = wire.receive(FRAME_WAIT).await?;
        wire.skip().await?;
        match frame.kind {
            Kind::Piece if !frame.last => {}
            Kind::Piece | Kind::Cancel => return Ok(()),
            kind => return Err(WireError::Unexpected(kind)),
        }
    }
    Err(WireError::Unexpected(Kind::Piece))
}

/// How many bytes of an answer's body are still to come.
#[derive(Debug)]
pub(crate) struct Pieces {
    left: u64,
}

impl Pieces {
    pub(crate) fn new(length: u64) -> Self {
        Self { left: length }
    }

    /// Whether all has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// Waits for the next piece: its bytes, which are then taken from the wire.
    pub(crate) async fn next(&mut self, wire: &mut Wire) -> Result<usize, WireError> {
        let (frame, _) = wire.receive(PIECE_WAIT).await?;
        let bytes = frame.body_bytes as u64;
        if frame.kind != Kind::Piece || bytes == 0 || bytes > self.left {
            return Err(WireError::Unexpected(frame.kind));
        }
        if frame.last != (bytes == self.left) {
            return Err(WireError::Unexpected(frame.kind));
        }
        self.left -= bytes;
        Ok(frame.body_bytes)
    }
}
