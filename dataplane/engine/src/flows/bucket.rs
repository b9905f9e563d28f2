//! Buckets: made under the default UFS, removed when empty.

use std::sync::Arc;

use quickwater_proto::{Bucket, PersistState, UfsErrorKind};

use crate::engine::{Engine, World};
use crate::error::FlowError;
use crate::io::{Metadata, Peers, Ufs, UfsListing};

/// Known objects that are looked at before the UFS is asked what a bucket holds.
const KNOWN_LOOKS_MAX: usize = 8;

impl<W: World> Engine<W> {
    /// All buckets in order of name.
    ///
    /// # Errors
    /// The metadata is unavailable.
    pub async fn buckets(&self) -> Result<Vec<Bucket>, FlowError> {
        Ok(self.metadata().buckets().await?)
    }

    /// Makes a bucket and its UFS location.
    ///
    /// # Errors
    /// [`FlowError::BucketExists`], or the UFS refuses.
    pub async fn create_bucket(&self, bucket: &Bucket) -> Result<Bucket, FlowError> {
        if self.metadata().bucket(&bucket.name).await?.is_some() {
            return Err(FlowError::BucketExists);
        }
        self.ufs().create_location(bucket).await?;
        let made = self.metadata().create_bucket(bucket).await?;
        self.shared().forget_buckets();
        Ok(made)
    }

    /// Removes an empty bucket; its UFS location goes with it when we made it.
    ///
    /// # Errors
    /// [`FlowError::BucketNotEmpty`], or it cannot be told.
    pub async fn delete_bucket(&self, bucket: &Arc<Bucket>) -> Result<(), FlowError> {
        self.permit_lease()?;
        if self.holds_known(bucket).await? {
            return Err(FlowError::BucketNotEmpty);
        }
        self.settle_bucket(bucket).await?;
        self.peers().settle_bucket(bucket).await?;
        let mut listing = self.ufs().list(bucket, "", "", true).await?;
        if listing.next().await?.is_some() {
            return Err(FlowError::BucketNotEmpty);
        }
        // Rows of objects that vanished from the UFS must not hold the bucket.
        self.compare_whole(bucket).await?;
        self.metadata().delete_bucket(bucket.id, true).await?;
        self.shared().forget_buckets();
        self.shared().freshness.forget(bucket.id);
        if bucket.owned {
            match self.ufs().remove_location(bucket).await {
                Ok(()) => {}
                Err(error) if error.kind == UfsErrorKind::NotFound => {}
                // Somebody put a file there just now: it is found again when a
                // bucket of that name is made.
                Err(error) if error.kind == UfsErrorKind::Invalid => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether an object of a bucket is known: no change under way, and no UFS that is
    /// away, is waited for to refuse a removal. `false`: not among the first.
    async fn holds_known(&self, bucket: &Arc<Bucket>) -> Result<bool, FlowError> {
        let page = self.metadata().scan(bucket.id, "", "", KNOWN_LOOKS_MAX);
        for (key, record) in page.await?.entries {
            if record.persist != PersistState::Persisted {
                return Ok(true);
            }
            match self.resolve(bucket, &key, false).await {
                Ok(_) => return Ok(true),
                // Removed behind our back.
                Err(FlowError::NoSuchKey) => {}
                // The UFS has to be asked, and says more.
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }
}
