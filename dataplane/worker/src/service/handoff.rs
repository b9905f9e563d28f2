//! A client's connection goes to the owner of what it asked for, or comes from who let
//! it in (decisions/0035). Absent: what is said on it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_ebpf::Ends;
use quickwater_engine::World;
use quickwater_engine::io::Disk;
use quickwater_handoff::{Hearing, STATE_BYTES_MAX, State, freeze, hearing, restore};
use quickwater_peer::{Answer, FrameError, Kind, Relay, TakeConnection, Task, decode};
use quickwater_proto::NodeId;

use super::dispatch::Seen;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::handoff::{Departure, Handoff, Outcome, Parting, ends};
use crate::http::{ConnectionInfo, Place, is_head};
use crate::peer::{CallFailure, Wire, WireError};

/// How long an owner may take to say that it has a connection. Shorter than packets are
/// kept away.
const TAKE_WAIT: Duration = Duration::from_secs(1);
/// How long bytes may be unacknowledged until nobody seems to hear them: several times
/// what the kernel waits before it sends them again.
const SILENCE_WAIT: Duration = Duration::from_secs(5);
/// How long a connection is watched, and how often it is looked at.
const WATCH_WAIT: Duration = Duration::from_secs(60);
const WATCH_PAUSE: Duration = Duration::from_millis(10);
/// Of the message around a state.
const MESSAGE_BYTES: usize = 64;

/// A connection that came.
pub(super) struct Arrived {
    socket: OwnedFd,
    peer: SocketAddr,
    inbound: Vec<u8>,
    place: Place,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// The address a request's client connected to, for the owner, if its connection may
    /// be handed over.
    pub(super) fn may_leave(&self, info: &ConnectionInfo) -> Option<SocketAddr> {
        let handoff = self.handoff.as_ref()?;
        let ends = handoff.may_leave(info.peer, info.service?)?;
        Some(ends.service)
    }

    /// Hands a connection over. Every way out leaves one socket that speaks, or none.
    pub(super) async fn depart(
        &self,
        to: &Departure,
        info: &ConnectionInfo,
        socket: OwnedFd,
        unread: &[u8],
    ) -> Parting {
        let (Some(handoff), Some(service)) = (&self.handoff, info.service) else {
            return Parting::Stayed;
        };
        let ends = ends(info.peer, service);
        let outcome = self.give(handoff, to, &ends, socket, unread).await;
        match outcome {
            Outcome::Given => {}
            // What the client makes of the reset ends the owner's socket, if there is one.
            Outcome::Lost if handoff.forwarding().send_last(&ends, to.mac).is_ok() => {}
            _ => handoff.forwarding().forget(&ends),
        }
        handoff.count(outcome);
        match outcome {
            Outcome::Given => Parting::Gone,
            Outcome::Lost => Parting::Lost,
            _ => Parting::Stayed,
        }
    }

    async fn give(
        &self,
        handoff: &Handoff,
        to: &Departure,
        ends: &Ends,
        socket: OwnedFd,
        unread: &[u8],
    ) -> Outcome {
        let Some(neighbours) = &self.neighbours else {
            return Outcome::Declined;
        };
        if let Err(error) = handoff.forwarding().keep_away(ends) {
            tracing::warn!(%error, "a connection is not handed over");
            return Outcome::Busy;
        }
        let frozen = match freeze(socket, unread) {
            Ok(frozen) => frozen,
            Err((_, refused)) => {
                tracing::debug!(%refused, "a connection is not handed over");
                return Outcome::Unrested;
            }
        };
        let sent_on = handoff.forwarding().send_on(ends, to.mac);
        let state = frozen.state().encode();
        let taken = match sent_on {
            Ok(()) => {
                let message = TakeConnection { state };
                let right = to.right.clone();
                let asked = neighbours
                    .peers
                    .ask_within(&to.node, Task::TakeConnection, right, &message, TAKE_WAIT)
                    .await;
                is_taken(&asked)
            }
            Err(_) => Some(false),
        };
        match taken {
            Some(true) if frozen.is_unchanged() => {
                frozen.release();
                Outcome::Given
            }
            Some(false) => match frozen.thaw() {
                Ok(_) => Outcome::Declined,
                Err(_) => Outcome::Lost,
            },
            // Not known, or the owner lacks bytes: what could be two sockets becomes none.
            Some(true) | None => {
                frozen.reset();
                Outcome::Lost
            }
        }
    }

    /// The connection that a request came by at another worker, if it could come here.
    pub(super) fn could_come(&self, caller: &NodeId, relay: &Relay) -> Option<Ends> {
        let handoff = self.handoff.as_ref()?;
        if relay.service.is_empty() || relay.method != "GET" || !handoff.trials().allow(caller) {
            return None;
        }
        let (client, service) = (relay.client.parse().ok()?, relay.service.parse().ok()?);
        let here = quickwater_ebpf::is_own(SocketAddr::ip(&service)).unwrap_or(false);
        here.then(|| ends(client, service))
    }

    /// Whether a body of so many bytes is better answered on the connection itself, which
    /// is expected from now on.
    pub(super) fn invites(&self, seen: &mut Seen, length: u64) -> bool {
        let (Some(handoff), Some(guest)) = (&self.handoff, &seen.guest) else {
            return false;
        };
        seen.invited = length >= handoff.bytes_min() && handoff.expect(guest);
        seen.invited
    }

    /// Has a connection handed over instead of answering.
    pub(super) async fn send_invitation(
        &self,
        caller: &NodeId,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        let Some(handoff) = &self.handoff else {
            return Err(WireError::Unexpected(Kind::Call));
        };
        handoff.trials().begin(caller);
        let answer = Answer {
            status: 200,
            hand_over: handoff.forwarding().device().mac.to_vec(),
            ..Answer::default()
        };
        wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await
    }

    /// Another worker hands a client's connection over.
    pub(super) async fn host_take(
        &self,
        caller: &NodeId,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        if wire.left() > STATE_BYTES_MAX + MESSAGE_BYTES {
            return Err(FrameError::TooLong.into());
        }
        let take: TakeConnection = decode(&wire.take_all().await?)?;
        let arrived = self.take(&take.state);
        let answer = Answer {
            yes: arrived.is_ok(),
            text: arrived.as_ref().err().cloned().unwrap_or_default(),
            ..Answer::default()
        };
        let sent = wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await;
        // Whoever does not hear of it resets the connection: it is over here, too.
        if let (Ok(arrived), Some(handoff)) = (arrived, &self.handoff) {
            if handoff.trials().is_open(caller) {
                watch(handoff, caller, &arrived.socket);
            }
            let Arrived {
                socket,
                peer,
                inbound,
                place,
            } = arrived;
            self.intake.welcome(socket, peer, inbound, place);
        }
        sent
    }

    /// The text says why it is not taken; then nothing of it is here.
    fn take(&self, state: &[u8]) -> Result<Arrived, String> {
        let handoff = self
            .handoff
            .as_ref()
            .ok_or("connections are not taken here")?;
        let state = State::decode(state).map_err(|bad| bad.to_string())?;
        let ends = ends(state.remote, state.local);
        if !handoff.redeem(&ends) {
            return Err("it is not expected".into());
        }
        // Its access key may be another one here, and later requests are judged here, too.
        let judged = is_head(&state.unread, |view| self.identify(view).is_ok());
        if !judged {
            return Err("its request is not let in here".into());
        }
        let place = self.intake.place().ok_or("too many connections")?;
        let socket = restore(&state).map_err(|error| error.to_string())?;
        handoff.forwarding().expect_no_more(&ends);
        handoff.count(Outcome::Taken);
        Ok(Arrived {
            socket,
            peer: state.remote,
            inbound: state.unread,
            place,
        })
    }
}

/// Whether an owner has a connection that it was asked to take; `None`: nobody knows.
fn is_taken(asked: &Result<(Answer, Vec<u8>), CallFailure>) -> Option<bool> {
    match asked {
        Ok((answer, _)) => Some(answer.yes),
        Err(failed) if failed.begun => None,
        // It never saw the state.
        Err(_) => Some(false),
    }
}

/// Watches the first connection of a worker until its client is heard. It is another
/// descriptor of it that is held meanwhile.
fn watch(handoff: &Arc<Handoff>, from: &NodeId, socket: &OwnedFd) {
    let Ok(socket) = socket.try_clone() else {
        return handoff.trials().end(from, None);
    };
    let (handoff, from) = (Arc::clone(handoff), from.clone());
    monoio::spawn(async move {
        let heard = listen(&socket).await;
        handoff.trials().end(&from, heard);
        if heard == Some(false) {
            handoff.count(Outcome::Unheard);
            tracing::warn!(
                node = %from,
                "clients of another worker do not hear this one: their connections are not taken \
                 for a while (does the network drop what has the address of the service?)"
            );
            // Who answers it stops waiting.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
    });
}

/// Whether a client hears; `None`: there was nothing to hear.
async fn listen(socket: &OwnedFd) -> Option<bool> {
    let until = Instant::now() + WATCH_WAIT;
    let mut silent = None;
    while Instant::now() < until {
        match hearing(socket) {
            Ok(Hearing::Heard) => return Some(true),
            Ok(Hearing::Ended) | Err(_) => return None,
            Ok(Hearing::Unasked) => {}
            Ok(Hearing::Silent) => {
                let since = *silent.get_or_insert_with(Instant::now);
                if since.elapsed() >= SILENCE_WAIT {
                    return Some(false);
                }
            }
        }
        monoio::time::sleep(WATCH_PAUSE).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Failure;

    #[test]
    fn who_did_not_answer_may_have_it() {
        let answer = |yes| {
            let answer = Answer {
                yes,
                ..Answer::default()
            };
            Ok((answer, Vec::new()))
        };
        let failed = |begun| {
            Err(CallFailure {
                begun,
                ..CallFailure::new(Failure::Broken, "")
            })
        };
        assert_eq!(is_taken(&answer(true)), Some(true));
        assert_eq!(is_taken(&answer(false)), Some(false));
        assert_eq!(is_taken(&failed(false)), Some(false), "never asked");
        assert_eq!(is_taken(&failed(true)), None);
    }
}
