//! Back to the promised number of copies after a worker was lost, or came back without
//! what it had. Done by the owner of the key, for as long as no UFS has the bytes.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use quickwater_proto::{
    BlobId, Bucket, CHUNK_BYTES, CopyAt, Neighbour, NodeId, ObjectRecord, PersistState, slot_of,
};

use crate::decisions::copy_holders::Copied;
use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::BufferOf;
use crate::io::{
    Buffer, ChunkId, Copies, Disk, Durability, Environment, JOURNAL_CHUNK, Metadata, MetadataError,
    Peers,
};

/// Pause in which copies that ended gather: one message for all of them.
const TELL_PAUSE: Duration = Duration::from_millis(200);
/// Pauses between two looks at what is missing.
const TELLS_PER_LOOK: u32 = 5;
/// Bodies copied between two looks, and at the same time.
const BODIES_MAX: usize = 1_024;
const AT_ONCE: usize = 8;
/// Bodies asked for in one message.
const ASKED_MAX: usize = 1_024;

/// What the owner knows of the others from look to look.
#[derive(Debug, Default)]
struct Known {
    /// Sessions in which a worker was seen to have what it should.
    seen: HashMap<NodeId, u64>,
}

impl<W: World> Engine<W>
where
    W::Disk: Clone,
{
    /// Keeps the number of copies, and tells who has some that ended, until `stop` says
    /// so. One shard does it for all.
    pub async fn run_copier(&self, stop: impl Fn() -> bool) {
        let mut known = Known::default();
        let mut tells = 0;
        while !stop() {
            self.environment().sleep(TELL_PAUSE).await;
            self.tell_holders().await;
            self.tell_of_stripes().await;
            tells += 1;
            if tells % TELLS_PER_LOOK != 0 {
                continue;
            }
            let holders = &self.shared().holders;
            let rights = &self.shared().rights;
            holders.retain(|copied| rights.owns(slot_of(copied.bucket, &copied.key)));
            if holders.blobs() == 0 {
                let missing = &self.shared().stats.copies_missing;
                missing.store(0, Ordering::Relaxed);
                continue;
            }
            if self.permit_lease().is_err() {
                continue;
            }
            let others = self.peers().others();
            self.ask_who_came_back(&others, &mut known).await;
            self.copy_missing(&others).await;
        }
    }

    /// A worker in a new session may have been wiped: what it does not have any more is
    /// missing.
    async fn ask_who_came_back(&self, others: &[Neighbour], known: &mut Known) {
        for other in others.iter().filter(|other| other.live) {
            if known.seen.get(&other.node) == Some(&other.session) {
                continue;
            }
            let here = |_, copied: &Copied| copied.others.contains(&other.node);
            let (bodies, _) = self.shared().holders.find(usize::MAX, here);
            let mut whole = true;
            for some in bodies.chunks(ASKED_MAX) {
                let asked: Vec<_> = some.iter().map(|(blob, c)| (*blob, c.bytes)).collect();
                let Ok(found) = self.peers().has_copies(&other.node, &asked).await else {
                    whole = false;
                    break;
                };
                for (blob, copied) in some.iter().filter(|(blob, _)| !found.contains(blob)) {
                    self.strike(*blob, copied, &other.node);
                }
            }
            if whole {
                known.seen.insert(other.node.clone(), other.session);
            }
        }
    }

    /// A worker does not have a body that it should have.
    fn strike(&self, blob: BlobId, copied: &Copied, node: &NodeId) {
        let left = copied.others.iter().filter(|other| *other != node);
        let copied = Copied {
            others: left.cloned().collect(),
            ..copied.clone()
        };
        self.shared().holders.note(blob, copied);
    }

    async fn copy_missing(&self, others: &[Neighbour]) {
        let missing = |blob, copied: &Copied| {
            // The owner has one of its own: what it answers and persists comes from there.
            !self.has_copy(blob, copied.bytes) || live(others, copied).count() + 1 < copied.copies
        };
        let (bodies, count) = self.shared().holders.find(BODIES_MAX, missing);
        let stats = &self.shared().stats;
        stats.copies_missing.store(count as u64, Ordering::Relaxed);
        stream::iter(bodies)
            .for_each_concurrent(AT_ONCE, |(blob, copied)| async move {
                // What failed is seen at the next look.
                if let Ok(true) = self.copy_again(blob, &copied, others).await {
                    let stats = &self.shared().stats;
                    stats.copies_made.fetch_add(1, Ordering::Relaxed);
                    let bytes = &stats.copies_made_bytes;
                    bytes.fetch_add(copied.bytes, Ordering::Relaxed);
                }
            })
            .await;
    }

    /// Brings a body back to its number of copies. `false`: it needs none any more.
    async fn copy_again(
        &self,
        blob: BlobId,
        copied: &Copied,
        others: &[Neighbour],
    ) -> Result<bool, FlowError> {
        let place = (copied.bucket, &copied.key);
        let Some(bucket) = self.bucket_by_id(copied.bucket).await? else {
            return Ok(false);
        };
        let record = self.metadata().object(place.0, place.1).await?;
        let current = |record: &ObjectRecord| {
            record.persist != PersistState::Persisted
                && matches!(record.extents.as_slice(), [only] if only.blob == blob)
        };
        let Some(record) = record.filter(current) else {
            return Ok(false);
        };
        let mut all: Vec<CopyAt> = live(others, copied).collect();
        let entry = self.entry_of(&bucket, copied, &record)?;
        if !self.has_copy(blob, copied.bytes) {
            self.copy_here(blob, copied.bytes, &entry).await?;
            let now = self.environment().monotonic();
            self.shared().persist.hurry(place.0, place.1, now);
        }
        let want = copied.copies.saturating_sub(all.len() + 1);
        let (mut made, mut owner) = (Vec::new(), None);
        if want > 0 {
            (made, owner) = self
                .copy_there(&bucket, (blob, copied), want, &all, entry)
                .await?;
        }
        all.extend_from_slice(&made);
        let sessions: Vec<CopyAt> = all.iter().cloned().chain(owner).collect();
        let set = self
            .metadata()
            .set_holders(place, record.version, true, &sessions)
            .await;
        let nodes: Vec<NodeId> = made.into_iter().map(|copy| copy.node).collect();
        match set {
            Ok(true) => {
                let others = all.into_iter().map(|copy| copy.node).collect();
                let copied = Copied {
                    others,
                    ..copied.clone()
                };
                // It may have ended meanwhile, and with it what was noted.
                if !self.shared().holders.of(blob).is_empty() || copied.others.is_empty() {
                    self.shared().holders.note(blob, copied);
                } else {
                    self.shared().holders.tell(blob, &nodes);
                }
                Ok(true)
            }
            Ok(false) => {
                self.shared().holders.tell(blob, &nodes);
                Ok(false)
            }
            // They may be named: nobody says that they are not needed.
            Err(error @ MetadataError::Unknown(_)) => Err(error.into()),
            Err(error) => {
                self.shared().holders.tell(blob, &nodes);
                Err(error.into())
            }
        }
    }

    /// What is kept beside a copy: it says whose bytes these are.
    fn entry_of(
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

    /// Brings here what our own copy lacks. What is here of it stays, whatever fails.
    async fn copy_here(&self, blob: BlobId, bytes: u64, entry: &Bytes) -> Result<(), FlowError> {
        let _space = self.disk().reserve(bytes, chunks_of(bytes) + 1)?;
        for (chunk, len) in chunks(blob, bytes) {
            if self.disk().contains(chunk) {
                continue;
            }
            let found = self.fetch_chunk(chunk, 0..len).await;
            let buffer = found.ok_or_else(gone)?;
            let (_, written) = self.disk().write(chunk, buffer, Durability::Pinned).await;
            written?;
        }
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

    async fn copy_there(
        &self,
        bucket: &Bucket,
        (blob, copied): (BlobId, &Copied),
        want: usize,
        have: &[CopyAt],
        entry: Bytes,
    ) -> Result<(Vec<CopyAt>, Option<CopyAt>), FlowError> {
        let not: Vec<NodeId> = have.iter().map(|copy| copy.node.clone()).collect();
        let place = (bucket, &copied.key);
        let body = (blob, copied.bytes);
        let mut copies = self.peers().copy(place, body, want, &not).await?;
        for (chunk, len) in chunks(blob, copied.bytes) {
            let buffer = self.read_any(chunk, len).await?;
            copies.send(buffer.into_bytes()).await?;
        }
        let nodes = copies.nodes();
        let finished = copies.finish(entry).await;
        let made = finished.inspect_err(|_| self.shared().holders.tell(blob, &nodes))?;
        Ok((made, copies.owner()))
    }

    async fn read_any(&self, chunk: ChunkId, len: u32) -> Result<BufferOf<W>, FlowError> {
        if let Ok(Some(buffer)) = self.disk().read(chunk, 0..len).await {
            return Ok(buffer);
        }
        self.fetch_chunk(chunk, 0..len).await.ok_or_else(gone)
    }
}

fn gone() -> FlowError {
    FlowError::Unavailable("no copy of these bytes can be read now".into())
}

/// Copies on workers that are there now. One that is being drained is to get rid of it.
fn live(others: &[Neighbour], copied: &Copied) -> impl Iterator<Item = CopyAt> {
    let live =
        |other: &&Neighbour| other.live && !other.draining && copied.others.contains(&other.node);
    others.iter().filter(live).map(|other| CopyAt {
        node: other.node.clone(),
        session: other.session,
    })
}

/// The chunks of a body, and their lengths.
fn chunks(blob: BlobId, bytes: u64) -> impl Iterator<Item = (ChunkId, u32)> {
    (0..chunks_of(bytes)).map(move |index| {
        let start = u64::from(index) * u64::from(CHUNK_BYTES);
        let len = (bytes - start).min(u64::from(CHUNK_BYTES)) as u32;
        (ChunkId { blob, index }, len)
    })
}
