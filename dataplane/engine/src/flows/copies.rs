//! Copies of what no UFS has on other workers, as their owner sees them: begun with the
//! body, read when our own bytes are gone, ended with the change. Absent: keeping copies
//! for others (`keep_copy`), getting back to their number (`copy_again`).

use std::ops::Range;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use quickwater_proto::{
    Bucket, BucketId, CopyAt, ObjectKey, ObjectRecord, PathPolicy, PersistState,
};

use crate::decisions::copy_holders::Copied;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::BufferOf;
use crate::io::{Buffer, ChunkId, CopyBody, Disk, Peers};

/// Copies named in one message.
const TOLD_MAX: usize = 1_024;

/// Copies of one body on their way.
pub(crate) type CopiesOf<W> = <<W as World>::Peers as Peers>::Copies;

impl<W: World> Engine<W> {
    /// Begins the copies that a policy asks for besides our own; none: it asks for none.
    pub(crate) async fn begin_copies(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        policy: &PathPolicy,
        body: CopyBody,
    ) -> Result<Option<CopiesOf<W>>, FlowError> {
        let copies = usize::from(policy.write_replicas.saturating_sub(1));
        if copies == 0 {
            return Ok(None);
        }
        let begun = match body.bytes {
            // It is in the commit as a whole; still nobody is told of more workers than
            // there are.
            0 => self.count_workers(copies).map(|()| None),
            _ => {
                let copying = self.peers().copy((bucket, key), body, copies, &[]);
                copying.await.map(Some)
            }
        };
        if begun.is_err() {
            let stats = &self.shared().stats;
            stats.copies_refused.fetch_add(1, Ordering::Relaxed);
        }
        begun
    }

    /// Whether there are so many others that could keep something.
    fn count_workers(&self, copies: usize) -> Result<(), FlowError> {
        let others = self.peers().others();
        let usable = others.iter().filter(|one| one.live && !one.draining);
        match usable.count() {
            usable if usable < copies => Err(FlowError::TooFewWorkers {
                wanted: copies + 1,
                possible: usable + 1,
            }),
            _ => Ok(()),
        }
    }

    /// How many workers are known to have the bytes of a version that no UFS has, this
    /// one included.
    #[must_use]
    pub fn copies_of(&self, record: &ObjectRecord) -> usize {
        let others = record.extents.iter();
        let others = others.map(|extent| self.shared().holders.of(extent.blob).len());
        1 + others.min().unwrap_or_default()
    }

    /// Notes who has flushed copies of what was committed.
    pub(crate) fn note_copies(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        body: CopyBody,
        copies: &[CopyAt],
    ) {
        let copied = Copied {
            bucket,
            key: key.clone(),
            part: body.part,
            bytes: body.bytes,
            copies: copies.len() + 1,
            others: copies.into(),
        };
        self.shared().holders.note(body.blob, copied);
    }

    /// Bytes of a version that no UFS has, from a worker that keeps a copy. `None`: none
    /// gives them.
    pub(crate) async fn fetch_copy(
        &self,
        record: &ObjectRecord,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Option<BufferOf<W>> {
        match record.persist {
            PersistState::Persisted => None,
            _ => self.fetch_chunk(chunk, range).await,
        }
    }

    /// The same of a chunk of such a version.
    pub(crate) async fn fetch_chunk(
        &self,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Option<BufferOf<W>> {
        let want = (range.end - range.start) as usize;
        let holders = &self.shared().holders;
        let readers = holders.readers(chunk.blob);
        if readers.is_empty() {
            return None;
        }
        // Before anything comes: no more are on their way than there is memory for.
        let mut buffer = self.disk().buffer(want).await.ok()?;
        buffer.set_len(want);
        for node in readers {
            let into = buffer.as_mut_slice();
            let fetched = self.peers().fetch(&node, chunk, range.clone(), into).await;
            // Not there, or not reached: another may have it.
            if let Ok(true) = fetched {
                holders.suspect(chunk.blob);
                let stats = &self.shared().stats;
                stats.copies_read.fetch_add(1, Ordering::Relaxed);
                return Some(buffer);
            }
        }
        None
    }

    /// Tells all who have what ended. Who cannot be reached is told later.
    pub(crate) async fn tell_holders(&self) {
        let holders = &self.shared().holders;
        let ended = holders.take_ended();
        let told = ended.iter().map(async |(node, blobs)| {
            let mut left = blobs.as_slice();
            while !left.is_empty() {
                let (some, rest) = left.split_at(left.len().min(TOLD_MAX));
                if self.peers().look_at_copies(node, some).await.is_err() {
                    return holders.untold(node, left);
                }
                left = rest;
            }
        });
        join_all(told).await;
    }
}
