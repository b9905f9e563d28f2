//! A transaction in the test server: a connection of its own, kept for the next when
//! it ends.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::wire::{Question, Reply, receive, send};

/// Most connections kept.
const IDLE_MAX: usize = 64;
/// Longest wait for the server.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// No such server: what a client with a timeout ends with.
const TRANSACTION_TIMED_OUT: i32 = 1031;
/// It went away during a commit.
const COMMIT_UNKNOWN_RESULT: i32 = 1021;

/// The connections to one server.
pub(crate) struct Connections {
    server: SocketAddr,
    idle: Mutex<Vec<TcpStream>>,
}

impl Connections {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self {
            server,
            idle: Mutex::default(),
        }
    }

    fn take(&self) -> std::io::Result<TcpStream> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(idle) = idle {
            return Ok(idle);
        }
        let stream = TcpStream::connect_timeout(&self.server, ANSWER_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        Ok(stream)
    }

    fn put_back(&self, stream: TcpStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
    }

    /// After one connection broke, all others are of a server that is gone.
    fn forget(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A transaction of the server. It begins with its first question.
pub(crate) struct Remote {
    connections: Arc<Connections>,
    stream: Option<TcpStream>,
    broken: bool,
}

impl Remote {
    pub(crate) fn begin(connections: Arc<Connections>) -> Self {
        Self {
            connections,
            stream: None,
            broken: false,
        }
    }

    pub(crate) fn ask(&mut self, question: &Question) -> Reply {
        let is_new = self.stream.is_none();
        let failed = match question {
            Question::Commit if !is_new => COMMIT_UNKNOWN_RESULT,
            _ => TRANSACTION_TIMED_OUT,
        };
        if self.broken {
            return Reply::Failed(TRANSACTION_TIMED_OUT);
        }
        let asked = self.ask_twice_when_new(question, is_new);
        asked.unwrap_or_else(|_| {
            self.broken = true;
            self.stream = None;
            self.connections.forget();
            Reply::Failed(failed)
        })
    }

    /// An idle connection may be to a server that has ended since.
    fn ask_twice_when_new(&mut self, question: &Question, is_new: bool) -> std::io::Result<Reply> {
        if is_new {
            let mut stream = self.connections.take()?;
            if exchange(&mut stream, &Question::Begin).is_err() {
                self.connections.forget();
                stream = self.connections.take()?;
                exchange(&mut stream, &Question::Begin)?;
            }
            self.stream = Some(stream);
        }
        match &mut self.stream {
            Some(stream) => exchange(stream, question),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.connections.put_back(stream);
        }
    }
}

fn exchange(stream: &mut TcpStream, question: &Question) -> std::io::Result<Reply> {
    send(stream, &question.encode())?;
    Reply::decode(&receive(stream)?)
}
