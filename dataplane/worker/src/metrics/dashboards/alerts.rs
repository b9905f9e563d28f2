//! The alerts: when each fires, what it means, what to do, and an example of either side
//! that a real Prometheus is asked about.

/// One alert.
pub(super) struct Alert {
    pub(super) name: &'static str,
    /// `critical`: data or service are in danger now; `warning`: they will be.
    pub(super) severity: &'static str,
    pub(super) expression: &'static str,
    /// How long it has to hold, as Prometheus writes it.
    pub(super) hold: &'static str,
    /// One line. It names the label `instance` where each node raises the alert, and not where
    /// a whole cluster does.
    pub(super) summary: &'static str,
    pub(super) meaning: &'static str,
    pub(super) action: &'static str,
    /// Series, one value a minute, for which it fires after twenty minutes.
    pub(super) fires: &'static [Series],
    /// Series for which it never does.
    pub(super) quiet: &'static [Series],
}

/// A series as `promtool test rules` takes it.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) values: &'static str,
}

const fn series(name: &'static str, values: &'static str) -> Series {
    Series { name, values }
}

pub(super) const ALERTS: &[Alert] = &[
    Alert {
        name: "QuickwaterDown",
        severity: "critical",
        expression: r#"up{job="quickwater"} == 0"#,
        hold: "2m",
        summary: "{{ $labels.instance }} is not reached.",
        meaning: "Prometheus gets no metrics from a node: the process ended, hangs, or the network is cut. WRITE_BACK data that only this node has waits on its disk.",
        action: "Look at the service manager and the log of the node; start it again. Nothing acked is lost by a crash. If the machine is gone for good, see `quickwater node remove`.",
        fires: &[series(r#"up{job="quickwater",instance="n1"}"#, "1 0x30")],
        quiet: &[series(r#"up{job="quickwater",instance="n1"}"#, "1x30")],
    },
    Alert {
        name: "QuickwaterNotReady",
        severity: "critical",
        expression: "quickwater_ready == 0",
        hold: "2m",
        summary: "{{ $labels.instance }} runs but takes no requests.",
        meaning: "The node starts, stops, or its metadata store failed. `/readyz` says which.",
        action: "Run `curl http://NODE:29991/readyz` and `quickwater doctor --dir DIR`. After a failed metadata store: make the disk well (space, errors), then restart.",
        fires: &[series(r#"quickwater_ready{instance="n1"}"#, "0x30")],
        quiet: &[series(r#"quickwater_ready{instance="n1"}"#, "1x30")],
    },
    Alert {
        name: "QuickwaterStoreSuspect",
        severity: "critical",
        expression: "quickwater_store_suspect == 1",
        hold: "0m",
        summary: "The cache disk of {{ $labels.instance }} failed a write or flush.",
        meaning: "The store takes no more writes. What is on it is still read, and what is dirty is still sent to the UFS.",
        action: "Look for IO errors in `dmesg`. First save what only this disk has: in a cluster `quickwater node drain ID --evacuate`, on a node of its own `quickwater async-persist wait`. TRANSIENT objects go to no UFS: read out what you need of them, then delete them. Then stop the service and replace the disk, and copy the directory to the new one, mounted at the same path, without `store/`, which alone is a cache: on a node of its own `metadata/` has mounts, path policies, tags and jobs, `credentials` and `admin-token` are the keys of clients and admins, `ufs/` are the objects themselves where no other UFS was named.",
        fires: &[series(
            r#"quickwater_store_suspect{instance="n1"}"#,
            "0 1x30",
        )],
        quiet: &[series(r#"quickwater_store_suspect{instance="n1"}"#, "0x30")],
    },
    Alert {
        name: "QuickwaterMetadataFailed",
        severity: "critical",
        expression: "quickwater_metadata_failed == 1",
        hold: "0m",
        summary: "{{ $labels.instance }} cannot write metadata; nothing is committed until a restart.",
        meaning: "A write or flush of the metadata failed, usually because the disk is full. Writes get 503; nothing acked is lost.",
        action: "Free space or mend the disk that holds `metadata/` (its path is in the log), then restart the service. FoundationDB: `fdbcli --exec status`.",
        fires: &[series(
            r#"quickwater_metadata_failed{instance="n1"}"#,
            "0 1x30",
        )],
        quiet: &[series(
            r#"quickwater_metadata_failed{instance="n1"}"#,
            "0x30",
        )],
    },
    Alert {
        name: "QuickwaterAckedBytesMissing",
        severity: "critical",
        expression: r#"increase(quickwater_persist_attempts_total{outcome="lost"}[15m]) > 0"#,
        hold: "0m",
        summary: "Bytes of acked objects are missing from the store of {{ $labels.instance }}.",
        meaning: "An object that no UFS has yet could not be read from the store: its blocks failed their checksums, or somebody removed segments.",
        action: "`quickwater async-persist list --state failing` names the objects; write them again from their source. Do not empty the disk before: keep it for analysis.",
        fires: &[series(
            r#"quickwater_persist_attempts_total{instance="n1",outcome="lost"}"#,
            "0x10 1x20",
        )],
        quiet: &[series(
            r#"quickwater_persist_attempts_total{instance="n1",outcome="failed"}"#,
            "0+1x30",
        )],
    },
    Alert {
        name: "QuickwaterPersistFailing",
        severity: "warning",
        expression: "sum by (cluster, job) (max_over_time(quickwater_persist_failing[5m]) > 0 and max_over_time(quickwater_persist_oldest_seconds[5m]) > 600)",
        hold: "6m",
        summary: "Changes do not reach their UFS: {{ $value }} in all.",
        meaning: "Attempts to send changes fail, at a node whose oldest change has waited for more than ten minutes: it is no single request that went wrong and was repeated. They are tried again for ever, up to an hour apart, but until then one disk has them alone. Counted over all nodes and the last five minutes, so that it does not begin anew when a worker is restarted or another one takes its keys.",
        action: "`quickwater_persist_failing` says which nodes have them; `quickwater async-persist list --state failing` shows keys and errors. Mend the UFS or its credentials, then `quickwater async-persist retry`.",
        fires: &[
            // Of one worker, then of the one that took its keys: one alert, not two, and
            // its time goes on.
            series(
                r#"quickwater_persist_failing{instance="n1"}"#,
                "3x11 stale _x18",
            ),
            series(
                r#"quickwater_persist_oldest_seconds{instance="n1"}"#,
                "660+60x11 stale _x18",
            ),
            series(r#"quickwater_persist_failing{instance="n2"}"#, "_x15 3x15"),
            series(
                r#"quickwater_persist_oldest_seconds{instance="n2"}"#,
                "_x15 1560+60x15",
            ),
            // Another cluster has its own.
            series(
                r#"quickwater_persist_failing{cluster="b",instance="n1"}"#,
                "1x30",
            ),
            series(
                r#"quickwater_persist_oldest_seconds{cluster="b",instance="n1"}"#,
                "0+60x30",
            ),
        ],
        quiet: &[
            // Failed for some minutes.
            series(r#"quickwater_persist_failing{instance="n1"}"#, "3x8 0x22"),
            series(
                r#"quickwater_persist_oldest_seconds{instance="n1"}"#,
                "0+60x8 0x22",
            ),
            // Every fourth minute an attempt fails, and the next one does not.
            series(
                r#"quickwater_persist_failing{cluster="flaky",instance="n1"}"#,
                "0x2 1 0x2 1 0x2 1 0x2 1 0x2 1 0x2 1",
            ),
            series(
                r#"quickwater_persist_oldest_seconds{cluster="flaky",instance="n1"}"#,
                "0x2 30 0x2 30 0x2 30 0x2 30 0x2 30 0x2 30",
            ),
            // So much is written that some attempt has always just failed.
            series(
                r#"quickwater_persist_failing{cluster="busy",instance="n1"}"#,
                "3x30",
            ),
            series(
                r#"quickwater_persist_oldest_seconds{cluster="busy",instance="n1"}"#,
                "20x30",
            ),
            // One is slow, and at another one an attempt failed.
            series(
                r#"quickwater_persist_failing{cluster="slow",instance="n1"}"#,
                "0x30",
            ),
            series(
                r#"quickwater_persist_oldest_seconds{cluster="slow",instance="n1"}"#,
                "900x30",
            ),
            series(
                r#"quickwater_persist_failing{cluster="slow",instance="n2"}"#,
                "1x30",
            ),
            series(
                r#"quickwater_persist_oldest_seconds{cluster="slow",instance="n2"}"#,
                "2x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterPersistBehind",
        severity: "warning",
        expression: "max by (cluster, job) (max_over_time(quickwater_persist_oldest_seconds[5m])) > 3600",
        hold: "10m",
        summary: "A UFS has been behind for more than an hour: {{ $value | humanizeDuration }}.",
        meaning: "The oldest acked change of any node has waited that long: the UFS is away, too slow for what is written, or refuses the key.",
        action: "The panel Oldest dirty age says at which node. Compare the panels Persist failures and UFS requests. Failing: as for QuickwaterPersistFailing. Slow: raise `write_cache.persist_concurrency`, or write less under WRITE_BACK.",
        fires: &[series(
            r#"quickwater_persist_oldest_seconds{instance="n1"}"#,
            "3600+60x30",
        )],
        quiet: &[series(
            r#"quickwater_persist_oldest_seconds{instance="n1"}"#,
            "0+60x30",
        )],
    },
    Alert {
        name: "QuickwaterDirtySpaceFilling",
        severity: "warning",
        expression: "(quickwater_store_pinned_bytes + quickwater_store_reserved_bytes) / quickwater_store_dirty_limit_bytes > 0.8 or (quickwater_store_pinned_records + quickwater_store_reserved_records) / quickwater_store_dirty_limit_records > 0.8",
        hold: "10m",
        summary: "Dirty space of {{ $labels.instance }} is filled to {{ $value | humanizePercentage }}.",
        meaning: "When it is full, writes under WRITE_BACK get 503 SlowDown (or go through, if their policy says so). It is full of bytes or, of small objects, of records: each takes memory of the index.",
        action: "See whether persisting is behind (QuickwaterPersistBehind) or TRANSIENT objects fill it (`quickwater_transient_bytes`, `quickwater_transient_objects`): delete those. Else raise `write_cache.dirty_ratio`, and with it the capacity where the panel Dirty bytes is near its limit, `memory` where Records that may not be evicted is.",
        fires: &[
            series(r#"quickwater_store_pinned_bytes{instance="n1"}"#, "85x30"),
            series(r#"quickwater_store_reserved_bytes{instance="n1"}"#, "5x30"),
            series(
                r#"quickwater_store_dirty_limit_bytes{instance="n1"}"#,
                "100x30",
            ),
            series(r#"quickwater_store_pinned_records{instance="n2"}"#, "85x30"),
            series(
                r#"quickwater_store_reserved_records{instance="n2"}"#,
                "5x30",
            ),
            series(
                r#"quickwater_store_dirty_limit_records{instance="n2"}"#,
                "100x30",
            ),
        ],
        quiet: &[
            series(r#"quickwater_store_pinned_bytes{instance="n1"}"#, "70x30"),
            series(r#"quickwater_store_reserved_bytes{instance="n1"}"#, "5x30"),
            series(
                r#"quickwater_store_dirty_limit_bytes{instance="n1"}"#,
                "100x30",
            ),
            series(r#"quickwater_store_pinned_records{instance="n1"}"#, "70x30"),
            series(
                r#"quickwater_store_reserved_records{instance="n1"}"#,
                "5x30",
            ),
            series(
                r#"quickwater_store_dirty_limit_records{instance="n1"}"#,
                "100x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterDirtySpaceFull",
        severity: "warning",
        expression: r#"increase(quickwater_persist_dirty_limit_total{outcome="refused"}[5m]) > 0"#,
        hold: "5m",
        summary: "{{ $labels.instance }} refuses writes because its dirty space is full.",
        meaning: "Clients see 503 SlowDown and try again; training jobs that write checkpoints are slowed down.",
        action: "As for QuickwaterDirtySpaceFilling. Where waiting is worse than a slow write, set onDirtyLimit to WRITE_THROUGH in the policy of the path.",
        fires: &[series(
            r#"quickwater_persist_dirty_limit_total{instance="n1",outcome="refused"}"#,
            "0+10x30",
        )],
        quiet: &[series(
            r#"quickwater_persist_dirty_limit_total{instance="n1",outcome="through"}"#,
            "0+10x30",
        )],
    },
    Alert {
        name: "QuickwaterDiskErrors",
        severity: "warning",
        expression: "increase(quickwater_store_io_errors_total[15m]) > 0",
        hold: "0m",
        summary: "The cache disk of {{ $labels.instance }} has errors or does not answer in time.",
        meaning: "Reads that fail are served from the UFS; a write or flush that fails makes the store suspect (QuickwaterStoreSuspect).",
        action: "Look at `dmesg` and `smartctl -a`; plan to replace the disk. `quickwater doctor --dir DIR` measures its flushes.",
        fires: &[series(
            r#"quickwater_store_io_errors_total{instance="n1"}"#,
            "0x10 2x20",
        )],
        quiet: &[series(
            r#"quickwater_store_io_errors_total{instance="n1"}"#,
            "2x30",
        )],
    },
    Alert {
        name: "QuickwaterDamagedRecords",
        severity: "warning",
        expression: "increase(quickwater_store_damaged_records_total[15m]) > 0",
        hold: "0m",
        summary: "Checksums of records on the disk of {{ $labels.instance }} failed.",
        meaning: "The disk gave back other bytes than were written. They were never served; clean ones were fetched again.",
        action: "One record in a long time: watch. Several: the disk, its controller or memory is failing; move dirty data out (`quickwater async-persist wait`) and replace it.",
        fires: &[series(
            r#"quickwater_store_damaged_records_total{instance="n1"}"#,
            "0x10 1x20",
        )],
        quiet: &[series(
            r#"quickwater_store_damaged_records_total{instance="n1"}"#,
            "1x30",
        )],
    },
    Alert {
        name: "QuickwaterSlowDown",
        severity: "warning",
        expression: r#"sum by (cluster, job, instance) (rate(quickwater_s3_requests_total{code="503"}[5m])) / sum by (cluster, job, instance) (rate(quickwater_s3_requests_total[5m])) > 0.01"#,
        hold: "5m",
        summary: "{{ $labels.instance }} answers {{ $value | humanizePercentage }} of requests with 503.",
        meaning: "The node is overloaded, its dirty space is full, the UFS is away, or in a cluster an owner of keys is not there.",
        action: "Look at Dirty bytes, Waiting for buffers, UFS requests and Workers by state: one of them shows the cause. Overload: raise `memory`, or spread the clients over more nodes.",
        fires: &[
            series(
                r#"quickwater_s3_requests_total{instance="n1",operation="PutObject",code="503"}"#,
                "0+5x30",
            ),
            series(
                r#"quickwater_s3_requests_total{instance="n1",operation="GetObject",code="200"}"#,
                "0+95x30",
            ),
        ],
        quiet: &[
            series(
                r#"quickwater_s3_requests_total{instance="n1",operation="PutObject",code="503"}"#,
                "0+5x30",
            ),
            series(
                r#"quickwater_s3_requests_total{instance="n1",operation="GetObject",code="200"}"#,
                "0+995x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterServerErrors",
        severity: "warning",
        expression: r#"sum by (cluster, job, instance) (rate(quickwater_s3_requests_total{code="500"}[5m])) > 0"#,
        hold: "5m",
        summary: "{{ $labels.instance }} answers requests with 500 InternalError.",
        meaning: "Something failed that waiting does not mend; the log names it with the request's id.",
        action: "Search the log of the node for the level ERROR; `quickwater doctor --dir DIR` looks at the usual causes.",
        fires: &[series(
            r#"quickwater_s3_requests_total{instance="n1",operation="GetObject",code="500"}"#,
            "0+1x30",
        )],
        quiet: &[series(
            r#"quickwater_s3_requests_total{instance="n1",operation="GetObject",code="404"}"#,
            "0+1x30",
        )],
    },
    Alert {
        name: "QuickwaterReadsSlow",
        severity: "warning",
        expression: r#"histogram_quantile(0.99, sum by (cluster, job, instance, le) (rate(quickwater_s3_request_seconds_bucket{operation="GetObject"}[10m]))) > 2"#,
        hold: "10m",
        summary: "One in a hundred GETs of {{ $labels.instance }} waits {{ $value | humanizeDuration }} for its first byte.",
        meaning: "Mostly misses of a slow UFS; with a high hit ratio the cache disk is slow or the node overloaded.",
        action: "Compare Hit ratio per mount and UFS request time. Load the data before the job starts (`quickwater job load`); look at `iostat -x` for the disk.",
        fires: &[
            series(
                r#"quickwater_s3_request_seconds_bucket{instance="n1",operation="GetObject",le="2.0"}"#,
                "0+9x30",
            ),
            series(
                r#"quickwater_s3_request_seconds_bucket{instance="n1",operation="GetObject",le="5.0"}"#,
                "0+10x30",
            ),
            series(
                r#"quickwater_s3_request_seconds_bucket{instance="n1",operation="GetObject",le="+Inf"}"#,
                "0+10x30",
            ),
        ],
        quiet: &[
            series(
                r#"quickwater_s3_request_seconds_bucket{instance="n1",operation="GetObject",le="0.01"}"#,
                "0+10x30",
            ),
            series(
                r#"quickwater_s3_request_seconds_bucket{instance="n1",operation="GetObject",le="+Inf"}"#,
                "0+10x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterMemoryOverBudget",
        severity: "warning",
        expression: "process_resident_memory_bytes / on (cluster, job, instance) quickwater_memory_budget_bytes > 1.1",
        hold: "10m",
        summary: "{{ $labels.instance }} takes {{ $value | humanizePercentage }} of its memory budget.",
        meaning: "The service keeps within the setting `memory` plus a tenth; more is a fault of ours, and the kernel may end the process.",
        action: "Save `curl http://NODE:29991/metrics` and the log for a report, then restart. Until it is mended lower `memory` so that there is room.",
        fires: &[
            series(
                r#"process_resident_memory_bytes{instance="n1",job="quickwater"}"#,
                "120x30",
            ),
            series(
                r#"quickwater_memory_budget_bytes{instance="n1",job="quickwater"}"#,
                "100x30",
            ),
        ],
        quiet: &[
            series(
                r#"process_resident_memory_bytes{instance="n1",job="quickwater"}"#,
                "105x30",
            ),
            series(
                r#"quickwater_memory_budget_bytes{instance="n1",job="quickwater"}"#,
                "100x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterUfsUnavailable",
        severity: "warning",
        expression: r#"sum by (cluster, job, instance, outcome) (rate(quickwater_ufs_requests_total{outcome=~"unavailable|timeout|access_denied"}[5m])) / on (cluster, job, instance) group_left sum by (cluster, job, instance) (rate(quickwater_ufs_requests_total[5m])) > 0.1 and sum by (cluster, job, instance, outcome) (increase(quickwater_ufs_requests_total{outcome=~"unavailable|timeout|access_denied"}[5m])) > 3"#,
        hold: "5m",
        summary: "{{ $value | humanizePercentage }} of the UFS requests of {{ $labels.instance }} end with {{ $labels.outcome }}.",
        meaning: "The store or file system behind a bucket is away, too slow, or refuses the credentials: more than a tenth of all requests, and more than three in five minutes, so that a request that fails now and then is none. Cached objects are still read; WRITE_BACK goes on while dirty space lasts. Of one bucket among much busier ones tell QuickwaterPersistFailing and QuickwaterSlowDown.",
        action: "`quickwater doctor --dir DIR` asks every mount and says what is wrong. Check the store, the network to it and its credentials.",
        fires: &[
            series(
                r#"quickwater_ufs_requests_total{instance="n1",operation="head",outcome="unavailable"}"#,
                "0+6x30",
            ),
            // Of two buckets one is away, and hardly used.
            series(
                r#"quickwater_ufs_requests_total{instance="n2",operation="head",outcome="timeout"}"#,
                "0+1x30",
            ),
            series(
                r#"quickwater_ufs_requests_total{instance="n2",operation="head",outcome="ok"}"#,
                "0+6x30",
            ),
        ],
        quiet: &[
            series(
                r#"quickwater_ufs_requests_total{instance="n1",operation="head",outcome="not_found"}"#,
                "0+6x30",
            ),
            // One failure in four minutes and its repetition.
            series(
                r#"quickwater_ufs_requests_total{instance="n2",operation="put",outcome="unavailable"}"#,
                "0x3 1x3 2x3 3x3 4x3 5x3 6x3",
            ),
            series(
                r#"quickwater_ufs_requests_total{instance="n2",operation="put",outcome="ok"}"#,
                "0x3 1x3 2x3 3x3 4x3 5x3 6x3",
            ),
            // Many, of many more.
            series(
                r#"quickwater_ufs_requests_total{instance="n3",operation="put",outcome="unavailable"}"#,
                "0+30x30",
            ),
            series(
                r#"quickwater_ufs_requests_total{instance="n3",operation="put",outcome="ok"}"#,
                "0+970x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterUfsMisplaced",
        severity: "critical",
        expression: "quickwater_ufs_misplaced_mounts > 0",
        hold: "1m",
        summary: "Mounts of {{ $labels.instance }} that are not the directory they were written to: {{ $value }}.",
        meaning: "The directory lacks its mark: most likely its file system is not mounted. It is neither read nor written.",
        action: "`quickwater mount list` names it. Mount the file system; it heals within seconds. If the directory was replaced on purpose: `quickwater mount accept BUCKET`.",
        fires: &[series(
            r#"quickwater_ufs_misplaced_mounts{instance="n1"}"#,
            "1x30",
        )],
        quiet: &[series(
            r#"quickwater_ufs_misplaced_mounts{instance="n1"}"#,
            "0x30",
        )],
    },
    Alert {
        name: "QuickwaterCommitsSlow",
        severity: "warning",
        expression: "histogram_quantile(0.99, sum by (cluster, job, instance, le) (rate(quickwater_metadata_commit_seconds_bucket[10m]))) > 0.5",
        hold: "10m",
        summary: "One in a hundred metadata commits at {{ $labels.instance }} takes {{ $value | humanizeDuration }}.",
        meaning: "Every write waits for its commit. The disk of the metadata flushes slowly, or FoundationDB is slow.",
        action: "`quickwater doctor --dir DIR` measures flushes; put the metadata on a disk with power-loss protection. FoundationDB: `fdbcli --exec status details`.",
        fires: &[
            series(
                r#"quickwater_metadata_commit_seconds_bucket{instance="n1",le="0.5"}"#,
                "0+9x30",
            ),
            series(
                r#"quickwater_metadata_commit_seconds_bucket{instance="n1",le="1.0"}"#,
                "0+10x30",
            ),
            series(
                r#"quickwater_metadata_commit_seconds_bucket{instance="n1",le="+Inf"}"#,
                "0+10x30",
            ),
        ],
        quiet: &[
            series(
                r#"quickwater_metadata_commit_seconds_bucket{instance="n1",le="0.01"}"#,
                "0+10x30",
            ),
            series(
                r#"quickwater_metadata_commit_seconds_bucket{instance="n1",le="+Inf"}"#,
                "0+10x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterControlPlaneLost",
        severity: "critical",
        expression: "quickwater_control_connected == 0",
        hold: "1m",
        summary: "{{ $labels.instance }} has no session with its control plane.",
        meaning: "Writes get 503, and reads too once the lease is over, except of what the worker knows.",
        action: "Is the control plane up (`QuickwaterDown`)? Else look at the network and the certificates between them; the worker's log says why it is refused.",
        fires: &[series(
            r#"quickwater_control_connected{instance="n1"}"#,
            "1 0x30",
        )],
        quiet: &[series(
            r#"quickwater_control_connected{instance="n1"}"#,
            "1x30",
        )],
    },
    Alert {
        name: "QuickwaterWorkerSilent",
        severity: "critical",
        expression: r#"max by (cluster, job, instance) (quickwater_cluster_nodes{state="silent"}) > 0"#,
        hold: "2m",
        summary: "Workers that do not renew their leases at {{ $labels.instance }}: {{ $value }}.",
        meaning: "Their leases are over, and their slots are those of the workers that are left: what a UFS has is read and written there. What only they had is answered with 503, never with an older version, until they are back.",
        action: "`quickwater node list` names them. Start them again: what they have is taken in. Only if a machine and its disk are lost for good: `quickwater node remove ID --dry-run` says what is lost with it, and without --dry-run lets those keys be answered with 410.",
        fires: &[series(
            r#"quickwater_cluster_nodes{instance="c",state="silent"}"#,
            "1x30",
        )],
        quiet: &[series(
            r#"quickwater_cluster_nodes{instance="c",state="gone"}"#,
            "1x30",
        )],
    },
    Alert {
        name: "QuickwaterWorkerRefused",
        severity: "critical",
        expression: "max by (cluster, job, instance, reason) (quickwater_cluster_refused_workers) > 0",
        hold: "1m",
        summary: "Workers that {{ $labels.instance }} does not take in ({{ $labels.reason }}): {{ $value }}.",
        meaning: "reason `older`: a worker has seen newer metadata than there are, so those were put back or lost; nobody gets its slots, and what it has is kept. `name`: two processes call themselves the same, as after a directory was copied. `cluster`: a worker of another cluster.",
        action: "`quickwater status` names them and says why. `older`: put the newest metadata back and restart the control plane; only if there are none, `quickwater cluster accept-older --dry-run` says what is given up. `name`: stop one of the two, and give it a directory and a name of its own. `cluster`: start it with the certificates and the directory of one cluster.",
        fires: &[series(
            r#"quickwater_cluster_refused_workers{instance="c",reason="older"}"#,
            "1x30",
        )],
        quiet: &[series(
            r#"quickwater_cluster_refused_workers{instance="c",reason="older"}"#,
            "0x30",
        )],
    },
    Alert {
        name: "QuickwaterCopiesMissing",
        severity: "warning",
        expression: "quickwater_copies_missing_objects > 0",
        hold: "15m",
        summary: "Objects of {{ $labels.instance }} with fewer copies than they were acked with: {{ $value }}.",
        meaning: "A worker that kept copies is gone, or came back without them. They are made again, the oldest first, as long as there are enough workers; until then the loss of one more disk may lose acked bytes.",
        action: "Is `quickwater_copies_missing_objects` falling? Then wait. Else start workers that are away (`quickwater node list`): `writeReplicas` of the path wants so many, in different zones if there are. `quickwater_copies_failed_total` that rises means that copying fails: the log says why, mostly for want of dirty space at the others. What the UFS gets needs no copies: `quickwater async-persist retry`.",
        fires: &[series(
            r#"quickwater_copies_missing_objects{instance="n1"}"#,
            "3x30",
        )],
        quiet: &[series(
            r#"quickwater_copies_missing_objects{instance="n1"}"#,
            "9-1x8 0x21",
        )],
    },
    Alert {
        name: "QuickwaterCertificateExpires",
        severity: "warning",
        expression: "quickwater_tls_certificate_expiry_seconds - time() < 14 * 86400",
        hold: "0m",
        summary: "The certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.",
        meaning: "Clients refuse HTTPS connections from then on.",
        action: "Put new files in the place of `s3.tls.certificate` and `s3.tls.key`; they are taken up without a restart. `quickwater doctor` shows what is in use.",
        fires: &[series(
            r#"quickwater_tls_certificate_expiry_seconds{instance="n1"}"#,
            "1209000x30",
        )],
        quiet: &[series(
            r#"quickwater_tls_certificate_expiry_seconds{instance="n1"}"#,
            "9999999x30",
        )],
    },
    Alert {
        name: "QuickwaterCertificateExpiresSoon",
        severity: "critical",
        expression: "quickwater_tls_certificate_expiry_seconds - time() < 3 * 86400",
        hold: "0m",
        summary: "The certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.",
        meaning: "Clients refuse HTTPS connections from then on; a negative time: they do so now.",
        action: "As for QuickwaterCertificateExpires, now.",
        fires: &[series(
            r#"quickwater_tls_certificate_expiry_seconds{instance="n1"}"#,
            "259000x30",
        )],
        quiet: &[series(
            r#"quickwater_tls_certificate_expiry_seconds{instance="n1"}"#,
            "1209000x30",
        )],
    },
    Alert {
        name: "QuickwaterClusterCertificateExpires",
        severity: "warning",
        expression: "quickwater_cluster_certificate_not_after_timestamp_seconds - time() < 30 * 86400",
        hold: "0m",
        summary: "A certificate of the cluster that {{ $labels.instance }} uses ({{ $labels.certificate }}) expires in {{ $value | humanizeDuration }}.",
        meaning: "`own`: from then on control plane and other workers refuse the process: it loses its lease, and its keys get 503 until others have its slots. `authority`: Quickwater itself goes on, other programs may no longer trust the cluster's certificates.",
        action: "`own`: `quickwater cluster renew --out DIR` where the authority is, copy the new cert.pem to `cluster.certificates` of the process and restart it, one process at a time: it is read at the start only, so the alert ends with the restart. On Kubernetes: put it into the Secret or on the node, then restart the pod. `quickwater doctor --dir DIR` there shows what is in use. `authority`: plan a time in which all processes get new certificates, by another `quickwater cluster init`.",
        fires: &[series(
            r#"quickwater_cluster_certificate_not_after_timestamp_seconds{instance="n1",certificate="own"}"#,
            "2592000x30",
        )],
        quiet: &[series(
            r#"quickwater_cluster_certificate_not_after_timestamp_seconds{instance="n1",certificate="own"}"#,
            "9999999x30",
        )],
    },
    Alert {
        name: "QuickwaterClusterCertificateExpiresSoon",
        severity: "critical",
        expression: r#"quickwater_cluster_certificate_not_after_timestamp_seconds{certificate="own"} - time() < 7 * 86400"#,
        hold: "0m",
        summary: "The certificate of {{ $labels.instance }} in its cluster expires in {{ $value | humanizeDuration }}.",
        meaning: "From then on control plane and other workers refuse the process. Is it that of the control plane, no worker reaches it any more: writes get 503, and reads too once the leases are over. A negative time: it has expired, and only connections that are there already go on.",
        action: "As for QuickwaterClusterCertificateExpires, now; that of the control plane first.",
        fires: &[series(
            r#"quickwater_cluster_certificate_not_after_timestamp_seconds{instance="n1",certificate="own"}"#,
            "604000x30",
        )],
        quiet: &[
            series(
                r#"quickwater_cluster_certificate_not_after_timestamp_seconds{instance="n1",certificate="own"}"#,
                "2592000x30",
            ),
            series(
                r#"quickwater_cluster_certificate_not_after_timestamp_seconds{instance="n1",certificate="authority"}"#,
                "604000x30",
            ),
        ],
    },
    Alert {
        name: "QuickwaterRebuildNotesFailed",
        severity: "warning",
        expression: "increase(quickwater_rebuild_notes_failed_total[15m]) > 0",
        hold: "0m",
        summary: "Commits of {{ $labels.instance }} have no note on its cache disk.",
        meaning: "Nothing is lost now. Notes are tried again; should the metadata be lost while quickwater_rebuild_notes_waiting is above 0 and the UFS does not have these changes, a rebuild does not know them.",
        action: "The cache disk is full of what may not be evicted, or fails: see QuickwaterDirtySpaceFilling and QuickwaterDiskErrors. `quickwater async-persist wait` ends the danger.",
        fires: &[series(
            r#"quickwater_rebuild_notes_failed_total{instance="n1"}"#,
            "0x10 4x20",
        )],
        quiet: &[series(
            r#"quickwater_rebuild_notes_failed_total{instance="n1"}"#,
            "4x30",
        )],
    },
];
