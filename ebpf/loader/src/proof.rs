//! Whether answers from socket to socket arrive on this kernel, tried once before any is
//! sent so: all bytes, in order, in time, and counted while they wait.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Bypass, QUEUED_MAX, Shortcut, Unavailable};

/// Bytes of the large answer.
const LARGE: usize = 64 << 20;
/// Bytes sent before the client reads any: it has to be told how many there are.
const UNREAD: usize = 1 << 20;
/// All has to be there by then; it takes a tenth of a second.
const LIMIT: Duration = Duration::from_secs(20);
/// Of what is sent again and again; not a multiple of any size of buffer.
const PATTERN: usize = 1_000_003;
/// How long a sender sleeps while its client reads.
const PAUSE: Duration = Duration::from_micros(200);

impl Bypass {
    /// Sends a large answer from this process to itself, by way of `address`, which is one
    /// of those that were told to [`Self::attach`].
    ///
    /// # Errors
    /// Something was not as it should: then no connection is to be taken.
    pub fn prove(self: &Arc<Self>, address: IpAddr) -> Result<(), Unavailable> {
        let proved = self.try_prove(address);
        self.set_test_port(0);
        proved.map_err(Unavailable::refused("the test of bypass"))
    }

    fn try_prove(self: &Arc<Self>, address: IpAddr) -> io::Result<()> {
        let until = Instant::now() + LIMIT;
        let listener = TcpListener::bind((address, 0))?;
        let own = listener.local_addr()?;
        self.set_test_port(own.port());
        let client = TcpStream::connect_timeout(&own, LIMIT)?;
        let (mut server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
        }
        let shortcut = self.take(&server)?;
        let shortcut =
            shortcut.ok_or_else(|| wrong("a connection of this process was not seen"))?;
        let pattern: Vec<u8> = (0..PATTERN as u32)
            .map(|at| (at.wrapping_mul(at) >> 7) as u8)
            .collect();
        send(&mut server, &pattern, 0..UNREAD)?;
        if shortcut.queued()? != Some(UNREAD as u32) {
            return Err(wrong("bytes that wait to be read are not counted"));
        }
        thread::scope(|scope| {
            let received = scope.spawn(|| receive(client, &pattern));
            let sent = send_all(server, &shortcut, &pattern, until);
            let received = received.join();
            // If both failed, because the receiver did.
            received.unwrap_or_else(|_| Err(wrong("a thread ended")))?;
            sent
        })
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::other(what)
}

/// A part of the endless repetition of the pattern.
fn send(server: &mut TcpStream, pattern: &[u8], part: std::ops::Range<usize>) -> io::Result<()> {
    let mut at = part.start;
    while at < part.end {
        let from = at % pattern.len();
        let length = (pattern.len() - from).min(part.end - at);
        server.write_all(&pattern[from..from + length])?;
        at += length;
    }
    Ok(())
}

/// What is left, at the client's pace; then all is over.
fn send_all(
    mut server: TcpStream,
    shortcut: &Shortcut,
    pattern: &[u8],
    until: Instant,
) -> io::Result<()> {
    for at in (UNREAD..LARGE).step_by(UNREAD) {
        while shortcut.queued()?.is_some_and(|bytes| bytes > QUEUED_MAX) {
            if Instant::now() > until {
                return Err(wrong("bytes stay where they are"));
            }
            thread::sleep(PAUSE);
        }
        send(&mut server, pattern, at..at + UNREAD)?;
    }
    Ok(())
}

/// All of it and not a byte more.
fn receive(mut client: TcpStream, pattern: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; UNREAD];
    let mut at = 0;
    loop {
        let count = match client.read(&mut buffer) {
            Ok(0) if at == LARGE => return Ok(()),
            Ok(0) => return Err(wrong("an answer was cut off")),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let from = at % pattern.len();
            let length = (pattern.len() - from).min(rest.len());
            if rest[..length] != pattern[from..from + length] {
                return Err(wrong("wrong bytes arrived"));
            }
            rest = &rest[length..];
            at += length;
        }
    }
}
