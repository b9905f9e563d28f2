//! The program that spreads connections, in the kernel of this machine. Skipped, with
//! the reason, where it is not built or not allowed; `QUICKWATER_EBPF_STRICT=1` makes
//! that a failure.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use quickwater_ebpf::{Balancer, ShardLoad, Unavailable, Visit};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

const SHARDS: usize = 4;
/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn listeners(shards: usize) -> Vec<TcpListener> {
    let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut all = Vec::new();
    for _ in 0..shards {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::INET;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 256).unwrap();
        let listener = TcpListener::from(socket);
        address = listener.local_addr().unwrap();
        all.push(listener);
    }
    all
}

/// `None`: not here, and that is allowed.
fn attach(doors: &[&[TcpListener]]) -> Option<Balancer> {
    match Balancer::attach(doors) {
        Ok(balancer) => Some(balancer),
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

/// Shards without threads: what came is accepted when asked.
struct House {
    doors: Vec<Vec<TcpListener>>,
    loads: Vec<Rc<ShardLoad>>,
    guests: Vec<(usize, TcpStream, TcpStream, Visit)>,
}

impl House {
    fn new(doors: Vec<Vec<TcpListener>>, balancer: &Balancer) -> Self {
        let loads = (0..SHARDS).map(|index| Rc::new(balancer.shard(index)));
        House {
            doors,
            loads: loads.collect(),
            guests: Vec::new(),
        }
    }

    fn connect(&mut self, door: usize) {
        let address = self.doors[door][0].local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            for (shard, listener) in self.doors[door].iter().enumerate() {
                if let Ok((server, _)) = listener.accept() {
                    let visit = self.loads[shard].enter();
                    self.guests.push((shard, client, server, visit));
                    return;
                }
            }
            assert!(Instant::now() < until, "a connection went nowhere");
        }
    }

    fn spread(&self) -> usize {
        self.spread_over(SHARDS)
    }

    /// Among the first shards alone.
    fn spread_over(&self, shards: usize) -> usize {
        let mut counts = vec![0usize; shards];
        for (shard, ..) in &self.guests {
            counts[*shard] += 1;
        }
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    }
}

#[test]
fn every_shard_gets_as_many_also_when_they_come_and_go() {
    let sockets = listeners(SHARDS);
    let Some(balancer) = attach(&[&sockets]) else {
        return;
    };
    let mut house = House::new(vec![sockets], &balancer);
    for _ in 0..32 {
        house.connect(0);
        assert!(house.spread() <= 1);
    }
    // One after the other, each from another place: all are replaced four times.
    for at in 0..4 * 32 {
        let gone = (at * 7) % house.guests.len();
        house.guests.swap_remove(gone);
        house.connect(0);
        assert!(house.spread() <= 1, "after {at}");
    }
    // Half of them go at once; the next ones fill the gaps.
    house.guests.retain(|(shard, ..)| *shard % 2 == 0);
    while house.guests.len() < 32 {
        house.connect(0);
    }
    assert_eq!(house.spread(), 0);
    assert_eq!(balancer.counts().1, 0, "the kernel's hash was not asked");
}

#[test]
fn two_addresses_are_balanced_together() {
    let doors = vec![listeners(SHARDS), listeners(SHARDS)];
    let Some(balancer) = attach(&[&doors[0], &doors[1]]) else {
        return;
    };
    let mut house = House::new(doors, &balancer);
    for at in 0..40 {
        house.connect(usize::from(at % 3 == 0));
        assert!(house.spread() <= 1, "after {at}");
    }
    assert_eq!(balancer.counts(), (40, 0));
}

#[test]
fn without_some_listeners_the_others_have_as_many_and_without_the_program_all_are_served() {
    let sockets = listeners(SHARDS);
    let Some(balancer) = attach(&[&sockets]) else {
        return;
    };
    let mut house = House::new(vec![sockets], &balancer);
    for _ in 0..32 {
        house.connect(0);
    }
    for left in [SHARDS - 1, SHARDS - 2] {
        // With its connections: the kernel takes the listener out of the map.
        house.doors[0].pop();
        house.guests.retain(|(shard, ..)| *shard < left);
        while house.guests.len() < 32 {
            house.connect(0);
        }
        assert!(house.spread_over(left) <= 1, "{left} listeners");
        for at in 0..32 {
            let gone = (at * 7) % house.guests.len();
            house.guests.swap_remove(gone);
            house.connect(0);
            assert!(house.spread_over(left) <= 1, "{left} listeners, after {at}");
        }
    }
    assert_eq!(balancer.counts().1, 0, "the kernel's hash was not asked");
    drop(balancer);
    for _ in 0..12 {
        house.connect(0);
    }
    assert_eq!(house.guests.len(), 44);
}

#[test]
fn connections_that_nobody_accepts_are_forgotten() {
    let sockets = listeners(SHARDS);
    let Some(balancer) = attach(&[&sockets]) else {
        return;
    };
    let address = sockets[0].local_addr().unwrap();
    let loads: Vec<_> = (0..SHARDS).map(|i| Rc::new(balancer.shard(i))).collect();
    let lost: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for _ in 0..100 {
        loads.iter().for_each(|load| load.settle());
    }
    drop(lost);
    for listener in &sockets {
        while listener.accept().is_ok() {}
    }
    let mut house = House::new(vec![sockets], &balancer);
    house.loads = loads;
    for _ in 0..16 {
        house.connect(0);
        assert!(house.spread() <= 1);
    }
}

/// A packet of no connection: source port 1, acknowledging something.
fn send_stray(to: SocketAddr) {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is not IPv4");
    };
    let mut packet = [0u8; 20];
    packet[..2].copy_from_slice(&1u16.to_be_bytes());
    packet[2..4].copy_from_slice(&to.port().to_be_bytes());
    packet[12] = 5 << 4;
    packet[13] = 0x10;
    // RFC 9293 §3.1: over a pseudo-header too, whose other fields are the two addresses.
    let mut sum = 6 + packet.len() as u32;
    let words = to.ip().octets();
    let words = words.iter().chain(&words).chain(&packet);
    for (at, byte) in words.enumerate() {
        sum += u32::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let raw = SocketType::RAW;
    let tcp = Some(rustix::net::ipproto::TCP);
    let socket = rustix::net::socket(AddressFamily::INET, raw, tcp).unwrap();
    let to = SocketAddr::from((*to.ip(), 0));
    let sent = rustix::net::sendto(&socket, &packet, rustix::net::SendFlags::empty(), &to);
    assert_eq!(sent.unwrap(), packet.len());
}

#[test]
fn packets_of_no_connection_count_for_nobody() {
    let sockets = listeners(SHARDS);
    let Some(balancer) = attach(&[&sockets]) else {
        return;
    };
    let address = sockets[0].local_addr().unwrap();
    let mut house = House::new(vec![sockets], &balancer);
    for guests in 1..=16 {
        house.connect(0);
        assert!(house.spread() <= 1);
        send_stray(address);
        assert_eq!(balancer.counts(), (guests, 0));
    }
}

#[test]
fn more_than_the_layout_holds_is_refused() {
    let one = listeners(1);
    let doors = [one.as_slice(), one.as_slice(), one.as_slice()];
    let refused = Balancer::attach(&doors).err();
    assert!(matches!(refused, Some(Unavailable::TooMany { .. })));
}
