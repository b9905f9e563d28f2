//! Whether a client hears a connection's new host: filters on the way may drop what comes
//! from another host than the one it connected to.

use std::io;
use std::os::fd::AsFd;

use crate::repair;

/// What is known of a connection's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// Nothing was sent since the socket was made.
    Unasked,
    /// Bytes were sent, the old one included, none of them is acknowledged.
    Silent,
    /// Some of what this socket sent is acknowledged.
    Heard,
    /// The connection has ended.
    Ended,
}

/// What is known now of the client of a connection that was restored.
///
/// # Errors
/// It is no TCP connection.
pub fn hearing(socket: impl AsFd) -> io::Result<Hearing> {
    let (sent, acknowledged) = repair::progress(&socket)?;
    let established = repair::agreed(socket)?.established;
    Ok(match (acknowledged, sent) {
        (1.., _) => Hearing::Heard,
        _ if !established => Hearing::Ended,
        (0, 0) => Hearing::Unasked,
        (0, _) => Hearing::Silent,
    })
}
