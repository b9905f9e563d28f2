//! TLS on a client socket: the handshake, and content through records. Absent: what
//! TLS is (see `tls`), HTTP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_lock::Semaphore;
use monoio::buf::{IoBuf, IoBufMut};

use super::count::{HttpStats, bump};
use super::limit::{GOODBYE_WAIT, HANDSHAKES_MAX, HttpConfig};
use super::transfer::{Pace, Socket, TransportError};
use super::watch::Waiting;
use crate::buffers::{contents, fill};
use crate::tls::{HANDSHAKE_BYTES, Identity, Session, Step, Taken, TlsMemory};

/// First byte of every TLS connection: the type of a handshake record.
const HANDSHAKE_RECORD: u8 = 22;

/// Pause before a connection looks again whether there is memory to receive in.
const MEMORY_PAUSE: Duration = Duration::from_millis(5);

/// What the TLS connections of a shard share.
pub(crate) struct Vestibule {
    pub(crate) identity: Arc<Identity>,
    pub(crate) memory: Rc<TlsMemory>,
    handshakes: Semaphore,
}

impl Vestibule {
    pub(crate) fn new(identity: Arc<Identity>, memory_bytes: usize) -> Rc<Self> {
        Rc::new(Vestibule {
            identity,
            memory: TlsMemory::new(memory_bytes),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
        })
    }
}

/// Why a connection has no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// It speaks HTTP without TLS; it can be answered so.
    PlainHttp,
    /// It took too long.
    Late,
    /// It left.
    Gone,
    /// No memory for it.
    Crowded,
    /// It speaks something else, or rustls and it could not agree.
    Refused(String),
}

impl Stranger {
    pub(crate) fn count(&self, stats: &HttpStats) {
        bump(match self {
            Stranger::PlainHttp => &stats.tls_plain_http,
            Stranger::Late => &stats.tls_timeouts,
            Stranger::Gone => &stats.tls_aborts,
            Stranger::Crowded => &stats.tls_crowded,
            Stranger::Refused(_) => &stats.tls_refused,
        });
    }
}

impl From<TransportError> for Stranger {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::TimedOut => Stranger::Late,
            _ => Stranger::Gone,
        }
    }
}

impl Socket {
    /// Shakes hands within `config.header_timeout`, waiting for a place included.
    pub(crate) async fn secure(
        &mut self,
        hall: &Vestibule,
        config: &HttpConfig,
    ) -> Result<(), Stranger> {
        let charge = hall.memory.admit().ok_or(Stranger::Crowded)?;
        let wait_ms = u64::try_from(config.header_timeout.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = self.watchdog().now_ms().saturating_add(wait_ms);
        let place = monoio::time::timeout(config.header_timeout, hall.handshakes.acquire());
        let _place = place.await.map_err(|_| Stranger::Late)?;
        let _memory = hall
            .memory
            .charge(HANDSHAKE_BYTES)
            .ok_or(Stranger::Crowded)?;
        let refused = |error: rustls::Error| Stranger::Refused(error.to_string());
        let session = Session::new(hall.identity.config(), &hall.memory, charge);
        let mut session = Box::new(session.map_err(refused)?);
        self.shake_hands(&mut session, config, deadline_ms).await?;
        self.session = Some(session);
        bump(&self.stats().tls_handshakes);
        Ok(())
    }

    /// Shakes hands as `session` does it, by whichever side it is of, until
    /// `deadline_ms`.
    pub(crate) async fn secure_by(
        &mut self,
        mut session: Box<Session>,
        deadline_ms: u64,
    ) -> Result<(), Stranger> {
        let memory = Rc::clone(session.memory());
        let _memory = memory.charge(HANDSHAKE_BYTES).ok_or(Stranger::Crowded)?;
        let wait_ms = deadline_ms.saturating_sub(self.watchdog().now_ms());
        let mut pace = Pace::new(Duration::from_millis(wait_ms), 1);
        loop {
            let mut outbound = Vec::new();
            let step = session.shake(&mut outbound);
            if !outbound.is_empty() {
                self.send_raw(outbound, &mut pace).await?;
            }
            match step {
                Step::Done => break,
                Step::Failed(error) => return Err(Stranger::Refused(error.to_string())),
                Step::Receive => self.receive_flight(&mut session, deadline_ms).await?,
            }
        }
        self.session = Some(session);
        Ok(())
    }

    /// Who the other side is: see [`Session::other_side`].
    pub(crate) fn other_side(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        let session = self.session.as_ref();
        session.map_or((None, None), |session| session.other_side())
    }

    async fn shake_hands(
        &mut self,
        session: &mut Session,
        config: &HttpConfig,
        deadline_ms: u64,
    ) -> Result<(), Stranger> {
        let mut pace = Pace::new(config.header_timeout, config.min_rate);
        let mut greeted = false;
        loop {
            self.receive_flight(session, deadline_ms).await?;
            if !std::mem::replace(&mut greeted, true) {
                judge_first(session.unseen().first().copied())?;
            }
            let mut outbound = Vec::new();
            let step = session.shake(&mut outbound);
            if !outbound.is_empty() {
                self.send_raw(outbound, &mut pace).await?;
            }
            match step {
                Step::Done => return Ok(()),
                Step::Failed(error) => return Err(Stranger::Refused(error.to_string())),
                Step::Receive => {}
            }
        }
    }

    async fn receive_flight(
        &mut self,
        session: &mut Session,
        deadline_ms: u64,
    ) -> Result<(), Stranger> {
        let space = session.space(true).ok_or(Stranger::Crowded)?;
        // As idle: a stopping server does not wait for a client without a request.
        let (result, space) = self.receive_raw(space, Waiting::Idle, deadline_ms).await;
        session.restore(space, result.as_ref().copied().unwrap_or(0));
        match result? {
            0 => Err(Stranger::Gone),
            _ => Ok(()),
        }
    }

    /// As [`Socket::receive_until`], content of records.
    pub(crate) async fn receive_sealed<B: IoBufMut>(
        &mut self,
        mut buffer: B,
        waiting: Waiting,
        deadline_ms: u64,
    ) -> (Result<usize, TransportError>, B) {
        let mut refused: Option<Instant> = None;
        loop {
            let Some(session) = self.session.as_mut() else {
                return (Err(TransportError::Closed), buffer);
            };
            let patience = session.memory().patience();
            let space = match session.advance(|content| fill(&mut buffer, content)) {
                Ok(Taken::Content(count)) => return (Ok(count), buffer),
                Ok(Taken::End) => return (Ok(0), buffer),
                Ok(Taken::Starved) => session.space(waiting == Waiting::Idle),
                Err(error) => return (Err(self.break_session(&error).await), buffer),
            };
            let Some(space) = space else {
                if refused.get_or_insert_with(Instant::now).elapsed() < patience {
                    monoio::time::sleep(MEMORY_PAUSE).await;
                    continue;
                }
                bump(&self.stats().tls_crowded);
                self.say_goodbye().await;
                return (Err(TransportError::Closed), buffer);
            };
            let (result, space) = self.receive_raw(space, waiting, deadline_ms).await;
            if let Some(session) = self.session.as_mut() {
                session.restore(space, result.as_ref().copied().unwrap_or(0));
            }
            match result {
                Ok(count) if count > 0 => {}
                // Bodies have lengths: an end without close_notify cuts off no more
                // than one with it.
                other => return (other, buffer),
            }
        }
    }

    /// As [`Socket::send`], through records.
    pub(crate) async fn send_sealed<B: IoBuf>(
        &mut self,
        buffer: B,
        pace: &mut Pace,
    ) -> Result<(), TransportError> {
        let Some(session) = self.session.as_ref() else {
            return Err(TransportError::Closed);
        };
        let memory = Rc::clone(session.memory());
        let mut out = memory.lend();
        let mut taken = 0;
        let result = loop {
            let rest = contents(&buffer).get(taken..).unwrap_or_default();
            let Some(session) = self.session.as_mut() else {
                break Err(TransportError::Closed);
            };
            let length = match session.seal(rest, &mut out) {
                Ok((_, 0)) => break Ok(()),
                Ok((count, length)) => {
                    taken += count;
                    length
                }
                Err(error) => break Err(self.break_session(&error).await),
            };
            let (sent, back) = self.send_part(out, length, pace).await;
            out = back;
            if sent.is_err() {
                break sent;
            }
        };
        memory.give_back(out);
        result
    }

    /// Says that nothing more will be sent, if there is a session to say it in.
    pub(crate) async fn say_goodbye(&mut self) {
        if let Some(session) = self.session.as_mut() {
            session.close();
            self.send_alert().await;
        }
    }

    async fn break_session(&mut self, error: &rustls::Error) -> TransportError {
        tracing::debug!(%error, "a TLS connection is broken off");
        bump(&self.stats().tls_record_errors);
        self.send_alert().await;
        TransportError::Io(std::io::ErrorKind::InvalidData)
    }

    /// Best effort: the client may be gone.
    async fn send_alert(&mut self) {
        let alert = self.session.as_mut().map(|session| session.outgoing());
        let mut pace = Pace::new(GOODBYE_WAIT, 1);
        if let Some(alert) = alert.filter(|alert| !alert.is_empty())
            && let Err(error) = self.send_raw(alert, &mut pace).await
        {
            tracing::trace!(%error, "alert");
        }
    }
}

/// Judges the first byte a client sends. Types of records are below 32, methods
/// begin with a letter.
fn judge_first(byte: Option<u8>) -> Result<(), Stranger> {
    match byte {
        Some(HANDSHAKE_RECORD) => Ok(()),
        Some(byte) if byte.is_ascii_uppercase() => Err(Stranger::PlainHttp),
        _ => Err(Stranger::Refused("not TLS".into())),
    }
}
