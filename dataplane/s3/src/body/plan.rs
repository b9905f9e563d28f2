//! What to do with a payload, decided from the head alone: framing, length and
//! promises. Refuses what cannot be right before a byte is read.

use quickwater_proto::{Checksum, ChecksumAlgorithm};

use crate::auth::{ChunkSigner, Identity, PayloadAuth};
use crate::error::{S3Error, S3ErrorCode};
use crate::request::{BodyKind, Dialect, Request};
use crate::xml::BODY_BYTES_MAX;

/// How the payload lies on the wire (HTTP transfer coding already taken off).
#[derive(Debug, Clone)]
pub enum Framing {
    /// As it is.
    Identity,
    /// aws-chunked.
    Chunked {
        /// Chunks carry signatures.
        signed: bool,
        /// Trailers follow.
        trailer: bool,
        /// Checks signatures; none when they are not checked.
        signer: Option<Box<ChunkSigner>>,
    },
}

/// Everything [`super::PayloadDecoder`] needs to know.
#[derive(Debug, Clone)]
pub struct PayloadPlan {
    /// Framing on the wire.
    pub framing: Framing,
    /// Bytes of the payload without framing.
    pub length: u64,
    /// Bytes on the wire, when known.
    pub wire_length: Option<u64>,
    /// `x-amz-content-sha256` of a payload in one piece.
    pub sha256: Option<[u8; 32]>,
    /// `Content-MD5`.
    pub content_md5: Option<[u8; 16]>,
    /// `x-amz-checksum-*`.
    pub checksum: Option<Checksum>,
    /// The checksum that must come as trailer.
    pub trailer: Option<ChecksumAlgorithm>,
    /// Checksums to compute whether or not the client sends them.
    pub wanted: Vec<ChecksumAlgorithm>,
}

impl PayloadPlan {
    /// The plan of a request's payload. Operations without a body have the empty
    /// plan: what a client sends along is not looked at.
    ///
    /// # Errors
    /// `MissingContentLength`, `EntityTooLarge`, `MaxMessageLengthExceeded`,
    /// `InvalidRequest` for contradictions between headers.
    pub fn new(request: &Request, identity: &Identity, dialect: &Dialect) -> Result<Self, S3Error> {
        let headers = &request.payload;
        let kind = request.operation.body();
        if kind == BodyKind::None {
            return Ok(Self::identity(0));
        }
        let (framing, sha256) = framing(&identity.payload);
        let chunked = matches!(framing, Framing::Chunked { .. });
        let plan = Self {
            length: length(request, chunked)?,
            framing,
            wire_length: headers.content_length.filter(|_| !headers.transfer_encoded),
            sha256,
            content_md5: headers.content_md5,
            checksum: headers.checksum.clone(),
            trailer: headers.trailer,
            wanted: Vec::new(),
        };
        plan.check_limits(kind, dialect)?;
        plan.check_trailer()?;
        Ok(plan)
    }

    /// `length` bytes as they are, nothing promised.
    #[must_use]
    pub const fn identity(length: u64) -> Self {
        Self {
            framing: Framing::Identity,
            length,
            wire_length: Some(length),
            sha256: None,
            content_md5: None,
            checksum: None,
            trailer: None,
            wanted: Vec::new(),
        }
    }

    /// Also computes this checksum.
    pub fn want(&mut self, algorithm: ChecksumAlgorithm) {
        if !self.wanted.contains(&algorithm) {
            self.wanted.push(algorithm);
        }
    }

    /// Computes CRC64NVME if the client sends no checksum at all (S3: "the
    /// default checksum").
    pub fn want_default(&mut self) {
        if self.checksum.is_none() && self.trailer.is_none() {
            self.want(ChecksumAlgorithm::Crc64Nvme);
        }
    }

    fn check_limits(&self, kind: BodyKind, dialect: &Dialect) -> Result<(), S3Error> {
        if kind == BodyKind::Xml && self.length > BODY_BYTES_MAX as u64 {
            return Err(S3ErrorCode::MaxMessageLengthExceeded.into());
        }
        if self.length > dialect.put_bytes_max {
            return Err(S3Error::from(S3ErrorCode::EntityTooLarge)
                .with("ProposedSize", self.length.to_string())
                .with("MaxSizeAllowed", dialect.put_bytes_max.to_string()));
        }
        if self.wire_length.is_some_and(|wire| wire < self.length) {
            return Err(S3Error::request(
                "x-amz-decoded-content-length is greater than Content-Length.",
            ));
        }
        Ok(())
    }

    fn check_trailer(&self) -> Result<(), S3Error> {
        let possible = matches!(self.framing, Framing::Chunked { trailer: true, .. });
        if self.trailer.is_some() && !possible {
            return Err(S3Error::request(
                "x-amz-trailer needs a payload with trailers (x-amz-content-sha256).",
            ));
        }
        Ok(())
    }
}

fn framing(payload: &PayloadAuth) -> (Framing, Option<[u8; 32]>) {
    match payload {
        PayloadAuth::Unsigned => (Framing::Identity, None),
        PayloadAuth::Sha256(hash) => (Framing::Identity, Some(*hash)),
        PayloadAuth::Chunked {
            signed,
            trailer,
            signer,
        } => (
            Framing::Chunked {
                signed: *signed,
                trailer: *trailer,
                signer: signer.clone(),
            },
            None,
        ),
    }
}

fn length(request: &Request, chunked: bool) -> Result<u64, S3Error> {
    let headers = &request.payload;
    let missing = || S3Error::from(S3ErrorCode::MissingContentLength);
    if chunked {
        return headers.decoded_length.ok_or_else(missing);
    }
    let length = match headers.content_length {
        _ if headers.transfer_encoded => return Err(missing()),
        Some(length) => length,
        // An XML body that may be left out.
        None if request.operation.body() == BodyKind::Xml => 0,
        None => return Err(missing()),
    };
    // The client believes that it sends chunks: storing their headers as data
    // would be silent corruption.
    if headers.decoded_length.is_some_and(|d| d != length) {
        return Err(S3Error::request(
            "x-amz-decoded-content-length needs a STREAMING-* x-amz-content-sha256.",
        ));
    }
    Ok(length)
}
