//! How the stats of the worker's and engine's modules become samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use quickwater_engine::Shared;

use super::registry::Histogram;
use super::{Metric, Metrics, Samples};
use crate::buffers::Pool;
use crate::http::HttpStats;
use crate::peer::{FAILURES, PeerStats, TASKS};
use crate::store::Store;
use crate::tier::Tier;

impl Metrics {
    /// Reports the HTTP layer; `stats` of all shards are summed.
    pub fn collect_http(&self, stats: Vec<Arc<HttpStats>>) {
        self.collect(move |samples| read_http(&stats, samples));
    }

    /// Reports the buffer pools; pools of all shards are summed.
    pub fn collect_buffers(&self, pools: Vec<Pool>) {
        self.collect(move |samples| read_buffers(&pools, samples));
    }

    /// Reports the store.
    pub fn collect_store(&self, store: Store) {
        self.collect(move |samples| {
            read_store(&store, samples);
            read_tier(store.tier(), samples);
        });
    }

    /// Reports what workers do for each other.
    pub fn collect_peers(&self, stats: Arc<PeerStats>) {
        self.collect(move |samples| read_peers(&stats, samples));
    }

    /// Reports the flows.
    pub fn collect_engine(&self, shared: Arc<Shared>) {
        self.collect(move |samples| read_engine(&shared, samples));
    }
}

fn read_http(stats: &[Arc<HttpStats>], samples: &mut Samples) {
    let sum = |of: fn(&HttpStats) -> &AtomicU64| stats.iter().map(|s| of(s).load(Relaxed)).sum();
    samples.count(Metric::S3BytesReceived, &[], sum(|s| &s.bytes_received));
    samples.count(Metric::S3BytesSent, &[], sum(|s| &s.bytes_sent));
    samples.count(Metric::S3HttpRequests, &[], sum(|s| &s.requests));
    samples.count(
        Metric::S3Connections,
        &["open"],
        sum(|s| &s.connections_open),
    );
    for (shard, stats) in stats.iter().enumerate() {
        let open = stats.connections_open.load(Relaxed);
        samples.count(Metric::ShardConnections, &[&shard.to_string()], open);
    }
    let total = Metric::S3ConnectionsTotal;
    samples.count(total, &["accepted"], sum(|s| &s.connections));
    samples.count(total, &["refused"], sum(|s| &s.connections_refused));
    samples.count(total, &["accept_error"], sum(|s| &s.accept_errors));
    let failures = Metric::S3HttpFailures;
    samples.count(failures, &["parse"], sum(|s| &s.parse_errors));
    samples.count(failures, &["idle_timeout"], sum(|s| &s.idle_timeouts));
    samples.count(failures, &["header_timeout"], sum(|s| &s.header_timeouts));
    samples.count(failures, &["body_timeout"], sum(|s| &s.body_timeouts));
    samples.count(failures, &["write_timeout"], sum(|s| &s.write_timeouts));
    samples.count(failures, &["stalled"], sum(|s| &s.stalled));
    samples.count(failures, &["response_broken"], sum(|s| &s.responses_broken));
    samples.count(failures, &["client_abort"], sum(|s| &s.client_aborts));
    let handshakes = Metric::TlsHandshakes;
    samples.count(handshakes, &["ok"], sum(|s| &s.tls_handshakes));
    samples.count(handshakes, &["refused"], sum(|s| &s.tls_refused));
    samples.count(handshakes, &["plain_http"], sum(|s| &s.tls_plain_http));
    samples.count(handshakes, &["timeout"], sum(|s| &s.tls_timeouts));
    samples.count(handshakes, &["client_abort"], sum(|s| &s.tls_aborts));
    let sessions = Metric::TlsSessionFailures;
    samples.count(sessions, &["record"], sum(|s| &s.tls_record_errors));
    samples.count(sessions, &["memory"], sum(|s| &s.tls_crowded));
}

fn read_buffers(pools: &[Pool], samples: &mut Samples) {
    let all: Vec<_> = pools.iter().map(Pool::available).collect();
    let sum =
        |of: fn(&crate::buffers::PoolStats) -> usize| all.iter().map(of).sum::<usize>() as u64;
    samples.count(Metric::Buffers, &["large"], sum(|s| s.large_total));
    samples.count(Metric::Buffers, &["small"], sum(|s| s.small_total));
    samples.count(Metric::BuffersAvailable, &["large"], sum(|s| s.large_free));
    samples.count(Metric::BuffersAvailable, &["small"], sum(|s| s.small_free));
    samples.count(Metric::BuffersWaiting, &[], sum(|s| s.waiting));
    let refused = all.iter().map(|s| s.exhausted_total).sum();
    samples.count(Metric::BuffersExhausted, &[], refused);
}

fn read_engine(shared: &Shared, samples: &mut Samples) {
    let stats = &shared.stats;
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    samples.count(Metric::CacheBytes, &["store"], read(&stats.store_bytes));
    samples.count(Metric::CacheBytes, &["ufs"], read(&stats.ufs_bytes));
    samples.count(Metric::CacheBytes, &["peer"], read(&stats.peer_bytes));
    let pieces = Metric::StripePieces;
    samples.count(pieces, &["given"], read(&stats.stripe_reads));
    samples.count(pieces, &["instead"], read(&stats.stripe_failures));
    let served = Metric::StripeServed;
    samples.count(served, &["hit"], read(&stats.stripe_hits));
    samples.count(served, &["miss"], read(&stats.stripe_misses));
    samples.count(Metric::StripePulls, &[], read(&stats.stripe_pulls));
    samples.count(Metric::HotCopies, &[], read(&stats.hot_copies));
    samples.count(Metric::HotHits, &[], read(&stats.hot_hits));
    samples.count(Metric::CacheFills, &["ok"], read(&stats.fills));
    samples.count(Metric::CacheFills, &["failed"], read(&stats.fill_failures));
    samples.count(Metric::CacheFills, &["uncached"], read(&stats.uncached));
    samples.count(
        Metric::CacheExternalChanges,
        &[],
        read(&stats.external_changes),
    );
    samples.count(Metric::CacheStaleAnswers, &[], read(&stats.stale_answers));
    read_persist(shared, samples);
}

fn read_persist(shared: &Shared, samples: &mut Samples) {
    let totals = shared.persist.totals();
    samples.count(Metric::PersistDirtyObjects, &[], totals.puts);
    samples.count(Metric::PersistDirtyBytes, &[], totals.bytes);
    samples.count(Metric::PersistPendingDeletes, &[], totals.deletes);
    samples.count(Metric::PersistRunning, &[], totals.running);
    samples.count(Metric::PersistFailing, &[], totals.failing);
    samples.count(Metric::PersistMemory, &[], totals.memory_bytes);
    let oldest = totals.oldest_ms.map_or(0.0, seconds_since);
    samples.number(Metric::PersistOldestSeconds, &[], oldest);
    let stats = &shared.stats;
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    // In this order: what is lost is counted before it is counted as failed.
    let failures = read(&stats.persist_failures);
    let lost = read(&stats.persist_lost);
    let attempts = Metric::PersistAttempts;
    samples.count(attempts, &["ok"], read(&stats.persisted));
    samples.count(attempts, &["failed"], failures.saturating_sub(lost));
    samples.count(attempts, &["lost"], lost);
    samples.count(Metric::PersistBytes, &[], read(&stats.persisted_bytes));
    samples.count(Metric::PersistResumed, &[], read(&stats.persist_resumed));
    let opened = shared.opened.count() as u64;
    samples.count(Metric::PersistOpened, &[], opened);
    let uploads = Metric::SweptUploads;
    samples.count(uploads, &["here"], read(&stats.swept_uploads));
    samples.count(uploads, &["ufs"], read(&stats.swept_ufs_uploads));
    samples.count(Metric::SweptBytes, &[], read(&stats.swept_bytes));
    samples.count(Metric::SweptParts, &[], read(&stats.swept_parts));
    samples.count(Metric::SweepFailures, &[], read(&stats.sweep_failures));
    let limit = Metric::PersistDirtyLimit;
    samples.count(limit, &["refused"], read(&stats.dirty_refused));
    samples.count(limit, &["through"], read(&stats.dirty_through));
    samples.count(limit, &["oversize"], read(&stats.dirty_oversize));
    samples.count(limit, &["upload"], read(&stats.dirty_uploads));
    samples.count(limit, &["too_large"], read(&stats.dirty_too_large));
    samples.count(Metric::NotesFailed, &[], read(&stats.notes_failed));
    samples.count(Metric::NotesWaiting, &[], shared.notes.waiting());
    samples.count(Metric::PersistHeldFailures, &[], read(&stats.held_failures));
    samples.count(Metric::PersistHeldGone, &[], read(&stats.held_gone));
    samples.count(Metric::CopiesRefused, &[], read(&stats.copies_refused));
    samples.count(Metric::CopiesRead, &[], read(&stats.copies_read));
    samples.count(Metric::CopiesMade, &[], read(&stats.copies_made));
    samples.count(Metric::CopiesMadeBytes, &[], read(&stats.copies_made_bytes));
    samples.count(Metric::CopiesFailed, &[], read(&stats.copies_failed));
    let (missing, missing_bytes) = shared.holders.missing();
    samples.count(Metric::CopiesMissing, &[], missing);
    samples.count(Metric::CopiesMissingBytes, &[], missing_bytes);
    samples.count(Metric::CopiesMisplaced, &[], shared.holders.misplaced());
    let elsewhere = shared.holders.blobs() as u64;
    samples.count(Metric::CopiesElsewhere, &[], elsewhere);
    let (kept, kept_bytes) = shared.kept.totals();
    samples.count(Metric::CopiesKept, &[], kept);
    samples.count(Metric::CopiesKeptBytes, &[], kept_bytes);
    let transient = &shared.transient;
    samples.count(Metric::TransientObjects, &[], transient.objects());
    samples.count(Metric::TransientBytes, &[], transient.bytes());
    let lag = Histogram {
        sum: stats.persist_lag.sum_seconds(),
        buckets: stats.persist_lag.buckets().collect(),
    };
    samples.histogram(Metric::PersistLag, &[], lag);
}

/// Seconds from a wall time (milliseconds since the Unix epoch) until now.
fn seconds_since(ms: i64) -> f64 {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    now.saturating_sub(ms).max(0) as f64 / 1e3
}

fn read_peers(stats: &PeerStats, samples: &mut Samples) {
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    for (at, task) in TASKS.iter().enumerate() {
        samples.count(Metric::PeerCalls, &[task], read(&stats.made[at]));
        samples.count(Metric::PeerServed, &[task], read(&stats.served[at]));
    }
    for (at, reason) in FAILURES.iter().enumerate() {
        samples.count(Metric::PeerFailures, &[reason], read(&stats.failed[at]));
    }
    samples.count(Metric::PeerRefused, &[], read(&stats.refused));
    samples.count(Metric::PeerBytes, &["sent"], read(&stats.bytes_sent));
    samples.count(
        Metric::PeerBytes,
        &["received"],
        read(&stats.bytes_received),
    );
    samples.count(Metric::PeerConnections, &["out"], read(&stats.open_out));
    samples.count(Metric::PeerConnections, &["in"], read(&stats.open_in));
    let total = Metric::PeerConnectionsTotal;
    samples.count(total, &["out"], read(&stats.connected));
    samples.count(total, &["in"], read(&stats.accepted));
    samples.count(total, &["refused"], read(&stats.strangers));
}

fn read_tier(tier: &Tier, samples: &mut Samples) {
    let stats = tier.stats();
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    samples.count(Metric::RamTierBytes, &[], read(&stats.bytes));
    samples.count(Metric::RamTierBudgetBytes, &[], tier.budget_bytes());
    samples.count(Metric::RamTierObjects, &[], read(&stats.objects));
    samples.count(Metric::RamTierReads, &["hit"], read(&stats.hits));
    samples.count(Metric::RamTierReads, &["miss"], read(&stats.misses));
    samples.count(Metric::RamTierAdmissions, &[], read(&stats.admissions));
    samples.count(Metric::RamTierEvictions, &[], read(&stats.evictions));
}

fn read_store(store: &Store, samples: &mut Samples) {
    let stats = store.stats();
    let mut put = |metric, counter: &AtomicU64| samples.count(metric, &[], counter.load(Relaxed));
    put(Metric::StoreUsedBytes, &stats.live_bytes);
    put(Metric::StorePinnedBytes, &stats.pinned_bytes);
    put(Metric::StorePinnedRecords, &stats.pinned_records);
    put(Metric::HotBytes, &stats.spare_bytes);
    put(Metric::StoreReservedBytes, &stats.reserved_bytes);
    put(Metric::StoreReservedRecords, &stats.reserved_records);
    put(Metric::StoreDirtyRefused, &stats.dirty_refused);
    put(Metric::StoreReads, &stats.read_ops);
    put(Metric::StoreReadBytes, &stats.read_bytes);
    put(Metric::StoreWrites, &stats.write_ops);
    put(Metric::StoreWrittenBytes, &stats.written_bytes);
    put(Metric::StoreZeroedBytes, &stats.zeroed_bytes);
    put(Metric::StoreFlushes, &stats.flushes);
    put(Metric::StoreGroups, &stats.groups);
    put(Metric::StoreGroupRecords, &stats.records);
    put(Metric::StoreEvictedBytes, &stats.evicted_bytes);
    put(Metric::StoreEvictedRecords, &stats.evicted_records);
    put(Metric::StoreReinsertedBytes, &stats.reinserted_bytes);
    put(Metric::StoreRecycledSegments, &stats.recycled_segments);
    put(Metric::StoreDamagedRecords, &stats.damaged_records);
    put(Metric::StoreIoErrors, &stats.io_errors);
    put(Metric::StoreFull, &stats.full);
    put(Metric::StoreRecoveredRecords, &stats.recovered_records);
    let recovery = stats.recovery_ms.load(Relaxed) as f64 / 1e3;
    samples.number(Metric::StoreRecoverySeconds, &[], recovery);
    samples.count(Metric::StoreCapacityBytes, &[], store.capacity_bytes());
    let limit = store.dirty_limit_bytes();
    samples.count(Metric::StoreDirtyLimitBytes, &[], limit);
    let limit = store.dirty_limit_records();
    samples.count(Metric::StoreDirtyLimitRecords, &[], limit);
    samples.count(Metric::StoreIndexBytes, &[], store.index_bytes());
    samples.count(Metric::StoreRecords, &[], store.chunks() as u64);
    samples.count(Metric::StoreSuspect, &[], u64::from(stats.is_suspect()));
}
