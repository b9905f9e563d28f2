//! Options of sockets in repair mode (`man 7 tcp` has none of it; net/ipv4/tcp.c). The
//! only `unsafe` of the crate.
#![expect(unsafe_code, reason = "socket options that no crate has functions for")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::c_int;

/// Of `linux/tcp.h`.
const TCP_REPAIR: c_int = 19;
const TCP_REPAIR_QUEUE: c_int = 20;
const TCP_QUEUE_SEQ: c_int = 21;
const TCP_REPAIR_OPTIONS: c_int = 22;
const TCP_TIMESTAMP: c_int = 24;
const TCP_REPAIR_WINDOW: c_int = 29;
/// Most that TCP_MAXSEG takes (`MAX_TCP_WINDOW`).
const SEGMENT_MAX: u16 = 32_767;
const TCPOPT_MAXSEG: u32 = 2;
const TCPOPT_WINDOW: u32 = 3;
const TCPOPT_SACK_PERM: u32 = 4;
const TCPOPT_TIMESTAMP: u32 = 8;
const TCPI_OPT_TIMESTAMPS: u8 = 1;
const TCPI_OPT_SACK: u8 = 2;
const TCPI_OPT_WSCALE: u8 = 4;
/// `TCP_ESTABLISHED` of `net/tcp_states.h`.
const ESTABLISHED: u8 = 1;

/// A queue of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Receive = 1,
    Send = 2,
}

/// How a socket leaves repair mode and enters it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    On = 1,
    /// Off, without sending anything. Plain 0 would send a window probe.
    OffInSilence = -1,
}

/// `struct tcp_repair_window`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RepairWindow {
    pub(crate) snd_wl1: u32,
    pub(crate) snd_wnd: u32,
    pub(crate) max_window: u32,
    pub(crate) rcv_wnd: u32,
    pub(crate) rcv_wup: u32,
}

/// `struct tcp_repair_opt`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RepairOption {
    code: u32,
    value: u32,
}

/// The first bytes of `struct tcp_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct InfoHead {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    scales: u8,
    limits: u8,
}

/// More of `struct tcp_info`, as words of eight bytes, up to `tcpi_bytes_sent` (Linux 4.19).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct InfoWords([u64; 26]);

/// Words of it.
const BYTES_ACKED: usize = 120 / 8;
const BYTES_SENT: usize = 200 / 8;
/// Bytes before numbers of four bytes.
#[cfg(test)]
const TIMEOUT_AT: usize = 8;
#[cfg(test)]
const ROUND_TRIP_AT: usize = 68;

/// What was agreed when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) established: bool,
    pub(crate) timestamps: bool,
    pub(crate) sack: bool,
    /// Of what is sent, of what is received.
    pub(crate) scales: Option<(u8, u8)>,
}

pub(crate) fn set_mode(socket: impl AsFd, mode: Mode) -> io::Result<()> {
    set(socket, TCP_REPAIR, &(mode as c_int))
}

pub(crate) fn choose(socket: impl AsFd, queue: Queue) -> io::Result<()> {
    set(socket, TCP_REPAIR_QUEUE, &(queue as c_int))
}

/// Sequence number behind the last byte of a queue.
pub(crate) fn sequence(socket: impl AsFd, queue: Queue) -> io::Result<u32> {
    choose(&socket, queue)?;
    get(socket, TCP_QUEUE_SEQ)
}

pub(crate) fn set_sequence(socket: impl AsFd, queue: Queue, number: u32) -> io::Result<()> {
    choose(&socket, queue)?;
    set(socket, TCP_QUEUE_SEQ, &number)
}

pub(crate) fn window(socket: impl AsFd) -> io::Result<RepairWindow> {
    get(socket, TCP_REPAIR_WINDOW)
}

pub(crate) fn set_window(socket: impl AsFd, window: &RepairWindow) -> io::Result<()> {
    set(socket, TCP_REPAIR_WINDOW, window)
}

/// The clock of the timestamps that are sent; opaque.
pub(crate) fn timestamp(socket: impl AsFd) -> io::Result<u32> {
    get(socket, TCP_TIMESTAMP)
}

pub(crate) fn set_timestamp(socket: impl AsFd, value: u32) -> io::Result<()> {
    set(socket, TCP_TIMESTAMP, &value)
}

/// In repair mode the largest segment that was agreed, else the largest that is sent, bytes.
pub(crate) fn segment(socket: impl AsFd) -> io::Result<u32> {
    get(socket, libc::TCP_MAXSEG)
}

/// Before a socket in repair mode is connected: the largest segment that will be agreed,
/// bytes. The kernel works out then what it sends at a time, from 536 if it knows no better,
/// and not again when it is told what was agreed.
pub(crate) fn propose_segment(socket: impl AsFd, bytes: u16) -> io::Result<()> {
    set(
        socket,
        libc::TCP_MAXSEG,
        &c_int::from(bytes.min(SEGMENT_MAX)),
    )
}

pub(crate) fn agreed(socket: impl AsFd) -> io::Result<Agreed> {
    let head: InfoHead = get(socket, libc::TCP_INFO)?;
    // Bit fields: the first in the lower half on little-endian machines.
    let (low, high) = (head.scales & 0xf, head.scales >> 4);
    let scales = match cfg!(target_endian = "little") {
        true => (low, high),
        false => (high, low),
    };
    Ok(Agreed {
        established: head.state == ESTABLISHED,
        timestamps: head.options & TCPI_OPT_TIMESTAMPS != 0,
        sack: head.options & TCPI_OPT_SACK != 0,
        scales: (head.options & TCPI_OPT_WSCALE != 0).then_some(scales),
    })
}

/// Has a restored socket agree to these, and to segments of at most so many bytes.
pub(crate) fn agree(socket: impl AsFd, agreed: &Agreed, segment: u16) -> io::Result<()> {
    let option = |code, value| RepairOption { code, value };
    // A socket that is told of no scales keeps the one that it would have proposed, and announces
    // windows by it. Windows without scales are those with scales of zero.
    let (send, receive) = agreed.scales.unwrap_or_default();
    let scales = u32::from(send) | u32::from(receive) << 16;
    let mut options = [option(TCPOPT_MAXSEG, u32::from(segment)); 4];
    options[1] = option(TCPOPT_WINDOW, scales);
    let mut count = 2;
    let mut add = |code, value| {
        options[count] = option(code, value);
        count += 1;
    };
    if agreed.sack {
        add(TCPOPT_SACK_PERM, 0);
    }
    if agreed.timestamps {
        add(TCPOPT_TIMESTAMP, 0);
    }
    let bytes = size_of::<RepairOption>() * count;
    // SAFETY: the array holds `count` options, all of them set.
    unsafe {
        set_raw(
            socket,
            TCP_REPAIR_OPTIONS,
            options.as_ptr().cast(),
            bytes as libc::socklen_t,
        )
    }
}

/// Bytes sent and not acknowledged, or not sent yet (SIOCOUTQ).
pub(crate) fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the request writes one integer. SIOCOUTQ is TIOCOUTQ (linux/sockios.h).
    let outcome =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match outcome {
        0 => Ok(u32::try_from(bytes).unwrap_or(u32::MAX)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that were sent since the socket was made, and those that were acknowledged.
pub(crate) fn progress(socket: impl AsFd) -> io::Result<(u64, u64)> {
    let info: InfoWords = get(socket, libc::TCP_INFO)?;
    Ok((info.0[BYTES_SENT], info.0[BYTES_ACKED]))
}

/// The round-trip time, 0 before it was measured, and how long the first bytes that are
/// sent next may stay unacknowledged, microseconds.
#[cfg(test)]
pub(crate) fn round_trip(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let info: InfoWords = get(socket, libc::TCP_INFO)?;
    let half = |at: usize| {
        let word = info.0[at / 8].to_ne_bytes();
        let four = word[at % 8..].first_chunk().copied();
        u32::from_ne_bytes(four.unwrap_or_default())
    };
    Ok((half(ROUND_TRIP_AT), half(TIMEOUT_AT)))
}

/// Sends so many bytes a second at most.
#[cfg(test)]
pub(crate) fn pace(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    // SAFETY: the kernel reads one word.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Plain data: valid whatever its bits, without padding.
///
/// # Safety
/// Implementors consist of integers without gaps.
unsafe trait Plain: Copy + Default {}
// SAFETY: an integer.
unsafe impl Plain for c_int {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: five words.
unsafe impl Plain for RepairWindow {}
// SAFETY: eight bytes.
unsafe impl Plain for InfoHead {}
// SAFETY: words.
unsafe impl Plain for InfoWords {}

fn get<T: Plain>(socket: impl AsFd, option: c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which has as many and
    // is valid whatever they are.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    match outcome {
        0 if length as usize == size_of::<T>() => Ok(value),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set<T: Plain>(socket: impl AsFd, option: c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has so many bytes.
    unsafe { set_raw(socket, option, std::ptr::from_ref(value).cast(), length) }
}

/// # Safety
/// `value` points to `length` readable bytes.
unsafe fn set_raw(
    socket: impl AsFd,
    option: c_int,
    value: *const libc::c_void,
    length: libc::socklen_t,
) -> io::Result<()> {
    // SAFETY: the kernel reads `length` bytes, which the caller vouches for.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            value,
            length,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
