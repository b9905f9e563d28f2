//! Connections of clients that go to the worker that has the bytes: what all shards of a
//! worker share of it. Absent: who hears this worker (`trials`), sockets (`quickwater-handoff`),
//! the program (`quickwater-ebpf`), requests (`service/handoff.rs`).

mod stays;
mod trials;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quickwater_ebpf::{Ends, Forwarding, Full, WINDOW};
use quickwater_handoff::SocketDiag;
use quickwater_peer::Capability;
use quickwater_proto::NodeId;

pub(crate) use stays::Stay;
use stays::Stays;
pub(crate) use trials::Path;
use trials::{Change, Trials};

/// Connections that are expected at a time; more are relayed.
const EXPECTED_MAX: usize = 4_096;
/// How long what the kernel says of this host's addresses is taken for true.
const ADDRESSES_AGE_MAX: Duration = Duration::from_secs(1);

/// What came of connections that could have gone elsewhere, by name, as counted.
pub const OUTCOMES: [&str; 8] = [
    "given", "taken", "declined", "busy", "unrested", "lost", "unheard", "unseen",
];

/// What came of a connection that could have gone elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Another worker has it.
    Given,
    /// This one has it.
    Taken,
    /// The other worker did not take it: relayed.
    Declined,
    /// No place for one more, here or at the other worker: relayed.
    Busy,
    /// Bytes were on their way: relayed.
    Unrested,
    /// Not known whether the other worker has it: reset.
    Lost,
    /// This one had it, and its client did not hear it: ended.
    Unheard,
    /// The program did not see it come, or no longer knows: stays here.
    Unseen,
}

/// What keeps connections from going where their bytes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Ways on which clients do not hear this worker, in words: they are relayed.
    pub unheard: Vec<String>,
    /// What had no place for one more connection lately.
    pub full: Vec<Full>,
    /// Why what keeps connections going without this process is not pinned.
    pub unpinned: Option<String>,
    /// Why the program is on no device: nothing is handed over.
    pub detached: Option<String>,
    /// How often somebody took it off the device, and it was attached again.
    pub attached_again: u64,
}

/// Is told of them, each time that changes.
pub type Tell = Box<dyn Fn(&Troubles) + Send + Sync>;

/// Hands connections over and takes them, for all shards of a worker.
pub struct Handoff {
    forwarding: Forwarding,
    bytes_min: u64,
    expected: Mutex<HashMap<Ends, Guest>>,
    trials: Trials,
    stays: Stays,
    troubles: Mutex<Troubles>,
    tell: Tell,
    own_addresses: OwnAddresses,
    outcomes: [AtomicU64; OUTCOMES.len()],
}

/// A connection that may come.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) ends: Ends,
    /// The worker whose host its client's packets reach; `None`: this one.
    pub(crate) entry: Option<NodeId>,
    /// When it was asked about.
    pub(crate) since: Instant,
}

impl Guest {
    /// On which way its client would hear this worker; `None`: the one of its own clients.
    fn path(&self) -> Option<Path> {
        let entry = self.entry.as_ref()?;
        Some(Path::new(entry, self.ends.client.ip()))
    }

    fn is_welcome(&self) -> bool {
        self.since.elapsed() < WINDOW
    }
}

/// Where a connection is to go.
#[derive(Debug, Clone, PartialEq)]
pub struct Departure {
    pub(crate) node: NodeId,
    pub(crate) mac: [u8; 6],
    pub(crate) right: Capability,
}

impl Departure {
    /// To a worker, by the right it gave to do so, and the device by which it is reached.
    #[must_use]
    pub fn new(node: NodeId, mac: [u8; 6], right: Capability) -> Self {
        Departure { node, mac, right }
    }

    /// The worker.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Somebody else has it.
    Gone,
    /// It is here, as it was.
    Stayed,
    /// It was reset.
    Lost,
}

impl Handoff {
    /// Bodies of at least so many bytes are worth it.
    #[must_use]
    pub fn new(forwarding: Forwarding, bytes_min: u64, tell: Tell) -> Self {
        Handoff {
            forwarding,
            bytes_min,
            expected: Mutex::default(),
            trials: Trials::default(),
            stays: Stays::default(),
            troubles: Mutex::default(),
            tell,
            own_addresses: OwnAddresses::default(),
            outcomes: Default::default(),
        }
    }

    /// What came of connections so far, in the order of [`OUTCOMES`].
    #[must_use]
    pub fn outcomes(&self) -> [u64; OUTCOMES.len()] {
        self.outcomes.each_ref().map(|count| count.load(Relaxed))
    }

    /// The program.
    #[must_use]
    pub fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    /// Looks at what there is to forget: entries that are over, and connections of other
    /// workers' clients that have ended here. To be called now and then, by a thread that may
    /// take its time: a look at every entry, and a question to the kernel for every connection.
    ///
    /// # Errors
    /// The kernel does not tell of connections: those that have ended stay where they are
    /// sent on from until they have been silent for long.
    pub fn look(&self) -> io::Result<()> {
        let (left, removed) = self.forwarding.sweep();
        let (expected, arrivals) = self.forwarding.sweep_others();
        tracing::trace!(left, removed, expected, arrivals, "entries of connections");
        let full = self.forwarding.full(arrivals);
        let kept = self.forwarding.keep_pinned();
        if let Ok(true) = kept {
            tracing::warn!("somebody took pins of ebpf.handoff away: they are there again");
        }
        let attached = self.forwarding.keep_attached();
        if let Ok(true) = attached {
            tracing::warn!(
                "somebody took the program of ebpf.handoff off its device: it is attached again, \
                 and connections that had gone elsewhere may have broken"
            );
        }
        self.tell(|troubles| {
            troubles.full = full;
            troubles.unpinned = kept.err().map(|error| error.to_string());
            troubles.attached_again += u64::from(matches!(attached, Ok(true)));
            // Where the kernel does not tell it is taken to be where it was.
            let detached = attached.err().filter(|_| !self.is_in_use());
            troubles.detached = detached.map(|error| error.to_string());
        });
        self.look_for_ended()
    }

    fn look_for_ended(&self) -> io::Result<()> {
        self.end_where(|sockets, ends| Ok(!sockets.has(ends.service, ends.client)?))
    }

    /// Looks for connections of other workers' clients that have ended with this process: also
    /// those of which its kernel keeps a socket only in case the client says more. Whether there
    /// are others.
    ///
    /// # Errors
    /// As of [`Handoff::look`].
    pub(crate) fn look_for_last(&self) -> io::Result<bool> {
        self.end_where(|sockets, ends| Ok(!sockets.owes(ends.service, ends.client)?))?;
        Ok(!self.stays.here().is_empty())
    }

    fn end_where(
        &self,
        mut has_ended: impl FnMut(&mut SocketDiag, &Ends) -> io::Result<bool>,
    ) -> io::Result<()> {
        let here = self.stays.here();
        if here.is_empty() {
            return Ok(());
        }
        let mut sockets = SocketDiag::open()?;
        let mut gone = Vec::new();
        for (ends, begun) in here {
            if has_ended(&mut sockets, &ends)? {
                gone.push((ends, begun));
            }
        }
        sockets.check()?;
        self.stays.end(&gone);
        Ok(())
    }

    /// Connections of other workers' clients that are here.
    pub(crate) fn stays(&self) -> &Stays {
        &self.stays
    }

    /// Whether connections can go and come: not while the program is on no device.
    pub(crate) fn is_in_use(&self) -> bool {
        self.forwarding.is_attached()
    }

    pub(crate) fn bytes_min(&self) -> u64 {
        self.bytes_min
    }

    /// Whether it is not known that clients of a way hear this worker.
    pub(crate) fn is_open(&self, path: &Path) -> bool {
        self.trials.is_open(path)
    }

    /// A connection was asked for.
    pub(crate) fn begin(&self, guest: &Guest) {
        if let Some(path) = guest.path() {
            self.trials.begin(&path, Instant::now());
        }
    }

    /// It is here, and is watched until [`Handoff::end_watch`].
    pub(crate) fn begin_watch(&self, path: &Path) {
        self.trials.watch(path);
    }

    /// Whether its client was heard; `None`: that is not known.
    pub(crate) fn end_watch(&self, path: &Path, heard: Option<bool>) {
        if heard == Some(false) {
            self.count(Outcome::Unheard);
        }
        match self.trials.end(path, heard, Instant::now()) {
            Change::Nothing => return,
            Change::Fell(pause) => tracing::warn!(
                %path,
                seconds = pause.as_secs(),
                "clients do not hear this worker: their connections are relayed for a while (does \
                 the network drop what has the address of the service?)"
            ),
            Change::Recovered => tracing::info!(%path, "clients hear this worker again"),
        }
        let unheard = self.trials.unheard();
        self.tell(|troubles| troubles.unheard = unheard);
    }

    fn tell(&self, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = lock(&self.troubles);
        let before = troubles.clone();
        change(&mut troubles);
        if *troubles != before {
            (self.tell)(&troubles);
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Whether a connection that was just accepted may leave: all its packets come by the
    /// program. To be asked once.
    pub(crate) fn take_arrival(&self, client: SocketAddr, service: SocketAddr) -> bool {
        let arrived = self.forwarding.take_arrival(&ends(client, service));
        if !arrived {
            self.count(Outcome::Unseen);
        }
        arrived
    }

    /// Whether a connection can be continued here.
    pub(crate) fn is_welcome(&self, guest: &Guest) -> bool {
        let may_come = match &guest.path() {
            // It has come by here before.
            None => true,
            // Two that send a connection's packets to each other would never end.
            Some(path) => {
                self.trials.allow(path, Instant::now()) && !self.forwarding.is_sent_on(&guest.ends)
            }
        };
        may_come && self.is_in_use() && self.own_addresses.have(guest.ends.service.ip())
    }

    /// Packets of a connection may come before it does. `false`: there is no place.
    pub(crate) fn expect(&self, guest: &Guest) -> bool {
        let mut expected = lock(&self.expected);
        if expected.len() >= EXPECTED_MAX {
            expected.retain(|_, guest| guest.is_welcome());
        }
        let room = expected.len() < EXPECTED_MAX && self.forwarding.expect(&guest.ends).is_ok();
        match room {
            true => drop(expected.insert(guest.ends, guest.clone())),
            false => self.count(Outcome::Busy),
        }
        room
    }

    /// What is expected, and is not any more: it can come once.
    pub(crate) fn redeem(&self, ends: &Ends) -> Option<Guest> {
        let guest = lock(&self.expected).remove(ends);
        guest.filter(Guest::is_welcome)
    }

    /// A connection's socket is here: its packets are this host's from now on.
    pub(crate) fn admit(&self, guest: &Guest) {
        self.forwarding.forget(&guest.ends);
        self.forwarding.expect_no_more(&guest.ends);
    }
}

/// The addresses of this host, as they were a moment ago: asking the kernel for them costs as
/// much as relaying a small answer. A connection to one that has gone since is refused when it comes.
#[derive(Debug, Default)]
struct OwnAddresses(Mutex<Option<(Instant, Vec<IpAddr>)>>);

impl OwnAddresses {
    /// `false` also where the kernel does not tell.
    fn have(&self, address: IpAddr) -> bool {
        let mut known = lock(&self.0);
        let is_old = |(since, _): &(Instant, _)| since.elapsed() >= ADDRESSES_AGE_MAX;
        if known.as_ref().is_none_or(is_old) {
            let told = quickwater_ebpf::own_addresses();
            let told = told.inspect_err(|error| tracing::debug!(%error, "addresses of this host"));
            *known = told.ok().map(|addresses| (Instant::now(), addresses));
        }
        let address = address.to_canonical();
        known
            .as_ref()
            .is_some_and(|(_, own)| own.contains(&address))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn ends(client: SocketAddr, service: SocketAddr) -> Ends {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    Ends {
        client: plain(client),
        service: plain(service),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_host_are_its_own_by_any_socket() {
        let own = OwnAddresses::default();
        for _ in 0..2 {
            assert!(own.have("127.0.0.1".parse().unwrap()));
            assert!(own.have("::ffff:127.0.0.1".parse().unwrap()));
            assert!(!own.have("192.0.2.1".parse().unwrap()));
        }
    }

    #[test]
    fn the_ends_of_a_connection_are_the_same_by_any_socket() {
        let four = ends(
            "10.0.0.1:7".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
        );
        let both = ends(
            "[::ffff:10.0.0.1]:7".parse().unwrap(),
            "[::ffff:10.0.0.2]:80".parse().unwrap(),
        );
        assert_eq!(four, both);
    }
}
