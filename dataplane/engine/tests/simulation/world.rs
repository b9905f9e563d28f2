//! The outside world, simulated: a store that forgets, a UFS that fails before
//! or after it applied, metadata with unknown outcomes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::World;
use quickwater_engine::io::*;
use quickwater_proto::*;

use crate::executor::Sim;

pub struct SimWorld;

impl World for SimWorld {
    type Disk = SimDisk;
    type Ufs = SimUfs;
    type Metadata = SimMetadata;
    type Environment = SimEnvironment;
}

/// Chances in percent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub disk_forgets: u64,
    pub disk_full: u64,
    pub ufs_refuses: u64,
    pub ufs_loses_reply: u64,
    pub metadata_unknown: u64,
}

#[derive(Clone)]
pub struct SimEnvironment(pub Sim);

impl Environment for SimEnvironment {
    fn wall_ms(&self) -> i64 {
        self.0.now().as_millis() as i64
    }
    fn monotonic(&self) -> Duration {
        self.0.now()
    }
    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
    fn random_u128(&self) -> u128 {
        self.0.random_u128()
    }
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawn(task);
    }
}

pub struct SimBuffer(pub Vec<u8>);

impl Buffer for SimBuffer {
    fn as_slice(&self) -> &[u8] {
        &self.0
    }
    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }
    fn capacity(&self) -> usize {
        CHUNK_BYTES as usize
    }
    fn set_len(&mut self, len: usize) {
        self.0.resize(len, 0);
    }
    fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

#[derive(Clone)]
pub struct SimDisk {
    pub sim: Sim,
    pub faults: Rc<Cell<Faults>>,
    pub chunks: Rc<RefCell<HashMap<ChunkId, Vec<u8>>>>,
}

impl Disk for SimDisk {
    type Buffer = SimBuffer;
    type Reservation = ();

    fn reserve(&self, _: u64, _: u32) -> Result<(), DiskError> {
        Ok(())
    }

    async fn buffer(&self, bytes: usize) -> Result<SimBuffer, DiskError> {
        Ok(SimBuffer(Vec::with_capacity(bytes)))
    }

    async fn read(
        &self,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Result<Option<SimBuffer>, DiskError> {
        self.sim.jitter().await;
        if self.sim.below(100) < self.faults.get().disk_forgets {
            self.chunks.borrow_mut().remove(&chunk);
        }
        let chunks = self.chunks.borrow();
        let found = chunks.get(&chunk);
        Ok(found.map(|c| SimBuffer(c[range.start as usize..range.end as usize].to_vec())))
    }

    async fn write(
        &self,
        chunk: ChunkId,
        data: SimBuffer,
        _: Durability,
    ) -> (SimBuffer, Result<(), DiskError>) {
        self.sim.jitter().await;
        if self.sim.below(100) < self.faults.get().disk_full {
            return (data, Err(DiskError::Full));
        }
        self.chunks.borrow_mut().insert(chunk, data.0.clone());
        (data, Ok(()))
    }

    fn contains(&self, chunk: ChunkId) -> bool {
        self.chunks.borrow().contains_key(&chunk)
    }

    fn forget(&self, blob: BlobId, _: u32) {
        self.chunks.borrow_mut().retain(|c, _| c.blob != blob);
    }

    fn release(&self, _: BlobId, _: u32) {}
}

#[derive(Clone)]
pub struct UfsFile {
    pub content: Vec<u8>,
    pub headers: ObjectHeaders,
    pub identity: UfsIdentity,
}

impl UfsFile {
    fn object(&self) -> UfsObject {
        UfsObject {
            identity: self.identity.clone(),
            etag: ETag::new(&format!("{:032x}-1", self.identity.modified_ns)),
            headers: self.headers.clone(),
            checksums: Vec::new(),
        }
    }
}

#[derive(Clone)]
pub struct SimUfs {
    pub sim: Sim,
    pub faults: Rc<Cell<Faults>>,
    pub files: Rc<RefCell<BTreeMap<String, UfsFile>>>,
    pub reads: Rc<Cell<u64>>,
    serial: Rc<Cell<i64>>,
}

impl SimUfs {
    pub fn new(sim: &Sim, faults: &Rc<Cell<Faults>>) -> Self {
        Self {
            sim: sim.clone(),
            faults: Rc::clone(faults),
            files: Rc::default(),
            reads: Rc::default(),
            serial: Rc::default(),
        }
    }

    /// Puts a file there behind our back, or as the end of an upload.
    pub fn place(&self, key: &str, content: Vec<u8>, headers: ObjectHeaders) -> UfsFile {
        self.serial.set(self.serial.get() + 1);
        let identity = UfsIdentity {
            size: content.len() as u64,
            modified_ns: self.serial.get(),
            token: "sim".into(),
        };
        let file = UfsFile {
            content,
            headers,
            identity,
        };
        self.files.borrow_mut().insert(key.into(), file.clone());
        file
    }

    async fn before(&self) -> Result<(), UfsError> {
        self.sim.jitter().await;
        match self.sim.below(100) < self.faults.get().ufs_refuses {
            true => Err(UfsError::new(UfsErrorKind::Unavailable, "refused")),
            false => Ok(()),
        }
    }

    async fn after(&self) -> Result<(), UfsError> {
        self.sim.jitter().await;
        match self.sim.below(100) < self.faults.get().ufs_loses_reply {
            true => Err(UfsError::new(UfsErrorKind::Timeout, "reply lost")),
            false => Ok(()),
        }
    }
}

fn unsupported<T>() -> Result<T, UfsError> {
    Err(UfsError::new(UfsErrorKind::Unsupported, "not simulated"))
}

impl Ufs for SimUfs {
    type Upload = SimUpload;
    type Reader = SimReader;
    type Listing = SimListing;

    async fn head(&self, _: &Bucket, key: &ObjectKey) -> Result<UfsObject, UfsError> {
        self.before().await?;
        let file = self.files.borrow().get(key.as_str()).cloned();
        self.sim.jitter().await;
        file.map(|f| f.object())
            .ok_or_else(|| UfsError::new(UfsErrorKind::NotFound, "no file"))
    }

    async fn read(
        &self,
        _: &Bucket,
        key: &ObjectKey,
        expect: &UfsIdentity,
        range: Range<u64>,
    ) -> Result<SimReader, UfsError> {
        self.before().await?;
        self.reads.set(self.reads.get() + 1);
        let file = self.files.borrow().get(key.as_str()).cloned();
        let file = file.ok_or_else(|| UfsError::new(UfsErrorKind::NotFound, "no file"))?;
        if file.identity != *expect {
            return Err(UfsError::new(UfsErrorKind::Changed, "other content"));
        }
        let bytes = file.content[range.start as usize..range.end as usize].to_vec();
        Ok(SimReader {
            sim: self.sim.clone(),
            rest: bytes.into(),
        })
    }

    async fn put(
        &self,
        _: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        size: u64,
    ) -> Result<SimUpload, UfsError> {
        let (key, headers) = (key.as_str().to_owned(), headers.clone());
        Ok(SimUpload {
            ufs: self.clone(),
            key,
            headers,
            size,
            content: Vec::new(),
        })
    }

    async fn delete(&self, _: &Bucket, key: &ObjectKey) -> Result<(), UfsError> {
        self.before().await?;
        self.files.borrow_mut().remove(key.as_str());
        self.after().await
    }

    async fn create_upload(
        &self,
        _: &Bucket,
        _: &ObjectKey,
        _: &ObjectHeaders,
        _: UploadId,
    ) -> Result<String, UfsError> {
        unsupported()
    }
    fn upload_name(&self, _: &Bucket, _: UploadId) -> Option<String> {
        None
    }
    fn put_bytes_max(&self, _: &Bucket) -> u64 {
        u64::MAX
    }
    fn resumes(&self, _: &Bucket) -> bool {
        false
    }
    fn names(&self, _: &str, _: &UfsUploadSeen) -> bool {
        false
    }
    async fn open_uploads(
        &self,
        _: &Bucket,
        _: &ObjectKey,
    ) -> Result<Vec<UfsUploadSeen>, UfsError> {
        unsupported()
    }
    async fn uploaded_parts(
        &self,
        _: &Bucket,
        _: &UploadRecord,
    ) -> Result<Vec<UfsPartSeen>, UfsError> {
        unsupported()
    }
    async fn put_in_parts(
        &self,
        _: &Bucket,
        _: &UploadRecord,
        _: u64,
        _: u64,
        _: Vec<UfsPartSeen>,
    ) -> Result<SimUpload, UfsError> {
        unsupported()
    }
    async fn put_part(
        &self,
        _: &Bucket,
        _: &UploadRecord,
        _: u16,
        _: u64,
    ) -> Result<SimUpload, UfsError> {
        unsupported()
    }
    async fn complete_upload(
        &self,
        _: &Bucket,
        _: &UploadRecord,
        _: &[PartRecord],
        _: &ETag,
        _: &[Checksum],
    ) -> Result<UfsObject, UfsError> {
        unsupported()
    }
    async fn abort_upload(&self, _: &Bucket, _: &UploadRecord) -> Result<(), UfsError> {
        unsupported()
    }

    async fn list(
        &self,
        _: &Bucket,
        prefix: &str,
        start_after: &str,
        recursive: bool,
    ) -> Result<SimListing, UfsError> {
        self.before().await?;
        let (ufs, prefix) = (self.clone(), prefix.to_owned());
        Ok(SimListing {
            ufs,
            prefix,
            after: start_after.to_owned(),
            recursive,
        })
    }

    async fn create_location(&self, _: &Bucket) -> Result<(), UfsError> {
        Ok(())
    }
    async fn remove_location(&self, _: &Bucket) -> Result<(), UfsError> {
        Ok(())
    }
    fn late_max(&self, _: &Bucket) -> Duration {
        Duration::ZERO
    }

    fn outlives_us(&self, _bucket: &Bucket) -> bool {
        false
    }
}

pub struct SimUpload {
    ufs: SimUfs,
    key: String,
    headers: ObjectHeaders,
    size: u64,
    content: Vec<u8>,
}

impl UfsUpload for SimUpload {
    async fn send(&mut self, data: Bytes) -> Result<(), UfsError> {
        self.ufs.before().await?;
        self.content.extend_from_slice(&data);
        // Like a real S3 server: complete bytes may be applied before we ask.
        if self.content.len() as u64 == self.size && self.ufs.sim.below(2) == 0 {
            self.ufs
                .place(&self.key, self.content.clone(), self.headers.clone());
        }
        Ok(())
    }

    async fn finish(self, _: &BodyDigests) -> Result<UfsObject, UfsError> {
        self.ufs
            .before()
            .await
            .map_err(|e| UfsError::new(UfsErrorKind::Timeout, e.message))?;
        assert_eq!(self.content.len() as u64, self.size);
        let file = self.ufs.place(&self.key, self.content, self.headers);
        self.ufs.after().await?;
        Ok(file.object())
    }

    async fn abort(self) {}
}

pub struct SimReader {
    sim: Sim,
    rest: Bytes,
}

impl UfsReader for SimReader {
    async fn next(&mut self) -> Result<Option<Bytes>, UfsError> {
        self.sim.jitter().await;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let take = (1 + self.sim.below(700_000) as usize).min(self.rest.len());
        Ok(Some(self.rest.split_to(take)))
    }
}

pub struct SimListing {
    ufs: SimUfs,
    prefix: String,
    after: String,
    recursive: bool,
}

impl UfsListing for SimListing {
    async fn next(&mut self) -> Result<Option<Vec<UfsEntry>>, UfsError> {
        self.ufs.before().await?;
        let files = self.ufs.files.borrow();
        let mut batch: Vec<UfsEntry> = Vec::new();
        for (key, file) in files.iter().filter(|(k, _)| k.starts_with(&self.prefix)) {
            let rest = &key[self.prefix.len()..];
            let folder = rest.find('/').filter(|_| !self.recursive);
            let name = folder.map_or(key.clone(), |at| key[..=self.prefix.len() + at].to_owned());
            if name.as_str() <= self.after.as_str() || batch.len() == 3 {
                continue;
            }
            self.after.clone_from(&name);
            batch.push(match folder {
                Some(_) => UfsEntry::Prefix(name),
                None => UfsEntry::Object {
                    key: name,
                    identity: file.identity.clone(),
                    etag: Some(file.object().etag),
                },
            });
        }
        Ok((!batch.is_empty()).then_some(batch))
    }
}

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
        }
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
                self.note(key, version, PendingChange::Put { size });
            }
            PersistState::Transient => {
                let size = record.size;
                self.note(key, version, PendingChange::Hold { size });
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

    fn note(&self, key: &ObjectKey, version: Version, change: PendingChange) {
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

    async fn commit_journaled(&self, entry: Bytes) -> Result<Committed, MetadataError> {
        let (apply, answer) = self.commit().await;
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
                self.note(key, version, PendingChange::Delete);
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
        Ok(PendingPage { entries, more })
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

    async fn note_opened(&self, _: BucketId, _: &OpenedUpload) -> Result<(), MetadataError> {
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
    async fn create_upload(&self, _: BucketId, _: &UploadRecord) -> Result<(), MetadataError> {
        unknown()
    }
    async fn upload(
        &self,
        _: BucketId,
        _: &ObjectKey,
        _: UploadId,
    ) -> Result<Option<UploadRecord>, MetadataError> {
        Ok(None)
    }
    async fn put_part(
        &self,
        _: BucketId,
        _: &UploadRecord,
        _: &PartRecord,
    ) -> Result<Option<PartRecord>, MetadataError> {
        unknown()
    }
    async fn parts(
        &self,
        _: BucketId,
        _: &ObjectKey,
        _: UploadId,
        _: u16,
        _: usize,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        Ok(Vec::new())
    }
    async fn uploads(
        &self,
        _: BucketId,
        _: &str,
        _: Option<(&str, Option<UploadId>)>,
        _: usize,
    ) -> Result<Vec<UploadRecord>, MetadataError> {
        Ok(Vec::new())
    }
    async fn complete_upload(
        &self,
        _: BucketId,
        _: &UploadRecord,
        _: &ObjectRecord,
        _: &PutCondition,
    ) -> Result<Committed, MetadataError> {
        unknown()
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
        _: UploadId,
    ) -> Result<Vec<PartRecord>, MetadataError> {
        Ok(Vec::new())
    }
}
