//! Answers to clients of this node that do not go by TCP: who gets them so, and keeping
//! to the client's pace, which the kernel does not do here. Absent: sending.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_ebpf::{Bypass, BypassTotals, QUEUED_MAX, Shortcut};

use super::limit::{BYPASS_PAUSE_MAX, BYPASS_PAUSE_MIN, BYPASS_STALLS_MAX};
use super::transfer::TransportError;
use super::watch::Watchdog;

/// Lets connections take the short way until too many of them stall.
pub struct BypassGate {
    bypass: Arc<Bypass>,
    taken: AtomicU64,
    stalled: AtomicU64,
    starved: AtomicU64,
    /// Since the last client that was waited for and read on.
    in_a_row: AtomicUsize,
    is_closed: AtomicBool,
    is_full: AtomicBool,
    /// Held while something is told, so that the end is the last word.
    telling: Mutex<()>,
    tell: Box<dyn Fn(BypassNews) + Send + Sync>,
}

/// What has become of the short way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BypassNews {
    /// Several clients in a row stalled: no connection takes it any more.
    Stalled,
    /// The programs are not attached any more: the same.
    Detached,
    /// Connections go by TCP because the programs know as many as they can.
    Full,
    /// There is room again.
    Open,
}

impl BypassGate {
    /// An open one; `tell` is called with each change, by whichever thread finds it. After it
    /// was closed there is none.
    #[must_use]
    pub fn new(bypass: Arc<Bypass>, tell: Box<dyn Fn(BypassNews) + Send + Sync>) -> Arc<Self> {
        Arc::new(BypassGate {
            bypass,
            taken: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            starved: AtomicU64::new(0),
            in_a_row: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            telling: Mutex::default(),
            tell,
        })
    }

    /// Connections that took the short way; of those the ones that were broken because
    /// what waited for their client did not move, and the ones that waited for memory of the
    /// kernel.
    #[must_use]
    pub fn connections(&self) -> [u64; 3] {
        [&self.taken, &self.stalled, &self.starved].map(|count| count.load(Relaxed))
    }

    /// What the programs count.
    #[must_use]
    pub fn totals(&self) -> BypassTotals {
        self.bypass.totals()
    }

    /// Looks whether the programs are still attached, and have room. To be called now and then,
    /// by one thread. `false`: it is closed, and no look is needed any more.
    ///
    /// # Errors
    /// The kernel does not tell whether they are attached: they are taken to be.
    pub fn look(&self) -> io::Result<bool> {
        let is_full = self.bypass.is_full();
        let telling = self.telling();
        if self.is_closed.load(Relaxed) {
            return Ok(false);
        }
        if self.is_full.swap(is_full, Relaxed) != is_full {
            (self.tell)(match is_full {
                true => BypassNews::Full,
                false => BypassNews::Open,
            });
        }
        drop(telling);
        if !self.bypass.is_attached()? {
            self.close(BypassNews::Detached);
            return Ok(false);
        }
        Ok(true)
    }

    fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, why: BypassNews) {
        let _telling = self.telling();
        if !self.is_closed.swap(true, Relaxed) {
            (self.tell)(why);
        }
    }

    /// The short way for a connection on which nothing was sent yet, if there is one.
    pub(super) fn take(self: &Arc<Self>, socket: impl AsFd) -> Option<Rc<Paced>> {
        if self.is_closed.load(Relaxed) {
            return None;
        }
        let shortcut = match self.bypass.take(socket) {
            Ok(shortcut) => shortcut?,
            Err(error) => {
                // One that has just ended, for one; it goes by TCP.
                tracing::debug!(%error, "a connection does not take the short way");
                return None;
            }
        };
        self.taken.fetch_add(1, Relaxed);
        let gate = Arc::clone(self);
        Some(Rc::new(Paced {
            gate,
            shortcut,
            held: Cell::new(None),
            has_stalled: Cell::new(false),
            has_starved: Cell::new(false),
        }))
    }

    fn note_progress(&self) {
        self.in_a_row.store(0, Relaxed);
    }

    /// A client that stops may be the client's doing. Several, and none in between that
    /// went on, may be the kernel's: then the rest goes by TCP.
    fn note_stall(&self) {
        self.stalled.fetch_add(1, Relaxed);
        let row = self.in_a_row.fetch_add(1, Relaxed) + 1;
        if row >= BYPASS_STALLS_MAX {
            self.close(BypassNews::Stalled);
        }
    }
}

/// The short way of one connection.
pub(crate) struct Paced {
    gate: Arc<BypassGate>,
    shortcut: Shortcut,
    /// The closed socket, which says so to its client only when this is closed, too: the end
    /// of a connection waits in the client's queue and would count as unread.
    held: Cell<Option<OwnedFd>>,
    has_stalled: Cell<bool>,
    has_starved: Cell<bool>,
}

/// What is to be done about a client's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// There is room for more.
    Short,
    /// So many bytes are more than may wait.
    Long(u32),
}

impl Paced {
    /// How much waits for the client.
    ///
    /// # Errors
    /// It has gone, or the kernel does not tell.
    pub(super) fn queue(&self) -> Result<Queue, TransportError> {
        match self.shortcut.queued() {
            Ok(Some(bytes)) if bytes > QUEUED_MAX => Ok(Queue::Long(bytes)),
            Ok(Some(_)) => Ok(Queue::Short),
            Ok(None) => Err(TransportError::Closed),
            Err(error) => Err(TransportError::Io(error.kind())),
        }
    }

    pub(super) fn note_progress(&self) {
        self.gate.note_progress();
    }

    pub(super) fn note_stall(&self) {
        self.has_stalled.set(true);
        self.gate.note_stall();
    }

    pub(super) fn note_starved(&self) {
        if !self.has_starved.replace(true) {
            self.gate.starved.fetch_add(1, Relaxed);
        }
    }

    /// The socket is about to be closed: [`Self::part`] may keep it open.
    pub(super) fn hold(&self, duplicate: impl FnOnce() -> io::Result<OwnedFd>) {
        if self.has_stalled.get() || self.left().is_none_or(|bytes| bytes == 0) {
            return;
        }
        match duplicate() {
            Ok(socket) => self.held.set(Some(socket)),
            Err(error) => tracing::debug!(%error, "a client is not waited for"),
        }
    }

    /// Waits until the client of a connection that is over has read all, or reads no more
    /// for `patience`: what waits would be lost with this process.
    pub(super) async fn part(&self, watchdog: &Watchdog, patience: Duration) {
        let Some(_held) = self.held.take() else {
            return;
        };
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let (mut left, mut since_ms) = (u32::MAX, watchdog.now_ms());
        let mut pause = Pause::default();
        while let Some(bytes) = self.left().filter(|bytes| *bytes > 0) {
            let now_ms = watchdog.now_ms();
            if bytes < left {
                (left, since_ms) = (bytes, now_ms);
            }
            if watchdog.is_aborted() || now_ms.saturating_sub(since_ms) > patience_ms {
                return;
            }
            monoio::time::sleep(pause.next()).await;
        }
    }

    /// A client about which the kernel does not tell is not waited for.
    fn left(&self) -> Option<u32> {
        self.shortcut.queued().ok().flatten()
    }
}

/// The end of a socket that sends by the short way. Dropped before the socket is closed:
/// the next connection may have the same ends.
pub(super) struct Leash(pub(super) Rc<Paced>);

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.shortcut.release();
    }
}

/// How long to sleep while a client reads: short at first, it may be as fast as we are.
#[derive(Debug)]
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Pause(BYPASS_PAUSE_MIN)
    }
}

impl Pause {
    pub(super) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(BYPASS_PAUSE_MAX);
        now
    }
}

/// Whether a send failed because the client has gone: the program refuses it.
pub(super) fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Whether a send failed because the kernel has no memory for what would wait for the
/// client: what it did not take may be sent again.
pub(super) fn is_starved(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOMEM.raw_os_error())
}

/// How long a send waits for such memory, from its first failure until some is sent.
#[derive(Debug)]
pub(super) struct Starved {
    pub(super) since_ms: u64,
    pub(super) pause: Pause,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pause = Pause::default();
        let all: Vec<Duration> = (0..20).map(|_| pause.next()).collect();
        assert_eq!(all[0], BYPASS_PAUSE_MIN);
        assert_eq!(all[1], BYPASS_PAUSE_MIN * 2);
        assert_eq!(all[19], BYPASS_PAUSE_MAX);
    }

    #[test]
    fn a_client_without_memory_is_none_that_has_gone() {
        let of = |errno: rustix::io::Errno| io::Error::from(errno);
        let (nomem, gone) = (of(rustix::io::Errno::NOMEM), of(rustix::io::Errno::ACCESS));
        assert!(is_starved(&nomem) && !is_refused(&nomem));
        assert!(is_refused(&gone) && !is_starved(&gone));
    }
}
