//! Clients that are slow, silent or greedy, against short deadlines.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quickwater_worker::http::HttpConfig;

use crate::client::Client;
use crate::toy::{on_both, pattern, relaxed};

const SHORT: Duration = Duration::from_millis(300);

/// Runs `act`, which a deadline of `SHORT` must end.
fn timed<T>(act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = act();
    let took = start.elapsed();
    assert!(took >= SHORT / 2, "too early: {took:?}");
    assert!(took < SHORT * 20, "too late: {took:?}");
    result
}

#[test]
fn an_idle_connection_is_closed_in_silence() {
    let config = HttpConfig {
        idle_timeout: SHORT,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut fresh = Client::connect(server.address);
        timed(|| fresh.assert_closed());
        let mut used = Client::connect(server.address);
        assert_eq!(used.get("/bytes/1").status, 200);
        timed(|| used.assert_closed());
        server.await_count(2, |s| &s.idle_timeouts);
        assert_eq!(server.count(|s| &s.header_timeouts), 0);
    });
}

#[test]
fn a_head_that_dribbles_is_refused() {
    let config = HttpConfig {
        header_timeout: SHORT,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut silent = Client::connect(server.address);
        silent.send("GET / HTTP/1.1\r\n");
        let reply = timed(|| silent.reply());
        assert_eq!((reply.status, reply.closes()), (400, true));
        assert!(reply.text().contains("<Code>RequestTimeout</Code>"));
        silent.assert_closed();

        let mut dribbling = Client::connect(server.address);
        timed(|| {
            for byte in b"GET / HTTP/1.1\r\nx: ".iter().chain(&[b'y'; 400]) {
                if !dribbling.try_send([*byte]) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
                if server.count(|s| &s.header_timeouts) == 2 {
                    break;
                }
            }
        });
        assert_eq!(server.count(|s| &s.header_timeouts), 2);
        assert_eq!(server.count(|s| &s.requests), 0);
    });
}

#[test]
fn a_body_that_stalls_is_refused() {
    let config = HttpConfig {
        body_timeout: SHORT,
        ..relaxed()
    };
    on_both(config, |server| {
        for target in ["/echo", "/fill"] {
            let mut client = Client::connect(server.address);
            client.send(format!(
                "PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"
            ));
            let reply = timed(|| client.reply());
            assert_eq!((reply.status, reply.closes()), (400, true));
            assert_eq!(reply.text(), "the client was too slow");
            client.assert_closed();
        }
        assert_eq!(server.count(|s| &s.body_timeouts), 2);
    });
}

/// One byte now and then resets no deadline.
#[test]
fn a_body_that_dribbles_is_refused() {
    let config = HttpConfig {
        body_timeout: SHORT,
        min_rate: 1000,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut client = Client::connect(server.address);
        client.send("PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
        timed(|| {
            while server.count(|s| &s.body_timeouts) == 0 && client.try_send("x") {
                std::thread::sleep(SHORT / 10);
            }
        });
        assert_eq!(server.count(|s| &s.body_timeouts), 1);
    });
}

#[test]
fn a_body_that_is_slow_but_steady_arrives() {
    let config = HttpConfig {
        body_timeout: Duration::from_secs(1),
        min_rate: 1000,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut client = Client::connect(server.address);
        client.send("PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n");
        for _ in 0..20 {
            client.send([b'x'; 1000]);
            std::thread::sleep(Duration::from_millis(60));
        }
        assert_eq!(client.reply().body, [b'x'; 20_000]);
    });
}

/// The time the service takes is not the client's.
#[test]
fn a_slow_service_times_nobody_out() {
    let config = HttpConfig {
        header_timeout: SHORT,
        idle_timeout: SHORT,
        body_timeout: SHORT,
        write_timeout: SHORT,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut client = Client::connect(server.address);
        assert_eq!(client.get("/sleep/1000").text(), "slept");
        assert_eq!(client.get("/bytes/1").status, 200);
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let config = HttpConfig {
        write_timeout: SHORT,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut client = Client::connect(server.address);
        client.send("GET /stream/100000000/1000000 HTTP/1.1\r\nHost: h\r\n\r\n");
        timed(|| server.await_count(1, |s| &s.write_timeouts));
        server.await_count(0, |s| &s.connections_open);
        assert_eq!(client.try_reply(false), None);
    });
}

#[test]
fn a_client_that_reads_slowly_but_steadily_gets_all() {
    let config = HttpConfig {
        write_timeout: Duration::from_secs(1),
        min_rate: 100_000,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut client = Client::connect(server.address);
        client.send("GET /stream/12000000/1000000 HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut received = 0;
        while received < 12_000_000 {
            received += client.one_read().len();
            std::thread::sleep(Duration::from_millis(8));
        }
        assert_eq!(server.count(|s| &s.write_timeouts), 0);
    });
}

#[test]
fn a_refused_client_that_keeps_sending_is_cut_off() {
    let config = HttpConfig {
        linger: SHORT,
        ..relaxed()
    };
    on_both(config, |server| {
        let mut client = Client::connect(server.address);
        client.send("PUT /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n");
        assert!(client.reply().closes());
        timed(|| {
            while client.try_send([b'x'; 1000]) {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        server.await_count(0, |s| &s.connections_open);
    });
}

/// Descriptors are reused at once; a deadline must never hit the next owner.
#[test]
fn a_deadline_does_not_hit_the_next_connection() {
    let config = HttpConfig {
        idle_timeout: Duration::from_millis(500),
        ..relaxed()
    };
    on_both(config, |server| {
        let until = Instant::now() + Duration::from_secs(2);
        let mut crowd = VecDeque::new();
        let mut requests = 0;
        while Instant::now() < until {
            crowd.push_back(Client::connect(server.address));
            if crowd.len() > 300 {
                crowd.pop_front();
            }
            let mut busy = Client::connect(server.address);
            let reply = busy.get("/stream/70000/7000");
            assert!(reply.body.iter().copied().eq((0..70_000).map(pattern)));
            requests += 1;
        }
        assert_eq!(server.count(|s| &s.requests), requests);
        assert_eq!(server.count(|s| &s.client_aborts), 0);
        server.await_count(0, |s| &s.connections_open);
        assert!(server.count(|s| &s.idle_timeouts) >= 100);
    });
}

/// Silent and dribbling connections do not stop honest ones.
#[test]
fn honest_traffic_goes_on_among_many_idle_connections() {
    on_both(relaxed(), |server| {
        let mut crowd: Vec<Client> = (0..400).map(|_| Client::connect(server.address)).collect();
        for half in &mut crowd[..200] {
            half.send("GET / HTTP/1.1\r\n");
        }
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(Client::connect(server.address).get("/bytes/1").status, 200);
        }
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}
