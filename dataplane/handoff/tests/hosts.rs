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

use quickwater_ebpf::{Device, Ends, Forwarding, Full, Unavailable, WINDOW};
use quickwater_handoff::{
    Frozen, Hearing, Refused, Restored, State, freeze, hearing, is_at_rest, restore,
};
use segment::{Host, Segment};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 9000;
const FOUR: &str = "10.60.0.1:9000";
const SIX: &str = "[fd60::1]:9000";

/// Hosts with the program on both nodes, and a listener at the entry.
struct Stage {
    listener: TcpListener,
    entry: Forwarding,
    owner: Forwarding,
    segment: Segment,
}

impl Stage {
    /// `None`: not here, and that is allowed.
    fn new(service: &str) -> Option<Self> {
        let segment = match Segment::new() {
            Ok(segment) => segment,
            Err(why) => {
                eprintln!("SKIPPED: no hosts here: {why}");
                return None;
            }
        };
        let entry = match attach(&segment, &segment.entry) {
            Ok(entry) => entry,
            Err(why) if std::env::var("QUICKWATER_EBPF_STRICT").is_ok_and(|s| s == "1") => {
                panic!("eBPF is required: {why}")
            }
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                return None;
            }
        };
        Some(Stage {
            listener: listen(&segment.entry, service),
            entry,
            owner: attach(&segment, &segment.owner).unwrap(),
            segment,
        })
    }

    fn connect(&self) -> (TcpStream, TcpStream, Ends) {
        connect(&self.segment, &self.listener)
    }

    /// What comes from the client goes to the owner from now on.
    fn send_on(&self, ends: &Ends) {
        self.entry.send_on(ends, self.owner.device().mac).unwrap();
    }

    /// The owner's end of a connection that it expected.
    fn arrive(&self, ends: &Ends, frozen: &Frozen) -> TcpStream {
        let restored = continued(&self.segment.owner, frozen.state());
        self.owner.expect_no_more(ends);
        speaking(restored)
    }

    fn hand_over(&self, ends: &Ends, stream: TcpStream) -> TcpStream {
        rest(&stream);
        self.owner.expect(ends).unwrap();
        self.entry.keep_away(ends).unwrap();
        let frozen = frozen(stream);
        self.send_on(ends);
        let stream = self.arrive(ends, &frozen);
        assert!(frozen.is_unchanged());
        frozen.release();
        stream
    }

    fn hand_back(&self, ends: &Ends, stream: TcpStream) -> TcpStream {
        rest(&stream);
        self.entry.keep_away(ends).unwrap();
        let frozen = frozen(stream);
        let restored = continued(&self.segment.entry, frozen.state());
        self.entry.forget(ends);
        let stream = speaking(restored);
        frozen.release();
        stream
    }

    fn wait_until_the_entry_forgot(&self) {
        wait_until("the entry stays", || self.entry.sweep().0 == 0);
    }
}

/// The program on the device of a host.
fn attach(segment: &Segment, host: &Host) -> Result<Forwarding, Unavailable> {
    let pins = segment.pins().join(host.name);
    host.run(|| {
        let device = Device::named("e0").unwrap();
        assert_eq!(Device::with(host.address.into()).unwrap(), device);
        Forwarding::attach(&device, PORT, &pins)
    })
}

fn listen(host: &Host, service: &str) -> TcpListener {
    let service: SocketAddr = service.parse().unwrap();
    host.run(|| TcpListener::bind(service)).unwrap()
}

/// A connection of the client, and the entry's end of it.
fn connect(segment: &Segment, listener: &TcpListener) -> (TcpStream, TcpStream, Ends) {
    let service = listener.local_addr().unwrap();
    let connected = segment.client.run(|| TcpStream::connect(service));
    let client = patient(connected.unwrap());
    let (server, peer) = listener.accept().unwrap();
    assert_eq!(client.local_addr().unwrap(), peer);
    let ends = Ends {
        client: peer,
        service,
    };
    (client, patient(server), ends)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits for what comes with time; `otherwise` says what is so when it does not.
fn wait_until(otherwise: &str, mut happened: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < until, "{otherwise}");
        std::thread::sleep(Duration::from_millis(50));
    }
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
    patient(TcpStream::from(restored.begin().unwrap()))
}

fn is_gone(error: ErrorKind) -> bool {
    [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error)
}

/// Sends until it fails, as it does sooner or later when nobody takes it any more.
fn send_until_it_fails(stream: &mut TcpStream, body: &[u8]) -> ErrorKind {
    let until = Instant::now() + PATIENCE;
    loop {
        match stream.write_all(body) {
            Ok(()) => assert!(Instant::now() < until, "it does not learn of it"),
            Err(error) => return error.kind(),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
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
    let Some(stage) = Stage::new(service) else {
        return;
    };
    // It has a listener of its own, as a worker has.
    let _beside = listen(&stage.segment.owner, service);
    let (mut client, mut server, ends) = stage.connect();
    assert!(stage.entry.take_arrival(&ends));
    assert!(!stage.entry.take_arrival(&ends), "told once");
    assert!(!stage.owner.take_arrival(&ends));
    for turn in 0..12 {
        let size = [0, 1, 1000, 70_000, 1 << 20, 5 << 20][turn % 6];
        speak(&mut client, &mut server, 10, turn);
        server = stage.hand_over(&ends, server);
        speak(&mut client, &mut server, size, turn);
        speak(&mut client, &mut server, size, turn + 1);
        server = stage.hand_back(&ends, server);
        speak(&mut client, &mut server, size, turn);
    }
    assert_eq!(stage.entry.sweep(), (0, 0));
    assert!(stage.entry.counts().forwarded > 0);
    assert_eq!(stage.owner.counts().forwarded, 0);
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
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let _beside = listen(&stage.segment.owner, FOUR);
    let options = [
        ("tcp_window_scaling", " wscale:"),
        ("tcp_timestamps", " ts "),
        ("tcp_sack", " sack "),
    ];
    for off in [0b001, 0b010, 0b100, 0b111] {
        let is_on = |at: usize| off & (1 << at) == 0;
        for (at, (name, _)) in options.iter().enumerate() {
            segment::set_option(&stage.segment.client, name, is_on(at));
        }
        let (mut client, mut server, ends) = stage.connect();
        let before = segment::told_of_connection(&stage.segment.client, PORT);
        for (at, (name, shown)) in options.iter().enumerate() {
            assert_eq!(before.contains(shown), is_on(at), "{name}: {before}");
        }
        for turn in 0..4 {
            speak(&mut client, &mut server, 70_000, turn);
            let until = Instant::now() + PATIENCE;
            loop {
                // What comes back tells of the window.
                speak(&mut client, &mut server, 1, turn);
                let told = segment::told_of_connection(&stage.segment.client, PORT);
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
                0 => stage.hand_over(&ends, server),
                _ => stage.hand_back(&ends, server),
            };
        }
        drop(server);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "an orderly end");
        drop(client);
        wait_until("the connection stays", || {
            !segment::told_of_connection(&stage.segment.client, PORT).starts_with("ESTAB")
        });
    }
}

#[test]
fn early_packets_wait_for_the_socket() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "never within the window");
        let (mut client, server, ends) = stage.connect();
        let (begun, before) = (Instant::now(), stage.owner.counts().kept_away);
        stage.owner.expect(&ends).unwrap();
        let frozen = frozen(server);
        stage.send_on(&ends);
        client.write_all(b"early").unwrap();
        while stage.owner.counts().kept_away == before && begun.elapsed() < WINDOW {
            std::thread::yield_now();
        }
        let mut server = stage.arrive(&ends, &frozen);
        frozen.release();
        // On a machine that stood still meanwhile the packet was not kept away: again.
        if begun.elapsed() < WINDOW {
            assert!(stage.owner.counts().kept_away > before);
            assert_eq!(read_exactly(&mut server, 5), b"early", "sent again");
            speak(&mut client, &mut server, 1000, 1);
            return;
        }
    }
}

#[test]
fn who_continues_a_connection_knows_whether_its_client_hears() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "never within the window");
        let (mut client, server, ends) = stage.connect();
        let left_at = Instant::now();
        stage.owner.expect(&ends).unwrap();
        // What the client acknowledges gets lost.
        stage.entry.keep_away(&ends).unwrap();
        let here = frozen(server);
        let mut server = stage.arrive(&ends, &here);
        here.release();
        let asked = hearing(&server).unwrap();
        server.write_all(b"answer").unwrap();
        let silent = hearing(&server).unwrap();
        assert_eq!(read_exactly(&mut client, 6), b"answer");
        let within = left_at.elapsed() < WINDOW;
        stage.send_on(&ends);
        rest(&server);
        assert_eq!(hearing(&server).unwrap(), Hearing::Heard);
        let (leaving, left, ends) = stage.connect();
        let here = frozen(left);
        segment::reset(leaving);
        stage.send_on(&ends);
        let left = speaking(continued(&stage.segment.owner, here.state()));
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
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let (mut client, server, ends) = stage.connect();
    stage.owner.expect(&ends).unwrap();
    stage.entry.keep_away(&ends).unwrap();
    let frozen = frozen(server);
    stage.send_on(&ends);
    let mut server = stage.arrive(&ends, &frozen);
    // The entry did not hear of it.
    let mac = stage.owner.device().mac;
    stage.entry.send_last(&ends, mac).unwrap();
    frozen.reset();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = send_until_it_fails(&mut server, b"answer");
    assert!(is_gone(error), "{error:?}");
    stage.wait_until_the_entry_forgot();
}

#[test]
fn without_the_guard_early_packets_are_answered_by_a_reset() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let (mut client, server, ends) = stage.connect();
    let frozen = frozen(server);
    stage.send_on(&ends);
    client.write_all(b"early").unwrap();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    frozen.release();
}

#[test]
fn connections_outlive_the_process_that_handed_them_over() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let (mut client, server, ends) = stage.connect();
    let mut server = stage.hand_over(&ends, server);
    drop((stage.entry, stage.listener));
    speak(&mut client, &mut server, 1 << 20, 1);
    let again = attach(&stage.segment, &stage.segment.entry).unwrap();
    assert_eq!(again.sweep(), (1, 0), "it knows of it");
    speak(&mut client, &mut server, 1 << 20, 2);
    assert!(again.counts().forwarded > 0, "it is this one's");
    // Without it the entry's kernel answers, as for any connection it does not know.
    drop(again);
    Forwarding::detach(&stage.segment.pins().join("entry")).unwrap();
    let moment = Some(Duration::from_millis(50));
    client.set_read_timeout(moment).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let asked = client.write_all(b"GET");
        match asked.and_then(|()| client.read(&mut [0; 1])) {
            // It went to the owner, which says nothing.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if is_gone(error.kind()) => return,
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < until, "the program is still there");
    }
}

#[test]
fn a_connection_that_came_between_two_processes_can_be_handed_over() {
    let Some(mut stage) = Stage::new(FOUR) else {
        return;
    };
    drop(stage.entry);
    let (mut client, server, ends) = connect(&stage.segment, &stage.listener);
    stage.entry = attach(&stage.segment, &stage.segment.entry).unwrap();
    assert!(stage.entry.take_arrival(&ends));
    let mut server = stage.hand_over(&ends, server);
    speak(&mut client, &mut server, 1 << 20, 1);
    assert!(stage.entry.counts().forwarded > 0);
}

#[test]
fn entries_of_connections_that_ended_go_and_their_ports_come_again() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let (mut client, server, ends) = stage.connect();
    let mut server = stage.hand_over(&ends, server);
    speak(&mut client, &mut server, 1000, 1);
    // A reset: the client's port is free at once.
    segment::reset(client);
    assert_eq!(
        server.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let (client, service) = (ends.client, ends.service);
    let again = || segment::connect_from(client, service);
    let client = stage.segment.client.run(again);
    let (mut server, peer) = stage.listener.accept().unwrap();
    assert_eq!(peer, ends.client, "the same ends, at the entry");
    let mut client = client.unwrap();
    speak(&mut client, &mut server, 1000, 2);
    // The client ends its side, and may read for as long as it likes.
    let mut server = stage.hand_over(&ends, server);
    speak(&mut client, &mut server, 1000, 3);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(stage.entry.sweep(), (1, 0));
    // It answers what still comes by a reset, and the entry is forgotten after a while.
    drop(client);
    let error = send_until_it_fails(&mut server, b"late");
    assert!(is_gone(error), "{error:?}");
    stage.wait_until_the_entry_forgot();
}

#[test]
fn packets_are_turned_by_who_knows_where_they_go() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let forwarding = &stage.entry;
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
    wait_until("the entry stays", || !forwarding.is_sent_on(&ends));
    assert!(!forwarding.take_arrival(&ends));
}

#[test]
fn what_is_accepted_here_is_not_what_went_elsewhere_before() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let ends = Ends {
        client: "10.60.1.1:7000".parse().unwrap(),
        service: FOUR.parse().unwrap(),
    };
    stage.entry.send_on(&ends, [2; 6]).unwrap();
    assert!(stage.entry.is_sent_on(&ends));
    // The program was off the device when it began, and is there again.
    assert!(!stage.entry.take_arrival(&ends));
    assert!(!stage.entry.is_sent_on(&ends));
}

#[test]
fn only_the_connection_that_has_ended_where_it_is_ends() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let forwarding = &stage.entry;
    let ends = Ends {
        client: "10.60.1.1:7000".parse().unwrap(),
        service: FOUR.parse().unwrap(),
    };
    let (before, at, next) = ([2; 6], [4; 6], [6; 6]);
    let earlier = forwarding.send_on(&ends, at).unwrap();
    assert!(!forwarding.end(&ends, before, earlier).unwrap());
    // It ended, and its client has begun another one from the same port.
    forwarding.keep_away(&ends).unwrap();
    assert!(!forwarding.end(&ends, at, earlier).unwrap());
    let mark = forwarding.send_on(&ends, at).unwrap();
    assert!(mark != earlier && !forwarding.end(&ends, at, earlier).unwrap());
    // That goes on to another host, which knows it by the same mark.
    assert!(forwarding.redirect(&ends, (at, next), false).unwrap());
    assert!(!forwarding.end(&ends, at, mark).unwrap());
    assert!(forwarding.redirect(&ends, (next, at), false).unwrap());
    assert!(forwarding.end(&ends, at, mark).unwrap());
    assert!(forwarding.is_sent_on(&ends), "for a moment");
    stage.wait_until_the_entry_forgot();
}

#[test]
fn packets_are_kept_away_for_a_moment_only() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let (mut client, mut server, ends) = stage.connect();
    let until = Instant::now() + PATIENCE;
    loop {
        // Whoever ordered it is gone: the client sends again until it gets through.
        stage.entry.keep_away(&ends).unwrap();
        speak(&mut client, &mut server, 1000, 1);
        let counts = stage.entry.counts();
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
fn ended_by_the_client(stage: &Stage, when: Moment, hard: bool) {
    let (mut client, mut server, ends) = stage.connect();
    speak(&mut client, &mut server, 1000, 1);
    let mut client = Some(client);
    let mut reached = |moment| {
        let ended = client.take_if(|_| moment == when);
        match (ended, hard) {
            (Some(client), true) => segment::reset(client),
            (ended, _) => drop(ended),
        }
    };
    rest(&server);
    let begun = Instant::now();
    stage.owner.expect(&ends).unwrap();
    stage.entry.keep_away(&ends).unwrap();
    reached(Moment::KeptAway);
    let frozen = match freeze(server.into(), b"") {
        Ok(frozen) => frozen,
        // The machine stood still, and the client's last packet got through.
        Err(_) if begun.elapsed() >= WINDOW => return stage.entry.forget(&ends),
        Err((_, refused)) => panic!("{refused}"),
    };
    stage.send_on(&ends);
    reached(Moment::SentOn);
    let restored = continued(&stage.segment.owner, frozen.state());
    reached(Moment::Restored);
    stage.owner.expect_no_more(&ends);
    let mut server = speaking(restored);
    frozen.release();
    reached(Moment::Answered);
    // The answer finds nobody.
    let error = send_until_it_fails(&mut server, &[0; 1 << 16]);
    assert!(is_gone(error), "{when:?} {hard}: {error:?}");
}

#[test]
fn clients_that_end_at_any_moment_leave_nothing_behind() {
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let rounds = if is_long() { 40 } else { 3 };
    let moments = [
        Moment::KeptAway,
        Moment::SentOn,
        Moment::Restored,
        Moment::Answered,
    ];
    for _ in 0..rounds {
        for when in moments {
            for hard in [true, false] {
                ended_by_the_client(&stage, when, hard);
            }
        }
    }
    stage.wait_until_the_entry_forgot();
    let until = Instant::now() + PATIENCE;
    for host in [&stage.segment.entry, &stage.segment.owner] {
        while let Some(left) = segment::connection_left(host) {
            assert!(Instant::now() < until, "{}: {left}", host.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Of clients that there are not.
fn strangers(count: u32) -> impl Iterator<Item = Ends> {
    let service: SocketAddr = FOUR.parse().unwrap();
    (0..count).map(move |number| {
        let [_, a, b, c] = number.to_be_bytes();
        let client = SocketAddr::from(([10, a, b, c], 1024));
        Ends { client, service }
    })
}

#[test]
fn a_full_map_refuses_the_next_connection_and_breaks_none() {
    const MOST: u32 = 65_536;
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let mac = stage.owner.device().mac;
    let (mut client, mut server, ends) = stage.connect();
    speak(&mut client, &mut server, 1000, 1);
    let mut server = stage.hand_over(&ends, server);
    let forwarding = &stage.entry;
    assert_eq!(forwarding.full(0), []);
    let kept = |ends: Ends| forwarding.send_on(&ends, mac).is_ok();
    let kept = strangers(MOST + 10).filter(|ends| kept(*ends)).count();
    assert_eq!(kept, MOST as usize - 1, "beside the one there was");
    assert_eq!(forwarding.full(0), [Full::Forwards]);
    assert_eq!(forwarding.full(0), [], "told once");
    assert_eq!(forwarding.sweep().0, MOST as usize);
    // What is there can be changed, and goes on.
    let first = strangers(1).next().unwrap();
    assert!(forwarding.redirect(&first, (mac, [2; 6]), false).unwrap());
    speak(&mut client, &mut server, 1 << 20, 2);
    // There is room for the next one when another one goes.
    let (mut other, mut theirs, next) = stage.connect();
    speak(&mut other, &mut theirs, 1000, 3);
    rest(&theirs);
    forwarding.keep_away(&next).unwrap_err();
    speak(&mut other, &mut theirs, 1000, 4);
    forwarding.forget(&first);
    let mut theirs = stage.hand_over(&next, theirs);
    speak(&mut other, &mut theirs, 1 << 20, 5);
}

#[test]
fn who_is_expected_keeps_its_place_for_its_time_and_no_longer() {
    const MOST: usize = 65_536;
    let Some(stage) = Stage::new(FOUR) else {
        return;
    };
    let forwarding = &stage.owner;
    let until = Instant::now() + PATIENCE;
    loop {
        let begun = Instant::now();
        let mut all = strangers(MOST as u32 + 10);
        let kept = all.by_ref().filter(|ends| forwarding.expect(ends).is_ok());
        assert!(kept.count() <= MOST);
        // A machine that stood still: some were over before the last was told.
        if begun.elapsed() < WINDOW && forwarding.sweep_others() == (MOST, 0) {
            assert_eq!(forwarding.full(0), [Full::Expected]);
            break;
        }
        assert!(Instant::now() < until, "never so many at a time");
        for ends in strangers(MOST as u32 + 10) {
            forwarding.expect_no_more(&ends);
        }
    }
    wait_until("they stay", || forwarding.sweep_others() == (0, 0));
    forwarding.expect(&strangers(1).next().unwrap()).unwrap();
}

/// `QUICKWATER_HANDOFF=all`: as often as it takes to believe it.
fn is_long() -> bool {
    std::env::var("QUICKWATER_HANDOFF").is_ok_and(|all| all == "all")
}
