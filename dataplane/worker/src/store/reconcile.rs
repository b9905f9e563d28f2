//! After a restart: what is on disk, held against what the metadata knows.
//!
//! On disk nothing is ever unpinned, so after a start everything that was once
//! pinned and not recycled yet is pinned again and counts against the limit.
//! Absent: who knows which blobs are needed.

use quickwater_engine::io::{ChunkId, NOTE_CHUNK};
use quickwater_proto::{BlobId, CHUNK_BYTES};

use super::core::Core;
use super::marks::What;

/// What becomes of the pinned records of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Only this store may have it: stays pinned.
    Keep,
    /// The UFS has it: stays as a clean copy, without its entry in the journal.
    Release,
    /// Nothing names it: a write that was never acked, or an object long gone.
    Forget,
}

/// What [`Store::reconcile`](super::Store::reconcile) did, in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Still pinned.
    pub kept: u64,
    /// Now clean copies.
    pub released: u64,
    /// Not known any more.
    pub forgotten: u64,
}

/// Judges every pinned record; one part of the index after the other, so that
/// memory is a small share of the index.
pub(super) fn reconcile(core: &Core, mut fate: impl FnMut(BlobId) -> Fate) -> Reconciled {
    let mut done = Reconciled::default();
    for part in 0..core.index.parts() {
        let mut pinned = core.index.sweep_part(part, |_, at| at.pinned());
        pinned.sort_unstable_by_key(|(chunk, _)| (chunk.blob.0, chunk.index));
        for of_blob in pinned.chunk_by(|(a, _), (b, _)| a.blob == b.blob) {
            let Some((first, _)) = of_blob.first() else {
                continue;
            };
            let fate = fate(first.blob);
            for (chunk, at) in of_blob {
                if fate == Fate::Keep && chunk.index >= NOTE_CHUNK {
                    core.note_lap(at.segment, What::Live(at.offset));
                }
                *apply(core, *chunk, fate, &mut done) += 1;
            }
        }
    }
    done
}

fn apply<'a>(core: &Core, chunk: ChunkId, fate: Fate, done: &'a mut Reconciled) -> &'a mut u64 {
    match fate {
        Fate::Keep => &mut done.kept,
        Fate::Release if chunk.index < NOTE_CHUNK => {
            core.release(chunk);
            &mut done.released
        }
        Fate::Release => {
            core.end(chunk);
            &mut done.forgotten
        }
        // Never committed, or not any more: nobody knows which. All that has not ended is
        // known from here on, so it need not say that what is older has.
        Fate::Forget => {
            core.forget(chunk);
            &mut done.forgotten
        }
    }
}

/// Whether all chunks of a blob of `bytes` bytes are here, with their lengths.
pub(super) fn holds(core: &Core, blob: BlobId, bytes: u64) -> bool {
    let chunk_bytes = u64::from(CHUNK_BYTES);
    let Ok(chunks) = u32::try_from(bytes.div_ceil(chunk_bytes)) else {
        return false;
    };
    (0..chunks).all(|index| {
        let len = (bytes - u64::from(index) * chunk_bytes).min(chunk_bytes);
        let found = core.index.get(ChunkId { blob, index });
        found.is_some_and(|at| u64::from(at.data_len()) == len)
    })
}
