//! Answers that go from socket to socket, in the kernel of this machine. Skipped, with the
//! reason, where that cannot be; `QUICKWATER_EBPF_STRICT=1` makes programs that are missing
//! or refused a failure.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod costs;
mod ends;
mod host;
mod orders;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use ends::{MIB, Worker, check, content, is_all, loopback, read_exactly};
use host::Host;
use quickwater_ebpf::QUEUED_MAX;

#[test]
fn a_large_answer_is_proved() {
    let Some(worker) = loopback() else { return };
    worker.bypass.prove(worker.address().ip()).unwrap();
    assert_eq!(worker.bypass.totals().bytes, 64 * MIB as u64);
    // And afterwards the port of the test is nobody's.
    worker.bypass.prove(worker.address().ip()).unwrap();
    assert_eq!(worker.bypass.totals().clients, 2);
}

#[test]
fn a_test_whose_connection_is_not_seen_fails() {
    let Some(worker) = loopback() else { return };
    let other = "127.0.0.2".parse().unwrap();
    let why = worker.bypass.prove(other).unwrap_err().to_string();
    assert!(why.contains("not seen"), "{why}");
}

#[test]
fn answers_are_exact_and_requests_go_by_tcp() {
    let Some(worker) = loopback() else { return };
    let (mut client, mut server) = worker.connect();
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    let mut sent = 0;
    for round in 0..24_usize {
        // Requests both small and larger than any buffer.
        let request = content(1 + round * 50_021, round);
        let answer = content(1 + round * 99_991, round + 1);
        std::thread::scope(|scope| {
            scope.spawn(|| client.write_all(&request).unwrap());
            check(&read_exactly(&mut server, request.len()), &request);
        });
        std::thread::scope(|scope| {
            scope.spawn(|| server.write_all(&answer).unwrap());
            check(&read_exactly(&mut client, answer.len()), &answer);
        });
        sent += answer.len() as u64;
    }
    assert_eq!(shortcut.queued().unwrap(), Some(0));
    assert_eq!(
        worker.bypass.totals().bytes,
        sent,
        "every answer, no request"
    );
}

#[test]
fn what_waits_is_counted_and_a_patient_sender_leaves_little() {
    let Some(worker) = loopback() else { return };
    let (mut client, mut server) = worker.connect();
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    let answer = content(32 * MIB, 1);
    let mut unread = 0;
    for piece in answer.chunks(MIB) {
        // What a worker does; a reader that is this slow never empties it.
        while shortcut.queued().unwrap().unwrap() > QUEUED_MAX {
            let read = 700_001.min(unread);
            read_exactly(&mut client, read);
            unread -= read;
        }
        server.write_all(piece).unwrap();
        unread += piece.len();
        let queued = shortcut.queued().unwrap().unwrap() as usize;
        assert_eq!(queued, unread, "exact");
        assert!(queued <= QUEUED_MAX as usize + MIB, "{queued}");
    }
    check(
        &read_exactly(&mut client, unread),
        &answer[answer.len() - unread..],
    );
    assert_eq!(shortcut.queued().unwrap(), Some(0));
}

#[test]
fn clients_of_other_ports_and_addresses_are_not_looked_at() {
    let Some(worker) = loopback() else { return };
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(elsewhere.local_addr().unwrap()).unwrap();
    let (server, _) = elsewhere.accept().unwrap();
    assert!(worker.bypass.take(&server).unwrap().is_none(), "the port");
    let same_port = ("127.0.0.3", worker.address().port());
    let elsewhere = TcpListener::bind(same_port).unwrap();
    let _client = TcpStream::connect(same_port).unwrap();
    let (server, _) = elsewhere.accept().unwrap();
    assert!(
        worker.bypass.take(&server).unwrap().is_none(),
        "the address"
    );
    assert_eq!(worker.bypass.totals().clients, 0);
}

#[test]
fn a_loopback_of_another_namespace_is_another_one() {
    let Some(worker) = loopback() else { return };
    let Some(host) = ends::here(Host::new()) else {
        return;
    };
    let theirs = worker.address();
    host.run(|| {
        let elsewhere = TcpListener::bind(theirs).unwrap();
        let mut client = TcpStream::connect(theirs).unwrap();
        let (mut server, _) = elsewhere.accept().unwrap();
        assert!(worker.bypass.take(&server).unwrap().is_none());
        server.write_all(b"theirs").unwrap();
        drop(server);
        assert!(is_all(&mut client, b"theirs"));
    });
    assert_eq!(worker.bypass.totals().clients, 0);
}

#[test]
fn a_client_in_another_namespace_is_on_this_node() {
    let Some((first, second)) = ends::here(Host::two()) else {
        return;
    };
    let Some(worker) = first.run(|| Worker::at("10.77.0.1")) else {
        return;
    };
    let address = worker.address();
    let mut client = second.run(|| TcpStream::connect(address)).unwrap();
    let mut server = worker.accept();
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    let answer = content(3 * MIB, 7);
    server.write_all(&answer).unwrap();
    drop(shortcut);
    drop(server);
    assert!(is_all(&mut client, &answer));
    assert_eq!(worker.bypass.totals().bytes, answer.len() as u64);
}

/// Two networks that have nothing to do with each other may have the same addresses.
#[test]
fn namesakes_are_told_apart() {
    let Some((first, second)) = ends::here(Host::two()) else {
        return;
    };
    let Some(worker) = first.run(|| Worker::at("10.77.0.1")) else {
        return;
    };
    let Some((other_first, other_second)) = ends::here(Host::two()) else {
        return;
    };
    let address = worker.address();
    let from = "10.77.0.2:40404".parse().unwrap();
    let other = other_first.run(|| TcpListener::bind(address)).unwrap();
    let mut stranger = other_second.run(|| ends::connect_from(from, address));
    let (mut strange_server, _) = other.accept().unwrap();
    let mut client = second.run(|| ends::connect_from(from, address));
    let mut server = worker.accept();
    assert_eq!(worker.bypass.totals().clients, 2, "both look like clients");
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    server.write_all(b"ours").unwrap();
    strange_server.write_all(b"theirs").unwrap();
    drop((shortcut, server, strange_server));
    assert!(is_all(&mut client, b"ours"));
    assert!(is_all(&mut stranger, b"theirs"));
}

#[test]
fn a_client_of_another_cgroup_goes_by_tcp() {
    // Nobody is in it.
    let Some(root) = quickwater_ebpf::cgroup_root() else {
        eprintln!("SKIPPED: no cgroup2 is mounted");
        return;
    };
    let empty = root.join(format!("quickwater-bypass-{}", std::process::id()));
    let Some(()) = ends::here(std::fs::create_dir(&empty).map_err(|error| error.to_string()))
    else {
        return;
    };
    let worker = Worker::of("127.0.0.1", &empty);
    if let Some(worker) = &worker {
        let (mut client, mut server) = worker.connect();
        assert!(worker.bypass.take(&server).unwrap().is_none());
        server.write_all(b"by TCP").unwrap();
        drop(server);
        assert!(is_all(&mut client, b"by TCP"));
        assert_eq!(worker.bypass.totals().bytes, 0);
    }
    drop(worker);
    std::fs::remove_dir(&empty).unwrap();
}

/// Other workers of this node start and stop; nobody is taken for one who was overridden.
#[test]
fn workers_beside_each_other_come_and_go() {
    let Some(_first) = loopback() else { return };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    drop(loopback().unwrap());
                }
            });
        }
    });
}

#[test]
fn ipv6_is_as_good() {
    let Some(worker) = Worker::at("::1") else {
        return;
    };
    let (mut client, mut server) = worker.connect();
    let _shortcut = worker.bypass.take(&server).unwrap().unwrap();
    server.write_all(b"six").unwrap();
    let mut three = [0; 3];
    client.read_exact(&mut three).unwrap();
    assert_eq!((&three, worker.bypass.totals().bytes), (b"six", 3));
}

/// A socket for both families knows IPv4 in the form of IPv6.
#[test]
fn ipv4_of_a_socket_for_both_is_ipv4() {
    let Some(worker) = Worker::at("::ffff:127.0.0.1") else {
        return;
    };
    let address = ("127.0.0.1", worker.address().port());
    let mut client = TcpStream::connect(address).unwrap();
    let mut server = worker.accept();
    let _shortcut = worker.bypass.take(&server).unwrap().unwrap();
    server.write_all(b"four").unwrap();
    let mut four = [0; 4];
    client.read_exact(&mut four).unwrap();
    assert_eq!((&four, worker.bypass.totals().bytes), (b"four", 4));
}
