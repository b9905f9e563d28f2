//! A connection and the request that uses it.

use std::io;

use crate::client::connection::Connection;
use crate::client::job::Job;
use crate::client::poll::Poll;

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) connection: Connection,
    pub(super) job: Option<Job>,
    /// The latency counts from then.
    pub(super) from_ns: u64,
    pub(super) deadline_ns: u64,
    /// The call was sent a second time.
    pub(super) retried: bool,
    /// The write under way: the object's index and its new version.
    pub(super) writes: Option<(u64, u32)>,
    /// The request only cleans up after a failed one.
    pub(super) uncounted: bool,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            connection: Connection::new(),
            job: None,
            from_ns: 0,
            deadline_ns: 0,
            retried: false,
            writes: None,
            uncounted: false,
        }
    }
}

impl Connection {
    /// Waits for writable while a send is blocked.
    pub(super) fn listen(&mut self, poll: &Poll, token: usize, blocked: bool) -> io::Result<()> {
        if self.blocked == blocked {
            return Ok(());
        }
        self.blocked = blocked;
        match &self.socket {
            Some(socket) => poll.modify(socket, token, blocked),
            None => Ok(()),
        }
    }
}
