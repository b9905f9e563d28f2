//! Who else has the bytes of our keys that no UFS has: learnt from commits and from the
//! rows of slots that were taken in; and which bodies are to be looked at, because it is
//! not known that they have as many copies as they should, or because these are in fewer
//! zones than they could be. Absent: copies kept here for
//! others, how copies are made.

mod state;
mod zones;

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quickwater_proto::{BlobId, BucketId, CopyAt, Neighbour, NodeId, ObjectKey, PartOf};

pub(crate) use self::state::Lack;
use self::state::{Member, Noted, Stage, State};
use self::zones::Zones;

/// A body that others have, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Where the object is.
    pub bucket: BucketId,
    /// Its key.
    pub key: ObjectKey,
    /// The part of an upload that it was taken in as: while there is a row of that, it says
    /// who has the body.
    pub part: Option<PartOf>,
    /// Its bytes.
    pub bytes: u64,
    /// How many copies there should be, our own included.
    pub copies: usize,
    /// Who else has one, and the session in which that was last known; session 0: a row
    /// says so, and nothing was asked yet.
    pub others: Arc<[CopyAt]>,
}

/// A body that others have whom its row does not name, or may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unnamed {
    /// Our session when they got it: in a later one they may have let go of it.
    pub(crate) session: u64,
    /// Those whom the row names in any case.
    pub(crate) named: Arc<[CopyAt]>,
}

/// Who has a body, as far as is known.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Others that are there and have it, in their sessions of now.
    pub(crate) have: Vec<CopyAt>,
    /// How many copies there are to be, our own included.
    pub(crate) copies: usize,
    /// Its row is not known to name them.
    pub(crate) unnamed: Option<Unnamed>,
}

/// A body to be looked at.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    pub(crate) blob: BlobId,
    pub(crate) copied: Copied,
    /// What it lacked when it was judged last.
    pub(crate) lack: Lack,
    /// Others that are known to have it, in their sessions of now.
    pub(crate) have: Vec<CopyAt>,
    /// Others that are to be asked whether they have it, in their sessions of now.
    pub(crate) ask: Vec<CopyAt>,
    /// Its row is to be written, even if no copy is missing.
    pub(crate) unnamed: Option<Unnamed>,
    /// Looks in a row that came to nothing.
    pub(crate) failures: u32,
    /// When its slot came from another worker (monotonic): who has the body is known by what
    /// was done since.
    pub(crate) since: Duration,
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Something was learnt or done: it is judged anew by what is known now, and looked at
    /// again at that time if copies are missing all the same.
    Learnt(Duration),
    /// Nothing; again at that time.
    Failed(Duration),
    /// Nothing can be done before others come, go or change; at that time at the latest.
    Stuck(Duration),
}

/// Whether a body of the table is ours and here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// It is.
    Here,
    /// Our own copy is not whole.
    Missing,
    /// Another worker's key by now.
    Foreign,
}

/// Other workers by blob, shared by all shards. Holds no more than there are pending
/// changes and TRANSIENT objects.
#[derive(Debug, Default)]
pub struct CopyHolders(Mutex<State>);

impl CopyHolders {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These others have a blob, nobody else. One that only we are to have is not kept
    /// account of.
    pub fn note(&self, blob: BlobId, copied: Copied) {
        self.insert(blob, copied, None);
    }

    /// The same by a row of a key that is ours from now on. `named`: it names this worker,
    /// too; if not, it has to be written before our own copy counts.
    pub fn note_row(&self, blob: BlobId, copied: Copied, named: bool) {
        let unnamed = (!named).then(|| Unnamed {
            // Of no session of ours.
            session: 0,
            named: Arc::clone(&copied.others),
        });
        self.insert(blob, copied, unnamed);
    }

    fn insert(&self, blob: BlobId, copied: Copied, unnamed: Option<Unnamed>) {
        let mut state = self.state();
        let before = state.of.get(&blob.0);
        let number = before.map_or(state.numbers, |noted| noted.number);
        let taken = before.map(|noted| noted.stage);
        let taken = taken.filter(|stage| matches!(stage, Stage::Taken(_)));
        state.remove(blob.0);
        if copied.copies <= 1 && copied.others.is_empty() {
            return;
        }
        state.numbers += 1;
        let noted = Noted {
            copied,
            number,
            stage: Stage::Whole,
            unnamed,
            without: Vec::new(),
            failures: 0,
        };
        state.of.insert(blob.0, noted);
        if let Some(taken) = taken {
            state.stage(blob.0, taken);
        }
        state.judge(blob.0);
    }

    /// Who has a blob by now, if it is still kept account of; `false`: it has ended. Who had
    /// it and is not among them is told: no row names it again before it is asked, or has
    /// got the blob anew.
    pub(crate) fn renew(
        &self,
        blob: BlobId,
        others: Arc<[CopyAt]>,
        unnamed: Option<Unnamed>,
    ) -> bool {
        let mut state = self.state();
        let Some(noted) = state.of.get_mut(&blob.0) else {
            return false;
        };
        noted.unnamed = unnamed;
        // The next row names who has it, and nobody else.
        noted.without.clear();
        let before = std::mem::replace(&mut noted.copied.others, Arc::clone(&others));
        state.tell(blob, dropped(&before, &others));
        true
    }

    /// A row that names these others, and nobody else, was written for a body. Who has it
    /// and is not named any more may let go of it, and is told.
    pub(crate) fn named(&self, blob: BlobId, others: &[CopyAt]) {
        let mut state = self.state();
        let Some(noted) = state.of.get_mut(&blob.0) else {
            return;
        };
        let have = noted.copied.others.iter();
        let named = have.filter(|at| others.iter().any(|named| named.node == at.node));
        let named: Arc<[CopyAt]> = named.cloned().collect();
        noted.without.clear();
        match &mut noted.unnamed {
            // It was copied on meanwhile, and the next row names that.
            Some(unnamed) if named.len() < noted.copied.others.len() => unnamed.named = named,
            unnamed => {
                *unnamed = None;
                let before = std::mem::replace(&mut noted.copied.others, Arc::clone(&named));
                state.tell(blob, dropped(&before, &named));
            }
        }
        state.judge(blob.0);
    }

    /// Others whom the row of a body names in any case: it did when the look began, and no row
    /// without them was written since.
    pub(crate) fn named_still(&self, due: &Due) -> Arc<[CopyAt]> {
        let state = self.state();
        let Some(noted) = state.of.get(&due.blob.0) else {
            return Arc::default();
        };
        let now = match &noted.unnamed {
            Some(unnamed) => &unnamed.named,
            None => &noted.copied.others,
        };
        let before = due.unnamed.as_ref().map_or(&*due.have, |of| &of.named);
        let still = before.iter();
        let still = still.filter(|at| now.iter().any(|named| named.node == at.node));
        still.cloned().collect()
    }

    /// Others are named that got a body just now, who are not among those that were `named`
    /// before. What an older message of ours had them look at they may have let go of before
    /// their names were there: they are asked, and whoever has it then keeps it.
    pub(crate) fn doubt(&self, blob: BlobId, named: &[CopyAt]) {
        let mut state = self.state();
        let Some(noted) = state.of.get_mut(&blob.0) else {
            return;
        };
        let unasked = noted.copied.others.iter().map(|at| {
            let before = named.iter().any(|named| named.node == at.node);
            CopyAt {
                node: at.node.clone(),
                session: if before { at.session } else { 0 },
            }
        });
        noted.copied.others = unasked.collect();
        state.judge(blob.0);
    }

    /// A body is to have so many copies from now on, our own included.
    pub(crate) fn promise(&self, blob: BlobId, copies: usize) {
        let mut state = self.state();
        if let Some(noted) = state.of.get_mut(&blob.0) {
            noted.copied.copies = copies;
            state.judge(blob.0);
        }
    }

    /// Who has a body; none: no account of it is kept.
    pub(crate) fn sessions(&self, blob: BlobId) -> Option<Sessions> {
        let state = self.state();
        let noted = state.of.get(&blob.0)?;
        Some(Sessions {
            have: state.have(&noted.copied).cloned().collect(),
            copies: noted.copied.copies,
            unnamed: noted.unnamed.clone(),
        })
    }

    /// A body of a key that was found to be another's, and is ours again: if nothing is noted
    /// of it since, it is as before.
    pub(crate) fn take_back(&self, blob: BlobId, copied: Copied) {
        if self.sessions(blob).is_none() {
            self.note(blob, copied);
        }
    }

    /// Bodies of keys that were found to be others' since this was asked last.
    pub(crate) fn take_left(&self) -> Vec<(BlobId, Copied)> {
        std::mem::take(&mut self.state().left)
    }

    /// Who else has a blob.
    #[must_use]
    pub fn of(&self, blob: BlobId) -> Arc<[CopyAt]> {
        let state = self.state();
        let of = state.of.get(&blob.0);
        let of = of.map(|noted| Arc::clone(&noted.copied.others));
        of.unwrap_or_default()
    }

    /// Whether another one that is there has a blob, as far as is known.
    #[must_use]
    pub(crate) fn is_elsewhere(&self, blob: BlobId) -> bool {
        let state = self.state();
        let of = state.of.get(&blob.0);
        of.is_some_and(|noted| state.have(&noted.copied).next().is_some())
    }

    /// Whether others were to have a blob, and none of them is there.
    pub(crate) fn are_away(&self, blob: BlobId) -> bool {
        let state = self.state();
        let others = state.of.get(&blob.0).map(|noted| &noted.copied.others);
        let away = |at: &CopyAt| state.members.get(&at.node).is_none_or(|m| !m.live);
        // Before others were met nobody is known to be away.
        let met = !state.members.is_empty();
        others.is_some_and(|others| met && !others.is_empty() && others.iter().all(away))
    }

    /// The same in the order in which they are best asked: who is not there comes last.
    pub(crate) fn readers(&self, blob: BlobId) -> Vec<NodeId> {
        let state = self.state();
        let Some(noted) = state.of.get(&blob.0) else {
            return Vec::new();
        };
        let others = noted.copied.others.iter();
        let mut readers: Vec<NodeId> = others.map(|at| at.node.clone()).collect();
        // Nobody was met yet: all are alike.
        readers.sort_by_key(|node| !state.members.get(node).is_some_and(|m| m.live));
        readers
    }

    /// What the others are like now, and the zone of this worker; none: nobody knows it yet.
    /// `true`: something has changed, and all bodies are to be judged anew, see
    /// [`CopyHolders::walk`].
    pub(crate) fn meet(&self, others: &[Neighbour], own: Option<&str>) -> bool {
        let zones = Zones::of(others, own);
        let members: HashMap<_, _> = others
            .iter()
            .map(|other| {
                let member = Member {
                    session: other.session,
                    live: other.live && other.session > 0,
                    draining: other.draining,
                    zone: zones.number(&other.zone),
                };
                (other.node.clone(), member)
            })
            .collect();
        let mut state = self.state();
        let changed = state.members != members || state.zones != zones;
        (state.members, state.zones) = (members, zones);
        changed
    }

    /// Others that can be asked to keep something.
    pub(crate) fn usable(&self) -> usize {
        let state = self.state();
        let members = state.members.values();
        members.filter(|one| one.live && !one.draining).count()
    }

    /// Judges at most `limit` bodies, from the one after `after` on. `hurry`: what waits
    /// does so no longer. Where to go on; none: that was the last.
    pub(crate) fn walk(
        &self,
        after: Option<BlobId>,
        limit: usize,
        hurry: bool,
        own: impl Fn(BlobId, &Copied) -> Own,
    ) -> Option<BlobId> {
        let mut state = self.state();
        let from = after.map_or(Bound::Unbounded, |blob| Bound::Excluded(blob.0));
        let range = state.of.range((from, Bound::Unbounded)).take(limit);
        let judged: Vec<(u128, Own)> = range
            .map(|(blob, noted)| (*blob, own(BlobId(*blob), &noted.copied)))
            .collect();
        for (blob, own) in &judged {
            match own {
                Own::Foreign => state.leave(*blob),
                Own::Here => state.judge(*blob),
                Own::Missing => state.suspect(*blob),
            }
            if hurry {
                state.hurry(*blob);
            }
        }
        let last = judged.last().map(|(blob, _)| BlobId(*blob));
        last.filter(|_| judged.len() == limit)
    }

    /// Our own copy of a body was found to be missing.
    pub(crate) fn suspect(&self, blob: BlobId) {
        self.state().suspect(blob.0);
    }

    /// The next body that is due, if `fits` says so; it is looked at from now on, until
    /// [`CopyHolders::looked`]. In a later `session` of ours than that in which others got it
    /// those whom no row names may have let go of it. `since`: when the slot of a body became
    /// ours.
    pub(crate) fn take(
        &self,
        now: Duration,
        session: Option<u64>,
        since: impl Fn(&Copied) -> Duration,
        fits: impl FnOnce(&Due) -> bool,
    ) -> Option<Due> {
        let mut state = self.state();
        let blob = state.first_due(now)?;
        if let Some(noted) = state.of.get_mut(&blob)
            && let (Some(unnamed), Some(session)) = (&mut noted.unnamed, session)
            && unnamed.session != session
        {
            // That this worker has it is to be said all the same.
            unnamed.session = session;
            noted.copied.others = Arc::clone(&unnamed.named);
            noted.without.clear();
        }
        let noted = state.of.get(&blob)?;
        let Stage::Due(lack, _) = noted.stage else {
            return None;
        };
        // Who had it not may have it in another session, with the disk of before.
        let others = noted.copied.others.iter().chain(&noted.without);
        let ask = others.filter_map(|at| {
            let member = state.members.get(&at.node)?;
            let unsure = member.live && !member.draining && member.session != at.session;
            unsure.then(|| CopyAt {
                node: at.node.clone(),
                session: member.session,
            })
        });
        let due = Due {
            blob: BlobId(blob),
            copied: noted.copied.clone(),
            lack,
            have: state.have(&noted.copied).cloned().collect(),
            ask: ask.collect(),
            unnamed: noted.unnamed.clone(),
            failures: noted.failures,
            since: since(&noted.copied),
        };
        if !fits(&due) {
            return None;
        }
        state.stage(blob, Stage::Taken(lack));
        Some(due)
    }

    /// A worker was asked in this session whether it has a body.
    pub(crate) fn asked(&self, blob: BlobId, at: &CopyAt, has: bool) {
        let mut state = self.state();
        let Some(noted) = state.of.get_mut(&blob.0) else {
            return;
        };
        let without = noted.without.iter().any(|other| other.node == at.node);
        noted.without.retain(|other| other.node != at.node);
        let mut others = noted.copied.others.to_vec();
        match others.iter().position(|other| other.node == at.node) {
            Some(place) if has => others[place] = at.clone(),
            Some(place) => drop(others.remove(place)),
            None if without && has => others.push(at.clone()),
            None if without => {}
            // A row that does not name it was written meanwhile.
            None => return,
        }
        noted.copied.others = others.into();
        noted.without.extend((!has).then(|| at.clone()));
    }

    /// The bytes of a body were found: its row is written anew, and may then not name those
    /// who did not have it. They are told: they may have some of it.
    pub(crate) fn found(&self, blob: BlobId) {
        let mut state = self.state();
        if let Some(noted) = state.of.get_mut(&blob.0) {
            let without = std::mem::take(&mut noted.without);
            state.tell(blob, without.iter().map(|at| &at.node));
        }
    }

    /// Others whom a row names, and who do not have a body, in the sessions in which they
    /// said so.
    pub(crate) fn without(&self, blob: BlobId) -> Vec<CopyAt> {
        let state = self.state();
        let of = state.of.get(&blob.0);
        of.map(|noted| noted.without.clone()).unwrap_or_default()
    }

    /// A look at a body has ended. `own`: whether it is ours and here.
    pub(crate) fn looked(&self, blob: BlobId, looked: Looked, own: Own) {
        let mut state = self.state();
        let Some(noted) = state.of.get_mut(&blob.0) else {
            return;
        };
        if !matches!(noted.stage, Stage::Taken(_)) {
            return;
        }
        noted.failures = match looked {
            Looked::Learnt(_) => 0,
            Looked::Failed(_) => noted.failures.saturating_add(1),
            Looked::Stuck(_) => noted.failures,
        };
        let (Looked::Learnt(at) | Looked::Failed(at) | Looked::Stuck(at)) = looked;
        let lack = match own {
            Own::Foreign => return state.leave(blob.0),
            Own::Missing => Some(Lack::Copies),
            Own::Here => state.lack(&state.of[&blob.0]),
        };
        let stage = lack.map_or(Stage::Whole, |lack| Stage::Due(lack, at));
        state.stage(blob.0, stage);
    }

    /// Bodies that are not known to have all their copies, and their bytes.
    #[must_use]
    pub fn missing(&self) -> (u64, u64) {
        self.state().missing
    }

    /// Bodies that have all their copies, in fewer zones than they could.
    #[must_use]
    pub fn misplaced(&self) -> u64 {
        self.state().misplaced
    }

    /// Whom not to ask for a copy in another zone, of a body that these others have: who is
    /// in the zones it is in. None: it could be in no more zones.
    pub(crate) fn beside(&self, copies: usize, have: &[CopyAt]) -> Option<Vec<NodeId>> {
        let state = self.state();
        let missing = state.zones_missing(copies, have.iter());
        (missing > 0).then(|| state.beside(have.iter()))
    }

    /// Takes out bodies that are not ours any more.
    pub(crate) fn let_go(&self, given: impl Fn(&Copied) -> bool) -> Vec<(BlobId, Copied)> {
        let mut state = self.state();
        let of = state.of.iter().filter(|(_, noted)| given(&noted.copied));
        let blobs: Vec<u128> = of.map(|(blob, _)| *blob).collect();
        let taken = blobs
            .into_iter()
            .filter_map(|blob| Some((BlobId(blob), state.remove(blob)?)));
        taken.collect()
    }

    /// How many blobs others have.
    #[must_use]
    pub fn blobs(&self) -> usize {
        self.state().of.len()
    }

    /// A blob is not needed any more: who has it is told.
    pub(crate) fn end(&self, blob: BlobId) {
        let mut state = self.state();
        let copied = state.remove(blob.0);
        let others = copied.map(|copied| copied.others).unwrap_or_default();
        state.tell(blob, others.iter().map(|at| &at.node));
    }

    /// The same of copies that were not noted.
    pub(crate) fn tell(&self, blob: BlobId, others: &[NodeId]) {
        self.state().tell(blob, others);
    }

    /// Others that can be asked to keep something, and are not among `not`, in their sessions
    /// of now.
    pub(crate) fn usable_but(&self, not: &[NodeId]) -> Vec<CopyAt> {
        let state = self.state();
        let usable = state
            .members
            .iter()
            .filter(|(node, member)| member.live && !member.draining && !not.contains(node));
        let usable = usable.map(|(node, member)| CopyAt {
            node: node.clone(),
            session: member.session,
        });
        usable.collect()
    }

    /// Who is to be told of what.
    pub(crate) fn take_ended(&self) -> HashMap<NodeId, Vec<BlobId>> {
        let mut state = self.state();
        state.waiting = 0;
        std::mem::take(&mut state.ended)
    }

    /// A worker could not be told of these, and is to be told again: while it has its
    /// session nothing else says that a copy is not needed which no row was seen to name.
    pub(crate) fn untold(&self, node: &NodeId, blobs: &[BlobId]) {
        self.state().untold(node, blobs);
    }

    /// Who is there by now is told what it could not be told before.
    pub(crate) fn tell_again(&self) {
        self.state().tell_again();
    }
}

/// Who is among `before` and not among `now`.
fn dropped<'b>(before: &'b [CopyAt], now: &[CopyAt]) -> impl Iterator<Item = &'b NodeId> {
    let is_now = |node: &NodeId| now.iter().any(|at| at.node == *node);
    let nodes = before.iter().map(|at| &at.node);
    nodes.filter(move |node| !is_now(node))
}

#[cfg(test)]
mod tests;
