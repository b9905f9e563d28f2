//! A client's connection goes to the owner of what it asked for, or on from one owner to
//! the next (decisions/0035). Absent: how it comes (`arrival.rs`), what is said on it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use quickwater_ebpf::Ends;
use quickwater_engine::World;
use quickwater_engine::io::Disk;
use quickwater_handoff::{Frozen, freeze};
use quickwater_peer::{
    Answer, FrameError, Held, Kind, Relay, SendOn, TakeConnection, Task, decode,
};
use quickwater_proto::NodeId;

use super::steps::Step;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::handoff::{Departure, Handoff, Outcome, Parting, Path, ends};
use crate::http::ConnectionInfo;
use crate::peer::{CallFailure, Peers, Wire, WireError};

/// How long another worker may take to say that it has a connection, or that it sends its
/// packets on. Shorter than packets are kept away.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Of a message about a connection's packets.
const SEND_ON_BYTES_MAX: usize = 256;

/// A connection that leaves.
struct Leaving<'a> {
    handoff: &'a Handoff,
    peers: &'a Peers,
    to: &'a Departure,
    ends: Ends,
    /// The worker whose host the client's packets reach; `None`: this one.
    entry: Option<&'a NodeId>,
}

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// Says in a request for its owner that its connection may be handed over, if so.
    pub(super) fn offer(&self, info: &ConnectionInfo, relay: &mut Relay) {
        let (Some(handoff), Some(service)) = (&self.handoff, info.service) else {
            return;
        };
        match &info.entry {
            None => {
                if let Some(ends) = handoff.may_leave(info.peer, service) {
                    relay.service = ends.service.to_string();
                }
            }
            // The one that is watched stays until its client is heard.
            Some(entry) if handoff.is_open(&Path::new(entry, info.peer.ip())) => {}
            Some(entry) => {
                relay.held = Some(Held {
                    service: ends(info.peer, service).service.to_string(),
                    entry: entry.as_str().to_owned(),
                });
            }
        }
    }

    /// Hands a connection over. Every way out leaves one socket that speaks, or none.
    pub(super) async fn depart(
        &self,
        to: &Departure,
        info: &ConnectionInfo,
        socket: OwnedFd,
        unread: &[u8],
    ) -> Parting {
        let (Some(handoff), Some(neighbours), Some(service)) =
            (&self.handoff, &self.neighbours, info.service)
        else {
            return Parting::Stayed;
        };
        let leaving = Leaving {
            handoff,
            peers: &neighbours.peers,
            to,
            ends: ends(info.peer, service),
            entry: info.entry.as_ref(),
        };
        let outcome = leaving.give(socket, unread).await;
        leaving.settle(outcome);
        handoff.count(outcome);
        match outcome {
            Outcome::Given => Parting::Gone,
            Outcome::Lost => Parting::Lost,
            _ => Parting::Stayed,
        }
    }

    /// Another worker has a connection whose packets reach this host, and gives it away.
    pub(super) async fn host_send_on(&self, wire: &mut Wire) -> Result<(), WireError> {
        if wire.left() > SEND_ON_BYTES_MAX {
            return Err(FrameError::TooLong.into());
        }
        let asked: SendOn = decode(&wire.take_all().await?)?;
        Step::Guiding.reached();
        let answer = Answer {
            yes: self.redirect(&asked).unwrap_or(false),
            ..Answer::default()
        };
        Step::Guided.reached();
        wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await
    }

    /// `None`: not understood, or nothing is handed over here.
    fn redirect(&self, asked: &SendOn) -> Option<bool> {
        let handoff = self.handoff.as_ref()?;
        let ends = ends(asked.client.parse().ok()?, asked.service.parse().ok()?);
        let from = asked.from.as_slice().try_into().ok()?;
        let to = asked.to.as_slice().try_into().ok()?;
        let turned = handoff.forwarding().redirect(&ends, (from, to), asked.last);
        turned
            .inspect_err(
                |error| tracing::warn!(%error, "a connection's packets go where they went"),
            )
            .ok()
    }
}

impl Leaving<'_> {
    async fn give(&self, socket: OwnedFd, unread: &[u8]) -> Outcome {
        let forwarding = self.handoff.forwarding();
        // Also of packets that others send on: what still comes here would be answered.
        if let Err(error) = forwarding.keep_away(&self.ends) {
            tracing::warn!(%error, "a connection is not handed over");
            return Outcome::Busy;
        }
        Step::KeptAway.reached();
        let frozen = match freeze(socket, unread) {
            Ok(frozen) => frozen,
            Err((_, refused)) => {
                tracing::debug!(%refused, "a connection is not handed over");
                return Outcome::Unrested;
            }
        };
        Step::Frozen.reached();
        match self.send_on().await {
            Some(true) => Step::Turned.reached(),
            Some(false) => return stay(frozen),
            // Only this worker has the state. At worst its client is reset elsewhere.
            None => {
                let outcome = stay(frozen);
                self.tell(self.message((self.to.mac, forwarding.device().mac), false));
                return outcome;
            }
        }
        let message = TakeConnection {
            state: frozen.state().encode(),
        };
        let right = self.to.right.clone();
        let asked = self
            .peers
            .ask_within(
                &self.to.node,
                Task::TakeConnection,
                right,
                &message,
                ANSWER_WAIT,
            )
            .await;
        let answered = says_yes(&asked);
        if answered == Some(true) {
            Step::Given.reached();
        }
        match answered {
            Some(true) if frozen.is_unchanged() => {
                frozen.release();
                Outcome::Given
            }
            Some(false) if self.send_back().await => stay(frozen),
            // Not known, or the other worker lacks bytes: what could be two sockets becomes
            // none. Or packets do not come here any more.
            _ => {
                frozen.reset();
                Outcome::Lost
            }
        }
    }

    /// Whether the entry has to be asked to send packets to another worker: it does
    /// nothing for a connection that comes back to it until it has it.
    fn guide(&self) -> Option<&NodeId> {
        self.entry.filter(|entry| **entry != self.to.node)
    }

    /// Has packets go to the other worker before it has the socket: acknowledgements that
    /// are lost cost more than packets that wait. `None`: nobody knows where they go.
    async fn send_on(&self) -> Option<bool> {
        let forwarding = self.handoff.forwarding();
        match (self.entry, self.guide()) {
            (None, _) => Some(forwarding.send_on(&self.ends, self.to.mac).is_ok()),
            (Some(_), None) => Some(true),
            (Some(_), Some(guide)) => {
                let message = self.message((forwarding.device().mac, self.to.mac), false);
                says_yes(&self.ask(guide, &message).await)
            }
        }
    }

    /// Has packets come here again. `false`: they may not.
    async fn send_back(&self) -> bool {
        let Some(guide) = self.guide() else {
            return true;
        };
        let forwarding = self.handoff.forwarding();
        if forwarding.keep_away(&self.ends).is_err() {
            return false;
        }
        let message = self.message((self.to.mac, forwarding.device().mac), false);
        says_yes(&self.ask(guide, &message).await) == Some(true)
    }

    /// What becomes of the connection's packets.
    fn settle(&self, outcome: Outcome) {
        let forwarding = self.handoff.forwarding();
        match (outcome, self.entry) {
            // They go on; or those that were on their way to here are still dropped.
            (Outcome::Given, _) => {}
            // What the client makes of the reset ends the owner's socket, if there is one.
            (Outcome::Lost, None) if forwarding.send_last(&self.ends, self.to.mac).is_ok() => {}
            (Outcome::Lost, Some(_)) => {
                self.tell(self.message((forwarding.device().mac, self.to.mac), true));
                forwarding.forget(&self.ends);
            }
            _ => forwarding.forget(&self.ends),
        }
    }

    fn message(&self, (from, to): ([u8; 6], [u8; 6]), last: bool) -> SendOn {
        SendOn {
            client: self.ends.client.to_string(),
            service: self.ends.service.to_string(),
            from: from.to_vec(),
            to: to.to_vec(),
            last,
        }
    }

    /// The same to the entry, if that is another worker; nobody waits for it.
    fn tell(&self, message: SendOn) {
        let Some(entry) = self.entry.cloned() else {
            return;
        };
        let (peers, right) = (self.peers.clone(), self.to.right.clone());
        monoio::spawn(async move {
            let asked = peers
                .ask_within(&entry, Task::SendOn, right, &message, ANSWER_WAIT)
                .await;
            if says_yes(&asked) != Some(true) {
                tracing::debug!(%entry, "a connection's packets go where they went");
            }
        });
    }

    /// Asks the entry.
    async fn ask(
        &self,
        guide: &NodeId,
        message: &SendOn,
    ) -> Result<(Answer, Vec<u8>), CallFailure> {
        let right = self.to.right.clone();
        self.peers
            .ask_within(guide, Task::SendOn, right, message, ANSWER_WAIT)
            .await
    }
}

/// The connection is answered here.
fn stay(frozen: Frozen) -> Outcome {
    match frozen.thaw() {
        Ok(_) => Outcome::Declined,
        Err(_) => Outcome::Lost,
    }
}

/// Whether another worker did what it was asked for; `None`: nobody knows.
fn says_yes(asked: &Result<(Answer, Vec<u8>), CallFailure>) -> Option<bool> {
    match asked {
        Ok((answer, _)) => Some(answer.yes),
        Err(failed) if failed.begun => None,
        // It never heard of it.
        Err(_) => Some(false),
    }
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
        assert_eq!(says_yes(&answer(true)), Some(true));
        assert_eq!(says_yes(&answer(false)), Some(false));
        assert_eq!(says_yes(&failed(false)), Some(false), "never asked");
        assert_eq!(says_yes(&failed(true)), None);
    }
}
