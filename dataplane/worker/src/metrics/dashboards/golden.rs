//! The dashboard to look at first: ten signals that say how a node does, then what
//! stands behind them.

use super::grafana::{Dashboard, Panel, Row, query};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "quickwater",
        title: "Quickwater",
        description: "Golden signals of Quickwater nodes.",
        rows: vec![
            row("Golden signals", SIGNALS),
            row("Behind them", BEHIND),
            row("Cluster", CLUSTER),
        ],
    }
}

/// Title, unit, description, queries and their legends.
type Plan = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

fn row(title: &str, plans: &[Plan]) -> Row {
    let panel = |&(title, unit, description, queries): &Plan| Panel {
        title: title.to_owned(),
        description: description.to_owned(),
        unit,
        queries: queries.iter().map(|(q, legend)| query(q, legend)).collect(),
    };
    Row {
        title: title.to_owned(),
        panels: plans.iter().map(panel).collect(),
    }
}

const SIGNALS: &[Plan] = &[
    (
        "Hit ratio per mount",
        "percentunit",
        "Share of GETs whose bytes were all in the cache. Nothing is drawn while a mount is not read.",
        &[(
            r#"sum by (bucket) (rate(quickwater_mount_requests_total{*,result="hit"}[*])) / sum by (bucket) (rate(quickwater_mount_requests_total{*}[*]))"#,
            "{{bucket}}",
        )],
    ),
    (
        "Throughput",
        "Bps",
        "Bytes of S3 clients, heads and framing included: sent is mostly GET, received mostly PUT.",
        &[
            (
                "sum(rate(quickwater_s3_bytes_sent_total{*}[*]))",
                "sent (GET)",
            ),
            (
                "sum(rate(quickwater_s3_bytes_received_total{*}[*]))",
                "received (PUT)",
            ),
        ],
    ),
    (
        "Time to answer, p99",
        "s",
        "From the arrival of a request head until its answer began: a PUT's whole work, a GET's first byte.",
        &[(
            r#"histogram_quantile(0.99, sum by (le, operation) (rate(quickwater_s3_request_seconds_bucket{*,operation=~"GetObject|HeadObject|PutObject|UploadPart|CompleteMultipartUpload|ListObjectsV2"}[*])))"#,
            "{{operation}}",
        )],
    ),
    (
        "Dirty bytes",
        "bytes",
        "Acked bytes that only the node's disk has, and the most it may hold of them.",
        &[
            ("quickwater_persist_dirty_bytes{*}", "{{instance}}"),
            (
                "quickwater_store_dirty_limit_bytes{*}",
                "limit of {{instance}}",
            ),
        ],
    ),
    (
        "Oldest dirty age",
        "s",
        "How long the UFS has been behind for the oldest change; 0: nothing is pending.",
        &[("quickwater_persist_oldest_seconds{*}", "{{instance}}")],
    ),
    (
        "Persist lag, p99",
        "s",
        "From the first ack of a key that the UFS did not have until it had the last one.",
        &[(
            "histogram_quantile(0.99, sum by (le, instance) (rate(quickwater_persist_lag_seconds_bucket{*}[*])))",
            "{{instance}}",
        )],
    ),
    (
        "Persist failures",
        "ops",
        "Attempts to tell a UFS that failed; they are repeated. Lost: acked bytes are missing.",
        &[(
            r#"sum by (instance, outcome) (rate(quickwater_persist_attempts_total{*,outcome!="ok"}[*]))"#,
            "{{outcome}} {{instance}}",
        )],
    ),
    (
        "Relay ratio",
        "percentunit",
        "Share of clients' requests that were passed on to the worker that owns the key. No cluster, no line.",
        &[(
            r#"sum by (instance) (rate(quickwater_peer_calls_total{*,task="relay"}[*])) / sum by (instance) (rate(quickwater_s3_http_requests_total{*}[*]))"#,
            "{{instance}}",
        )],
    ),
    (
        "Disk errors",
        "short",
        "Operations of the cache disk that failed and records whose checksum failed, in five minutes. Suspect is 1 when the store takes no more writes.",
        &[
            (
                "increase(quickwater_store_io_errors_total{*}[5m])",
                "errors {{instance}}",
            ),
            (
                "increase(quickwater_store_damaged_records_total{*}[5m])",
                "damaged {{instance}}",
            ),
            ("quickwater_store_suspect{*}", "suspect {{instance}}"),
        ],
    ),
    (
        "Memory",
        "bytes",
        "Resident memory and what the service plans with.",
        &[
            ("process_resident_memory_bytes{*}", "{{instance}}"),
            (
                "quickwater_memory_budget_bytes{*}",
                "budget of {{instance}}",
            ),
        ],
    ),
    (
        "Commit latency, p99",
        "s",
        "How long metadata commits take, their turn and the flush included, where the control plane runs.",
        &[(
            "histogram_quantile(0.99, sum by (le, instance) (rate(quickwater_metadata_commit_seconds_bucket{*}[*])))",
            "{{instance}}",
        )],
    ),
    (
        "503 rate",
        "percentunit",
        "Share of requests answered with 503: overload, a full dirty space, an owner that is away.",
        &[(
            r#"(sum by (instance) (rate(quickwater_s3_requests_total{*,code="503"}[*])) or 0 * sum by (instance) (rate(quickwater_s3_requests_total{*}[*]))) / sum by (instance) (rate(quickwater_s3_requests_total{*}[*]))"#,
            "{{instance}}",
        )],
    ),
];

const BEHIND: &[Plan] = &[
    (
        "Requests",
        "reqps",
        "S3 requests answered, by operation.",
        &[(
            "sum by (operation) (rate(quickwater_s3_requests_total{*}[*]))",
            "{{operation}}",
        )],
    ),
    (
        "Answers by status",
        "reqps",
        "S3 requests answered, by HTTP status.",
        &[(
            "sum by (code) (rate(quickwater_s3_requests_total{*}[*]))",
            "{{code}}",
        )],
    ),
    (
        "Ready",
        "short",
        "1 while a node takes requests.",
        &[("quickwater_ready{*}", "{{instance}}")],
    ),
    (
        "Cache",
        "bytes",
        "Live bytes in the store, those that may not be evicted, and its size.",
        &[
            ("quickwater_store_used_bytes{*}", "used {{instance}}"),
            ("quickwater_store_pinned_bytes{*}", "pinned {{instance}}"),
            ("quickwater_store_capacity_bytes{*}", "size {{instance}}"),
        ],
    ),
    (
        "Records that may not be evicted",
        "short",
        "Of small objects their number is the limit of dirty space, not their bytes: those that the UFS does not have or that are TRANSIENT, those being written, and the most there may be.",
        &[
            (
                "quickwater_store_pinned_records{*} + quickwater_store_reserved_records{*}",
                "{{instance}}",
            ),
            (
                "quickwater_store_dirty_limit_records{*}",
                "limit of {{instance}}",
            ),
        ],
    ),
    (
        "Object bytes by source",
        "Bps",
        "Bytes sent to clients by where they came from.",
        &[(
            "sum by (source) (rate(quickwater_cache_bytes_total{*}[*]))",
            "{{source}}",
        )],
    ),
    (
        "UFS requests",
        "reqps",
        "Requests to UFSs by operation and how they ended.",
        &[(
            "sum by (operation, outcome) (rate(quickwater_ufs_requests_total{*}[*]))",
            "{{operation}} {{outcome}}",
        )],
    ),
    (
        "UFS request time, mean",
        "s",
        "Per request that ended, waiting for the caller included.",
        &[(
            "sum by (operation) (rate(quickwater_ufs_request_seconds_total{*}[*])) / (sum by (operation) (rate(quickwater_ufs_requests_total{*}[*])) > 0)",
            "{{operation}}",
        )],
    ),
    (
        "Waiting for buffers",
        "short",
        "Tasks that wait for an IO buffer now.",
        &[("quickwater_buffers_waiting{*}", "{{instance}}")],
    ),
    (
        "CPU",
        "short",
        "Cores the process keeps busy.",
        &[("rate(process_cpu_seconds_total{*}[*])", "{{instance}}")],
    ),
];

const CLUSTER: &[Plan] = &[
    (
        "Workers by state",
        "short",
        "As the control plane sees them.",
        &[("max by (state) (quickwater_cluster_nodes{*})", "{{state}}")],
    ),
    (
        "Slots owned",
        "short",
        "Of 16,384.",
        &[("quickwater_slots_owned{*}", "{{instance}}")],
    ),
    (
        "Lease left",
        "s",
        "At 0 a worker answers 503 for its own keys.",
        &[("quickwater_lease_seconds{*}", "{{instance}}")],
    ),
    (
        "Calls between workers",
        "ops",
        "By what they ask for.",
        &[(
            "sum by (task) (rate(quickwater_peer_calls_total{*}[*]))",
            "{{task}}",
        )],
    ),
    (
        "Failed calls between workers",
        "ops",
        "By reason; those that were not begun are tried again for a while.",
        &[(
            "sum by (reason) (rate(quickwater_peer_failures_total{*}[*]))",
            "{{reason}}",
        )],
    ),
    (
        "Calls of the control plane",
        "ops",
        "Metadata calls of workers, and those given up.",
        &[
            (
                "sum by (instance) (rate(quickwater_control_calls_total{*}[*]))",
                "{{instance}}",
            ),
            (
                "sum by (instance, reason) (rate(quickwater_control_failures_total{*}[*]))",
                "{{reason}} {{instance}}",
            ),
        ],
    ),
];
