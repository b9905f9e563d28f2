//! Whether a host's kernel still has a connection: asked about one at a time (sock_diag(7)).
//! Its tables are not read: who reads one goes on by position, and misses what stands behind a
//! connection that ends meanwhile.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// The kernel answers before the call that asks returns.
const PATIENCE: Duration = Duration::from_secs(1);

/// `NLM_F_REQUEST` and `NLMSG_ERROR` of linux/netlink.h, `SOCK_DIAG_BY_FAMILY` of
/// linux/sock_diag.h, `INET_DIAG_NOCOOKIE` of linux/inet_diag.h.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
const BY_FAMILY: u16 = 20;
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// `struct nlmsghdr`, with `struct inet_diag_req_v2` behind it.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// Where an answer (`struct inet_diag_msg`) has its state and its ends.
const STATE_AT: usize = HEADER_BYTES + 1;
const ENDS_AT: usize = HEADER_BYTES + 4;
/// More than an answer without attributes has.
const ANSWER_BYTES: usize = 1024;

/// States of net/tcp_states.h in which a connection has ended (TIME_WAIT, CLOSE) or is none yet
/// (SYN_RECV, LISTEN, NEW_SYN_RECV).
const LISTEN: u8 = 0x0a;
/// That in which a client has acknowledged all, our end included, and may end its side.
const FIN_WAIT2: u8 = 0x05;
const NO_CONNECTION: [u8; 5] = [0x06, 0x07, 0x03, LISTEN, 0x0c];

/// Asks the kernel about TCP sockets of the network namespace it was opened in. Needs no
/// capability.
#[derive(Debug)]
pub struct SocketDiag {
    socket: OwnedFd,
    sequence: u32,
    /// A socket that there is: a kernel that cannot tell (its module `tcp_diag` is not there)
    /// says of each that there is none.
    witness: TcpListener,
}

/// The socket that the kernel found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    state: u8,
    local: SocketAddr,
    remote: SocketAddr,
}

impl SocketDiag {
    /// For a few questions: it listens on a port of the loopback as long as it lives.
    ///
    /// # Errors
    /// The kernel does not tell of sockets.
    pub fn open() -> io::Result<Self> {
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, kind, flags, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        let mut diag = SocketDiag {
            socket,
            sequence: 0,
            witness: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
        };
        diag.check()?;
        Ok(diag)
    }

    /// The same as [`Self::has`], without connections whose client alone may still speak: it has
    /// all that it was sent, and knows that no more comes.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn owes(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
        let state = self.state(local, remote)?;
        Ok(state.is_some_and(|state| state != FIN_WAIT2))
    }

    /// Whether a connection has not ended: also one that no process has any more, while the
    /// kernel has something left to say. IPv4 addresses are such, whatever the socket. That
    /// there is none holds only if [`Self::check`] succeeds afterwards.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn has(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
        Ok(self.state(local, remote)?.is_some())
    }

    /// Of a connection that has not ended.
    fn state(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u8>> {
        // Where there is no connection the kernel looks for a listener.
        let found = self.find(local, remote)?.filter(|found| {
            (found.local, found.remote) == (local, remote) && !NO_CONNECTION.contains(&found.state)
        });
        Ok(found.map(|found| found.state))
    }

    /// Whether the kernel tells of sockets that there are.
    ///
    /// # Errors
    /// It does not: what it said of others means nothing.
    pub fn check(&mut self) -> io::Result<()> {
        let own = self.witness.local_addr()?;
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        match self.find(own, nobody)? {
            Some(found) if found.state == LISTEN && found.local == own => Ok(()),
            _ => Err(io::Error::other(
                "the kernel does not tell of sockets (is its module tcp_diag there?)",
            )),
        }
    }

    fn find(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Found>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence, local, remote)?;
        send(&self.socket, &request, SendFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES];
        let (count, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
        read(&answer[..count.min(ANSWER_BYTES)], self.sequence)
    }
}

/// What asks for one socket: in the byte order of this machine, but for ports and addresses.
fn request(sequence: u32, local: SocketAddr, remote: SocketAddr) -> io::Result<Vec<u8>> {
    let family = match (local.ip(), remote.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => libc::AF_INET as u8,
        (IpAddr::V6(_), IpAddr::V6(_)) => libc::AF_INET6 as u8,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let (any_state, any_device) = (u32::MAX.to_ne_bytes(), [0; 4]);
    let request = [
        &(REQUEST_BYTES as u32).to_ne_bytes()[..],
        &BY_FAMILY.to_ne_bytes(),
        &REQUEST.to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &[0; 4],
        &[family, libc::IPPROTO_TCP as u8, 0, 0],
        &any_state,
        &local.port().to_be_bytes(),
        &remote.port().to_be_bytes(),
        &octets(local.ip()),
        &octets(remote.ip()),
        &any_device,
        &NO_COOKIE,
    ];
    Ok(request.concat())
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The kernel's answer to the question of that number; `None`: there is no such socket.
fn read(answer: &[u8], sequence: u32) -> io::Result<Option<Found>> {
    let strange = || io::Error::other("the kernel's answer about a socket is no answer");
    let word = |at: usize| Some(u32::from_ne_bytes(*answer.get(at..)?.first_chunk()?));
    let kind = answer.get(4..6).map(|kind| [kind[0], kind[1]]);
    if word(8) != Some(sequence) {
        return Err(strange());
    }
    match kind.map(u16::from_ne_bytes) {
        Some(ERROR) => {
            let code = word(HEADER_BYTES).ok_or_else(strange)?.cast_signed();
            match code.wrapping_neg() {
                libc::ENOENT => Ok(None),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        }
        Some(BY_FAMILY) => found(answer).map(Some).ok_or_else(strange),
        _ => Err(strange()),
    }
}

fn found(answer: &[u8]) -> Option<Found> {
    let family = i32::from(*answer.get(HEADER_BYTES)?);
    let ends: &[u8; 36] = answer.get(ENDS_AT..)?.first_chunk()?;
    let end = |port: usize, address: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(*ends.get(port..)?.first_chunk()?);
        let ip = match family {
            libc::AF_INET => Ipv4Addr::from(*ends.get(address..)?.first_chunk::<4>()?).into(),
            libc::AF_INET6 => {
                Ipv6Addr::from(*ends.get(address..)?.first_chunk::<16>()?).to_canonical()
            }
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    Some(Found {
        state: *answer.get(STATE_AT)?,
        local: end(0, 4)?,
        remote: end(2, 20)?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    /// Local and remote end of a client's connection as its server has them.
    fn ends(client: &TcpStream) -> (SocketAddr, SocketAddr) {
        (client.peer_addr().unwrap(), client.local_addr().unwrap())
    }

    fn has(diag: &mut SocketDiag, (local, remote): (SocketAddr, SocketAddr)) -> bool {
        let found = diag.has(local, remote).unwrap();
        diag.check().unwrap();
        found
    }

    /// The listener and all that is told of a connection's server.
    fn connected(listen: &str, to: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(format!("{listen}:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(format!("{to}:{port}")).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    }

    fn until(mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
    }

    const HOSTS: [(&str, &str); 3] = [
        ("127.0.0.1", "127.0.0.1"),
        ("[::]", "127.0.0.1"),
        ("[::1]", "[::1]"),
    ];

    #[test]
    fn a_connection_is_there_until_both_sides_have_ended() {
        let mut diag = SocketDiag::open().unwrap();
        for (listen, to) in HOSTS {
            let (listener, client, server) = connected(listen, to);
            let ends = ends(&client);
            assert!(has(&mut diag, ends), "{listen}");
            let (local, mut stranger) = ends;
            stranger.set_port(1);
            assert!(!has(&mut diag, (local, stranger)), "the listener is none");
            drop(client);
            // The kernel is not done: the server has not ended its side.
            assert!(has(&mut diag, ends), "{listen}");
            drop(server);
            until(|| !has(&mut diag, ends));
            drop(listener);
            assert!(!has(&mut diag, ends), "{listen}");
        }
    }

    #[test]
    fn a_connection_that_waits_for_late_packets_alone_has_ended() {
        let mut diag = SocketDiag::open().unwrap();
        for (listen, to) in HOSTS {
            let (_listener, client, server) = connected(listen, to);
            let (local, remote) = ends(&client);
            drop(server);
            assert!(has(&mut diag, (local, remote)), "its client may speak");
            drop(client);
            until(|| !has(&mut diag, (local, remote)));
            let found = diag.find(local, remote).unwrap().unwrap();
            assert_eq!((found.state, found.remote), (0x06, remote), "TIME_WAIT");
        }
    }

    #[test]
    fn a_client_that_has_all_it_was_sent_is_owed_nothing() {
        let mut diag = SocketDiag::open().unwrap();
        for (listen, to) in HOSTS {
            let (_listener, mut client, mut server) = connected(listen, to);
            let (local, remote) = ends(&client);
            assert!(diag.owes(local, remote).unwrap(), "nobody has ended it");
            // More than the client has room for.
            server.set_nonblocking(true).unwrap();
            while server.write(&[0; 1 << 16]).is_ok() {}
            drop(server);
            assert!(diag.owes(local, remote).unwrap(), "bytes wait for it");
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).unwrap();
            until(|| !diag.owes(local, remote).unwrap());
            assert!(has(&mut diag, (local, remote)), "its client may speak");
        }
    }

    #[test]
    fn no_connection_is_missed_while_others_end() {
        let (listener, client, _server) = connected("127.0.0.1", "127.0.0.1");
        let address = listener.local_addr().unwrap();
        let others = std::thread::spawn(move || {
            for _ in 0..1000 {
                drop(TcpStream::connect(address).unwrap());
                drop(listener.accept().unwrap());
            }
        });
        let mut diag = SocketDiag::open().unwrap();
        while !others.is_finished() {
            assert!(has(&mut diag, ends(&client)));
        }
        others.join().unwrap();
    }

    #[test]
    fn what_is_no_answer_says_nothing() {
        let answer = |kind: u16, sequence: u32, rest: &[u8]| {
            let mut answer = [0; 16].to_vec();
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[8..12].copy_from_slice(&sequence.to_ne_bytes());
            answer.extend(rest);
            answer
        };
        let error = |code: i32| answer(ERROR, 7, &(-code).to_ne_bytes());
        assert_eq!(read(&error(libc::ENOENT), 7).unwrap(), None);
        let refused = read(&error(libc::EPERM), 7).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        for strange in [
            Vec::new(),
            error(libc::ENOENT)[..18].to_vec(),
            answer(ERROR, 6, &(-libc::ENOENT).to_ne_bytes()),
            answer(BY_FAMILY, 7, &[libc::AF_INET as u8; 39]),
            answer(BY_FAMILY, 7, &[libc::AF_UNIX as u8; 40]),
            answer(3, 7, &[0; 40]),
        ] {
            assert!(read(&strange, 7).is_err(), "{strange:?}");
        }
    }

    #[test]
    fn ends_of_two_families_are_no_connection() {
        let (four, six) = (
            "10.0.0.1:1".parse().unwrap(),
            "[fd00::1]:1".parse().unwrap(),
        );
        let mut diag = SocketDiag::open().unwrap();
        assert!(diag.has(four, six).is_err());
    }
}
