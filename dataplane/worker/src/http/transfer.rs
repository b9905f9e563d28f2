//! Bytes in and out of one client socket, each wait under a deadline. Absent:
//! HTTP. No future in here may be dropped half-way; nobody does.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;

use super::count::{HttpStats, add};
use super::limit::BYPASS_ASK_BYTES;
use super::shortcut::{Leash, Paced, Pause, Queue, Starved, is_refused, is_starved};
use super::watch::{Holding, Waiting, Watch, Watchdog};
use crate::tls::Session;

/// Why bytes of a request did not arrive or bytes of a response did not leave.
/// After any of these the connection is not used for another request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The client ended the connection too early.
    #[error("the client closed the connection")]
    Closed,
    /// The client was silent, or slower than allowed, for too long.
    #[error("the client was too slow")]
    TimedOut,
    /// The chunked transfer coding is malformed.
    #[error("malformed transfer coding: {0}")]
    BadFraming(&'static str),
    /// The buffer to receive into has no room left: a mistake of the caller.
    #[error("no room in the receive buffer")]
    NoRoom,
    /// The socket failed.
    #[error("socket: {0}")]
    Io(io::ErrorKind),
}

/// How long one transfer may wait for its peer: at most `idle` at a time, and in
/// sum no longer than a grace of `idle` plus what `min_rate` allows. Time spent on
/// our side does not count.
#[derive(Debug)]
pub(crate) struct Pace {
    idle_ms: u64,
    min_rate: u64,
    bytes: u64,
    waited_ms: u64,
}

impl Pace {
    pub(crate) fn new(idle: Duration, min_rate: u64) -> Self {
        Pace {
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            min_rate: min_rate.max(1),
            bytes: 0,
            waited_ms: 0,
        }
    }

    /// How long the next wait may last, milliseconds.
    fn allowance_ms(&self) -> u64 {
        let earned = self.bytes.saturating_mul(1000) / self.min_rate;
        let budget = self.idle_ms.saturating_add(earned);
        budget.saturating_sub(self.waited_ms).min(self.idle_ms)
    }

    fn note(&mut self, bytes: usize, waited_ms: u64) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited_ms = self.waited_ms.saturating_add(waited_ms);
    }
}

/// A client socket. The fields are dropped in this order: the watch must go
/// before the descriptor does.
pub(crate) struct Socket {
    watch: Watch,
    /// What is sent does not go by TCP.
    shortcut: Option<Leash>,
    /// Bytes sent so since the client's queue was asked for.
    unasked: usize,
    stream: TcpStream,
    stats: Arc<HttpStats>,
    /// Everything but the handshake goes through it, if there is one.
    pub(super) session: Option<Box<Session>>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, watchdog: &Rc<Watchdog>, stats: Arc<HttpStats>) -> Self {
        let watch = watchdog.register(stream.as_raw_fd());
        Socket {
            watch,
            shortcut: None,
            unasked: 0,
            stream,
            stats,
            session: None,
        }
    }

    /// From now on, and nothing was sent yet, what is sent goes the short way.
    pub(crate) fn go_by(mut self, shortcut: Option<Rc<Paced>>) -> Self {
        self.shortcut = shortcut.map(Leash);
        self
    }

    pub(crate) fn watchdog(&self) -> &Rc<Watchdog> {
        self.watch.watchdog()
    }

    /// For [`Watchdog::cut`], as long as this lives.
    pub(crate) fn watch_number(&self) -> usize {
        self.watch.number()
    }

    /// Lends the descriptor for the time of a call.
    pub(crate) fn with_descriptor<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        super::watch::with_borrowed(&self.stream, act)
    }

    /// Another descriptor of it.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.with_descriptor(|socket| socket.try_clone_to_owned())
    }

    /// The address the client connected to, of a connection without TLS whose answers go
    /// by TCP: what went past it cannot be handed over.
    pub(crate) fn plain_address(&self) -> Option<SocketAddr> {
        if self.session.is_some() || self.shortcut.is_some() {
            return None;
        }
        let own = self
            .with_descriptor(|socket| rustix::net::getsockname(socket))
            .ok()?;
        SocketAddr::try_from(own).ok()
    }

    pub(crate) fn stats(&self) -> &Arc<HttpStats> {
        &self.stats
    }

    /// Receives once; 0 is the end of the client's sending.
    pub(crate) async fn receive_until<B: IoBufMut>(
        &mut self,
        buffer: B,
        waiting: Waiting,
        deadline_ms: u64,
    ) -> (Result<usize, TransportError>, B) {
        match self.session {
            None => self.receive_raw(buffer, waiting, deadline_ms).await,
            Some(_) => self.receive_sealed(buffer, waiting, deadline_ms).await,
        }
    }

    /// Receives bytes as they come.
    pub(super) async fn receive_raw<B: IoBufMut>(
        &mut self,
        buffer: B,
        waiting: Waiting,
        deadline_ms: u64,
    ) -> (Result<usize, TransportError>, B) {
        self.watch.arm_until(waiting, deadline_ms);
        let (result, buffer) = self.stream.read(buffer).await;
        let overdue = self.watch.disarm();
        let result = match result {
            Ok(0) if overdue => Err(TransportError::TimedOut),
            Ok(count) => {
                add(&self.stats.bytes_received, count as u64);
                Ok(count)
            }
            Err(error) => Err(name(&error, overdue)),
        };
        (result, buffer)
    }

    /// Receives once at the pace given.
    pub(crate) async fn receive<B: IoBufMut>(
        &mut self,
        buffer: B,
        pace: &mut Pace,
    ) -> (Result<usize, TransportError>, B) {
        let before_ms = self.watchdog().now_ms();
        let deadline_ms = before_ms.saturating_add(pace.allowance_ms());
        let (result, buffer) = self.receive_until(buffer, Waiting::Read, deadline_ms).await;
        let waited_ms = self.watchdog().now_ms().saturating_sub(before_ms);
        pace.note(result.as_ref().copied().unwrap_or(0), waited_ms);
        (result, buffer)
    }

    /// Sends all of `buffer` at the pace given.
    pub(crate) async fn send<B: IoBuf>(
        &mut self,
        buffer: B,
        pace: &mut Pace,
    ) -> Result<(), TransportError> {
        match self.session {
            None => self.send_raw(buffer, pace).await,
            Some(_) => self.send_sealed(buffer, pace).await,
        }
    }

    /// Sends bytes as they are.
    pub(super) async fn send_raw<B: IoBuf>(
        &mut self,
        buffer: B,
        pace: &mut Pace,
    ) -> Result<(), TransportError> {
        let length = buffer.bytes_init();
        self.send_part(buffer, length, pace).await.0
    }

    /// Sends the first `length` bytes of `buffer` as they are.
    pub(super) async fn send_part<B: IoBuf>(
        &mut self,
        mut buffer: B,
        length: usize,
        pace: &mut Pace,
    ) -> (Result<(), TransportError>, B) {
        let mut sent = 0;
        let mut starved = None;
        while sent < length {
            let before_ms = self.watchdog().now_ms();
            let deadline_ms = before_ms.saturating_add(pace.allowance_ms());
            self.watch.arm_until(Waiting::Write, deadline_ms);
            let end = match self.shortcut {
                Some(_) => length.min(sent + BYPASS_ASK_BYTES),
                None => length,
            };
            let (result, slice) = self.stream.write(buffer.slice(sent..end)).await;
            let overdue = self.watch.disarm();
            let waited_ms = self.watchdog().now_ms().saturating_sub(before_ms);
            buffer = slice.into_inner();
            let count = match result {
                Ok(0) => return (Err(TransportError::Closed), buffer),
                Ok(count) => count,
                Err(error) if self.shortcut.is_some() && is_refused(&error) => {
                    return (Err(TransportError::Closed), buffer);
                }
                Err(error) if self.shortcut.is_some() && !overdue && is_starved(&error) => {
                    match self.wait_for_memory(&mut starved, pace).await {
                        Ok(()) => continue,
                        Err(error) => return (Err(error), buffer),
                    }
                }
                Err(error) => return (Err(name(&error, overdue)), buffer),
            };
            if let (Some(wait), Some(Leash(shortcut))) = (starved.take(), &self.shortcut) {
                pace.note(0, before_ms.saturating_sub(wait.since_ms));
                shortcut.note_progress();
            }
            sent += count;
            add(&self.stats.bytes_sent, count as u64);
            pace.note(count, waited_ms);
            if let Err(error) = self.keep_pace(count, pace).await {
                return (Err(error), buffer);
            }
        }
        (Ok(()), buffer)
    }

    /// Waits a moment for the kernel's memory: the client's unread bytes take all that it may
    /// have, or everybody's do. As long as a client would be waited for by TCP.
    async fn wait_for_memory(
        &mut self,
        starved: &mut Option<Starved>,
        pace: &Pace,
    ) -> Result<(), TransportError> {
        let Some(Leash(shortcut)) = &self.shortcut else {
            return Ok(());
        };
        shortcut.note_starved();
        let wait = starved.get_or_insert_with(|| Starved {
            since_ms: self.watchdog().now_ms(),
            pause: Pause::default(),
        });
        let deadline_ms = wait.since_ms.saturating_add(pace.allowance_ms());
        self.watch.arm_until(Waiting::Write, deadline_ms);
        monoio::time::sleep(wait.pause.next()).await;
        if !self.watch.disarm() {
            return Ok(());
        }
        shortcut.note_stall();
        Err(TransportError::TimedOut)
    }

    /// After every mebibyte waits until the client has read most of what was sent, if the
    /// kernel does not see to that itself: as long as it would be waited for by TCP.
    async fn keep_pace(&mut self, count: usize, pace: &mut Pace) -> Result<(), TransportError> {
        let Some(Leash(shortcut)) = &self.shortcut else {
            return Ok(());
        };
        self.unasked += count;
        if self.unasked < BYPASS_ASK_BYTES {
            return Ok(());
        }
        self.unasked = 0;
        let (mut left, mut since_ms) = (u32::MAX, self.watchdog().now_ms());
        let mut pause = Pause::default();
        while let Queue::Long(bytes) = shortcut.queue()? {
            let now_ms = self.watchdog().now_ms();
            if bytes < left {
                pace.note(0, now_ms.saturating_sub(since_ms));
                (left, since_ms) = (bytes, now_ms);
            }
            let deadline_ms = since_ms.saturating_add(pace.allowance_ms());
            self.watch.arm_until(Waiting::Write, deadline_ms);
            monoio::time::sleep(pause.next()).await;
            if self.watch.disarm() {
                shortcut.note_stall();
                return Err(TransportError::TimedOut);
            }
        }
        if left != u32::MAX {
            shortcut.note_progress();
        }
        Ok(())
    }

    /// From now on this connection holds what others may want: it may be cut while
    /// its client stalls and others wait for that.
    pub(crate) fn hold(&self, what: Holding) {
        self.watch.hold(what);
    }

    /// It holds nothing any more.
    pub(crate) fn let_go(&self) {
        self.watch.let_go();
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish_sending(&mut self) {
        self.say_goodbye().await;
        // Fails only when the connection is gone, and then there is nothing to do.
        if let Err(error) = self.stream.shutdown().await {
            tracing::trace!(%error, "half-close");
        }
    }

    /// Makes closing a reset: what is still queued is thrown away and the client
    /// sees an error, never a body that looks complete.
    pub(crate) fn reset_on_close(&self) {
        if let Err(error) = set_zero_linger(&self.stream) {
            tracing::trace!(%error, "SO_LINGER");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(Leash(shortcut)) = &self.shortcut {
            shortcut.hold(|| self.with_descriptor(|socket| socket.try_clone_to_owned()));
        }
    }
}

fn name(error: &io::Error, overdue: bool) -> TransportError {
    if overdue {
        return TransportError::TimedOut;
    }
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected => TransportError::Closed,
        kind => TransportError::Io(kind),
    }
}

fn set_zero_linger(stream: &TcpStream) -> io::Result<()> {
    super::watch::with_borrowed(stream, |fd| {
        rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_client_never_runs_out() {
        let mut pace = Pace::new(Duration::from_secs(10), 1000);
        for _ in 0..10_000 {
            assert_eq!(pace.allowance_ms(), 10_000);
            pace.note(1000, 1000);
        }
    }

    #[test]
    fn a_dribbling_client_runs_out() {
        let mut pace = Pace::new(Duration::from_secs(10), 1000);
        let mut waits = 0;
        while pace.allowance_ms() > 0 {
            pace.note(1, 1000);
            waits += 1;
        }
        assert_eq!(waits, 11);
    }

    #[test]
    fn our_own_time_does_not_count() {
        let mut pace = Pace::new(Duration::from_secs(10), 1000);
        pace.note(0, 4_000);
        assert_eq!(pace.allowance_ms(), 6_000);
        pace.note(100_000, 0);
        assert_eq!(pace.allowance_ms(), 10_000);
    }
}
