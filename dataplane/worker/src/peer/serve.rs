//! Other workers' connections to this one: taken in, served, ended. Absent: what they
//! ask for.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::net::{TcpListener, TcpStream};
use quickwater_peer::{Call, Kind, Refusal, RefusalKind, Task};
use quickwater_proto::NodeId;
use rustix::net::Shutdown;

use super::connect::{Inner, Peers, is_worker, suit};
use super::identity::node_of;
use super::limit::{CONNECT_WAIT, GRACE_MIN, GUESTS_MAX, IDLE_WAIT, STALL_WAIT, TICK, UNWIND};
use super::stats::{Open, bump, task_number};
use super::wire::{Wire, WireError, head};
use crate::http::Starved;
use crate::http::transfer::Socket;
use crate::http::watch::Holding;
use crate::runtime::Stop;
use crate::tls::Session;

/// How often a stopping shard looks whether its connections are gone.
const STOP_POLL: Duration = Duration::from_millis(10);
/// Pause after `accept` failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Does what other workers ask for.
pub(crate) trait Host {
    /// Serves one call to its end, answer included. The frame's body is still on the
    /// wire.
    ///
    /// # Errors
    /// The connection cannot go on.
    async fn host(&self, caller: &NodeId, call: Call, wire: &mut Wire) -> Result<(), WireError>;

    /// How many requests wait now for what connections hold.
    fn starved(&self) -> Starved;
}

/// Other workers are served, until this is ended.
pub struct Hosting {
    stop: Stop,
    serving: monoio::task::JoinHandle<std::io::Result<()>>,
    grace: Grace,
}

/// How long those who are served may go on after the stop of the process was asked for.
#[derive(Clone)]
pub(crate) struct Grace {
    most: Duration,
    stop: Stop,
    asked: Rc<Cell<Option<Instant>>>,
}

impl Grace {
    fn new(most: Duration, stop: Stop) -> Self {
        let asked = Rc::new(Cell::new(None));
        let (noted, requested) = (Rc::clone(&asked), stop.clone());
        monoio::spawn(async move {
            requested.requested().await;
            noted.set(Some(Instant::now()));
        });
        Self { most, stop, asked }
    }

    fn left(&self) -> Duration {
        let since = self.asked.get().map_or(Duration::ZERO, |at| at.elapsed());
        let whole = self.stop.grace_of(self.most);
        whole.saturating_sub(since).max(GRACE_MIN)
    }
}

impl Hosting {
    /// `stop`: that of the process, from which `grace` is counted.
    pub(crate) fn begin<F>(
        stop: Stop,
        grace: Duration,
        serve: impl FnOnce(Stop, Grace) -> F,
    ) -> Self
    where
        F: Future<Output = std::io::Result<()>> + 'static,
    {
        let grace = Grace::new(grace, stop);
        let stop = Stop::new();
        let serving = monoio::spawn(serve(stop.clone(), grace.clone()));
        Self {
            stop,
            serving,
            grace,
        }
    }

    /// Takes no more calls, and waits for those that had begun.
    ///
    /// # Errors
    /// The listener could not be handed to the shard's runtime.
    pub async fn end(self) -> std::io::Result<()> {
        tracing::debug!(left = ?self.grace.left(), "other workers are served no more");
        self.stop.request();
        self.serving.await
    }
}

impl Peers {
    /// Serves other workers until `stop`, and then what they had begun.
    pub(crate) async fn serve<H: Host + 'static>(
        &self,
        listener: std::net::TcpListener,
        host: Rc<H>,
        stop: Stop,
        grace: Grace,
    ) -> std::io::Result<()> {
        let door = listener.try_clone()?;
        listener.set_nonblocking(monoio::utils::is_legacy())?;
        let listener = TcpListener::from_std(listener)?;
        let closing = Rc::clone(&self.0);
        let asked = stop.clone();
        monoio::spawn(async move {
            asked.requested().await;
            closing.watchdog.stop();
            if let Err(error) = rustix::net::shutdown(&door, Shutdown::Both) {
                tracing::error!(%error, "shutdown of the listening socket for workers");
            }
        });
        monoio::spawn(shed(Rc::clone(&self.0), Rc::clone(&host), stop.clone()));
        while !stop.is_requested() {
            match listener.accept().await {
                Ok((stream, other)) => self.welcome(stream, other, &host),
                Err(_) if stop.is_requested() => break,
                Err(error) => {
                    tracing::warn!(%error, "accept of a worker");
                    monoio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.0.wait_until_empty(grace.left()).await;
        if self.0.guests.get() > 0 {
            self.0.watchdog.abort_all();
            self.0.wait_until_empty(UNWIND).await;
        }
        Ok(())
    }

    fn welcome<H: Host + 'static>(&self, stream: TcpStream, other: SocketAddr, host: &Rc<H>) {
        if self.0.guests.get() >= GUESTS_MAX {
            bump(&self.stats().strangers);
            return;
        }
        let guest = Guest::new(&self.0);
        let (peers, host) = (self.clone(), Rc::clone(host));
        monoio::spawn(async move {
            if let Some((mut wire, caller)) = peers.admit(stream, other).await {
                bump(&peers.stats().accepted);
                let open = Open::new(peers.stats(), |stats| &stats.open_in);
                peers.attend(&mut wire, &caller, host.as_ref()).await;
                drop(open);
            }
            drop(guest);
        });
    }

    /// Shakes hands; `None`: it is not a worker of the cluster.
    async fn admit(&self, stream: TcpStream, other: SocketAddr) -> Option<(Wire, NodeId)> {
        if let Err(error) = suit(&stream, other) {
            tracing::debug!(%other, %error, "options of a worker's connection");
        }
        let memory = &self.0.memory;
        let wait_ms = u64::try_from(CONNECT_WAIT.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.0.watchdog.now_ms().saturating_add(wait_ms);
        let mut socket = Socket::new(stream, &self.0.watchdog, Arc::clone(&self.0.bytes));
        let admitted = async {
            let charge = memory.admit().ok_or("no memory")?;
            let config = Arc::clone(&self.0.config.identity.server);
            let session = Session::new(config, memory, charge).map_err(|_| "no session")?;
            let secured = socket.secure_by(Box::new(session), until_ms).await;
            secured.map_err(|stranger| {
                tracing::debug!(%other, ?stranger, "no TLS session with a worker");
                "no TLS session"
            })?;
            match is_worker(&socket, None) {
                true => Ok(()),
                false => Err("not the certificate or the protocol of a worker"),
            }
        };
        if let Err(why) = Box::pin(admitted).await {
            bump(&self.stats().strangers);
            tracing::warn!(%other, why, "a connection to the workers' port was refused");
            return None;
        }
        let caller = socket.other_side().0.and_then(node_of)?;
        Some((Wire::new(socket, Arc::clone(self.stats())), caller))
    }

    async fn attend<H: Host>(&self, wire: &mut Wire, caller: &NodeId, host: &H) {
        loop {
            let head = match wire.receive_call(IDLE_WAIT).await {
                Ok(head) => head,
                Err(error) => {
                    if error.is_protocol() {
                        tracing::warn!(%caller, %error, "a worker does not keep to the protocol");
                    }
                    break;
                }
            };
            if let Err(error) = self.answer(wire, caller, &head, host).await {
                tracing::debug!(%caller, %error, "a call of another worker broke off");
                // What was sent of an answer must not look whole.
                wire.socket().reset_on_close();
                return;
            }
            if self.0.watchdog.is_stopping() {
                break;
            }
        }
        wire.say_goodbye().await;
    }

    async fn answer<H: Host>(
        &self,
        wire: &mut Wire,
        caller: &NodeId,
        bytes: &[u8],
        host: &H,
    ) -> Result<(), WireError> {
        let call: Call = head(bytes)?;
        let right = call.capability.clone().unwrap_or_default();
        if let Err(error) = self.directory().check(caller, &right) {
            tracing::info!(%caller, %error, "a call of another worker was refused");
            wire.skip().await?;
            return self
                .refuse(wire, RefusalKind::NotAllowed, error.to_string())
                .await;
        }
        let Some(at) = task_number(call.task()) else {
            wire.skip().await?;
            let text = format!("task {} is not known to this version", call.task);
            return self.refuse(wire, RefusalKind::Mistaken, text).await;
        };
        bump(&self.stats().served[at]);
        debug_assert!(call.task() != Task::Unspecified);
        // Boxed, so that an idle connection does not hold the memory of a busy one.
        Box::pin(host.host(caller, call, wire)).await
    }

    /// Says that a call was not begun.
    pub(crate) async fn refuse(
        &self,
        wire: &mut Wire,
        kind: RefusalKind,
        text: String,
    ) -> Result<(), WireError> {
        bump(&self.stats().refused);
        let refusal = Refusal {
            kind: kind.into(),
            text,
        };
        let frame = wire.frame(Kind::Refused, &refusal)?;
        wire.send_bytes(frame).await
    }
}

/// While requests wait for buffers, cuts connections that hold some and do nothing with
/// them, as the HTTP server does.
async fn shed<H: Host>(inner: Rc<Inner>, host: Rc<H>, stop: Stop) {
    let stalled_ms = u64::try_from(STALL_WAIT.as_millis()).unwrap_or(u64::MAX);
    while !stop.is_requested() {
        let starved = host.starved().buffers;
        if starved > 0 {
            let cut = inner.watchdog.shed(Holding::Buffers, starved, stalled_ms);
            tracing::debug!(
                cut,
                starved,
                "stalled connections of workers were looked for"
            );
        }
        monoio::time::sleep(TICK).await;
    }
}

impl Inner {
    async fn wait_until_empty(&self, most: Duration) {
        let until = Instant::now() + most;
        while self.guests.get() > 0 && Instant::now() < until {
            monoio::time::sleep(STOP_POLL).await;
        }
    }
}

/// Counts a connection while its task runs.
struct Guest(Rc<Inner>);

impl Guest {
    fn new(inner: &Rc<Inner>) -> Self {
        inner.guests.set(inner.guests.get() + 1);
        Self(Rc::clone(inner))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.set(self.0.guests.get() - 1);
    }
}
