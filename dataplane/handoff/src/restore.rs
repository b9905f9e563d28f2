//! Continuing a connection: a socket that is connected without a packet.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

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

/// Continues a connection by a new, blocking socket without delays (TCP_NODELAY).
/// [`State::unread`] is not in its queue: it is the caller's to answer. The client's
/// packets should be kept away until this returns.
///
/// A new socket begins with the congestion window of a new connection: the route's
/// `initcwnd` is what helps.
///
/// # Errors
/// There is no such connection here.
pub fn restore(state: &State) -> Result<OwnedFd, RestoreError> {
    state.check()?;
    let family = match state.local {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(kernel("a socket"))?;
    repair::set_mode(&socket, Mode::On).map_err(kernel("repair mode"))?;
    let numbers = [
        (Queue::Send, state.send_sequence),
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
    repair::propose_segment(&socket, state.segment).map_err(kernel("segments"))?;
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
    sockopt::set_tcp_nodelay(&socket, true).map_err(kernel("TCP_NODELAY"))?;
    repair::set_mode(&socket, Mode::OffInSilence).map_err(kernel("leaving repair mode"))?;
    // As sockets have that were accepted; leaving repair mode took it away.
    sockopt::set_socket_reuseaddr(&socket, true).map_err(kernel("SO_REUSEADDR"))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{freeze, is_at_rest, probe};

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
        restore(&state).unwrap()
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
        until(|| repair::progress(&server).unwrap().1 == 6);
        // What is sent again may have been acknowledged late, and the kernel counts for all.
        let (sent, _) = repair::progress(&server).unwrap();
        assert!(sent == 6 || dropped_as_older() == before, "{sent} bytes");
    }
}
