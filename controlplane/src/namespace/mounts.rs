//! Mounts: existing UFS locations under a bucket name. Nothing in the UFS is
//! looked at or touched here.

use quickwater_proto::{Bucket, BucketId, BucketName, MetadataError};

use super::buckets::check_new;
use super::{Location, LocationError, Namespace};
use crate::store::Store;

/// Why a mount was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The UFS URI is no good.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// CreateBucket made it together with its location.
    #[error(
        "bucket '{0}' was made by CreateBucket together with its UFS location: remove it with \
         DeleteBucket"
    )]
    Owned(BucketName),
    /// The UFS does not have everything yet.
    #[error(
        "bucket '{0}' has data that is not in its UFS yet and would be lost: wait for it \
         (`async-persist wait --path /{0}`), and delete what is TRANSIENT"
    )]
    Pending(BucketName),
    /// Name taken, locations overlap, no such bucket, ...
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// A mount as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMount {
    /// Name clients will use.
    pub name: BucketName,
    /// UFS location: `file:///path` or `s3://bucket/prefix`.
    pub uri: String,
    /// UFS options by name.
    pub options: Vec<(String, String)>,
    /// How long metadata read from the UFS is trusted, milliseconds;
    /// `u64::MAX` = for ever.
    pub metadata_ttl_ms: u64,
}

impl<S: Store> Namespace<S> {
    /// The bucket that [`Namespace::add_mount`] would make now, without making
    /// it: for looking at its location first. Its id is 0.
    ///
    /// # Errors
    /// As [`Namespace::add_mount`].
    pub async fn check_mount(&self, new: NewMount) -> Result<Bucket, MountError> {
        Location::parse(&new.uri, &new.options)?;
        let bucket = Bucket {
            id: BucketId(0),
            name: new.name,
            ufs: new.uri,
            created_ms: self.clock.wall_ms(),
            metadata_ttl_ms: new.metadata_ttl_ms,
            options: new.options,
            tags: Vec::new(),
            owned: false,
        };
        check_new(&bucket, &self.buckets().await?)?;
        Ok(bucket)
    }

    /// Mounts `bucket.ufs` under `bucket.name`. The location is never owned: it
    /// stays when the mount goes.
    ///
    /// # Errors
    /// [`MountError::Location`], or as [`Namespace::create_bucket`].
    pub async fn add_mount(&self, bucket: &Bucket) -> Result<Bucket, MountError> {
        Location::parse(&bucket.ufs, &bucket.options)?;
        let mounted = Bucket {
            owned: false,
            ..bucket.clone()
        };
        Ok(self.create_bucket(&mounted).await?)
    }

    /// Removes a mount and forgets what is known of it; the UFS keeps all.
    ///
    /// # Errors
    /// [`MountError::Owned`], or [`MetadataError::NoSuchBucket`].
    pub async fn remove_mount(&self, name: &BucketName) -> Result<(), MountError> {
        let bucket = self
            .bucket(name)
            .await?
            .ok_or(MetadataError::NoSuchBucket)?;
        if bucket.owned {
            return Err(MountError::Owned(bucket.name));
        }
        match self.forget_bucket(bucket.id).await {
            Err(MetadataError::BucketNotEmpty) => Err(MountError::Pending(bucket.name)),
            done => Ok(done?),
        }
    }
}
