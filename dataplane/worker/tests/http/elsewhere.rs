//! Connections that a service wants to be elsewhere, and that come from there.

use std::time::Duration;

use quickwater_worker::runtime::DriverChoice;

use crate::client::Client;
use crate::toy::{Running, on_both, relaxed};

#[test]
fn a_connection_that_went_is_closed_without_a_word() {
    on_both(relaxed(), |server| {
        for way in ["gone", "lost"] {
            let mut client = Client::connect(server.address);
            client.send(format!("GET /elsewhere/{way} HTTP/1.1\r\nHost: h\r\n\r\n"));
            client.assert_closed();
        }
    });
}

#[test]
fn what_stays_is_answered_and_goes_on() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        for _ in 0..2 {
            assert_eq!(client.get("/elsewhere/stays").text(), "stayed");
        }
        // Together with the next request, which is not lost.
        let one = "GET /elsewhere/stays HTTP/1.1\r\nHost: h\r\n\r\n";
        client.send(format!("{one}GET /ignore HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.reply().text(), "stayed");
        assert_eq!(client.reply().text(), "ignored");
        assert_eq!(server.count(|s| &s.connections), 1);
    });
}

#[test]
fn a_service_that_does_not_give_up_is_a_broken_connection() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        client.send("GET /elsewhere/again HTTP/1.1\r\nHost: h\r\n\r\n");
        client.assert_closed();
        assert_eq!(Client::connect(server.address).get("/ignore").status, 200);
    });
}

#[test]
fn a_connection_comes_in_with_what_was_received_on_it() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        let one = "GET /elsewhere/round HTTP/1.1\r\nHost: h\r\n\r\n";
        client.send(format!("{one}GET /ignore HTTP/1.1\r\nHost: h\r\n\r\n"));
        let first = client.reply();
        assert!(first.text().starts_with("GET /view Some(0)\nhost=h\n"));
        assert_eq!(client.reply().text(), "ignored");
        // It is a connection like any other.
        for _ in 0..2 {
            assert!(
                client
                    .get("/elsewhere/round")
                    .text()
                    .starts_with("GET /view")
            );
        }
        assert_eq!(client.get("/ignore").text(), "ignored");
        server.await_count(1, |s| &s.connections_open);
    });
}

#[test]
fn one_that_came_ends_with_the_server() {
    on_both(relaxed(), |server| {
        let mut client = Client::connect(server.address);
        assert_eq!(client.get("/elsewhere/round").status, 200);
        server.finish(Duration::from_secs(60));
        client.assert_closed();
    });
}

#[test]
fn where_there_is_no_room_it_stays() {
    let server = Running::start_limited(DriverChoice::Auto, relaxed(), 1);
    let mut client = Client::connect(server.address);
    assert_eq!(client.get("/elsewhere/round").text(), "stayed");
    assert_eq!(client.get("/ignore").text(), "ignored");
}
