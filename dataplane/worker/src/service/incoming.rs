//! The body of a request, from its client or from the worker that relays it.

use crate::buffers::PoolBuf;
use crate::http::{RequestBody, TransportError};
use crate::peer::PeerBody;

/// Where a body comes from. Both are read alike.
pub(crate) enum Incoming<'b, 'c> {
    /// From the client.
    Client(&'b mut RequestBody<'c>),
    /// From another worker.
    Peer(&'b mut PeerBody<'c>),
}

impl Incoming<'_, '_> {
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Client(body) => body.length(),
            Self::Peer(body) => body.length(),
        }
    }

    pub(crate) fn hold_documents(&self) {
        match self {
            Self::Client(body) => body.hold_documents(),
            Self::Peer(_) => {}
        }
    }

    pub(crate) async fn read_into(
        &mut self,
        buffer: PoolBuf,
        max: usize,
    ) -> (PoolBuf, Result<usize, TransportError>) {
        match self {
            Self::Client(body) => body.read_into(buffer, max).await,
            Self::Peer(body) => body.read_into(buffer, max).await,
        }
    }

    pub(crate) async fn fill(&mut self) -> Result<&[u8], TransportError> {
        match self {
            Self::Client(body) => body.fill().await,
            Self::Peer(body) => body.fill().await,
        }
    }

    pub(crate) fn consume(&mut self, count: usize) {
        match self {
            Self::Client(body) => body.consume(count),
            Self::Peer(body) => body.consume(count),
        }
    }
}
