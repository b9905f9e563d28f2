//! Taking a connection out of its process: from then on its socket sends nothing, and
//! closing it tells the client nothing.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;
use rustix::net::{RecvFlags, recv};

use crate::repair::{self, Mode, Queue};
use crate::state::{State, UNREAD_BYTES_MAX, Window};

/// Milliseconds that the clock of timestamps is moved on by. The kernel tells what it is now,
/// with the lowest bit cut off; a socket that paces what it sends has stamped its latest packet
/// with the time at which the next one may go. A client drops what is older than what it has
/// (RFC 7323 §5): the first flight from the new host, and whatever has the same clock.
const CLOCK_MARGIN: u32 = 1_000;

/// Why a connection cannot be frozen. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Bytes were sent that the client has not acknowledged, or wait to be sent.
    #[error("bytes are on their way to the client")]
    Unacknowledged,
    /// More came than a state may carry.
    #[error("too many bytes came that were not answered")]
    Unread,
    /// One side has ended it, or it is no TCP connection.
    #[error("the connection is not established")]
    NotEstablished,
    /// It cannot be continued on another host: of a kind that [`State::check`] refuses.
    #[error("{0}")]
    Kind(#[from] crate::BadState),
    /// The kernel refuses, for one for want of CAP_NET_ADMIN.
    #[error("freezing a connection: {0}")]
    Kernel(#[from] io::Error),
}

impl From<rustix::io::Errno> for Refused {
    fn from(error: rustix::io::Errno) -> Self {
        Refused::Kernel(error.into())
    }
}

/// A frozen connection. Dropping it resets the connection: a client that is told beats
/// one that waits.
#[derive(Debug)]
pub struct Frozen {
    /// Gone only while it is being dropped.
    socket: Option<OwnedFd>,
    state: State,
    /// Bytes the kernel had when it was frozen.
    queued: usize,
}

/// Freezes a connection; `read` are the bytes that were taken from it and not answered.
/// Nothing else may use the socket, operations of a ring included, and the client's
/// packets should be kept away: what comes and is acknowledged afterwards is lost, which
/// [`Frozen::is_unchanged`] tells.
///
/// # Errors
/// It is as it was, and comes back.
pub fn freeze(socket: OwnedFd, read: &[u8]) -> Result<Frozen, (OwnedFd, Refused)> {
    if let Err(refused) = is_at_rest(&socket) {
        return Err((socket, refused));
    }
    if let Err(error) = repair::set_mode(&socket, Mode::On) {
        return Err((socket, error.into()));
    }
    match look(socket.as_fd(), read) {
        Ok((state, queued)) => Ok(Frozen {
            socket: Some(socket),
            state,
            queued,
        }),
        Err(refused) => match leave(&socket) {
            Ok(()) => Err((socket, refused)),
            Err(error) => Err((socket, error.into())),
        },
    }
}

/// Whether a connection is at rest, so that it could be frozen now. Needs no rights and
/// leaves no trace.
///
/// # Errors
/// It is not.
pub fn is_at_rest(socket: impl AsFd) -> Result<(), Refused> {
    if !repair::agreed(&socket)?.established {
        return Err(Refused::NotEstablished);
    }
    match unacknowledged(socket.as_fd())? {
        0 => Ok(()),
        _ => Err(Refused::Unacknowledged),
    }
}

/// Reads what a socket in repair mode is, and how many bytes its kernel holds.
fn look(socket: BorrowedFd<'_>, read: &[u8]) -> Result<(State, usize), Refused> {
    let local = end(rustix::net::getsockname(socket)?)?;
    let remote = end(rustix::net::getpeername(socket)?.ok_or(Refused::NotEstablished)?)?;
    let agreed = repair::agreed(socket)?;
    if !agreed.established {
        return Err(Refused::NotEstablished);
    }
    if unacknowledged(socket)? > 0 {
        return Err(Refused::Unacknowledged);
    }
    let send_sequence = repair::sequence(socket, Queue::Send)?;
    let receive_sequence = repair::sequence(socket, Queue::Receive)?;
    let queued = peek(socket, UNREAD_BYTES_MAX.saturating_sub(read.len()))?;
    let window = repair::window(socket)?;
    let segment = repair::segment(socket)?;
    let timestamp = match agreed.timestamps {
        true => Some(later(repair::timestamp(socket)?)),
        false => None,
    };
    let state = State {
        local,
        remote,
        send_sequence,
        receive_sequence,
        segment: u16::try_from(segment).unwrap_or(u16::MAX),
        scales: agreed.scales,
        sack: agreed.sack,
        timestamp,
        window: Window {
            send_update: window.snd_wl1,
            send: window.snd_wnd,
            send_max: window.max_window,
            receive: window.rcv_wnd,
            receive_update: window.rcv_wup,
        },
        unread: [read, &queued].concat(),
    };
    state.check()?;
    Ok((state, queued.len()))
}

/// The clock of timestamps a moment later. Its lowest bit says that it counts microseconds.
fn later(clock: u32) -> u32 {
    clock.wrapping_add(match clock & 1 {
        0 => CLOCK_MARGIN,
        _ => 1_000 * CLOCK_MARGIN,
    })
}

/// An IPv4 connection is one, also of a socket that speaks both.
fn end(address: rustix::net::SocketAddrAny) -> Result<SocketAddr, Refused> {
    let address = SocketAddr::try_from(address)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// The bytes the kernel has; they stay there. The queue for receiving is chosen.
fn peek(socket: BorrowedFd<'_>, most: usize) -> Result<Vec<u8>, Refused> {
    // One more shows that there is more.
    let mut bytes = vec![0; most + 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recv(socket, bytes.as_mut_slice(), flags) {
        Ok((_, 0)) => Err(Refused::NotEstablished),
        Ok((_, count)) if count > most => Err(Refused::Unread),
        Ok((_, count)) => {
            bytes.truncate(count);
            Ok(bytes)
        }
        Err(rustix::io::Errno::AGAIN) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes sent and not acknowledged, and bytes not sent yet (SIOCOUTQ).
fn unacknowledged(socket: BorrowedFd<'_>) -> Result<u32, Refused> {
    repair::unacknowledged(socket).map_err(Refused::Kernel)
}

fn leave(socket: &OwnedFd) -> io::Result<()> {
    repair::set_mode(socket, Mode::OffInSilence)?;
    // Leaving takes it away; without it the port stays in use after the process.
    sockopt::set_socket_reuseaddr(socket, true)?;
    Ok(())
}

impl Frozen {
    /// What continues it elsewhere.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How many of the bytes of [`State::unread`], its last ones, the kernel has:
    /// whoever thaws it receives them again.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether nothing came since it was frozen. Otherwise whoever continues it lacks
    /// bytes that the client will not send again.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let next = repair::sequence(socket, Queue::Receive);
        let established = repair::agreed(socket).is_ok_and(|agreed| agreed.established);
        established && next.is_ok_and(|next| next == self.state.receive_sequence)
    }

    /// Continues it here, where it was.
    ///
    /// # Errors
    /// It cannot be; it is reset.
    pub fn thaw(mut self) -> io::Result<OwnedFd> {
        if let Some(socket) = &self.socket {
            leave(socket)?;
        }
        self.socket.take().ok_or(io::ErrorKind::NotConnected.into())
    }

    /// Lets go of it in silence: somebody else continues it.
    pub fn release(mut self) {
        // Closed in repair mode: nothing is sent.
        drop(self.socket.take());
    }

    /// Tells the client that it is over.
    pub fn reset(self) {
        drop(self);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        let told = leave(&socket)
            .and_then(|()| Ok(sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?));
        // Fails only for a socket that is none any more.
        debug_assert!(told.is_ok(), "{told:?}");
    }
}
