//! Mounts: existing UFS locations under a bucket name. Nothing in the UFS is
//! looked at or touched here.

use quickwater_proto::{Bucket, BucketName, MetadataError};

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
    /// Name taken, locations overlap, no such bucket, ...
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl<S: Store> Namespace<S> {
    /// Whether a mount would be accepted now, without making it.
    ///
    /// # Errors
    /// As [`Namespace::add_mount`].
    pub async fn check_mount(&self, bucket: &Bucket) -> Result<(), MountError> {
        Location::parse(&bucket.ufs, &bucket.options)?;
        Ok(check_new(bucket, &self.buckets().await?)?)
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
        Ok(self.delete_bucket(bucket.id, false).await?)
    }
}
