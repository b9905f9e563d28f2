//! The bytes of a copy that is made again: fetched to here, sent to others.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use quickwater_proto::{BlobId, Bucket, CHUNK_BYTES, CopyAt, NodeId, ObjectRecord, slot_of};

use crate::decisions::copy_holders::{Copied, Due, Lack};
use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::BufferOf;
use crate::io::{
    Buffer, ChunkId, Copies, CopyBody, Disk, Durability, Environment, JOURNAL_CHUNK, Metadata,
    Peers,
};

/// Workers asked whether they have a body that nobody takes.
const ASKED_FOR_ONE_MAX: usize = 16;

impl<W: World> Engine<W>
where
    W::Disk: Clone,
{
    /// Brings here what our own copy lacks. What is here of it stays, whatever fails.
    pub(super) async fn copy_here(
        &self,
        blob: BlobId,
        bytes: u64,
        entry: Option<&Bytes>,
    ) -> Result<(), FlowError> {
        let _space = self.disk().reserve(bytes, chunks_of(bytes) + 1)?;
        let mut missing = chunks(blob, bytes).filter(|(chunk, _)| !self.disk().keeps(*chunk));
        let mut next = missing.next();
        while let Some((chunk, len)) = next {
            next = missing.next();
            let found = self.fetch_chunk(chunk, 0..len).await;
            let buffer = found.ok_or_else(gone)?;
            // The last one covers the others, if nothing follows.
            let durability = match next.is_none() && entry.is_none() {
                true => Durability::Flushed,
                false => Durability::Pinned,
            };
            let (_, written) = self.disk().write(chunk, buffer, durability).await;
            written?;
        }
        let Some(entry) = entry else {
            return Ok(());
        };
        let mut buffer = self.disk().buffer(entry.len()).await?;
        buffer.set_len(entry.len());
        buffer.as_mut_slice().copy_from_slice(entry);
        let place = ChunkId {
            blob,
            index: JOURNAL_CHUNK,
        };
        let (_, written) = self.disk().write(place, buffer, Durability::Flushed).await;
        Ok(written?)
    }

    /// Copies a body to as many others as it lacks. If it lacks none, and could be in more
    /// zones, it gets one more in one of these: the next look is for the next one. What it
    /// has too many stays until the UFS has the object. Answers who got one, and this worker
    /// as it was named to them.
    pub(super) async fn copy_apart(
        &self,
        bucket: &Bucket,
        due: &Due,
        entry: Option<Bytes>,
    ) -> Result<(Vec<CopyAt>, Option<CopyAt>), FlowError> {
        let Due { copied, have, .. } = due;
        let want = copied.copies.saturating_sub(have.len() + 1);
        let beside = self.shared().holders.beside(copied.copies, have);
        let made = if want > 0 {
            let not: Vec<NodeId> = have.iter().map(|copy| copy.node.clone()).collect();
            self.copy_there(bucket, due, (want, &not), entry).await?
        } else if let Some(not) = beside {
            match self.copy_to_zone(bucket, due, &not, entry).await {
                Ok(made) => made,
                Err(error) if due.lack == Lack::Zones => return Err(error),
                // What else it lacked does not wait for that.
                Err(_) => {
                    let stats = &self.shared().stats;
                    stats.copies_failed.fetch_add(1, Ordering::Relaxed);
                    (Vec::new(), None)
                }
            }
        } else {
            (Vec::new(), None)
        };
        self.count_made(copied.bytes, made.0.len() as u64);
        Ok(made)
    }

    /// To one other that is not among `not`. Whoever has it by an attempt before, whose proof
    /// came too late, refuses it: it is taken at its word, and asked once more when it is
    /// named. Only what has its number of copies without it is copied so.
    async fn copy_to_zone(
        &self,
        bucket: &Bucket,
        due: &Due,
        not: &[NodeId],
        entry: Option<Bytes>,
    ) -> Result<(Vec<CopyAt>, Option<CopyAt>), FlowError> {
        let refused = match self.copy_there(bucket, due, (1, not), entry).await {
            Ok(made) => return Ok(made),
            Err(refused) => refused,
        };
        let body = (due.blob, due.copied.bytes);
        let others = self.shared().holders.usable_but(not);
        for at in others.into_iter().take(ASKED_FOR_ONE_MAX) {
            let found = self.peers().has_copies(&at.node, &[body]).await;
            if found.is_ok_and(|found| found.contains(&due.blob)) {
                return Ok((vec![at], self.peers().itself()));
            }
        }
        Err(refused)
    }

    /// To so many others, none of which is among `not`.
    async fn copy_there(
        &self,
        bucket: &Bucket,
        due: &Due,
        (want, not): (usize, &[NodeId]),
        entry: Option<Bytes>,
    ) -> Result<(Vec<CopyAt>, Option<CopyAt>), FlowError> {
        let (blob, copied) = (due.blob, &due.copied);
        let place = (bucket, &copied.key);
        let body = CopyBody {
            blob,
            bytes: copied.bytes,
            part: copied.part,
            bare: entry.is_none(),
        };
        let mut copies = self.peers().copy(place, body, want, not).await?;
        for (chunk, len) in chunks(blob, copied.bytes) {
            let buffer = self.read_any(chunk, len).await?;
            copies.send(buffer.into_bytes()).await?;
        }
        let nodes = copies.nodes();
        let finished = copies.finish(entry.unwrap_or_default()).await;
        let made = finished.inspect_err(|_| self.shared().holders.tell(blob, &nodes))?;
        Ok((made, copies.owner()))
    }

    async fn read_any(&self, chunk: ChunkId, len: u32) -> Result<BufferOf<W>, FlowError> {
        if let Ok(Some(buffer)) = self.disk().read(chunk, 0..len).await {
            return Ok(buffer);
        }
        self.fetch_chunk(chunk, 0..len).await.ok_or_else(gone)
    }

    /// What is kept beside a copy: it says whose bytes these are.
    pub(super) fn entry_of(
        &self,
        bucket: &Bucket,
        copied: &Copied,
        record: &ObjectRecord,
    ) -> Result<Bytes, FlowError> {
        let journal = &self.shared().journal;
        let sequence = journal.begin();
        let entry = self
            .metadata()
            .journal_entry(bucket.id, &copied.key, record, sequence);
        // The commit is made: nothing is ever replayed from it.
        journal.settle(sequence);
        Ok(entry?)
    }

    pub(super) fn copied_here(&self, blob: BlobId, copied: &Copied) {
        self.count_made(copied.bytes, 1);
        let slot = slot_of(copied.bucket, &copied.key);
        self.shared().anchor(blob, slot);
        let now = self.environment().monotonic();
        self.shared().persist.hurry(copied.bucket, &copied.key, now);
    }

    pub(super) fn count_made(&self, bytes: u64, copies: u64) {
        let stats = &self.shared().stats;
        stats.copies_made.fetch_add(copies, Ordering::Relaxed);
        let made = &stats.copies_made_bytes;
        made.fetch_add(bytes * copies, Ordering::Relaxed);
    }
}

pub(super) fn gone() -> FlowError {
    FlowError::Unavailable("no copy of these bytes can be read now".into())
}

/// The chunks of a body, and their lengths.
fn chunks(blob: BlobId, bytes: u64) -> impl Iterator<Item = (ChunkId, u32)> {
    (0..chunks_of(bytes)).map(move |index| {
        let start = u64::from(index) * u64::from(CHUNK_BYTES);
        let len = (bytes - start).min(u64::from(CHUNK_BYTES)) as u32;
        (ChunkId { blob, index }, len)
    })
}
