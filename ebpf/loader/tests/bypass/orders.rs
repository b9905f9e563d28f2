//! Ends of connections while bytes wait: nothing is overtaken, nothing that was sent later
//! arrives without what was sent before it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::ends::{MIB, PATIENCE, check, content, is_all, loopback, read_exactly, rest};
use quickwater_ebpf::Shortcut;
use rustix::net::sockopt;

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

fn has_gone(shortcut: &Shortcut) -> bool {
    shortcut.queued().unwrap().is_none()
}

#[test]
fn the_end_does_not_overtake_bytes_that_wait() {
    let Some(worker) = loopback() else { return };
    for length in [1, 100_000, 3 * MIB] {
        let (mut client, mut server) = worker.connect();
        let shortcut = worker.bypass.take(&server).unwrap().unwrap();
        let answer = content(length, length);
        server.write_all(&answer).unwrap();
        // As the worker does it: first the one, then the other.
        drop(shortcut);
        drop(server);
        assert!(is_all(&mut client, &answer), "{length} bytes");
    }
}

#[test]
fn a_client_that_has_sent_all_still_reads_all() {
    let Some(worker) = loopback() else { return };
    let (mut client, mut server) = worker.connect();
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut server).unwrap(), b"request");
    let answer = content(2 * MIB, 3);
    server.write_all(&answer).unwrap();
    drop((shortcut, server));
    assert!(is_all(&mut client, &answer));
}

#[test]
fn a_reset_is_never_a_whole_answer() {
    let Some(worker) = loopback() else { return };
    let (mut client, mut server) = worker.connect();
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    let answer = content(2 * MIB, 4);
    server.write_all(&answer).unwrap();
    sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
    drop((shortcut, server));
    let mut got = Vec::new();
    let error = client.read_to_end(&mut got).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionReset,
        "after {}",
        got.len()
    );
    check(&got, &answer[..got.len()]);
}

#[test]
fn a_client_that_goes_is_noticed_and_not_sent_to() {
    let Some(worker) = loopback() else { return };
    for is_reset in [false, true] {
        let (client, mut server) = worker.connect();
        let shortcut = worker.bypass.take(&server).unwrap().unwrap();
        server.write_all(&content(MIB, 5)).unwrap();
        assert_eq!(shortcut.queued().unwrap(), Some(MIB as u32));
        if is_reset {
            sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        wait_until("gone", || has_gone(&shortcut));
        let before = worker.bypass.totals().bytes;
        let error = server.write_all(b"more").unwrap_err();
        let kinds = [
            ErrorKind::PermissionDenied,
            ErrorKind::BrokenPipe,
            ErrorKind::ConnectionReset,
        ];
        assert!(kinds.contains(&error.kind()), "{error}");
        assert_eq!(worker.bypass.totals().bytes, before);
    }
}

#[test]
fn once_all_is_read_tcp_goes_on() {
    let Some(worker) = loopback() else { return };
    let (mut client, mut server) = worker.connect();
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    let answer = content(MIB, 6);
    server.write_all(&answer).unwrap();
    check(&read_exactly(&mut client, MIB), &answer);
    assert_eq!(shortcut.queued().unwrap(), Some(0));
    drop(shortcut);
    let more = content(MIB, 7);
    std::thread::scope(|scope| {
        scope.spawn(move || server.write_all(&more).unwrap());
        assert!(is_all(&mut client, &content(MIB, 7)));
    });
    assert_eq!(worker.bypass.totals().bytes, MIB as u64);
}

/// The programs go, as they do when the process is killed: what waits is lost, and the
/// connection ends. A client sees a body that is too short, and nothing that is wrong.
#[test]
fn what_waits_is_lost_with_the_programs_and_nothing_follows() {
    let Some(worker) = loopback() else { return };
    let (mut client, mut server) = worker.connect();
    let shortcut = worker.bypass.take(&server).unwrap().unwrap();
    let answer = content(MIB, 8);
    server.write_all(&answer).unwrap();
    let first = read_exactly(&mut client, 1000);
    drop((shortcut, worker, server));
    let mut got = first;
    // The end or an error, as the kernel comes to it.
    let _ = client.read_to_end(&mut got);
    check(&got, &answer[..got.len()]);
}

/// Blocking reads, by way of which the kernel has been seen to say "try again".
#[test]
fn readers_wait_for_bytes_that_dribble() {
    let Some(worker) = loopback() else { return };
    let (mut client, mut server) = worker.connect();
    let _shortcut = worker.bypass.take(&server).unwrap().unwrap();
    let answer = content(200_000, 9);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_exactly(&mut client, 200_000));
        for piece in answer.chunks(997) {
            server.write_all(piece).unwrap();
            std::thread::yield_now();
        }
        check(&reader.join().unwrap(), &answer);
    });
}

#[test]
fn many_at_once_get_their_own() {
    let Some(worker) = loopback() else { return };
    std::thread::scope(|scope| {
        for number in 0..8_usize {
            let worker = &worker;
            let (mut client, mut server): (TcpStream, TcpStream) = worker.connect();
            let shortcut = worker.bypass.take(&server).unwrap().unwrap();
            scope.spawn(move || {
                for round in 0..20_usize {
                    let length = 1 + (number * 20 + round) * 6_151 % 300_000;
                    check(
                        &read_exactly(&mut client, length),
                        &content(length, number * 20 + round),
                    );
                }
            });
            scope.spawn(move || {
                for round in 0..20_usize {
                    let length = 1 + (number * 20 + round) * 6_151 % 300_000;
                    server
                        .write_all(&content(length, number * 20 + round))
                        .unwrap();
                }
                drop(shortcut);
            });
        }
    });
}
