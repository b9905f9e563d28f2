//! A miss: fetch a run of chunks from the UFS into the store, once for all who
//! want them, while the readers are served chunk by chunk.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use quickwater_proto::{Bucket, ObjectKey, ObjectRecord, UfsIdentity};

use crate::decisions::flights::Flight;
use crate::decisions::read_plan::{Piece, ReadPlan};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::{BufferOf, ObjectReader};
use crate::io::{Buffer, Disk, Durability, Environment, Ufs, UfsReader};

/// Fetches of one chunk waited for or begun before the reader gives up on the
/// store and reads past it.
const ATTEMPTS_MAX: usize = 3;

/// Why a run ended early, for those who wait for it.
#[derive(Clone, Default)]
struct Outcome(Arc<Mutex<Option<Failure>>>);

#[derive(Clone)]
enum Failure {
    /// The UFS did not give the bytes.
    Fetch(FlowError),
    /// The store did not take them.
    Store,
}

impl Outcome {
    fn set(&self, failure: Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    fn get(&self) -> Option<Failure> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A run of chunks to fetch: all lie next to each other in the object.
struct Run<W: World> {
    engine: Engine<W>,
    bucket: Arc<Bucket>,
    key: ObjectKey,
    record: Arc<ObjectRecord>,
    identity: UfsIdentity,
    chunks: Vec<(Piece, Flight)>,
    outcome: Outcome,
}

impl<W: World> ObjectReader<W>
where
    W::Disk: Clone,
{
    /// Gets a piece that was not in the store by fetching its chunk, or waiting
    /// for the one who does. `None`: the store does not take it.
    pub(crate) async fn fetch_through_store(
        &mut self,
        piece: &Piece,
    ) -> Result<Option<BufferOf<W>>, FlowError> {
        let mut outcome = Outcome::default();
        for _ in 0..ATTEMPTS_MAX {
            let flights = Arc::clone(&self.parts().0.shared().flights);
            match flights.begin(piece.chunk) {
                Ok(flight) => {
                    // It may have landed between our read and now.
                    if let Some(buffer) = self.reread(piece).await? {
                        return Ok(Some(buffer));
                    }
                    outcome = Outcome::default();
                    self.launch(piece, flight, &outcome)?;
                }
                Err(_) => self.look_ahead(piece),
            }
            if let Err(landed) = flights.begin(piece.chunk) {
                let waited = self.parts().0.within(landed).await;
                waited
                    .ok_or_else(|| FlowError::Unavailable("the UFS is taking too long".into()))?;
            }
            match outcome.get() {
                Some(Failure::Fetch(error)) => return Err(error),
                Some(Failure::Store) => return Ok(None),
                None => {}
            }
            if let Some(buffer) = self.reread(piece).await? {
                let stats = &self.parts().0.shared().stats;
                self.count(&stats.ufs_bytes, buffer.as_slice().len());
                return Ok(Some(buffer));
            }
        }
        Ok(None)
    }

    async fn reread(&self, piece: &Piece) -> Result<Option<BufferOf<W>>, FlowError> {
        let disk = self.parts().0.disk();
        match disk.read(piece.chunk, piece.range.clone()).await {
            Ok(found) => Ok(found),
            Err(crate::io::DiskError::Overloaded) => {
                Err(FlowError::SlowDown("no buffer came free in time".into()))
            }
            Err(_) => Ok(None),
        }
    }

    /// Begins the next run before the reader has used up this one.
    fn look_ahead(&mut self, piece: &Piece) {
        let half_run = u64::from(self.parts().0.config().fill_run_chunks)
            * u64::from(quickwater_proto::CHUNK_BYTES)
            / 2;
        let next = self.fetched_to;
        if next <= piece.chunk_start
            || next >= self.range_end()
            || next > piece.chunk_start + half_run
        {
            return;
        }
        let Some(first) = ReadPlan::new(next..self.range_end()).next(&self.parts().3.extents)
        else {
            return;
        };
        if self.holder(&first).is_some() {
            return;
        }
        let (engine, ..) = self.parts();
        let flights = Arc::clone(&engine.shared().flights);
        if let Ok(flight) = flights.begin(first.chunk)
            // Asked under the claim: it may have landed a moment ago.
            && !engine.disk().contains(first.chunk)
        {
            // Its failure is seen by whoever comes to the chunk and fetches again.
            let _ = self.launch(&first, flight, &Outcome::default());
        }
    }

    /// Starts fetching a run that begins with `piece`.
    fn launch(
        &mut self,
        piece: &Piece,
        flight: Flight,
        outcome: &Outcome,
    ) -> Result<(), FlowError> {
        let (engine, bucket, key, record) = self.parts();
        let Some(identity) = record.ufs.clone() else {
            return Err(FlowError::Lost);
        };
        let mut plan = ReadPlan::new(piece.chunk_start..self.run_end(piece));
        let mut chunks = Vec::new();
        let mut flight = Some(flight);
        while chunks.len() < engine.config().fill_run_chunks.max(1) as usize {
            let Some(next) = plan.next(&record.extents) else {
                break;
            };
            let claim = match flight.take() {
                Some(first) => first,
                None => match engine.shared().flights.begin(next.chunk) {
                    // Asked under the claim: before it another shard's fetch might land
                    // in between, and the chunk be fetched twice.
                    Ok(claim) if !engine.disk().contains(next.chunk) => claim,
                    Ok(_) | Err(_) => break,
                },
            };
            chunks.push((next, claim));
        }
        let run = Run {
            engine: engine.clone(),
            bucket: Arc::clone(bucket),
            key: key.clone(),
            record: Arc::clone(record),
            identity,
            chunks,
            outcome: outcome.clone(),
        };
        let end = run
            .chunks
            .last()
            .map_or(0, |(p, _)| p.chunk_start + u64::from(p.chunk_len));
        let environment_of = engine.clone();
        self.fetched_to = end;
        environment_of.environment().spawn(run.fly());
        Ok(())
    }
}

impl<W: World> Run<W> {
    async fn fly(mut self) {
        let stats_of = self.engine.clone();
        if let Err(failure) = self.fetch().await {
            stats_of
                .shared()
                .stats
                .fill_failures
                .fetch_add(1, Ordering::Relaxed);
            self.outcome.set(failure);
        }
        // The claims still held are dropped here, after the outcome is set.
    }

    async fn fetch(&mut self) -> Result<(), Failure> {
        let chunks = std::mem::take(&mut self.chunks);
        let Some(start) = chunks.first().map(|(p, _)| p.chunk_start) else {
            return Ok(());
        };
        let end = chunks
            .last()
            .map_or(start, |(p, _)| p.chunk_start + u64::from(p.chunk_len));
        let ufs = self.engine.ufs();
        let opened = ufs
            .read(&self.bucket, &self.key, &self.identity, start..end)
            .await;
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(error) => return self.give_up(chunks, Failure::Fetch(FlowError::reading(error))),
        };
        let mut rest = Bytes::new();
        let mut chunks = chunks.into_iter();
        while let Some((piece, claim)) = chunks.next() {
            if let Err(failure) = self.land(&piece, &claim, &mut reader, &mut rest).await {
                let mut left = vec![(piece, claim)];
                left.extend(chunks);
                return self.give_up(left, failure);
            }
            self.engine
                .shared()
                .stats
                .fills
                .fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Keeps the claims until the outcome is set, so that no waiter wakes to an
    /// outcome that says nothing.
    fn give_up(&mut self, chunks: Vec<(Piece, Flight)>, failure: Failure) -> Result<(), Failure> {
        self.chunks = chunks;
        Err(failure)
    }

    /// Brings one chunk from the UFS into the store.
    async fn land(
        &self,
        piece: &Piece,
        claim: &Flight,
        reader: &mut <W::Ufs as Ufs>::Reader,
        rest: &mut Bytes,
    ) -> Result<(), Failure> {
        let disk = self.engine.disk();
        let want = piece.chunk_len as usize;
        let buffer = disk.buffer(want).await;
        let mut buffer = buffer.map_err(|error| Failure::Fetch(error.into()))?;
        buffer.set_len(want);
        let mut filled = 0;
        while filled < want {
            if rest.is_empty() {
                let next = reader
                    .next()
                    .await
                    .map_err(|e| Failure::Fetch(FlowError::reading(e)))?;
                *rest = next.ok_or_else(|| {
                    Failure::Fetch(FlowError::Damaged("the UFS ended the object early".into()))
                })?;
            }
            let take = rest.len().min(want - filled);
            buffer.as_mut_slice()[filled..filled + take].copy_from_slice(&rest[..take]);
            rest.advance(take);
            filled += take;
        }
        let whole = piece.chunk_start == 0 && u64::from(piece.chunk_len) == self.record.size;
        if whole && !(self.engine.config().content_matches)(&self.record, buffer.as_slice()) {
            let text = "the UFS gave other bytes than the checksum promises";
            return Err(Failure::Fetch(FlowError::Damaged(text.into())));
        }
        let (_, stored) = disk.write(claim.chunk(), buffer, Durability::Cached).await;
        stored.map_err(|_| Failure::Store)
    }
}
