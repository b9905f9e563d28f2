//! Metrics: names follow the rules, values arrive, the page is current.

use std::time::Duration;

use quickwater_engine::CacheResult;

use super::*;

#[test]
fn names_are_unique_and_follow_the_conventions() {
    for (at, definition) in DEFINITIONS.iter().enumerate() {
        let name = definition.name;
        assert!(DEFINITIONS[..at].iter().all(|d| d.name != name), "{name}");
        let counter = definition.kind == Kind::Counter;
        assert_eq!(name.ends_with("_total"), counter, "{name}");
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        );
        assert!(
            definition.help.ends_with('.') && !definition.help.contains('|'),
            "{name}"
        );
    }
    assert!(OPERATIONS[..OPERATIONS.len() - 1].is_sorted());
}

/// All names that are taken by the family of a metric: its own, and those of its samples, also
/// of those that OpenMetrics only allows.
fn names(definition: &Definition) -> Vec<String> {
    let name = definition.name;
    let (family, suffixes): (_, &[&str]) = match definition.kind {
        Kind::Counter => (
            name.strip_suffix("_total").unwrap(),
            &["_total", "_created"],
        ),
        Kind::Gauge => (name, &[]),
        Kind::Histogram => (name, &["_bucket", "_count", "_sum", "_created"]),
    };
    let samples = suffixes.iter().map(|suffix| format!("{family}{suffix}"));
    [family.to_owned()].into_iter().chain(samples).collect()
}

#[test]
fn no_family_has_a_name_of_another() {
    let mut taken = std::collections::HashMap::new();
    for definition in DEFINITIONS {
        for name in names(definition) {
            let before = taken.insert(name, definition.name);
            assert_eq!(before, None, "clashes with {}", definition.name);
        }
    }
}

#[test]
fn plain_text_names_counters_in_full() {
    let metrics = Metrics::new();
    metrics.request("GetObject", 200, Duration::from_millis(3));
    let text = metrics.encode_plain();
    for line in [
        "# TYPE quickwater_s3_requests_total counter",
        "# HELP quickwater_s3_requests_total S3 requests answered, by operation and HTTP status",
        "quickwater_s3_requests_total{operation=\"GetObject\",code=\"200\"} 1",
        "# TYPE quickwater_s3_request_seconds histogram",
        "# TYPE process_threads gauge",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(text.ends_with('\n') && !text.contains("# EOF"), "{text}");
    // Help is escaped by other rules there: it has nothing to escape.
    let special = ['"', '\\', '\n'];
    assert!(DEFINITIONS.iter().all(|d| !d.help.contains(special)));
}

#[test]
fn totals_are_sums_but_for_points_in_time() {
    let mut samples = Samples::default();
    let expiry = Metric::ClusterCertificateNotAfter;
    samples.count(expiry, &["authority"], 2_000);
    samples.count(expiry, &["own"], 1_000);
    samples.count(Metric::PeerConnections, &["out"], 3);
    samples.count(Metric::PeerConnections, &["in"], 4);
    let found = samples.totals();
    let wanted = [
        ("quickwater_peer_open_connections", 7.0),
        (
            "quickwater_cluster_certificate_not_after_timestamp_seconds",
            1_000.0,
        ),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn metrics_are_exported_under_their_names() {
    let mut samples = Samples::default();
    for (metric, definition) in ALL.iter().zip(DEFINITIONS) {
        let labels = vec!["x"; definition.labels.len()];
        match definition.kind {
            Kind::Counter | Kind::Gauge => samples.count(*metric, &labels, 1),
            Kind::Histogram => {
                let (sum, buckets) = (1.0, vec![(f64::INFINITY, 1)]);
                samples.histogram(*metric, &labels, Histogram { sum, buckets });
            }
        }
    }
    let text = samples.encoded();
    for definition in DEFINITIONS {
        let suffix = match definition.kind {
            Kind::Histogram => "_count",
            Kind::Counter | Kind::Gauge => "",
        };
        let name = format!("{}{suffix}", definition.name);
        let is_it = |line: &str| {
            let rest = line.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        assert!(text.lines().any(is_it), "{name}");
    }
}

#[test]
fn requests_are_counted_by_operation_and_code() {
    let metrics = Metrics::new();
    metrics.request("GetObject", 200, Duration::from_micros(150));
    metrics.request("GetObject", 200, Duration::from_millis(3));
    metrics.request("GetObject", 404, Duration::from_micros(10));
    metrics.request("NoSuchOperation", 299, Duration::from_secs(100));
    metrics.cache(CacheResult::Partial);
    let text = metrics.encode();
    for line in [
        "quickwater_s3_requests_total{operation=\"GetObject\",code=\"200\"} 2",
        "quickwater_s3_requests_total{operation=\"GetObject\",code=\"404\"} 1",
        "quickwater_s3_requests_total{operation=\"other\",code=\"0\"} 1",
        "quickwater_s3_request_seconds_bucket{le=\"0.0001\",operation=\"GetObject\"} 1",
        "quickwater_s3_request_seconds_bucket{le=\"0.0002\",operation=\"GetObject\"} 2",
        "quickwater_s3_request_seconds_bucket{le=\"+Inf\",operation=\"GetObject\"} 3",
        "quickwater_s3_request_seconds_bucket{le=\"30.0\",operation=\"other\"} 0",
        "quickwater_s3_request_seconds_count{operation=\"GetObject\"} 3",
        "quickwater_cache_requests_total{result=\"partial\"} 1",
        "quickwater_cache_requests_total{result=\"hit\"} 0",
        "# TYPE quickwater_s3_requests counter",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("PutObject"));
}

#[test]
fn gets_are_counted_by_mount() {
    let metrics = std::sync::Arc::new(Metrics::new());
    let (one, other) = (
        MountCounts::new(std::sync::Arc::clone(&metrics)),
        MountCounts::new(std::sync::Arc::clone(&metrics)),
    );
    one.count("photos", CacheResult::Hit);
    one.count("photos", CacheResult::Miss);
    other.count("photos", CacheResult::Hit);
    let text = metrics.encode();
    for line in [
        "quickwater_mount_requests_total{bucket=\"photos\",result=\"hit\"} 2",
        "quickwater_mount_requests_total{bucket=\"photos\",result=\"miss\"} 1",
        "quickwater_mount_requests_total{bucket=\"photos\",result=\"partial\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let others = format!("bucket=\"{}\"", mounts::OTHERS);
    assert!(!text.contains(&others), "{text}");
}

#[test]
fn mounts_beyond_the_limit_are_counted_together() {
    let metrics = std::sync::Arc::new(Metrics::new());
    let (one, other) = (
        MountCounts::new(std::sync::Arc::clone(&metrics)),
        MountCounts::new(std::sync::Arc::clone(&metrics)),
    );
    for at in 0..mounts::NAMED_MAX + 3 {
        one.count(&format!("b{at}"), CacheResult::Hit);
    }
    // Named for all shards or for none, be a shard's own table full or not.
    other.count(&format!("b{}", mounts::NAMED_MAX), CacheResult::Hit);
    other.count("b0", CacheResult::Hit);
    let text = metrics.encode();
    let series = text.matches("quickwater_mount_requests_total{").count();
    assert_eq!(series, 3 * (mounts::NAMED_MAX + 1));
    for line in [
        "quickwater_mount_requests_total{bucket=\"_others\",result=\"hit\"} 4",
        "quickwater_mount_requests_total{bucket=\"b0\",result=\"hit\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn the_process_is_seen() {
    let totals = Metrics::new().samples().totals();
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_threads",
        "quickwater_build_info",
    ] {
        let found = totals.iter().find(|(n, _)| *n == name);
        assert!(found.is_some_and(|(_, value)| *value >= 1.0), "{name}");
    }
    assert!(
        totals
            .iter()
            .any(|(n, _)| *n == "process_cpu_seconds_total")
    );
}

#[test]
fn sources_are_asked_at_every_scrape() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let metrics = Metrics::new();
    let bytes = Arc::new(AtomicU64::new(5));
    let seen = Arc::clone(&bytes);
    metrics.collect(move |samples| {
        samples.count(Metric::UfsReadBytes, &[], seen.load(Ordering::Relaxed));
        samples.count(Metric::UfsRequests, &["read", "say \"no\"\n"], 1);
        samples.number(Metric::StoreRecoverySeconds, &[], 0.5);
    });
    assert!(
        metrics
            .encode()
            .contains("\nquickwater_ufs_read_bytes_total 5\n")
    );
    bytes.store(9, Ordering::Relaxed);
    let text = metrics.encode();
    assert!(text.contains("\nquickwater_ufs_read_bytes_total 9\n"));
    assert!(text.contains("quickwater_store_recovery_seconds 0.5\n"));
    assert!(text.contains(r#"outcome="say \"no\"\n""#), "{text}");
}

#[test]
fn every_operation_of_the_dialect_is_known() {
    let source = include_str!("../../../s3/src/request/operation.rs");
    let names = source.split("fn name(").nth(1).unwrap();
    let names = names.split("\n    }\n").next().unwrap();
    let mut found = 0;
    for name in names.split("=> \"").skip(1) {
        let name = name.split('"').next().unwrap();
        assert!(OPERATIONS.contains(&name), "{name}");
        found += 1;
    }
    assert!(found > 20, "{found}");
}

/// `QUICKWATER_UPDATE_DOCS=1 cargo test` rewrites the page.
#[test]
fn the_metrics_page_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("QUICKWATER_UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page(),
        "docs/metrics.md is stale; run the tests with QUICKWATER_UPDATE_DOCS=1"
    );
}
