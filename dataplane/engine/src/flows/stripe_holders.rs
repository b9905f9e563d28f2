//! What this worker and others have of large objects that are spread by stripe: said, given
//! to who asks, forgotten. Absent: who is asked for a chunk that is read (`stripes`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quickwater_proto::{Bucket, CHUNK_BYTES, Extent, NodeId, ObjectKey, ObjectRecord};

use crate::decisions::read_plan::ReadPlan;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::{BufferOf, CacheResult, ObjectReader};
use crate::io::{ChunkId, ChunkRun, Disk, Environment, Peers, StripePeers};

/// Runs of chunks asked about in one message.
const RUNS_MAX: usize = 4_096;

impl<W: World> Engine<W> {
    /// How much of a range the store of this worker has (no IO is done).
    #[must_use]
    pub fn stored(&self, record: &ObjectRecord, range: Range<u64>) -> CacheResult {
        let mut plan = ReadPlan::new(range);
        let mut sum = Sum::default();
        while let Some(piece) = plan.next(&record.extents) {
            sum.add(self.disk().contains(piece.chunk));
            if sum.is_decided() {
                break;
            }
        }
        sum.result()
    }

    /// Gives the bytes of a range up to the end of its first chunk to another worker, out of
    /// the store or through it, and says whether they were there. The rest of the range is
    /// what that worker will ask for next. `source`: whose store may have them.
    ///
    /// # Errors
    /// They cannot be had through the store.
    pub async fn give(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        record: &Arc<ObjectRecord>,
        range: Range<u64>,
        source: Option<NodeId>,
    ) -> Result<(BufferOf<W>, bool), FlowError>
    where
        W::Disk: Clone,
    {
        let mut reader = self.read(bucket, key, record, range).uncounted();
        if reader.bypasses() {
            return Err(FlowError::NotHere("nothing of it is to be cached here"));
        }
        reader.spread = false;
        reader.source = source;
        let piece = reader.next_unread();
        let piece = piece.ok_or_else(|| FlowError::Invalid("no part of the object".into()))?;
        let stats = &self.shared().stats;
        if let Ok(Some(found)) = self.disk().read(piece.chunk, piece.range.clone()).await {
            stats.stripe_hits.fetch_add(1, Ordering::Relaxed);
            return Ok((found, true));
        }
        stats.stripe_misses.fetch_add(1, Ordering::Relaxed);
        reader.pull(&piece).await;
        let fetched = reader.fetch_through_store(&piece).await?;
        let refused = || FlowError::Unavailable("the store does not take it".into());
        fetched.map(|found| (found, false)).ok_or_else(refused)
    }

    /// Forgets what other workers have of an object that the UFS has: those that can be
    /// asked now. How many bytes that freed.
    pub(crate) async fn free_elsewhere(&self, record: &ObjectRecord) -> Result<u64, FlowError> {
        let runs: Vec<_> = record.extents.iter().flat_map(runs_of).collect();
        let mut freed = 0;
        for other in self.peers().others().iter().filter(|other| other.live) {
            for some in runs.chunks(RUNS_MAX) {
                let parts: Vec<_> = some.iter().map(|(run, _)| *run).collect();
                let counts = self.peers().forget_chunks(&other.node, &parts).await?;
                let counted = some.iter().zip(&counts);
                freed += counted.map(|((_, each), n)| each * n).sum::<u64>();
            }
        }
        Ok(freed)
    }

    /// Tells the others of stripes that nobody will read any more. Who cannot be told keeps
    /// them until it needs their room.
    pub(crate) async fn tell_of_stripes(&self) {
        let ended = self.shared().stripes.take_ended();
        if ended.is_empty() {
            return;
        }
        let runs: Vec<_> = ended.iter().flat_map(runs_of).collect();
        let runs: Vec<_> = runs.into_iter().map(|(run, _)| run).collect();
        for other in self.peers().others().iter().filter(|other| other.live) {
            for some in runs.chunks(RUNS_MAX) {
                let told = self.peers().forget_chunks(&other.node, some).await;
                if told.is_err() {
                    break;
                }
            }
        }
    }

    /// Forgets clean copies of these chunks because their version is not needed here any
    /// more, as its owner says; how many of each run there were. What is kept for another
    /// owner stays.
    pub fn forget_chunks(&self, runs: &[ChunkRun]) -> Vec<u64> {
        let forgotten = runs.iter().map(|run| {
            let count = self.count_chunks(&[*run]);
            if count > 0 && !self.shared().kept.has(run.blob) {
                self.disk().forget(run.blob, run.end);
                return count;
            }
            0
        });
        forgotten.collect()
    }

    /// How many of these chunks the store has (no IO is done).
    #[must_use]
    pub fn count_chunks(&self, runs: &[ChunkRun]) -> u64 {
        chunks(runs).filter(|c| self.disk().contains(*c)).count() as u64
    }
}

/// The chunks of an extent as runs of chunks that are equally long, and how long they are.
fn runs_of(extent: &Extent) -> Vec<(ChunkRun, u64)> {
    let (blob, chunk) = (extent.blob, u64::from(CHUNK_BYTES));
    let full = u32::try_from(extent.size / chunk).unwrap_or(u32::MAX);
    let last = extent.size % chunk;
    let run = |first, end| ChunkRun { blob, first, end };
    let mut runs = Vec::new();
    if full > 0 {
        runs.push((run(0, full), chunk));
    }
    // Last: with it all before it are forgotten.
    if last > 0 {
        runs.push((run(full, full + 1), last));
    }
    runs
}

fn chunks(runs: &[ChunkRun]) -> impl Iterator<Item = ChunkId> {
    runs.iter().flat_map(|run| {
        let blob = run.blob;
        (run.first..run.end).map(move |index| ChunkId { blob, index })
    })
}

/// Whether some chunks are in a store, and some are not.
#[derive(Default)]
struct Sum {
    here: bool,
    missing: bool,
}

impl Sum {
    fn add(&mut self, here: bool) {
        match here {
            true => self.here = true,
            false => self.missing = true,
        }
    }

    fn is_decided(&self) -> bool {
        self.here && self.missing
    }

    fn result(&self) -> CacheResult {
        match (self.here, self.missing) {
            (true, true) => CacheResult::Partial,
            (false, true) => CacheResult::Miss,
            (_, false) => CacheResult::Hit,
        }
    }
}

/// Chunks by the worker that is to have them.
#[derive(Default)]
struct Asked(Vec<(NodeId, Vec<ChunkRun>)>);

impl Asked {
    fn add(&mut self, node: NodeId, chunk: ChunkId) {
        let at = self.0.iter().position(|(known, _)| *known == node);
        let at = at.unwrap_or_else(|| {
            self.0.push((node, Vec::new()));
            self.0.len() - 1
        });
        let runs = &mut self.0[at].1;
        match runs.last_mut() {
            Some(run) if run.blob == chunk.blob && run.end == chunk.index => run.end += 1,
            _ => runs.push(ChunkRun {
                blob: chunk.blob,
                first: chunk.index,
                end: chunk.index + 1,
            }),
        }
    }
}

impl<W: World> ObjectReader<W>
where
    W::Disk: Clone,
{
    /// How much of the range the stores hold now that are to have it (an estimate: no IO is
    /// done).
    pub async fn forecast(&mut self) -> CacheResult {
        if self.bypasses() {
            return CacheResult::Miss;
        }
        let record = Arc::clone(self.parts().3);
        let mut plan = ReadPlan::new(self.range().clone());
        let (mut sum, mut asked) = (Sum::default(), Asked::default());
        while let Some(piece) = plan.next(&record.extents) {
            let here = self.parts().0.disk().contains(piece.chunk);
            match self.holder(&piece).filter(|_| !here) {
                Some(node) => asked.add(node, piece.chunk),
                None => sum.add(here),
            }
            if sum.is_decided() {
                break;
            }
        }
        for (node, runs) in asked.0 {
            for some in runs.chunks(RUNS_MAX) {
                if sum.is_decided() {
                    break;
                }
                let all: u64 = some.iter().map(|run| u64::from(run.end - run.first)).sum();
                let engine = self.parts().0;
                let said = engine.peers().count_chunks(&node, some).await;
                if let Err(FlowError::Unavailable(_)) = said {
                    let now = engine.environment().monotonic();
                    engine.shared().stripes.avoid(&node, now);
                }
                // Who does not say gives nothing either.
                let there = said.unwrap_or_default();
                if there > 0 {
                    sum.add(true);
                }
                if there < all {
                    sum.add(false);
                }
            }
        }
        sum.result()
    }
}

#[cfg(test)]
mod tests {
    use quickwater_proto::BlobId;

    use super::*;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    fn extent(blob: u128, size: u64) -> Extent {
        let blob = BlobId(blob);
        Extent { blob, size }
    }

    fn run(blob: u128, first: u32, end: u32) -> ChunkRun {
        let blob = BlobId(blob);
        ChunkRun { blob, first, end }
    }

    #[test]
    fn runs_have_chunks_of_one_length() {
        let of = |size| runs_of(&extent(1, size));
        assert_eq!(of(7), [(run(1, 0, 1), 7)]);
        assert_eq!(of(2 * CHUNK), [(run(1, 0, 2), CHUNK)]);
        assert_eq!(
            of(2 * CHUNK + 3),
            [(run(1, 0, 2), CHUNK), (run(1, 2, 3), 3)]
        );
        assert_eq!(chunks(&[run(1, 0, 2), run(2, 5, 6)]).count(), 3);
    }

    #[test]
    fn neighbours_are_asked_about_together() {
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let chunk = |blob, index| ChunkId {
            blob: BlobId(blob),
            index,
        };
        let mut asked = Asked::default();
        asked.add(a.clone(), chunk(1, 0));
        asked.add(a.clone(), chunk(1, 1));
        asked.add(b.clone(), chunk(1, 2));
        asked.add(a.clone(), chunk(1, 3));
        asked.add(a.clone(), chunk(2, 4));
        let of_a = vec![run(1, 0, 2), run(1, 3, 4), run(2, 4, 5)];
        assert_eq!(asked.0, [(a, of_a), (b, vec![run(1, 2, 3)])]);
    }
}
