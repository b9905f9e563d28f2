//! Metrics of the rooms the worker does not know: metadata, UFS, memory.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use quickwater_ufs::{UfsClient, UfsOperation, UfsOutcome, UfsStats};
use quickwater_worker::metrics::{Histogram, Metric, Metrics, Samples};

use crate::store::MetadataStore;

/// Reports the metadata store.
pub(super) fn collect_metadata(metrics: &Metrics, store: MetadataStore) {
    metrics.collect(move |samples| {
        let stats = store.stats();
        samples.count(Metric::MetadataCommits, &[], stats.commits);
        samples.count(Metric::MetadataConflicts, &[], stats.conflicts);
        samples.count(Metric::MetadataFailures, &["refused"], stats.refused);
        samples.count(Metric::MetadataFailures, &["unknown"], stats.unknown);
        let latency = Histogram {
            sum: stats.latency.sum_us as f64 / 1e6,
            buckets: stats.latency.buckets().collect(),
        };
        samples.histogram(Metric::MetadataCommitSeconds, &[], latency);
        samples.count(Metric::MetadataBatches, &[], stats.batches);
        samples.count(Metric::MetadataFlushes, &[], stats.flushes);
        let seconds = stats.flush_us as f64 / 1e6;
        samples.number(Metric::MetadataFlushSeconds, &[], seconds);
        let failed = u64::from(store.has_failed());
        samples.count(Metric::MetadataFailed, &[], failed);
    });
}

/// Reports all UFSs.
pub(super) fn collect_ufs(metrics: &Metrics, ufs: UfsClient) {
    let stats: Arc<UfsStats> = ufs.stats();
    metrics.collect(move |samples| {
        read_ufs(&stats, samples);
        let misplaced = ufs.misplaced().len() as u64;
        samples.count(Metric::UfsMisplacedMounts, &[], misplaced);
    });
}

fn read_ufs(stats: &UfsStats, samples: &mut Samples) {
    for &operation in UfsOperation::ALL {
        let name = operation.name();
        for &outcome in UfsOutcome::ALL {
            let count = stats.requests(operation, outcome);
            if count > 0 {
                samples.count(Metric::UfsRequests, &[name, outcome.name()], count);
            }
        }
        let seconds = stats.time(operation).as_secs_f64();
        samples.number(Metric::UfsRequestSeconds, &[name], seconds);
    }
    samples.count(Metric::UfsReadBytes, &[], stats.read_bytes.load(Relaxed));
    samples.count(
        Metric::UfsWrittenBytes,
        &[],
        stats.written_bytes.load(Relaxed),
    );
    samples.count(
        Metric::UfsSkippedNames,
        &[],
        stats.skipped_names.load(Relaxed),
    );
    samples.count(
        Metric::UfsDroppedAttributes,
        &[],
        stats.dropped_attributes.load(Relaxed),
    );
    samples.count(
        Metric::UfsUnverifiedWrites,
        &[],
        stats.unverified_writes.load(Relaxed),
    );
}

/// Reports a number that never changes.
pub(super) fn collect_memory(metrics: &Metrics, budget_bytes: u64) {
    metrics.collect(move |samples| samples.count(Metric::MemoryBudgetBytes, &[], budget_bytes));
}
