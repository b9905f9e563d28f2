//! Graceful shutdown, and shards that start and end.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use quickwater_worker::http::HttpConfig;
use quickwater_worker::runtime::{self, Driver, DriverChoice, RuntimeConfig, ShardInfo, Stop};

use crate::client::Client;
use crate::toy::{on_both, relaxed};

#[test]
fn idle_connections_end_and_requests_are_finished() {
    on_both(relaxed(), |server| {
        let mut fresh = Client::connect(server.address);
        let mut idle = Client::connect(server.address);
        assert_eq!(idle.get("/bytes/1").status, 200);
        let mut busy = Client::connect(server.address);
        busy.send("GET /sleep/600 HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut half = Client::connect(server.address);
        half.send("PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n");
        server.await_count(3, |s| &s.requests);
        server.await_count(4, |s| &s.connections_open);

        let start = Instant::now();
        server.stop.request();
        fresh.assert_closed();
        idle.assert_closed();
        assert!(start.elapsed() < Duration::from_secs(5));
        let reply = half.send("ok").reply();
        assert_eq!((reply.text().as_str(), reply.closes()), ("ok", true));
        let reply = busy.reply();
        assert_eq!((reply.text().as_str(), reply.closes()), ("slept", true));
        drop((half, busy));
        server.finish(Duration::from_secs(5));
        assert!(TcpStream::connect(server.address).is_err());
    });
}

#[test]
fn requests_beyond_the_grace_period_are_broken() {
    let config = HttpConfig {
        shutdown_grace: Duration::from_millis(200),
        ..relaxed()
    };
    on_both(config, |server| {
        let mut stuck = Client::connect(server.address);
        stuck.send("PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n");
        let mut greedy = Client::connect(server.address);
        greedy.send("GET /stream/100000000/1000000 HTTP/1.1\r\nHost: h\r\n\r\n");
        server.await_count(2, |s| &s.requests);
        let start = Instant::now();
        server.finish(Duration::from_secs(3));
        assert!(start.elapsed() >= Duration::from_millis(200));
        assert_eq!(stuck.try_reply(false), None);
        assert_eq!(greedy.try_reply(false), None);
    });
}

fn run_shards(driver: DriverChoice, pin: bool) -> (Driver, Vec<(ShardInfo, bool)>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let stop = Stop::new();
    let mains = (0..3)
        .map(|_| {
            let (sender, stop) = (sender.clone(), stop.clone());
            move |info: ShardInfo| async move {
                monoio::time::sleep(Duration::from_millis(1)).await;
                sender.send((info, monoio::utils::is_legacy())).unwrap();
                stop.requested().await;
            }
        })
        .collect();
    let shards = runtime::start(
        &RuntimeConfig {
            driver,
            pin,
            ..RuntimeConfig::default()
        },
        mains,
    )
    .unwrap();
    let used = shards.driver;
    let mut infos: Vec<_> = (0..3).map(|_| receiver.recv().unwrap()).collect();
    infos.sort_by_key(|(info, _)| info.index);
    stop.request();
    assert!(stop.is_requested());
    assert_eq!(shards.join(Duration::from_secs(5)), Vec::<usize>::new());
    (used, infos)
}

#[test]
fn shards_run_and_stop_on_either_driver() {
    for (choice, pin) in [
        (DriverChoice::Auto, false),
        (DriverChoice::Auto, true),
        (DriverChoice::Epoll, true),
    ] {
        let (driver, infos) = run_shards(choice, pin);
        assert_eq!(
            infos.iter().map(|(info, _)| info.index).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        for (info, legacy) in infos {
            assert_eq!(info.driver, driver);
            assert_eq!(legacy, driver == Driver::Epoll);
        }
        if choice == DriverChoice::Epoll {
            assert_eq!(driver, Driver::Epoll);
        } else {
            assert_eq!(Some(driver), runtime::probe(1).ok().or(Some(Driver::Epoll)));
        }
    }
}

#[test]
fn epoll_by_choice_comes_with_a_warning() {
    let mains = vec![|_: ShardInfo| async {}];
    let config = RuntimeConfig {
        driver: DriverChoice::Epoll,
        ..RuntimeConfig::default()
    };
    let shards = runtime::start(&config, mains).unwrap();
    assert!(shards.warning.as_deref().unwrap().contains("epoll"));
    assert_eq!(shards.join(Duration::from_secs(5)), Vec::<usize>::new());
}

#[test]
fn a_shard_that_does_not_end_is_reported() {
    let stop = Stop::new();
    let mains = vec![{
        let stop = stop.clone();
        move |_: ShardInfo| async move { stop.requested().await }
    }];
    let shards = runtime::start(&RuntimeConfig::default(), mains).unwrap();
    assert_eq!(shards.join(Duration::from_millis(50)), [0]);
    stop.request();
}
