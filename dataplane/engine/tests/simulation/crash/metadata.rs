//! Metadata with what is visible and what a crash leaves: relaxed commits become
//! durable in their order, some time later. Absent: the calls of the engine.

mod calls;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use quickwater_engine::io::Metadata;
use quickwater_proto::*;

use super::content::content_of_etag;
use super::{Break, Faults, Trace};
use quickwater_simulation::Sim;

/// Rows of all kinds, as one commit left them.
#[derive(Clone, Default)]
struct Rows {
    version: u128,
    objects: BTreeMap<ObjectKey, ObjectRecord>,
    pending: BTreeMap<ObjectKey, PendingRecord>,
    /// Of each key's last delete, the place in the true order of changes.
    deletes: BTreeMap<ObjectKey, u64>,
    uploads: BTreeMap<(ObjectKey, UploadId), UploadRecord>,
    parts: BTreeMap<(UploadId, u16), PartRecord>,
    opened: BTreeMap<(ObjectKey, UploadId), OpenedUpload>,
    /// Operations of journaled commits and their sequences.
    operations: BTreeMap<u128, u64>,
    through: u64,
}

/// What the bytes of a journal entry stand for.
#[derive(Clone)]
struct Journaled {
    sequence: u64,
    key: ObjectKey,
    record: ObjectRecord,
}

#[derive(Default)]
struct State {
    live: Rows,
    durable: Rows,
    /// Relaxed commits that are not durable yet, oldest first.
    relaxed: VecDeque<Rows>,
    journaled: BTreeMap<u128, Journaled>,
    /// The true order of changes: of a content when it was committed first (a
    /// replay is not newer).
    contents: BTreeMap<u64, u64>,
    order: u64,
}

#[derive(Clone)]
pub struct CrashMetadata {
    sim: Sim,
    faults: Rc<Cell<Faults>>,
    trace: Trace,
    bucket: Bucket,
    state: Rc<RefCell<State>>,
}

fn unknown<T>() -> Result<T, MetadataError> {
    Err(MetadataError::Unknown("simulated".into()))
}

impl Rows {
    fn next_version(&mut self) -> Version {
        self.version += 1;
        Version(self.version)
    }

    /// Makes a record current, and what the UFS must be told pending.
    fn make_current(&mut self, key: &ObjectKey, record: &ObjectRecord, now_ms: i64) -> Committed {
        let version = self.next_version();
        let size = record.size;
        let record = ObjectRecord {
            version,
            ..record.clone()
        };
        let change = match record.persist {
            PersistState::NotPersisted | PersistState::Persisting => PendingChange::Put { size },
            PersistState::Transient => PendingChange::Hold { size },
            PersistState::Persisted => {
                if !self.pending.get(key).is_some_and(is_unanswered) {
                    self.pending.remove(key);
                }
                let replaced = self.objects.insert(key.clone(), record);
                return Committed { version, replaced };
            }
        };
        self.note(key, version, change, now_ms);
        let replaced = self.objects.insert(key.clone(), record);
        Committed { version, replaced }
    }

    fn note_request(&mut self, key: &ObjectKey, until_ms: i64, now_ms: i64) -> Version {
        let settles = |row: &PendingRecord| matches!(row.change, PendingChange::Settling { .. });
        if let Some(row) = self.pending.get_mut(key).filter(|row| !settles(row)) {
            row.superseded = true;
            return row.version;
        }
        let version = self.next_version();
        let noted = PendingRecord {
            version,
            change: PendingChange::Settling { until_ms },
            since_ms: now_ms,
            superseded: false,
        };
        self.pending.insert(key.clone(), noted);
        version
    }

    fn note(&mut self, key: &ObjectKey, version: Version, change: PendingChange, now_ms: i64) {
        let older = self.pending.get(key);
        let superseded = older.is_some_and(|older| match older.change {
            PendingChange::Hold { .. } => older.superseded,
            _ => true,
        });
        let pending = PendingRecord {
            version,
            change,
            since_ms: now_ms,
            superseded,
        };
        self.pending.insert(key.clone(), pending);
    }
}

/// Whether a row stays whatever is committed.
fn is_unanswered(row: &PendingRecord) -> bool {
    row.change != PendingChange::UNDER_WAY && matches!(row.change, PendingChange::Settling { .. })
}

impl CrashMetadata {
    pub fn new(sim: &Sim, faults: &Rc<Cell<Faults>>, trace: &Trace, bucket: &Bucket) -> Self {
        Self {
            sim: sim.clone(),
            faults: Rc::clone(faults),
            trace: trace.clone(),
            bucket: bucket.clone(),
            state: Rc::default(),
        }
    }

    /// What is not durable is undone, some of it.
    pub fn crash(&self) {
        let mut state = self.state.borrow_mut();
        let kept = self.sim.below(1 + state.relaxed.len() as u64) as usize;
        if kept > 0 {
            state.durable = state.relaxed[kept - 1].clone();
        }
        let undone = state.relaxed.len() - kept;
        if undone > 0 {
            self.trace.note("commits undone", &undone);
        }
        state.relaxed.clear();
        state.live = state.durable.clone();
    }

    /// The place of a change that begins now in the true order of all changes.
    pub fn next_order(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.order += 1;
        state.order
    }

    /// The place of a content, if it was committed or sent before.
    pub fn order_of(&self, content: u64) -> u64 {
        let next = self.next_order();
        *self
            .state
            .borrow_mut()
            .contents
            .entry(content)
            .or_insert(next)
    }

    /// The place of a delete that the UFS is told of now, and whether it was
    /// pending.
    pub fn delete_order(&self, key: &ObjectKey) -> u64 {
        let pending = {
            let state = self.state.borrow();
            match state.live.pending.get(key) {
                Some(row)
                    if !matches!(
                        row.change,
                        PendingChange::Hold { .. } | PendingChange::Settling { .. }
                    ) =>
                {
                    state.live.deletes.get(key).copied()
                }
                _ => None,
            }
        };
        pending.unwrap_or_else(|| self.next_order())
    }

    /// Whether a late request for the key is waited for by whoever comes next.
    pub fn fenced(&self, key: &ObjectKey) -> bool {
        let state = self.state.borrow();
        let row = state.live.pending.get(key);
        row.is_some_and(|row| match row.change {
            PendingChange::Hold { .. } => row.superseded,
            _ => true,
        })
    }

    pub fn current(&self, key: &ObjectKey) -> Option<ObjectRecord> {
        self.state.borrow().live.objects.get(key).cloned()
    }

    /// Blobs that an object or a part names and that only the store has.
    pub fn named(&self) -> Vec<BlobId> {
        let state = self.state.borrow();
        let dirty = |record: &&ObjectRecord| record.persist != PersistState::Persisted;
        let objects = state.live.objects.values().filter(dirty);
        let extents = objects.flat_map(|record| record.extents.iter().map(|e| e.blob));
        let parts = state.live.parts.values().map(|part| part.blob);
        extents.chain(parts).collect()
    }

    pub fn open_uploads(&self) -> Vec<UploadRecord> {
        self.state.borrow().live.uploads.values().cloned().collect()
    }

    /// What was noted as opened in the UFS.
    pub fn opened(&self) -> Vec<OpenedUpload> {
        self.state.borrow().live.opened.values().cloned().collect()
    }

    pub fn through(&self) -> u64 {
        self.state.borrow().live.through
    }

    /// Notes up to where the journal is settled: relaxed.
    pub fn set_through(&self, through: u64) {
        let mut state = self.state.borrow_mut();
        if state.live.through < through {
            state.live.through = through;
            // Rows of settled operations are swept.
            state.live.operations.retain(|_, at| *at > through);
            Self::relax(&mut state);
        }
    }

    /// Of a request under way when the last process ended it is known now how long
    /// it may be applied; durable on return.
    pub fn fence_request(&self, key: &ObjectKey, until_ms: i64) {
        let mut state = self.state.borrow_mut();
        if let Some(row) = state.live.pending.get_mut(key) {
            row.change = PendingChange::Settling { until_ms };
        }
        state.durable = state.live.clone();
        state.relaxed.clear();
    }

    fn relax(state: &mut State) {
        let live = state.live.clone();
        state.relaxed.push_back(live);
    }

    /// Sequence and record of an entry.
    pub fn decode(&self, entry: &[u8]) -> Option<(u64, ObjectKey, ObjectRecord)> {
        let operation = u128::from_be_bytes(entry.try_into().ok()?);
        let state = self.state.borrow();
        let Journaled {
            sequence,
            key,
            record,
        } = state.journaled.get(&operation)?.clone();
        Some((sequence, key, record))
    }

    /// Commits what an entry says, unless that was done before.
    pub async fn replay(&self, entry: &[u8]) {
        self.sim.jitter().await;
        if self.commit_entry(entry).is_none() {
            return;
        }
        let key = self.decode(entry).map(|(_, key, _)| key);
        self.trace.note("replayed", &key);
        let mut state = self.state.borrow_mut();
        // One with the commit: an older change may be lost for good.
        let rows = state.relaxed.pop_back();
        let row = key.and_then(|key| state.live.pending.get_mut(&key));
        if let (Some(row), Some(_)) = (row, rows) {
            row.superseded = true;
            Self::relax(&mut state);
        }
    }

    fn commit_entry(&self, entry: &[u8]) -> Option<Committed> {
        let operation = u128::from_be_bytes(entry.try_into().unwrap());
        let entry = {
            let state = self.state.borrow();
            if state.live.operations.contains_key(&operation) {
                return None;
            }
            state.journaled[&operation].clone()
        };
        let order = self.order_of(content_of_etag(&entry.record.etag));
        let now_ms = self.now_ms();
        let mut state = self.state.borrow_mut();
        state.live.operations.insert(operation, entry.sequence);
        let committed = state.live.make_current(&entry.key, &entry.record, now_ms);
        Self::relax(&mut state);
        self.trace.note("journaled", &(entry.sequence, order));
        Some(committed)
    }

    fn now_ms(&self) -> i64 {
        self.sim.now().as_millis() as i64
    }

    /// Commits what `change` does; durable on return.
    async fn commit<T>(
        &self,
        change: impl FnOnce(&mut Rows, i64) -> Result<T, MetadataError>,
    ) -> Result<T, MetadataError> {
        self.commit_as(change, |state| {
            state.durable = state.live.clone();
            state.relaxed.clear();
        })
        .await
    }

    /// Commits what `change` does; durable some time later.
    async fn commit_relaxed<T>(
        &self,
        change: impl FnOnce(&mut Rows, i64) -> Result<T, MetadataError>,
    ) -> Result<T, MetadataError> {
        self.commit_as(change, Self::relax).await
    }

    async fn commit_as<T>(
        &self,
        change: impl FnOnce(&mut Rows, i64) -> Result<T, MetadataError>,
        keep: impl FnOnce(&mut State),
    ) -> Result<T, MetadataError> {
        self.sim.jitter().await;
        let faults = self.faults.get();
        if self.sim.below(100) < faults.metadata_refuses {
            return Err(MetadataError::Unavailable("simulated".into()));
        }
        let lost = self.sim.below(100) < faults.metadata_unknown;
        if lost && self.sim.below(2) == 0 {
            return unknown();
        }
        let answer = {
            let mut state = self.state.borrow_mut();
            let answer = change(&mut state.live, self.now_ms())?;
            keep(&mut state);
            answer
        };
        self.trace.note("commit", &self.state.borrow().live.version);
        self.sim.jitter().await;
        if lost {
            self.trace.note("answer lost", &());
            return unknown();
        }
        Ok(answer)
    }

    async fn read<T>(&self, look: impl FnOnce(&Rows) -> T) -> T {
        self.sim.jitter().await;
        let found = look(&self.state.borrow().live);
        // Relaxed commits reach the disk while others wait.
        if self.sim.below(8) == 0 {
            let mut state = self.state.borrow_mut();
            if let Some(rows) = state.relaxed.pop_front() {
                state.durable = rows;
            }
        }
        self.sim.jitter().await;
        found
    }
}

fn holds(condition: &PutCondition, current: Option<&ObjectRecord>) -> Result<(), MetadataError> {
    match (condition, current) {
        (PutCondition::Version(version), Some(now)) if now.version != *version => {
            Err(MetadataError::ConditionFailed)
        }
        (PutCondition::Version(_), None) => Err(MetadataError::NoSuchObject),
        _ => Ok(()),
    }
}
