//! The body of a GET: chunks of one version, from the engine, or from the worker that
//! has them, to the socket.

use quickwater_engine::io::Disk;
use quickwater_engine::{ObjectReader, World};

use super::permits::Permit;
use crate::buffers::PoolBuf;
use crate::http::{BodyAborted, ResponseBody};
use crate::peer::{Outgoing, Pieces};

/// The bytes of an object on their way out.
pub struct ObjectBytes<W: World> {
    /// Read before the head was sent, so that a miss or a damaged object can
    /// still become an error answer.
    first: Option<PoolBuf>,
    rest: Rest<W>,
}

/// Where the bytes after the first come from.
enum Rest<W: World> {
    Own {
        reader: Box<ObjectReader<W>>,
        _permit: Option<Permit>,
    },
    Relayed(Box<Relayed<W::Disk>>),
}

impl<W: World> ObjectBytes<W> {
    pub(super) fn new(first: PoolBuf, reader: ObjectReader<W>, permit: Option<Permit>) -> Self {
        Self {
            first: Some(first),
            rest: Rest::Own {
                reader: Box::new(reader),
                _permit: permit,
            },
        }
    }

    pub(super) fn relayed(first: PoolBuf, rest: Relayed<W::Disk>) -> Self {
        Self {
            first: Some(first),
            rest: Rest::Relayed(Box::new(rest)),
        }
    }
}

impl<W: World> ResponseBody for ObjectBytes<W>
where
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
{
    async fn next(&mut self) -> Result<Option<PoolBuf>, BodyAborted> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        match &mut self.rest {
            Rest::Own { reader, .. } => reader.next().await.map_err(|error| {
                tracing::warn!(%error, "a response was broken off");
                BodyAborted
            }),
            Rest::Relayed(relayed) => relayed.next().await.map(Some).map_err(|error| {
                tracing::warn!(error, "a relayed response was broken off");
                BodyAborted
            }),
        }
    }
}

/// A body that another worker sends.
pub(super) struct Relayed<D> {
    /// Gone once all has come, or something went wrong: the connection goes with it.
    call: Option<Outgoing>,
    pieces: Pieces,
    disk: D,
    _permit: Option<Permit>,
}

impl<D: Disk<Buffer = PoolBuf>> Relayed<D> {
    pub(super) fn new(call: Outgoing, length: u64, disk: D, permit: Option<Permit>) -> Self {
        Self {
            call: Some(call),
            pieces: Pieces::new(length),
            disk,
            _permit: permit,
        }
    }

    /// The next piece, checked against what was sent. Not called once all have come.
    pub(super) async fn next(&mut self) -> Result<PoolBuf, String> {
        let Some(mut call) = self.call.take() else {
            return Err("there is no more".into());
        };
        let wire = call.wire();
        let bytes = self.pieces.next(wire).await;
        let bytes = bytes.map_err(|error| error.to_string())?;
        let buffer = self.disk.buffer(bytes).await;
        let buffer = buffer.map_err(|error| error.to_string())?;
        let (buffer, taken) = wire.take_buffer(buffer).await;
        taken.map_err(|error| error.to_string())?;
        match self.pieces.is_whole() {
            true => {
                wire.socket().let_go();
                call.done();
            }
            false => self.call = Some(call),
        }
        Ok(buffer)
    }
}
