//! LOAD: the bytes of an object are read through the store like a GET's, for
//! nobody. Absent: which objects, and when.

use std::sync::Arc;

use quickwater_proto::{
    Bucket, CHUNK_BYTES, JobOutcome, LeftAlone, ObjectKey, ObjectRecord, PersistState,
};

use crate::decisions::read_plan::chunks_of;
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::flows::read::CacheResult;
use crate::io::{Buffer, Disk};

/// Looks at an object that changes in the UFS while it is loaded.
const LOOKS_MAX: usize = 2;

impl<W: World> Engine<W>
where
    W::Disk: Clone,
{
    /// Brings an object into the store. `verify`: what is here is compared with the
    /// UFS and the record, and fetched again where it does not hold.
    ///
    /// # Errors
    /// The bytes cannot be had, or the store did not keep them all.
    pub(crate) async fn load(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        verify: bool,
        skip_cached: bool,
        stop: &impl Fn() -> bool,
    ) -> Result<JobOutcome, FlowError> {
        if self.bypasses(bucket, key) {
            return Ok(JobOutcome::Left(LeftAlone::NoCache));
        }
        let mut looks = 0;
        loop {
            looks += 1;
            let record = match self.resolve(bucket, key, verify).await {
                Ok(record) => record,
                Err(FlowError::NoSuchKey) => return Ok(JobOutcome::Left(LeftAlone::Gone)),
                Err(error) => return Err(error),
            };
            if record.persist != PersistState::Persisted {
                return Ok(JobOutcome::Left(LeftAlone::OnlyHere));
            }
            if skip_cached && self.is_cached(bucket, key, &record).await {
                return Ok(JobOutcome::Left(LeftAlone::Cached));
            }
            match self.read_through(bucket, key, &record, verify, stop).await {
                Err(FlowError::Changed) if looks < LOOKS_MAX => {}
                loaded => return loaded,
            }
        }
    }

    async fn read_through(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        record: &Arc<ObjectRecord>,
        verify: bool,
        stop: &impl Fn() -> bool,
    ) -> Result<JobOutcome, FlowError> {
        let reader = self.read(bucket, key, record, 0..record.size);
        let mut reader = reader.with_depth(1).uncounted().unseen();
        let mut bytes = 0;
        while let Some(buffer) = reader.next().await? {
            if stop() {
                return Ok(JobOutcome::Stopped);
            }
            bytes += buffer.as_slice().len() as u64;
            if verify && !self.holds(record, buffer.as_slice()) {
                drop(buffer);
                return self.fetch_again(bucket, key, record).await;
            }
        }
        bytes += reader.unseen_bytes;
        match bytes == record.size && self.is_cached(bucket, key, record).await {
            true => Ok(JobOutcome::Done { bytes }),
            false => Err(not_kept()),
        }
    }

    /// Whether the bytes of an object of one chunk are what its record promises.
    /// Larger ones have only the checksums of the store, which every read verifies.
    fn holds(&self, record: &ObjectRecord, content: &[u8]) -> bool {
        record.size > u64::from(CHUNK_BYTES) || (self.config().content_matches)(record, content)
    }

    /// Throws away what the store has of an object and fetches it from the UFS,
    /// where it is held against the record before it is kept.
    async fn fetch_again(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        record: &Arc<ObjectRecord>,
    ) -> Result<JobOutcome, FlowError> {
        for extent in &record.extents {
            self.disk().forget(extent.blob, chunks_of(extent.size));
        }
        let reader = self.read(bucket, key, record, 0..record.size);
        let mut reader = reader.with_depth(1).uncounted();
        while reader.next().await?.is_some() {}
        match self.is_cached(bucket, key, record).await {
            true => Ok(JobOutcome::Done { bytes: record.size }),
            false => Err(not_kept()),
        }
    }

    /// Whether every chunk is in the store that is to have it (no IO is done).
    async fn is_cached(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
        record: &Arc<ObjectRecord>,
    ) -> bool {
        let mut reader = self.read(bucket, key, record, 0..record.size);
        reader.forecast().await == CacheResult::Hit
    }
}

fn not_kept() -> FlowError {
    FlowError::TooLarge("the cache did not keep all of the object".into())
}
