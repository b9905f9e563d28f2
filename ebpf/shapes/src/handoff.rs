//! Connections whose packets go to another host, or are kept away for a moment, as the
//! program on a device sees them.

use core::sync::atomic::AtomicU64;

/// Most connections of each map.
pub const FLOWS_MAX: u32 = 65_536;
/// How long packets of a connection may be kept away, nanoseconds: whoever ordered it
/// may be gone.
pub const WINDOW_NS: u64 = 3_000_000_000;
/// How long a connection that was handed over may be silent, nanoseconds.
pub const SILENCE_NS: u64 = 600_000_000_000;
/// The same once its client, or whoever handed it over, has reset it: for what is sent
/// again.
pub const CLOSING_NS: u64 = 5_000_000_000;
/// How long after its first packet a connection is accepted at the latest, nanoseconds: longer
/// than a kernel tries to answer that packet.
pub const ARRIVAL_NS: u64 = 120_000_000_000;
/// How far ahead of all before a packet's bytes may be to count: more than a client has
/// under way, and little enough that others do not guess it.
pub const AHEAD_MAX: u32 = 1 << 24;

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

/// What a packet of TCP says to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Of its header: [`Segment::FIN`] and others.
    pub flags: u8,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// Its bytes, without headers.
    pub length: u32,
}

impl Segment {
    /// The sender sends nothing more.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// There is no such connection.
    pub const RST: u8 = 4;
    /// It acknowledges something.
    pub const ACK: u8 = 16;

    /// Whether it asks for a connection.
    #[inline(always)]
    #[must_use]
    pub const fn begins(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK) == Self::SYN
    }
}

/// What becomes of a connection's packets; the value of the map `FORWARDS`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// When the last packet came that counts, or the entry was made, by the clock of
    /// programs (CLOCK_MONOTONIC), nanoseconds.
    pub seen_ns: u64,
    /// [`Forward::KEEP_AWAY`] or another of its kind.
    pub what: u16,
    /// The owner's device.
    pub mac: [u8; 6],
    /// Sequence number after the newest byte of the client, if [`Forward::is_known`].
    pub next: u32,
    /// 1: `next` is known; 0: no packet told it yet.
    pub is_known: u32,
    /// When the entry was made, by the same clock. It tells the connection from others of
    /// the same ends, before it and after.
    pub made_ns: u64,
}

impl Forward {
    /// Packets are dropped, for at most [`WINDOW_NS`].
    pub const KEEP_AWAY: u16 = 0;
    /// Packets go to the owner.
    pub const TO_OWNER: u16 = 1;
    /// The same for a moment: whoever handed the connection over has reset it.
    pub const CLOSING: u16 = 2;
    /// The same for a moment: the client has reset it, unless more comes.
    pub const RESET: u16 = 3;
    /// As [`Forward::TO_OWNER`], and the client has ended its side: it may read for long.
    pub const HALF_CLOSED: u16 = 4;

    /// An entry of which no packet was seen yet.
    #[must_use]
    pub const fn new(what: u16, mac: [u8; 6], now_ns: u64) -> Self {
        Self {
            seen_ns: now_ns,
            what,
            mac,
            next: 0,
            is_known: 0,
            made_ns: now_ns,
        }
    }

    /// Whether a packet that asks for a connection asks for another one than this.
    #[inline(always)]
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.what, Self::CLOSING | Self::RESET | Self::HALF_CLOSED)
    }

    /// Takes note of a packet that goes to the owner. Anybody may have sent it: an end
    /// counts where the client's bytes end, as for the owner's kernel (RFC 5961), and
    /// what asks for a connection does not keep the entry.
    #[inline(always)]
    pub const fn hear(&mut self, segment: Segment, now_ns: u64) {
        if segment.flags & Segment::SYN != 0 {
            return;
        }
        let ends = segment.flags & (Segment::FIN | Segment::RST) != 0;
        if ends && !self.is_at_end(segment.sequence) {
            return;
        }
        self.seen_ns = now_ns;
        if self.what != Self::CLOSING {
            self.what = self.after(segment);
        }
        if segment.flags & Segment::RST == 0 {
            self.follow(segment);
        }
    }

    /// Whether the client could end there: after its last byte, or after its FIN, which
    /// counts as one, also where `next` was learned after a FIN that was not seen.
    #[inline(always)]
    const fn is_at_end(&self, sequence: u32) -> bool {
        let before = self.next.wrapping_sub(1);
        self.is_known == 0 || sequence.wrapping_sub(before) <= 2
    }

    /// A client says nothing after it has reset a connection, and no more bytes after its
    /// FIN: if it does, another one sent that.
    #[inline(always)]
    const fn after(&self, segment: Segment) -> u16 {
        let is_quiet = self.what == Self::HALF_CLOSED && segment.sequence != self.next;
        if segment.flags & Segment::RST != 0 {
            Self::RESET
        } else if segment.flags & Segment::FIN != 0 || is_quiet {
            Self::HALF_CLOSED
        } else {
            Self::TO_OWNER
        }
    }

    #[inline(always)]
    const fn follow(&mut self, segment: Segment) {
        let end = segment.sequence.wrapping_add(segment.length);
        let is_end = self.is_known == 0 || segment.flags & Segment::FIN != 0;
        let is_ahead = end.wrapping_sub(self.next) <= AHEAD_MAX;
        if is_end || is_ahead && self.what != Self::HALF_CLOSED {
            self.next = end;
            self.is_known = 1;
        }
    }

    /// How long after `seen_ns` the entry is as if it were not there.
    #[must_use]
    pub const fn age_max_ns(&self) -> u64 {
        match self.what {
            Self::KEEP_AWAY => WINDOW_NS,
            Self::TO_OWNER | Self::HALF_CLOSED => SILENCE_NS,
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
    /// That could not be sent on and were dropped.
    pub failed: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_later_than_now_is_not_old() {
        let mut entry = Forward::new(Forward::TO_OWNER, [0; 6], 1_000);
        for what in [
            Forward::KEEP_AWAY,
            Forward::TO_OWNER,
            Forward::CLOSING,
            Forward::RESET,
            Forward::HALF_CLOSED,
        ] {
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

    const fn segment(flags: u8, sequence: u32, length: u32) -> Segment {
        Segment {
            flags,
            sequence,
            length,
        }
    }

    /// An entry whose client has sent all bytes before this one, at time 10.
    fn heard(next: u32) -> Forward {
        let mut entry = Forward::new(Forward::TO_OWNER, [0; 6], 1);
        entry.hear(segment(Segment::ACK, next.wrapping_sub(100), 100), 10);
        assert_eq!((entry.next, entry.is_known, entry.seen_ns), (next, 1, 10));
        entry
    }

    #[test]
    fn an_end_counts_where_the_bytes_of_the_client_end() {
        for next in [0, 1, 7_000, u32::MAX] {
            for flags in [Segment::RST, Segment::FIN | Segment::ACK] {
                for off in [2, 777, AHEAD_MAX, 1 << 30, 1 << 31, u32::MAX - 1] {
                    let mut entry = heard(next);
                    entry.hear(segment(flags, next.wrapping_add(off), 0), 20);
                    assert_eq!(entry, heard(next), "{flags} {off} away");
                }
            }
            let mut entry = heard(next);
            entry.hear(segment(Segment::RST, next, 0), 20);
            assert_eq!((entry.what, entry.seen_ns), (Forward::RESET, 20));
            assert_eq!(entry.age_max_ns(), CLOSING_NS);
            assert!(entry.is_ended());
        }
    }

    #[test]
    fn who_has_ended_its_side_may_read_for_long() {
        for next in [0, 7_000, u32::MAX] {
            let mut entry = heard(next);
            entry.hear(segment(Segment::FIN | Segment::ACK, next, 0), 20);
            // It acknowledges what it gets, and may say its end again.
            for (flags, sequence) in [
                (Segment::ACK, next.wrapping_add(1)),
                (Segment::FIN | Segment::ACK, next),
                (Segment::ACK, next.wrapping_add(1)),
            ] {
                entry.hear(segment(flags, sequence, 0), 30);
                assert_eq!((entry.what, entry.next), (Forward::HALF_CLOSED, next));
                assert_eq!(entry.age_max_ns(), SILENCE_NS);
                assert!(entry.is_ended());
            }
            // Closed: it answers what still comes by a reset, after its end.
            entry.hear(segment(Segment::RST, next.wrapping_add(1), 0), 40);
            assert_eq!(entry.what, Forward::RESET);
        }
    }

    #[test]
    fn a_fin_with_the_last_bytes_counts() {
        let mut entry = heard(7_000);
        entry.hear(segment(Segment::FIN | Segment::ACK, 7_000, 50), 20);
        assert_eq!((entry.what, entry.next), (Forward::HALF_CLOSED, 7_050));
        entry.hear(segment(Segment::ACK, 7_051, 0), 20);
        assert_eq!((entry.what, entry.next), (Forward::HALF_CLOSED, 7_050));
    }

    #[test]
    fn a_client_that_goes_on_has_not_ended() {
        for flags in [Segment::RST, Segment::FIN | Segment::ACK] {
            for length in [0, 300] {
                let mut entry = heard(7_000);
                entry.hear(segment(flags, 7_000, 0), 20);
                assert!(entry.is_ended());
                entry.hear(segment(Segment::ACK, 7_000, length), 30);
                assert_eq!(entry.what, Forward::TO_OWNER, "{flags} {length}");
                assert_eq!((entry.next, entry.seen_ns), (7_000 + length, 30));
            }
        }
        // What was ordered stays.
        let mut entry = Forward::new(Forward::CLOSING, [0; 6], 1);
        for flags in [Segment::ACK, Segment::RST, Segment::FIN] {
            entry.hear(segment(flags, 0, 0), 2);
            assert_eq!(entry.what, Forward::CLOSING);
        }
    }

    #[test]
    fn the_first_packet_may_be_the_end() {
        for (flags, what) in [
            (Segment::RST, Forward::RESET),
            (Segment::FIN, Forward::HALF_CLOSED),
        ] {
            let mut entry = Forward::new(Forward::TO_OWNER, [0; 6], 1);
            entry.hear(segment(flags, 7_000, 0), 20);
            assert_eq!(entry.what, what);
        }
    }

    #[test]
    fn a_fin_may_be_unseen() {
        // Dropped while packets were kept away; then an acknowledgement after it.
        let unseen = heard(7_001);
        let mut entry = unseen;
        entry.hear(segment(Segment::RST, 7_000, 0), 20);
        assert_eq!(entry.what, Forward::RESET);
        let mut entry = unseen;
        entry.hear(segment(Segment::FIN | Segment::ACK, 7_000, 0), 20);
        entry.hear(segment(Segment::ACK, 7_001, 0), 30);
        assert_eq!((entry.what, entry.next), (Forward::HALF_CLOSED, 7_000));
    }

    #[test]
    fn bytes_far_away_do_not_move_the_end() {
        for off in [AHEAD_MAX + 1, 1 << 31, u32::MAX] {
            let mut entry = heard(7_000);
            entry.hear(segment(Segment::ACK, 7_000_u32.wrapping_add(off), 0), 20);
            assert_eq!((entry.next, entry.what), (7_000, Forward::TO_OWNER));
        }
    }

    #[test]
    fn asking_for_a_connection_does_not_keep_the_entry() {
        let mut entry = heard(7_000);
        let asks = segment(Segment::SYN, 7_000, 0);
        assert!(asks.begins());
        entry.hear(asks, 20);
        assert_eq!(entry, heard(7_000));
        assert!(!entry.is_ended());
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
