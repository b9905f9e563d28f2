//! The payload state machine: takes framing off and holds every promise to the
//! bytes. Bytes handed out are good only after `finish` has said so. Absent: MD5,
//! which costs more than all the rest and is computed for many streams at once;
//! `finish` is given it.

use quickwater_hash::Md5;
use quickwater_proto::{Checksum, ChecksumAlgorithm, ChecksumKind};
use sha2::{Digest, Sha256};

use super::frame::{ChunkHeader, Line, Trailers, bad_chunk};
use super::hash::Checksums;
use super::plan::{Framing, PayloadPlan};
use crate::auth::ChunkSigner;
use crate::error::{S3Error, S3ErrorCode};

/// What one call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Payload bytes written to the output.
    pub produced: usize,
    /// Nothing more is needed; what the wire still has (at most a CR LF of some
    /// clients) must be given to the decoder all the same.
    pub done: bool,
}

/// What was computed over a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadDigests {
    /// MD5 of all bytes.
    pub md5: [u8; 16],
    /// What the client sent (verified) and what the plan wanted.
    pub checksums: Vec<Checksum>,
}

#[derive(Debug)]
enum State {
    /// Plain bytes until the length is reached.
    Plain,
    /// In a chunk header.
    Header,
    /// In a chunk's data; this many bytes are left.
    Data(u64),
    /// In the line end after a chunk's data.
    DataEnd,
    /// In the trailers, or the empty line where there are none.
    Trailer,
    /// All there; this many bytes came after it.
    Done(usize),
}

/// Decodes one payload. After an error it must not be used again.
#[derive(Debug)]
pub struct PayloadDecoder {
    state: State,
    left: u64,
    line: Line,
    trailers: Trailers,
    signed: bool,
    has_trailer: bool,
    signer: Option<Box<ChunkSigner>>,
    chunk: Option<(Sha256, String)>,
    checksums: Checksums,
    report: Vec<ChecksumAlgorithm>,
    plan: PayloadPlan,
}

impl PayloadDecoder {
    /// Begins a payload.
    #[must_use]
    pub fn new(mut plan: PayloadPlan) -> Self {
        let framing = std::mem::replace(&mut plan.framing, Framing::Identity);
        let (state, signed, has_trailer, signer) = match framing {
            Framing::Identity if plan.length == 0 => (State::Done(0), false, false, None),
            Framing::Identity => (State::Plain, false, false, None),
            Framing::Chunked {
                signed,
                trailer,
                signer,
            } => (State::Header, signed, trailer, signer),
        };
        let report: Vec<_> = plan
            .wanted
            .iter()
            .copied()
            .chain(plan.checksum.as_ref().map(|c| c.algorithm))
            .chain(plan.trailer)
            .collect();
        let hidden = plan.sha256.map(|_| ChecksumAlgorithm::Sha256);
        Self {
            state,
            left: plan.length,
            line: Line::default(),
            trailers: Trailers::default(),
            signed,
            has_trailer,
            signer,
            chunk: None,
            checksums: Checksums::new(report.iter().copied().chain(hidden)),
            report,
            plan,
        }
    }

    /// Payload bytes the decoded body will have in all.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.plan.length
    }

    /// Payload bytes still to come.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.left
    }

    /// How many of the next wire bytes are plain payload, free of framing: they
    /// may be received straight into their place and shown to
    /// [`PayloadDecoder::absorb`]. 0 = framing comes next: use
    /// [`PayloadDecoder::decode`].
    #[must_use]
    pub fn next_run(&self) -> usize {
        let bytes = match self.state {
            State::Plain => self.left,
            State::Data(left) => left,
            _ => 0,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Whether nothing more is needed.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }

    /// Takes payload bytes that were received in place, at most
    /// [`PayloadDecoder::next_run`].
    ///
    /// # Errors
    /// `SignatureDoesNotMatch` when they end a chunk that was signed otherwise;
    /// `InvalidRequest` when there are too many.
    pub fn absorb(&mut self, data: &[u8]) -> Result<(), S3Error> {
        if data.len() > self.next_run() {
            return Err(bad_chunk("More bytes than the payload has."));
        }
        if data.is_empty() {
            return Ok(());
        }
        self.checksums.update(data);
        let bytes = data.len() as u64;
        self.left = self.left.saturating_sub(bytes);
        if let Some((hash, _)) = &mut self.chunk {
            hash.update(data);
        }
        match &mut self.state {
            State::Data(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.check_chunk()?;
                    self.state = State::DataEnd;
                }
            }
            _ if self.left == 0 => self.state = State::Done(0),
            _ => {}
        }
        Ok(())
    }

    /// Takes wire bytes from `input` and copies payload bytes to `out`, until one
    /// of them is used up. An empty `out` is fine while framing comes.
    ///
    /// # Errors
    /// The framing is broken (`InvalidRequest`, `MalformedTrailerError`), a
    /// signature is wrong (`SignatureDoesNotMatch`), chunks and declared length
    /// differ (`IncompleteBody`), or bytes follow the end (`InvalidRequest`).
    pub fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<Progress, S3Error> {
        let (mut consumed, mut produced) = (0, 0);
        while let Some(rest) = input.get(consumed..).filter(|r| !r.is_empty()) {
            let run = self.next_run();
            if run == 0 {
                consumed += self.framing(rest)?;
                continue;
            }
            let room = out.get_mut(produced..).unwrap_or_default();
            let bytes = run.min(rest.len()).min(room.len());
            if bytes == 0 {
                break;
            }
            self.absorb(&rest[..bytes])?;
            room[..bytes].copy_from_slice(&rest[..bytes]);
            consumed += bytes;
            produced += bytes;
        }
        Ok(Progress {
            consumed,
            produced,
            done: self.is_done(),
        })
    }

    /// Takes framing bytes; says how many, at least one.
    fn framing(&mut self, input: &[u8]) -> Result<usize, S3Error> {
        if let State::Done(after) = &mut self.state {
            *after += input.len();
            let line_end = b"\r\n";
            let harmless = *after <= line_end.len()
                && self.has_trailer
                && input.iter().all(|b| line_end.contains(b));
            if !harmless {
                return Err(bad_chunk("Bytes follow the end of the payload."));
            }
            return Ok(input.len());
        }
        let (taken, line) = self.line.take(input)?;
        if let Some(line) = line {
            self.take_line(&line)?;
        }
        Ok(taken)
    }

    fn take_line(&mut self, line: &str) -> Result<(), S3Error> {
        match self.state {
            State::Header => self.begin_chunk(line),
            State::DataEnd if line.is_empty() => {
                self.state = State::Header;
                Ok(())
            }
            State::DataEnd => Err(bad_chunk("A chunk is longer than its size says.")),
            _ => self.take_trailer(line),
        }
    }

    fn begin_chunk(&mut self, line: &str) -> Result<(), S3Error> {
        let header = ChunkHeader::parse(line)?;
        self.chunk = None;
        if self.signed {
            let signature = header
                .signature
                .ok_or_else(|| bad_chunk("A chunk has no signature."))?;
            if self.signer.is_some() {
                self.chunk = Some((Sha256::new(), signature.to_owned()));
            }
        }
        if header.size > self.left {
            return Err(bad_chunk(
                "The chunks hold more bytes than x-amz-decoded-content-length says.",
            ));
        }
        self.state = State::Data(header.size);
        if header.size > 0 {
            return Ok(());
        }
        if self.left > 0 {
            return Err(S3ErrorCode::IncompleteBody.into());
        }
        self.check_chunk()?;
        self.state = State::Trailer;
        Ok(())
    }

    fn check_chunk(&mut self) -> Result<(), S3Error> {
        if let (Some((hash, signature)), Some(signer)) = (self.chunk.take(), &mut self.signer) {
            signer.check_chunk(&hash.finalize().into(), &signature)?;
        }
        Ok(())
    }

    /// An empty line ends the trailers; with signatures, some clients also put
    /// one before the signature.
    fn take_trailer(&mut self, line: &str) -> Result<(), S3Error> {
        if !line.is_empty() {
            if !self.has_trailer {
                return Err(bad_chunk("Trailers follow that were not announced."));
            }
            return self.trailers.take(line);
        }
        if self.has_trailer && self.signed && self.trailers.signature.is_none() {
            self.trailers.skip_blank()?;
            return Ok(());
        }
        self.check_trailers()?;
        self.state = State::Done(0);
        Ok(())
    }

    fn check_trailers(&mut self) -> Result<(), S3Error> {
        if let (true, Some(signer)) = (self.has_trailer, &mut self.signer) {
            let hash = Sha256::digest(self.trailers.canonical.as_bytes()).into();
            let signature = self.trailers.signature.as_deref().unwrap_or_default();
            signer.check_trailer(&hash, signature)?;
        }
        let came = self.trailers.checksum.as_ref().map(|c| c.algorithm);
        if came != self.plan.trailer {
            return Err(S3ErrorCode::MalformedTrailer.into());
        }
        Ok(())
    }

    /// After the last wire byte: whether all promises held, and the digests.
    /// `md5` has taken every byte handed out or absorbed, in order.
    ///
    /// # Errors
    /// `IncompleteBody`, `XAmzContentSHA256Mismatch`, `BadDigest`; `InternalError`
    /// when `md5` has taken more or fewer bytes than the payload has.
    pub fn finish(self, md5: Md5) -> Result<PayloadDigests, S3Error> {
        if !self.is_done() || self.left > 0 {
            return Err(S3ErrorCode::IncompleteBody.into());
        }
        if md5.length() != self.plan.length {
            return Err(S3ErrorCode::InternalError.into());
        }
        let md5 = md5.finish();
        let mut checksums = self.checksums.finish();
        let computed = |algorithm| checksums.iter().find(|c| c.algorithm == algorithm);
        if let Some(expect) = self.plan.sha256
            && computed(ChecksumAlgorithm::Sha256).is_none_or(|c| c.value != expect)
        {
            return Err(S3ErrorCode::XAmzContentSha256Mismatch.into());
        }
        if self.plan.content_md5.is_some_and(|expect| expect != md5) {
            return Err(S3ErrorCode::BadDigest.into());
        }
        for expect in [&self.plan.checksum, &self.trailers.checksum]
            .into_iter()
            .flatten()
        {
            let same = expect.kind == ChecksumKind::FullObject
                && computed(expect.algorithm).is_some_and(|c| c.value == expect.value);
            if !same {
                return Err(bad_digest(expect.algorithm));
            }
        }
        checksums.retain(|c| self.report.contains(&c.algorithm));
        Ok(PayloadDigests { md5, checksums })
    }
}

/// `BadDigest` for a checksum of this algorithm.
fn bad_digest(algorithm: ChecksumAlgorithm) -> S3Error {
    S3Error::new(
        S3ErrorCode::BadDigest,
        format!(
            "The {} you specified did not match the calculated checksum.",
            algorithm.name()
        ),
    )
}
