//! Heads are judged by the service's own reading of signatures.

use quickwater_s3::RequestView;
use quickwater_s3::auth::{AuthMode, AuthPolicy, Credentials, SigningKeyCache, authenticate};

use super::*;
use crate::client::call::Expect;
use crate::client::{Address, Keys, Trust};
use crate::workload::Sizes;

struct One;

impl Credentials for One {
    fn secret(&self, access_key: &str) -> Option<&str> {
        (access_key == "AK").then_some("a secret")
    }
}

const NOW: i64 = 1_790_000_000;

fn target(keys: bool) -> Target {
    Target {
        address: Address::parse("http://127.0.0.1:9", &Trust::default()).unwrap(),
        bucket: "b".into(),
        region: "eu-central-1".into(),
        keys: keys.then(|| Keys {
            access_key_id: "AK".into(),
            secret_access_key: "a secret".into(),
        }),
        sign_payload: true,
    }
}

fn space() -> KeySpace {
    KeySpace::new("bench/ü +x/", "get", Sizes::Fixed(1000), 1)
}

/// Whether the service would believe the head.
fn believed(head: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    assert!(parsed.parse(head).unwrap().is_complete());
    let view = RequestView {
        method: parsed.method.unwrap(),
        target: parsed.path.unwrap(),
        headers: parsed.headers,
    };
    let policy = AuthPolicy {
        mode: AuthMode::Verify,
        anonymous: false,
    };
    let found = authenticate(&view, policy, &One, NOW * 1000, &mut SigningKeyCache::new());
    found.is_ok()
}

fn calls() -> Vec<Call> {
    let piece = Piece {
        content: 5,
        offset: 3,
        length: 300_000,
    };
    let mut range = Call::new(Method::Get, Some(7), Expect::Piece(piece));
    range.range = Some((3, 10));
    let mut put = Call::new(Method::Put, Some(7), Expect::Success);
    put.upload = Upload::Piece(piece);
    put.tag = true;
    let mut list = Call::new(Method::Get, None, Expect::Page(3, 3));
    list.query = format!("list-type=2&prefix={}", query_value("a b/ü+&"));
    let mut complete = Call::new(Method::Post, Some(7), Expect::Success);
    complete.query = "uploadId=abc%2F".into();
    complete.upload = Upload::Text("<a/>".into());
    vec![
        Call::new(Method::Get, Some(7), Expect::Piece(piece)),
        Call::new(Method::Head, Some(7), Expect::Head(3)),
        range,
        put,
        list,
        complete,
    ]
}

#[test]
fn the_service_believes_every_kind_of_head() {
    let (target, content) = (target(true), Content::new());
    let mut heads = Heads::new(&target, &content);
    heads.set_time(NOW);
    for call in calls() {
        // Twice: composed, then kept.
        for _ in 0..2 {
            let mut out = Vec::new();
            heads.write(&space(), &call, &mut out);
            assert!(believed(&out), "{}", String::from_utf8_lossy(&out));
            let text = String::from_utf8(out).unwrap();
            assert!(!believed(
                text.replace("HTTP/1.1\r\nHost: 1", "HTTP/1.1\r\nHost: 2")
                    .as_bytes()
            ));
        }
    }
}

#[test]
fn kept_heads_are_those_of_the_same_call_and_second() {
    let (target, content) = (target(true), Content::new());
    let mut heads = Heads::new(&target, &content);
    let write = |heads: &mut Heads<'_>, call: &Call| {
        let mut out = Vec::new();
        heads.write(&space(), call, &mut out);
        out
    };
    heads.set_time(NOW);
    let first = write(&mut heads, &calls()[0]);
    assert_eq!(first, write(&mut heads, &calls()[0]));
    // Same slot, other calls.
    assert_ne!(first, write(&mut heads, &calls()[1]));
    let mut far = calls()[0].clone();
    far.object = Some(7 + HEADS_MAX as u64);
    assert_ne!(first, write(&mut heads, &far));
    assert_eq!(first, write(&mut heads, &calls()[0]));
    heads.set_time(NOW + 1);
    let later = write(&mut heads, &calls()[0]);
    assert_ne!(first, later);
    assert!(believed(&later));
}

#[test]
fn unsigned_heads_carry_no_credential() {
    let (target, content) = (target(false), Content::new());
    let mut out = Vec::new();
    Heads::new(&target, &content).write(&space(), &calls()[0], &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "GET /b/bench/%C3%BC%20%2Bx/get-1000-1/00000000/007 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n"
    );
}
