//! Which connections a host's kernel has.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Of IPv4 and IPv6 sockets of the calling thread's network namespace.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
/// States of `net/tcp_states.h` in which a connection has ended (TIME_WAIT, CLOSE) or is none yet
/// (SYN_RECV, LISTEN, NEW_SYN_RECV).
const NO_CONNECTION: [u8; 5] = [0x06, 0x07, 0x03, 0x0a, 0x0c];

/// Local and remote end of all connections of this host to `port` that have not ended: also
/// those that no process has any more, while the kernel has something left to say. IPv4
/// addresses are such, whatever the socket. One that begins or ends meanwhile may be there.
///
/// # Errors
/// The kernel does not tell.
pub fn connections(port: u16) -> io::Result<HashSet<(SocketAddr, SocketAddr)>> {
    let mut found = HashSet::new();
    for path in TABLES {
        let table = match File::open(path) {
            // A host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for line in BufReader::new(table).lines().skip(1) {
            let line = line?;
            let (local, remote, state) = connection(&line)
                .ok_or_else(|| io::Error::other(format!("{path} has a line \"{line}\"")))?;
            if local.port() == port && !NO_CONNECTION.contains(&state) {
                found.insert((local, remote));
            }
        }
    }
    Ok(found)
}

/// Ends and state of a line of these tables.
fn connection(line: &str) -> Option<(SocketAddr, SocketAddr, u8)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (end(words.next()?)?, end(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    Some((local, remote, state))
}

/// An address as words of this machine, and a port as a number, all hexadecimal.
fn end(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    if address.len() == 8 {
        return Some(SocketAddr::new(Ipv4Addr::from(word(0)?).into(), port));
    }
    let mut octets = [0; 16];
    for (at, four) in octets.chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&word(at)?);
    }
    let address = Ipv6Addr::from(octets).to_canonical();
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_are_there_until_they_have_ended() {
        for (listen, to) in [
            ("127.0.0.1", "127.0.0.1"),
            ("[::]", "127.0.0.1"),
            ("[::1]", "[::1]"),
        ] {
            let listener = TcpListener::bind(format!("{listen}:0")).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(connections(port).unwrap().is_empty(), "a listener is none");
            let client = TcpStream::connect(format!("{to}:{port}")).unwrap();
            let (server, _) = listener.accept().unwrap();
            let ends = (client.peer_addr().unwrap(), client.local_addr().unwrap());
            assert!(connections(port).unwrap().contains(&ends), "{listen}");
            drop(client);
            // The kernel is not done: the server has not ended its side.
            assert!(connections(port).unwrap().contains(&ends), "{listen}");
            drop(server);
            while connections(port).unwrap().contains(&ends) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_is_no_line_is_not_taken_for_one() {
        for line in [
            "",
            "0: 0100007F:2328",
            "0: 0100007F:2328 0100007F:Z 01",
            "0: 01:1 02:2 01",
        ] {
            assert_eq!(connection(line), None, "{line}");
        }
    }
}
