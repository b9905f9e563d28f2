//! Copies kept for other owners: taken in, read, and let go once the metadata do not
//! name them any more. Absent: who owns what, and how many copies there should be.

use std::ops::Range;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quickwater_proto::{BlobId, CHUNK_BYTES, CopyOf, slot_of};

use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::dirty_room::Space;
use crate::flows::pinned::Pinned;
use crate::flows::read::BufferOf;
use crate::io::{Buffer, ChunkId, Disk, Durability, Environment, JOURNAL_CHUNK, Metadata};

/// Pause between two looks at what is due.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Copies looked at in one go, and at the same time.
const LOOKS_MAX: usize = 256;
const LOOKS_AT_ONCE: usize = 32;

/// A copy that is being taken in. Dropped before it has finished, it is forgotten.
pub struct KeptCopy<W: World> {
    engine: Engine<W>,
    of: CopyOf,
    bytes: u64,
    left: u64,
    pinned: Pinned<W>,
    /// No commit is kept beside it.
    bare: bool,
    finished: bool,
    _space: Space<W>,
}

impl<W: World> Engine<W> {
    /// Begins to keep a copy of `bytes` bytes.
    ///
    /// # Errors
    /// There is no room for it, it is here already, or the worker is drained.
    pub fn keep_copy(&self, of: CopyOf, bytes: u64) -> Result<KeptCopy<W>, FlowError> {
        if self.shared().is_draining() {
            return Err(FlowError::NotHere("this worker is being drained"));
        }
        // One that is kept may be named already: a second one that breaks off must not take
        // it along.
        let here = || FlowError::SlowDown("it is kept here already".into());
        if self.has_copy(of.blob, bytes) {
            return Err(here());
        }
        // What is pending is its owner's to queue: only the bytes take room here.
        let space = self.disk().reserve(bytes, chunks_of(bytes) + 1)?;
        if !self.shared().kept.take(of.blob) {
            return Err(here());
        }
        Ok(KeptCopy {
            engine: self.clone(),
            pinned: Pinned::of(self, of.blob),
            of,
            bytes,
            left: bytes,
            bare: false,
            finished: false,
            _space: space,
        })
    }

    /// Reads a part of a chunk that is kept here, verified. `None`: it is not here.
    ///
    /// # Errors
    /// The device failed.
    pub async fn read_copy(
        &self,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Result<Option<BufferOf<W>>, FlowError> {
        Ok(self.disk().read(chunk, range).await?)
    }

    /// Whether all chunks of a body are on our disk, and stay there.
    #[must_use]
    pub fn has_copy(&self, blob: BlobId, bytes: u64) -> bool {
        (0..chunks_of(bytes)).all(|index| self.disk().keeps(ChunkId { blob, index }))
    }

    /// The same for the owner of the key, who counts on what is here from then on.
    #[must_use]
    pub fn confirm_copy(&self, blob: BlobId, bytes: u64) -> bool {
        // First this: what lets go of it later finds it asked for.
        self.shared().kept.count_on(blob);
        // What is on its way here is not flushed.
        !self.shared().kept.is_coming(blob) && self.has_copy(blob, bytes)
    }

    /// An owner says that no commit of these copies is under way.
    pub fn look_at_copies(&self, blobs: &[BlobId]) {
        let now = self.environment().monotonic();
        self.shared().kept.told(blobs, now);
    }

    /// Looks whether what is kept for others is still needed, until `stop` says so. One
    /// shard does it for all.
    pub async fn run_copy_keeper(&self, stop: impl Fn() -> bool) {
        while !stop() {
            let now = self.environment().monotonic();
            let due = self.shared().kept.due(now, LOOKS_MAX);
            let more = due.len() == LOOKS_MAX;
            stream::iter(due)
                .for_each_concurrent(LOOKS_AT_ONCE, |copy| self.look_at_copy(copy))
                .await;
            if !more {
                self.environment().sleep(LOOK_PAUSE).await;
            }
        }
    }

    /// Whether a copy is our own by now: it came, or was on its way, when the key was
    /// another's, and nobody but us lets go of it.
    fn is_ours(&self, copy: &CopyOf) -> bool {
        let slot = slot_of(copy.bucket, &copy.key);
        let holders = &self.shared().holders;
        !self.shared().rights.is_foreign(slot) && holders.sessions(copy.blob).is_some()
    }

    async fn look_at_copy(&self, (copy, number): (CopyOf, u64)) {
        // Who cannot be asked is asked again later.
        let said = self.metadata().copy_state(&copy).await.ok();
        if self.is_ours(&copy) {
            return self.shared().kept.own(copy.blob);
        }
        let now = self.environment().monotonic();
        let forget = |bytes, has_ended| {
            let (blob, chunks) = (copy.blob, chunks_of(bytes));
            // Otherwise its commit may never have been made, or is pending with others.
            if has_ended {
                self.disk().release(blob, chunks);
            }
            self.disk().forget(blob, chunks);
        };
        let kept = &self.shared().kept;
        kept.judge((copy.blob, number), said, now, forget);
    }
}

impl<W: World> KeptCopy<W> {
    /// The same of bytes beside which no commit is kept: rows alone say whose they are.
    #[must_use]
    pub fn without_entry(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Length of the next chunk; 0: all have come.
    #[must_use]
    pub fn next_bytes(&self) -> usize {
        self.left.min(u64::from(CHUNK_BYTES)) as usize
    }

    /// Writes the next chunk.
    ///
    /// # Errors
    /// It is not of the length it should be, or the store does not take it.
    pub async fn write(&mut self, chunk: BufferOf<W>) -> Result<(), FlowError> {
        let bytes = chunk.as_slice().len();
        if bytes != self.next_bytes() {
            return Err(FlowError::Invalid("a chunk of another length".into()));
        }
        // Nothing follows the last one that would cover it.
        let durability = match self.bare && self.left == bytes as u64 {
            true => Durability::Flushed,
            false => Durability::Pinned,
        };
        self.pinned.write(chunk, durability).await?;
        self.left -= bytes as u64;
        Ok(())
    }

    /// Writes the commit beside the bytes, unless none is kept there, and keeps the copy:
    /// all is flushed then.
    ///
    /// # Errors
    /// Bytes are missing, or the store does not take it.
    pub async fn finish(mut self, entry: BufferOf<W>) -> Result<(), FlowError> {
        if self.left > 0 || entry.as_slice().is_empty() != self.bare {
            return Err(FlowError::Invalid("a copy that is not whole".into()));
        }
        if !self.bare {
            self.write_entry(entry).await?;
        }
        let now = self.engine.environment().monotonic();
        let kept = &self.engine.shared().kept;
        kept.keep(self.of.clone(), self.bytes, false, now);
        self.finished = true;
        Ok(())
    }

    async fn write_entry(&self, entry: BufferOf<W>) -> Result<(), FlowError> {
        let place = ChunkId {
            blob: self.of.blob,
            index: JOURNAL_CHUNK,
        };
        let disk = self.engine.disk();
        let (_, written) = disk.write(place, entry, Durability::Flushed).await;
        Ok(written?)
    }
}

impl<W: World> Drop for KeptCopy<W> {
    fn drop(&mut self) {
        // What came of it of a key that is ours by now is a beginning.
        if !self.finished && !self.engine.is_ours(&self.of) {
            self.pinned.discard();
        }
        self.engine.shared().kept.taken(self.of.blob);
    }
}
