//! Workers over real sockets: who gets in, what is carried, what breaks.

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quickwater_peer::{
    Answer, Call, Capability, KEY_BYTES, Kind, LookAgain, PIECES_MAX, Promise, Task,
};
use quickwater_proto::{Neighbour, NodeId, SlotTable};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::call::Reply;
use super::stats::Failure;
use super::*;
use crate::buffers::{Pool, PoolConfig};
use crate::http::{Starved, TransportError};
use crate::runtime::Stop;

/// Of a worker's connections, where a test does not say.
const MEMORY_BYTES: usize = 8 << 20;

/// Who signs, and what it signed.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn worker(&self, node: &str) -> Arc<PeerIdentity> {
        self.identity(node, &format!("{node}.worker.quickwater"))
    }

    fn identity(&self, node: &str, name: &str) -> Arc<PeerIdentity> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        PeerIdentity::new(
            id(node),
            self.pem.as_bytes(),
            certificate.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
        )
        .unwrap()
    }
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A worker that is where `address` says and knows the others.
fn worker(identity: Arc<PeerIdentity>, key: u8, others: &[(&str, &TcpListener)]) -> Peers {
    worker_with(identity, key, others, MEMORY_BYTES)
}

/// The same with so many bytes for its connections.
fn worker_with(
    identity: Arc<PeerIdentity>,
    key: u8,
    others: &[(&str, &TcpListener)],
    memory_bytes: usize,
) -> Peers {
    let directory = Directory::new(identity.node.clone());
    let members: Vec<Neighbour> = others
        .iter()
        .map(|(name, door)| Neighbour {
            node: id(name),
            address: door.local_addr().unwrap().to_string(),
            zone: String::new(),
            capacity_bytes: 1,
            session: 1,
            live: true,
            draining: false,
        })
        .collect();
    directory.meet([key; KEY_BYTES], &members);
    let nodes: Vec<NodeId> = ["a", "b"].iter().map(|name| id(name)).collect();
    let table = SlotTable::from_slots(1, |slot| (nodes.get(slot % 2), None));
    directory.set_table(Arc::new(table));
    Peers::new(PeerConfig {
        identity,
        directory,
        stats: Arc::default(),
        memory_bytes,
    })
}

/// Takes a body in and sends it back, as often as the key says.
struct Echo {
    pool: Pool,
    seen: RefCell<Vec<Result<usize, TransportError>>>,
    early: Cell<bool>,
}

impl Echo {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            pool: Pool::new(PoolConfig::new(64 << 20)).unwrap(),
            seen: RefCell::default(),
            early: Cell::new(false),
        })
    }
}

impl Host for Echo {
    async fn host(&self, _: &NodeId, call: Call, wire: &mut Wire) -> Result<(), WireError> {
        wire.skip().await?;
        let right = call.capability.unwrap_or_default();
        let mut content = Vec::new();
        let mut body = PeerBody::new(wire, None);
        if right.operation == "Upload" {
            loop {
                let buffer = self.pool.acquire(1 << 20, Duration::from_secs(5)).await;
                let (buffer, result) = body.read_into(buffer.unwrap(), 1 << 20).await;
                self.seen.borrow_mut().push(result.clone());
                match result {
                    Ok(count) if count > 0 => content.extend_from_slice(buffer.as_slice()),
                    Ok(_) => break,
                    Err(_) => {
                        content.clear();
                        break;
                    }
                }
                if self.early.get() {
                    break;
                }
            }
        }
        let owed = body.is_owed();
        let answer = Answer {
            status: 200,
            length: content.len() as u64,
            streams: true,
            ..Answer::default()
        };
        let before = wire.frame(Kind::Answer, &answer)?;
        wire.send_bytes(before).await?;
        if owed {
            drain(wire).await?;
        }
        let pieces = content.chunks(300_000);
        let count = pieces.len();
        for (at, piece) in pieces.enumerate() {
            wire.send_small(Vec::new(), piece, at + 1 == count).await?;
        }
        Ok(())
    }

    fn starved(&self) -> Starved {
        Starved::default()
    }
}

fn right(operation: &str) -> Capability {
    Capability {
        operation: operation.into(),
        ..Capability::default()
    }
}

fn door() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn host<H: Host + 'static>(peers: &Peers, listener: TcpListener, host: &Rc<H>) -> Hosting {
    let (peers, host) = (peers.clone(), Rc::clone(host));
    let begun = move |stop, grace| async move { peers.serve(listener, host, stop, grace).await };
    Hosting::begin(Stop::new(), Duration::from_secs(9), begun)
}

/// A worker that calls and one that is called.
struct Two {
    a: Peers,
    b: Peers,
    hosting: Hosting,
}

impl Two {
    fn new<H: Host + 'static>(called: &Rc<H>) -> Self {
        Self::with_memory(called, (MEMORY_BYTES, MEMORY_BYTES))
    }

    /// With so many bytes for the connections of who calls and of who is called.
    fn with_memory<H: Host + 'static>(called: &Rc<H>, (of_a, of_b): (usize, usize)) -> Self {
        let (authority, listener) = (Authority::new(), door());
        let a = worker_with(authority.worker("a"), 1, &[("b", &listener)], of_a);
        let b = worker_with(authority.worker("b"), 1, &[], of_b);
        let hosting = host(&b, listener, called);
        Self { a, b, hosting }
    }

    async fn end(self) {
        self.a.end();
        self.hosting.end().await.unwrap();
        self.b.end();
    }
}

/// Sends `pieces` as they are asked for, then takes the answer's body.
async fn upload(
    peers: &Peers,
    pool: &Pool,
    mut pieces: Vec<Vec<u8>>,
) -> Result<Vec<u8>, CallFailure> {
    let mut call = peers
        .call(&id("b"), Task::Relay, right("Upload"), b"head")
        .await?;
    pieces.reverse();
    let answer = loop {
        match call.reply().await? {
            Reply::More(more) => {
                for _ in 0..more {
                    let Some(piece) = pieces.pop() else { break };
                    let mut buffer = pool.acquire(1 << 20, Duration::from_secs(5)).await.unwrap();
                    assert_eq!(buffer.append(&piece), piece.len());
                    call.send(buffer, pieces.is_empty()).await?;
                }
            }
            Reply::Answer(answer) => break answer,
        }
    };
    let mut left = Pieces::new(answer.length);
    let mut content = Vec::new();
    while !left.is_whole() {
        left.next(call.wire()).await.unwrap();
        content.extend_from_slice(&call.wire().take_all().await.unwrap());
    }
    call.done();
    Ok(content)
}

fn pieces(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|at| (0..700_001).map(|byte| (byte * 7 + at) as u8).collect())
        .collect()
}

#[monoio::test(timer_enabled = true)]
async fn bodies_go_both_ways_on_one_connection() {
    let echo = Echo::new();
    let two = Two::new(&echo);
    let (a, b) = (two.a.clone(), two.b.clone());
    for count in [1, 2, 9] {
        let sent = pieces(count);
        let got = upload(&a, &echo.pool, sent.clone()).await.unwrap();
        assert!(got == sent.concat(), "{count} pieces");
    }
    // An answer before the body was taken: what was under way is swallowed.
    echo.early.set(true);
    upload(&a, &echo.pool, pieces(9)).await.unwrap();
    echo.early.set(false);
    assert_eq!(
        upload(&a, &echo.pool, vec![Vec::new()]).await.unwrap(),
        Vec::<u8>::new()
    );
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(load(&a.stats().connected), 1, "one connection served all");
    assert_eq!(load(&b.stats().served[0]), 5);
    assert_eq!(load(&a.stats().made[0]), 5);
    two.end().await;
    assert_eq!(load(&b.stats().open_in) + load(&a.stats().open_out), 0);
}

#[monoio::test(timer_enabled = true)]
async fn as_many_connections_are_kept_as_were_in_use_at_once() {
    let Two { a, b, hosting } = Two::new(&Echo::new());
    let many = super::limit::IDLE_MAX + 4;
    let mut calls = Vec::new();
    for _ in 0..many {
        let mut call = a
            .call(&id("b"), Task::Relay, right("Nothing"), b"head")
            .await;
        call.as_mut().unwrap().answer().await.unwrap();
        calls.push(call.unwrap());
    }
    // Nobody looks at the clock in between.
    calls.into_iter().for_each(Outgoing::done);
    assert_eq!(a.idle(&id("b")), many);
    a.end();
    assert_eq!(a.idle(&id("b")), 0);
    hosting.end().await.unwrap();
    b.end();
}

#[monoio::test(timer_enabled = true)]
async fn who_finds_no_memory_for_a_connection_waits_for_one_that_is_there() {
    // Memory for a few connections, of who calls and of who is called.
    for bytes in [(200 << 10, MEMORY_BYTES), (MEMORY_BYTES, 200 << 10)] {
        let echo = Echo::new();
        let two = Two::with_memory(&echo, bytes);
        // The first is there before anybody could wait for it.
        upload(&two.a, &echo.pool, pieces(1)).await.unwrap();
        let all = (0..64).map(|_| upload(&two.a, &echo.pool, vec![vec![7; 100]]));
        for got in futures_util::future::join_all(all).await {
            assert_eq!(got.unwrap(), vec![7; 100]);
        }
        let connected = two.a.stats().connected.load(Ordering::Relaxed);
        assert!((1..16).contains(&connected), "{connected}");
        two.end().await;
    }
}

/// Answers whatever it is asked.
struct Parrot(RefCell<Vec<(Answer, Vec<u8>)>>);

impl Host for Parrot {
    async fn host(&self, _: &NodeId, _: Call, wire: &mut Wire) -> Result<(), WireError> {
        wire.skip().await?;
        let (answer, body) = self.0.borrow_mut().pop().unwrap();
        wire.send(Kind::Answer, &answer, &body, Duration::ZERO)
            .await
    }

    fn starved(&self) -> Starved {
        Starved::default()
    }
}

#[monoio::test(timer_enabled = true)]
async fn bytes_of_a_copy_are_as_many_as_were_asked_for() {
    let parrot = Rc::new(Parrot(RefCell::default()));
    let two = Two::new(&parrot);
    let a = &two.a;
    let (node, many) = (id("b"), 200_000);
    let chunk = quickwater_engine::io::ChunkId {
        blob: quickwater_proto::BlobId(7),
        index: 0,
    };
    let says = |yes, code: &str, bytes: usize| {
        let answer = Answer {
            yes,
            code: code.to_owned(),
            ..Answer::default()
        };
        parrot.0.borrow_mut().push((answer, vec![7; bytes]));
    };
    let fetch = async || {
        let mut into = vec![0; many];
        let fetched = a.fetch_copy(&node, chunk, 0..many as u32, &mut into).await;
        fetched.map(|found| (found, into == vec![7; many]))
    };
    says(true, "", many);
    assert_eq!(fetch().await, Ok((true, true)));
    says(false, "", 0);
    assert_eq!(fetch().await, Ok((false, false)));
    says(false, "SlowDown", 0);
    assert_eq!(fetch().await.unwrap_err().failure, Failure::Busy);
    let connected = || a.stats().connected.load(Ordering::Relaxed);
    assert_eq!(connected(), 1);
    // What was not asked for is not taken, and its connection is of no more use.
    for (yes, bytes) in [(true, many - 1), (true, many + 1), (false, many)] {
        says(yes, "", bytes);
        assert_eq!(fetch().await.unwrap_err().failure, Failure::Protocol);
    }
    says(true, "", many);
    assert_eq!(fetch().await, Ok((true, true)));
    assert_eq!(connected(), 4);
    two.end().await;
}

#[monoio::test(timer_enabled = true)]
async fn a_host_that_takes_no_connection_keeps_nobody_waiting() {
    let (authority, listener) = (Authority::new(), door());
    let a = worker(authority.worker("a"), 1, &[("b", &listener)]);
    drop(listener);
    let node = id("b");
    let all = (0..64).map(|_| a.call(&node, Task::Relay, right("Nothing"), b"head"));
    for called in futures_util::future::join_all(all).await {
        let failed = called.err().unwrap();
        assert!(!failed.begun, "{failed}");
    }
    a.end();
}

#[monoio::test(timer_enabled = true)]
async fn a_client_that_fails_is_not_taken_for_an_end() {
    let echo = Echo::new();
    let two = Two::new(&echo);
    for (why, seen) in [
        (Promise::Gone, TransportError::Closed),
        (Promise::TimedOut, TransportError::TimedOut),
    ] {
        let call = two
            .a
            .call(&id("b"), Task::Relay, right("Upload"), b"")
            .await;
        let mut call = call.unwrap();
        assert!(matches!(call.reply().await, Ok(Reply::More(PIECES_MAX))));
        call.cancel(why).await.unwrap();
        let answer = call.answer().await.unwrap();
        assert_eq!(answer.length, 0);
        call.done();
        assert_eq!(echo.seen.borrow_mut().pop(), Some(Err(seen)));
    }
    // Whoever calls may vanish, too.
    let call = two
        .a
        .call(&id("b"), Task::Relay, right("Upload"), b"")
        .await;
    let mut call = call.unwrap();
    assert!(matches!(call.reply().await, Ok(Reply::More(PIECES_MAX))));
    drop(call);
    while echo.seen.borrow().is_empty() {
        monoio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        echo.seen.borrow_mut().pop(),
        Some(Err(TransportError::Closed))
    );
    two.end().await;
}

#[monoio::test(timer_enabled = true)]
async fn who_is_not_of_the_cluster_is_not_served() {
    let (authority, strange) = (Authority::new(), Authority::new());
    let listener = door();
    let here = [("b", &listener)];
    let strangers = [
        // Another cluster's certificate.
        (worker(strange.worker("a"), 1, &here), "unreached"),
        // An admin's, and one of nobody.
        (
            worker(authority.identity("a", "a.admin.quickwater"), 1, &here),
            "unreached",
        ),
        (
            worker(authority.identity("a", "example.com"), 1, &here),
            "unreached",
        ),
        // Another worker's name, and another key.
        (
            worker(authority.identity("a", "c.worker.quickwater"), 1, &here),
            "refused",
        ),
        (worker(authority.worker("a"), 2, &here), "refused"),
    ];
    let b = worker(authority.worker("b"), 1, &[]);
    let echo = Echo::new();
    let hosting = host(&b, listener, &echo);
    for (stranger, how) in &strangers {
        let asked = LookAgain {
            keys: vec!["key".into()],
        };
        let failed = stranger
            .ask(&id("b"), Task::LookAgain, right("LookAgain"), &asked)
            .await
            .unwrap_err();
        match *how {
            "refused" => {
                assert_eq!((failed.failure, failed.begun), (Failure::NotHere, false));
            }
            // In TLS 1.3 who called may learn of it only with the answer.
            _ => assert!(
                matches!(failed.failure, Failure::Unreached | Failure::Broken),
                "{failed:?}"
            ),
        }
        stranger.end();
    }
    assert!(echo.seen.borrow().is_empty());
    // The other side learns last that it was refused.
    while b.stats().strangers.load(Ordering::Relaxed) < 3 {
        monoio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(b.stats().refused.load(Ordering::Relaxed), 2);
    hosting.end().await.unwrap();
    b.end();
}

#[monoio::test(timer_enabled = true)]
async fn what_is_no_frame_ends_the_connection() {
    let echo = Echo::new();
    let two = Two::new(&echo);
    let mut damaged = quickwater_peer::Frame::bare(Kind::Call, 1)
        .encode(b"head")
        .unwrap();
    damaged[33] ^= 1;
    let unasked = quickwater_peer::Frame::bare(Kind::Grant, 1)
        .encode(&[])
        .unwrap();
    for bytes in [vec![0x5a; 4096], damaged, unasked] {
        let mut taken = two.a.take(&id("b")).await.unwrap();
        taken.wire.begin();
        taken.wire.send_bytes(bytes).await.unwrap();
        let answer = taken.wire.receive(Duration::from_secs(60)).await;
        assert!(matches!(answer, Err(WireError::Transport(_))), "{answer:?}");
    }
    // Others are served all the same.
    upload(&two.a, &echo.pool, pieces(1)).await.unwrap();
    two.end().await;
}

#[monoio::test(timer_enabled = true)]
async fn a_worker_that_restarted_is_found_again() {
    let (authority, listener) = (Authority::new(), door());
    let again = listener.try_clone().unwrap();
    let a = worker(authority.worker("a"), 1, &[("b", &listener)]);
    let identity = authority.worker("b");
    let b = worker(Arc::clone(&identity), 1, &[]);
    let echo = Echo::new();
    let hosting = host(&b, listener, &echo);
    upload(&a, &echo.pool, pieces(1)).await.unwrap();
    hosting.end().await.unwrap();
    b.end();
    let address = again.local_addr().unwrap();
    drop(again);
    // Nobody is there: nothing was begun.
    let failed = upload(&a, &echo.pool, pieces(1)).await.unwrap_err();
    assert_eq!((failed.failure, failed.begun), (Failure::Unreached, false));
    let listener = crate::listener::bind(address, 1).unwrap();
    let b = worker(identity, 1, &[]);
    let hosting = host(&b, listener.sockets.into_iter().next().unwrap(), &echo);
    upload(&a, &echo.pool, pieces(1)).await.unwrap();
    a.end();
    hosting.end().await.unwrap();
    b.end();
}
