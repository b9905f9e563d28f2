//! The queue of changes the UFSs do not have yet, as the admin service asks for
//! it. Absent: names of buckets, which the admin service knows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_controlplane::rpc::{PersistChange, PersistFilter, PersistPlace, PersistView};
use quickwater_engine::io::Environment as _;
use quickwater_engine::{QueueScope, QueuedChange, QueuedState, Shared};
use quickwater_proto::{BucketId, ObjectKey};
use quickwater_rpc::admin::PersistTotals;
use quickwater_worker::environment::ShardEnvironment;

/// The queue of this process.
pub(super) struct Pending {
    shared: Arc<Shared>,
    clock: ShardEnvironment,
}

impl Pending {
    /// `start`: that of the shards' clocks.
    pub(super) fn new(shared: Arc<Shared>, start: Instant) -> Self {
        Self {
            shared,
            clock: ShardEnvironment::new(start),
        }
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }
}

fn path(scope: Option<(BucketId, &str)>) -> QueueScope {
    scope.map_or_else(QueueScope::everything, |(bucket, path)| {
        QueueScope::path(bucket, path)
    })
}

impl PersistView for Pending {
    fn page(
        &self,
        scope: Option<(BucketId, &str)>,
        after: Option<&PersistPlace>,
        filter: Option<PersistFilter>,
        _worker: Option<&str>,
        limit: usize,
    ) -> (Vec<PersistChange>, Option<PersistPlace>) {
        let scope = scope.map_or_else(QueueScope::everything, |(bucket, prefix)| {
            QueueScope::prefix(bucket, prefix)
        });
        let state = filter.map(|filter| match filter {
            PersistFilter::Waiting => QueuedState::Waiting,
            PersistFilter::Running => QueuedState::Running,
            PersistFilter::Failing => QueuedState::Failing,
        });
        let queue = &self.shared.persist;
        let page = queue.page(&scope, after, state, limit, self.now());
        (page.changes.into_iter().map(shown).collect(), page.next)
    }

    fn stat(&self, bucket: BucketId, key: &ObjectKey) -> Option<PersistChange> {
        let change = self.shared.persist.stat(bucket, key, self.now());
        change.map(shown)
    }

    fn retry(&self, scope: Option<(BucketId, &str)>) -> (u64, Vec<String>) {
        let scope = path(scope);
        (self.shared.retry_all(&scope, self.now()), Vec::new())
    }

    fn sum(&self, scope: Option<(BucketId, &str)>, until_ms: i64) -> PersistTotals {
        let scope = path(scope);
        let sum = self.shared.persist.sum(&scope, until_ms);
        PersistTotals {
            puts: sum.puts,
            deletes: sum.deletes,
            bytes: sum.bytes,
            running: sum.running,
            failing: sum.failing,
            lost: sum.lost,
            newest_ms: sum.newest_ms.unwrap_or(0),
            ..PersistTotals::default()
        }
    }

    fn totals(&self) -> PersistTotals {
        let totals = self.shared.persist.totals();
        PersistTotals {
            puts: totals.puts,
            deletes: totals.deletes,
            bytes: totals.bytes,
            running: totals.running,
            failing: totals.failing,
            oldest_ms: totals.oldest_ms.unwrap_or(0),
            transient_objects: self.shared.transient.objects(),
            transient_bytes: self.shared.transient.bytes(),
            ..PersistTotals::default()
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.wall_ms()
    }
}

fn shown(change: QueuedChange) -> PersistChange {
    PersistChange {
        bucket: change.bucket,
        key: change.key,
        pending: change.pending,
        running: change.running,
        attempts: change.attempts,
        error: change.error,
        due_in: change.due_in,
        worker: None,
    }
}
