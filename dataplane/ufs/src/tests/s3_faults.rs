//! A store that refuses, fails, stalls, lies or goes away: the right kind of
//! error in bounded time.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quickwater_engine::io::{Ufs, UfsUpload};
use quickwater_proto::{Bucket, ObjectHeaders, UfsErrorKind, UfsIdentity};

use super::fake::{Fake, Script};
use super::support::{
    block_on, bucket, client, content, digests, get, impatient, key, list, put, read,
};
use crate::{UfsConfig, UfsOperation, UfsOutcome};

/// ETag of the answers below: MD5 of nothing we send.
const TAG: &str = "abababababababababababababababab";

fn store(endpoint: &str) -> Bucket {
    bucket(
        "s3://bkt/pre",
        &[("endpoint", endpoint), ("credentials", "anonymous")],
    )
}

fn identity(size: u64) -> UfsIdentity {
    UfsIdentity {
        size,
        modified_ns: 0,
        token: TAG.to_owned(),
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Script {
    let length = body.len();
    Script::Say(format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    ))
}

fn refusal(status: &str, code: &str) -> Script {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    answer(status, "Content-Type: application/xml\r\n", &body)
}

/// Kinds of error of head, read, list, delete and put, each within its time.
fn kinds(endpoint: &str) -> [UfsErrorKind; 5] {
    let ufs = client(impatient());
    let store = store(endpoint);
    let timed = |kind: UfsErrorKind, begun: Instant| {
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{kind:?} took {:?}",
            begun.elapsed()
        );
        kind
    };
    block_on(async {
        let begun = Instant::now();
        let head = ufs.head(&store, &key("k")).await.unwrap_err().kind;
        let head = timed(head, begun);
        let begun = Instant::now();
        let get = read(&ufs, &store, "k", &identity(100), 0..100)
            .await
            .unwrap_err()
            .kind;
        let get = timed(get, begun);
        let begun = Instant::now();
        let listed = list(&ufs, &store, "", "", true).await.unwrap_err().kind;
        let listed = timed(listed, begun);
        let begun = Instant::now();
        let deleted = ufs.delete(&store, &key("k")).await.unwrap_err().kind;
        let deleted = timed(deleted, begun);
        let begun = Instant::now();
        let put = put(&ufs, &store, "k", b"data").await.unwrap_err().kind;
        [head, get, listed, deleted, timed(put, begun)]
    })
}

#[test]
fn a_store_that_is_down() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        kinds(&format!("http://{unused}")),
        [UfsErrorKind::Unavailable; 5]
    );
}

#[test]
fn refusals_and_failures() {
    for (status, code, kind) in [
        (
            "500 Internal Server Error",
            "InternalError",
            UfsErrorKind::Unavailable,
        ),
        (
            "503 Service Unavailable",
            "SlowDown",
            UfsErrorKind::Throttled,
        ),
        ("403 Forbidden", "AccessDenied", UfsErrorKind::AccessDenied),
    ] {
        let fake = Fake::start(refusal(status, code));
        assert_eq!(kinds(&fake.endpoint), [kind; 5], "{status}");
        let repeated = if status.starts_with('5') { 3 } else { 1 };
        assert_eq!(
            fake.requests(),
            3 * repeated + 2,
            "{status}: writes are sent once"
        );
    }
    let fake = Fake::start(refusal("404 Not Found", "NoSuchKey"));
    let ufs = client(impatient());
    block_on(async {
        let error = get(&ufs, &store(&fake.endpoint), "k").await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::NotFound);
        ufs.delete(&store(&fake.endpoint), &key("k")).await.unwrap();
    });
    let fake = Fake::start(refusal("412 Precondition Failed", "PreconditionFailed"));
    block_on(async {
        let store = store(&fake.endpoint);
        let error = read(&ufs, &store, "k", &identity(9), 0..9)
            .await
            .unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Changed);
    });
}

#[test]
fn a_gateway_without_an_answer_leaves_writes_unknown() {
    for status in ["502 Bad Gateway", "504 Gateway Timeout"] {
        let fake = Fake::start(refusal(status, ""));
        let [head, get, listed, deleted, put] = kinds(&fake.endpoint);
        assert_eq!([head, get, listed], [UfsErrorKind::Unavailable; 3]);
        assert_eq!([deleted, put], [UfsErrorKind::Timeout; 2], "{status}");
    }
}

#[test]
fn silence() {
    let fake = Fake::start(Script::Hang);
    assert_eq!(kinds(&fake.endpoint), [UfsErrorKind::Timeout; 5]);
}

#[test]
fn a_connection_that_breaks_leaves_writes_unknown() {
    let fake = Fake::start(Script::Close);
    let [head, get, listed, deleted, put] = kinds(&fake.endpoint);
    assert_eq!([head, get, listed], [UfsErrorKind::Unavailable; 3]);
    assert_eq!(
        [deleted, put],
        [UfsErrorKind::Timeout; 2],
        "may have been applied"
    );
}

/// Result of reading 100 bytes from a server that answers like this.
fn read_from(script: Script) -> Result<Vec<u8>, UfsErrorKind> {
    let fake = Fake::start(script);
    let ufs = client(impatient());
    let begun = Instant::now();
    let result = block_on(read(
        &ufs,
        &store(&fake.endpoint),
        "k",
        &identity(100),
        0..100,
    ));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    result.map_err(|error| error.kind)
}

fn object_head(length: usize, tag: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"{tag}\"\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

#[test]
fn bodies_of_the_wrong_length_or_content() {
    let whole = "x".repeat(100);
    let say = |length, tag, body: &str| Script::Say(object_head(length, tag) + body);
    assert_eq!(
        read_from(say(100, TAG, &whole)),
        Ok(whole.clone().into_bytes())
    );
    assert_eq!(
        read_from(say(100, TAG, &whole[..60])),
        Err(UfsErrorKind::Corrupt),
        "cut off"
    );
    assert_eq!(
        read_from(say(60, TAG, &whole[..60])),
        Err(UfsErrorKind::Corrupt),
        "shorter"
    );
    assert_eq!(
        read_from(say(101, TAG, &format!("{whole}x"))),
        Err(UfsErrorKind::Corrupt)
    );
    assert_eq!(
        read_from(say(100, "other", &whole)),
        Err(UfsErrorKind::Changed)
    );
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"{TAG}\"\r\n\r\n{whole}");
    assert_eq!(
        read_from(Script::Say(endless)),
        Err(UfsErrorKind::Corrupt),
        "no length"
    );
    let garbage = "not even HTTP\r\n\r\n".to_owned();
    assert_eq!(
        read_from(Script::Say(garbage)),
        Err(UfsErrorKind::Unavailable)
    );
}

#[test]
fn a_body_that_stalls_or_drips() {
    let script = |pause| Script::Drip {
        head: object_head(100, TAG),
        body: vec![b'x'; 100],
        pause,
    };
    let quick = read_from(script(Duration::from_millis(1)));
    assert_eq!(quick, Ok(vec![b'x'; 100]));
    let stalled = read_from(script(Duration::from_secs(60)));
    assert_eq!(stalled, Err(UfsErrorKind::Timeout), "no byte for too long");
    let dripping = read_from(script(Duration::from_millis(100)));
    assert_eq!(
        dripping,
        Err(UfsErrorKind::Timeout),
        "always a byte, never an end"
    );
}

#[test]
fn listings_that_make_no_sense() {
    let xml = |inner: &str| {
        let body = format!("<?xml version=\"1.0\"?><ListBucketResult>{inner}</ListBucketResult>");
        answer("200 OK", "Content-Type: application/xml\r\n", &body)
    };
    let line = |name: &str| {
        format!("<Contents><Key>{name}</Key><Size>1</Size><ETag>\"{TAG}\"</ETag></Contents>")
    };
    for (script, kind) in [
        (xml(&line("other/key")), UfsErrorKind::Corrupt),
        (
            xml("<IsTruncated>true</IsTruncated>"),
            UfsErrorKind::Corrupt,
        ),
        (
            xml("<Contents><Key>pre/a</Key></Contents>"),
            UfsErrorKind::Corrupt,
        ),
        (answer("200 OK", "", "<broken"), UfsErrorKind::Corrupt),
        (
            xml(&format!(
                "{}<IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>t</NextContinuationToken>",
                line("pre/a")
            )),
            UfsErrorKind::Unsupported,
        ),
    ] {
        let fake = Fake::start(script.clone());
        let ufs = client(impatient());
        let error = block_on(list(&ufs, &store(&fake.endpoint), "", "", true)).unwrap_err();
        assert_eq!(error.kind, kind, "{script:?}");
    }
}

/// Result of writing `size` bytes to a server that answers like this.
fn write_to(script: Script, size: usize) -> (UfsErrorKind, Fake) {
    let fake = Fake::start(script);
    let ufs = client(impatient());
    let begun = Instant::now();
    let result = block_on(put(&ufs, &store(&fake.endpoint), "k", &content(size, 1)));
    let mib = u32::try_from(size >> 20).unwrap();
    let limit = Duration::from_secs(4) + mib * Duration::from_millis(200);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    (result.unwrap_err().kind, fake)
}

#[test]
fn large_writes_to_a_failing_store() {
    let size = 9 << 20;
    let stored = format!("ETag: \"{TAG}\"\r\n");
    let (kind, _) = write_to(answer("200 OK", &stored, ""), size);
    assert_eq!(kind, UfsErrorKind::Corrupt, "it has other bytes");
    let (kind, _) = write_to(answer("200 OK", &stored, ""), 10);
    assert_eq!(kind, UfsErrorKind::Corrupt, "it has other bytes");
    let (kind, fake) = write_to(refusal("503 Slow Down", "SlowDown"), size);
    assert_eq!((kind, fake.requests()), (UfsErrorKind::Throttled, 1));
    let (kind, fake) = write_to(Script::Hang, size);
    assert_eq!((kind, fake.complete_bodies()), (UfsErrorKind::Timeout, 1));
    let (kind, _) = write_to(Script::HangBeforeBody, size);
    assert_eq!(kind, UfsErrorKind::Timeout);
    let (kind, _) = write_to(Script::Close, size);
    assert_eq!(kind, UfsErrorKind::Timeout, "may have been applied");
}

#[test]
fn the_last_bytes_wait_for_the_checks() {
    let fake = Fake::start(Script::Hang);
    let ufs = client(impatient());
    let store = store(&fake.endpoint);
    let data = content(3 << 20, 1);
    block_on(async {
        let headers = ObjectHeaders::default();
        for finish in [false, true] {
            let mut upload = ufs.put(&store, &key("k"), &headers, 3 << 20).await.unwrap();
            for piece in data.chunks(1 << 20) {
                upload.send(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(fake.complete_bodies(), 0, "not all bytes are out");
            if finish {
                let error = upload.finish(&digests(&data)).await.unwrap_err();
                assert_eq!(error.kind, UfsErrorKind::Timeout);
                assert_eq!(fake.complete_bodies(), 1);
            } else {
                upload.abort().await;
            }
        }
    });
    let stats = ufs.stats();
    assert_eq!(stats.requests(UfsOperation::Put, UfsOutcome::Aborted), 1);
    assert_eq!(stats.requests(UfsOperation::Put, UfsOutcome::Timeout), 1);
}

#[test]
fn a_writer_that_stalls_is_given_up() {
    let fake = Fake::start(Script::Hang);
    let config = UfsConfig {
        caller_timeout: Duration::from_millis(200),
        ..impatient()
    };
    let ufs = client(config);
    block_on(async {
        let headers = ObjectHeaders::default();
        let store = store(&fake.endpoint);
        let mut upload = ufs.put(&store, &key("k"), &headers, 3 << 20).await.unwrap();
        upload.send(Bytes::from_static(b"x")).await.unwrap();
        std::thread::sleep(Duration::from_millis(600));
        let error = upload.send(Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(error.kind, UfsErrorKind::Timeout);
    });
    assert_eq!(fake.complete_bodies(), 0);
}

#[test]
fn more_calls_than_turns_are_throttled() {
    let fake = Fake::start(Script::Hang);
    let config = UfsConfig {
        concurrency: 1,
        queue_max: 1,
        ..impatient()
    };
    let ufs = client(config);
    let store = store(&fake.endpoint);
    let kinds: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| block_on(ufs.head(&store, &key("k"))).unwrap_err().kind))
            .collect();
        calls.into_iter().map(|c| c.join().unwrap()).collect()
    });
    let throttled = kinds
        .iter()
        .filter(|k| **k == UfsErrorKind::Throttled)
        .count();
    assert!(throttled >= 4, "{kinds:?}");
    assert!(fake.requests() <= 4, "one at a time");
}

#[test]
fn a_key_that_can_never_be_stored_is_known_without_asking() {
    let ufs = client(UfsConfig::default());
    // Nobody listens there.
    let deep = |prefix: &str| {
        bucket(
            &format!("s3://bkt/{prefix}"),
            &[("endpoint", "http://127.0.0.1:1")],
        )
    };
    for (prefix, fits) in [("pre", 1_020), (&*"p".repeat(600), 423), ("", 1_024)] {
        let bucket = deep(prefix);
        assert!(ufs.can_hold(&bucket, &key("short")).is_ok());
        assert!(
            ufs.can_hold(&bucket, &key(&"k".repeat(fits))).is_ok(),
            "{prefix}"
        );
        if fits < 1_024 {
            let error = ufs
                .can_hold(&bucket, &key(&"k".repeat(fits + 1)))
                .unwrap_err();
            assert_eq!(error.kind, UfsErrorKind::Unsupported);
            assert!(error.message.contains(&fits.to_string()), "{error}");
        }
    }
    let nowhere = bucket("file:///nowhere", &[]);
    assert!(ufs.can_hold(&nowhere, &key(&"k".repeat(1_024))).is_ok());
}
