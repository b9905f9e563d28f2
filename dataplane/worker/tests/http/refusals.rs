//! What never reaches the service: smuggling, malformed and oversized heads, and
//! connections beyond the limit.

use std::time::Duration;

use quickwater_worker::runtime::DriverChoice;

use crate::client::Client;
use crate::toy::{Running, on_both, relaxed};

/// Every attempt is followed by the request that it would smuggle in.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

const ATTEMPTS: &[(u16, &str)] = &[
    // Two framings.
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 40\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0 0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    // Codings nobody agrees upon.
    (
        501,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
    ),
    (
        501,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    // Lines nobody agrees upon.
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nX: a\r\n Content-Length: 40\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nX: a\nContent-Length: 40\r\n\r\n",
    ),
    (
        400,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nX: a\rContent-Length: 40\r\n\r\n",
    ),
    (400, "PUT /echo HTTP/1.1\r\nHost: h\r\nX: a\0\r\n\r\n"),
    (400, "PUT /echo HTTP/1.1\r\nHost: h\r\n X: a\r\n\r\n"),
    (400, "PUT /echo HTTP/1.1\r\nHost: h\r\nX y: a\r\n\r\n"),
    (400, "PUT /echo HTTP/1.1\n\nHost: h\r\n\r\n"),
    (400, "PUT  /echo HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, "PUT /echo HTTP/1.1 \r\nHost: h\r\n\r\n"),
    // Two hosts, none, or one nobody agrees upon.
    (400, "GET /view HTTP/1.1\r\n\r\n"),
    (400, "GET /view HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    (400, "GET /view HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"),
    (400, "GET /view HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, "GET http://other/view HTTP/1.1\r\nHost: h\r\n\r\n"),
    (400, "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n"),
    (400, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"),
    // Not our protocol.
    (505, "GET /view HTTP/1.2\r\nHost: h\r\n\r\n"),
    (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (400, "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n"),
    (
        417,
        "PUT /echo HTTP/1.1\r\nHost: h\r\nExpect: miracle\r\n\r\n",
    ),
];

#[test]
fn smuggling_is_refused() {
    on_both(relaxed(), |server| {
        for (status, attempt) in ATTEMPTS {
            let mut client = Client::connect(server.address);
            client.send(format!("{attempt}{SMUGGLED}"));
            let reply = client.reply();
            assert_eq!(
                (reply.status, reply.closes()),
                (*status, true),
                "{attempt:?}"
            );
            assert_eq!(reply.header("content-type"), Some("application/xml"));
            let id = reply.header("x-amz-request-id").unwrap();
            assert!(
                reply
                    .text()
                    .contains(&format!("<RequestId>{id}</RequestId>"))
            );
            client.assert_closed();
        }
        assert_eq!(server.count(|s| &s.requests), 0);
        assert_eq!(server.count(|s| &s.parse_errors), ATTEMPTS.len() as u64);
        assert_eq!(Client::connect(server.address).get("/bytes/1").status, 200);
    });
}

#[test]
fn an_absolute_target_of_our_host_is_reduced() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        client.send("GET http://H/view?x HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(client.reply().text().starts_with("GET /view?x Some(0)\n"));
    });
}

#[test]
fn oversized_heads_are_refused() {
    on_both(relaxed(), |server| {
        let long = format!(
            "GET /view HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
            "y".repeat(20_000)
        );
        let endless = format!("GET /{}", "a".repeat(20_000));
        let many: String = (0..150).map(|n| format!("x{n}: y\r\n")).collect();
        let many = format!("GET /view HTTP/1.1\r\nHost: h\r\n{many}\r\n");
        for request in [long, endless, many] {
            let mut client = Client::connect(server.address);
            let reply = client.send(request).reply();
            assert_eq!((reply.status, reply.closes()), (431, true));
            assert!(
                reply
                    .text()
                    .contains("<Code>RequestHeaderSectionTooLarge</Code>")
            );
            client.assert_closed();
        }
        assert_eq!(server.count(|s| &s.requests), 0);
    });
}

#[test]
fn connections_beyond_the_limit_hear_slow_down() {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let server = Running::start_limited(driver, relaxed(), 2);
        let mut first = Client::connect(server.address);
        let mut second = Client::connect(server.address);
        assert_eq!(first.get("/bytes/1").status, 200);
        assert_eq!(second.get("/bytes/1").status, 200);
        let mut third = Client::connect(server.address);
        third.send("GET /bytes/1 HTTP/1.1\r\nHost: h\r\n\r\n");
        let reply = third.reply();
        assert_eq!((reply.status, reply.closes()), (503, true));
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert!(reply.text().contains("<Code>SlowDown</Code>"));
        third.assert_closed();
        assert_eq!(server.count(|s| &s.connections_refused), 1);
        // The others go on, and a free place is given away again.
        assert_eq!(first.get("/bytes/1").status, 200);
        drop(second);
        server.await_count(1, |s| &s.connections_open);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(Client::connect(server.address).get("/bytes/1").status, 200);
    }
}

/// More at a time than are answered; no place, memory or descriptor is lost.
#[test]
fn a_flood_of_refused_connections_passes() {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let server = Running::start_limited(driver, relaxed(), 1);
        let mut honest = Client::connect(server.address);
        assert_eq!(honest.get("/bytes/1").status, 200);
        let flood: Vec<Client> = (0..200).map(|_| Client::connect(server.address)).collect();
        server.await_count(200, |s| &s.connections_refused);
        assert_eq!(honest.get("/bytes/1").status, 200);
        drop(flood);
        drop(honest);
        server.await_count(0, |s| &s.connections_open);
        assert_eq!(Client::connect(server.address).get("/bytes/1").status, 200);
    }
}
