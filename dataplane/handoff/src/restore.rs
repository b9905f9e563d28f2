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
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{Frozen, freeze, probe};

    #[test]
    fn segments_are_as_large_as_they_were() {
        if let Err(why) = probe() {
            eprintln!("SKIPPED: {why}");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let before = repair::segment(&server).unwrap();
        let state = freeze(server.into(), b"").map(|frozen| {
            let state = frozen.state().clone();
            Frozen::release(frozen);
            state
        });
        let restored = restore(&state.unwrap()).unwrap();
        let after = repair::segment(&restored).unwrap();
        // Those of a loopback are larger than the kernel lets anybody ask for.
        assert!(
            before > 10_000 && after > before / 10 * 9,
            "{before} became {after}"
        );
    }
}
