//! What a shard tells of every request: metrics, and the access log if wanted.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quickwater_engine::CacheResult;
use quickwater_worker::metrics::{Metrics, MountCounts};
use quickwater_worker::service::{Answered, Observer};
use serde_json::json;

use super::access_log::AccessLog;
use crate::date;

/// One per shard; clones count into the same metrics.
#[derive(Clone)]
pub(super) struct Observe {
    metrics: Arc<Metrics>,
    mounts: MountCounts,
    log: Option<AccessLog>,
}

impl Observe {
    pub(super) fn new(metrics: Arc<Metrics>, log: Option<AccessLog>) -> Self {
        let mounts = MountCounts::new(Arc::clone(&metrics));
        Self {
            metrics,
            mounts,
            log,
        }
    }
}

impl Observer for Observe {
    fn answered(&self, done: &Answered<'_>) {
        self.metrics
            .request(done.operation, done.status, done.elapsed);
        if let Some(result) = done.cache {
            self.metrics.cache(result);
            if let Some(bucket) = done.bucket {
                self.mounts.count(bucket, result);
            }
        }
        if let Some(log) = &self.log {
            log.put(line(done));
        }
    }
}

/// Queries are left out: presigned requests carry their signature there.
fn line(done: &Answered<'_>) -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    json!({
        "time": date::text(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        "request_id": done.info.request_id.to_string(),
        "peer": done.info.peer.to_string(),
        "access_key": done.access_key,
        "operation": done.operation,
        "method": done.method,
        "path": done.path,
        "status": done.status,
        "code": done.code,
        "response_bytes": done.response_bytes,
        "seconds": done.elapsed.as_secs_f64(),
        "cache": done.cache.map(cache_word),
    })
    .to_string()
}

const fn cache_word(result: CacheResult) -> &'static str {
    match result {
        CacheResult::Hit => "hit",
        CacheResult::Miss => "miss",
        CacheResult::Partial => "partial",
    }
}
