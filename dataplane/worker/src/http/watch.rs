//! Deadlines of a shard's connections. A timer ends IO by `shutdown(2)` on the
//! socket, so that the pending operation completes by itself; no future is ever
//! dropped half-way. Absent: reading and writing.
#![expect(
    unsafe_code,
    reason = "shutdown(2) by number on descriptors that others own"
)]

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use rustix::net::Shutdown;

use super::date::HttpDate;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// What a deadline interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// For bytes. The read side is shut; an answer can still be sent.
    Read,
    /// For the first byte of the next request: as `Read`, and a stopping server
    /// does not wait for the deadline.
    Idle,
    /// For room to send. Both sides are shut.
    Write,
}

/// What of a connection others may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Pooled buffers, or places that stand for some.
    Buffers,
    /// Memory for documents.
    Documents,
}

/// Requests that wait for what connections hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Starved {
    /// They wait for pooled buffers.
    pub buffers: usize,
    /// They wait for memory for a document.
    pub documents: usize,
}

#[derive(Debug)]
struct Slot {
    fd: RawFd,
    deadline_ms: u64,
    waiting: Waiting,
    /// When this wait began: the client did nothing since.
    since_ms: u64,
    holds_buffers: bool,
    holds_documents: bool,
    fired: bool,
}

/// The clock, date and deadlines of one shard. All slots are looked at every
/// tick: a few nanoseconds each, and arming one costs a store.
#[derive(Debug)]
pub(crate) struct Watchdog {
    started: Instant,
    now_ms: Cell<u64>,
    date: RefCell<HttpDate>,
    slots: RefCell<Vec<Option<Slot>>>,
    free: RefCell<Vec<usize>>,
    stopping: Cell<bool>,
    aborted: Cell<bool>,
}

impl Watchdog {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Watchdog {
            started: Instant::now(),
            now_ms: Cell::new(0),
            date: RefCell::new(HttpDate::new(SystemTime::now())),
            slots: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
            stopping: Cell::new(false),
            aborted: Cell::new(false),
        })
    }

    /// Milliseconds since the start, as of the last tick.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Appends the value of a `Date` header.
    pub(crate) fn write_date(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.date.borrow().as_bytes());
    }

    /// Whether the server is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether all connections were broken: nobody is waited for any more.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    /// Watches a socket until the returned value is dropped.
    ///
    /// The caller drops it before it closes the socket: from then on the number
    /// may belong to somebody else.
    pub(crate) fn register(self: &Rc<Self>, fd: RawFd) -> Watch {
        let slot = Slot {
            fd,
            deadline_ms: NEVER,
            waiting: Waiting::Read,
            since_ms: 0,
            holds_buffers: false,
            holds_documents: false,
            fired: false,
        };
        let mut slots = self.slots.borrow_mut();
        let index = match self.free.borrow_mut().pop() {
            Some(index) => {
                slots[index] = Some(slot);
                index
            }
            None => {
                slots.push(Some(slot));
                slots.len() - 1
            }
        };
        Watch {
            watchdog: Rc::clone(self),
            index,
        }
    }

    /// Moves the clock and ends what is overdue.
    pub(crate) fn tick(&self) {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.now_ms.set(now_ms);
        self.date.borrow_mut().update(SystemTime::now());
        self.end_where(|slot| slot.deadline_ms <= now_ms);
    }

    /// From now on connections are not kept; idle ones end now.
    pub(crate) fn stop(&self) {
        self.stopping.set(true);
        self.end_where(|slot| slot.deadline_ms != NEVER && slot.waiting == Waiting::Idle);
    }

    /// Ends up to `most` connections that hold such things while their clients have
    /// done nothing for `stalled_ms`, the longest stalled first; how many it were.
    pub(crate) fn shed(&self, what: Holding, most: usize, stalled_ms: u64) -> usize {
        let now_ms = self.now_ms.get();
        let mut slots = self.slots.borrow_mut();
        let mut stalled: Vec<&mut Slot> = slots
            .iter_mut()
            .flatten()
            .filter(|slot| slot.holds(what) && slot.deadline_ms != NEVER)
            .filter(|slot| now_ms.saturating_sub(slot.since_ms) >= stalled_ms)
            .collect();
        stalled.sort_by_key(|slot| slot.since_ms);
        let ended = stalled.into_iter().take(most).map(|slot| {
            slot.deadline_ms = NEVER;
            slot.fired = true;
            end(slot);
        });
        ended.count()
    }

    /// Breaks every connection.
    pub(crate) fn abort_all(&self) {
        self.aborted.set(true);
        self.end_where(|slot| {
            slot.waiting = Waiting::Write;
            true
        });
    }

    /// Breaks one connection; nothing if there is none of that number.
    pub(crate) fn cut(&self, number: usize) {
        if let Some(slot) = self
            .slots
            .borrow_mut()
            .get_mut(number)
            .and_then(Option::as_mut)
        {
            slot.deadline_ms = NEVER;
            slot.waiting = Waiting::Write;
            slot.fired = true;
            end(slot);
        }
    }

    fn end_where(&self, mut overdue: impl FnMut(&mut Slot) -> bool) {
        for slot in self.slots.borrow_mut().iter_mut().flatten() {
            if overdue(slot) {
                slot.deadline_ms = NEVER;
                slot.fired = true;
                end(slot);
            }
        }
    }
}

impl Slot {
    fn holds(&self, what: Holding) -> bool {
        match what {
            Holding::Buffers => self.holds_buffers,
            Holding::Documents => self.holds_documents,
        }
    }
}

fn end(slot: &Slot) {
    let how = match slot.waiting {
        Waiting::Read | Waiting::Idle => Shutdown::Read,
        Waiting::Write => Shutdown::Both,
    };
    // SAFETY: a slot exists only while its `Watch` does, and that is dropped
    // before the socket is closed (fields of `Socket`, in this order), on this
    // very thread. So the number still names that socket.
    let socket = unsafe { BorrowedFd::borrow_raw(slot.fd) };
    // The only likely failure is ENOTCONN: the peer was faster.
    if let Err(error) = rustix::net::shutdown(socket, how) {
        tracing::trace!(%error, "shutdown of an overdue connection");
    }
}

/// Lends the descriptor of a stream for the time of a call.
pub(crate) fn with_borrowed<T>(stream: &impl AsRawFd, act: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: the stream is borrowed for as long as the descriptor is, so it is
    // open and its own.
    act(unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) })
}

/// One watched socket.
#[derive(Debug)]
pub(crate) struct Watch {
    watchdog: Rc<Watchdog>,
    index: usize,
}

impl Watch {
    pub(crate) fn watchdog(&self) -> &Rc<Watchdog> {
        &self.watchdog
    }

    /// For [`Watchdog::cut`], as long as this lives.
    pub(crate) fn number(&self) -> usize {
        self.index
    }

    /// From now on the socket is shut at a point in time of [`Watchdog::now_ms`].
    pub(crate) fn arm_until(&self, waiting: Waiting, deadline_ms: u64) {
        let now_ms = self.watchdog.now_ms();
        self.with(|slot| {
            slot.deadline_ms = deadline_ms.min(NEVER - 1);
            slot.waiting = waiting;
            slot.since_ms = now_ms;
        });
    }

    /// The connection holds such things from now on.
    pub(crate) fn hold(&self, what: Holding) {
        self.with(|slot| match what {
            Holding::Buffers => slot.holds_buffers = true,
            Holding::Documents => slot.holds_documents = true,
        });
    }

    /// It holds nothing any more.
    pub(crate) fn let_go(&self) {
        self.with(|slot| (slot.holds_buffers, slot.holds_documents) = (false, false));
    }

    /// No deadline any more. `true`: one passed since the socket was registered,
    /// so that end of input and errors are of our own making.
    pub(crate) fn disarm(&self) -> bool {
        self.with(|slot| {
            slot.deadline_ms = NEVER;
            slot.fired
        })
        .unwrap_or(false)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let mut slots = self.watchdog.slots.borrow_mut();
        slots.get_mut(self.index).and_then(Option::as_mut).map(act)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(slot) = self.watchdog.slots.borrow_mut().get_mut(self.index) {
            *slot = None;
        }
        self.watchdog.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn an_overdue_read_ends_and_the_answer_still_goes_out() {
        let (mut client, mut server) = pair();
        let watchdog = Watchdog::new();
        let watch = watchdog.register(server.as_raw_fd());
        watch.arm_until(Waiting::Read, 0);
        watchdog.tick();
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
        assert!(watch.disarm());
        server.write_all(b"late").unwrap();
        drop(watch);
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "late");
    }

    #[test]
    fn a_dropped_watch_leaves_the_number_alone() {
        let (_client, server) = pair();
        let watchdog = Watchdog::new();
        let watch = watchdog.register(server.as_raw_fd());
        watch.arm_until(Waiting::Write, 0);
        drop(watch);
        watchdog.tick();
        server.set_nonblocking(true).unwrap();
        let error = (&server).read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn slots_are_reused_and_keep_apart() {
        let (_c1, s1) = pair();
        let (_c2, s2) = pair();
        let watchdog = Watchdog::new();
        let first = watchdog.register(s1.as_raw_fd());
        drop(first);
        let second = watchdog.register(s2.as_raw_fd());
        assert_eq!(watchdog.slots.borrow().len(), 1);
        assert!(!second.disarm());
    }

    #[test]
    fn the_longest_stalled_holder_is_shed_first() {
        let (pairs, watchdog) = ([pair(), pair(), pair(), pair()], Watchdog::new());
        let watches = pairs
            .each_ref()
            .map(|(_, s)| watchdog.register(s.as_raw_fd()));
        let [late, early, fresh, bare] = &watches;
        for (watch, since_ms) in [(late, 200), (early, 100), (fresh, 950), (bare, 0)] {
            watchdog.now_ms.set(since_ms);
            if since_ms > 0 {
                watch.hold(Holding::Buffers);
            }
            watch.arm_until(Waiting::Write, 60_000);
        }
        watchdog.now_ms.set(1_000);
        assert_eq!(
            watchdog.shed(Holding::Documents, 9, 500),
            0,
            "none has some"
        );
        assert_eq!(watchdog.shed(Holding::Buffers, 1, 500), 1);
        assert!(early.disarm() && !late.disarm(), "the slowest first");
        late.arm_until(Waiting::Write, 60_000);
        assert_eq!(
            watchdog.shed(Holding::Buffers, 9, 500),
            0,
            "it went on meanwhile"
        );
        watchdog.now_ms.set(1_500);
        fresh.hold(Holding::Documents);
        assert_eq!(watchdog.shed(Holding::Documents, 9, 500), 1);
        assert_eq!(watchdog.shed(Holding::Buffers, 9, 500), 1);
        assert!(late.disarm() && fresh.disarm() && !bare.disarm());
    }

    #[test]
    fn stopping_ends_idle_ones_only() {
        let (_c1, s1) = pair();
        let (_c2, s2) = pair();
        let watchdog = Watchdog::new();
        let idle = watchdog.register(s1.as_raw_fd());
        let busy = watchdog.register(s2.as_raw_fd());
        idle.arm_until(Waiting::Idle, 60_000);
        busy.arm_until(Waiting::Read, 60_000);
        watchdog.stop();
        assert!(idle.disarm());
        assert!(!busy.disarm());
    }
}
