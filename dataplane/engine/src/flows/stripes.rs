//! Large objects that the UFS has, spread over a cluster by stripe: which worker is asked
//! for a chunk, and what is done if it does not give it. Absent: giving what others ask for
//! (`stripe_holders`), messages, and who owns which slot.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_channel::oneshot;
use quickwater_proto::{
    Bucket, Extent, NodeId, ObjectKey, ObjectRecord, PersistState, stripe_slot,
};

use crate::decisions::read_plan::Piece;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::{BufferOf, ObjectReader};
use crate::io::{
    Buffer, ChunkId, Disk, Durability, Environment, Given, Peers, StripeError, StripePeers,
    StripeRead,
};

/// What came of asking a worker, and which.
pub(crate) struct There<B> {
    node: NodeId,
    given: Result<Given<B>, Unasked>,
}

/// Why there are no bytes.
enum Unasked {
    /// No buffer came free here.
    Overloaded,
    /// It did not give them.
    Stripe(StripeError),
}

impl<W: World> Engine<W> {
    /// Whether other workers are to have stripes of a version.
    #[must_use]
    pub fn is_spread(&self, record: &ObjectRecord) -> bool {
        let shared = self.shared();
        shared.stripes.cuts(record.size)
            && !shared.rights.is_alone()
            && record.persist == PersistState::Persisted
            && record.ufs.is_some()
    }

    /// The same of a range, which may lie in stripes that this worker is to have; not of what
    /// no store is to have.
    #[must_use]
    pub fn is_elsewhere(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
        record: &ObjectRecord,
        range: &Range<u64>,
    ) -> bool {
        let mut touched = self.shared().stripes.touched(range);
        self.is_spread(record)
            && !self.bypasses(bucket, key)
            && touched.any(|stripe| {
                let slot = stripe_slot(bucket.id, key, stripe);
                self.peers().owner_elsewhere(slot).is_some()
            })
    }

    /// Keeps a copy of a chunk that another worker gave, if it is asked for often. `None`: the
    /// store did not give the bytes back.
    async fn keep_hot(&self, chunk: ChunkId, bytes: Option<BufferOf<W>>) -> Option<BufferOf<W>> {
        let (data, hot) = (bytes?, &self.shared().hot);
        let length = data.as_slice().len() as u64;
        if !hot.asked(chunk, length) {
            return Some(data);
        }
        let disk = self.disk();
        let (data, stored) = disk.write(chunk, data, Durability::Cached).await;
        if stored.is_ok() {
            disk.make_spare(chunk);
            let stats = &self.shared().stats;
            stats.hot_copies.fetch_add(1, Ordering::Relaxed);
            for gone in hot.keep(chunk, length) {
                disk.drop_spare(gone);
            }
        }
        (data.as_slice().len() as u64 == length).then_some(data)
    }
}

impl<W: World> ObjectReader<W>
where
    W::Disk: Clone,
{
    /// What is missing may be in the store of `source`.
    #[must_use]
    pub fn from_source(mut self, source: Option<NodeId>) -> Self {
        self.source = source;
        self
    }

    /// Other workers fetch what they are to have, and do not give it.
    #[must_use]
    pub(crate) fn unseen(mut self) -> Self {
        self.unseen = true;
        self
    }

    /// The other worker that is to have a chunk and answers.
    pub(crate) fn holder(&mut self, piece: &Piece) -> Option<NodeId> {
        if !self.spread {
            return None;
        }
        let (engine, bucket, key, _) = self.parts();
        let stripes = &engine.shared().stripes;
        let number = stripes.of(piece);
        let node = match &self.stripe {
            Some((known, node)) if *known == number => node.clone(),
            _ => {
                let slot = stripe_slot(bucket.id, key, number);
                engine.peers().owner_elsewhere(slot)
            }
        };
        let now = engine.environment().monotonic();
        let answers = node.clone().filter(|node| stripes.answers(node, now));
        self.stripe = Some((number, node));
        answers
    }

    /// Up to where chunks after this one may be fetched with it: others' are theirs to fetch.
    pub(crate) fn run_end(&self, piece: &Piece) -> u64 {
        let end = self.range_end();
        if !self.spread {
            return end;
        }
        let stripes = &self.parts().0.shared().stripes;
        end.min(stripes.end(stripes.of(piece)))
    }

    /// Begins to ask a worker for a piece. It goes on by itself, so that several come at the
    /// same time.
    pub(crate) fn ask(
        &self,
        node: NodeId,
        piece: &Piece,
    ) -> impl Future<Output = There<BufferOf<W>>> + 'static {
        let (told, answer) = oneshot::channel();
        let (engine, bucket, key) = self.place();
        let record = Arc::clone(self.parts().3);
        let first = piece.chunk_start + u64::from(piece.range.start);
        let want = (piece.range.end - piece.range.start) as usize;
        let until = self.run_end(piece).max(first + want as u64);
        let (source, unseen) = (self.source.clone(), self.unseen);
        let asked = node.clone();
        let whole = want == piece.chunk_len as usize && !unseen;
        let chunk = piece.chunk;
        let spawner = engine.clone();
        spawner.environment().spawn(async move {
            let asking = Asking {
                engine: &engine,
                bucket: &bucket,
                key: &key,
                record: &record,
                source: source.filter(|source| *source != asked),
            };
            let mut given = asking.ask(&asked, first..until, want, unseen).await;
            if whole && let Ok(Given { bytes, stored }) = given {
                given = match engine.keep_hot(chunk, bytes).await {
                    Some(bytes) => Ok(Given {
                        bytes: Some(bytes),
                        stored,
                    }),
                    None => Err(Unasked::Overloaded),
                };
            }
            // Nobody waits any more if the reader is gone.
            let _ = told.send(given);
        });
        async move {
            let gone = |_| Err(Unasked::Overloaded);
            There {
                node,
                given: answer.await.unwrap_or_else(gone),
            }
        }
    }

    /// What another worker gave; or, if it did not, what is read here.
    pub(crate) async fn given(
        &mut self,
        piece: Piece,
        there: There<BufferOf<W>>,
    ) -> Result<BufferOf<W>, FlowError> {
        let engine = self.parts().0.clone();
        let stats = &engine.shared().stats;
        let why = match there.given {
            Ok(Given { bytes, .. }) => {
                stats.stripe_reads.fetch_add(1, Ordering::Relaxed);
                let Some(bytes) = bytes else {
                    self.unseen_bytes += u64::from(piece.range.end - piece.range.start);
                    let mut nothing = engine.disk().buffer(1).await?;
                    nothing.set_len(0);
                    return Ok(nothing);
                };
                self.count(&stats.peer_bytes, bytes.as_slice().len());
                return Ok(bytes);
            }
            Err(Unasked::Overloaded) => {
                return Err(FlowError::SlowDown("no buffer came free in time".into()));
            }
            Err(Unasked::Stripe(StripeError::Changed)) => return Err(FlowError::Changed),
            Err(Unasked::Stripe(why)) => why,
        };
        if matches!(why, StripeError::Unreached(_)) {
            let now = engine.environment().monotonic();
            engine.shared().stripes.avoid(&there.node, now);
        }
        stats.stripe_failures.fetch_add(1, Ordering::Relaxed);
        self.fetch(piece).await
    }

    /// Takes a missing chunk over from the store that may have it, if it has.
    pub(crate) async fn pull(&self, piece: &Piece) {
        let Some(source) = &self.source else { return };
        let (engine, ..) = self.parts();
        let (shared, now) = (engine.shared(), engine.environment().monotonic());
        if !shared.stripes.answers(source, now) {
            return;
        }
        let Ok(flight) = shared.flights.begin(piece.chunk) else {
            // Who fetches it has pulled it, or found that it cannot be.
            return;
        };
        if engine.disk().contains(flight.chunk()) {
            return;
        }
        let want = piece.chunk_len;
        let Ok(mut buffer) = engine.disk().buffer(want as usize).await else {
            return;
        };
        buffer.set_len(want as usize);
        let (peers, into) = (engine.peers(), buffer.as_mut_slice());
        match peers.fetch(source, flight.chunk(), 0..want, into).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return shared.stripes.avoid(source, now),
        }
        let disk = engine.disk();
        let (_, stored) = disk.write(flight.chunk(), buffer, Durability::Cached).await;
        if stored.is_ok() {
            shared.stats.stripe_pulls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A version that is read.
struct Asking<'a, W: World> {
    engine: &'a Engine<W>,
    bucket: &'a Bucket,
    key: &'a ObjectKey,
    record: &'a ObjectRecord,
    source: Option<NodeId>,
}

impl<W: World> Asking<'_, W> {
    /// Asks for `want` bytes from the beginning of `range`.
    async fn ask(
        &self,
        node: &NodeId,
        range: Range<u64>,
        want: usize,
        unseen: bool,
    ) -> Result<Given<BufferOf<W>>, Unasked> {
        let refused = |why: &str| Unasked::Stripe(StripeError::Refused(why.into()));
        let extent = extent_at(&self.record.extents, range.start);
        let (extent, start) = extent.ok_or_else(|| refused("no extent has it"))?;
        let into = match unseen {
            true => None,
            false => {
                let buffer = self.engine.disk().buffer(want).await;
                Some(buffer.map_err(|_| Unasked::Overloaded)?)
            }
        };
        let read = StripeRead {
            bucket: self.bucket,
            key: self.key,
            record: self.record,
            extent: (extent, start),
            first: range.start,
            until: range.end.min(start + extent.size),
            source: self.source.as_ref(),
        };
        let peers = self.engine.peers();
        let given = peers.read_stripe(node, &read, into).await;
        let given = given.map_err(Unasked::Stripe)?;
        match &given.bytes {
            Some(bytes) if bytes.as_slice().len() != want => {
                Err(refused("bytes of another length"))
            }
            _ => Ok(given),
        }
    }
}

/// The extent that has a byte of the object, and where it begins.
fn extent_at(extents: &[Extent], at: u64) -> Option<(&Extent, u64)> {
    let mut start = 0;
    for extent in extents {
        if at < start + extent.size {
            return Some((extent, start));
        }
        start += extent.size;
    }
    None
}

#[cfg(test)]
mod tests {
    use quickwater_proto::BlobId;

    use super::*;

    fn extent(blob: u128, size: u64) -> Extent {
        let blob = BlobId(blob);
        Extent { blob, size }
    }

    #[test]
    fn extents_are_found_by_place() {
        let extents = [extent(1, 10), extent(2, 5)];
        let at = |byte| extent_at(&extents, byte).map(|(extent, start)| (extent.blob.0, start));
        assert_eq!(
            [at(0), at(9), at(10), at(15)],
            [Some((1, 0)), Some((1, 0)), Some((2, 10)), None]
        );
    }
}
