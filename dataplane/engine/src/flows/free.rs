//! FREE: cached bytes of an object are dropped, if the UFS has them too.

use std::sync::Arc;

use quickwater_proto::{Bucket, JobOutcome, LeftAlone, ObjectKey, ObjectRecord, PersistState};

use crate::decisions::read_plan::{ReadPlan, chunks_of};
use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Disk, Metadata};

impl<W: World> Engine<W> {
    /// Drops what the store has of an object, and those of others. Under the key's slot: no write of the
    /// key and no step of its way to the UFS goes on meanwhile.
    ///
    /// # Errors
    /// The metadata is unavailable, or a worker that has some of it.
    pub(crate) async fn free(
        &self,
        bucket: &Arc<Bucket>,
        key: &ObjectKey,
    ) -> Result<JobOutcome, FlowError> {
        let _guard = self.lock_key(bucket.id, key).await?;
        let Some(record) = self.metadata().object(bucket.id, key).await? else {
            return Ok(JobOutcome::Left(LeftAlone::Gone));
        };
        let in_ufs = record.persist == PersistState::Persisted && record.ufs.is_some();
        if !in_ufs || self.shared().persist.pending(bucket.id, key).is_some() {
            return Ok(JobOutcome::Left(LeftAlone::OnlyHere));
        }
        self.flush_ended(bucket, key).await?;
        let mut bytes = self.cached_bytes(&record);
        for extent in &record.extents {
            self.disk().forget(extent.blob, chunks_of(extent.size));
        }
        if self.is_spread(&record) {
            bytes += self.free_elsewhere(&record).await?;
        }
        Ok(match bytes {
            0 => JobOutcome::Left(LeftAlone::NotCached),
            bytes => JobOutcome::Done { bytes },
        })
    }

    /// Bytes of the chunks the store has (no IO is done).
    fn cached_bytes(&self, record: &ObjectRecord) -> u64 {
        let mut plan = ReadPlan::new(0..record.size);
        let mut bytes = 0;
        while let Some(piece) = plan.next(&record.extents) {
            if self.disk().contains(piece.chunk) {
                bytes += u64::from(piece.chunk_len);
            }
        }
        bytes
    }
}
