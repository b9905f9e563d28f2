//! Connections that move between hosts: network namespaces on one bridge, a client,
//! an entry and an owner that have the same service addresses. Skipped, with the reason,
//! where such hosts or the program cannot be had; `QUICKWATER_EBPF_STRICT=1` makes that a
//! failure.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

#[path = "hosts/segment.rs"]
mod segment;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use quickwater_ebpf::{Device, Ends, Forwarding, Unavailable, WINDOW};
use quickwater_handoff::{
    Frozen, Hearing, Refused, Restored, State, freeze, hearing, is_at_rest, restore,
};
use segment::{Host, Segment};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 9000;
const FOUR: &str = "10.60.0.1:9000";
const SIX: &str = "[fd60::1]:9000";

/// A host with the program on its device.
struct Node<'s> {
    host: &'s Host,
    forwarding: Forwarding,
}

impl<'s> Node<'s> {
    fn new(segment: &Segment, host: &'s Host) -> Result<Self, Unavailable> {
        let pins = segment.pins().join(host.name);
        let forwarding = host.run(|| {
            let device = Device::named("e0").unwrap();
            assert_eq!(Device::with(host.address.into()).unwrap(), device);
            Forwarding::attach(&device, PORT, &pins)
        })?;
        Ok(Node { host, forwarding })
    }
}

/// `None`: not here, and that is allowed.
fn segment() -> Option<Segment> {
    let segment = match Segment::new() {
        Ok(segment) => segment,
        Err(why) => {
            eprintln!("SKIPPED: no hosts here: {why}");
            return None;
        }
    };
    match Node::new(&segment, &segment.entry).map(|_| ()) {
        Ok(()) => Forwarding::detach(&segment.pins().join("entry")).unwrap(),
        Err(why) if std::env::var("QUICKWATER_EBPF_STRICT").is_ok_and(|s| s == "1") => {
            panic!("eBPF is required: {why}")
        }
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            return None;
        }
    }
    Some(segment)
}

/// A connection of the client, and the entry's end of it.
fn connect(segment: &Segment, listener: &TcpListener) -> (TcpStream, TcpStream, Ends) {
    let service = listener.local_addr().unwrap();
    let client = segment.client.run(|| TcpStream::connect(service)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(client.local_addr().unwrap(), peer);
    let ends = Ends {
        client: peer,
        service,
    };
    (client, server, ends)
}

fn listen(host: &Host, service: &str) -> TcpListener {
    let service: SocketAddr = service.parse().unwrap();
    host.run(|| TcpListener::bind(service)).unwrap()
}

/// Waits until the client has acknowledged all it was sent: afterwards its packets may
/// be kept away.
fn rest(stream: &TcpStream) {
    let until = Instant::now() + PATIENCE;
    loop {
        match is_at_rest(stream) {
            Ok(()) => return,
            Err(Refused::Unacknowledged) if Instant::now() < until => std::thread::yield_now(),
            Err(refused) => panic!("{refused}"),
        }
    }
}

fn frozen(stream: TcpStream) -> Frozen {
    freeze(stream.into(), b"").unwrap()
}

fn continued(host: &Host, state: &State) -> Restored {
    let state = State::decode(&state.encode()).unwrap();
    host.run(|| restore(&state)).unwrap()
}

fn speaking(restored: Restored) -> TcpStream {
    let stream = TcpStream::from(restored.begin().unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn hand_over(entry: &Node<'_>, owner: &Node<'_>, ends: &Ends, stream: TcpStream) -> TcpStream {
    rest(&stream);
    owner.forwarding.expect(ends).unwrap();
    entry.forwarding.keep_away(ends).unwrap();
    let frozen = frozen(stream);
    let mac = owner.forwarding.device().mac;
    entry.forwarding.send_on(ends, mac).unwrap();
    let restored = continued(owner.host, frozen.state());
    owner.forwarding.expect_no_more(ends);
    let stream = speaking(restored);
    assert!(frozen.is_unchanged());
    frozen.release();
    stream
}

fn hand_back(entry: &Node<'_>, ends: &Ends, stream: TcpStream) -> TcpStream {
    rest(&stream);
    entry.forwarding.keep_away(ends).unwrap();
    let frozen = frozen(stream);
    let restored = continued(entry.host, frozen.state());
    entry.forwarding.forget(ends);
    let stream = speaking(restored);
    frozen.release();
    stream
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

/// A request and its answer.
fn speak(client: &mut TcpStream, server: &mut TcpStream, size: usize, seed: usize) {
    client.write_all(b"GET").unwrap();
    assert_eq!(read_exactly(server, 3), b"GET");
    let body = bytes(size, seed);
    let got = std::thread::scope(|scope| {
        scope.spawn(|| server.write_all(&body).unwrap());
        read_exactly(client, body.len())
    });
    assert!(got == body, "other bytes");
}

fn to_and_fro(service: &str) {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, service);
    // It has a listener of its own, as a worker has.
    let _beside = listen(owner.host, service);
    let (mut client, mut server, ends) = connect(&segment, &listener);
    assert!(entry.forwarding.has_arrived(&ends));
    assert!(!owner.forwarding.has_arrived(&ends));
    for turn in 0..12 {
        let size = [0, 1, 1000, 70_000, 1 << 20, 5 << 20][turn % 6];
        speak(&mut client, &mut server, 10, turn);
        server = hand_over(&entry, &owner, &ends, server);
        speak(&mut client, &mut server, size, turn);
        speak(&mut client, &mut server, size, turn + 1);
        server = hand_back(&entry, &ends, server);
        speak(&mut client, &mut server, size, turn);
    }
    assert_eq!(entry.forwarding.sweep(), (0, 0));
    assert!(entry.forwarding.counts().forwarded > 0);
    assert_eq!(owner.forwarding.counts().forwarded, 0);
}

#[test]
fn a_connection_goes_to_the_owner_and_back_byte_for_byte() {
    to_and_fro(FOUR);
}

#[test]
fn a_connection_of_ipv6_does_too() {
    to_and_fro(SIX);
}

/// The window that the client was told of by whoever has the connection, bytes.
fn window_of(told: &str) -> Option<u32> {
    let mut words = told.split_whitespace().rev();
    let window = words.find_map(|word| word.strip_prefix("snd_wnd:"));
    window?.parse().ok()
}

#[test]
fn what_a_client_does_not_agree_to_is_not_used_by_the_owner() {
    const UPLOAD: usize = 1 << 20;
    const WINDOW_LEAST: u32 = 10_000;
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let _beside = listen(owner.host, FOUR);
    let options = [
        ("tcp_window_scaling", " wscale:"),
        ("tcp_timestamps", " ts "),
        ("tcp_sack", " sack "),
    ];
    for off in [0b001, 0b010, 0b100, 0b111] {
        let is_on = |at: usize| off & (1 << at) == 0;
        for (at, (name, _)) in options.iter().enumerate() {
            segment::set_option(&segment.client, name, is_on(at));
        }
        let (mut client, mut server, ends) = connect(&segment, &listener);
        let before = segment::told_of_connection(&segment.client, PORT);
        for (at, (name, shown)) in options.iter().enumerate() {
            assert_eq!(before.contains(shown), is_on(at), "{name}: {before}");
        }
        for turn in 0..4 {
            speak(&mut client, &mut server, 70_000, turn);
            let until = Instant::now() + PATIENCE;
            loop {
                // What comes back tells of the window.
                speak(&mut client, &mut server, 1, turn);
                let told = segment::told_of_connection(&segment.client, PORT);
                if window_of(&told).is_some_and(|bytes| bytes >= WINDOW_LEAST) {
                    break;
                }
                assert!(
                    Instant::now() < until,
                    "turn {turn}, without {off:b}: {told}"
                );
            }
            let body = bytes(UPLOAD, turn);
            let got = std::thread::scope(|scope| {
                scope.spawn(|| client.write_all(&body).unwrap());
                read_exactly(&mut server, body.len())
            });
            assert!(got == body, "other bytes");
            server = match turn % 2 {
                0 => hand_over(&entry, &owner, &ends, server),
                _ => hand_back(&entry, &ends, server),
            };
        }
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "an orderly end");
        drop(client);
        let until = Instant::now() + PATIENCE;
        while segment::told_of_connection(&segment.client, PORT).starts_with("ESTAB") {
            assert!(Instant::now() < until, "the connection stays");
        }
    }
}

#[test]
fn early_packets_wait_for_the_socket() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "never within the window");
        let (mut client, server, ends) = connect(&segment, &listener);
        let (begun, before) = (Instant::now(), owner.forwarding.counts().kept_away);
        owner.forwarding.expect(&ends).unwrap();
        let frozen = frozen(server);
        let mac = owner.forwarding.device().mac;
        entry.forwarding.send_on(&ends, mac).unwrap();
        client.write_all(b"early").unwrap();
        while owner.forwarding.counts().kept_away == before && begun.elapsed() < WINDOW {
            std::thread::yield_now();
        }
        let restored = continued(owner.host, frozen.state());
        owner.forwarding.expect_no_more(&ends);
        let mut server = speaking(restored);
        frozen.release();
        // On a machine that stood still meanwhile the packet was not kept away: again.
        if begun.elapsed() < WINDOW {
            assert!(owner.forwarding.counts().kept_away > before);
            assert_eq!(read_exactly(&mut server, 5), b"early", "sent again");
            speak(&mut client, &mut server, 1000, 1);
            return;
        }
    }
}

#[test]
fn who_continues_a_connection_knows_whether_its_client_hears() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "never within the window");
        let (mut client, server, ends) = connect(&segment, &listener);
        let left_at = Instant::now();
        owner.forwarding.expect(&ends).unwrap();
        // What the client acknowledges gets lost.
        entry.forwarding.keep_away(&ends).unwrap();
        let here = frozen(server);
        let restored = continued(owner.host, here.state());
        owner.forwarding.expect_no_more(&ends);
        let mut server = speaking(restored);
        here.release();
        let asked = hearing(&server).unwrap();
        server.write_all(b"answer").unwrap();
        let silent = hearing(&server).unwrap();
        assert_eq!(read_exactly(&mut client, 6), b"answer");
        let within = left_at.elapsed() < WINDOW;
        let mac = owner.forwarding.device().mac;
        entry.forwarding.send_on(&ends, mac).unwrap();
        rest(&server);
        assert_eq!(hearing(&server).unwrap(), Hearing::Heard);
        let (leaving, left, ends) = connect(&segment, &listener);
        let here = frozen(left);
        segment::reset(leaving);
        let mac = owner.forwarding.device().mac;
        entry.forwarding.send_on(&ends, mac).unwrap();
        let left = speaking(continued(owner.host, here.state()));
        here.release();
        while hearing(&left).unwrap() != Hearing::Ended {
            assert!(Instant::now() < until, "its client is gone");
            std::thread::yield_now();
        }
        // On a machine that stood still meanwhile it may have been heard: again.
        if within {
            assert_eq!((asked, silent), (Hearing::Silent, Hearing::Silent));
            return;
        }
    }
}

#[test]
fn after_a_reset_packets_go_to_the_owner_for_a_moment() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let (mut client, server, ends) = connect(&segment, &listener);
    owner.forwarding.expect(&ends).unwrap();
    entry.forwarding.keep_away(&ends).unwrap();
    let frozen = frozen(server);
    let mac = owner.forwarding.device().mac;
    entry.forwarding.send_on(&ends, mac).unwrap();
    let restored = continued(owner.host, frozen.state());
    owner.forwarding.expect_no_more(&ends);
    let mut server = speaking(restored);
    // The entry did not hear of it.
    entry.forwarding.send_last(&ends, mac).unwrap();
    frozen.reset();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    let until = Instant::now() + PATIENCE;
    let error = loop {
        match server.write_all(b"answer") {
            Ok(()) => assert!(Instant::now() < until, "the owner does not learn of it"),
            Err(error) => break error.kind(),
        }
    };
    assert!(gone.contains(&error), "{error:?}");
    while entry.forwarding.sweep().0 > 0 {
        assert!(Instant::now() < until, "the entry stays");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn without_the_guard_early_packets_are_answered_by_a_reset() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let (mut client, server, ends) = connect(&segment, &listener);
    let frozen = frozen(server);
    let mac = owner.forwarding.device().mac;
    entry.forwarding.send_on(&ends, mac).unwrap();
    client.write_all(b"early").unwrap();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    frozen.release();
}

#[test]
fn connections_outlive_the_process_that_handed_them_over() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let (mut client, server, ends) = connect(&segment, &listener);
    let mut server = hand_over(&entry, &owner, &ends, server);
    drop((entry, listener));
    speak(&mut client, &mut server, 1 << 20, 1);
    let again = Node::new(&segment, &segment.entry).unwrap();
    assert_eq!(again.forwarding.sweep(), (1, 0), "it knows of it");
    speak(&mut client, &mut server, 1 << 20, 2);
    assert!(again.forwarding.counts().forwarded > 0, "it is this one's");
    // Without it the entry's kernel answers, as for any connection it does not know.
    drop(again);
    Forwarding::detach(&segment.pins().join("entry")).unwrap();
    let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    let moment = Some(Duration::from_millis(50));
    client.set_read_timeout(moment).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let asked = client.write_all(b"GET");
        match asked.and_then(|()| client.read(&mut [0; 1])) {
            // It went to the owner, which says nothing.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if gone.contains(&error.kind()) => return,
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < until, "the program is still there");
    }
}

#[test]
fn entries_of_connections_that_ended_go_and_their_ports_come_again() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let (mut client, server, ends) = connect(&segment, &listener);
    let mut server = hand_over(&entry, &owner, &ends, server);
    speak(&mut client, &mut server, 1000, 1);
    // A reset: the client's port is free at once.
    segment::reset(client);
    assert_eq!(
        server.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let client = segment
        .client
        .run(|| segment::connect_from(ends.client, ends.service));
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer, ends.client, "the same ends, at the entry");
    let mut client = client.unwrap();
    speak(&mut client, &mut server, 1000, 2);
    // The client ends its side, and may read for as long as it likes.
    let mut server = hand_over(&entry, &owner, &ends, server);
    speak(&mut client, &mut server, 1000, 3);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(entry.forwarding.sweep(), (1, 0));
    // It answers what still comes by a reset, and the entry is forgotten after a while.
    drop(client);
    let refused = loop {
        match server.write_all(b"late") {
            Ok(()) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => break error.kind(),
        }
    };
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&refused));
    let until = Instant::now() + PATIENCE;
    while entry.forwarding.sweep().0 > 0 {
        assert!(Instant::now() < until, "the entry stays");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn packets_are_turned_by_who_knows_where_they_go() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let forwarding = &entry.forwarding;
    let ends = Ends {
        client: "10.60.1.1:7000".parse().unwrap(),
        service: FOUR.parse().unwrap(),
    };
    let (holder, next, other) = ([2; 6], [4; 6], [6; 6]);
    let turn = |from, to, last| forwarding.redirect(&ends, (from, to), last).unwrap();
    assert!(!turn(holder, next, false), "they come here");
    forwarding.keep_away(&ends).unwrap();
    assert!(!forwarding.is_sent_on(&ends) && !turn([0; 6], next, false));
    // What is expected here does not wait for what it was kept away for before.
    forwarding.expect(&ends).unwrap();
    assert_eq!(forwarding.sweep(), (0, 0));
    forwarding.send_on(&ends, holder).unwrap();
    forwarding.expect(&ends).unwrap();
    assert!(forwarding.is_sent_on(&ends), "it may never come");
    assert!(!turn(other, next, false) && !turn(next, other, true));
    assert!(turn(holder, next, false) && !turn(holder, other, false));
    assert!(turn(next, holder, false) && turn(holder, next, false));
    // Whichever of the two has it when it is over.
    assert!(turn(holder, next, true) && forwarding.is_sent_on(&ends));
    assert!(!turn(next, holder, false), "its client has ended it");
    let until = Instant::now() + PATIENCE;
    while forwarding.is_sent_on(&ends) {
        assert!(Instant::now() < until, "the entry stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!forwarding.has_arrived(&ends));
    forwarding.note_arrival(&ends);
    assert!(forwarding.has_arrived(&ends));
}

#[test]
fn packets_are_kept_away_for_a_moment_only() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let listener = listen(entry.host, FOUR);
    let (mut client, mut server, ends) = connect(&segment, &listener);
    let until = Instant::now() + PATIENCE;
    loop {
        // Whoever ordered it is gone: the client sends again until it gets through.
        entry.forwarding.keep_away(&ends).unwrap();
        speak(&mut client, &mut server, 1000, 1);
        let counts = entry.forwarding.counts();
        if counts.kept_away > 0 && counts.too_old > 0 {
            return;
        }
        // Only on a machine that stood still before the client sent anything.
        assert!(Instant::now() < until, "{counts:?}");
    }
}

/// When the client of a trial ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    KeptAway,
    SentOn,
    Restored,
    Answered,
}

/// One connection that its client ends while it is handed over, or afterwards.
fn ended_by_the_client(
    segment: &Segment,
    (entry, owner): (&Node<'_>, &Node<'_>),
    listener: &TcpListener,
    (when, hard): (Moment, bool),
) {
    let (mut client, mut server, ends) = connect(segment, listener);
    speak(&mut client, &mut server, 1000, 1);
    let mut client = Some(client);
    let mut reached = |stage| {
        let ended = client.take_if(|_| stage == when);
        match (ended, hard) {
            (Some(client), true) => segment::reset(client),
            (ended, _) => drop(ended),
        }
    };
    rest(&server);
    let begun = Instant::now();
    owner.forwarding.expect(&ends).unwrap();
    entry.forwarding.keep_away(&ends).unwrap();
    reached(Moment::KeptAway);
    let frozen = match freeze(server.into(), b"") {
        Ok(frozen) => frozen,
        // The machine stood still, and the client's last packet got through.
        Err(_) if begun.elapsed() >= WINDOW => return entry.forwarding.forget(&ends),
        Err((_, refused)) => panic!("{refused}"),
    };
    let mac = owner.forwarding.device().mac;
    entry.forwarding.send_on(&ends, mac).unwrap();
    reached(Moment::SentOn);
    let restored = continued(owner.host, frozen.state());
    reached(Moment::Restored);
    owner.forwarding.expect_no_more(&ends);
    let mut server = speaking(restored);
    frozen.release();
    reached(Moment::Answered);
    // The answer finds nobody: sooner or later it fails.
    let body = vec![0; 1 << 16];
    let error = loop {
        match server.write_all(&body) {
            Ok(()) => {}
            Err(error) => break error.kind(),
        }
    };
    let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(gone.contains(&error), "{when:?} {hard}: {error:?}");
}

#[test]
fn clients_that_end_at_any_moment_leave_nothing_behind() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let listener = listen(entry.host, FOUR);
    let rounds = if is_long() { 40 } else { 3 };
    let stages = [
        Moment::KeptAway,
        Moment::SentOn,
        Moment::Restored,
        Moment::Answered,
    ];
    for _ in 0..rounds {
        for when in stages {
            for hard in [true, false] {
                ended_by_the_client(&segment, (&entry, &owner), &listener, (when, hard));
            }
        }
    }
    let until = Instant::now() + PATIENCE;
    while entry.forwarding.sweep().0 > 0 {
        assert!(Instant::now() < until, "an entry stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    for host in [&segment.entry, &segment.owner] {
        while let Some(left) = segment::connection_left(host) {
            assert!(Instant::now() < until, "{}: {left}", host.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn there_are_never_more_entries_than_the_limit() {
    let Some(segment) = segment() else {
        return;
    };
    let entry = Node::new(&segment, &segment.entry).unwrap();
    let owner = Node::new(&segment, &segment.owner).unwrap();
    let mac = owner.forwarding.device().mac;
    let service: SocketAddr = FOUR.parse().unwrap();
    for number in 0..80_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let client = SocketAddr::from(([10, a, b, c], 1024));
        entry
            .forwarding
            .send_on(&Ends { client, service }, mac)
            .unwrap();
    }
    let (left, _) = entry.forwarding.sweep();
    assert!((1..=65_536).contains(&left), "{left}");
    // There is room for the next one.
    let listener = listen(entry.host, FOUR);
    let (mut client, mut server, ends) = connect(&segment, &listener);
    speak(&mut client, &mut server, 1000, 1);
    let mut server = hand_over(&entry, &owner, &ends, server);
    speak(&mut client, &mut server, 1 << 20, 2);
}

/// `QUICKWATER_HANDOFF=all`: as often as it takes to believe it.
fn is_long() -> bool {
    std::env::var("QUICKWATER_HANDOFF").is_ok_and(|all| all == "all")
}
