//! Requests and responses in order: keep-alive, pipelining, HEAD, lengths.

use proptest::prelude::*;
use quickwater_worker::runtime::DriverChoice;

use crate::client::Client;
use crate::toy::{Running, on_both, pattern, relaxed};

fn patterned(length: u64) -> Vec<u8> {
    (0..length).map(pattern).collect()
}

#[test]
fn a_connection_is_reused() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        let first = client.get("/view?a=b");
        assert_eq!(first.status, 200);
        assert!(
            first
                .text()
                .starts_with("GET /view?a=b Some(0)\nHost=h\nid=")
        );
        assert_eq!(first.header("connection"), None);
        assert_eq!(first.header("content-type"), Some("text/plain"));
        assert_eq!(first.header("server"), Some("Quickwater"));
        let id = first.header("x-amz-request-id").unwrap();
        let id_2 = first.header("x-amz-id-2").unwrap();
        assert!(first.text().contains(&format!("id={id} {id_2} 127.0.0.1:")));
        let date = first.header("date").unwrap();
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        let second = client.get("/view");
        assert_ne!(second.header("x-amz-request-id"), Some(id));
        assert_eq!(server.count(|s| &s.connections), 1);
        assert_eq!(server.count(|s| &s.requests), 2);
        assert_eq!(server.count(|s| &s.bytes_received), 35 + 31);
    });
}

#[test]
fn versions_keep_connections_as_they_should() {
    on_both(relaxed(), |server| {
        let mut old = Client::connect(server.address);
        assert!(old.send("GET /ignore HTTP/1.0\r\n\r\n").reply().closes());
        old.assert_closed();

        let mut old = Client::connect(server.address);
        for _ in 0..2 {
            let reply = old
                .send("GET /ignore HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
                .reply();
            assert_eq!(reply.header("connection"), Some("keep-alive"));
        }

        let mut new = Client::connect(server.address);
        let reply = new
            .send("GET /ignore HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .reply();
        assert!(reply.closes());
        new.assert_closed();

        let mut told = Client::connect(server.address);
        assert!(told.get("/close").closes());
        told.assert_closed();
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        client.send(
            "GET /bytes/5 HTTP/1.1\r\nHost: h\r\n\r\n\
             PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\
             PUT /fill HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndefg\r\n0\r\n\r\n\
             PUT /ignore HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nGET \
             HEAD /bytes/7 HTTP/1.1\r\nHost: h\r\n\r\n\
             \r\n\
             GET /stream/9/4 HTTP/1.1\r\nHost: h\r\n\r\n",
        );
        assert_eq!(client.reply().body, patterned(5));
        assert_eq!(client.reply().text(), "abc");
        assert_eq!(client.reply().text(), "defg");
        assert_eq!(client.reply().text(), "ignored");
        assert_eq!(client.reply_to_head().header("content-length"), Some("7"));
        assert_eq!(client.reply().body, patterned(9));
        assert_eq!(server.count(|s| &s.requests), 6);
    });
}

#[test]
fn head_announces_and_sends_nothing() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for (target, length) in [
            ("/bytes/5", "5"),
            ("/bytes/200000", "200000"),
            ("/stream/12345678/4", "12345678"),
            ("/headof/99999999999", "99999999999"),
            ("/nothing", "0"),
        ] {
            client.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let reply = client.reply_to_head();
            assert_eq!(reply.header("content-length"), Some(length), "{target}");
        }
        assert_eq!(client.get("/bytes/3").body, patterned(3));
    });
}

#[test]
fn some_statuses_have_neither_body_nor_length() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for status in [304, 204] {
            let reply = client.get(&format!("/{status}"));
            assert_eq!(reply.status, status);
            assert_eq!(reply.header("content-length"), None);
        }
        assert_eq!(client.get("/nothing").header("content-length"), Some("0"));
    });
}

#[test]
fn bodies_of_all_sizes_arrive() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for length in [0, 1, 65_535, 65_536, 65_537, 3_000_000] {
            assert!(client.get(&format!("/bytes/{length}")).body == patterned(length));
        }
        for (length, piece) in [
            (0, 1),
            (1, 1),
            (100, 7),
            (65_000, 65_000),
            (5_000_000, 1 << 20),
        ] {
            assert!(client.get(&format!("/stream/{length}/{piece}")).body == patterned(length));
        }
    });
}

/// Head and first piece must not be two segments: with the client's delayed
/// acknowledgement that would cost 40 ms.
#[test]
fn head_and_body_leave_in_one_send() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for target in ["/stream/10000/10000", "/bytes/10000"] {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let bytes = client.one_read();
            assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
            assert!(bytes.ends_with(&patterned(10_000)), "{target}");
        }
    });
}

#[test]
fn a_body_that_fails_never_looks_complete() {
    on_both(relaxed(), |server| {
        for (target, received) in [
            ("/fails/1000/500", 500),
            ("/short/1000/999", 999),
            ("/long/950/1100", 900),
            ("/empty/1000/100", 100),
        ] {
            let mut client = Client::connect(server.address);
            client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert_eq!(
                client.try_reply(false),
                None,
                "{target} of {received} bytes"
            );
        }
        assert_eq!(server.count(|s| &s.responses_broken), 4);
    });
}

#[test]
fn a_body_that_fails_at_once_is_an_honest_error() {
    on_both(relaxed(), |server| {
        for target in ["/fails/1000/0", "/short/1000/0", "/badhead"] {
            let mut client = Client::connect(server.address);
            let reply = client.get(target);
            assert_eq!((reply.status, reply.closes()), (500, true), "{target}");
            assert!(reply.text().contains("<Code>InternalError</Code>"));
            client.assert_closed();
        }
    });
}

#[test]
fn a_head_may_arrive_byte_by_byte() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for byte in b"\r\nPUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok" {
            client.send([*byte]);
            std::thread::yield_now();
        }
        assert_eq!(client.reply().text(), "ok");
    });
}

#[test]
fn a_large_head_fits() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        let long = "v".repeat(15_000);
        client.send(format!(
            "GET /view HTTP/1.1\r\nHost: h\r\nX-Long: {long}\r\n\r\n"
        ));
        assert!(client.reply().text().contains(&format!("X-Long={long}\n")));
        assert_eq!(client.get("/bytes/1").status, 200);
    });
}

#[test]
fn a_client_that_stops_sending_still_gets_its_answer() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        client.send("GET /sleep/50 HTTP/1.1\r\nHost: h\r\n\r\n");
        client.end_sending();
        assert_eq!(client.reply().text(), "slept");
        client.assert_closed();
    });
}

/// A request as bytes, and whether it ends the conversation.
fn request() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let content = prop::collection::vec(any::<u8>(), 0..3000);
    let target = prop_oneof![
        Just("/echo"),
        Just("/fill"),
        Just("/mixed"),
        Just("/ignore")
    ];
    prop_oneof![
        4 => (target.clone(), content.clone()).prop_map(|(target, content)| {
            let head = format!("PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", content.len());
            ([head.into_bytes(), content].concat(), false)
        }),
        4 => (target, prop::collection::vec(content, 0..4)).prop_map(|(target, chunks)| {
            let close = target == "/ignore";
            let head = format!("PUT {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut bytes = head.into_bytes();
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                bytes.extend_from_slice(format!("{:X};x=y\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nt: u\r\n\r\n");
            (bytes, close)
        }),
        2 => (0u64..20_000).prop_map(|length| {
            (format!("GET /stream/{length}/3000 HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes(), false)
        }),
        1 => "GET /[ a]{1,3} HTTP/1.[019]\r\n(Host: h\r\n|Content-Length: x\r\n){0,3}\r\n"
            .prop_map(|text| (text.into_bytes(), true)),
    ]
}

fn converse(server: &Running, bytes: &[u8], cuts: &[usize]) -> Vec<crate::client::Reply> {
    let mut client = Client::connect(server.address);
    let mut from = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        let to = cut.clamp(from, bytes.len());
        if !client.try_send(&bytes[from..to]) {
            break;
        }
        from = to;
        std::thread::yield_now();
    }
    client.end_sending();
    let replies = std::iter::from_fn(|| client.try_reply(false));
    replies.map(crate::client::Reply::stripped).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However the bytes arrive, the outcome is the same.
    #[test]
    fn splits_do_not_matter(
        requests in prop::collection::vec(request(), 1..6),
        cuts in prop::collection::vec(0usize..12_000, 0..24),
    ) {
        thread_local! {
            static SERVERS: [Running; 2] = [
                Running::start(DriverChoice::Auto, relaxed()),
                Running::start(DriverChoice::Epoll, relaxed()),
            ];
        }
        let mut bytes = Vec::new();
        for (request, last) in requests {
            bytes.extend_from_slice(&request);
            if last {
                break;
            }
        }
        let mut cuts = cuts;
        cuts.sort_unstable();
        SERVERS.with(|servers| {
            let whole = converse(&servers[0], &bytes, &[]);
            let pieces = converse(&servers[0], &bytes, &cuts);
            prop_assert_eq!(&whole, &pieces);
            prop_assert_eq!(&whole, &converse(&servers[1], &bytes, &cuts));
            prop_assert!(!whole.is_empty());
            Ok(())
        })?;
    }
}
