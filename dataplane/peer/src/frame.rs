//! Frames: a prefix of fixed length, a head, a body. Everything has a checksum, and a
//! length that is judged before anything is allocated. Absent: what heads mean.

use crc_fast::CrcAlgorithm;

/// First bytes of a frame; the last is the version.
const MAGIC: [u8; 4] = *b"QWP1";
/// Bytes before a frame's head.
pub const PREFIX_BYTES: usize = 32;
/// Most bytes of a head.
pub const HEAD_BYTES_MAX: usize = 48 << 10;
/// Most bytes of a body: a chunk.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Flag of the last piece of a body.
const LAST: u8 = 1;
/// Where the checksum of prefix and head stands.
const SUM_AT: usize = 28;

/// CRC-32C, as in records of the store.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Something to be done: [`crate::Call`].
    Call,
    /// Part of a body, in either direction; no head.
    Piece,
    /// The caller gives up, before the answer: [`crate::Cancel`].
    Cancel,
    /// The caller may send so many pieces: [`crate::Grant`].
    Grant,
    /// What came of it: [`crate::Answer`].
    Answer,
    /// It was not even begun: [`crate::Refusal`].
    Refused,
    /// The body of an answer cannot be finished; no head.
    Broken,
}

impl Kind {
    const ALL: [(u8, Self); 7] = [
        (1, Self::Call),
        (2, Self::Piece),
        (3, Self::Cancel),
        (4, Self::Grant),
        (5, Self::Answer),
        (6, Self::Refused),
        (7, Self::Broken),
    ];

    fn number(self) -> u8 {
        let found = Self::ALL.iter().find(|(_, kind)| *kind == self);
        found.map_or(0, |(number, _)| *number)
    }

    fn of_number(number: u8) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == number);
        found.map(|(_, kind)| *kind)
    }
}

/// Not a frame, or a damaged one: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not begin as one.
    #[error("not a frame of this protocol")]
    Magic,
    /// A kind of frame this version does not know.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// Flags this version does not know.
    #[error("a frame with unknown flags {0:#x}")]
    Flags(u8),
    /// More than may be sent at once.
    #[error("a frame longer than allowed")]
    TooLong,
    /// The checksum of prefix and head does not hold.
    #[error("a frame damaged on its way")]
    Damaged,
}

/// The prefix of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Nothing of this body follows.
    pub last: bool,
    /// Bytes of its head.
    pub head_bytes: usize,
    /// Bytes of its body.
    pub body_bytes: usize,
    /// Number of the request on its connection.
    pub request: u64,
    /// How long who sends it will wait for what comes next, milliseconds; 0: it waits
    /// for nothing.
    pub deadline_ms: u32,
    /// CRC-32C of its body.
    pub body_sum: u32,
}

impl Frame {
    /// A frame without head and body.
    #[must_use]
    pub fn bare(kind: Kind, request: u64) -> Self {
        Self {
            kind,
            last: false,
            head_bytes: 0,
            body_bytes: 0,
            request,
            deadline_ms: 0,
            body_sum: 0,
        }
    }

    /// A piece of a body.
    #[must_use]
    pub fn piece(request: u64, body: &[u8], last: bool) -> Self {
        Self {
            last,
            body_bytes: body.len(),
            body_sum: crc32c(body),
            ..Self::bare(Kind::Piece, request)
        }
    }

    /// Prefix and head as bytes. The body follows them.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn encode(&self, head: &[u8]) -> Result<Vec<u8>, FrameError> {
        if head.len() > HEAD_BYTES_MAX || self.body_bytes > BODY_BYTES_MAX {
            return Err(FrameError::TooLong);
        }
        let mut out = Vec::with_capacity(PREFIX_BYTES + head.len());
        out.extend_from_slice(&MAGIC);
        out.push(self.kind.number());
        out.push(if self.last { LAST } else { 0 });
        out.extend_from_slice(&(head.len() as u16).to_be_bytes());
        out.extend_from_slice(&(self.body_bytes as u32).to_be_bytes());
        out.extend_from_slice(&self.request.to_be_bytes());
        out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        out.extend_from_slice(&self.body_sum.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(head);
        let sum = Self::sum(&out);
        out[SUM_AT..PREFIX_BYTES].copy_from_slice(&sum.to_be_bytes());
        Ok(out)
    }

    /// Checksum of prefix and head: all but the place of the checksum itself.
    fn sum(front: &[u8]) -> u32 {
        let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(front.get(..SUM_AT).unwrap_or_default());
        digest.update(front.get(PREFIX_BYTES..).unwrap_or_default());
        digest.finalize() as u32
    }

    /// Reads a prefix; its lengths are within limits. [`Frame::check`] says whether it
    /// came whole.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(prefix: &[u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, kind, flags, h0, h1, b0, b1, b2, b3, ..] = *prefix;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(FrameError::Magic);
        }
        let known = Kind::of_number(kind).ok_or(FrameError::Kind(kind))?;
        if flags & !LAST != 0 {
            return Err(FrameError::Flags(flags));
        }
        let head_bytes = usize::from(u16::from_be_bytes([h0, h1]));
        let body_bytes = u32::from_be_bytes([b0, b1, b2, b3]) as usize;
        if head_bytes > HEAD_BYTES_MAX || body_bytes > BODY_BYTES_MAX {
            return Err(FrameError::TooLong);
        }
        let [
            ..,
            r0,
            r1,
            r2,
            r3,
            r4,
            r5,
            r6,
            r7,
            d0,
            d1,
            d2,
            d3,
            s0,
            s1,
            s2,
            s3,
            _,
            _,
            _,
            _,
        ] = *prefix;
        Ok(Self {
            kind: known,
            last: flags & LAST != 0,
            head_bytes,
            body_bytes,
            request: u64::from_be_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
            deadline_ms: u32::from_be_bytes([d0, d1, d2, d3]),
            body_sum: u32::from_be_bytes([s0, s1, s2, s3]),
        })
    }

    /// Holds a prefix and its head against their checksum.
    ///
    /// # Errors
    /// [`FrameError::Damaged`].
    pub fn check(prefix: &[u8; PREFIX_BYTES], head: &[u8]) -> Result<(), FrameError> {
        let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&prefix[..SUM_AT]);
        digest.update(head);
        let [.., s0, s1, s2, s3] = *prefix;
        match digest.finalize() as u32 == u32::from_be_bytes([s0, s1, s2, s3]) {
            true => Ok(()),
            false => Err(FrameError::Damaged),
        }
    }
}

// A head's length must fit its field.
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);
