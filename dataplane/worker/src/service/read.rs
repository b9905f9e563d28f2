//! The body of a GET: chunks of one version, from the engine to the socket.

use quickwater_engine::{ObjectReader, World};

use super::permits::Permit;
use crate::buffers::PoolBuf;
use crate::http::{BodyAborted, ResponseBody};

/// The bytes of an object on their way out.
pub struct ObjectBytes<W: World> {
    /// Read before the head was sent, so that a miss or a damaged object can
    /// still become an error answer.
    first: Option<PoolBuf>,
    reader: ObjectReader<W>,
    _permit: Option<Permit>,
}

impl<W: World> ObjectBytes<W> {
    pub(super) fn new(first: PoolBuf, reader: ObjectReader<W>, permit: Option<Permit>) -> Self {
        Self {
            first: Some(first),
            reader,
            _permit: permit,
        }
    }
}

impl<W: World> ResponseBody for ObjectBytes<W>
where
    W::Disk: quickwater_engine::io::Disk<Buffer = PoolBuf> + Clone,
{
    async fn next(&mut self) -> Result<Option<PoolBuf>, BodyAborted> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        self.reader.next().await.map_err(|error| {
            tracing::warn!(%error, "a response was broken off");
            BodyAborted
        })
    }
}
