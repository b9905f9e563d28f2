//! Request bodies as the engine wants them: payload bytes received straight into
//! aligned buffers, framing removed, promises checked.

use quickwater_engine::io::{Body, BodyDigests, Disk};
use quickwater_proto::CHUNK_BYTES;
use quickwater_s3::body::PayloadDecoder;
use quickwater_s3::{S3Error, S3ErrorCode};

use crate::buffers::PoolBuf;
use crate::hashing::{HashDesk, Md5Stream};
use crate::http::TransportError;

use super::incoming::Incoming;

/// Why a body could not be taken in.
#[derive(Debug)]
pub(crate) enum BodyFailure {
    /// The client broke its promises: this is the answer.
    Refused(S3Error),
    /// The connection is gone or broken: nobody waits for an answer.
    Lost,
    /// No buffer came free in time.
    Overloaded,
    /// The object being copied is another one by now.
    Changed,
}

/// A request body on its way in.
pub(crate) struct ObjectBody<'b, 'c, D> {
    transport: Incoming<'b, 'c>,
    /// Gone once finished.
    decoder: Option<PayloadDecoder>,
    disk: D,
    md5: Md5Stream,
    length: u64,
    received: u64,
}

impl<'b, 'c, D: Disk<Buffer = PoolBuf>> ObjectBody<'b, 'c, D> {
    pub(crate) fn new(
        transport: Incoming<'b, 'c>,
        decoder: PayloadDecoder,
        disk: D,
        desk: &HashDesk,
    ) -> Self {
        let length = decoder.length();
        Self {
            transport,
            decoder: Some(decoder),
            disk,
            md5: desk.stream(length > 0),
            length,
            received: 0,
        }
    }

    /// The next full chunk, or the shorter last one.
    async fn receive(&mut self) -> Result<PoolBuf, BodyFailure> {
        let left = self.length - self.received;
        let want = left.min(u64::from(CHUNK_BYTES)) as usize;
        let buffer = self.disk.buffer(want).await;
        let buffer = buffer.map_err(|_| BodyFailure::Overloaded)?;
        let buffer = self.fill(buffer, want).await?;
        if buffer.len() < want {
            return Err(incomplete());
        }
        self.received += want as u64;
        Ok(buffer)
    }

    /// Receives until `buffer` holds `want` bytes or the payload ends.
    async fn fill(&mut self, mut buffer: PoolBuf, want: usize) -> Result<PoolBuf, BodyFailure> {
        while buffer.len() < want {
            let run = self.decoder.as_ref().map_or(0, PayloadDecoder::next_run);
            if run == 0 {
                if !self.take_framing().await? {
                    break;
                }
                continue;
            }
            let before = buffer.len();
            let (back, received) = self
                .transport
                .read_into(buffer, run.min(want - before))
                .await;
            buffer = back;
            if received.map_err(lost)? == 0 {
                return Err(incomplete());
            }
            if let Some(decoder) = &mut self.decoder {
                let fresh = &buffer.as_slice()[before..];
                decoder.absorb(fresh).map_err(BodyFailure::Refused)?;
            }
        }
        Ok(buffer)
    }

    /// Takes the lines between payload bytes. `false`: the payload is over.
    async fn take_framing(&mut self) -> Result<bool, BodyFailure> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(false);
        };
        let input = self.transport.fill().await.map_err(lost)?;
        if input.is_empty() {
            return match decoder.is_done() {
                true => Ok(false),
                false => Err(incomplete()),
            };
        }
        let progress = decoder
            .decode(input, &mut [])
            .map_err(BodyFailure::Refused)?;
        self.transport.consume(progress.consumed);
        Ok(true)
    }
}

impl<D: Disk<Buffer = PoolBuf>> Body for ObjectBody<'_, '_, D> {
    type Buffer = PoolBuf;
    type Error = BodyFailure;

    fn length(&self) -> u64 {
        self.length
    }

    async fn next(&mut self) -> Result<Option<PoolBuf>, BodyFailure> {
        // One buffer is hashed while the next is received.
        while self.received < self.length {
            let next = self.receive().await?;
            let more = self.received < self.length;
            if let Some(hashed) = self.md5.exchange(next, more).await {
                return Ok(Some(hashed));
            }
        }
        if let Some(hashed) = self.md5.hashed().await {
            return Ok(Some(hashed));
        }
        // What follows the last byte (final chunk, trailers) belongs to it.
        while self.take_framing().await? {}
        Ok(None)
    }

    fn finish(&mut self) -> Result<BodyDigests, BodyFailure> {
        let decoder = self.decoder.take().ok_or_else(incomplete)?;
        let digests = decoder
            .finish(self.md5.finish())
            .map_err(BodyFailure::Refused)?;
        Ok(BodyDigests {
            md5: digests.md5,
            checksums: digests.checksums,
        })
    }
}

fn incomplete() -> BodyFailure {
    BodyFailure::Refused(S3ErrorCode::IncompleteBody.into())
}

fn lost(error: TransportError) -> BodyFailure {
    match error {
        TransportError::BadFraming(_) => incomplete(),
        TransportError::TimedOut => BodyFailure::Refused(S3ErrorCode::RequestTimeout.into()),
        TransportError::Closed | TransportError::Io(_) | TransportError::NoRoom => {
            BodyFailure::Lost
        }
    }
}
