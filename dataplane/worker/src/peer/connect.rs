//! Connections of a shard to other workers: opened, kept, cut. Absent: what is said on
//! them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_lock::{Semaphore, SemaphoreGuardArc};
use event_listener::Event;
use monoio::net::TcpStream;
use quickwater_peer::PROTOCOL;
use quickwater_proto::NodeId;
use rustix::net::{RecvFlags, sockopt};

use super::call::CallFailure;
use super::directory::Directory;
use super::identity::{PeerIdentity, name_of, node_of};
use super::limit::{
    CONNECT_WAIT, CONNECTIONS_MAX, IDLE_KEPT, IDLE_MAX, KEEPALIVE, MEMORY_WAIT, PLACE_WAIT,
    SURPLUS_KEPT, TICK,
};
use super::stats::{Failure, Open, PeerStats, bump};
use super::wire::Wire;
use crate::http::HttpStats;
use crate::http::transfer::Socket;
use crate::http::watch::{Watchdog, with_borrowed};
use crate::listener;
use crate::tls::{Session, TlsMemory};

/// Connections to one worker that the kernel is opening; its host may be gone.
const CONNECTING_MAX: usize = 16;
/// Connections to one worker that shake hands at the same time. Each costs both sides
/// memory and processor time, and who waits may find one that came free meanwhile.
const OPENING_MAX: usize = 8;
/// Pause after one could not be opened while others are there: it is short of memory, or
/// we are, and trying costs more of it.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// What all shards need to talk to other workers.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Certificates.
    pub identity: Arc<PeerIdentity>,
    /// Who is where.
    pub directory: Arc<Directory>,
    /// Counters.
    pub stats: Arc<PeerStats>,
    /// Memory for TLS of these connections on each shard, bytes.
    pub memory_bytes: usize,
}

/// The other workers, as a shard reaches them. Clones are the same.
#[derive(Clone)]
pub struct Peers(pub(super) Rc<Inner>);

pub(super) struct Inner {
    pub(super) config: PeerConfig,
    pub(super) watchdog: Rc<Watchdog>,
    pub(super) memory: Rc<TlsMemory>,
    pub(super) bytes: Arc<HttpStats>,
    idle: RefCell<HashMap<NodeId, Vec<Idle>>>,
    doors: RefCell<HashMap<NodeId, Rc<Door>>>,
    connecting: RefCell<HashMap<NodeId, Rc<Cell<usize>>>>,
    /// Connections in use, by number: to whom, and which watch.
    busy: RefCell<BTreeMap<u64, (NodeId, usize)>>,
    numbers: Cell<u64>,
    pub(super) guests: Cell<usize>,
    ended: Cell<bool>,
}

/// The way to one worker.
struct Door {
    places: Arc<Semaphore>,
    opening: Semaphore,
    /// Connections in use.
    busy: Cell<usize>,
    /// When the last one that was to be opened was not.
    shut: Cell<Option<Instant>>,
    /// A connection came free or has ended, or the next one may be opened.
    moved: Event,
}

impl Door {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            opening: Semaphore::new(OPENING_MAX),
            busy: Cell::new(0),
            shut: Cell::new(None),
            moved: Event::new(),
        })
    }

    /// One could not be opened just now.
    fn was_shut(&self) -> bool {
        let since = self.shut.get().map(|at| at.elapsed());
        since.is_some_and(|since| since < REOPEN_PAUSE)
    }

    /// The same, and none is there that could come free.
    fn is_shut(&self) -> bool {
        self.was_shut() && self.busy.get() == 0
    }

    fn may_open(&self) -> bool {
        self.busy.get() == 0 || !self.was_shut()
    }
}

/// A connection nobody uses.
struct Idle {
    wire: Wire,
    address: SocketAddr,
    since_ms: u64,
    open: Open,
}

/// A connection in use. Fields are dropped in this order: who watches over it forgets
/// it before it is closed.
pub(crate) struct Taken {
    _busy: Busy,
    pub(super) wire: Wire,
    address: SocketAddr,
    node: NodeId,
    /// It was used before.
    pub(super) used: bool,
    open: Open,
    _place: SemaphoreGuardArc,
}

/// Its entry among those in use.
struct Busy {
    peers: Rc<Inner>,
    number: u64,
    door: Rc<Door>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.peers.busy.borrow_mut().remove(&self.number);
        self.door.busy.set(self.door.busy.get() - 1);
        self.door.moved.notify(1);
    }
}

impl Peers {
    /// Those of a shard. Keeps time from now on until [`Peers::end`].
    #[must_use]
    pub fn new(config: PeerConfig) -> Self {
        let inner = Rc::new(Inner {
            memory: TlsMemory::patient(config.memory_bytes, MEMORY_WAIT),
            config,
            watchdog: Watchdog::new(),
            bytes: Arc::default(),
            idle: RefCell::default(),
            doors: RefCell::default(),
            connecting: RefCell::default(),
            busy: RefCell::default(),
            numbers: Cell::new(0),
            guests: Cell::new(0),
            ended: Cell::new(false),
        });
        monoio::spawn(keep_time(Rc::clone(&inner)));
        Self(inner)
    }

    /// Who is where.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.0.config.directory
    }

    pub(crate) fn stats(&self) -> &Arc<PeerStats> {
        &self.0.config.stats
    }

    /// Closes what is idle and stops keeping time. Nothing may be under way.
    pub fn end(&self) {
        self.0.ended.set(true);
        self.0.idle.borrow_mut().clear();
    }

    /// A connection to a worker that is used by nobody else.
    pub(crate) async fn take(&self, node: &NodeId) -> Result<Taken, CallFailure> {
        let door = self.door(node);
        let place = monoio::time::timeout(PLACE_WAIT, door.places.acquire_arc()).await;
        let place =
            place.map_err(|_| CallFailure::new(Failure::Busy, "too many requests to it"))?;
        let address = self.directory().address(node);
        let address = address.ok_or_else(|| CallFailure::new(Failure::Unreached, "no address"))?;
        let (wire, open, used) = self.find_or_open(&door, node, address).await?;
        let number = self.0.numbers.get();
        self.0.numbers.set(number + 1);
        let watch = wire.socket().watch_number();
        let mut busy = self.0.busy.borrow_mut();
        busy.insert(number, (node.clone(), watch));
        door.busy.set(door.busy.get() + 1);
        Ok(Taken {
            _busy: Busy {
                peers: Rc::clone(&self.0),
                number,
                door,
            },
            wire,
            address,
            node: node.clone(),
            used,
            open,
            _place: place,
        })
    }

    /// A connection that nobody uses, or a new one; and whether it was used before. While
    /// there are some to a worker, one that cannot be opened is not needed: they come free.
    async fn find_or_open(
        &self,
        door: &Door,
        node: &NodeId,
        address: SocketAddr,
    ) -> Result<(Wire, Open, bool), CallFailure> {
        let until = Instant::now() + PLACE_WAIT;
        let mut failed = None;
        loop {
            // Before the look: what comes free after it is heard of.
            let moved = door.moved.listen();
            if let Some(idle) = self.0.find_idle(node, address) {
                return Ok((idle.wire, idle.open, true));
            }
            if let Some(failed) = failed.take_if(|_| door.is_shut()) {
                // Nobody need wait for what does not come.
                door.moved.notify(usize::MAX);
                return Err(failed);
            }
            let why = match door.opening.try_acquire() {
                Some(turn) if door.may_open() => {
                    let opened = self.connect(node, address).await;
                    drop(turn);
                    door.shut.set(opened.is_err().then(Instant::now));
                    match opened {
                        Ok((wire, open)) => {
                            door.moved.notify(1);
                            return Ok((wire, open, false));
                        }
                        Err(why) => why,
                    }
                }
                _ => CallFailure::new(Failure::Busy, "no more connections to it for now"),
            };
            if !door.is_shut() {
                let left = until.saturating_duration_since(Instant::now());
                if monoio::time::timeout(left, moved).await.is_err() {
                    return Err(why);
                }
            }
            failed = Some(why);
        }
    }

    /// Connections to a worker that nobody uses.
    #[cfg(test)]
    pub(super) fn idle(&self, node: &NodeId) -> usize {
        self.0.idle.borrow().get(node).map_or(0, Vec::len)
    }

    /// Keeps a connection whose request is over for the next one.
    pub(crate) fn give_back(&self, taken: Taken) {
        let Taken {
            _busy,
            wire,
            address,
            node,
            used: _,
            open,
            _place,
        } = taken;
        if self.0.ended.get() {
            return;
        }
        let mut idle = self.0.idle.borrow_mut();
        // No more than [`CONNECTIONS_MAX`]: each had a place. The last one is used first. Who
        // waits for one is woken when `_busy` goes, after this.
        idle.entry(node).or_default().push(Idle {
            wire,
            address,
            since_ms: self.0.watchdog.now_ms(),
            open,
        });
    }

    fn door(&self, node: &NodeId) -> Rc<Door> {
        let mut all = self.0.doors.borrow_mut();
        Rc::clone(all.entry(node.clone()).or_insert_with(Door::new))
    }

    async fn connect(
        &self,
        node: &NodeId,
        address: SocketAddr,
    ) -> Result<(Wire, Open), CallFailure> {
        let failed = |why: String| CallFailure::new(Failure::Unreached, why);
        let memory = &self.0.memory;
        let charge = memory.admit().or_else(|| {
            self.0.idle.borrow_mut().clear();
            memory.admit()
        });
        let charge =
            charge.ok_or_else(|| CallFailure::new(Failure::Busy, "no memory for a connection"))?;
        let wait_ms = u64::try_from(CONNECT_WAIT.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.0.watchdog.now_ms().saturating_add(wait_ms);
        let stream = self.dial(node, address).await.map_err(failed)?;
        let mut socket = Socket::new(stream, &self.0.watchdog, Arc::clone(&self.0.bytes));
        let name = name_of(node).ok_or_else(|| failed("its name is no host name".into()))?;
        let client = Arc::clone(&self.0.config.identity.client);
        let session = Session::to(name, client, memory, charge);
        let session = session.map_err(|error| failed(error.to_string()))?;
        let secured = Box::pin(socket.secure_by(Box::new(session), until_ms)).await;
        secured.map_err(|stranger| failed(format!("no TLS session: {stranger:?}")))?;
        if !is_worker(&socket, Some(node)) {
            bump(&self.stats().strangers);
            return Err(failed("it has another certificate or protocol".into()));
        }
        bump(&self.stats().connected);
        let open = Open::new(self.stats(), |stats| &stats.open_out);
        Ok((Wire::new(socket, Arc::clone(self.stats())), open))
    }

    /// Opens a connection. One to a host that does not answer cannot be given up: it is
    /// left to the kernel, and only so many are.
    async fn dial(&self, node: &NodeId, address: SocketAddr) -> Result<TcpStream, String> {
        let under_way = {
            let mut all = self.0.connecting.borrow_mut();
            Rc::clone(all.entry(node.clone()).or_default())
        };
        if under_way.get() >= CONNECTING_MAX {
            return Err("its host does not answer".into());
        }
        under_way.set(under_way.get() + 1);
        let connecting = monoio::spawn(async move {
            let opened = TcpStream::connect_addr(address).await;
            under_way.set(under_way.get() - 1);
            opened
        });
        let opened = monoio::time::timeout(CONNECT_WAIT, connecting).await;
        let opened = opened.map_err(|_| "its host does not answer".to_owned())?;
        let stream = opened.map_err(|error| error.to_string())?;
        suit(&stream, address).map_err(|error| error.to_string())?;
        Ok(stream)
    }
}

impl Inner {
    fn find_idle(&self, node: &NodeId, address: SocketAddr) -> Option<Idle> {
        let mut all = self.idle.borrow_mut();
        let kept = all.get_mut(node)?;
        // Of one that moved, or left, nothing is of use.
        kept.retain(|idle| idle.address == address);
        while let Some(idle) = kept.pop() {
            if is_quiet(&idle.wire) {
                return Some(idle);
            }
        }
        None
    }

    fn look(&self) {
        self.watchdog.tick();
        let now_ms = self.watchdog.now_ms();
        let mut idle = self.idle.borrow_mut();
        for kept in idle.values_mut() {
            // The longest unused come first.
            let unused = kept.iter().map(|idle| now_ms.saturating_sub(idle.since_ms));
            let over = leave(&unused.collect::<Vec<_>>());
            kept.drain(..over);
        }
        idle.retain(|_, kept| !kept.is_empty());
        // Whose slots others have may be frozen: nobody waits for its answer.
        let directory = &self.config.directory;
        for (node, watch) in self.busy.borrow().values() {
            if !directory.is_member(node) {
                self.watchdog.cut(*watch);
            }
        }
    }
}

/// How many of the connections that were unused for so many milliseconds, the longest
/// first, have been kept for long enough.
fn leave(unused_ms: &[u64]) -> usize {
    let than = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let stale = |wait| unused_ms.partition_point(|unused| *unused >= than(wait));
    let surplus = unused_ms.len().saturating_sub(IDLE_MAX);
    stale(IDLE_KEPT).max(stale(SURPLUS_KEPT).min(surplus))
}

async fn keep_time(inner: Rc<Inner>) {
    while !inner.ended.get() {
        inner.look();
        monoio::time::sleep(TICK).await;
    }
}

/// Whether an idle connection is still one: nothing came on it, not even its end.
fn is_quiet(wire: &Wire) -> bool {
    let mut byte = [0; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let came = wire
        .socket()
        .with_descriptor(|socket| rustix::net::recv(socket, &mut byte, flags).map(|(_, n)| n));
    came == Err(rustix::io::Errno::AGAIN)
}

/// Whether the other side is a worker of the cluster, that one if it is named, and
/// speaks our protocol.
pub(super) fn is_worker(socket: &Socket, node: Option<&NodeId>) -> bool {
    let (certificate, protocol) = socket.other_side();
    let found = certificate.and_then(node_of);
    let right = match node {
        Some(node) => found.as_ref() == Some(node),
        None => found.is_some(),
    };
    right && protocol == Some(PROTOCOL)
}

/// Options of a connection between workers, whichever side it is of.
pub(super) fn suit(stream: &TcpStream, other: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (idle, every, count): (Duration, Duration, u32) = KEEPALIVE;
    with_borrowed(stream, |socket| {
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, idle)?;
        sockopt::set_tcp_keepintvl(socket, every)?;
        sockopt::set_tcp_keepcnt(socket, count)?;
        // The same for bytes nobody acknowledges.
        let most = idle + every * count;
        sockopt::set_tcp_user_timeout(socket, u32::try_from(most.as_millis()).unwrap_or(0))?;
        io::Result::Ok(())
    })?;
    with_borrowed(stream, |socket| listener::suit(socket, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_idle_connections_are_kept_for_as_long_as_load_lasts() {
        let (kept, surplus) = (30_000, 2_000);
        assert_eq!(leave(&[]), 0);
        // Of a burst all are there for the next one, and then the usual number.
        assert_eq!(leave(&[surplus - 1; 64]), 0);
        assert_eq!(leave(&[surplus; 64]), 64 - IDLE_MAX);
        assert_eq!(leave(&[surplus; IDLE_MAX]), 0);
        // Under load the longest unused go first, and the used ones stay.
        let mut unused = vec![surplus + 5; 10];
        unused.extend([0; 40]);
        assert_eq!(leave(&unused), 10);
        // Nothing is kept for ever.
        assert_eq!(leave(&[kept, kept - 1]), 1);
        assert_eq!(leave(&[kept; 20]), 20);
    }
}
