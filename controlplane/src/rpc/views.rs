//! What the admin service shows but does not own; the binary supplies it.

use std::sync::Arc;
use std::time::Duration;

use quickwater_proto::{
    Bucket, BucketId, MetadataError, NodeId, ObjectKey, ObjectRecord, PendingRecord, PolicyTable,
    UfsError,
};
use quickwater_rpc::admin::{Condition, Node, PersistTotals, Setting};

use crate::Namespace;
use crate::cluster::{Cluster, ClusterError, History, LeavingPage, RefusedWorker};
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
    /// What the UFSs do not have yet.
    pub persist: Arc<dyn PersistView>,
    /// The cluster, if this is one.
    pub cluster: Option<Arc<dyn ClusterView>>,
}

/// This service, its settings and its workers.
pub trait NodeView: Send + Sync + 'static {
    /// Version of the program.
    fn version(&self) -> String;
    /// Time since it started.
    fn uptime(&self) -> Duration;
    /// Its workers.
    fn nodes(&self) -> Vec<Node>;
    /// Most copies of an object they make: policies that ask for more are refused.
    fn copies_max(&self) -> u8 {
        1
    }
    /// What workers that run elsewhere moved; `None`: there is only this process.
    fn history(&self) -> Option<History> {
        None
    }
    /// Totals by metric name.
    fn counters(&self) -> Vec<(String, f64)>;
    /// Optional parts of this process and whether they are in use.
    fn conditions(&self) -> Vec<Condition> {
        Vec::new()
    }
    /// All settings: in force, or the built-in `defaults`. Never a secret.
    fn settings(&self, defaults: bool) -> Vec<Setting>;
    /// For mounts that do not say, milliseconds; `u64::MAX` = for ever.
    fn default_metadata_ttl_ms(&self) -> u64;
    /// A mount was added or removed: what is cached of buckets must go.
    fn mounts_changed(&self);
    /// Path policies were set: from now on every worker decides by them.
    fn policies_changed(&self, version: u64, table: &PolicyTable);
}

/// A cluster whose workers come and go: a [`Cluster`].
#[tonic::async_trait]
pub trait ClusterView: Send + Sync + 'static {
    /// As [`Cluster::drain`].
    async fn drain(&self, node: &NodeId, draining: bool) -> Result<bool, ClusterError>;
    /// As [`Cluster::remove`].
    async fn remove(&self, node: &NodeId) -> Result<(), ClusterError>;
    /// As [`Cluster::refused_workers`].
    fn refused_workers(&self) -> Vec<RefusedWorker>;
    /// As [`Cluster::accept_older`].
    async fn accept_older(&self, dry_run: bool) -> Result<Vec<RefusedWorker>, ClusterError>;
    /// As [`Cluster::goes_with`].
    async fn goes_with(
        &self,
        node: &NodeId,
        after: Option<(BucketId, &ObjectKey)>,
    ) -> Result<LeavingPage, ClusterError>;
}

#[tonic::async_trait]
impl<S: Store> ClusterView for Cluster<S> {
    async fn drain(&self, node: &NodeId, draining: bool) -> Result<bool, ClusterError> {
        self.drain(node, draining).await
    }

    async fn remove(&self, node: &NodeId) -> Result<(), ClusterError> {
        self.remove(node).await
    }

    fn refused_workers(&self) -> Vec<RefusedWorker> {
        self.refused_workers()
    }

    async fn accept_older(&self, dry_run: bool) -> Result<Vec<RefusedWorker>, ClusterError> {
        self.accept_older(dry_run).await
    }

    async fn goes_with(
        &self,
        node: &NodeId,
        after: Option<(BucketId, &ObjectKey)>,
    ) -> Result<LeavingPage, ClusterError> {
        self.goes_with(node, after).await
    }
}

/// Looks at UFS locations.
#[tonic::async_trait]
pub trait MountCheck: Send + Sync + 'static {
    /// Whether the location and options of `bucket` can be mounted; a note for
    /// people (may be empty), or why not.
    async fn check(&self, bucket: &Bucket) -> Result<String, UfsError>;
    /// Takes the directory that is at a location now for the right one.
    async fn accept(&self, bucket: &Bucket) -> Result<(), UfsError>;
    /// What is wrong with each of these mounts, which are all there are: the directory at
    /// its location is not the one that was written to, or it does not answer. Takes some
    /// seconds at most.
    async fn troubles(&self, buckets: &[Bucket]) -> Vec<Option<String>>;
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

/// A change the UFS does not have yet.
#[derive(Debug, Clone)]
pub struct PersistChange {
    /// Bucket.
    pub bucket: BucketId,
    /// Key.
    pub key: ObjectKey,
    /// What is pending, and since when.
    pub pending: PendingRecord,
    /// It is being sent.
    pub running: bool,
    /// Attempts that failed.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Time until the next attempt.
    pub due_in: Duration,
    /// Whose queue it is in; none: there is only one.
    pub worker: Option<NodeId>,
}

/// Changes in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersistFilter {
    /// Not sent yet.
    Waiting,
    /// Being sent.
    Running,
    /// Failed, tried again.
    Failing,
}

/// Where to go on in a list of pending changes.
pub type PersistPlace = (BucketId, ObjectKey);

/// Changes the UFSs do not have yet. Every call holds the queue for a bounded time.
pub trait PersistView: Send + Sync + 'static {
    /// At most `limit` changes whose keys begin with a prefix of a bucket (of all buckets
    /// without one), in the queue of one worker if one is named, and where more may
    /// follow.
    fn page(
        &self,
        scope: Option<(BucketId, &str)>,
        after: Option<&PersistPlace>,
        filter: Option<PersistFilter>,
        worker: Option<&str>,
        limit: usize,
    ) -> (Vec<PersistChange>, Option<PersistPlace>);

    /// The change of one key.
    fn stat(&self, bucket: BucketId, key: &ObjectKey) -> Option<PersistChange>;

    /// Makes changes of a path (the key itself and what is below it), or all, due now; how
    /// many, and names of workers that did not answer.
    fn retry(&self, scope: Option<(BucketId, &str)>) -> (u64, Vec<String>);

    /// Sums over a path, or all, of what was pending at `until_ms` and is still. Changes are
    /// dated by the clocks of those who took them in.
    fn sum(&self, scope: Option<(BucketId, &str)>, until_ms: i64) -> PersistTotals;

    /// Sums over all.
    fn totals(&self) -> PersistTotals;

    /// Wall time here, milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
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
