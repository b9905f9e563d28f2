//! Connections over the loopback that change their socket, byte for byte. Skipped, with
//! the reason, where the kernel does not allow it; `QUICKWATER_EBPF_STRICT=1` makes that
//! a failure.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use quickwater_handoff::{Frozen, Refused, RestoreError, State, UNREAD_BYTES_MAX, Window};
use quickwater_handoff::{freeze, probe, restore};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether it can be done here.
fn allowed() -> bool {
    match probe() {
        Ok(()) => true,
        Err(why) if std::env::var("QUICKWATER_EBPF_STRICT").is_ok_and(|s| s == "1") => {
            panic!("handing over is required: {why}")
        }
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            false
        }
    }
}

fn pair(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (client, server)
}

/// Freezes once the client has acknowledged what it was sent.
fn freeze_soon(socket: impl Into<OwnedFd>, read: &[u8]) -> Frozen {
    let until = Instant::now() + PATIENCE;
    let mut socket = socket.into();
    loop {
        match freeze(socket, read) {
            Ok(frozen) => return frozen,
            Err((back, Refused::Unacknowledged)) if Instant::now() < until => socket = back,
            Err((_, refused)) => panic!("{refused}"),
        }
    }
}

fn continued(state: &State) -> OwnedFd {
    restore(state).unwrap().begin().unwrap()
}

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count)
        .map(|at| ((at * 31) ^ (at >> 8) ^ seed) as u8)
        .collect()
}

fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends from one to the other while the other receives.
fn send(from: &TcpStream, to: &mut TcpStream, body: &[u8]) {
    let mut from = from.try_clone().unwrap();
    let got = std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(body).unwrap());
        read_exactly(to, body.len())
    });
    assert!(got == body, "other bytes");
}

fn hand_over_many_times(address: &str) {
    let (mut client, mut server) = pair(address);
    for turn in 0..40 {
        send(&client, &mut server, &bytes(100 + turn, turn));
        let frozen = freeze_soon(server, b"GET");
        let state = State::decode(&frozen.state().encode()).unwrap();
        assert_eq!(state.unread, b"GET");
        assert!(frozen.is_unchanged());
        frozen.release();
        server = TcpStream::from(continued(&state));
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let size = [0, 1, 1000, 70_000, 1 << 20][turn % 5];
        send(&server, &mut client, &bytes(size, turn));
    }
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "an orderly end");
}

#[test]
fn a_connection_goes_on_byte_for_byte() {
    if allowed() {
        hand_over_many_times("127.0.0.1:0");
    }
}

#[test]
fn a_connection_goes_on_over_ipv6_too() {
    if allowed() {
        hand_over_many_times("[::1]:0");
    }
}

#[test]
fn what_was_agreed_is_what_it_was() {
    if !allowed() {
        return;
    }
    let (_client, server) = pair("127.0.0.1:0");
    let frozen = freeze_soon(server, b"");
    let before = frozen.state().clone();
    frozen.release();
    let after = freeze_soon(continued(&before), b"").state().clone();
    assert!(before.scales.is_some() && before.sack && before.timestamp.is_some());
    assert_eq!((after.scales, after.sack), (before.scales, before.sack));
    assert_eq!(after.segment, before.segment);
    // It was announced once more since, in whole units.
    let unit = 1 << before.scales.unwrap().1;
    let announced = Window {
        receive: before.window.receive.next_multiple_of(unit),
        ..before.window
    };
    assert_eq!(after.window, announced);
    let (one, other) = (before.timestamp.unwrap(), after.timestamp.unwrap());
    assert!(other.wrapping_sub(one) < 1 << 30, "the clock goes on");
    assert_eq!(after.send_sequence, before.send_sequence);
}

#[test]
fn unread_bytes_travel_and_are_still_there_when_thawed() {
    if !allowed() {
        return;
    }
    let (mut client, server) = pair("127.0.0.1:0");
    client.write_all(b"second").unwrap();
    // They have come when they can be seen.
    assert_eq!(server.peek(&mut [0; 6]).unwrap(), 6);
    let frozen = freeze_soon(server, b"first");
    assert_eq!(frozen.state().unread, b"firstsecond");
    assert_eq!(frozen.queued(), 6);
    let mut server = TcpStream::from(frozen.thaw().unwrap());
    assert_eq!(read_exactly(&mut server, 6), b"second");
    send(&server, &mut client, b"as if nothing had been");
}

#[test]
fn bytes_that_come_afterwards_are_noticed() {
    if !allowed() {
        return;
    }
    let (mut client, server) = pair("127.0.0.1:0");
    let frozen = freeze_soon(server, b"");
    assert!(frozen.is_unchanged());
    client.write_all(b"late").unwrap();
    let until = Instant::now() + PATIENCE;
    while frozen.is_unchanged() {
        assert!(Instant::now() < until, "they are not noticed");
    }
    // Thawed, nothing is lost.
    let mut server = TcpStream::from(frozen.thaw().unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(read_exactly(&mut server, 4), b"late");
}

#[test]
fn a_client_is_told_when_it_is_over_and_not_when_it_goes_on_elsewhere() {
    if !allowed() {
        return;
    }
    let (mut client, server) = pair("127.0.0.1:0");
    freeze_soon(server, b"").reset();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let (mut client, server) = pair("127.0.0.1:0");
    let frozen = freeze_soon(server, b"");
    let state = frozen.state().clone();
    frozen.release();
    client.set_nonblocking(true).unwrap();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
    send(&continued(&state).into(), &mut client, b"hello");
}

#[test]
fn what_is_not_at_rest_is_refused_and_goes_on() {
    if !allowed() {
        return;
    }
    // The client does not read: bytes stay on their way.
    let (client, server) = pair("127.0.0.1:0");
    server.set_nonblocking(true).unwrap();
    let mut sent = 0;
    loop {
        match (&server).write(&bytes(1 << 16, sent)) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let Err((server, Refused::Unacknowledged)) = freeze(server.into(), b"") else {
        panic!("frozen with bytes on their way");
    };
    drop(server);
    drop(client);

    let (mut client, server) = pair("127.0.0.1:0");
    let much = vec![0; UNREAD_BYTES_MAX + 1];
    let Err((server, Refused::Kind(_))) = freeze(server.into(), &much) else {
        panic!("frozen with too much");
    };
    send(&server.into(), &mut client, b"it goes on");

    let (client, mut server) = pair("127.0.0.1:0");
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    let refused = freeze(server.into(), b"");
    assert!(matches!(refused, Err((_, Refused::NotEstablished))));
}

#[test]
fn two_of_the_same_ends_and_addresses_of_others_are_refused() {
    if !allowed() {
        return;
    }
    let (mut client, server) = pair("127.0.0.1:0");
    let frozen = freeze_soon(server, b"");
    let state = frozen.state().clone();
    let refused = restore(&state);
    assert!(matches!(refused, Err(RestoreError::Exists)), "{refused:?}");
    let elsewhere = State {
        local: "192.0.2.1:9000".parse().unwrap(),
        ..state.clone()
    };
    let refused = restore(&elsewhere);
    assert!(
        matches!(refused, Err(RestoreError::NotHere(_))),
        "{refused:?}"
    );
    let wrong = State {
        segment: 1,
        ..state
    };
    assert!(matches!(restore(&wrong), Err(RestoreError::State(_))));
    // The tries did nothing to it.
    send(&frozen.thaw().unwrap().into(), &mut client, b"still");
}

#[test]
fn a_port_can_be_listened_on_again_beside_restored_connections() {
    if !allowed() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    let frozen = freeze_soon(server, b"");
    let state = frozen.state().clone();
    frozen.release();
    // Beside the listener, and a new one beside it.
    let restored = TcpStream::from(continued(&state));
    drop(listener);
    let again = TcpListener::bind(address).unwrap();
    send(&restored, &mut client, b"both");
    drop(again);
}
