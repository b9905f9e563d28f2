//! Request bodies: read, half read, not read, broken, awaited with 100-continue.

use crate::client::Client;
use crate::toy::{on_both, pattern, relaxed};

fn put(target: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn chunked(target: &str, body: &[u8], size: usize) -> Vec<u8> {
    let head = format!("PUT {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[test]
fn bodies_of_all_sizes_are_read() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for length in [0, 1, 4_000, 5_000, 100_000, 3_000_000] {
            let body: Vec<u8> = (0..length).map(pattern).collect();
            for target in ["/echo", "/fill", "/mixed"] {
                assert!(
                    client.send(put(target, &body)).reply().body == body,
                    "{target} {length}"
                );
                for size in [1_000, 70_000] {
                    let request = chunked(target, &body, size);
                    assert!(
                        client.send(request).reply().body == body,
                        "{target} {length}/{size}"
                    );
                }
            }
        }
        assert_eq!(server.count(|s| &s.connections), 1);
    });
}

#[test]
fn continue_is_sent_when_the_body_is_read() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for target in ["/echo", "/fill"] {
            client.send(format!(
                "PUT {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            ));
            let interim = client.reply();
            assert_eq!((interim.status, interim.headers.len()), (100, 0));
            client.assert_quiet();
            assert_eq!(client.send("hello").reply().text(), "hello");
        }
        client.send(
            "PUT /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        assert_eq!(client.reply().status, 100);
        assert_eq!(client.send("2\r\nhi\r\n0\r\n\r\n").reply().text(), "hi");
    });
}

#[test]
fn continue_is_not_sent_without_need() {
    on_both(relaxed(), |server| {
        // The body is there already.
        let mut client = Client::connect(server.address);
        let head = "PUT /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length:";
        assert_eq!(
            client.send(format!("{head} 2\r\n\r\nhi")).reply().text(),
            "hi"
        );
        // There is none, but some clients wait for the interim answer even then.
        for _ in 0..2 {
            client.send(format!("{head} 0\r\n\r\n"));
            assert_eq!(client.reply().status, 100);
            assert_eq!(client.reply().status, 200);
        }
        // Old clients do not know it.
        let mut old = Client::connect(server.address);
        old.send("PUT /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
        old.assert_quiet();
        assert_eq!(old.send("hi").reply().text(), "hi");
    });
}

/// The client may or may not send the body after our answer, so the connection
/// can't be used again.
#[test]
fn continue_is_not_sent_when_the_service_refuses() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        client.send(
            "PUT /refuse HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        let reply = client.reply();
        assert_eq!((reply.status, reply.closes()), (403, true));
        client.end_sending();
        client.assert_closed();
    });
}

#[test]
fn a_small_unread_body_keeps_the_connection() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for target in ["/refuse", "/half"] {
            let body = vec![b'x'; 200_000];
            let reply = client.send(put(target, &body)).reply();
            assert!(!reply.closes(), "{target}");
            assert_eq!(client.get("/bytes/1").status, 200, "{target}");
        }
        // It may come after the answer, too.
        client.send("PUT /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n01234");
        assert_eq!(client.reply().status, 403);
        client.send("56789");
        assert_eq!(client.get("/bytes/1").status, 200);
        assert_eq!(server.count(|s| &s.connections), 1);
    });
}

#[test]
fn a_large_unread_body_closes_but_the_answer_is_seen() {
    on_both(relaxed(), |server| {
        for request in [
            put("/refuse", &vec![b'x'; 2_000_000]),
            put("/half", &vec![b'x'; 2_000_000]),
            chunked("/refuse", &vec![b'x'; 2_000_000], 65_536),
        ] {
            let mut client = Client::connect(server.address);
            // All of it is written before the answer is looked at.
            let reply = client.send(request).reply();
            assert!(reply.closes());
            client.assert_closed();
        }
    });
}

#[test]
fn what_follows_a_refused_body_is_not_a_request() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        let mut bytes = put("/refuse", &vec![b'x'; 300_000]);
        bytes.extend_from_slice(b"GET /view HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(client.send(bytes).reply().closes());
        client.assert_closed();
        assert_eq!(server.count(|s| &s.requests), 1);
    });
}

#[test]
fn a_client_that_gives_up_is_noticed() {
    on_both(relaxed(), |server| {
        for (round, request) in [
            "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
            "PUT /fill HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
            "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
            "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ]
        .iter()
        .enumerate()
        {
            let mut client = Client::connect(server.address);
            client.send(request);
            client.end_sending();
            let reply = client.reply();
            assert_eq!((reply.status, reply.closes()), (400, true), "{request}");
            assert_eq!(reply.text(), "the client closed the connection");
            client.assert_closed();
            assert_eq!(server.count(|s| &s.client_aborts), round as u64 + 1);
        }
        let mut client = Client::connect(server.address);
        client.send("PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
        drop(client);
        server.await_count(6, |s| &s.client_aborts);
        server.await_count(0, |s| &s.connections_open);
    });
}

#[test]
fn broken_chunks_are_refused() {
    on_both(relaxed(), |server| {
        for body in [
            "x\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "-1\r\n",
            "3 \r\nabc\r\n",
            "ffffffffffffffff1\r\n",
            "0\r\na: b\n\r\n",
        ] {
            let mut client = Client::connect(server.address);
            let head = "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.send(format!(
                "{head}{body}GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
            ));
            let reply = client.reply();
            assert_eq!((reply.status, reply.closes()), (400, true), "{body:?}");
            assert!(
                reply.text().starts_with("malformed transfer coding"),
                "{body:?}"
            );
            client.assert_closed();
        }
        assert_eq!(server.count(|s| &s.requests), 7);
        assert_eq!(server.count(|s| &s.parse_errors), 7);
    });
}
