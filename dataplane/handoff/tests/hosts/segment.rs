//! Hosts on one segment of Ethernet: network namespaces on a bridge. All of it goes with
//! the last descriptor.
#![expect(unsafe_code, reason = "namespaces of a thread")]

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) address: Ipv4Addr,
    namespace: File,
}

/// A client, an entry and an owner. The last two have the service addresses.
pub(crate) struct Segment {
    pub(crate) client: Host,
    pub(crate) entry: Host,
    pub(crate) owner: Host,
    _bridge: Host,
    pins: PathBuf,
}

impl Host {
    fn new(name: &'static str, number: u8) -> Result<Self, String> {
        let made = std::thread::spawn(|| {
            unshare(libc::CLONE_NEWNET)?;
            run("ip link set lo up")?;
            File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())
        });
        let namespace = made.join().map_err(|_| "a thread panicked")??;
        Ok(Host {
            name,
            address: Ipv4Addr::new(10, 50, 0, number),
            namespace,
        })
    }

    /// Does something at this host; its sockets stay there.
    pub(crate) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace.as_fd();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace, kind).unwrap();
                act()
            });
            there.join().unwrap()
        })
    }

    fn all(&self, commands: &[String]) -> Result<(), String> {
        self.run(|| commands.iter().try_for_each(|command| run(command)))
    }
}

impl Segment {
    /// All made; an error says what cannot be had here.
    pub(crate) fn new() -> Result<Self, String> {
        // Mounts of this thread and those it starts.
        unshare(libc::CLONE_NEWNS)?;
        run("mount --make-rprivate /")?;
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (process, made) = (std::process::id(), MADE.fetch_add(1, Relaxed));
        let pins = std::env::temp_dir().join(format!("pins-{process}-{made}"));
        fs::create_dir_all(&pins).map_err(|error| error.to_string())?;
        run(&format!("mount -t bpf bpf {}", pins.display()))?;
        let segment = Segment {
            client: Host::new("client", 9)?,
            entry: Host::new("entry", 1)?,
            owner: Host::new("owner", 2)?,
            _bridge: Host::new("bridge", 0)?,
            pins,
        };
        segment._bridge.all(&[
            "ip link add b0 type bridge".to_owned(),
            "ip link set b0 up".to_owned(),
        ])?;
        for (at, host) in segment.hosts().into_iter().enumerate() {
            segment.plug(at, host)?;
        }
        for host in [&segment.entry, &segment.owner] {
            host.run(|| {
                for (name, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
                    let path = format!("/proc/sys/net/ipv4/conf/all/{name}");
                    fs::write(path, value).map_err(|error| error.to_string())?;
                }
                run("ip address add 10.60.0.1/32 dev lo")?;
                run("ip -6 address add fd60::1/128 dev lo nodad")
            })?;
        }
        segment.client.all(&[
            "ip route add 10.60.0.1/32 via 10.50.0.1".to_owned(),
            "ip -6 route add fd60::1/128 via fd50::1".to_owned(),
        ])?;
        Ok(segment)
    }

    fn hosts(&self) -> [&Host; 3] {
        [&self.client, &self.entry, &self.owner]
    }

    /// A directory on a BPF file system.
    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    fn plug(&self, at: usize, host: &Host) -> Result<(), String> {
        let number = host.address.octets()[3];
        let namespace = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            host.namespace.as_raw_fd()
        );
        self._bridge.all(&[
            format!("ip link add p{at} type veth peer name e0 netns {namespace}"),
            format!("ip link set p{at} master b0"),
            format!("ip link set p{at} up"),
        ])?;
        host.all(&[
            format!("ip address add {}/24 dev e0", host.address),
            format!("ip -6 address add fd50::{number}/64 dev e0 nodad"),
            "ip link set e0 up".to_owned(),
        ])
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // The mount is this thread's own; the directory is what others see.
        drop(run(&format!("umount {}", self.pins.display())));
        drop(fs::remove_dir(&self.pins));
    }
}

/// Ends a connection by a reset.
pub(crate) fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Connects from an address and port.
pub(crate) fn connect_from(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Has a host agree to an option of TCP in connections from now on, or not.
pub(crate) fn set_option(host: &Host, name: &str, on: bool) {
    let path = format!("/proc/sys/net/ipv4/{name}");
    host.run(|| fs::write(path, if on { "1" } else { "0" }).unwrap());
}

/// What the kernel tells of the one connection that a host has to the port of a service.
pub(crate) fn told_of_connection(host: &Host, port: u16) -> String {
    let filter = format!("dport = :{port}");
    let told = host.run(|| Command::new("ss").args(["-tineOH", &filter]).output());
    String::from_utf8(told.unwrap().stdout).unwrap()
}

fn unshare(what: i32) -> Result<(), String> {
    // SAFETY: only namespaces, and those of this thread alone.
    match unsafe { libc::unshare(what) } {
        0 => Ok(()),
        _ => Err(format!("no namespaces: {}", io::Error::last_os_error())),
    }
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let done = Command::new(program).args(words).output();
    let done = done.map_err(|error| format!("{command}: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command}: {}",
            String::from_utf8_lossy(&done.stderr)
        )),
    }
}

/// A TCP connection a host still has, as the kernel tells it. One that only waits for the
/// time to pass (TIME_WAIT) and listeners are none.
pub(crate) fn connection_left(host: &Host) -> Option<String> {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let table = host.run(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    let left = table.lines().skip(1).find(|line| {
        let state = line.split_whitespace().nth(3).unwrap_or_default();
        state != TIME_WAIT && state != LISTEN
    });
    left.map(str::to_owned)
}
