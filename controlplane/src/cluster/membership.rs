//! Who is a member, whose lease lives, and which table follows from it. Pure: time
//! is handed in, rows and streams are elsewhere.
//!
//! A slot never has two owners: it goes from one to nobody, and on to the next only
//! when the first has said that it let go, or its lease is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quickwater_proto::{NodeId, SlotTable};

use super::placement::{Candidate, owner};
use super::traffic::Moved;
use crate::records::Member;

/// How long slots that a worker could not give away stay with it before it is asked
/// again.
const KEPT_PAUSE: Duration = Duration::from_secs(10);

/// What a worker says with every heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beat {
    /// The newest table it goes by.
    pub epoch: u64,
    /// Slots taken by that table that it cannot give away yet.
    pub kept: BTreeSet<usize>,
    /// How it is, for people.
    pub state: String,
    /// Bytes of its cache in use.
    pub used_bytes: u64,
    /// Bytes of it that no UFS has.
    pub dirty_bytes: u64,
    /// It has bytes, or knows of changes, that no UFS has: of its slots it can give away
    /// only those that it says it can.
    pub holds: bool,
    /// Slots that others should have, and that it can give away all the same.
    pub ready: BTreeSet<usize>,
    /// It ends soon: it is to have no slots if there are others.
    pub stopping: bool,
    /// Changes that it has queued for UFSs.
    pub changes: u64,
    /// Objects that no UFS is to get.
    pub transient_objects: u64,
    /// Copies that it keeps for other workers; `None`: it does not say.
    pub copies_kept: Option<u64>,
    /// Bodies that no UFS has, and that are neither queued nor TRANSIENT nor copies: parts of
    /// open uploads, and what is being written. `None`: it does not say; nor does it know
    /// while it has changes or TRANSIENT objects.
    pub parts_held: Option<u64>,
    /// It knows that it is to get rid of what only it has.
    pub draining: bool,
    /// Optional parts of it, and its certificate.
    pub parts: Vec<Part>,
    /// What its process has done; `None`: it does not say.
    pub moved: Option<Moved>,
}

/// Whether an optional part of a worker is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Such as `ebpf.reuseport`.
    pub name: String,
    /// `on`, `off`, `not_built` or `refused`.
    pub state: String,
    /// What that means there, in a sentence.
    pub detail: String,
}

/// A member as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// What it said when it registered.
    pub member: Member,
    /// Its session.
    pub session: u64,
    /// When its lease ends, by the clock handed in.
    pub lease_until: Duration,
    /// What it said last.
    pub beat: Beat,
    /// When that was, by the same clock; none: not since this process began.
    pub heard: Option<Duration>,
    /// The last of its sessions whose lease ended before the next one began: others may
    /// have got what it held.
    over: u64,
    /// Its session was opened by a process that ended, which may have granted leases
    /// of another length: it has to register again.
    of_before: bool,
    /// What it could not give away last, by which table, and until when that counts.
    kept: (u64, BTreeSet<usize>),
    kept_until: Duration,
}

impl Seat {
    /// Whether this session, opened by this process, is the one that counts.
    #[must_use]
    pub fn attends(&self, session: u64) -> bool {
        self.session == session && !self.of_before && !self.member.gone
    }

    /// Whether its lease is not over, and it did not leave.
    #[must_use]
    pub fn is_live(&self, now: Duration) -> bool {
        !self.member.gone && now < self.lease_until
    }

    /// Whether it is to have no slots, if there are others to have them.
    #[must_use]
    pub fn goes(&self) -> bool {
        self.member.draining || self.beat.stopping
    }

    /// Whether it told anything since this process began. Who did not may be dead: that its
    /// lease may last keeps what it has from others, and is no reason to give it more.
    fn was_heard(&self) -> bool {
        self.heard.is_some()
    }

    fn may_give(&self, slot: usize) -> bool {
        !self.beat.holds || self.beat.ready.contains(&slot)
    }
}

/// All members and the table in force.
#[derive(Debug)]
pub struct Membership {
    lease: Duration,
    table: SlotTable,
    seats: BTreeMap<NodeId, Seat>,
    wanted: Wanted,
    /// Those whose slots nobody else may have although they have no session: they have
    /// seen more of the metadata than there is here.
    held: BTreeSet<NodeId>,
}

/// Who should own each slot, kept because it is asked several times a second and
/// takes a hash per slot and member.
#[derive(Debug, Default)]
struct Wanted {
    candidates: Vec<Candidate>,
    /// Numbers of candidates, by slot.
    owners: Vec<usize>,
    /// Those of them that were heard: only they get what they do not have.
    heard: Vec<Candidate>,
    /// The table that is exactly so.
    settled: Option<u64>,
}

impl Wanted {
    fn by(&mut self, candidates: Vec<Candidate>) {
        if self.candidates == candidates && !self.owners.is_empty() {
            return;
        }
        let number = |slot| {
            let best = owner(slot, &candidates);
            let at = best.and_then(|best| candidates.iter().position(|c| c.node == best.node));
            at.unwrap_or(usize::MAX)
        };
        self.owners = (0..quickwater_proto::SLOTS).map(number).collect();
        self.candidates = candidates;
        self.settled = None;
    }

    fn owner(&self, slot: usize) -> Option<&NodeId> {
        let at = *self.owners.get(slot)?;
        self.candidates.get(at).map(|candidate| &candidate.node)
    }
}

/// A table to be put in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Move {
    /// The new table.
    pub table: SlotTable,
    /// Who loses slots by it: their commits judged by an older table are void.
    pub losers: BTreeSet<NodeId>,
}

impl Membership {
    /// From what is stored. Whoever is a member may have been granted a lease just
    /// before by a process that ended: it is taken to last its whole length, be it
    /// longer than those granted now.
    #[must_use]
    pub fn load(
        lease: Duration,
        table: SlotTable,
        members: impl IntoIterator<Item = (Member, u64)>,
        now: Duration,
    ) -> Self {
        let mut membership = Self {
            lease,
            table,
            seats: BTreeMap::new(),
            wanted: Wanted::default(),
            held: BTreeSet::new(),
        };
        for (member, session) in members {
            let node = member.node.clone();
            membership.register(member, session, now);
            let clear = membership.table.is_clear_of(&node);
            if let Some(seat) = membership.seats.get_mut(&node) {
                seat.of_before = true;
                seat.heard = None;
                // It let go of all it had, or it was taken from it.
                seat.over = if clear { session } else { 0 };
            }
        }
        membership
    }

    /// The table in force.
    #[must_use]
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// Takes over a table that is stored.
    pub fn set_table(&mut self, table: SlotTable) {
        self.table = table;
    }

    /// All members.
    pub fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.seats.values()
    }

    /// Of every node the last session that may have lost slots without letting go of
    /// them: its lease is over, or it is gone.
    #[must_use]
    pub fn over(&self, now: Duration) -> Vec<(NodeId, u64)> {
        let one = |seat: &Seat| {
            let over = match self.lives(&seat.member.node, now) {
                Some(_) => seat.over,
                None => seat.session,
            };
            (seat.member.node.clone(), over)
        };
        self.seats.values().map(one).collect()
    }

    /// One member.
    #[must_use]
    pub fn seat(&self, node: &NodeId) -> Option<&Seat> {
        self.seats.get(node)
    }

    /// How long another process under this name may still answer for its slots:
    /// the same store is locked by one process, so with it there is no other.
    #[must_use]
    pub fn other_lives(&self, node: &NodeId, store: &[u8], now: Duration) -> Option<Duration> {
        let seat = self.seats.get(node)?;
        let other = !seat.member.gone && seat.member.store != store;
        let left = seat.lease_until.checked_sub(now)?;
        (other && !left.is_zero()).then_some(left)
    }

    /// The longest lease that may run once a node has registered.
    #[must_use]
    pub fn longest_lease(&self, node: &NodeId, now: Duration) -> Duration {
        let earlier = self.seats.get(node).filter(|seat| now < seat.lease_until);
        let earlier = earlier.map_or(0, |seat| seat.member.lease_ms);
        self.lease.max(Duration::from_millis(earlier))
    }

    /// A session began, and with it a lease.
    pub fn register(&mut self, member: Member, session: u64, now: Duration) {
        // What it was granted before it may still go by.
        let earlier = self.seats.get(&member.node).map(|seat| seat.lease_until);
        let lease = self.lease.max(Duration::from_millis(member.lease_ms));
        let granted = now + self.lease;
        let lease_until = match earlier {
            Some(earlier) => earlier.max(granted),
            None => now + lease,
        };
        let over = match self.seats.get(&member.node) {
            Some(seat) if seat.member.gone || now >= seat.lease_until => seat.session,
            Some(seat) => seat.over,
            None => 0,
        };
        let seat = Seat {
            session,
            lease_until,
            // Until it has looked, it may have anything: nothing is moved from under it.
            beat: Beat {
                holds: true,
                ..Beat::default()
            },
            heard: Some(now),
            over,
            of_before: false,
            kept: (0, BTreeSet::new()),
            kept_until: now,
            member,
        };
        self.seats.insert(seat.member.node.clone(), seat);
    }

    /// A heartbeat renews the lease; `false`: it is not of the session that counts.
    pub fn beat(&mut self, node: &NodeId, session: u64, beat: Beat, now: Duration) -> bool {
        let Some(seat) = self.seats.get_mut(node) else {
            return false;
        };
        // Once its lease is over others may hold its slots: it has to see the table
        // first, which it does by registering again.
        if !seat.attends(session) || now >= seat.lease_until {
            return false;
        }
        seat.lease_until = seat.lease_until.max(now + self.lease);
        // It says so until it goes by the next table: that is one answer.
        if !beat.kept.is_empty() && beat.epoch > seat.kept.0 {
            seat.kept = (beat.epoch, beat.kept.clone());
            seat.kept_until = now + KEPT_PAUSE;
        }
        seat.beat = beat;
        seat.heard = Some(now);
        true
    }

    /// It holds nothing any more.
    pub fn leave(&mut self, node: &NodeId, session: u64) {
        if let Some(seat) = self.seats.get_mut(node)
            && seat.session == session
        {
            seat.member.gone = true;
        }
    }

    /// It is to have no slots, or may have some again.
    pub fn drain(&mut self, node: &NodeId, draining: bool) {
        if let Some(seat) = self.seats.get_mut(node) {
            seat.member.draining = draining;
        }
    }

    /// It is lost: it holds nothing any more, and what only it had is gone.
    pub fn remove(&mut self, node: &NodeId, session: u64) {
        if let Some(seat) = self.seats.get_mut(node) {
            seat.session = session;
            seat.member.gone = true;
            seat.member.removed = true;
        }
        self.held.remove(node);
    }

    /// Whether another worker may have the slots of this one, now or as soon as it is heard.
    #[must_use]
    pub fn others(&self, node: &NodeId, now: Duration) -> bool {
        let other = |seat: &Seat| seat.member.node != *node && !seat.goes();
        let mut seats = self.seats.values();
        seats.any(|seat| other(seat) && self.lives(&seat.member.node, now).is_some())
    }

    /// Slots of a worker that others should have, as of the last [`Membership::plan`].
    #[must_use]
    pub fn elsewhere(&self, node: &NodeId) -> Vec<usize> {
        if self.wanted.settled == Some(self.table.epoch) {
            return Vec::new();
        }
        let Some(seat) = self.seats.get(node) else {
            return Vec::new();
        };
        let moves =
            |slot: &usize| self.table.owner(*slot) == Some(node) && self.should_go(*slot, seat);
        (0..quickwater_proto::SLOTS).filter(moves).collect()
    }

    /// Those who may have slots. When all are being drained or end, they keep serving.
    fn candidates(&self, now: Duration) -> Vec<Candidate> {
        let live = self.seats.values();
        let live = live.filter(|seat| self.lives(&seat.member.node, now).is_some());
        let (draining, staying): (Vec<&Seat>, Vec<&Seat>) = live.partition(|seat| seat.goes());
        let seats = if staying.is_empty() {
            draining
        } else {
            staying
        };
        let candidate = |seat: &Seat| Candidate {
            node: seat.member.node.clone(),
            weight: seat.member.capacity_bytes,
            zone: seat.member.zone.clone(),
        };
        seats.into_iter().map(candidate).collect()
    }

    /// Whether a node may answer for its slots.
    fn lives(&self, node: &NodeId, now: Duration) -> Option<&Seat> {
        let seat = self.seats.get(node)?;
        seat.is_live(now).then_some(seat)
    }

    /// The table that should follow now; none: all is as it should be.
    #[must_use]
    pub fn plan(&mut self, now: Duration) -> Option<Move> {
        let candidates = self.candidates(now);
        let heard = candidates.iter().filter(|one| self.was_heard(&one.node));
        self.wanted.heard = heard.cloned().collect();
        self.wanted.by(candidates);
        if self.wanted.settled == Some(self.table.epoch) {
            return None;
        }
        let epoch = self.table.epoch + 1;
        let table = SlotTable::from_slots(epoch, |slot| self.next(slot, now));
        let mut losers = BTreeSet::new();
        let mut changed = false;
        for slot in 0..quickwater_proto::SLOTS {
            let (before, after) = (self.table.owner(slot), table.owner(slot));
            changed |= before != after || self.table.yielding(slot) != table.yielding(slot);
            if before != after {
                losers.extend(before.cloned());
            }
        }
        let as_wanted = |slot| self.table.owner(slot) == self.wanted.owner(slot);
        if !changed && (0..quickwater_proto::SLOTS).all(as_wanted) {
            self.wanted.settled = Some(self.table.epoch);
        }
        changed.then_some(Move { table, losers })
    }

    /// Nobody else gets the slots of a node, or they are free again.
    pub fn hold(&mut self, node: &NodeId, held: bool) {
        match held {
            true => self.held.insert(node.clone()),
            false => self.held.remove(node),
        };
    }

    /// Who gets a slot that nobody has: who should have it, or as long as that one was not
    /// heard, the best of those who were.
    fn taker(&self, slot: usize) -> Option<&NodeId> {
        let wanted = self.wanted.owner(slot)?;
        if self.was_heard(wanted) {
            return Some(wanted);
        }
        owner(slot, &self.wanted.heard).map(|best| &best.node)
    }

    fn was_heard(&self, node: &NodeId) -> bool {
        self.seats.get(node).is_some_and(Seat::was_heard)
    }

    /// Whether another one should have a slot of a worker that lives. It is not asked for what
    /// would go to somebody whom nobody has heard; one that goes gives it to others.
    fn should_go(&self, slot: usize, seat: &Seat) -> bool {
        let node = &seat.member.node;
        let taken_by_other = || self.taker(slot).is_some_and(|taker| taker != node);
        self.wanted.owner(slot).is_some_and(|wanted| {
            wanted != node && (self.was_heard(wanted) || (seat.goes() && taken_by_other()))
        })
    }

    /// Owner of a slot in the next table, or else who has to let go of it.
    fn next(&self, slot: usize, now: Duration) -> (Option<&NodeId>, Option<&NodeId>) {
        if let Some(current) = self.table.owner(slot) {
            if self.held.contains(current) {
                return (Some(current), None);
            }
            let Some(seat) = self.lives(current, now) else {
                return (self.taker(slot), None);
            };
            // What no UFS has would be out of reach elsewhere: it is not even asked.
            let stays =
                !self.should_go(slot, seat) || !seat.may_give(slot) || self.keeps(seat, slot, now);
            return match stays {
                true => (Some(current), None),
                false => (None, Some(current)),
            };
        }
        let Some(holder) = self.table.yielding(slot) else {
            return (self.taker(slot), None);
        };
        if self.held.contains(holder) {
            return (None, Some(holder));
        }
        match self.lives(holder, now) {
            Some(seat) if seat.beat.epoch < self.table.epoch => (None, Some(holder)),
            Some(seat) if seat.beat.kept.contains(&slot) => (Some(holder), None),
            _ => (self.taker(slot), None),
        }
    }

    /// Whether it could not give the slot away a short while ago.
    fn keeps(&self, seat: &Seat, slot: usize, now: Duration) -> bool {
        now < seat.kept_until && seat.kept.1.contains(&slot)
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
