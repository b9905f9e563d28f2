//! How many connections every shard has, as the program that chooses a shard for a
//! new one sees it.

use core::sync::atomic::AtomicU64;

/// Most shards; a power of two, so that an index can be cut to it.
pub const SHARDS_MAX: usize = 256;
/// Most addresses whose listeners the shards share.
pub const DOORS_MAX: usize = 2;

/// What a shard without a listener is taken to have been given, so that others are chosen. A
/// shard that is there settles it, as it does connections that never came.
pub const ABSENT: u64 = 1 << 32;

/// The only value of the map `BALANCE`.
#[repr(C)]
#[derive(Debug)]
pub struct Balance {
    /// Where the search begins, modulo the shards. Written by the program.
    pub turn: AtomicU64,
    /// Connections whose shard the program chose. Written by the program.
    pub chosen: AtomicU64,
    /// Connections it left to the kernel's hash. Written by the program.
    pub left: AtomicU64,
    /// By shard.
    pub shares: [Share; SHARDS_MAX],
}

/// One shard's part. Its load is `placed - settled`: each side writes one of them
/// alone, so that neither overwrites what the other has just counted.
#[repr(C)]
#[derive(Debug)]
pub struct Share {
    /// Connections given to the shard, and [`ABSENT`]. Written by the program.
    pub placed: AtomicU64,
    /// Of those, the ones that ended or never came; wraps. Written by the shard.
    pub settled: AtomicU64,
}

/// Index in the map `SOCKETS` of the listener of `shard` at `door`.
#[must_use]
pub const fn socket_index(door: usize, shard: usize) -> u32 {
    (door * SHARDS_MAX + shard) as u32
}
