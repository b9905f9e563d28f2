//! Continuing a connection: a socket that is connected without a packet.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::repair::{self, Agreed, Mode, Queue, RepairWindow};
use crate::state::{BadState, State};

/// Why a connection is not continued here. Nothing is left of the try, and the client
/// was told nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No connection can be in this state.
    #[error("{0}")]
    State(#[from] BadState),
    /// The address the client connected to is none of this host.
    #[error("{0} is no address of this host")]
    NotHere(SocketAddr),
    /// This host has a connection between these ends.
    #[error("a connection of the same ends is here")]
    Exists,
    /// The kernel refuses, for one for want of CAP_NET_ADMIN.
    #[error("{what}: {error}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The kernel's words.
        error: io::Error,
    },
}

fn kernel<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> RestoreError {
    move |error| RestoreError::Kernel {
        what,
        error: error.into(),
    }
}

/// An old byte, sent once more. What it is does not matter: whoever has it already drops it
/// and acknowledges at once what it has (RFC 9293 §3.10.7.4, as with RFC 1122 §4.2.3.6).
const OLD_BYTE: [u8; 1] = [0];

/// A connection that continues here and has said nothing yet. Dropping it lets go of it in
/// silence.
#[derive(Debug)]
pub struct Restored {
    /// Gone only while it is being dropped.
    socket: Option<OwnedFd>,
}

/// Continues a connection by a new, blocking socket. [`State::unread`] is not in its queue: it
/// is the caller's to answer. The client's packets should be kept away until this returns.
///
/// A new socket knows nothing of the way to the client: it begins with the congestion window of
/// a new connection (the route's `initcwnd` is what helps), and waits for seconds before it sends
/// a first flight again. So its first byte is the last one that the client has acknowledged: what
/// comes back is the round-trip time.
///
/// # Errors
/// There is no such connection here.
pub fn restore(state: &State) -> Result<Restored, RestoreError> {
    state.check()?;
    let family = match state.local {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(kernel("a socket"))?;
    repair::set_mode(&socket, Mode::On).map_err(kernel("repair mode"))?;
    // A byte that waits for a window would have acknowledgements of it taken for wrong ones.
    let asks = state.window.send > 0;
    let numbers = [
        (
            Queue::Send,
            state.send_sequence.wrapping_sub(u32::from(asks)),
        ),
        (Queue::Receive, state.receive_sequence),
    ];
    for (queue, number) in numbers {
        repair::set_sequence(&socket, queue, number).map_err(kernel("sequence numbers"))?;
    }
    // In repair mode listeners and other connections of the port do not matter.
    rustix::net::bind(&socket, &state.local).map_err(|error| match error {
        rustix::io::Errno::ADDRNOTAVAIL => RestoreError::NotHere(state.local),
        error => kernel("binding")(error),
    })?;
    // The windows come too late for this one. What was agreed is told below, so that segments
    // grow when a larger window comes.
    repair::propose_segment(&socket, state.first_segment()).map_err(kernel("segments"))?;
    // Nor does this send anything.
    rustix::net::connect(&socket, &state.remote).map_err(|error| match error {
        rustix::io::Errno::ADDRNOTAVAIL | rustix::io::Errno::ADDRINUSE => RestoreError::Exists,
        error => kernel("connecting")(error),
    })?;
    let agreed = Agreed {
        established: true,
        timestamps: state.timestamp.is_some(),
        sack: state.sack,
        scales: state.scales,
    };
    repair::agree(&socket, &agreed, state.segment).map_err(kernel("options"))?;
    if let Some(clock) = state.timestamp {
        repair::set_timestamp(&socket, clock).map_err(kernel("timestamps"))?;
    }
    let window = &state.window;
    let window = RepairWindow {
        snd_wl1: window.send_update,
        snd_wnd: window.send,
        max_window: window.send_max,
        rcv_wnd: window.receive,
        rcv_wup: window.receive_update,
    };
    repair::set_window(&socket, &window).map_err(kernel("windows"))?;
    repair::set_mode(&socket, Mode::OffInSilence).map_err(kernel("leaving repair mode"))?;
    let restored = Restored {
        socket: Some(socket),
    };
    restored.prepare(asks)?;
    Ok(restored)
}

impl Restored {
    /// Whatever can fail, while it can still be let go of in silence. A connection that could
    /// not queue its old byte would send the next one in its place.
    fn prepare(&self, asks: bool) -> Result<(), RestoreError> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        // As sockets have that were accepted; leaving repair mode took it away.
        sockopt::set_socket_reuseaddr(socket, true).map_err(kernel("SO_REUSEADDR"))?;
        if asks {
            let later = SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            rustix::net::send(socket, &OLD_BYTE, later).map_err(kernel("a first byte"))?;
        }
        Ok(())
    }

    /// Begins to speak, without delays (TCP_NODELAY). The client's packets should reach this
    /// host and its socket by now: its first one tells how far away it is.
    ///
    /// # Errors
    /// The kernel refuses; the connection is let go of in silence.
    pub fn begin(mut self) -> io::Result<OwnedFd> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // Sends what waits, too.
        sockopt::set_tcp_nodelay(socket, true)?;
        self.socket.take().ok_or(io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        // Closed in repair mode: nothing is sent.
        let silent = repair::set_mode(&socket, Mode::On);
        // Fails only without the right that made it.
        debug_assert!(silent.is_ok(), "{silent:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{Hearing, freeze, hearing, is_at_rest, probe};

    /// No test waits longer for anything.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A client and its server; `None` where nothing can be restored.
    fn pair() -> Option<(TcpStream, TcpStream)> {
        if let Err(why) = probe() {
            eprintln!("SKIPPED: {why}");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        Some((client, listener.accept().unwrap().0))
    }

    fn moved(server: TcpStream) -> OwnedFd {
        let frozen = freeze(server.into(), b"").map_err(|(_, why)| why).unwrap();
        let state = frozen.state().clone();
        frozen.release();
        restore(&state).unwrap().begin().unwrap()
    }

    fn until(holds: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
    }

    /// Packets that any socket here dropped since the kernel started, as it counts them.
    fn dropped_as_older() -> u64 {
        let text = std::fs::read_to_string("/proc/net/netstat").unwrap();
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, counts) = (lines.next().unwrap(), lines.next().unwrap());
        let mut both = names.split(' ').zip(counts.split(' '));
        let (_, count) = both.find(|(name, _)| *name == "PAWSEstab").unwrap();
        count.parse().unwrap()
    }

    #[test]
    fn segments_are_as_large_as_they_were() {
        let Some((_client, server)) = pair() else {
            return;
        };
        let before = repair::segment(&server).unwrap();
        let after = repair::segment(moved(server)).unwrap();
        // Those of a loopback are larger than the kernel lets anybody ask for.
        assert!(
            before > 10_000 && after > before / 10 * 9,
            "{before} became {after}"
        );
    }

    /// A client that has room for so many bytes, and its server.
    fn pair_with_room(bytes: usize) -> Option<(TcpStream, TcpStream)> {
        pair()?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&client, bytes).unwrap();
        rustix::net::connect(&client, &listener.local_addr().unwrap()).unwrap();
        Some((client.into(), listener.accept().unwrap().0))
    }

    #[test]
    fn segments_fit_a_tiny_window_as_they_did() {
        for room in [1, 4_000, 40_000] {
            let Some((mut client, mut server)) = pair_with_room(room) else {
                return;
            };
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            server.write_all(b"before").unwrap();
            client.read_exact(&mut [0; 6]).unwrap();
            until(|| is_at_rest(&server).is_ok());
            let before = repair::segment(&server).unwrap();
            let mut server = TcpStream::from(moved(server));
            let after = repair::segment(&server).unwrap();
            assert_eq!(after, before, "with room for {room}");
            server.write_all(b"after").unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
        }
    }

    #[test]
    fn segments_grow_with_the_window() {
        let Some((mut client, server)) = pair() else {
            return;
        };
        let frozen = freeze(server.into(), b"").map_err(|(_, why)| why).unwrap();
        let mut state = frozen.state().clone();
        frozen.release();
        // As if that were all that the client had room for until now.
        (state.window.send, state.window.send_max) = (1_152, 1_152);
        let restored = restore(&state).unwrap();
        let first = repair::segment(restored.socket.as_ref().unwrap()).unwrap();
        assert_eq!(first, 576);
        let mut server = TcpStream::from(restored.begin().unwrap());
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        until(|| repair::segment(&server).unwrap() > 10_000);
    }

    #[test]
    fn it_knows_the_round_trip_time_before_it_answers() {
        let Some((mut client, server)) = pair() else {
            return;
        };
        let mut server = TcpStream::from(moved(server));
        until(|| repair::round_trip(&server).unwrap().0 > 0);
        let (took, timeout) = repair::round_trip(&server).unwrap();
        // A machine that stood still has round trips that are long.
        assert!(
            timeout < 1_000_000 || took > 100_000,
            "{timeout} us, as of a new connection"
        );
        until(|| is_at_rest(&server).is_ok());
        // The old byte is none of the answer.
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"answer");
    }

    #[test]
    fn one_that_may_not_send_yet_asks_nothing_and_goes_on() {
        let Some((mut client, server)) = pair() else {
            return;
        };
        let frozen = freeze(server.into(), b"").map_err(|(_, why)| why).unwrap();
        let mut state = frozen.state().clone();
        frozen.release();
        // As if the client had not read what it was sent.
        state.window.send = 0;
        let mut server = TcpStream::from(restore(&state).unwrap().begin().unwrap());
        assert_eq!(hearing(&server).unwrap(), Hearing::Unasked);
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        until(|| hearing(&server).unwrap() == Hearing::Heard);
    }

    #[test]
    fn one_that_never_begins_is_let_go_of_in_silence() {
        let Some((mut client, server)) = pair() else {
            return;
        };
        let frozen = freeze(server.into(), b"").map_err(|(_, why)| why).unwrap();
        let state = frozen.state().clone();
        frozen.release();
        drop(restore(&state).unwrap());
        // Nothing was said: it can be continued still.
        let mut server = TcpStream::from(restore(&state).unwrap().begin().unwrap());
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }

    #[test]
    fn what_a_slow_connection_sends_next_is_not_older_than_what_it_sent() {
        let Some((mut client, mut server)) = pair() else {
            return;
        };
        // The first ten packets are not paced.
        for _ in 0..10 {
            server.write_all(&[1]).unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        // The next bytes may go 0.5 s later, and acknowledgements are stamped with that time.
        repair::pace(&server, 100_000).unwrap();
        server.write_all(&[1; 50_000]).unwrap();
        client.read_exact(&mut [0; 50_000]).unwrap();
        until(|| is_at_rest(&server).is_ok());
        client.write_all(b"next").unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
        sockopt::set_tcp_quickack(&server, true).unwrap();
        let before = dropped_as_older();
        let mut server = TcpStream::from(moved(server));
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
        // With the old byte.
        until(|| repair::progress(&server).unwrap().1 == 7);
        // What is sent again may have been acknowledged late, and the kernel counts for all.
        let (sent, _) = repair::progress(&server).unwrap();
        assert!(sent == 7 || dropped_as_older() == before, "{sent} bytes");
    }
}
