//! Metadata with unknown outcomes (but of uploads). Absent: what a crash leaves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::io::Metadata;
use quickwater_proto::*;

use super::Faults;
use super::uploads::Uploads;
use quickwater_simulation::Sim;

#[derive(Clone)]
pub struct SimMetadata {
    pub sim: Sim,
    pub faults: Rc<Cell<Faults>>,
    pub objects: Rc<RefCell<BTreeMap<ObjectKey, ObjectRecord>>>,
    pub buckets: Rc<RefCell<BTreeMap<BucketName, Bucket>>>,
    pub pending: Rc<RefCell<BTreeMap<ObjectKey, PendingRecord>>>,
    /// Most rows of a scan; few, so that every listing takes several.
    pub scan_rows_max: Rc<Cell<usize>>,
    /// Rows and scans so far.
    pub scanned: Rc<Cell<(usize, usize)>>,
    /// What the entries handed out stand for.
    entries: Rc<RefCell<Vec<(ObjectKey, ObjectRecord)>>>,
    version: Rc<Cell<u128>>,
    pub uploads: Uploads,
    /// Who else has the bytes of what is pending, with their sessions.
    pub holders: Rc<RefCell<BTreeMap<ObjectKey, Vec<CopyAt>>>>,
    /// Who asks, if there are other workers.
    pub node: Option<NodeId>,
    /// Sessions that count, if there are other workers.
    pub sessions: Rc<RefCell<BTreeMap<NodeId, u64>>>,
    /// How long the answer to a commit that names copies takes.
    pub copied_late: Rc<Cell<Duration>>,
    /// How long a commit that names copies is on its way.
    pub copied_waits: Rc<Cell<Duration>>,
    /// How long a commit by an entry alone is on its way.
    pub journaled_waits: Rc<Cell<Duration>>,
    /// Nobody is told what became of commits by an entry: they are made, or not.
    pub journaled_unknown: Rc<Cell<Option<bool>>>,
    /// Calls that concern copies and are refused before they do anything.
    pub copies_refused: Rc<Cell<bool>>,
    /// How long it takes until a row is told who has the bytes of an object.
    pub named_waits: Rc<Cell<Duration>>,
    /// What is changed through this handle was taken for the worker's own, and was lost.
    is_lost: bool,
    /// Nobody is told what became of parts with copies: they are stored.
    pub parts_unknown: Rc<Cell<bool>>,
    /// How long the answer takes that a part's row was told who has it.
    pub part_named_late: Rc<Cell<Duration>>,
    /// Workers that were taken for lost.
    pub removed: Rc<RefCell<Vec<NodeId>>>,
    /// How often a part's row was told, and how often that was answered.
    pub parts_named: Rc<Cell<(usize, usize)>>,
    /// Keys for which an upload was to be opened in the UFS, which is never done.
    pub opening: Rc<RefCell<Vec<ObjectKey>>>,
    /// How long a read of the parts of an upload takes.
    pub parts_wait: Rc<Cell<Duration>>,
    /// Changes are to be noted beside the store.
    pub noted: Rc<Cell<bool>>,
    /// Uploads whose parts were read, in order.
    pub parts_read: Rc<RefCell<Vec<UploadId>>>,
    /// The upload whose parts cannot be read.
    pub parts_refused: Rc<Cell<Option<UploadId>>>,
}

impl SimMetadata {
    pub fn new(sim: &Sim, faults: &Rc<Cell<Faults>>) -> Self {
        Self {
            sim: sim.clone(),
            faults: Rc::clone(faults),
            objects: Rc::default(),
            buckets: Rc::default(),
            pending: Rc::default(),
            scan_rows_max: Rc::new(Cell::new(2)),
            scanned: Rc::default(),
            entries: Rc::default(),
            version: Rc::default(),
            uploads: Uploads::default(),
            holders: Rc::default(),
            node: None,
            sessions: Rc::default(),
            copied_late: Rc::default(),
            copied_waits: Rc::default(),
            journaled_waits: Rc::default(),
            journaled_unknown: Rc::default(),
            copies_refused: Rc::default(),
            named_waits: Rc::default(),
            is_lost: false,
            parts_unknown: Rc::default(),
            part_named_late: Rc::default(),
            removed: Rc::default(),
            parts_named: Rc::default(),
            opening: Rc::default(),
            parts_wait: Rc::default(),
            noted: Rc::default(),
            parts_read: Rc::default(),
            parts_refused: Rc::default(),
        }
    }

    /// The bytes that an entry was written for, by its number from 1.
    pub fn blob_of_entry(&self, number: usize) -> BlobId {
        self.entries.borrow()[number - 1].1.extents[0].blob
    }

    fn check_copies(&self, copies: &[CopyAt]) -> Result<(), MetadataError> {
        let sessions = self.sessions.borrow();
        let counts = |at: &CopyAt| sessions.get(&at.node) == Some(&at.session);
        match !self.copies_refused.get() && copies.iter().all(counts) {
            true => Ok(()),
            false => Err(MetadataError::Unavailable("another session".into())),
        }
    }

    /// Whether a worker has nothing of what a row names it for.
    fn is_gone(&self, node: &NodeId, without: &[CopyAt]) -> bool {
        let said = without.iter().find(|at| at.node == *node);
        Some(node) == self.node.as_ref()
            || self.removed.borrow().contains(node)
            || said.is_some_and(|at| self.sessions.borrow().get(node) == Some(&at.session))
    }

    /// Who is named by a call that these have copies, who makes it included.
    fn nodes(&self, copies: &[CopyAt]) -> Vec<NodeId> {
        let others = copies.iter().map(|at| &at.node);
        let mut nodes: Vec<NodeId> = self.node.iter().chain(others).cloned().collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// Makes a record current, and what the UFS must be told pending.
    fn make_current(&self, key: &ObjectKey, record: &ObjectRecord) -> Committed {
        let version = self.next_version();
        let record = ObjectRecord {
            version,
            ..record.clone()
        };
        match record.persist {
            PersistState::NotPersisted | PersistState::Persisting => {
                let size = record.size;
                self.make_pending(key, version, PendingChange::Put { size });
            }
            PersistState::Transient => {
                let size = record.size;
                self.make_pending(key, version, PendingChange::Hold { size });
            }
            PersistState::Persisted => drop(self.pending.borrow_mut().remove(key)),
        }
        let replaced = self.objects.borrow_mut().insert(key.clone(), record);
        Committed { version, replaced }
    }

    fn next_version(&self) -> Version {
        self.version.set(self.version.get() + 1);
        Version(self.version.get())
    }

    fn make_pending(&self, key: &ObjectKey, version: Version, change: PendingChange) {
        let mut pending = self.pending.borrow_mut();
        let superseded = pending.contains_key(key);
        let record = PendingRecord {
            version,
            change,
            since_ms: self.sim.now().as_millis() as i64,
            superseded,
        };
        pending.insert(key.clone(), record);
    }

    /// Whether a commit happens, and whether its answer arrives.
    async fn commit(&self) -> (bool, bool) {
        self.sim.jitter().await;
        match self.sim.below(100) < self.faults.get().metadata_unknown {
            true => (self.sim.below(2) == 0, false),
            false => (true, true),
        }
    }
}

fn unknown<T>() -> Result<T, MetadataError> {
    Err(MetadataError::Unknown("simulated".into()))
}

impl Metadata for SimMetadata {
    fn judging(&self, is_lost: impl FnOnce() -> bool) -> Self {
        Self {
            is_lost: is_lost(),
            ..self.clone()
        }
    }

    async fn bucket(&self, name: &BucketName) -> Result<Option<Bucket>, MetadataError> {
        Ok(self.buckets.borrow().get(name).cloned())
    }
    async fn buckets(&self) -> Result<Vec<Bucket>, MetadataError> {
        Ok(self.buckets.borrow().values().cloned().collect())
    }
    async fn create_bucket(&self, bucket: &Bucket) -> Result<Bucket, MetadataError> {
        self.buckets
            .borrow_mut()
            .insert(bucket.name.clone(), bucket.clone());
        Ok(bucket.clone())
    }
    async fn delete_bucket(&self, id: BucketId, only_empty: bool) -> Result<(), MetadataError> {
        if only_empty && !self.objects.borrow().is_empty() {
            return Err(MetadataError::BucketNotEmpty);
        }
        self.buckets.borrow_mut().retain(|_, b| b.id != id);
        Ok(())
    }
    async fn set_bucket_tags(
        &self,
        _: BucketId,
        _: &[(String, String)],
    ) -> Result<(), MetadataError> {
        Ok(())
    }

    async fn object(
        &self,
        _: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        self.sim.jitter().await;
        let found = self.objects.borrow().get(key).cloned();
        self.sim.jitter().await;
        Ok(found)
    }

    async fn commit_object(
        &self,
        _: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        condition: &PutCondition,
    ) -> Result<Committed, MetadataError> {
        if self.is_lost {
            return Err(MetadataError::Unavailable("it was lost".into()));
        }
        let (apply, answer) = self.commit().await;
        if let PutCondition::Version(version) = condition {
            match self.objects.borrow().get(key) {
                Some(now) if now.version == *version => {}
                _ => return Err(MetadataError::ConditionFailed),
            }
        }
        let committed = match apply {
            true => self.make_current(key, record),
            false => Committed {
                version: self.next_version(),
                replaced: None,
            },
        };
        if answer { Ok(committed) } else { unknown() }
    }

    fn note(
        &self,
        _: BucketId,
        key: &ObjectKey,
        _: Option<&ObjectRecord>,
        _: Version,
        _: u64,
    ) -> Result<Option<Bytes>, MetadataError> {
        let note = || Bytes::copy_from_slice(key.as_str().as_bytes());
        Ok(self.noted.get().then(note))
    }

    fn journal_entry(
        &self,
        _: BucketId,
        key: &ObjectKey,
        record: &ObjectRecord,
        _: u64,
    ) -> Result<Bytes, MetadataError> {
        let mut entries = self.entries.borrow_mut();
        entries.push((key.clone(), record.clone()));
        Ok(Bytes::copy_from_slice(&entries.len().to_be_bytes()))
    }

    async fn commit_journaled(
        &self,
        entry: Bytes,
        begun: Option<&CopyAt>,
    ) -> Result<Committed, MetadataError> {
        self.sim.sleep(self.journaled_waits.get()).await;
        self.check_copies(begun.map_or(&[], std::slice::from_ref))?;
        let (mut apply, mut answer) = self.commit().await;
        if let Some(made) = self.journaled_unknown.get() {
            (apply, answer) = (made, false);
        }
        let number = usize::from_be_bytes(entry.as_ref().try_into().unwrap());
        let (key, record) = self.entries.borrow()[number - 1].clone();
        let blob = record.extents[0].blob;
        let known = self.objects.borrow().get(&key).cloned();
        let committed = match known {
            // Its operation is known.
            Some(known) if known.extents.iter().any(|e| e.blob == blob) => Committed {
                version: known.version,
                replaced: None,
            },
            _ if apply => self.make_current(&key, &record),
            _ => return unknown(),
        };
        if answer { Ok(committed) } else { unknown() }
    }

    async fn commit_copied(
        &self,
        entry: Bytes,
        copies: &[CopyAt],
    ) -> Result<Committed, MetadataError> {
        self.sim.sleep(self.copied_waits.get()).await;
        self.check_copies(copies)?;
        let number = usize::from_be_bytes(entry.as_ref().try_into().unwrap());
        let key = self.entries.borrow()[number - 1].0.clone();
        let committed = self.commit_journaled(entry, None).await;
        self.holders.borrow_mut().insert(key, copies.to_vec());
        self.sim.sleep(self.copied_late.get()).await;
        committed
    }

    async fn set_holders(
        &self,
        (_, key): (BucketId, &ObjectKey),
        version: Version,
        _: bool,
        (copies, _): (&[CopyAt], usize),
    ) -> Result<bool, MetadataError> {
        self.sim.jitter().await;
        self.sim.sleep(self.named_waits.get()).await;
        self.check_copies(copies)?;
        let pending = self.pending.borrow();
        let current = pending.get(key).is_some_and(|row| row.version == version);
        if current {
            let mut holders = self.holders.borrow_mut();
            holders.insert(key.clone(), copies.to_vec());
        }
        Ok(current)
    }

    async fn set_part_holders(
        &self,
        _: (BucketId, &ObjectKey),
        (part, blob): (PartOf, BlobId),
        (copies, _): (&[CopyAt], usize),
    ) -> Result<bool, MetadataError> {
        self.sim.jitter().await;
        self.check_copies(copies)?;
        let named = self.uploads.hold(part, blob, self.nodes(copies));
        let count = |told, answered| {
            let (before, after) = self.parts_named.get();
            self.parts_named.set((before + told, after + answered));
        };
        count(usize::from(named), 0);
        self.sim.sleep(self.part_named_late.get()).await;
        count(0, usize::from(named));
        Ok(named)
    }

    async fn put_part_copied(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
        copies: &[CopyAt],
    ) -> Result<Option<PartRecord>, MetadataError> {
        self.sim.jitter().await;
        self.check_copies(copies)?;
        let replaced = self.put_part(bucket, upload, part).await?;
        let of = PartOf {
            upload: upload.id,
            number: part.number,
        };
        self.uploads.hold(of, part.blob, self.nodes(copies));
        match self.parts_unknown.get() {
            true => unknown(),
            false => Ok(replaced),
        }
    }

    async fn complete_copied(
        &self,
        bucket: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        (copies, wanted): (&[CopyAt], usize),
    ) -> Result<Committed, MetadataError> {
        self.sim.jitter().await;
        self.check_copies(copies)?;
        let nodes = self.nodes(copies);
        for part in &record.parts {
            let of = PartOf {
                upload: upload.id,
                number: part.number,
            };
            let row = self.uploads.holders(of, part.blob);
            let both = row.iter().filter(|node| nodes.contains(node));
            // What only the worker that took it has stands in no row.
            if both.count().max(usize::from(row.is_empty())) < wanted {
                return Err(MetadataError::Unavailable("too few copies".into()));
            }
        }
        let committed = self
            .complete_upload(bucket, upload, record, &PutCondition::None)
            .await;
        let mut holders = self.holders.borrow_mut();
        holders.insert(upload.key.clone(), copies.to_vec());
        committed
    }

    async fn copy_state(&self, copy: &CopyOf) -> Result<CopyState, MetadataError> {
        self.sim.jitter().await;
        if let (Some(of), Some(node)) = (copy.part, &self.node)
            && self.uploads.holders(of, copy.blob).contains(node)
        {
            return Ok(CopyState::Named);
        }
        let (objects, holders) = (self.objects.borrow(), self.holders.borrow());
        let asking = |at: &CopyAt| Some(&at.node) == self.node.as_ref();
        let row = holders.get(&copy.key);
        let in_row = row.is_none_or(|row| row.iter().any(asking));
        let of = objects.get(&copy.key);
        let of = of.filter(|record| record.extents.iter().any(|e| e.blob == copy.blob));
        let change = match of.map(|record| record.persist) {
            None => ChangeOf::Unknown,
            Some(PersistState::Persisted) => ChangeOf::Ended,
            Some(_) if in_row => return Ok(CopyState::Named),
            Some(_) => ChangeOf::Pending,
        };
        let sessions = self.sessions.borrow();
        let owner = copy.owner.as_ref();
        Ok(CopyState::Unnamed {
            over: owner.is_none_or(|at| sessions.get(&at.node) != Some(&at.session)),
            change,
        })
    }

    async fn remove_object_pending(
        &self,
        _: BucketId,
        key: &ObjectKey,
        _: &PutCondition,
    ) -> Result<(Version, Option<ObjectRecord>), MetadataError> {
        let (apply, answer) = self.commit().await;
        let version = self.next_version();
        let removed = match apply {
            true => {
                self.make_pending(key, version, PendingChange::Delete);
                self.objects.borrow_mut().remove(key)
            }
            false => None,
        };
        if answer {
            Ok((version, removed))
        } else {
            unknown()
        }
    }

    async fn pending(
        &self,
        _: BucketId,
        key: &ObjectKey,
    ) -> Result<Option<PendingRecord>, MetadataError> {
        Ok(self.pending.borrow().get(key).cloned())
    }

    async fn lost(
        &self,
        _: BucketId,
        key: &ObjectKey,
        without: &[CopyAt],
    ) -> Result<bool, MetadataError> {
        let holders = self.holders.borrow();
        let row = holders.get(key);
        Ok(row.is_some_and(|row| row.iter().all(|at| self.is_gone(&at.node, without))))
    }

    async fn lost_part(
        &self,
        _: (BucketId, &ObjectKey),
        (part, blob): (PartOf, BlobId),
        without: &[CopyAt],
    ) -> Result<bool, MetadataError> {
        let named = self.uploads.holders(part, blob);
        // What only the worker that took it has stands in no row.
        Ok(named.len() > 1 && named.iter().all(|node| self.is_gone(node, without)))
    }

    async fn pending_changes(
        &self,
        after: Option<(BucketId, &ObjectKey)>,
        limit: usize,
    ) -> Result<PendingPage, MetadataError> {
        let pending = self.pending.borrow();
        let rows = pending
            .iter()
            .filter(|(key, _)| after.is_none_or(|(_, after)| *key > after));
        let mut entries: Vec<_> = rows
            .take(limit + 1)
            .map(|(key, record)| (BucketId(1), key.clone(), record.clone()))
            .collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(PendingPage {
            entries,
            more,
            ..PendingPage::default()
        })
    }

    async fn end_pending(
        &self,
        _: BucketId,
        key: &ObjectKey,
        version: Version,
        ufs: Option<&UfsIdentity>,
        settling: Option<i64>,
    ) -> Result<bool, MetadataError> {
        let (apply, answer) = self.commit().await;
        let mut pending = self.pending.borrow_mut();
        match pending.get_mut(key) {
            Some(record)
                if record.version == version
                    && !matches!(record.change, PendingChange::Hold { .. }) =>
            {
                if apply {
                    match settling {
                        Some(until_ms) => record.change = PendingChange::Settling { until_ms },
                        None => drop(pending.remove(key)),
                    }
                    let mut objects = self.objects.borrow_mut();
                    if let (Some(object), Some(ufs)) = (objects.get_mut(key), ufs) {
                        object.persist = PersistState::Persisted;
                        object.ufs = Some(ufs.clone());
                    }
                }
                if answer { Ok(true) } else { unknown() }
            }
            _ => Ok(false),
        }
    }

    async fn note_request(
        &self,
        _: BucketId,
        _: &ObjectKey,
        _: i64,
    ) -> Result<Version, MetadataError> {
        // This UFS does not outlive us.
        unknown()
    }

    async fn flush(&self) -> Result<(), MetadataError> {
        match self.commit().await {
            (true, true) => Ok(()),
            _ => unknown(),
        }
    }

    async fn remove_object(
        &self,
        _: BucketId,
        key: &ObjectKey,
        _: &PutCondition,
    ) -> Result<Option<ObjectRecord>, MetadataError> {
        let (apply, answer) = self.commit().await;
        let removed = if apply {
            self.objects.borrow_mut().remove(key)
        } else {
            None
        };
        if answer { Ok(removed) } else { unknown() }
    }

    async fn scan(
        &self,
        _: BucketId,
        prefix: &str,
        from: &str,
        limit: usize,
    ) -> Result<ScanPage, MetadataError> {
        self.sim.jitter().await;
        let objects = self.objects.borrow();
        let rows = objects
            .iter()
            .filter(|(k, _)| k.as_str().starts_with(prefix) && k.as_str() >= from);
        let limit = limit.min(self.scan_rows_max.get());
        let mut entries: Vec<_> = rows
            .take(limit + 1)
            .map(|(k, r)| (k.clone(), r.clone()))
            .collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        let (rows, scans) = self.scanned.get();
        self.scanned.set((rows + entries.len(), scans + 1));
        Ok(ScanPage { entries, more })
    }

    async fn note_opened(&self, _: BucketId, opened: &OpenedUpload) -> Result<(), MetadataError> {
        self.opening.borrow_mut().push(opened.key.clone());
        unknown()
    }
    async fn forget_opened(
        &self,
        _: BucketId,
        _: &ObjectKey,
        _: UploadId,
    ) -> Result<(), MetadataError> {
        unknown()
    }
    async fn create_upload(&self, _: BucketId, upload: &UploadRecord) -> Result<(), MetadataError> {
        self.uploads.create(upload);
        Ok(())
    }
    async fn upload(
        &self,
        _: BucketId,
        _: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<UploadRecord>, MetadataError> {
        Ok(self.uploads.find(id))
    }
    async fn put_part(
        &self,
        _: BucketId,
        upload: &UploadRecord,
        part: &PartRecord,
    ) -> Result<Option<PartRecord>, MetadataError> {
        self.uploads.put_part(upload.id, part)
    }
    async fn hand_over(
        &self,
        _: BucketId,
        _: &UploadRecord,
        _: UploadId,
    ) -> Result<(), MetadataError> {
        unknown()
    }
    async fn parts(
        &self,
        _: BucketId,
        _: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        self.parts_read.borrow_mut().push(id);
        if !self.parts_wait.get().is_zero() {
            self.sim.sleep(self.parts_wait.get()).await;
        }
        if self.parts_refused.get() == Some(id) {
            return Err(MetadataError::Unavailable("away".into()));
        }
        self.uploads.parts(id, after, limit)
    }
    async fn parts_held(
        &self,
        _: BucketId,
        _: &ObjectKey,
        id: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<Vec<(PartRecord, Holders)>, MetadataError> {
        let parts = self.uploads.parts(id, after, limit)?;
        let held = |part: PartRecord| {
            let of = PartOf {
                upload: id,
                number: part.number,
            };
            let nodes = self.uploads.holders(of, part.blob);
            // What only the worker that took it has stands in no row.
            let nodes = match nodes.len() {
                0 | 1 => Vec::new(),
                _ => nodes,
            };
            let copies = nodes.len();
            (part, Holders { nodes, copies })
        };
        Ok(parts.into_iter().map(held).collect())
    }
    async fn uploads(
        &self,
        _: BucketId,
        prefix: &str,
        after: Option<(&str, Option<UploadId>)>,
        limit: usize,
    ) -> Result<Vec<UploadRecord>, MetadataError> {
        Ok(self.uploads.page(prefix, after, limit))
    }
    async fn complete_upload(
        &self,
        _: BucketId,
        upload: &UploadRecord,
        record: &ObjectRecord,
        _: &PutCondition,
    ) -> Result<Committed, MetadataError> {
        self.uploads.end(upload.id)?;
        Ok(self.make_current(&upload.key, record))
    }
    async fn completed(
        &self,
        _: BucketId,
        _: &ObjectKey,
        _: UploadId,
    ) -> Result<Option<ETag>, MetadataError> {
        Ok(None)
    }
    async fn abort_upload(
        &self,
        _: BucketId,
        _: &ObjectKey,
        id: UploadId,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        self.uploads.end(id)
    }
}
