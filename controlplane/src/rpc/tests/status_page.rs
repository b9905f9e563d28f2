//! The status page, its document and the path tester, on the port of gRPC.

use quickwater_proto::PendingChange;

use super::persist::change;
use super::rest::bearer;
use super::*;
use crate::cluster::Rates;

#[tokio::test]
async fn the_document_wants_the_token_and_holds_what_admins_see() {
    let served = Served::start().await;
    for headers in [&[][..], &["Authorization: Bearer wrong"]] {
        let reply = served.http("GET /api/v1/status", headers, "").await;
        assert_eq!(reply.status, 401);
        assert!(!reply.body.contains("n1"), "{}", reply.body);
    }
    let id = served.bucket("abc").await;
    let put = PendingChange::Put { size: 9 };
    let mut changes: Vec<_> = (0..25i64)
        .map(|i| change(id, &format!("k{i:02}"), put))
        .collect();
    for (at, since) in changes.iter_mut().zip((1..=25).rev()) {
        at.pending.since_ms = since;
    }
    changes[24].error = Some("<b>refused</b>".into());
    *served.world.pending.changes.lock().unwrap() = changes;
    let token = bearer();
    let reply = served.http("GET /api/v1/status", &[&token], "").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(reply.head.contains("cache-control: no-store"));
    let shown = reply.json();
    assert_eq!(shown["version"], "1.2.3");
    assert_eq!(shown["uptime_ms"], 1_500);
    assert_eq!(shown["nodes"][0]["name"], "n1");
    assert_eq!(shown["mounts"][0]["bucket"], "abc");
    assert_eq!(shown["mounts"][0]["uri"], "file:///ufs/abc");
    assert!(shown["mounts"][0].get("options").is_none());
    assert_eq!(shown["policies"]["version"], 0);
    let persist = &shown["persist"];
    assert_eq!(persist["totals"]["puts"], 25);
    assert_eq!(persist["looked_through"], 25);
    assert_eq!(persist["all"], true);
    let oldest = persist["oldest"].as_array().unwrap();
    let keys: Vec<_> = oldest.iter().map(|c| c["key"].as_str().unwrap()).collect();
    let wanted: Vec<_> = (5..25).rev().map(|i| format!("k{i:02}")).collect();
    assert_eq!(keys, wanted, "the twenty oldest, oldest first");
    assert_eq!(oldest[0]["bytes"], 9);
    assert_eq!(oldest[0]["error"], "<b>refused</b>");
    assert!(shown["jobs"].as_array().unwrap().is_empty());
    assert!(!reply.body.contains(TOKEN));
}

#[tokio::test]
async fn more_changes_than_are_looked_through_are_said_to_be_more() {
    let served = Served::start().await;
    let id = served.bucket("abc").await;
    let changes = (0..1_001).map(|i| change(id, &format!("k{i:04}"), PendingChange::Delete));
    *served.world.pending.changes.lock().unwrap() = changes.collect();
    let reply = served.http("GET /api/v1/status", &[&bearer()], "").await;
    let persist = &reply.json()["persist"];
    assert_eq!(persist["looked_through"], 1_000);
    assert_eq!(persist["all"], false);
    assert_eq!(persist["totals"]["puts"], 1_001);
}

#[tokio::test]
async fn a_cluster_before_its_first_worker_is_shown() {
    let served = Served::start().await;
    served.world.workerless.store(true, Ordering::Relaxed);
    let reply = served.http("GET /api/v1/status", &[&bearer()], "").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let shown = reply.json();
    assert_eq!(shown["nodes"], serde_json::json!([]));
    assert_eq!(shown["persist"]["totals"]["puts"], 0);
}

#[tokio::test]
async fn what_workers_moved_is_shown_with_its_gaps() {
    let served = Served::start().await;
    let shown = async || {
        let reply = served.http("GET /api/v1/status", &[&bearer()], "").await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    };
    // One process: the page looks at its counters.
    let page = shown().await;
    assert!(page["traffic"].is_null() && page["nodes"][0]["traffic"].is_null());
    let moved = |each: f64| {
        Some(Rates {
            sent_bytes: each,
            received_bytes: each / 2.0,
            requests: each / 16.0,
            persisted_bytes: 0.0,
        })
    };
    let workers = [
        ("n1", vec![moved(10.4), None, moved(20.0)]),
        ("n2", vec![None, None, moved(1.0)]),
    ];
    let named = workers.map(|(name, steps)| (name.to_owned(), steps));
    *served.world.history.lock().unwrap() = Some(History {
        step: Duration::from_secs(5),
        workers: named.into(),
    });
    let page = shown().await;
    let one = &page["nodes"][0]["traffic"];
    assert_eq!(one["sent_bytes"], serde_json::json!([10, null, 20]));
    assert_eq!(one["received_bytes"], serde_json::json!([5, null, 10]));
    assert_eq!(one["requests"], serde_json::json!([0.7, null, 1.3]));
    let all = &page["traffic"];
    assert_eq!(all["step_ms"], 5_000);
    assert_eq!(all["sent_bytes"], serde_json::json!([10, null, 21]));
    assert_eq!(all["persisted_bytes"], serde_json::json!([0, null, 0]));
    assert_eq!(all["missing"], serde_json::json!([1, 2, 0]));
    assert_eq!(all["worker_steps"], 120);
    // Of many workers each is shown for a shorter time, the sum as ever.
    let many = (1..=150).map(|at| (format!("n{at}"), vec![moved(1.0); 120]));
    *served.world.history.lock().unwrap() = Some(History {
        step: Duration::from_secs(5),
        workers: many.collect(),
    });
    let page = shown().await;
    let length = |value: &serde_json::Value| value["sent_bytes"].as_array().unwrap().len();
    assert_eq!(page["traffic"]["worker_steps"], 24);
    assert_eq!(length(&page["nodes"][0]["traffic"]), 24);
    assert_eq!(length(&page["traffic"]), 120);
}

#[tokio::test]
async fn the_page_is_open_and_lets_nothing_foreign_run() {
    let served = Served::start().await;
    for (path, media) in [
        ("/status", "text/html"),
        ("/status.css", "text/css"),
        ("/status.js", "text/javascript"),
    ] {
        let reply = served.http(&format!("GET {path}"), &[], "").await;
        assert_eq!(reply.status, 200);
        for header in [
            &format!("content-type: {media}; charset=utf-8"),
            "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self';",
            "x-content-type-options: nosniff",
        ] {
            assert!(reply.head.contains(header), "{path}: {}", reply.head);
        }
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "http://e",
        ] {
            assert!(!reply.body.contains(way), "{path} has {way}");
        }
    }
}

#[tokio::test]
async fn the_address_alone_leads_to_the_page() {
    let served = Served::start().await;
    for path in ["/", "/status/"] {
        let reply = served.http(&format!("GET {path}"), &[], "").await;
        assert_eq!(reply.status, 307);
        assert!(
            reply.head.contains("location: /status\r\n"),
            "{}",
            reply.head
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_plainly_said_to_be_not_there() {
    let served = Served::start().await;
    let token = bearer();
    for path in [
        "/statusx",
        "/favicon.ico",
        "/status/x",
        "/api",
        "/api/",
        "/api/v1/none",
        "/quickwater.admin.v1.Admin/Status",
    ] {
        for headers in [&[][..], &[token.as_str()]] {
            let reply = served.http(&format!("GET {path}"), headers, "").await;
            assert_eq!(reply.status, 404, "{path}: {}", reply.head);
            assert!(!reply.head.contains("grpc"), "{path}: {}", reply.head);
            if path.starts_with("/api") {
                assert_eq!(reply.json()["error"]["code"], "NotFound", "{path}");
            }
        }
    }
    // Nor is a way to ask that no call has.
    for (line, allowed) in [
        ("DELETE /api/v1/status", "get"),
        ("GET /api/v1/conf/test", "post"),
        ("POST /status", "get"),
    ] {
        let reply = served.http(line, &[], "").await;
        assert_eq!(reply.status, 405, "{line}");
        assert_eq!(reply.json()["error"]["code"], "MethodNotAllowed", "{line}");
        let allow = reply.head.lines().find(|head| head.starts_with("allow:"));
        assert!(
            allow.is_some_and(|head| head.contains(allowed)),
            "{}",
            reply.head
        );
    }
}

#[tokio::test]
async fn a_path_is_tested_like_the_command_line_does() {
    let served = Served::start().await;
    let token = bearer();
    let ask = async |headers: &[&str], body: &str| {
        served.http("POST /api/v1/conf/test", headers, body).await
    };
    let reply = ask(&[&token], r#"{"path":"/abc/key"}"#).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["policy_mode"], "WRITE_THROUGH");
    assert_eq!(reply.json()["rule_path"], "");
    assert_eq!(ask(&[], r#"{"path":"/abc/key"}"#).await.status, 401);
    let long = format!(r#"{{"path":"/{}"}}"#, "a".repeat(9_000));
    for bad in [
        "",
        "{}",
        r#"{"path":1}"#,
        "nonsense",
        r#"{"path":"no slash"}"#,
        &long,
    ] {
        let reply = ask(&[&token], bad).await;
        assert_eq!(reply.status, 400, "{bad}: {}", reply.body);
        assert!(reply.json()["error"]["message"].is_string());
    }
}
