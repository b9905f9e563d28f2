//! What the admin service shows but does not own; the binary supplies it.

use std::sync::Arc;
use std::time::Duration;

use quickwater_proto::{Bucket, MetadataError, ObjectKey, ObjectRecord, PolicyTable, UfsError};
use quickwater_rpc::admin::{Node, Setting};

use crate::Namespace;
use crate::namespace::{Listing, ListingMarker};
use crate::store::Store;

/// Everything the service is given.
#[derive(Clone)]
pub struct AdminViews {
    /// What runs here.
    pub node: Arc<dyn NodeView>,
    /// Looks at locations before they are mounted.
    pub mounts: Arc<dyn MountCheck>,
    /// Shows objects: a [`Namespace`], or something that asks the UFS as well.
    pub files: Arc<dyn FileView>,
}

/// This service, its settings and its workers.
pub trait NodeView: Send + Sync + 'static {
    /// Version of the program.
    fn version(&self) -> String;
    /// Time since it started.
    fn uptime(&self) -> Duration;
    /// Its workers.
    fn nodes(&self) -> Vec<Node>;
    /// Totals by metric name.
    fn counters(&self) -> Vec<(String, f64)>;
    /// All settings: in force, or the built-in `defaults`. Never a secret.
    fn settings(&self, defaults: bool) -> Vec<Setting>;
    /// For mounts that do not say, milliseconds; `u64::MAX` = for ever.
    fn default_metadata_ttl_ms(&self) -> u64;
    /// A mount was added or removed: what is cached of buckets must go.
    fn mounts_changed(&self);
    /// Path policies were set: from now on every worker decides by them.
    fn policies_changed(&self, version: u64, table: &PolicyTable);
}

/// Looks at a UFS location.
#[tonic::async_trait]
pub trait MountCheck: Send + Sync + 'static {
    /// Whether the location and options of `bucket` can be mounted; a note for
    /// people (may be empty), or why not.
    async fn check(&self, bucket: &Bucket) -> Result<String, UfsError>;
}

/// Shows objects to admins.
#[tonic::async_trait]
pub trait FileView: Send + Sync + 'static {
    /// As [`Namespace::list`].
    async fn list(
        &self,
        bucket: &Bucket,
        prefix: &str,
        delimiter: &str,
        after: Option<&ListingMarker>,
        limit: usize,
    ) -> Result<Listing, MetadataError>;

    /// The current version of an object.
    async fn stat(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError>;
}

/// Shows what the metadata knows; the UFS is not asked.
#[tonic::async_trait]
impl<S: Store> FileView for Namespace<S> {
    async fn list(
        &self,
        bucket: &Bucket,
        prefix: &str,
        delimiter: &str,
        after: Option<&ListingMarker>,
        limit: usize,
    ) -> Result<Listing, MetadataError> {
        Namespace::list(self, bucket.id, prefix, delimiter, after, limit).await
    }

    async fn stat(
        &self,
        bucket: &Bucket,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        self.object(bucket.id, key).await
    }
}
