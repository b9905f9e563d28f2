//! Listening sockets, one per shard on the same address, and what suits the sockets
//! accepted from them. Absent: accepting.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Connections the kernel queues per listener (cut to `net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// How long [`bind`] waits for an address that is in use. A process that was killed may
/// be gone before its ring is: the kernel ends rings in its own time, and until then
/// they hold the listeners they accepted from.
const IN_USE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at such an address.
const IN_USE_PAUSE: Duration = Duration::from_millis(20);
/// The congestion control of connections that never leave this host. Every Linux
/// has it, and any user may choose it.
const SAME_HOST_CONGESTION: &str = "reno";

/// Why the address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket has the address.
    #[error("{address} is in use by another process")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// `shards` listeners that share one address by SO_REUSEPORT; the kernel spreads
/// connections over them.
#[derive(Debug)]
pub struct Listeners {
    /// The address, with the port the kernel chose if 0 was asked for.
    pub address: SocketAddr,
    /// One per shard, blocking, with TCP_NODELAY for what is accepted from it.
    pub sockets: Vec<TcpListener>,
}

/// Listens on `address`, with any free port if its port is 0. Blocks while the address
/// is in use, for five seconds at most.
///
/// # Errors
/// The address stays in use (also by another process that shares it by
/// SO_REUSEPORT), is not ours, or the port needs privileges.
pub fn bind(address: SocketAddr, shards: usize) -> Result<Listeners, BindError> {
    bind_within(address, shards, IN_USE_PATIENCE)
}

fn bind_within(
    address: SocketAddr,
    shards: usize,
    patience: Duration,
) -> Result<Listeners, BindError> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let bound = bind_now(address, shards);
        let in_use = matches!(bound, Err(BindError::InUse { .. }));
        if !in_use || begun.elapsed() >= patience {
            return bound;
        }
        if !told {
            tracing::info!(%address, ?patience, "the address is in use: waits for it");
            told = true;
        }
        thread::sleep(IN_USE_PAUSE);
    }
}

fn bind_now(address: SocketAddr, shards: usize) -> Result<Listeners, BindError> {
    let name = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Io { address, source },
    };
    if address.port() != 0 {
        // SO_REUSEPORT alone would silently share the port with another process.
        drop(listen(address, false).map_err(name)?);
    }
    let first = listen(address, true).map_err(name)?;
    let chosen = first.local_addr().map_err(name)?;
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(listen(chosen, true).map_err(name)?);
    }
    Ok(Listeners {
        address: chosen,
        sockets,
    })
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    // Accepted sockets inherit it: Linux clones the listener's socket.
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    if shared {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(TcpListener::from(socket))
}

/// Suits an accepted socket to where its client is. One that never leaves this host
/// cannot meet congestion: a congestion control that paces its packets by timers, as
/// BBR does, only costs it CPU (measured: twice the CPU per byte).
///
/// # Errors
/// The kernel refuses; the connection is as good as before.
pub(crate) fn suit(socket: impl AsFd, peer: SocketAddr) -> io::Result<()> {
    if is_same_host(&socket, peer)? {
        sockopt::set_tcp_congestion(socket, SAME_HOST_CONGESTION)?;
    }
    Ok(())
}

fn is_same_host(socket: impl AsFd, peer: SocketAddr) -> io::Result<bool> {
    let peer = peer.ip().to_canonical();
    if peer.is_loopback() {
        return Ok(true);
    }
    let own = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    Ok(own.ip().to_canonical() == peer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn all_shards_share_the_port_the_kernel_chose() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(listeners.address.port(), 0);
        assert_eq!(listeners.sockets.len(), 3);
        for socket in &listeners.sockets {
            assert_eq!(socket.local_addr().unwrap(), listeners.address);
        }
    }

    #[test]
    fn a_port_in_use_is_refused_even_if_it_is_shared() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let patience = Duration::from_millis(200);
        let begun = Instant::now();
        let second = bind_within(first.address, 1, patience);
        assert!(matches!(second, Err(BindError::InUse { address }) if address == first.address));
        assert!(begun.elapsed() >= patience);
        drop(first);
    }

    #[test]
    fn a_port_that_is_let_go_of_is_waited_for() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = first.address;
        let (begins, has_begun) = mpsc::channel();
        let second = thread::spawn(move || {
            begins.send(()).unwrap();
            bind_within(address, 2, Duration::from_secs(60))
        });
        has_begun.recv().unwrap();
        // Most often it has met the address in use by then; it gets it in any case.
        thread::sleep(Duration::from_millis(300));
        drop(first);
        assert_eq!(second.join().unwrap().unwrap().address, address);
    }

    #[test]
    fn an_address_of_others_is_refused_at_once() {
        let patience = Duration::from_secs(3600);
        let refused = bind_within("192.0.2.1:9".parse().unwrap(), 1, patience);
        assert!(matches!(refused, Err(BindError::Io { .. })), "{refused:?}");
    }

    #[test]
    fn accepted_sockets_do_not_delay() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _client = TcpStream::connect(listeners.address).unwrap();
        let (accepted, _) = listeners.sockets[0].accept().unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn clients_of_this_host_are_not_paced() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _client = TcpStream::connect(listeners.address).unwrap();
        let (accepted, peer) = listeners.sockets[0].accept().unwrap();
        let usual = sockopt::tcp_congestion(&accepted).unwrap();
        suit(&accepted, "192.0.2.1:1".parse().unwrap()).unwrap();
        assert_eq!(sockopt::tcp_congestion(&accepted).unwrap(), usual);
        // The client's address is our own address too, loopback or not.
        assert_eq!(peer.ip(), accepted.local_addr().unwrap().ip());
        suit(&accepted, peer).unwrap();
        assert_eq!(sockopt::tcp_congestion(&accepted).unwrap(), "reno");
    }

    #[test]
    fn a_port_is_free_again_at_once() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let client = TcpStream::connect(first.address).unwrap();
        let address = first.address;
        drop(first);
        drop(client);
        assert_eq!(bind(address, 2).unwrap().address, address);
    }
}
