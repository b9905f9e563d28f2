//! Copies kept for other owners, as other workers ask for it: taken in, read, looked at.
//! Absent: asking (`peer/copies.rs`), when a copy goes (the engine).

use std::time::Duration;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use quickwater_engine::io::{ChunkId, Disk};
use quickwater_engine::{FlowError, KeptCopy, World};
use quickwater_peer::{
    Answer, CopyList, FetchCopy, FrameError, Kind, Message, RefusalKind, StoreCopy, StoredCopy,
    decode,
};
use quickwater_proto::{BucketId, CHUNK_BYTES, CopyAt, CopyOf, NodeId, ObjectKey};

use super::answer::flow_error;
use super::host::Hosting;
use super::permits::SMALL_BODY_MAX;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::peer::{PeerBody, Wire, WireError, blob_of, blob_to_wire, part_of};

/// Most bytes of a message that asks for one copy.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Most bytes of a commit that is kept beside a copy.
const ENTRY_BYTES_MAX: usize = CHUNK_BYTES as usize;
/// Most bytes of a list of copies.
const LIST_BYTES_MAX: usize = 256 << 10;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Takes a copy in.
    pub(super) async fn host_store(
        &self,
        hosting: &Hosting<'_>,
        caller: &NodeId,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        let asked: StoreCopy = take(wire, MESSAGE_BYTES_MAX).await?;
        let session = hosting.neighbours.peers.directory().session();
        let key = ObjectKey::new(&hosting.right.key);
        let part = part_of(&asked);
        let (Some(session), Some(blob), Ok(key), Ok(part)) =
            (session, blob_of(&asked.blob), key, part)
        else {
            let text = "no session, or not a copy";
            return hosting.refuse(wire, RefusalKind::Mistaken, text).await;
        };
        let of = CopyOf {
            bucket: BucketId(asked.bucket),
            key,
            blob,
            part,
            owner: Some(CopyAt {
                node: caller.clone(),
                session: asked.session,
            }),
        };
        // Who sends it has a place of its own, and this one waits for nothing more.
        let places = &hosting.neighbours.sources;
        let permit = match asked.bytes > SMALL_BODY_MAX {
            true => match places.enter().await {
                Some(permit) => Some(permit),
                None => return hosting.refuse(wire, RefusalKind::Busy, "no place").await,
            },
            false => None,
        };
        let copy = match self.engine.keep_copy(of, asked.bytes) {
            Ok(copy) if asked.bare => copy.without_entry(),
            Ok(copy) => copy,
            Err(error) => {
                let text = error.to_string();
                return hosting.refuse(wire, RefusalKind::Busy, text).await;
            }
        };
        let kept = self.take_copy(copy, wire).await;
        drop(permit);
        match kept {
            Ok((bytes, crc32c)) => {
                let proof = StoredCopy {
                    bytes,
                    crc32c,
                    session,
                };
                send(wire, Answer::default(), &proof.encode_to_vec()).await
            }
            // What it has sent meanwhile is not read any more: the connection ends.
            Err(Untaken::Flow(error)) => {
                send_error(wire, error).await?;
                Err(WireError::Unexpected(Kind::Broken))
            }
            Err(Untaken::Wire(error)) => Err(error),
        }
    }

    /// The bytes and their checksum, once they are flushed.
    async fn take_copy(
        &self,
        mut copy: KeptCopy<W>,
        wire: &mut Wire,
    ) -> Result<(u64, u32), Untaken> {
        let mut body = PeerBody::new(wire, None);
        let (mut bytes, mut sum) = (0, Digest::new(CrcAlgorithm::Crc32Iscsi));
        while copy.next_bytes() > 0 {
            let want = copy.next_bytes();
            let chunk = self.filled(&mut body, want).await?;
            if chunk.len() != want {
                return Err(FlowError::Invalid("a copy that ends early".into()).into());
            }
            sum.update(chunk.as_slice());
            bytes += want as u64;
            copy.write(chunk).await?;
        }
        let entry = self.rest(&mut body).await?;
        copy.finish(entry).await?;
        Ok((bytes, sum.finalize() as u32))
    }

    /// What follows the bytes: their commit.
    async fn rest(&self, body: &mut PeerBody<'_>) -> Result<PoolBuf, Untaken> {
        let mut entry = Vec::new();
        loop {
            let some = body.fill().await.map_err(|e| Untaken::Wire(e.into()))?;
            if some.is_empty() {
                break;
            }
            entry.extend_from_slice(some);
            let count = some.len();
            body.consume(count);
            if entry.len() > ENTRY_BYTES_MAX {
                return Err(FlowError::TooLarge("a commit beside a copy".into()).into());
            }
        }
        let mut buffer = self.engine.disk().buffer(entry.len()).await?;
        buffer.append(&entry);
        Ok(buffer)
    }

    /// So many bytes of a body in one buffer; fewer when it ends.
    async fn filled(&self, body: &mut PeerBody<'_>, want: usize) -> Result<PoolBuf, Untaken> {
        let mut buffer = self.engine.disk().buffer(want).await?;
        while buffer.len() < want {
            let left = want - buffer.len();
            let (back, read) = body.read_into(buffer, left).await;
            buffer = back;
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(Untaken::Wire(error.into())),
            }
        }
        Ok(buffer)
    }

    /// Gives bytes of a copy, or says that it is not here.
    pub(super) async fn host_fetch(&self, wire: &mut Wire) -> Result<(), WireError> {
        let asked: FetchCopy = take(wire, MESSAGE_BYTES_MAX).await?;
        let range = asked.first..asked.end;
        let Some(blob) = blob_of(&asked.blob) else {
            return send_error(wire, FlowError::Invalid("no blob".into())).await;
        };
        if range.is_empty() || range.end > CHUNK_BYTES {
            return send_error(wire, FlowError::Invalid("no part of a chunk".into())).await;
        }
        let chunk = ChunkId {
            blob,
            index: asked.chunk,
        };
        match self.engine.read_copy(chunk, range).await {
            Ok(found) => {
                let answer = Answer {
                    yes: found.is_some(),
                    ..Answer::default()
                };
                let bytes = found.as_ref().map_or(&[][..], PoolBuf::as_slice);
                send(wire, answer, bytes).await
            }
            Err(error) => send_error(wire, error).await,
        }
    }

    /// An owner says that no commit of these copies is under way.
    pub(super) async fn host_look(&self, wire: &mut Wire) -> Result<(), WireError> {
        let list: CopyList = take(wire, LIST_BYTES_MAX).await?;
        let blobs: Vec<_> = list.blobs.iter().filter_map(|b| blob_of(b)).collect();
        self.engine.look_at_copies(&blobs);
        send(wire, Answer::default(), &[]).await
    }

    /// Which of these are here whole.
    pub(super) async fn host_has(&self, wire: &mut Wire) -> Result<(), WireError> {
        let list: CopyList = take(wire, LIST_BYTES_MAX).await?;
        let asked = list.blobs.iter().zip(&list.bytes);
        let asked = asked.filter_map(|(blob, bytes)| Some((blob_of(blob)?, *bytes)));
        let here = asked.filter(|(blob, bytes)| self.engine.confirm_copy(*blob, *bytes));
        let found = CopyList {
            blobs: here.map(|(blob, _)| blob_to_wire(blob)).collect(),
            bytes: Vec::new(),
        };
        send(wire, Answer::default(), &found.encode_to_vec()).await
    }
}

/// Why a copy was not taken in.
enum Untaken {
    Flow(FlowError),
    Wire(WireError),
}

impl<E: Into<FlowError>> From<E> for Untaken {
    fn from(error: E) -> Self {
        Self::Flow(error.into())
    }
}

async fn take<M: Message + Default>(wire: &mut Wire, most: usize) -> Result<M, WireError> {
    if wire.left() > most {
        return Err(FrameError::TooLong.into());
    }
    let bytes: Bytes = wire.take_all().await?.into();
    Ok(decode(&bytes)?)
}

async fn send(wire: &mut Wire, answer: Answer, body: &[u8]) -> Result<(), WireError> {
    let answer = Answer {
        status: 200,
        ..answer
    };
    wire.send(Kind::Answer, &answer, body, Duration::ZERO).await
}

async fn send_error(wire: &mut Wire, error: FlowError) -> Result<(), WireError> {
    let error = flow_error(error);
    let answer = Answer {
        status: error.status().into(),
        code: error.code.as_str().to_owned(),
        text: error.message.clone().into_owned(),
        ..Answer::default()
    };
    wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await
}
