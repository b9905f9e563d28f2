//! The directories of `file://` mounts: their identities kept in the metadata, those
//! that are not the right ones looked at again. Absent: what makes one the right one
//! (the UFS client's).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_engine::io::Environment as _;
use quickwater_engine::{QueueScope, Shared};
use quickwater_proto::{Bucket, BucketId, UfsErrorKind};
use quickwater_ufs::{Identities, UfsClient};
use quickwater_worker::environment::ShardEnvironment;
use tokio::runtime::Handle;

use super::names::Rows;

/// How often directories that are not the right ones are looked at again.
const LOOK_PAUSE: Duration = Duration::from_secs(3);

/// Identities as the metadata keeps them.
pub(super) struct KeptIdentities<R> {
    rows: R,
    runtime: Handle,
}

impl<R: Rows> KeptIdentities<R> {
    pub(super) fn new(rows: R, runtime: Handle) -> Self {
        Self { rows, runtime }
    }
}

impl<R> std::fmt::Debug for KeptIdentities<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeptIdentities")
    }
}

impl<R: Rows> Identities for KeptIdentities<R> {
    fn identity(&self, bucket: BucketId) -> Result<Option<String>, String> {
        let kept = self.runtime.block_on(self.rows.directory(bucket));
        kept.map_err(|error| error.to_string())
    }

    fn keep(&self, bucket: BucketId, identity: Option<&str>) -> Result<(), String> {
        let keeping = self.rows.set_directory(bucket, identity);
        let kept = self.runtime.block_on(keeping);
        kept.map_err(|error| error.to_string())
    }
}

/// Looks at every directory once, then for ever at those that are not the right
/// ones; what waits for one that is right again is sent at once.
pub(super) async fn watch(rows: impl Rows, ufs: UfsClient, shared: Arc<Shared>, start: Instant) {
    let clock = ShardEnvironment::new(start);
    let mut before: HashSet<BucketId> = HashSet::new();
    for bucket in directories(&rows).await {
        if let Err(error) = ufs.look(&bucket).await
            && ufs.trouble(&bucket).is_none()
        {
            tracing::warn!(bucket = %bucket.name, %error, "the directory of a mount cannot be used");
        }
    }
    loop {
        let wrong: HashSet<BucketId> = ufs.misplaced().into_iter().collect();
        for healed in before.difference(&wrong) {
            let scope = QueueScope::bucket(*healed);
            shared.retry_all(&scope, clock.monotonic());
        }
        before = wrong;
        tokio::time::sleep(LOOK_PAUSE).await;
        if before.is_empty() {
            continue;
        }
        for bucket in directories(&rows).await {
            if before.contains(&bucket.id) {
                look_again(&ufs, &bucket).await;
            }
        }
    }
}

async fn look_again(ufs: &UfsClient, bucket: &Bucket) {
    match ufs.look(bucket).await {
        Ok(()) => {}
        // Said when it began, and shown by `status`.
        Err(error) if error.kind == UfsErrorKind::Unavailable => {}
        Err(error) => {
            tracing::warn!(bucket = %bucket.name, %error, "the directory of a mount cannot be looked at");
        }
    }
}

async fn directories(rows: &impl Rows) -> Vec<Bucket> {
    match rows.buckets().await {
        Ok(mut buckets) => {
            buckets.retain(|bucket| bucket.ufs.starts_with("file:"));
            buckets
        }
        Err(error) => {
            tracing::warn!(%error, "directories of mounts are not looked at: the metadata cannot be read");
            Vec::new()
        }
    }
}
