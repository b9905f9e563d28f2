//! Every metric of the program: name with unit, labels, meaning. `docs/metrics.md`
//! is generated from here.
//!
//! Counting on the hot path is [`Metrics`]'s atomics; other modules keep stats of
//! their own, and sources read them when somebody asks. Absent on purpose: HTTP.

#[cfg(test)]
mod dashboards;
mod hot;
mod mounts;
mod process;
mod registry;
mod sources;
#[cfg(test)]
mod tests;

pub use hot::OPERATIONS;
pub use mounts::MountCounts;
pub use registry::{Histogram, Metrics, Samples};

/// Kinds of metrics, after the OpenMetrics specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the name ends with `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with a sum.
    Histogram,
}

/// What is known about a metric before it has a value.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Name as scraped.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($variant:ident $kind:ident $name:literal $labels:tt $help:literal)*) => {
        /// Names a metric where it is measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric { $(#[doc = $help] $variant,)* }

        #[cfg(test)]
        static ALL: &[Metric] = &[$(Metric::$variant,)*];

        /// All metrics, in the order of [`Metric`].
        pub static DEFINITIONS: &[Definition] = &[$(Definition {
            name: $name,
            kind: Kind::$kind,
            labels: &$labels,
            help: $help,
        },)*];
    };
}

metrics! {
    S3Requests Counter "quickwater_s3_requests_total" ["operation", "code"]
        "S3 requests answered, by operation and HTTP status."
    S3RequestSeconds Histogram "quickwater_s3_request_seconds" ["operation"]
        "Time from the arrival of a request head until its answer began."
    S3BytesReceived Counter "quickwater_s3_bytes_received_total" []
        "Bytes received from S3 clients, heads and framing included."
    S3BytesSent Counter "quickwater_s3_bytes_sent_total" []
        "Bytes sent to S3 clients, heads included."
    S3Connections Gauge "quickwater_s3_open_connections" ["state"]
        "Client connections now. state: open."
    ShardConnections Gauge "quickwater_shard_connections" ["shard"]
        "Client connections now, by the shard (thread) that serves them."
    S3ConnectionsTotal Counter "quickwater_s3_connections_total" ["outcome"]
        "Client connections so far. outcome: accepted, refused (too many), accept_error."
    S3HttpRequests Counter "quickwater_s3_http_requests_total" []
        "HTTP requests handed to the S3 service."
    S3HttpFailures Counter "quickwater_s3_http_failures_total" ["reason"]
        "HTTP exchanges that failed below S3. reason: parse, idle_timeout, header_timeout, body_timeout, write_timeout, stalled (others waited for its buffers; a timeout too), response_broken, client_abort."

    TlsHandshakes Counter "quickwater_tls_handshakes_total" ["outcome"]
        "TLS connections by how they began. outcome: ok, refused (no agreement, or not TLS), plain_http, timeout, client_abort."
    TlsSessionFailures Counter "quickwater_tls_session_failures_total" ["reason"]
        "TLS connections ended by us. reason: record (damaged or out of order), memory (none left for TLS)."
    TlsCertificateExpirySeconds Gauge "quickwater_tls_certificate_expiry_seconds" []
        "When the certificate in use expires, seconds since 1970."
    TlsCertificateReloads Counter "quickwater_tls_certificate_reloads_total" ["outcome"]
        "Changes of the certificate files that were seen. outcome: ok, failed (the old certificate stays)."

    CacheRequests Counter "quickwater_cache_requests_total" ["result"]
        "GET requests by where their bytes were. result: hit, miss, partial."
    MountRequests Counter "quickwater_mount_requests_total" ["bucket", "result"]
        "GET requests by bucket and where their bytes were. result: hit, miss, partial. The first 256 buckets that are read after a start are named, the rest is `_others`."
    CacheBytes Counter "quickwater_cache_bytes_total" ["source"]
        "Object bytes sent to clients by where they came from. source: store, ufs, peer (stripes of large objects that other workers hold, or fetched)."
    CacheFills Counter "quickwater_cache_fills_total" ["outcome"]
        "Chunks fetched from a UFS. outcome: ok, failed, uncached (served but not kept)."
    CacheExternalChanges Counter "quickwater_cache_external_changes_total" []
        "Objects found changed, new or gone in a UFS by somebody else's hand."
    StripePieces Counter "quickwater_stripe_pieces_total" ["outcome"]
        "Pieces of large objects asked of the workers that hold them, of 1 MiB at most. outcome: given, instead (not given, and read here)."
    StripeServed Counter "quickwater_stripe_served_total" ["result"]
        "Pieces of stripes that other workers asked for. result: hit (in the store), miss (fetched first)."
    StripePulls Counter "quickwater_stripe_pulled_total" []
        "Chunks of stripes taken over from the store of the key's owner, where a write left them, instead of the UFS."
    HotCopies Counter "quickwater_hot_copies_total" []
        "Copies made here of chunks that other workers hold, because they were asked for often (`cluster.hot_copies`)."
    HotHits Counter "quickwater_hot_copy_hits_total" []
        "Pieces of large objects read from such a copy instead of from the worker that holds them."
    HotBytes Gauge "quickwater_hot_copy_bytes" []
        "Bytes on disk that such copies take now; the first to be evicted."
    CacheStaleAnswers Counter "quickwater_cache_stale_answers_total" []
        "Answers from metadata past its TTL because the UFS was out of reach."

    PersistDirtyObjects Gauge "quickwater_persist_dirty_objects" []
        "Objects whose current version only this worker has; their UFS is still to get it (TRANSIENT ones apart)."
    PersistDirtyBytes Gauge "quickwater_persist_dirty_bytes" []
        "Bytes of those objects: what would be lost with this worker's disk."
    PersistPendingDeletes Gauge "quickwater_persist_pending_deletes" []
        "Keys deleted here that their UFS still has to delete."
    PersistOldestSeconds Gauge "quickwater_persist_oldest_seconds" []
        "How long the UFS has been behind for the oldest of both; 0: nothing is pending."
    PersistRunning Gauge "quickwater_persist_running" []
        "Changes being sent to UFSs now."
    PersistFailing Gauge "quickwater_persist_failing" []
        "Changes whose last attempt failed; they are tried again."
    PersistMemory Gauge "quickwater_persist_memory_bytes" []
        "Memory of the changes that UFSs still have to get, as it is counted against `memory`."
    PersistAttempts Counter "quickwater_persist_attempts_total" ["outcome"]
        "Attempts to tell a UFS. outcome: ok, failed, lost (bytes that only this worker had are missing)."
    PersistBytes Counter "quickwater_persist_bytes_total" []
        "Bytes of objects that reached their UFS after the write was acked."
    PersistResumed Counter "quickwater_persist_resumed_total" []
        "Uploads of large objects that were gone on with after a failure or a restart."
    PersistOpened Gauge "quickwater_persist_opened_uploads" []
        "Multipart uploads we have opened in UFSs, or may have, and must see to their end."
    SweptUploads Counter "quickwater_swept_uploads_total" ["where"]
        "Abandoned multipart uploads that were aborted. where: here (of clients), ufs (only the UFS had them)."
    SweptBytes Counter "quickwater_swept_bytes_total" []
        "Bytes of the parts of clients' abandoned uploads."
    SweptParts Counter "quickwater_swept_parts_total" []
        "Parts in the store that no row named, freed."
    SweepFailures Counter "quickwater_sweep_failures_total" []
        "What a sweep could not do; the next one tries again."
    PersistDirtyLimit Counter "quickwater_persist_dirty_limit_total" ["outcome"]
        "Write-backs that met the dirty limit. outcome: refused (SlowDown), through (written through instead, by the policy's option), oversize (written through: no room even when all that waits was persisted, be it too large or beside TRANSIENT data and parts of open uploads), upload (a multipart upload whose parts go through from then on), too_large (refused for good: TRANSIENT and larger than can ever be held)."
    NotesFailed Counter "quickwater_rebuild_notes_failed_total" []
        "Changes that found no room for their note on the disk, or whose note the disk did not take. It is tried again until the UFS is told of them: quickwater_rebuild_notes_waiting counts what has none yet, of which a rebuild of lost metadata would not know."
    NotesWaiting Gauge "quickwater_rebuild_notes_waiting" []
        "Changes of slots that came from other workers, that a crash cut, or that found no room for one, which no note on the disk tells of yet: a rebuild of lost metadata would not know them. At least 1 while a start of `serve` searches for them, and until a worker has said on its disk that slots it took are noted."
    PersistHeldFailures Counter "quickwater_persist_held_failures_total" []
        "Tries to send the parts of a multipart upload that was handed over to the UFS, that failed; repeated until the upload ends."
    PersistHeldGone Counter "quickwater_persist_held_gone_total" []
        "Multipart uploads that were handed over to the UFS and ended because it did not have them any more: somebody aborted them there. Their clients are told NoSuchUpload."
    PersistLag Histogram "quickwater_persist_lag_seconds" []
        "How long the UFS was behind for a key, from the first ack it did not have until it had the last one."
    CopiesKept Gauge "quickwater_copies_kept_objects" []
        "Copies kept here for the owners of their keys, of objects that no UFS has."
    CopiesKeptBytes Gauge "quickwater_copies_kept_bytes" []
        "Bytes of these copies."
    CopiesElsewhere Gauge "quickwater_copies_elsewhere_objects" []
        "Objects of this worker's keys, in no UFS, of which other workers keep copies."
    CopiesMissing Gauge "quickwater_copies_missing_objects" []
        "Objects of this worker's keys that are not known to have as many copies as they were acked with: some are on workers that are gone, came back without them, or have not said yet that they have them. They are asked for and copied again."
    CopiesMissingBytes Gauge "quickwater_copies_missing_bytes" []
        "Bytes of these objects."
    CopiesMisplaced Gauge "quickwater_copies_misplaced_objects" []
        "Objects of this worker's keys that have all their copies, in fewer zones than they could be in. Each gets one more in another zone, as soon as a worker there takes it; meanwhile the loss of one zone may cost more than one copy."
    CopiesMade Counter "quickwater_copies_made_total" []
        "Copies made again after a worker was lost, or made in another zone."
    CopiesMadeBytes Counter "quickwater_copies_made_bytes_total" []
        "Bytes of these copies."
    CopiesFailed Counter "quickwater_copies_failed_total" []
        "Attempts to make copies again that failed; repeated until the object has as many as it was acked with, or its UFS has it."
    CopiesRead Counter "quickwater_copies_read_total" []
        "Chunks read from another worker's copy because they are not here."
    CopiesRefused Counter "quickwater_copies_refused_total" []
        "Writes refused because too few other workers take a copy."
    TransientObjects Gauge "quickwater_transient_objects" []
        "TRANSIENT objects: only this worker has them, and no UFS gets them."
    TransientBytes Gauge "quickwater_transient_bytes" []
        "Bytes of those objects. They take dirty space until they are deleted."

    JobsRunning Gauge "quickwater_jobs_running" ["kind"]
        "Jobs that run now. kind: load, free, delete."
    JobObjects Counter "quickwater_job_objects_total" ["kind", "outcome"]
        "Objects handled by jobs. outcome: done, left (nothing to do, or it must not be done), failed."
    JobBytes Counter "quickwater_job_bytes_total" ["kind"]
        "Bytes of objects that jobs loaded or deleted; of free, bytes dropped from the cache."

    RamTierBytes Gauge "quickwater_ram_tier_bytes" []
        "Bytes of small objects held in memory."
    RamTierBudgetBytes Gauge "quickwater_ram_tier_budget_bytes" []
        "Memory the RAM tier may take, its bookkeeping included."
    RamTierObjects Gauge "quickwater_ram_tier_objects" []
        "Small objects held in memory."
    RamTierReads Counter "quickwater_ram_tier_reads_total" ["result"]
        "Reads of small objects by where they were. result: hit (memory), miss (disk)."
    RamTierAdmissions Counter "quickwater_ram_tier_admissions_total" []
        "Small objects that entered memory."
    RamTierEvictions Counter "quickwater_ram_tier_evictions_total" []
        "Small objects pushed out of memory by others."

    StoreUsedBytes Gauge "quickwater_store_used_bytes" []
        "Bytes on disk of live records, heads and padding included."
    StoreCapacityBytes Gauge "quickwater_store_capacity_bytes" []
        "Bytes of all segments."
    StorePinnedBytes Gauge "quickwater_store_pinned_bytes" []
        "Bytes on disk of records that may not be evicted: dirty data and their journal."
    StorePinnedRecords Gauge "quickwater_store_pinned_records" []
        "Records that may not be evicted."
    StoreDirtyLimitBytes Gauge "quickwater_store_dirty_limit_bytes" []
        "Most bytes that may be pinned and reserved."
    StoreDirtyLimitRecords Gauge "quickwater_store_dirty_limit_records" []
        "Most records that may be pinned and reserved: the share of the index's memory, however few bytes they have."
    StoreReservedBytes Gauge "quickwater_store_reserved_bytes" []
        "Bytes on disk reserved for writes under way that will be pinned."
    StoreReservedRecords Gauge "quickwater_store_reserved_records" []
        "Records reserved for writes under way that will be pinned."
    StoreDirtyRefused Counter "quickwater_store_dirty_refused_total" []
        "Reservations refused because pinned and reserved data had reached the limit."
    StoreRecords Gauge "quickwater_store_records" []
        "Records in the index."
    StoreIndexBytes Gauge "quickwater_store_index_bytes" []
        "Memory of the index."
    StoreReads Counter "quickwater_store_reads_total" []
        "Device reads."
    StoreReadBytes Counter "quickwater_store_read_bytes_total" []
        "Bytes read from the device."
    StoreWrites Counter "quickwater_store_writes_total" []
        "Device writes."
    StoreWrittenBytes Counter "quickwater_store_written_bytes_total" []
        "Bytes written to the device: records, footers, headers."
    StoreZeroedBytes Counter "quickwater_store_zeroed_bytes_total" []
        "Bytes of zeros written ahead on the first lap."
    StoreFlushes Counter "quickwater_store_flushes_total" []
        "Device flushes."
    StoreGroups Counter "quickwater_store_groups_total" []
        "Groups of records committed together."
    StoreGroupRecords Counter "quickwater_store_group_records_total" []
        "Records committed; divided by groups: the group size."
    StoreEvictedBytes Counter "quickwater_store_evicted_bytes_total" []
        "Bytes of evicted records."
    StoreEvictedRecords Counter "quickwater_store_evicted_records_total" []
        "Records evicted."
    StoreReinsertedBytes Counter "quickwater_store_reinserted_bytes_total" []
        "Bytes written again because they were hot or pinned."
    StoreRecycledSegments Counter "quickwater_store_recycled_segments_total" []
        "Segments recycled."
    StoreDamagedRecords Counter "quickwater_store_damaged_records_total" []
        "Records whose checksum failed; they were forgotten, never served."
    StoreIoErrors Counter "quickwater_store_io_errors_total" []
        "Device operations that failed or did not end in time."
    StoreFull Counter "quickwater_store_full_total" []
        "Writes refused because nothing could be evicted."
    StoreSuspect Gauge "quickwater_store_suspect" []
        "1 after a failed write or flush: the store takes no more writes."
    StoreRecoverySeconds Gauge "quickwater_store_recovery_seconds" []
        "How long rebuilding the index took at the last start."
    StoreRecoveredRecords Gauge "quickwater_store_recovered_records" []
        "Records found at the last start."

    UfsRequests Counter "quickwater_ufs_requests_total" ["operation", "outcome"]
        "Requests to UFSs that ended. outcome: ok, aborted, or the kind of error."
    UfsRequestSeconds Counter "quickwater_ufs_request_seconds_total" ["operation"]
        "Time UFS requests took, waiting for the caller included."
    UfsReadBytes Counter "quickwater_ufs_read_bytes_total" []
        "Object bytes read from UFSs."
    UfsWrittenBytes Counter "quickwater_ufs_written_bytes_total" []
        "Object bytes handed to UFSs."
    UfsSkippedNames Counter "quickwater_ufs_skipped_names_total" []
        "Names found in POSIX UFSs that are no S3 key; they are not shown."
    UfsDroppedAttributes Counter "quickwater_ufs_dropped_attributes_total" []
        "Headers or checksums a POSIX UFS could not keep as extended attributes."
    UfsMisplacedMounts Gauge "quickwater_ufs_misplaced_mounts" []
        "Mounts whose directory is not the one they were written to; see `mount list`."
    UfsUnverifiedWrites Counter "quickwater_ufs_unverified_writes_total" []
        "Writes a UFS confirmed by length only."

    MetadataCommits Counter "quickwater_metadata_commits_total" []
        "Metadata transactions committed."
    MetadataConflicts Counter "quickwater_metadata_conflicts_total" []
        "Commits refused as a conflict; they are retried."
    MetadataFailures Counter "quickwater_metadata_failures_total" ["reason"]
        "Commits that failed otherwise. reason: refused (nothing changed), unknown."
    MetadataCommitSeconds Histogram "quickwater_metadata_commit_seconds" []
        "Time callers waited for commits that succeeded, their turn and the flush included."
    MetadataBatches Counter "quickwater_metadata_batches_total" []
        "Batches written; commits divided by batches: the group size."
    MetadataFlushes Counter "quickwater_metadata_flushes_total" []
        "Durable batches, and flushes of those before."
    MetadataFlushSeconds Counter "quickwater_metadata_flush_seconds_total" []
        "Time spent in durable batches and flushes."
    ControlCalls Counter "quickwater_control_calls_total" ["operation"]
        "Metadata calls a worker made of its control plane, by what was asked. names: asked now and then for the copy of what a rebuild needs, whatever clients do."
    ControlRepeated Counter "quickwater_control_repeated_total" []
        "Metadata calls sent again after a session ended."
    ControlFailures Counter "quickwater_control_failures_total" ["reason"]
        "Metadata calls given up: the control plane was not reached, or their outcome is unknown."
    ControlSessions Counter "quickwater_control_sessions_total" []
        "Sessions opened with the control plane."
    ControlConnected Gauge "quickwater_control_connected" []
        "1 while a session with the control plane is open."
    LeaseSeconds Gauge "quickwater_lease_seconds" []
        "What is left of the right to answer for the worker's slots."
    OwnedSlots Gauge "quickwater_slots_owned" []
        "Slots this worker owns, of 16,384."
    PeerCalls Counter "quickwater_peer_calls_total" ["task"]
        "Calls made to other workers. task: relay (a client's request), look_again, hides_below, settle_bucket, delete_keys, copy_source, store_copy, fetch_copy, look_at_copies, has_copies, read_stripe (a piece of a large object), count_chunks, forget_chunks."
    PeerServed Counter "quickwater_peer_served_total" ["task"]
        "Calls of other workers served, by task."
    PeerFailures Counter "quickwater_peer_failures_total" ["reason"]
        "Calls to other workers that failed; those that were not begun are tried again for a while. reason: no_owner, unreached, not_here (it does not own the key now), busy, broken, protocol."
    PeerRefused Counter "quickwater_peer_refused_total" []
        "Calls of other workers refused before they began."
    PeerBytes Counter "quickwater_peer_bytes_total" ["direction"]
        "Bytes of bodies between workers. direction: sent, received."
    PeerConnections Gauge "quickwater_peer_open_connections" ["direction"]
        "Connections between workers now. direction: out (opened here), in."
    PeerConnectionsTotal Counter "quickwater_peer_connections_total" ["outcome"]
        "Connections between workers so far. outcome: out, in, refused (no certificate of the cluster, another protocol, too many)."
    ClusterEpoch Gauge "quickwater_cluster_epoch" []
        "Number of the placement table in force."
    ClusterCertificateNotAfter Gauge "quickwater_cluster_certificate_not_after_timestamp_seconds" ["certificate"]
        "When a certificate of the cluster that this process has read at its start expires, seconds since 1970. certificate: own (by which it is known), authority (of those in ca.pem the first to expire)."
    ClusterNodes Gauge "quickwater_cluster_nodes" ["state"]
        "Workers of the cluster by state: live, silent (lease over), gone."
    ClusterRefused Gauge "quickwater_cluster_refused_workers" ["reason"]
        "Workers that are not taken in. reason: older_metadata (they have seen newer ones than these), name (another process runs under it), cluster (their directory is of another one)."
    MetadataFailed Gauge "quickwater_metadata_failed" []
        "1: a write or flush failed, nothing is committed until a restart."

    EbpfState Gauge "quickwater_ebpf_state" ["program", "state"]
        "1 for the state that an eBPF program is in. program: reuseport, connect, handoff, bypass. state: on, off (by the settings, or nothing to do), not_built (into this binary), refused (by the kernel or a test of our own, or detached by somebody since; the log says why)."
    EbpfConnections Counter "quickwater_ebpf_reuseport_connections_total" ["chosen_by"]
        "New connections by who chose their shard while the program is on. chosen_by: program, kernel (its hash, where the program had no answer)."

    EbpfConnects Counter "quickwater_ebpf_connects_total" ["outcome"]
        "Connections of this node to `ebpf.service`. outcome: steered (to this worker), not_ready (left alone, this worker was not ready), elsewhere (left alone, from a network namespace that does not reach this worker)."

    EbpfHandoffs Counter "quickwater_ebpf_handoffs_total" ["outcome"]
        "Client connections that could go to the owner of what they asked for. outcome: given (to another worker), taken (from another worker), declined, busy (no place for one more), unrested (these three: relayed instead), lost (reset: not known who has it), unheard (taken, and the client acknowledged nothing: ended; after several, clients of that network that come in there are relayed for 10 s to 10 min), unseen (accepted, and not known to have come by the program: by another device, or among too many; its requests are relayed)."
    EbpfForwardEntries Gauge "quickwater_ebpf_forward_entries" []
        "Connections handed over from here whose packets are sent on, as counted every five seconds."
    EbpfForwardPackets Counter "quickwater_ebpf_forward_packets_total" ["outcome"]
        "Packets of such connections. outcome: forwarded, kept_away (dropped while a connection was handed over), too_old (of entries that had ended), failed."
    EbpfBypassConnections Counter "quickwater_ebpf_bypass_connections_total" ["outcome"]
        "Connections of clients of this node to this worker. outcome: taken (answers go from socket to socket), stalled (of those, broken because the client did not read), starved (of those, waited because the kernel had no memory for what the client had not read), refused (the programs could not note it, for one because they know as many as they can; TCP)."
    EbpfBypassBytes Counter "quickwater_ebpf_bypass_bytes_total" []
        "Bytes of answers that went from socket to socket, without TCP; for want of memory some are tried, and counted, again."

    MemoryBudgetBytes Gauge "quickwater_memory_budget_bytes" []
        "Memory the service plans with (setting `memory`)."
    Buffers Gauge "quickwater_buffers" ["class"]
        "IO buffers in all. class: large (1 MiB), small (64 KiB)."
    BuffersAvailable Gauge "quickwater_buffers_available" ["class"]
        "IO buffers free now."
    BuffersWaiting Gauge "quickwater_buffers_waiting" []
        "Tasks that wait for a buffer."
    BuffersExhausted Counter "quickwater_buffers_exhausted_total" []
        "Requests refused for want of a buffer."

    Ready Gauge "quickwater_ready" []
        "1 while the service takes requests."
    BuildInfo Gauge "quickwater_build_info" ["version"]
        "Always 1; the label says which build runs."
    ProcessResidentBytes Gauge "process_resident_memory_bytes" []
        "Resident memory of the process."
    ProcessCpuSeconds Counter "process_cpu_seconds_total" []
        "User and system CPU time of the process."
    ProcessOpenFds Gauge "process_open_fds" []
        "Open file descriptors of the process."
    ProcessThreads Gauge "process_threads" []
        "Threads of the process."
}

/// The page `docs/metrics.md`.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(PAGE_HEAD);
    for definition in DEFINITIONS {
        let kind = match definition.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = definition.labels.iter().map(|l| format!("`{l}`")).collect();
        let (name, labels, help) = (definition.name, labels.join(", "), definition.help);
        out.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    out
}

const PAGE_HEAD: &str = "# Metrics

Generated from `dataplane/worker/src/metrics.rs`, the one place that names metrics.

`GET /metrics` on `metrics.listen` answers in the OpenMetrics text format where the
header `Accept` asks for it, as Prometheus does, else in Prometheus' own, version 0.0.4.
Sizes are bytes and times are seconds, as the names say. Counters begin at zero at every
start.

| name | type | labels | meaning |
|---|---|---|---|
";
