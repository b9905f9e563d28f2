//! What a connection is, for whoever continues it: a versioned layout of its own, judged
//! when it arrives. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Of the layout below; others are refused.
const VERSION: u8 = 1;
/// Most bytes that were received and not answered yet: a request head and what came
/// with it.
pub const UNREAD_BYTES_MAX: usize = 128 << 10;
/// Bytes of the layout before those.
const HEAD_BYTES: usize = 80;
/// Most bytes of a state.
pub const STATE_BYTES_MAX: usize = HEAD_BYTES + UNREAD_BYTES_MAX;

const IPV6: u8 = 1;
const SACK: u8 = 1 << 1;
const SCALES: u8 = 1 << 2;
const TIMESTAMPS: u8 = 1 << 3;

/// RFC 7323 §2.3.
const SCALE_MAX: u8 = 14;
/// What a window can be at most (RFC 7323 §2.2).
const WINDOW_MAX: u32 = 0xffff << SCALE_MAX;
/// The least the kernel works with (`TCP_MIN_MSS`).
const SEGMENT_MIN: u16 = 88;
/// A window up to which a segment may be as large as it, beyond which as half of it
/// (`TCP_MSS_DEFAULT`).
const SMALL_WINDOW: u32 = 536;
/// What timestamps take of a segment, with their padding (`TCPOLEN_TSTAMP_ALIGNED`).
const TIMESTAMP_BYTES: u32 = 12;

/// Why a state is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state of a connection: {0}")]
pub struct BadState(pub &'static str);

/// Windows of both directions, as `struct tcp_repair_window` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Sequence number of the segment that last set the send window.
    pub send_update: u32,
    /// The send window, bytes.
    pub send: u32,
    /// The largest send window so far, bytes.
    pub send_max: u32,
    /// The window last announced, bytes.
    pub receive: u32,
    /// What had been received when it was.
    pub receive_update: u32,
}

/// A connection between two segments: nothing of what was sent is unacknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Our end: the address the client connected to.
    pub local: SocketAddr,
    /// The client.
    pub remote: SocketAddr,
    /// Sequence number of the next byte to be sent.
    pub send_sequence: u32,
    /// That of the next byte to be received.
    pub receive_sequence: u32,
    /// Largest segment, bytes.
    pub segment: u16,
    /// Window scales of what is sent and of what is received.
    pub scales: Option<(u8, u8)>,
    /// Selective acknowledgements were agreed.
    pub sack: bool,
    /// The clock of our timestamps, if timestamps were agreed; opaque.
    pub timestamp: Option<u32>,
    /// Windows.
    pub window: Window,
    /// Bytes that came and wait to be answered; at most [`UNREAD_BYTES_MAX`].
    pub unread: Vec<u8>,
}

impl State {
    /// As bytes, integers in network order.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.unread.len());
        let (scales, flags) = (self.scales.unwrap_or_default(), self.flags());
        out.extend_from_slice(&[VERSION, flags, scales.0, scales.1]);
        for number in [self.segment, self.local.port(), self.remote.port(), 0] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for address in [self.local, self.remote] {
            out.extend_from_slice(&as_six(address.ip()).octets());
        }
        let window = &self.window;
        for number in [
            self.send_sequence,
            self.receive_sequence,
            self.timestamp.unwrap_or_default(),
            window.send_update,
            window.send,
            window.send_max,
            window.receive,
            window.receive_update,
            self.unread.len() as u32,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        debug_assert_eq!(out.len(), HEAD_BYTES);
        out.extend_from_slice(&self.unread);
        out
    }

    /// The largest segment to begin with, bytes: the agreed one, or what the kernel makes of
    /// it for a client whose windows were never larger than two of them
    /// (`tcp_bound_to_half_wnd`). A segment that is larger than the window waits for a timer.
    pub(crate) fn first_segment(&self) -> u16 {
        let most = match self.window.send_max {
            0 => return self.segment,
            window @ ..=SMALL_WINDOW => window,
            window => window / 2,
        };
        // Segments are agreed with the options that are sent in them.
        let options = self.timestamp.map_or(0, |_| TIMESTAMP_BYTES);
        let most = u16::try_from(most + options).unwrap_or(u16::MAX);
        self.segment.min(most.max(SEGMENT_MIN))
    }

    fn flags(&self) -> u8 {
        let flag = |set, flag| if set { flag } else { 0 };
        flag(self.local.is_ipv6(), IPV6)
            | flag(self.sack, SACK)
            | flag(self.scales.is_some(), SCALES)
            | flag(self.timestamp.is_some(), TIMESTAMPS)
    }

    /// From bytes that somebody sent.
    ///
    /// # Errors
    /// It is none of this version, or no connection can be in this state.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        let (head, unread) = bytes.split_at_checked(HEAD_BYTES).ok_or(TRUNCATED)?;
        let [version, flags, send_scale, receive_scale] = array::<4>(head, 0)?;
        if version != VERSION {
            return Err(BadState("of another version"));
        }
        if flags & !(IPV6 | SACK | SCALES | TIMESTAMPS) != 0 || short(head, 10)? != 0 {
            return Err(BadState("has what this version does not know"));
        }
        let has = |flag| flags & flag != 0;
        let address = |at, port| -> Result<SocketAddr, BadState> {
            let ip = narrow(Ipv6Addr::from(array::<16>(head, at)?), has(IPV6))?;
            Ok(SocketAddr::new(ip, short(head, port)?))
        };
        let word = |index: usize| array::<4>(head, 44 + 4 * index).map(u32::from_be_bytes);
        let absent = |flag, number: u32| number != 0 && !has(flag);
        let scales = u32::from(send_scale | receive_scale);
        if absent(SCALES, scales) || absent(TIMESTAMPS, word(2)?) {
            return Err(BadState("has what it says it has not"));
        }
        let state = State {
            local: address(12, 6)?,
            remote: address(28, 8)?,
            segment: short(head, 4)?,
            scales: has(SCALES).then_some((send_scale, receive_scale)),
            sack: has(SACK),
            send_sequence: word(0)?,
            receive_sequence: word(1)?,
            timestamp: has(TIMESTAMPS).then_some(word(2)?),
            window: Window {
                send_update: word(3)?,
                send: word(4)?,
                send_max: word(5)?,
                receive: word(6)?,
                receive_update: word(7)?,
            },
            unread: unread.to_vec(),
        };
        if word(8)? as usize != unread.len() {
            return Err(TRUNCATED);
        }
        state.check()?;
        Ok(state)
    }

    /// Whether a connection can be in this state, by the kernel's rules and ours.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self) -> Result<(), BadState> {
        let ends = [self.local, self.remote];
        if self.local.is_ipv4() != self.remote.is_ipv4() || !ends.iter().all(is_end) {
            return Err(BadState("not between two hosts"));
        }
        let (window, next) = (&self.window, self.receive_sequence);
        let (send, receive) = self.scales.unwrap_or_default();
        if self.segment < SEGMENT_MIN || send > SCALE_MAX || receive > SCALE_MAX {
            return Err(BadState("a segment or a scale that cannot be"));
        }
        let large = [window.send, window.send_max, window.receive];
        if large.iter().any(|bytes| *bytes > WINDOW_MAX) || window.send_max < window.send {
            return Err(BadState("a window that cannot be"));
        }
        let beyond = next.wrapping_add(window.receive);
        if is_after(window.send_update, beyond) || is_after(window.receive_update, next) {
            return Err(BadState("a window from the future"));
        }
        match self.unread.len() <= UNREAD_BYTES_MAX {
            true => Ok(()),
            false => Err(BadState("too many bytes that wait")),
        }
    }
}

const TRUNCATED: BadState = BadState("not of its length");

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], BadState> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.copied().ok_or(TRUNCATED)
}

fn short(bytes: &[u8], at: usize) -> Result<u16, BadState> {
    array::<2>(bytes, at).map(u16::from_be_bytes)
}

fn as_six(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// What is said to be IPv6 is, and nothing else.
fn narrow(ip: Ipv6Addr, six: bool) -> Result<IpAddr, BadState> {
    match (ip.to_ipv4_mapped(), six) {
        (None, true) => Ok(ip.into()),
        (Some(ip), false) => Ok(ip.into()),
        _ => Err(BadState("an address of the wrong family")),
    }
}

/// Whether a connection can have such an end that another host can continue. Link-local
/// addresses name no host without a device.
fn is_end(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !local
}

/// Order of sequence numbers, which wrap.
fn is_after(one: u32, other: u32) -> bool {
    (other.wrapping_sub(one) as i32) < 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> State {
        State {
            local: "10.0.0.1:9000".parse().unwrap(),
            remote: "10.0.0.9:40000".parse().unwrap(),
            send_sequence: 0xffff_fff0,
            receive_sequence: 7,
            segment: 1448,
            scales: Some((7, 9)),
            sack: true,
            timestamp: Some(12345),
            window: Window {
                send_update: 0xffff_ff00,
                send: 64_000,
                send_max: 65_000,
                receive: 65_536,
                receive_update: 3,
            },
            unread: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        }
    }

    #[test]
    fn what_is_sent_arrives() {
        let four = state();
        assert_eq!(State::decode(&four.encode()), Ok(four.clone()));
        let six = State {
            local: "[fd00::1]:9000".parse().unwrap(),
            remote: "[fd00::9]:1".parse().unwrap(),
            scales: None,
            sack: false,
            timestamp: None,
            unread: Vec::new(),
            ..four
        };
        assert_eq!(State::decode(&six.encode()), Ok(six));
    }

    #[test]
    fn every_truncation_and_every_longer_one_is_refused() {
        let bytes = state().encode();
        for length in 0..bytes.len() {
            assert!(State::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert_eq!(
            State::decode(&[bytes.as_slice(), b"x"].concat()),
            Err(TRUNCATED)
        );
    }

    #[test]
    fn what_no_connection_is_in_is_refused() {
        let refused = |change: fn(&mut State)| {
            let mut state = state();
            change(&mut state);
            assert!(state.check().is_err(), "{state:?}");
            assert!(State::decode(&state.encode()).is_err(), "{state:?}");
        };
        refused(|s| s.remote = "[fd00::9]:1".parse().unwrap());
        refused(|s| s.remote = "10.0.0.9:0".parse().unwrap());
        refused(|s| s.remote = "224.0.0.1:1".parse().unwrap());
        refused(|s| s.local = "0.0.0.0:9000".parse().unwrap());
        refused(|s| s.local = "169.254.1.1:9000".parse().unwrap());
        refused(|s| s.segment = 87);
        refused(|s| s.scales = Some((15, 0)));
        refused(|s| s.scales = Some((0, 15)));
        refused(|s| s.window.send_max = s.window.send - 1);
        refused(|s| s.window.receive = WINDOW_MAX + 1);
        refused(|s| s.window.receive_update = s.receive_sequence + 1);
        refused(|s| s.window.send_update = s.receive_sequence + s.window.receive + 1);
        refused(|s| s.unread = vec![0; UNREAD_BYTES_MAX + 1]);
    }

    #[test]
    fn a_segment_leaves_room_for_a_second_in_the_window() {
        let first = |segment, send_max, timestamp| {
            let window = Window {
                send_max,
                ..Window::default()
            };
            let state = State {
                segment,
                timestamp,
                window,
                ..state()
            };
            state.first_segment()
        };
        assert_eq!(first(1440, 1152, Some(1)), 576 + 12);
        assert_eq!(first(1440, 1152, None), 576);
        assert_eq!(first(1440, 537, None), 268);
        assert_eq!(first(1440, 536, None), 536);
        assert_eq!(first(1440, 1, Some(1)), SEGMENT_MIN);
        assert_eq!(first(1440, 0, None), 1440, "no window came yet");
        assert_eq!(first(1440, 2880, None), 1440);
        assert_eq!(first(u16::MAX, WINDOW_MAX, Some(1)), u16::MAX);
    }

    #[test]
    fn other_versions_and_unknown_flags_are_refused() {
        let bytes = state().encode();
        for (at, value) in [(0, 2), (1, 0x80), (1, bytes[1] ^ IPV6), (10, 1)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert!(State::decode(&other).is_err(), "{at} {value}");
        }
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_refused_or_can_be(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(state) = State::decode(&bytes) {
                prop_assert_eq!(state.check(), Ok(()));
            }
        }

        #[test]
        fn a_flipped_bit_is_refused_or_can_be(at in 0usize..98, bit in 0u8..8) {
            let mut bytes = state().encode();
            bytes[at] ^= 1 << bit;
            if let Ok(state) = State::decode(&bytes) {
                prop_assert_eq!(state.check(), Ok(()));
                prop_assert_eq!(state.encode(), bytes);
            }
        }
    }
}
