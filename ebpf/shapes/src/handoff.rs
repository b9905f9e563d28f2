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

    /// Whether the entry is as if it were not there. Another processor may have written
    /// `seen_ns` after this one read its clock: what is seen later than now is not old.
    #[must_use]
    pub const fn is_over(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.seen_ns) > self.age_max_ns()
    }
}

/// Whether packets of a connection that is expected until then are dropped. A time
/// further away than anybody orders is of another clock; `until` may have been written
/// after this processor read its own.
#[must_use]
pub const fn is_expected(until_ns: u64, now_ns: u64) -> bool {
    now_ns < until_ns && until_ns - now_ns <= 2 * WINDOW_NS
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_later_than_now_is_not_old() {
        let mut entry = Forward {
            seen_ns: 1_000,
            what: Forward::TO_OWNER,
            mac: [0; 6],
        };
        for what in [Forward::KEEP_AWAY, Forward::TO_OWNER, Forward::CLOSING] {
            entry.what = what;
            let last = entry.seen_ns + entry.age_max_ns();
            assert!(
                !entry.is_over(0),
                "another processor's clock was read later"
            );
            assert!(!entry.is_over(entry.seen_ns));
            assert!(!entry.is_over(last));
            assert!(entry.is_over(last + 1));
        }
    }

    #[test]
    fn connections_are_expected_for_a_while() {
        let until = 10 * WINDOW_NS;
        assert!(!is_expected(until, until));
        assert!(is_expected(until, until - 1));
        assert!(is_expected(until, until - WINDOW_NS));
        assert!(is_expected(until, until - WINDOW_NS - 1), "written since");
        assert!(!is_expected(until, 0), "another clock");
    }
}
