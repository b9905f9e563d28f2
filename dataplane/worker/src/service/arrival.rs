//! A client's connection comes from another worker, which has it or let it in
//! (decisions/0035). Absent: how it leaves (`handoff.rs`), what is said on it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quickwater_engine::World;
use quickwater_engine::io::Disk;
use quickwater_handoff::{Hearing, STATE_BYTES_MAX, State, hearing, restore};
use quickwater_peer::{Answer, FrameError, Kind, Relay, TakeConnection, decode};
use quickwater_proto::NodeId;

use super::dispatch::Seen;
use super::steps::Step;
use super::{Observer, S3Service};
use crate::buffers::PoolBuf;
use crate::handoff::{Guest, Handoff, Outcome, Path, Stay, ends};
use crate::http::{Arrival, Place, is_head};
use crate::peer::{Wire, WireError};

/// How long bytes may be unacknowledged until nobody seems to hear them: several times
/// what the kernel waits before it sends them again.
const SILENCE_WAIT: Duration = Duration::from_secs(5);
/// How long a client that ends its connection must have been silent to be one that may hear
/// nothing: others end it right after they asked.
const PATIENCE_LEAST: Duration = Duration::from_millis(500);
/// How often a connection is looked at: soon, so that it can go on to the next worker, and then
/// less often.
const WATCH_PAUSE: Duration = Duration::from_millis(1);
const WATCH_PAUSE_MAX: Duration = Duration::from_millis(10);
/// Of the message around a state.
const MESSAGE_BYTES: usize = 64;

impl<W, O> S3Service<W, O>
where
    W: World,
    W::Disk: Disk<Buffer = PoolBuf> + Clone,
    O: Observer,
{
    /// The connection that a request came by at another worker, if it could come here.
    pub(super) fn could_come(&self, caller: &NodeId, relay: &Relay) -> Option<Guest> {
        self.handoff.as_ref()?;
        let neighbours = self.neighbours.as_ref()?;
        let (service, entry) = match &relay.held {
            Some(held) => (&held.service, NodeId::new(&held.entry).ok()?),
            None => (&relay.service, caller.clone()),
        };
        if service.is_empty() || relay.method != "GET" {
            return None;
        }
        let ends = ends(relay.client.parse().ok()?, service.parse().ok()?);
        let entry = (entry != *neighbours.peers.directory().node()).then_some(entry);
        Some(Guest {
            ends,
            entry,
            since: Instant::now(),
        })
    }

    /// Whether a body of so many bytes is better answered on the connection itself, which
    /// is expected from now on.
    pub(super) fn invites(&self, seen: &mut Seen, length: u64) -> bool {
        let (Some(handoff), Some(guest)) = (&self.handoff, &seen.guest) else {
            return false;
        };
        // Most answers are small: the kernel is asked for the others alone.
        let welcome = length >= handoff.bytes_min() && handoff.is_welcome(guest);
        seen.invited = welcome && handoff.expect(guest);
        if seen.invited {
            Step::Asked.reached();
        }
        seen.invited
    }

    /// Has a connection handed over instead of answering.
    pub(super) async fn send_invitation(
        &self,
        guest: Option<&Guest>,
        wire: &mut Wire,
    ) -> Result<(), WireError> {
        let (Some(handoff), Some(guest)) = (&self.handoff, guest) else {
            return Err(WireError::Unexpected(Kind::Call));
        };
        handoff.begin(guest);
        let answer = Answer {
            status: 200,
            hand_over: handoff.forwarding().device().mac.to_vec(),
            ..Answer::default()
        };
        wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await
    }

    /// Another worker hands a client's connection over.
    pub(super) async fn host_take(&self, wire: &mut Wire) -> Result<(), WireError> {
        if wire.left() > STATE_BYTES_MAX + MESSAGE_BYTES {
            return Err(FrameError::TooLong.into());
        }
        let take: TakeConnection = decode(&wire.take_all().await?)?;
        Step::Received.reached();
        let arrived = self.take(&take.state, take.mark);
        if arrived.is_ok() {
            Step::Restored.reached();
        }
        let answer = Answer {
            yes: arrived.is_ok(),
            text: arrived.as_ref().err().cloned().unwrap_or_default(),
            ..Answer::default()
        };
        let sent = wire.send(Kind::Answer, &answer, &[], Duration::ZERO).await;
        if arrived.is_ok() {
            Step::Told.reached();
        }
        // Whoever does not hear of it resets the connection: it is over here, too.
        if let (Ok((arrival, place)), Some(handoff)) = (arrived, &self.handoff) {
            if let Some(entry) = &arrival.entry {
                let path = Path::new(entry, arrival.peer.ip());
                watch(handoff, path, &arrival.socket);
            }
            self.intake.welcome(arrival, place);
        }
        sent
    }

    /// The text says why it is not taken; then nothing of it is here.
    fn take(&self, state: &[u8], mark: u64) -> Result<(Arrival, Place), String> {
        let handoff = self
            .handoff
            .as_ref()
            .ok_or("connections are not taken here")?;
        let state = State::decode(state).map_err(|bad| bad.to_string())?;
        let guest = handoff.redeem(&ends(state.remote, state.local));
        let guest = guest.ok_or("it is not expected")?;
        // Its access key may be another one here, and later requests are judged here, too.
        let judged = is_head(&state.unread, |view| self.identify(view).is_ok());
        if !judged {
            return Err("its request is not let in here".into());
        }
        let place = self.intake.place().ok_or("too many connections")?;
        let restored = restore(&state).map_err(|error| error.to_string())?;
        handoff.admit(&guest);
        let socket = restored.begin().map_err(|error| error.to_string())?;
        handoff.count(Outcome::Taken);
        if let (Some(entry), 1..) = (&guest.entry, mark) {
            let entry = entry.clone();
            handoff
                .stays()
                .begin(guest.ends, Stay { entry, mark }, Instant::now());
        }
        let arrival = Arrival {
            socket,
            peer: state.remote,
            entry: guest.entry,
            inbound: state.unread,
        };
        Ok((arrival, place))
    }
}

/// Watches a connection until its client is heard: as a rule for one round trip. It is another
/// descriptor of it that is held meanwhile.
fn watch(handoff: &Arc<Handoff>, path: Path, socket: &OwnedFd) {
    handoff.begin_watch(&path);
    let Ok(socket) = socket.try_clone() else {
        return handoff.end_watch(&path, None);
    };
    let handoff = Arc::clone(handoff);
    monoio::spawn(async move {
        let heard = listen(&socket).await;
        handoff.end_watch(&path, heard);
        if heard == Some(false) {
            // Who answers it stops waiting.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
    });
}

/// Whether a client hears; `None`: it was not asked, or was gone at once.
async fn listen(socket: &OwnedFd) -> Option<bool> {
    let (begun, mut pause) = (Instant::now(), WATCH_PAUSE);
    loop {
        let silent = begun.elapsed();
        match hearing(socket) {
            Ok(Hearing::Heard) => return Some(true),
            // A client that waited for an answer and gave up.
            Ok(Hearing::Ended) => return (silent >= PATIENCE_LEAST).then_some(false),
            Ok(Hearing::Unasked) | Err(_) => return None,
            Ok(Hearing::Silent) if silent >= SILENCE_WAIT => return Some(false),
            Ok(Hearing::Silent) => {}
        }
        monoio::time::sleep(pause).await;
        pause = (pause * 2).min(WATCH_PAUSE_MAX);
    }
}
