//! Whether connections can be frozen and restored here at all: one of our own is.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::freeze::{Refused, freeze};
use crate::restore::{RestoreError, restore};

/// No wait of the probe is longer.
const PATIENCE: Duration = Duration::from_secs(5);
const QUESTION: &[u8] = b"a question";
const ANSWER: &[u8] = b"an answer";

/// Why connections cannot be handed over here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A connection of our own, over the loopback, failed before it was frozen.
    #[error("a probe connection: {0}")]
    Connection(#[from] io::Error),
    /// It could not be frozen.
    #[error(transparent)]
    Freeze(#[from] Refused),
    /// It could not be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It was restored and did not go on.
    #[error("a restored connection does not go on: {0}")]
    Dead(io::Error),
}

/// Freezes and restores a connection over the loopback and has both ends speak.
/// Blocks for a moment, at most a few seconds.
///
/// # Errors
/// It cannot be done here, for one for want of CAP_NET_ADMIN.
pub fn probe() -> Result<(), ProbeError> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let mut client = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(PATIENCE))?;
    client.write_all(QUESTION)?;
    let mut question = [0; QUESTION.len()];
    server.read_exact(&mut question)?;
    let frozen = freeze(server.into(), &question).map_err(|(_, refused)| refused)?;
    let state = frozen.state().clone();
    frozen.release();
    let restored = restore(&state)?.begin().map_err(ProbeError::Dead)?;
    let mut restored = TcpStream::from(restored);
    let mut spoken = || -> io::Result<bool> {
        restored.set_read_timeout(Some(PATIENCE))?;
        restored.write_all(ANSWER)?;
        let mut answer = [0; ANSWER.len()];
        client.read_exact(&mut answer)?;
        client.write_all(QUESTION)?;
        let mut question = [0; QUESTION.len()];
        restored.read_exact(&mut question)?;
        Ok(answer == ANSWER && question == QUESTION)
    };
    match spoken() {
        Ok(true) if state.unread == QUESTION => Ok(()),
        Ok(_) => Err(ProbeError::Dead(io::ErrorKind::InvalidData.into())),
        Err(error) => Err(ProbeError::Dead(error)),
    }
}
