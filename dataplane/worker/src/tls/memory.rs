//! Memory of a shard's TLS connections: counted, limited, its large buffers kept.
//! Absent: allocation by anybody else's will.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::session::{OVERHEAD_BYTES_MAX, PLAINTEXT_BYTES_MAX};

/// What a connection holds as long as it lives: rustls's keys and state, its read
/// buffer of 4 KiB, a small buffer each way.
const SESSION_BYTES: usize = 16 << 10;
/// What a handshake holds: rustls's state, both directions' messages.
pub(crate) const HANDSHAKE_BYTES: usize = 64 << 10;
/// What rustls holds of content on its way in: a record not yet whole (18 KiB), the
/// content of one and of what came behind it (16 KiB each).
pub(crate) const BUSY_BYTES: usize = 52 << 10;
/// A buffer of a connection that is idle or could not have a large one.
pub(crate) const SMALL_BYTES: usize = 4 << 10;
/// Full records in a large buffer.
const BULK_RECORDS: usize = 8;
/// A large buffer.
pub(crate) const BULK_BYTES: usize = BULK_RECORDS * (PLAINTEXT_BYTES_MAX + OVERHEAD_BYTES_MAX);

/// What TLS may take on one shard.
#[derive(Debug)]
pub struct TlsMemory {
    limit: usize,
    /// How long a connection that receives waits for memory before it is given up.
    patience: Duration,
    used: Cell<usize>,
    /// Large buffers nobody uses; counted as used.
    spare: RefCell<Vec<Box<[u8]>>>,
}

impl TlsMemory {
    /// Allows `limit` bytes. Who finds none is given up at once: clients of S3 come again.
    #[must_use]
    pub fn new(limit: usize) -> Rc<Self> {
        Self::patient(limit, Duration::ZERO)
    }

    /// The same for connections that wait so long for others to have done.
    pub(crate) fn patient(limit: usize, patience: Duration) -> Rc<Self> {
        Rc::new(TlsMemory {
            limit,
            patience,
            used: Cell::new(0),
            spare: RefCell::default(),
        })
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Bytes in use, spare buffers included.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Takes `bytes` until the charge is dropped; `None` when there are none left.
    pub(crate) fn charge(self: &Rc<Self>, bytes: usize) -> Option<Charge> {
        while self.used.get() + bytes > self.limit {
            // Spare buffers go first.
            self.spare.borrow_mut().pop()?;
            self.used.set(self.used.get() - BULK_BYTES);
        }
        self.used.set(self.used.get() + bytes);
        Some(Charge {
            memory: Rc::clone(self),
            bytes,
        })
    }

    /// What a connection needs as long as it lives.
    pub(crate) fn admit(self: &Rc<Self>) -> Option<Charge> {
        self.charge(SESSION_BYTES)
    }

    /// A buffer for sealed bytes: a large one if there is memory, else a small one,
    /// so that nobody waits for anybody.
    pub(crate) fn lend(self: &Rc<Self>) -> Box<[u8]> {
        if let Some(buffer) = self.spare.borrow_mut().pop() {
            return buffer;
        }
        match self.charge(BULK_BYTES) {
            Some(charge) => {
                charge.keep();
                vec![0; BULK_BYTES].into()
            }
            None => vec![0; SMALL_BYTES].into(),
        }
    }

    /// Takes back what was lent.
    pub(crate) fn give_back(&self, buffer: Box<[u8]>) {
        if buffer.len() == BULK_BYTES {
            self.spare.borrow_mut().push(buffer);
        }
    }
}

/// Memory taken.
#[derive(Debug)]
pub(crate) struct Charge {
    memory: Rc<TlsMemory>,
    bytes: usize,
}

impl Charge {
    fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.set(self.memory.used.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_spare_buffers_make_room() {
        let memory = TlsMemory::new(BULK_BYTES + SESSION_BYTES);
        let first = memory.admit();
        assert!(first.is_some());
        let large = memory.lend();
        assert_eq!(large.len(), BULK_BYTES);
        assert_eq!(memory.lend().len(), SMALL_BYTES);
        assert!(memory.admit().is_none());
        memory.give_back(large);
        assert_eq!(memory.used(), BULK_BYTES + SESSION_BYTES);
        let second = memory.admit();
        assert!(second.is_some());
        assert_eq!(memory.used(), 2 * SESSION_BYTES);
        drop((first, second));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn buffers_are_used_again() {
        let memory = TlsMemory::new(4 * BULK_BYTES);
        let buffer = memory.lend();
        let at = buffer.as_ptr();
        memory.give_back(buffer);
        let again = memory.lend();
        assert_eq!(again.as_ptr(), at);
        assert_eq!(memory.used(), BULK_BYTES);
    }
}
