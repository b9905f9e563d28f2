//! Connections whose packets go to another host, or are kept away for a moment, as the
//! program on a device sees them.

use core::sync::atomic::AtomicU64;

/// Most connections of each map; the ones that were unused for longest are forgotten.
pub const FLOWS_MAX: u32 = 65_536;
/// How long packets of a connection may be kept away, nanoseconds: whoever ordered it
/// may be gone.
pub const WINDOW_NS: u64 = 3_000_000_000;
/// How long a connection that was handed over may be silent, nanoseconds.
pub const SILENCE_NS: u64 = 600_000_000_000;
/// The same once its client has said that it is over: for what is sent again.
pub const CLOSING_NS: u64 = 5_000_000_000;

/// A connection by its ends. In network byte order; IPv4 as IPv6 has it (`::ffff:0:0/96`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Address of the client.
    pub client: [u32; 4],
    /// Address it connected to.
    pub service: [u32; 4],
    /// Port of the client.
    pub client_port: u16,
    /// Port it connected to.
    pub service_port: u16,
}

/// What becomes of a connection's packets; the value of the map `FORWARDS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// When the last packet came, or the entry was made, by the clock of programs
    /// (CLOCK_MONOTONIC), nanoseconds.
    pub seen_ns: u64,
    /// [`Forward::KEEP_AWAY`], [`Forward::TO_OWNER`] or [`Forward::CLOSING`].
    pub what: u16,
    /// The owner's device.
    pub mac: [u8; 6],
}

impl Forward {
    /// Packets are dropped, for at most [`WINDOW_NS`].
    pub const KEEP_AWAY: u16 = 0;
    /// Packets go to the owner.
    pub const TO_OWNER: u16 = 1;
    /// The same, and the client has ended its side.
    pub const CLOSING: u16 = 2;

    /// How long after `seen_ns` the entry is as if it were not there.
    #[must_use]
    pub const fn age_max_ns(&self) -> u64 {
        match self.what {
            Self::KEEP_AWAY => WINDOW_NS,
            Self::TO_OWNER => SILENCE_NS,
            _ => CLOSING_NS,
        }
    }
}

/// The only value of the map `HANDOFF`: packets, counted by the program.
#[repr(C)]
#[derive(Debug)]
pub struct HandoffCounts {
    /// Sent on to an owner.
    pub forwarded: AtomicU64,
    /// Dropped while their connection was being handed over, here or to here.
    pub kept_away: AtomicU64,
    /// Of entries that were too old, which were removed.
    pub too_old: AtomicU64,
    /// That could not be sent on and were left to the kernel.
    pub failed: AtomicU64,
}
