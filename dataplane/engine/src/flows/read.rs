//! GET: the bytes of one version, chunk by chunk, from the store or through it.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use quickwater_proto::{BlobId, Bucket, NodeId, ObjectKey, ObjectRecord, PersistState, slot_of};

use crate::decisions::read_plan::{Piece, ReadPlan};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::stripes::There;
use crate::io::{Buffer, Disk, DiskError, Environment, Metadata, Peers, Ufs, UfsReader};

/// Where the bytes of an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheResult {
    /// All from the store.
    Hit,
    /// None of them was in the store.
    Miss,
    /// Some were.
    Partial,
}

/// What a read gives.
pub(crate) enum Found<B> {
    /// From the store.
    Here(Result<Option<B>, DiskError>),
    /// From the worker that is to have it.
    There(There<B>),
}

/// A read that was begun, or what came of it when it needed no wait.
enum Reading<B> {
    Begun(Pin<Box<dyn Future<Output = Found<B>>>>),
    Ended(Found<B>),
}

/// The buffers of a shard's store.
pub(crate) type BufferOf<W> = <<W as World>::Disk as Disk>::Buffer;

/// Gives the bytes of a range of one version, in order.
pub struct ObjectReader<W: World> {
    engine: Engine<W>,
    bucket: Arc<Bucket>,
    key: ObjectKey,
    record: Arc<ObjectRecord>,
    range: Range<u64>,
    plan: ReadPlan,
    depth: usize,
    /// In order. Only the first is driven on: it is verified right before it is sent.
    reading: VecDeque<(Piece, Reading<BufferOf<W>>)>,
    /// End of the last chunk a fetch was begun for, in the object.
    pub(crate) fetched_to: u64,
    /// Everything comes from the UFS, past the store (NO_CACHE).
    bypass: bool,
    /// Other workers have stripes of it.
    pub(crate) spread: bool,
    /// Who is to have the stripe that was asked about last.
    pub(crate) stripe: Option<(u64, Option<NodeId>)>,
    /// Another worker whose store may have what is missing.
    pub(crate) source: Option<NodeId>,
    /// What other workers have is fetched there, and not given.
    pub(crate) unseen: bool,
    /// Bytes that were fetched there.
    pub(crate) unseen_bytes: u64,
    /// Bytes count as sent to a client.
    counted: bool,
    /// What was found nowhere.
    missing: Option<BlobId>,
    /// Straight from the UFS when the store takes nothing.
    direct: Option<(u64, <W::Ufs as Ufs>::Reader)>,
}

impl<W: World> Engine<W> {
    /// Opens `range` of the version `record` describes.
    #[must_use]
    pub fn read(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        record: &Arc<ObjectRecord>,
        range: Range<u64>,
    ) -> ObjectReader<W> {
        // What the UFS does not hold yet can only come from the store.
        let settled = record.persist == PersistState::Persisted && record.ufs.is_some();
        let bypass = settled && self.bypasses(bucket, key);
        ObjectReader {
            bypass,
            spread: !bypass && self.is_spread(record),
            stripe: None,
            source: None,
            unseen: false,
            unseen_bytes: 0,
            engine: self.clone(),
            bucket: Arc::clone(bucket),
            key: key.clone(),
            record: Arc::clone(record),
            plan: ReadPlan::new(range.clone()),
            depth: self.config().read_depth,
            range,
            reading: VecDeque::new(),
            fetched_to: 0,
            counted: true,
            missing: None,
            direct: None,
        }
    }
}

impl<W: World> ObjectReader<W>
where
    W::Disk: Clone,
{
    /// Keeps `chunks` store reads under way instead of the configured number.
    #[must_use]
    pub fn with_depth(mut self, chunks: usize) -> Self {
        self.depth = chunks;
        self
    }

    /// Reads for nobody: what it gives is not counted as sent to a client.
    #[must_use]
    pub(crate) fn uncounted(mut self) -> Self {
        self.counted = false;
        self
    }

    /// The next bytes of the range, `None` after the last.
    ///
    /// # Errors
    /// The range cannot be completed; no byte of another version was given.
    pub async fn next(&mut self) -> Result<Option<BufferOf<W>>, FlowError> {
        let next = match self.next_piece().await {
            Err(FlowError::Lost) => Err(self.lost_or_changed().await),
            next => next,
        };
        if let Err(FlowError::Changed) = &next {
            // Whoever asks next has to look at the UFS first.
            let (bucket, version) = (self.bucket.id, self.record.version);
            self.engine.distrust_version(bucket, &self.key, version);
            self.tell_owner();
        }
        next
    }

    /// The version was told by the owner of the key: it has to look, too.
    fn tell_owner(&self) {
        let rights = &self.engine.shared().rights;
        if rights.owns(slot_of(self.bucket.id, &self.key)) {
            return;
        }
        let (engine, bucket, key) = self.place();
        self.engine.environment().spawn(async move {
            // Else it looks when the time for that has come.
            let _ = engine.peers().look_again(&bucket, vec![key]).await;
        });
    }

    /// The store does not have bytes of a version that the UFS did not have when
    /// this read began. They are lost only if that is still the current version and
    /// the UFS still does not have it; else they were freed, and were free to go.
    async fn lost_or_changed(&self) -> FlowError {
        let metadata = self.engine.metadata();
        match metadata.object(self.bucket.id, &self.key).await {
            Ok(Some(now))
                if now.version == self.record.version && now.persist != PersistState::Persisted =>
            {
                if self.engine.shared().rights.is_alone() {
                    return FlowError::Lost;
                }
                let holders = &self.engine.shared().holders;
                let without = self.missing.map(|blob| holders.without(blob));
                let without = without.unwrap_or_default();
                match metadata.lost(self.bucket.id, &self.key, &without).await {
                    Ok(true) => FlowError::Lost,
                    Ok(false) => FlowError::NotHere("another worker has the bytes, and no UFS"),
                    Err(error) => error.into(),
                }
            }
            Ok(_) => FlowError::Changed,
            Err(error) => error.into(),
        }
    }

    async fn next_piece(&mut self) -> Result<Option<BufferOf<W>>, FlowError> {
        if self.direct.is_some() {
            return self.next_direct().await;
        }
        if self.bypass {
            return match self.range.is_empty() {
                true => Ok(None),
                false => self.open_direct(self.range.start).await,
            };
        }
        self.read_ahead();
        let Some((_, first)) = self.reading.front_mut() else {
            return Ok(None);
        };
        // In its place until it ends: this future may be dropped meanwhile.
        if let Reading::Begun(read) = first {
            let found = read.as_mut().await;
            *first = Reading::Ended(found);
        }
        let Some((piece, Reading::Ended(found))) = self.reading.pop_front() else {
            return Ok(None);
        };
        self.read_ahead();
        match found {
            Found::There(there) => self.given(piece, there).await.map(Some),
            Found::Here(Ok(Some(buffer))) => {
                let stats = &self.engine.shared().stats;
                if self.spread && self.engine.shared().hot.read(piece.chunk) {
                    stats.hot_hits.fetch_add(1, Ordering::Relaxed);
                }
                self.count(&stats.store_bytes, buffer.as_slice().len());
                Ok(Some(buffer))
            }
            Found::Here(Ok(None)) => self.fetch(piece).await.map(Some),
            Found::Here(Err(DiskError::Overloaded)) => {
                Err(FlowError::SlowDown("no buffer came free in time".into()))
            }
            Found::Here(Err(_)) => match self.fetch_from_copy(&piece).await {
                Some(buffer) => Ok(Some(buffer)),
                None => self.go_direct(&piece).await,
            },
        }
    }

    /// Keeps the configured number of reads under way.
    fn read_ahead(&mut self) {
        while self.reading.len() < self.depth.max(1) {
            let Some(piece) = self.plan.next(&self.record.extents) else {
                break;
            };
            let disk = self.engine.disk().clone();
            let (chunk, range) = (piece.chunk, piece.range.clone());
            let elsewhere = match self.spread && !disk.contains(chunk) {
                true => self.holder(&piece),
                false => None,
            };
            let mut read: Pin<Box<dyn Future<Output = _>>> = match elsewhere {
                Some(node) => Box::pin(self.ask(node, &piece).map(Found::There)),
                None => Box::pin(async move { Found::Here(disk.read(chunk, range).await) }),
            };
            // Polling once begins it.
            let reading = match (&mut read).now_or_never() {
                Some(found) => Reading::Ended(found),
                None => Reading::Begun(read),
            };
            self.reading.push_back((piece, reading));
        }
    }

    pub(crate) async fn fetch(&mut self, piece: Piece) -> Result<BufferOf<W>, FlowError> {
        if let Some(buffer) = self.fetch_from_copy(&piece).await {
            return Ok(buffer);
        }
        self.pull(&piece).await;
        self.missing = Some(piece.chunk.blob);
        match self.fetch_through_store(&piece).await? {
            Some(buffer) => Ok(buffer),
            None => match self.go_direct(&piece).await? {
                Some(buffer) => Ok(buffer),
                None => Err(FlowError::Damaged("the object ended early".into())),
            },
        }
    }

    /// A piece that no UFS has, from another worker's copy.
    async fn fetch_from_copy(&self, piece: &Piece) -> Option<BufferOf<W>> {
        let (chunk, range) = (piece.chunk, piece.range.clone());
        let found = self.engine.fetch_copy(&self.record, chunk, range).await?;
        let stats = &self.engine.shared().stats;
        self.count(&stats.store_bytes, found.as_slice().len());
        Some(found)
    }

    /// What a task needs that outlives this reader.
    pub(crate) fn place(&self) -> (Engine<W>, Arc<Bucket>, ObjectKey) {
        (
            self.engine.clone(),
            Arc::clone(&self.bucket),
            self.key.clone(),
        )
    }

    pub(crate) fn range(&self) -> &Range<u64> {
        &self.range
    }

    pub(crate) fn bypasses(&self) -> bool {
        self.bypass
    }

    /// The next piece of the range, by nobody read yet.
    pub(crate) fn next_unread(&mut self) -> Option<Piece> {
        self.plan.next(&self.record.extents)
    }

    pub(crate) fn parts(&self) -> (&Engine<W>, &Arc<Bucket>, &ObjectKey, &Arc<ObjectRecord>) {
        (&self.engine, &self.bucket, &self.key, &self.record)
    }

    /// Counts bytes that are sent to a client.
    pub(crate) fn count(&self, counter: &AtomicU64, bytes: usize) {
        if self.counted {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn range_end(&self) -> u64 {
        self.range.end
    }

    /// From `piece` on the rest comes from the UFS, past the store.
    async fn go_direct(&mut self, piece: &Piece) -> Result<Option<BufferOf<W>>, FlowError> {
        self.reading.clear();
        self.engine
            .shared()
            .stats
            .uncached
            .fetch_add(1, Ordering::Relaxed);
        self.open_direct(piece.chunk_start + u64::from(piece.range.start))
            .await
    }

    /// Reads the UFS from `at` to the end of the range.
    async fn open_direct(&mut self, at: u64) -> Result<Option<BufferOf<W>>, FlowError> {
        let Some(identity) = &self.record.ufs else {
            return Err(FlowError::Unavailable(
                "no copy of these bytes can be read now".into(),
            ));
        };
        let ufs = self.engine.ufs();
        let reader = ufs
            .read(&self.bucket, &self.key, identity, at..self.range.end)
            .await
            .map_err(FlowError::reading)?;
        self.direct = Some((at, reader));
        self.next_direct().await
    }

    async fn next_direct(&mut self) -> Result<Option<BufferOf<W>>, FlowError> {
        let Some((at, reader)) = self.direct.as_mut() else {
            return Ok(None);
        };
        let Some(bytes) = reader.next().await.map_err(FlowError::reading)? else {
            return match *at == self.range.end {
                true => Ok(None),
                false => Err(FlowError::Damaged("the UFS ended the object early".into())),
            };
        };
        *at += bytes.len() as u64;
        let mut buffer = self.engine.disk().buffer(bytes.len()).await?;
        buffer.set_len(bytes.len());
        buffer.as_mut_slice().copy_from_slice(&bytes);
        self.count(&self.engine.shared().stats.ufs_bytes, bytes.len());
        Ok(Some(buffer))
    }
}
