//! What is noted of each body, and the queue of those that are to be looked at. Absent: what
//! is learnt when, and what a look comes to.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use quickwater_proto::{BlobId, CopyAt, NodeId};

use super::zones::Zones;
use super::{Copied, Unnamed};

/// Messages to others that copies have ended, at most; those beyond it find out
/// themselves: who has seen a row name its copy later, others when our session is over.
const ENDED_MAX: usize = 100_000;
/// Messages that could not be sent, and are kept to be sent again, at most.
const UNTOLD_MAX: usize = 50_000;

/// What a body lacks; what is worse comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    /// Copies, or that its row names them.
    Copies,
    /// Zones: it has its copies, in fewer of them than they could be in.
    Zones,
}

/// Whether a body is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It had its copies when it was looked at last.
    Whole,
    /// For what it lacks, at that time.
    Due(Lack, Duration),
    /// It is looked at now.
    Taken(Lack),
}

impl Stage {
    fn lack(self) -> Option<Lack> {
        match self {
            Self::Whole => None,
            Self::Due(lack, _) | Self::Taken(lack) => Some(lack),
        }
    }
}

#[derive(Debug)]
pub(super) struct Noted {
    pub(super) copied: Copied,
    /// Older bodies have smaller ones.
    pub(super) number: u64,
    pub(super) stage: Stage,
    /// Its row is not known to say who has it.
    pub(super) unnamed: Option<Unnamed>,
    /// Others whom a row names, and who said in these sessions that they do not have it.
    pub(super) without: Vec<CopyAt>,
    /// Looks in a row that came to nothing.
    pub(super) failures: u32,
}

/// What others are like now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) session: u64,
    pub(super) live: bool,
    pub(super) draining: bool,
    /// Its number in [`State::zones`].
    pub(super) zone: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) of: BTreeMap<u128, Noted>,
    pub(super) numbers: u64,
    /// Bodies that are due, by what they lack, the oldest of one time first.
    pub(super) queue: BTreeMap<(Lack, Duration, u64), u128>,
    /// Bodies that are not known to have all their copies, and their bytes.
    pub(super) missing: (u64, u64),
    /// Bodies that have them in fewer zones than they could.
    pub(super) misplaced: u64,
    pub(super) members: HashMap<NodeId, Member>,
    pub(super) zones: Zones,
    pub(super) ended: HashMap<NodeId, Vec<BlobId>>,
    pub(super) waiting: usize,
    /// What others could not be told, and how much that is.
    pub(super) untold: HashMap<NodeId, Vec<BlobId>>,
    pub(super) untold_count: usize,
    /// Bodies of keys that were found to be another worker's by now.
    pub(super) left: Vec<(BlobId, Copied)>,
}

impl State {
    pub(super) fn have<'a>(&'a self, copied: &'a Copied) -> impl Iterator<Item = &'a CopyAt> {
        copied.others.iter().filter(|at| {
            let member = self.members.get(&at.node);
            member.is_some_and(|m| m.live && !m.draining && m.session == at.session)
        })
    }

    pub(super) fn has_enough(&self, copied: &Copied) -> bool {
        self.have(copied).count() + 1 >= copied.copies
    }

    /// The zones of those that have a body.
    fn zones_of<'a>(
        &'a self,
        have: impl Iterator<Item = &'a CopyAt>,
    ) -> impl Iterator<Item = usize> {
        have.filter_map(|at| self.members.get(&at.node)?.zone)
    }

    /// In how many more zones a body could be that these others have.
    pub(super) fn zones_missing<'a>(
        &'a self,
        copies: usize,
        have: impl Iterator<Item = &'a CopyAt>,
    ) -> usize {
        self.zones.missing(copies, self.zones_of(have))
    }

    /// Others in this worker's zone, and in those of the ones that have a body.
    pub(super) fn beside<'a>(&'a self, have: impl Iterator<Item = &'a CopyAt>) -> Vec<NodeId> {
        let there = self.zones.there(self.zones_of(have));
        let is_there = |member: &Member| member.zone.is_some_and(|zone| there.contains(&zone));
        let beside = self.members.iter().filter(|(_, member)| is_there(member));
        beside.map(|(node, _)| node.clone()).collect()
    }

    /// What a body lacks by who is there now.
    pub(super) fn lack(&self, noted: &Noted) -> Option<Lack> {
        let copied = &noted.copied;
        if noted.unnamed.is_some() || !self.has_enough(copied) {
            return Some(Lack::Copies);
        }
        let zones = self.zones_missing(copied.copies, self.have(copied));
        (zones > 0).then_some(Lack::Zones)
    }

    pub(super) fn leave(&mut self, blob: u128) {
        if let Some(copied) = self.remove(blob) {
            self.left.push((BlobId(blob), copied));
        }
    }

    /// The only place where a stage changes: queue and sums follow.
    pub(super) fn stage(&mut self, blob: u128, stage: Stage) {
        let Some(noted) = self.of.get_mut(&blob) else {
            return;
        };
        let before = std::mem::replace(&mut noted.stage, stage);
        let (number, bytes) = (noted.number, noted.copied.bytes);
        if let Stage::Due(lack, at) = before {
            self.queue.remove(&(lack, at, number));
        }
        if let Stage::Due(lack, at) = stage {
            self.queue.insert((lack, at, number), blob);
        }
        match before.lack() {
            Some(Lack::Copies) => self.missing = (self.missing.0 - 1, self.missing.1 - bytes),
            Some(Lack::Zones) => self.misplaced -= 1,
            None => {}
        }
        match stage.lack() {
            Some(Lack::Copies) => self.missing = (self.missing.0 + 1, self.missing.1 + bytes),
            Some(Lack::Zones) => self.misplaced += 1,
            None => {}
        }
    }

    /// The body that is due first at that time: copies come before zones.
    pub(super) fn first_due(&self, now: Duration) -> Option<u128> {
        let first = |lack| {
            let due = (lack, Duration::ZERO, 0)..=(lack, now, u64::MAX);
            self.queue.range(due).next().map(|(_, blob)| *blob)
        };
        first(Lack::Copies).or_else(|| first(Lack::Zones))
    }

    pub(super) fn remove(&mut self, blob: u128) -> Option<Copied> {
        self.stage(blob, Stage::Whole);
        self.of.remove(&blob).map(|noted| noted.copied)
    }

    /// Judges a body by who is there now; one that is looked at is judged after that.
    pub(super) fn judge(&mut self, blob: u128) {
        let Some(noted) = self.of.get(&blob) else {
            return;
        };
        match (noted.stage, self.lack(noted)) {
            (Stage::Taken(_), Some(Lack::Copies)) => self.stage(blob, Stage::Taken(Lack::Copies)),
            (Stage::Taken(_), _) => {}
            (_, None) => self.stage(blob, Stage::Whole),
            (stage, Some(lack)) if stage.lack() == Some(lack) => {}
            (_, Some(lack)) => self.stage(blob, Stage::Due(lack, Duration::ZERO)),
        }
    }

    pub(super) fn tell<'n>(&mut self, blob: BlobId, others: impl IntoIterator<Item = &'n NodeId>) {
        for node in others {
            if self.waiting >= ENDED_MAX {
                return;
            }
            self.waiting += 1;
            self.ended.entry(node.clone()).or_default().push(blob);
        }
    }

    pub(super) fn untold(&mut self, node: &NodeId, blobs: &[BlobId]) {
        let room = UNTOLD_MAX - self.untold_count;
        let kept = &blobs[..blobs.len().min(room)];
        self.untold_count += kept.len();
        let untold = self.untold.entry(node.clone()).or_default();
        untold.extend_from_slice(kept);
    }

    pub(super) fn tell_again(&mut self) {
        let members = &self.members;
        // Whoever is no member any more comes back in another session, and looks itself.
        self.untold.retain(|node, _| members.contains_key(node));
        for (node, blobs) in self.untold.extract_if(|node, _| members[node].live) {
            self.ended.entry(node).or_default().extend(blobs);
        }
        self.untold_count = self.untold.values().map(Vec::len).sum();
    }

    pub(super) fn suspect(&mut self, blob: u128) {
        match self.of.get(&blob).map(|noted| noted.stage) {
            Some(Stage::Whole | Stage::Due(Lack::Zones, _)) => {
                self.stage(blob, Stage::Due(Lack::Copies, Duration::ZERO));
            }
            Some(Stage::Taken(Lack::Zones)) => self.stage(blob, Stage::Taken(Lack::Copies)),
            _ => {}
        }
    }

    pub(super) fn hurry(&mut self, blob: u128) {
        let Some(noted) = self.of.get_mut(&blob) else {
            return;
        };
        if let Stage::Due(lack, _) = noted.stage {
            noted.failures = 0;
            self.stage(blob, Stage::Due(lack, Duration::ZERO));
        }
    }
}
