//! What is counted for every request: fixed arrays of atomics, no locks, no
//! look-ups by text beyond one short match.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quickwater_engine::CacheResult;

use super::Metric;
use super::registry::{Histogram, Samples};

/// Values of the label `operation`, sorted; the last one is for everything else.
pub const OPERATIONS: [&str; 33] = [
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateBucket",
    "CreateMultipartUpload",
    "DeleteBucket",
    "DeleteBucketConfiguration",
    "DeleteBucketTagging",
    "DeleteObject",
    "DeleteObjectTagging",
    "DeleteObjects",
    "GetBucketAcl",
    "GetBucketConfiguration",
    "GetBucketLocation",
    "GetBucketTagging",
    "GetBucketVersioning",
    "GetObject",
    "GetObjectAcl",
    "GetObjectAttributes",
    "GetObjectTagging",
    "HeadBucket",
    "HeadObject",
    "ListBuckets",
    "ListMultipartUploads",
    "ListObjects",
    "ListObjectsV2",
    "ListParts",
    "PutBucketTagging",
    "PutObject",
    "PutObjectTagging",
    "UploadPart",
    "UploadPartCopy",
    "other",
];

/// Values of the label `code`, sorted; any other status counts as 0.
const CODES: [u16; 24] = [
    0, 100, 200, 204, 206, 304, 307, 400, 403, 404, 405, 408, 409, 411, 412, 413, 416, 417, 429,
    431, 500, 501, 503, 507,
];

/// Upper bounds of the latency histogram, microseconds.
const BOUNDS_US: [u64; 17] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000,
];

/// Counters of requests.
#[derive(Debug)]
pub(super) struct Hot {
    operations: [Operation; OPERATIONS.len()],
    cache: [AtomicU64; RESULTS.len()],
}

#[derive(Debug)]
struct Operation {
    codes: [AtomicU64; CODES.len()],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Hot {
    pub(super) fn new() -> Self {
        Self {
            operations: std::array::from_fn(|_| Operation {
                codes: [const { AtomicU64::new(0) }; CODES.len()],
                buckets: [const { AtomicU64::new(0) }; BOUNDS_US.len() + 1],
                sum_us: AtomicU64::new(0),
            }),
            cache: [const { AtomicU64::new(0) }; RESULTS.len()],
        }
    }

    pub(super) fn request(&self, operation: &str, status: u16, took: Duration) {
        let index = OPERATIONS.binary_search(&operation);
        let operation = &self.operations[index.unwrap_or(OPERATIONS.len() - 1)];
        operation.codes[CODES.binary_search(&status).unwrap_or(0)].fetch_add(1, Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        operation.buckets[BOUNDS_US.partition_point(|&bound| bound < us)].fetch_add(1, Relaxed);
        operation.sum_us.fetch_add(us, Relaxed);
    }

    pub(super) fn cache(&self, result: CacheResult) {
        self.cache[result as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, samples: &mut Samples) {
        for (name, operation) in OPERATIONS.iter().zip(&self.operations) {
            read_operation(name, operation, samples);
        }
        for result in RESULTS {
            let count = self.cache[result as usize].load(Relaxed);
            samples.count(Metric::CacheRequests, &[result_label(result)], count);
        }
    }
}

/// All of them; each is the index of its counter.
pub(super) const RESULTS: [CacheResult; 3] =
    [CacheResult::Hit, CacheResult::Miss, CacheResult::Partial];

/// Value of the label `result`.
pub(super) const fn result_label(result: CacheResult) -> &'static str {
    match result {
        CacheResult::Hit => "hit",
        CacheResult::Miss => "miss",
        CacheResult::Partial => "partial",
    }
}

/// Operations nobody asked for are left out.
fn read_operation(name: &str, operation: &Operation, samples: &mut Samples) {
    for (code, counter) in CODES.iter().zip(&operation.codes) {
        let count = counter.load(Relaxed);
        if count > 0 {
            samples.count(Metric::S3Requests, &[name, &code.to_string()], count);
        }
    }
    let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6);
    let bounds = bounds.chain([f64::INFINITY]);
    let counts = operation.buckets.iter().map(|b| b.load(Relaxed));
    let histogram = Histogram {
        sum: operation.sum_us.load(Relaxed) as f64 / 1e6,
        buckets: bounds.zip(counts).collect(),
    };
    if histogram.buckets.iter().any(|(_, count)| *count > 0) {
        samples.histogram(Metric::S3RequestSeconds, &[name], histogram);
    }
}
