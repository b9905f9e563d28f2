//! Connections between this node's clients and its worker whose answers go from socket to
//! socket, without TCP in between.

use core::sync::atomic::AtomicU64;

/// Most connections that programs know at a time; more go by TCP.
pub const BYPASSED_MAX: u32 = 16_384;

/// What the program that looks at a queue says of a connection it does not know. The
/// kernel has no queue of so many bytes.
pub const NO_CLIENT: u32 = u32::MAX;

/// Where the program that looks at a queue finds the [`Meeting`] in what it is given:
/// behind a header of Ethernet, without which the kernel would not run it.
pub const MEETING_AT: usize = 14;

/// A connection by its ends, as the worker's host has them. Addresses in network byte
/// order, IPv4 as IPv6 has it (`::ffff:0:0/96`); ports as numbers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ways {
    /// Address of the client.
    pub client: [u32; 4],
    /// Address of the worker.
    pub worker: [u32; 4],
    /// Port of the client.
    pub client_port: u32,
    /// Port of the worker.
    pub worker_port: u32,
}

/// A connection as no other one is: two hosts of the same addresses, in network
/// namespaces apart, do not choose the same 64 bits of sequence numbers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Meeting {
    /// Its ends.
    pub ways: Ways,
    /// Sequence number of the client's first byte.
    pub client_first: u32,
    /// Sequence number of the worker's first byte.
    pub worker_first: u32,
}

/// The only value of the map `BYPASS`.
#[repr(C)]
#[derive(Debug)]
pub struct BypassCounts {
    /// A second port whose connections count as the worker's, for the test at the start;
    /// 0: none. Written by the loader.
    pub test_port: AtomicU64,
    /// Clients of this node that connected to the worker. Written by the programs, as the
    /// rest.
    pub clients: AtomicU64,
    /// Of those, ones that could not be noted: too many, or another program has them.
    pub clients_refused: AtomicU64,
    /// Of those, ones for which there was no room.
    pub clients_full: AtomicU64,
    /// Bytes that went from socket to socket.
    pub bytes: AtomicU64,
    /// Sends that were refused because the client had gone.
    pub refused: AtomicU64,
}
