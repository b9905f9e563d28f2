//! Accepting connections on one shard, and stopping. Absent: what happens on a
//! connection.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use monoio::net::{TcpListener, TcpStream};
use quickwater_ebpf::{SETTLE_PERIOD, ShardLoad, Visit};
use rustix::net::Shutdown;

use super::converse::{Room, Visitor, converse, refuse};
use super::count::{HttpStats, OpenConnection, add, bump};
use super::identify::IdSource;
use super::intake::{Arrival, Intake, Place, Reception};
use super::limit::{
    ACCEPT_PAUSE, ConnectionLimit, ConnectionPermit, HttpConfig, REFUSALS_MAX, UNWIND_LIMIT,
};
use super::parse::Refusal;
use super::secure::{Stranger, Vestibule};
use super::service::{ConnectionInfo, Service};
use super::shortcut::BypassGate;
use super::transfer::Socket;
use super::watch::{Holding, Watchdog, with_borrowed};
use crate::listener;
use crate::runtime::Stop;
use crate::tls::Identity;

/// How often a stopping server looks whether its connections are gone.
const STOP_POLL: Duration = Duration::from_millis(10);

/// Why a server could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener could not be handed to the shard's runtime.
    #[error("listener: {0}")]
    Listener(#[source] io::Error),
    /// The system has no randomness for request ids.
    #[error("no random seed: {0}")]
    Random(getrandom::Error),
}

/// How a server ended after its stop was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that had to be broken after the grace period.
    pub aborted: usize,
    /// Of those, connections whose service call did not end even then.
    pub stuck: usize,
}

/// One shard's HTTP server.
pub struct Server<S> {
    /// What answers.
    pub service: S,
    /// Deadlines and sizes.
    pub config: HttpConfig,
    /// Shared by all shards.
    pub limit: Arc<ConnectionLimit>,
    /// This shard's counters.
    pub stats: Arc<HttpStats>,
    /// Told of every connection, if connections go to the shard with the fewest.
    pub load: Option<ShardLoad>,
    /// Other workers' connections come in by it.
    pub intake: Intake,
    /// Lets clients of this node have answers that do not go by TCP.
    pub bypass: Option<Arc<BypassGate>>,
}

/// Where connections come in.
#[derive(Debug)]
pub struct Door {
    /// Connections are accepted from it.
    pub listener: std::net::TcpListener,
    /// They speak TLS, if it says how.
    pub tls: Option<TlsDoor>,
}

impl Door {
    /// A door for HTTP without TLS.
    #[must_use]
    pub fn plain(listener: std::net::TcpListener) -> Self {
        Door {
            listener,
            tls: None,
        }
    }
}

/// How TLS is spoken.
#[derive(Debug, Clone)]
pub struct TlsDoor {
    /// Certificate and key.
    pub identity: Arc<Identity>,
    /// Memory for its connections, bytes.
    pub memory_bytes: usize,
}

impl<S: Service + 'static> Server<S> {
    /// Serves until `stop` is requested, then finishes what is in flight within
    /// the grace period. Runs on the shard's monoio runtime with timers.
    ///
    /// # Errors
    /// The server could not start.
    pub async fn run(self, doors: Vec<Door>, stop: Stop) -> Result<Stopped, ServeError> {
        let (mut handles, mut entrances) = (Vec::new(), Vec::new());
        for door in doors {
            handles.push(door.listener.try_clone().map_err(ServeError::Listener)?);
            entrances.push(Entrance::open(door).map_err(ServeError::Listener)?);
        }
        let grace = self.config.shutdown_grace;
        let tick = self.config.tick();
        let shard = Rc::new(Shard {
            room: Rc::new(Room {
                service: self.service,
                config: self.config,
                ids: IdSource::new().map_err(ServeError::Random)?,
                scratch: RefCell::default(),
            }),
            watchdog: Watchdog::new(),
            limit: self.limit,
            stats: self.stats,
            load: self.load.map(Rc::new),
            bypass: self.bypass,
            open: Cell::new(0),
            refusing: Cell::new(0),
            ended: Cell::new(false),
        });
        if shard.room.service.hands_over() {
            self.intake.open(Box::new(Rc::clone(&shard)));
        }
        monoio::spawn(keep_time(Rc::clone(&shard), tick));
        if shard.load.is_some() {
            monoio::spawn(settle_load(Rc::clone(&shard)));
        }
        monoio::spawn(close_doors(Rc::clone(&shard), handles, stop.clone()));
        join_all(entrances.into_iter().map(|e| shard.accept_all(e))).await;
        self.intake.close();
        let stopped = shard.finish(stop.grace_of(grace)).await;
        shard.ended.set(true);
        Ok(stopped)
    }
}

/// A door of this shard.
struct Entrance {
    listener: TcpListener,
    hall: Option<Rc<Vestibule>>,
}

impl Entrance {
    fn open(door: Door) -> io::Result<Self> {
        door.listener.set_nonblocking(monoio::utils::is_legacy())?;
        let hall = |tls: TlsDoor| Vestibule::new(tls.identity, tls.memory_bytes);
        Ok(Entrance {
            listener: TcpListener::from_std(door.listener)?,
            hall: door.tls.map(hall),
        })
    }
}

struct Shard<S> {
    room: Rc<Room<S>>,
    watchdog: Rc<Watchdog>,
    limit: Arc<ConnectionLimit>,
    stats: Arc<HttpStats>,
    load: Option<Rc<ShardLoad>>,
    bypass: Option<Arc<BypassGate>>,
    open: Cell<usize>,
    refusing: Cell<usize>,
    ended: Cell<bool>,
}

/// Moves the shard's clock and ends what is overdue.
async fn keep_time<S: Service + 'static>(shard: Rc<Shard<S>>, tick: Duration) {
    while !shard.ended.get() {
        shard.watchdog.tick();
        shard.shed_stalled();
        monoio::time::sleep(tick).await;
    }
}

/// Keeps the shard's load true where connections were announced and never came.
async fn settle_load<S: Service + 'static>(shard: Rc<Shard<S>>) {
    while !shard.ended.get() {
        shard.load.iter().for_each(|load| load.settle());
        monoio::time::sleep(SETTLE_PERIOD).await;
    }
}

/// Ends the pending `accept`s by shutting the listening sockets down: their futures
/// are never dropped.
async fn close_doors<S>(shard: Rc<Shard<S>>, doors: Vec<std::net::TcpListener>, stop: Stop) {
    stop.requested().await;
    shard.watchdog.stop();
    for door in doors {
        if let Err(error) = rustix::net::shutdown(&door, Shutdown::Both) {
            tracing::error!(%error, "shutdown of the listening socket");
        }
    }
}

impl<S: Service + 'static> Shard<S> {
    async fn accept_all(self: &Rc<Self>, door: Entrance) {
        loop {
            match door.listener.accept().await {
                Ok((stream, peer)) => {
                    let visit = self.load.as_ref().map(ShardLoad::enter);
                    self.admit((stream, visit), peer, door.hall.as_ref());
                }
                Err(_) if self.watchdog.is_stopping() => return,
                Err(error) => {
                    bump(&self.stats.accept_errors);
                    if needs_pause(&error) {
                        tracing::warn!(%error, "accept");
                        monoio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// While requests wait for memory, cuts as many connections that hold some and
    /// do nothing with it.
    fn shed_stalled(&self) {
        let starved = self.room.service.starved();
        self.shed(Holding::Buffers, starved.buffers);
        self.shed(Holding::Documents, starved.documents);
    }

    fn shed(&self, what: Holding, starved: usize) {
        if starved == 0 {
            return;
        }
        let stalled = self.room.config.stall_timeout;
        let stalled_ms = u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX);
        let cut = self.watchdog.shed(what, starved, stalled_ms);
        if cut > 0 {
            add(&self.stats.stalled, cut as u64);
            tracing::debug!(
                ?what,
                cut,
                starved,
                "stalled connections cut: others need memory"
            );
        }
    }

    fn admit(self: &Rc<Self>, caller: Caller, peer: SocketAddr, hall: Option<&Rc<Vestibule>>) {
        match (self.limit.enter(), hall) {
            (Some(permit), None) => self.welcome(caller, peer, permit),
            (Some(permit), Some(hall)) => self.welcome_tls(caller, peer, permit, hall),
            (None, None) => self.turn_away(caller, peer),
            // A refusal would cost a handshake: closed without a word.
            (None, Some(_)) => bump(&self.stats.connections_refused),
        }
    }

    fn welcome(self: &Rc<Self>, caller: Caller, peer: SocketAddr, permit: ConnectionPermit) {
        let (stream, visit) = caller;
        if let Err(error) = with_borrowed(&stream, |socket| listener::suit(socket, peer)) {
            tracing::trace!(%error, "options of an accepted socket");
        }
        let gate = self.bypass.as_ref();
        let shortcut = gate.and_then(|gate| with_borrowed(&stream, |socket| gate.take(socket)));
        let socket = Socket::new(stream, &self.watchdog, Arc::clone(&self.stats));
        let socket = socket.go_by(shortcut.clone());
        let guest = Guest::new(self, permit, visit);
        let room = Rc::clone(&self.room);
        let hands_over = room.service.hands_over();
        let service = hands_over.then(|| socket.plain_address()).flatten();
        let caller = Visitor {
            service: service.filter(|own| room.service.may_leave(peer, *own)),
            ..Visitor::resident(peer)
        };
        monoio::spawn(async move {
            let patience = room.config.write_timeout;
            converse(room, socket, caller, Vec::new()).await;
            if let Some(shortcut) = shortcut {
                shortcut.part(&guest.shard.watchdog, patience).await;
            }
            drop(guest);
        });
    }

    fn welcome_tls(
        self: &Rc<Self>,
        (stream, visit): Caller,
        peer: SocketAddr,
        permit: ConnectionPermit,
        hall: &Rc<Vestibule>,
    ) {
        let mut socket = Socket::new(stream, &self.watchdog, Arc::clone(&self.stats));
        let guest = Guest::new(self, permit, visit);
        let (room, hall) = (Rc::clone(&self.room), Rc::clone(hall));
        monoio::spawn(async move {
            // Boxed, so that a connection does not hold a handshake's memory for life.
            let secured = Box::pin(socket.secure(&hall, &room.config)).await;
            match secured {
                Ok(()) => converse(room, socket, Visitor::resident(peer), Vec::new()).await,
                Err(stranger) => {
                    stranger.count(&guest.shard.stats);
                    tracing::debug!(%peer, ?stranger, "no TLS session");
                    if stranger == Stranger::PlainHttp {
                        let info = room.info(peer);
                        refuse(&room, &mut socket, Refusal::PLAIN, &info).await;
                    }
                }
            }
            drop(guest);
        });
    }

    /// Too many connections: a 503, to a bounded number at a time.
    fn turn_away(self: &Rc<Self>, (stream, visit): Caller, peer: SocketAddr) {
        bump(&self.stats.connections_refused);
        if self.refusing.get() >= REFUSALS_MAX {
            return;
        }
        self.refusing.set(self.refusing.get() + 1);
        let shard = Rc::clone(self);
        monoio::spawn(async move {
            let mut socket = Socket::new(stream, &shard.watchdog, Arc::clone(&shard.stats));
            let (request_id, host_id) = shard.room.ids.next();
            let info = ConnectionInfo {
                peer,
                service: None,
                entry: None,
                request_id,
                host_id,
            };
            refuse(&shard.room, &mut socket, Refusal::SLOW_DOWN, &info).await;
            shard.refusing.set(shard.refusing.get() - 1);
            drop(visit);
        });
    }

    /// Waits for the connections to end, first by themselves, then by force:
    /// the runtime must not be torn down under a pending operation.
    async fn finish(&self, grace: Duration) -> Stopped {
        self.wait_until_empty(grace).await;
        let aborted = self.open.get();
        if aborted + self.refusing.get() > 0 {
            self.watchdog.abort_all();
            self.wait_until_empty(UNWIND_LIMIT).await;
        }
        Stopped {
            aborted,
            stuck: self.open.get(),
        }
    }

    async fn wait_until_empty(&self, most: Duration) {
        let until = Instant::now() + most;
        while self.open.get() + self.refusing.get() > 0 && Instant::now() < until {
            monoio::time::sleep(STOP_POLL).await;
        }
    }
}

impl<S: Service + 'static> Reception for Rc<Shard<S>> {
    fn permit(&self) -> Option<ConnectionPermit> {
        self.limit.enter()
    }

    fn welcome(&self, arrival: Arrival, place: Place) {
        let stream = std::net::TcpStream::from(arrival.socket);
        let stream = stream
            .set_nonblocking(monoio::utils::is_legacy())
            .and_then(|()| TcpStream::from_std(stream));
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection of another worker"),
        };
        let socket = Socket::new(stream, &self.watchdog, Arc::clone(&self.stats));
        let visit = self.load.as_ref().map(ShardLoad::enter);
        let guest = Guest::new(self, place.0, visit);
        let room = Rc::clone(&self.room);
        monoio::spawn(async move {
            let caller = Visitor {
                service: socket.plain_address(),
                entry: arrival.entry,
                ..Visitor::resident(arrival.peer)
            };
            converse(room, socket, caller, arrival.inbound).await;
            drop(guest);
        });
    }
}

/// Out of descriptors or memory: trying again at once would spin.
fn needs_pause(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// A connection that was accepted, and its part in the shard's load.
type Caller = (TcpStream, Option<Visit>);

/// A connection's place in all the counts.
struct Guest<S> {
    shard: Rc<Shard<S>>,
    _permit: ConnectionPermit,
    _open: OpenConnection,
    _visit: Option<Visit>,
}

impl<S> Guest<S> {
    fn new(shard: &Rc<Shard<S>>, permit: ConnectionPermit, visit: Option<Visit>) -> Self {
        shard.open.set(shard.open.get() + 1);
        Guest {
            shard: Rc::clone(shard),
            _permit: permit,
            _open: OpenConnection::new(&shard.stats),
            _visit: visit,
        }
    }
}

impl<S> Drop for Guest<S> {
    fn drop(&mut self) {
        self.shard.open.set(self.shard.open.get() - 1);
    }
}
