//! A client's connection goes to the owner of what it asked for, or on from one owner to
//! the next (decisions/0035). Absent: how it comes (`arrival.rs`), what is said on it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_ebpf::Ends;
use quickwater_engine::World;
use quickwater_engine::io::Disk;
use quickwater_handoff::{Frozen, freeze};
use quickwater_peer::{
    Answer, Capability, ConnectionsEnded, EndedConnection, FrameError, Held, Kind, Relay, SendOn,
    TakeConnection, Task, decode,
};
use quickwater_proto::NodeId;

use super::steps::Step;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::handoff::{Departure, Handoff, Outcome, Parting, Path, ends};
use crate::http::ConnectionInfo;
use crate::peer::{CallFailure, Peers, Wire, WireError};
use crate::runtime::Stop;

/// How long another worker may take to say that it has a connection, or that it sends its
/// packets on. Shorter than packets are kept away.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Of a message about a connection's packets.
const SEND_ON_BYTES_MAX: usize = 256;
/// Connections in a message about those that have ended, and its size.
const ENDED_MAX: usize = 128;
const ENDED_BYTES_MAX: usize = 256 * ENDED_MAX;
/// How long a shard waits until it looks again for connections that have ended.
const ENDED_PAUSE: Duration = Duration::from_secs(1);
/// How long a shard that has ended tells of connections that ended with it, and its pause until
/// it looks again whether their clients have acknowledged that.
const LAST_ENDS_WAIT: Duration = Duration::from_secs(1);
const LAST_ENDS_PAUSE: Duration = Duration::from_millis(50);

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
        if !handoff.is_in_use() {
            return;
        }
        match &info.entry {
            None => relay.service = ends(info.peer, service).service.to_string(),
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
        // Before its socket may go.
        let stay = handoff.stays().leave(&leaving.ends);
        let mark = stay.as_ref().map_or(0, |stay| stay.mark);
        let outcome = leaving.give(socket, unread, mark).await;
        leaving.settle(outcome);
        handoff.count(outcome);
        match outcome {
            Outcome::Given => Parting::Gone,
            Outcome::Lost => Parting::Lost,
            _ => {
                if let Some(stay) = stay {
                    handoff.stays().begin(leaving.ends, stay, Instant::now());
                }
                Parting::Stayed
            }
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

    /// Connections whose packets this host sends on have ended where they go.
    pub(super) async fn host_ended(&self, wire: &mut Wire) -> Result<(), WireError> {
        if wire.left() > ENDED_BYTES_MAX {
            return Err(FrameError::TooLong.into());
        }
        let told: ConnectionsEnded = decode(&wire.take_all().await?)?;
        let answer = Answer {
            yes: self.forget(&told).is_some(),
            ..Answer::default()
        };
        wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await
    }

    /// `None`: not understood, or nothing is handed over here.
    fn forget(&self, told: &ConnectionsEnded) -> Option<()> {
        let forwarding = self.handoff.as_ref()?.forwarding();
        let at = told.at.as_slice().try_into().ok()?;
        for ended in &told.connections {
            let ends = ends(ended.client.parse().ok()?, ended.service.parse().ok()?);
            if let Err(error) = forwarding.end(&ends, at, ended.mark) {
                tracing::warn!(%error, "the entry of a connection that has ended stays");
            }
        }
        Some(())
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

/// Tells entries of their clients' connections that have ended here, until the stop. One
/// shard does it for all. Of a message that is lost nobody is told again: the entry goes when
/// it has been silent for long.
pub async fn tell_of_ends(handoff: Arc<Handoff>, peers: Peers, stop: Stop) {
    while !stop.is_requested() {
        tell_of_found(&handoff, &peers, || !stop.is_requested()).await;
        monoio::time::sleep(ENDED_PAUSE).await;
    }
}

/// Tells entries of connections that ended with this worker's end, within a second. Every shard
/// does it when it has no connections any more: the last one finds what the others had.
pub async fn tell_of_last_ends(handoff: Arc<Handoff>, peers: Peers) {
    let telling = monoio::spawn(async move {
        let until = Instant::now() + LAST_ENDS_WAIT;
        loop {
            match handoff.look_for_last() {
                Ok(more) => {
                    tell_of_found(&handoff, &peers, || true).await;
                    if !more || Instant::now() >= until {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "connections that end here are not found");
                    return;
                }
            }
            monoio::time::sleep(LAST_ENDS_PAUSE).await;
        }
    });
    // An entry that does not answer holds nobody up.
    if monoio::time::timeout(LAST_ENDS_WAIT, telling)
        .await
        .is_err()
    {
        tracing::debug!("not every entry was told of connections that end here");
    }
}

/// Tells entries of what was found, while it may go on.
async fn tell_of_found(handoff: &Handoff, peers: &Peers, may_go_on: impl Fn() -> bool) {
    while may_go_on()
        && let Some((entry, ended)) = handoff.stays().take_ended(ENDED_MAX)
    {
        let message = farewell(handoff, &ended);
        let right = Capability {
            operation: "ConnectionsEnded".into(),
            ..Capability::default()
        };
        let task = Task::ConnectionsEnded;
        let asked = peers.ask_within(&entry, task, right, &message, ANSWER_WAIT);
        if says_yes(&asked.await) != Some(true) {
            let untold = ended.len() + handoff.stays().give_up(&entry);
            tracing::debug!(%entry, untold, "entries of connections that have ended stay");
        }
    }
}

fn farewell(handoff: &Handoff, ended: &[(Ends, u64)]) -> ConnectionsEnded {
    let one = |(ends, mark): &(Ends, u64)| EndedConnection {
        client: ends.client.to_string(),
        service: ends.service.to_string(),
        mark: *mark,
    };
    ConnectionsEnded {
        at: handoff.forwarding().device().mac.to_vec(),
        connections: ended.iter().map(one).collect(),
    }
}

impl Leaving<'_> {
    /// `mark`: by which the entry knows the connection, if that is another worker.
    async fn give(&self, socket: OwnedFd, unread: &[u8], mark: u64) -> Outcome {
        let forwarding = self.handoff.forwarding();
        // Also of packets that others send on: what still comes here would be answered.
        if let Err(error) = forwarding.keep_away(&self.ends) {
            tracing::debug!(%error, "a connection is not handed over");
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
        let mark = match self.send_on(mark).await {
            Some(Some(mark)) => mark,
            Some(None) => return stay(frozen),
            // Only this worker has the state. At worst its client is reset elsewhere.
            None => {
                let outcome = stay(frozen);
                self.tell(self.message((self.to.mac, forwarding.device().mac), false));
                return outcome;
            }
        };
        Step::Turned.reached();
        let message = TakeConnection {
            state: frozen.state().encode(),
            mark,
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
    /// are lost cost more than packets that wait. What the entry knows it by; `None`
    /// within: they do not go. `None`: nobody knows where they go.
    async fn send_on(&self, mark: u64) -> Option<Option<u64>> {
        let forwarding = self.handoff.forwarding();
        match (self.entry, self.guide()) {
            (None, _) => Some(forwarding.send_on(&self.ends, self.to.mac).ok()),
            (Some(_), None) => Some(Some(mark)),
            (Some(_), Some(guide)) => {
                let message = self.message((forwarding.device().mac, self.to.mac), false);
                let turned = says_yes(&self.ask(guide, &message).await)?;
                Some(turned.then_some(mark))
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
