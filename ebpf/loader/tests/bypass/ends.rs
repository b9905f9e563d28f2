//! A worker and its clients.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quickwater_ebpf::{Bypass, Unavailable, cgroup_root};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const MIB: usize = 1 << 20;

/// A listener whose connections are looked at.
pub(crate) struct Worker {
    pub(crate) bypass: Arc<Bypass>,
    listener: TcpListener,
}

/// One at the loopback. `None`: not here.
pub(crate) fn loopback() -> Option<Worker> {
    Worker::at("127.0.0.1")
}

impl Worker {
    /// At an address of the calling thread's namespace.
    pub(crate) fn at(address: &str) -> Option<Self> {
        let Some(root) = cgroup_root() else {
            eprintln!("SKIPPED: no cgroup2 is mounted");
            return None;
        };
        Self::of(address, &root)
    }

    /// With clients of this cgroup alone.
    pub(crate) fn of(address: &str, cgroup: &Path) -> Option<Self> {
        let address: IpAddr = address.parse().unwrap();
        let listener = match TcpListener::bind((address, 0)) {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("SKIPPED: {address}: {error}");
                return None;
            }
        };
        let port = listener.local_addr().unwrap().port();
        match Bypass::attach(port, &[address], cgroup) {
            Ok(bypass) => Some(Worker {
                bypass: Arc::new(bypass),
                listener,
            }),
            Err(why) if std::env::var("QUICKWATER_EBPF_STRICT").is_ok_and(|s| s == "1") => {
                panic!("eBPF is required: {why}")
            }
            Err(why @ (Unavailable::NotBuilt | Unavailable::Refused { .. })) => {
                eprintln!("SKIPPED: {why}");
                None
            }
            Err(why) => panic!("{why}"),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> TcpStream {
        patient(self.listener.accept().unwrap().0)
    }

    /// A client of this namespace and the worker's end.
    pub(crate) fn connect(&self) -> (TcpStream, TcpStream) {
        let client = patient(TcpStream::connect(self.address()).unwrap());
        (client, self.accept())
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What is needed, or the reason why it cannot be had here.
pub(crate) fn here<T>(needed: Result<T, String>) -> Option<T> {
    match needed {
        Ok(needed) => Some(needed),
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

/// Connects from an address and port.
pub(crate) fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &from).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    patient(TcpStream::from(socket))
}

/// Bytes that differ from place to place and from `seed` to `seed`.
pub(crate) fn content(length: usize, seed: usize) -> Vec<u8> {
    // As many as a prime: no size of buffer divides them.
    let mut state = seed as u64 + 1;
    let mut next = || {
        // Xorshift: George Marsaglia's first example.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let period: Vec<u8> = (0..length.min(10_007)).map(|_| next()).collect();
    let mut bytes = period.repeat(length.div_ceil(period.len().max(1)));
    bytes.truncate(length);
    bytes
}

/// Compares without printing megabytes.
pub(crate) fn check(got: &[u8], wanted: &[u8]) {
    assert_eq!(got.len(), wanted.len());
    let wrong = || got.iter().zip(wanted).position(|(a, b)| a != b);
    assert!(got == wanted, "wrong from byte {:?} on", wrong());
}

pub(crate) fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether this is all that comes.
pub(crate) fn is_all(stream: &mut TcpStream, wanted: &[u8]) -> bool {
    rest(stream).is_ok_and(|got| got == wanted)
}

/// What comes until the end.
pub(crate) fn rest(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}
