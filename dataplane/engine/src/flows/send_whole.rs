//! Bytes that only this store has go to the UFS in one request: read chunk by chunk, compared
//! by the UFS with what was promised of them.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use quickwater_proto::{BlobId, Bucket, CHUNK_BYTES, ObjectKey, ObjectRecord, UfsError, UfsObject};

use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::flows::read::BufferOf;
use crate::io::{BodyDigests, Buffer, ChunkId, Disk, DiskError, Ufs, UfsUpload};

/// Why an object did not reach the UFS.
pub(crate) enum Unsent {
    /// The UFS said no, or nothing.
    Ufs(UfsError),
    /// Bytes of this blob that only this store has are not there.
    Lost(BlobId, String),
    /// Bytes of this blob are not here, but other workers are to have them.
    Elsewhere(BlobId, String),
    /// The store or the metadata cannot answer now.
    Here(String),
}

impl From<UfsError> for Unsent {
    fn from(error: UfsError) -> Self {
        Self::Ufs(error)
    }
}

impl From<DiskError> for Unsent {
    fn from(error: DiskError) -> Self {
        Self::Here(error.to_string())
    }
}

impl<W: World> Engine<W> {
    /// Sends an object in one request.
    pub(crate) async fn send_whole(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        record: &ObjectRecord,
    ) -> Result<UfsObject, Unsent> {
        let md5 = record.etag.as_md5();
        let md5 = md5.ok_or_else(|| Unsent::Here("the ETag is not an MD5".into()))?;
        let upload = self
            .ufs()
            .put(bucket, key, &record.headers, record.size)
            .await;
        let extents = record.extents.iter();
        let pieces = extents.map(|extent| (extent.blob, extent.size)).collect();
        let digests = BodyDigests {
            md5,
            checksums: record.checksums.clone(),
        };
        self.send_bytes(upload?, pieces, &digests).await
    }

    /// Sends the bytes of `pieces` in order, one chunk being read while the one
    /// before is sent.
    pub(crate) async fn send_bytes(
        &self,
        upload: <W::Ufs as Ufs>::Upload,
        pieces: Vec<(BlobId, u64)>,
        digests: &BodyDigests,
    ) -> Result<UfsObject, Unsent> {
        let (upload, last) = self.send_all_but_last(upload, pieces, digests).await?;
        Ok(self.publish(upload, last, digests).await?)
    }

    /// The same up to the last chunk, which is given back: until the UFS has it, it
    /// has nothing.
    pub(crate) async fn send_all_but_last(
        &self,
        mut upload: <W::Ufs as Ufs>::Upload,
        pieces: Vec<(BlobId, u64)>,
        digests: &BodyDigests,
    ) -> Result<(<W::Ufs as Ufs>::Upload, Option<Bytes>), Unsent> {
        if let Err(error) = upload.expect(digests).await {
            upload.abort().await;
            return Err(error.into());
        }
        let chunks: Vec<_> = pieces.into_iter().flat_map(chunks_of_piece).collect();
        let mut chunks = chunks.into_iter();
        let mut held = match chunks.next() {
            Some((chunk, len)) => Some(self.read_dirty(chunk, len).await),
            None => None,
        };
        while let Some(buffer) = held.take() {
            let buffer = match buffer {
                Ok(buffer) => buffer,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            };
            let Some((chunk, len)) = chunks.next() else {
                return Ok((upload, Some(buffer.into_bytes())));
            };
            let send = upload.send(buffer.into_bytes());
            let (sent, next) = join(send, self.read_dirty(chunk, len)).await;
            held = Some(next);
            if let Err(error) = sent {
                upload.abort().await;
                return Err(error.into());
            }
        }
        Ok((upload, None))
    }

    async fn read_dirty(&self, chunk: ChunkId, len: u32) -> Result<BufferOf<W>, Unsent> {
        let read = self.disk().read(chunk, 0..len).await;
        if let Ok(Some(buffer)) = read {
            return Ok(buffer);
        }
        let ChunkId { blob, index } = chunk;
        match (read?, self.shared().holders.of(blob).is_empty()) {
            (None, false) => {
                self.shared().holders.suspect(blob);
                let text = format!("chunk {index} of {blob} is not here, but on other workers");
                Err(Unsent::Elsewhere(blob, text))
            }
            _ => {
                let text = format!("chunk {index} of {blob} is not in the store");
                Err(Unsent::Lost(blob, text))
            }
        }
    }
}

/// The chunks of a piece and their lengths.
fn chunks_of_piece((blob, size): (BlobId, u64)) -> impl Iterator<Item = (ChunkId, u32)> {
    (0..chunks_of(size)).map(move |index| {
        let start = u64::from(index) * u64::from(CHUNK_BYTES);
        let len = (size - start).min(u64::from(CHUNK_BYTES)) as u32;
        (ChunkId { blob, index }, len)
    })
}
