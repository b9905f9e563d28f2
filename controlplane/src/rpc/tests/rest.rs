//! `/api/v1/conf` over HTTP/1.1, on the port of gRPC.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::policies::DOCUMENT_BYTES_MAX;

const READ_ONLY: &str =
    r#"{"apiVersion":"v1.0","pathRules":[{"path":"/frozen/**","policyMode":"READ_ONLY"}]}"#;

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }
}

impl Served {
    pub(super) async fn http(&self, line: &str, headers: &[&str], body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        request.push_str(body);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }
}

pub(super) fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}")
}

#[tokio::test]
async fn get_and_put_speak_json_and_versions() {
    let served = Served::start().await;
    let token = bearer();
    let first = served.http("GET /api/v1/conf", &[&token], "").await;
    assert_eq!(first.status, 200);
    assert!(first.head.contains("etag: \"0\"") && first.head.contains("application/json"));
    assert_eq!(first.json()["defaultRule"]["policyMode"], "WRITE_THROUGH");

    let set = served
        .http("PUT /api/v1/conf", &[&token, "If-Match: \"0\""], READ_ONLY)
        .await;
    assert_eq!(set.status, 200, "{}", set.body);
    assert_eq!(set.json()["version"], 1);
    assert_eq!(set.json()["warnings"][0]["field"], "$.pathRules[0].path");
    assert!(set.head.contains("etag: \"1\""));
    {
        let (version, table) = served.world.policies.lock().unwrap().clone();
        assert_eq!(version, 1);
        assert_eq!(table.policy("frozen", "k").mode, PolicyMode::ReadOnly);
    }

    let stale = served
        .http("PUT /api/v1/conf", &[&token, "If-Match: \"0\""], READ_ONLY)
        .await;
    assert_eq!(stale.status, 409);
    assert_eq!(stale.json()["error"]["code"], "StaleVersion");
    assert_eq!(stale.json()["error"]["currentVersion"], 1);

    for any in [&[token.as_str(), "If-Match: *"][..], &[&token]] {
        assert_eq!(
            served.http("PUT /api/v1/conf", any, READ_ONLY).await.status,
            200
        );
    }
    let now = served.http("GET /api/v1/conf", &[&token], "").await;
    assert!(now.head.contains("etag: \"3\""));
    assert_eq!(now.json()["pathRules"][0]["path"], "/frozen/**");
    let old = served
        .http("GET /api/v1/conf?version=0", &[&token], "")
        .await;
    assert_eq!(old.json()["pathRules"], serde_json::json!([]));
    let history = served.namespace.policy_history().await.unwrap();
    assert!(
        history[0].1.by.starts_with("REST (from 127.0.0.1:"),
        "{history:?}"
    );
}

#[tokio::test]
async fn bad_calls_are_refused_with_the_field() {
    let served = Served::start().await;
    let token = bearer();
    let put = async |headers: &[&str], body: &str| {
        let reply = served.http("PUT /api/v1/conf", headers, body).await;
        (reply.status, reply.json()["error"].clone())
    };
    let bad = READ_ONLY.replace("READ_ONLY", "NONE");
    let (status, error) = put(&[&token], &bad).await;
    assert_eq!((status, &error["code"]), (400, &"InvalidDocument".into()));
    assert_eq!(error["problems"][0]["field"], "$.pathRules[0].policyMode");
    let (status, error) = put(&[&token], "{").await;
    assert_eq!((status, &error["problems"][0]["field"]), (400, &"$".into()));
    let (status, error) = put(&[&token, "If-Match: W/x"], READ_ONLY).await;
    assert_eq!((status, &error["code"]), (400, &"BadRequest".into()));
    let large = " ".repeat(DOCUMENT_BYTES_MAX + 1);
    let (status, error) = put(&[&token], &large).await;
    assert_eq!((status, &error["code"]), (413, &"TooLarge".into()));

    let wrong = format!("Authorization: Bearer {}", "0".repeat(TOKEN.len()));
    for headers in [&[][..], &[wrong.as_str()], &["Authorization: Basic eDp5"]] {
        for line in ["GET /api/v1/conf", "PUT /api/v1/conf"] {
            let reply = served.http(line, headers, READ_ONLY).await;
            assert_eq!(reply.status, 401, "{line} {headers:?}");
            assert!(reply.head.contains("www-authenticate: bearer"));
            assert_eq!(reply.json()["error"]["code"], "Unauthenticated");
        }
    }
    for (query, status) in [("?version=9", 404), ("?version=x", 400), ("?x=1", 400)] {
        let line = format!("GET /api/v1/conf{query}");
        assert_eq!(
            served.http(&line, &[&token], "").await.status,
            status,
            "{query}"
        );
    }
    let other = served.http("DELETE /api/v1/conf", &[&token], "").await;
    assert_eq!(other.status, 405);
    for line in ["GET /api/v1/jobs", "PUT /api/v1/conf/x", "GET /api/v2/conf"] {
        assert_eq!(served.http(line, &[&token], "").await.status, 404, "{line}");
    }
    assert_eq!(served.namespace.policy_version().await, Ok(0));
}
