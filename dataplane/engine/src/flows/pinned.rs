//! The bytes of one body on their way into the store, which alone has them, and to copies on
//! other workers.

use quickwater_proto::{BlobId, PartOf};

use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::copies::CopiesOf;
use crate::flows::read::BufferOf;
use crate::io::{Buffer, ChunkId, Copies, CopyBody, Disk, Durability, Environment};

/// The bytes of one body that only this store has.
pub(crate) struct Pinned<W: World> {
    engine: Engine<W>,
    pub(crate) blob: BlobId,
    pub(crate) chunks: u32,
    /// The same on other workers, if there are to be copies.
    pub(crate) copies: Option<CopiesOf<W>>,
}

impl<W: World> Pinned<W> {
    pub(crate) fn new(engine: &Engine<W>) -> Self {
        Self::of(engine, BlobId(engine.environment().random_u128()))
    }

    /// The same for bytes that have a name.
    pub(crate) fn of(engine: &Engine<W>, blob: BlobId) -> Self {
        Self {
            engine: engine.clone(),
            blob,
            chunks: 0,
            copies: None,
        }
    }

    /// The same as others are to keep it; of a part no commit is kept beside the bytes.
    pub(crate) fn as_copy(&self, bytes: u64, part: Option<PartOf>) -> CopyBody {
        CopyBody {
            blob: self.blob,
            bytes,
            part,
            bare: part.is_some(),
        }
    }

    /// Writes the next chunk, here and wherever copies are.
    pub(crate) async fn write_all(
        &mut self,
        buffer: BufferOf<W>,
        durability: Durability,
    ) -> Result<(), FlowError> {
        let buffer = self.write(buffer, durability).await?;
        match &mut self.copies {
            Some(copies) => copies.send(buffer.into_bytes()).await,
            None => Ok(()),
        }
    }

    /// Writes the next chunk here.
    pub(crate) async fn write(
        &mut self,
        buffer: BufferOf<W>,
        durability: Durability,
    ) -> Result<BufferOf<W>, FlowError> {
        let chunk = ChunkId {
            blob: self.blob,
            index: self.chunks,
        };
        self.chunks += 1;
        let (buffer, stored) = self.engine.disk().write(chunk, buffer, durability).await;
        stored?;
        Ok(buffer)
    }

    /// Forgets what was written: nobody was promised anything.
    pub(crate) fn discard(&self) {
        self.engine.disk().forget(self.blob, self.chunks);
    }
}
