//! Listening sockets, one per shard on the same address. Absent: accepting.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Connections the kernel queues per listener (cut to `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

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

/// Listens on `address`, with any free port if its port is 0.
///
/// # Errors
/// The address is in use (also by another process that shares it by
/// SO_REUSEPORT), is not ours, or the port needs privileges.
pub fn bind(address: SocketAddr, shards: usize) -> Result<Listeners, BindError> {
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

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

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
        let second = bind(first.address, 1);
        assert!(matches!(second, Err(BindError::InUse { address }) if address == first.address));
        drop(first);
    }

    #[test]
    fn accepted_sockets_do_not_delay() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _client = TcpStream::connect(listeners.address).unwrap();
        let (accepted, _) = listeners.sockets[0].accept().unwrap();
        assert!(accepted.nodelay().unwrap());
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
