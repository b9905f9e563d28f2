//! A UFS that outlives us: a request may be applied long after we gave it up, also
//! after we ended. It keeps a journal of what was applied.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::io::*;
use quickwater_proto::*;

use super::content::{content_of, content_of_etag};
use super::metadata::CrashMetadata;
use super::{Faults, Trace};
use crate::executor::Sim;

/// How long we wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after it was sent a request may still be applied.
pub const LATE_MAX: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct File {
    pub content: Bytes,
    headers: ObjectHeaders,
    etag: ETag,
    serial: i64,
}

impl File {
    fn identity(&self) -> UfsIdentity {
        UfsIdentity {
            size: self.content.len() as u64,
            modified_ns: self.serial,
            token: self.etag.as_str().into(),
        }
    }

    fn object(&self) -> UfsObject {
        UfsObject {
            identity: self.identity(),
            etag: self.etag.clone(),
            headers: self.headers.clone(),
            checksums: Vec::new(),
        }
    }
}

/// A change on its way. `order`: its place among all changes.
struct Request {
    key: ObjectKey,
    file: Option<File>,
    order: u64,
    /// A row said so when it was sent.
    noted: bool,
    sent: Duration,
    /// Our process has ended since.
    orphaned: bool,
}

/// A change that was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    pub key: ObjectKey,
    pub order: u64,
    pub content: Option<u64>,
}

/// A multipart upload that is open.
struct OpenUpload {
    key: ObjectKey,
    headers: ObjectHeaders,
    begun_ms: i64,
    parts: BTreeMap<u16, (Bytes, [u8; 16])>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<ObjectKey, File>,
    serial: i64,
    next: u64,
    under_way: BTreeMap<(Duration, u64), Request>,
    /// Results of puts nobody has asked for yet.
    done: BTreeMap<u64, UfsObject>,
    journal: Vec<Applied>,
    uploads: BTreeMap<String, OpenUpload>,
    down_until: Duration,
}

#[derive(Clone)]
pub struct CrashUfs {
    sim: Sim,
    faults: Rc<Cell<Faults>>,
    trace: Trace,
    metadata: CrashMetadata,
    state: Rc<RefCell<State>>,
}

fn error<T>(kind: UfsErrorKind) -> Result<T, UfsError> {
    Err(UfsError::new(kind, "simulated"))
}

impl CrashUfs {
    pub fn new(
        sim: &Sim,
        faults: &Rc<Cell<Faults>>,
        trace: &Trace,
        metadata: &CrashMetadata,
    ) -> Self {
        Self {
            sim: sim.clone(),
            faults: Rc::clone(faults),
            trace: trace.clone(),
            metadata: metadata.clone(),
            state: Rc::default(),
        }
    }

    /// Our process ends. What it has sent may be applied all the same, at any time up
    /// to the limit; but what it has sent so shortly before a power cut that its row
    /// was not flushed is applied at once or never.
    pub fn crash(&self) {
        let mut state = self.state.borrow_mut();
        let under_way = std::mem::take(&mut state.under_way);
        let now = self.sim.now();
        for ((at, id), mut request) in under_way {
            request.orphaned = true;
            let until = request.sent + LATE_MAX;
            let undone = request.noted && !self.metadata.fenced(&request.key);
            let at = match (!undone, self.sim.below(4)) {
                (_, 0) => continue,
                (false, _) => now,
                (true, 1) if now < until => {
                    now + Duration::from_millis(self.sim.below((until - now).as_millis() as u64))
                }
                (true, _) => at,
            };
            state.under_way.insert((at, id), request);
        }
        drop(state);
        self.catch_up();
        self.state.borrow_mut().done.clear();
    }

    /// Nothing is reached for a while.
    pub fn go_down(&self, until: Duration) {
        self.state.borrow_mut().down_until = until;
    }

    /// What is there now.
    pub fn file(&self, key: &ObjectKey) -> Option<File> {
        self.catch_up();
        self.state.borrow().files.get(key).cloned()
    }

    pub fn journal(&self) -> Vec<Applied> {
        self.state.borrow().journal.clone()
    }

    /// Names and keys of the uploads that are open.
    pub fn open_uploads_of_all(&self) -> Vec<(String, ObjectKey)> {
        let state = self.state.borrow();
        let open = state.uploads.iter();
        open.map(|(name, upload)| (name.clone(), upload.key.clone()))
            .collect()
    }

    /// Whether a request that cannot be seen is applied, and whether we hear of it.
    async fn invisible(&self) -> (bool, bool) {
        if self.sim.below(100) >= self.faults.get().ufs_never_answers {
            return (true, true);
        }
        let applied = self.sim.below(2) == 0;
        self.sim.sleep(REQUEST_TIMEOUT).await;
        (applied, false)
    }

    /// Applies what is due.
    fn catch_up(&self) {
        let now = self.sim.now();
        let mut state = self.state.borrow_mut();
        while let Some(entry) = state.under_way.first_entry() {
            let (at, id) = *entry.key();
            if at > now {
                break;
            }
            let request = entry.remove();
            let content = request
                .file
                .as_ref()
                .map(|file| content_of(&file.etag, &file.content));
            self.trace.note("ufs", &(request.order, content));
            if request.orphaned {
                self.trace.note("applied after we ended", &request.order);
            }
            if at > request.sent + REQUEST_TIMEOUT {
                self.trace.note("applied late", &request.order);
            }
            state.journal.push(Applied {
                key: request.key.clone(),
                order: request.order,
                content,
            });
            match request.file {
                None => drop(state.files.remove(&request.key)),
                Some(mut file) => {
                    state.serial += 1;
                    file.serial = state.serial;
                    state.done.insert(id, file.object());
                    state.files.insert(request.key, file);
                }
            }
        }
    }

    /// Whether a request gets through at all.
    async fn before(&self) -> Result<(), UfsError> {
        self.sim.jitter().await;
        let faults = self.faults.get();
        let down = self.sim.now() < self.state.borrow().down_until;
        if down || self.sim.below(100) < faults.ufs_refuses {
            return error(UfsErrorKind::Unavailable);
        }
        if self.sim.below(100) < faults.ufs_throttles {
            return error(UfsErrorKind::Throttled);
        }
        self.catch_up();
        Ok(())
    }

    /// Sends a change; what becomes of it is decided now.
    fn send(&self, key: &ObjectKey, file: Option<File>) -> Sent {
        let faults = self.faults.get();
        let order = match &file {
            Some(file) => self.metadata.order_of(content_of_etag(&file.etag)),
            None => self.metadata.delete_order(key),
        };
        let noted = self.metadata.fenced(key);
        let now = self.sim.now();
        let soon = now + Duration::from_micros(self.sim.below(2_000));
        let mut sent = Sent {
            id: 0,
            at: soon,
            answered: true,
        };
        if self.sim.below(100) < faults.ufs_never_answers {
            sent.answered = false;
            let limit = (LATE_MAX - REQUEST_TIMEOUT).as_millis() as u64;
            sent.at = match self.sim.below(3) {
                // Applied, but we do not hear of it.
                0 => soon,
                // Never applied.
                1 => return sent,
                _ => now + REQUEST_TIMEOUT + Duration::from_millis(self.sim.below(limit)),
            };
        }
        let mut state = self.state.borrow_mut();
        state.next += 1;
        sent.id = state.next;
        let request = Request {
            key: key.clone(),
            file,
            order,
            noted,
            sent: now,
            orphaned: false,
        };
        self.trace
            .note("send", &(key.as_str(), order, noted, sent.at));
        state.under_way.insert((sent.at, sent.id), request);
        sent
    }

    async fn answer(&self, sent: Sent) -> Result<Option<UfsObject>, UfsError> {
        if !sent.answered {
            self.sim.sleep(REQUEST_TIMEOUT).await;
            self.catch_up();
            return error(UfsErrorKind::Timeout);
        }
        let now = self.sim.now();
        self.sim.sleep(sent.at.saturating_sub(now)).await;
        self.catch_up();
        let done = self.state.borrow_mut().done.remove(&sent.id);
        self.sim.jitter().await;
        Ok(done)
    }

    async fn store_part(
        &self,
        upload: &str,
        number: u16,
        bytes: Bytes,
        md5: [u8; 16],
    ) -> Result<(), UfsError> {
        self.before().await?;
        let (applied, answered) = self.invisible().await;
        let mut state = self.state.borrow_mut();
        let Some(open) = state.uploads.get_mut(upload) else {
            return error(UfsErrorKind::NotFound);
        };
        if applied {
            open.parts.insert(number, (bytes, md5));
        }
        match answered {
            true => Ok(()),
            false => error(UfsErrorKind::Unavailable),
        }
    }

    async fn put_now(&self, key: &ObjectKey, file: File) -> Result<UfsObject, UfsError> {
        let sent = self.send(key, Some(file));
        let object = self.answer(sent).await?;
        object.ok_or_else(|| UfsError::new(UfsErrorKind::Other, "no result"))
    }
}

/// A request that was sent.
struct Sent {
    id: u64,
    at: Duration,
    answered: bool,
}

impl Ufs for CrashUfs {
    type Upload = CrashUpload;
    type Reader = CrashReader;
    type Listing = CrashListing;

    async fn head(&self, _: &Bucket, key: &ObjectKey) -> Result<UfsObject, UfsError> {
        self.before().await?;
        let file = self.file(key);
        self.sim.jitter().await;
        file.map_or_else(|| error(UfsErrorKind::NotFound), |file| Ok(file.object()))
    }

    async fn read(
        &self,
        _: &Bucket,
        key: &ObjectKey,
        expect: &UfsIdentity,
        range: Range<u64>,
    ) -> Result<CrashReader, UfsError> {
        self.before().await?;
        let Some(file) = self.file(key) else {
            return error(UfsErrorKind::NotFound);
        };
        if file.identity() != *expect {
            return error(UfsErrorKind::Changed);
        }
        let rest = file.content.slice(range.start as usize..range.end as usize);
        let sim = self.sim.clone();
        Ok(CrashReader { sim, rest })
    }

    async fn put(
        &self,
        _: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        size: u64,
    ) -> Result<CrashUpload, UfsError> {
        Ok(CrashUpload {
            ufs: self.clone(),
            place: Place::Object(key.clone(), headers.clone()),
            size,
            bytes: Vec::new(),
        })
    }

    async fn delete(&self, _: &Bucket, key: &ObjectKey) -> Result<(), UfsError> {
        self.before().await?;
        let sent = self.send(key, None);
        self.answer(sent).await.map(drop)
    }

    async fn create_upload(
        &self,
        _: &Bucket,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        _: UploadId,
    ) -> Result<String, UfsError> {
        self.before().await?;
        let (applied, answered) = self.invisible().await;
        let mut state = self.state.borrow_mut();
        state.next += 1;
        let name = format!("upload-{}", state.next);
        let upload = OpenUpload {
            key: key.clone(),
            headers: headers.clone(),
            begun_ms: self.sim.now().as_millis() as i64,
            parts: BTreeMap::new(),
        };
        if applied {
            state.uploads.insert(name.clone(), upload);
        }
        match answered {
            true => Ok(name),
            false => error(UfsErrorKind::Timeout),
        }
    }

    fn upload_name(&self, _: &Bucket, _: UploadId) -> Option<String> {
        None
    }
    fn put_bytes_max(&self, _: &Bucket) -> u64 {
        u64::from(CHUNK_BYTES)
    }
    fn resumes(&self, _: &Bucket) -> bool {
        true
    }
    fn names(&self, name: &str, seen: &UfsUploadSeen) -> bool {
        name == seen.name
    }

    async fn open_uploads(
        &self,
        _: &Bucket,
        key: &ObjectKey,
    ) -> Result<Vec<UfsUploadSeen>, UfsError> {
        self.before().await?;
        let state = self.state.borrow();
        let of_key = state
            .uploads
            .iter()
            .filter(|(_, upload)| upload.key == *key);
        let seen = of_key.map(|(name, upload)| UfsUploadSeen {
            name: name.clone(),
            begun_ms: upload.begun_ms,
        });
        Ok(seen.collect())
    }

    async fn uploaded_parts(
        &self,
        _: &Bucket,
        upload: &UploadRecord,
    ) -> Result<Vec<UfsPartSeen>, UfsError> {
        self.before().await?;
        let state = self.state.borrow();
        let Some(upload) = state.uploads.get(&upload.ufs_upload) else {
            return error(UfsErrorKind::NotFound);
        };
        let seen = upload
            .parts
            .iter()
            .map(|(number, (bytes, md5))| UfsPartSeen {
                number: *number,
                size: bytes.len() as u64,
                md5: Some(*md5),
            });
        Ok(seen.collect())
    }

    async fn put_in_parts(
        &self,
        _: &Bucket,
        upload: &UploadRecord,
        size: u64,
        part_bytes: u64,
        sent: Vec<UfsPartSeen>,
    ) -> Result<CrashUpload, UfsError> {
        if !sent.is_empty() {
            self.trace.note("gone on with", &sent.len());
        }
        let part_bytes = match part_bytes {
            0 => CHUNK_BYTES as usize,
            bytes => bytes as usize,
        };
        Ok(CrashUpload {
            ufs: self.clone(),
            place: Place::Cut(upload.clone(), part_bytes, sent),
            size,
            bytes: Vec::new(),
        })
    }

    async fn put_part(
        &self,
        _: &Bucket,
        upload: &UploadRecord,
        number: u16,
        size: u64,
    ) -> Result<CrashUpload, UfsError> {
        Ok(CrashUpload {
            ufs: self.clone(),
            place: Place::Part(upload.ufs_upload.clone(), number),
            size,
            bytes: Vec::new(),
        })
    }

    async fn complete_upload(
        &self,
        _: &Bucket,
        upload: &UploadRecord,
        parts: &[PartRecord],
        etag: &ETag,
        _: &[Checksum],
    ) -> Result<UfsObject, UfsError> {
        self.before().await?;
        let file = {
            let state = self.state.borrow();
            let Some(open) = state.uploads.get(&upload.ufs_upload) else {
                return error(UfsErrorKind::NotFound);
            };
            let mut content = Vec::new();
            for part in parts {
                content.extend_from_slice(&open.parts[&part.number].0);
            }
            File {
                content: content.into(),
                headers: open.headers.clone(),
                etag: etag.clone(),
                serial: 0,
            }
        };
        let object = self.put_now(&upload.key, file).await?;
        self.state.borrow_mut().uploads.remove(&upload.ufs_upload);
        Ok(object)
    }

    async fn abort_upload(&self, _: &Bucket, upload: &UploadRecord) -> Result<(), UfsError> {
        self.before().await?;
        self.state.borrow_mut().uploads.remove(&upload.ufs_upload);
        Ok(())
    }

    async fn list(
        &self,
        _: &Bucket,
        prefix: &str,
        start_after: &str,
        recursive: bool,
    ) -> Result<CrashListing, UfsError> {
        self.before().await?;
        Ok(CrashListing {
            ufs: self.clone(),
            prefix: prefix.to_owned(),
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
        match self.faults.get().broken {
            Some(super::Break::LateIsNotFenced) => Duration::ZERO,
            _ => LATE_MAX,
        }
    }
    fn outlives_us(&self, _: &Bucket) -> bool {
        true
    }
}

enum Place {
    Object(ObjectKey, ObjectHeaders),
    Part(String, u16),
    Cut(UploadRecord, usize, Vec<UfsPartSeen>),
}

/// Tells parts of different bytes apart.
fn hash_of(bytes: &[u8]) -> [u8; 16] {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let mut md5 = [0; 16];
    md5[..8].copy_from_slice(&hasher.finish().to_be_bytes());
    md5
}

pub struct CrashUpload {
    ufs: CrashUfs,
    place: Place,
    size: u64,
    bytes: Vec<u8>,
}

impl UfsUpload for CrashUpload {
    async fn send(&mut self, data: Bytes) -> Result<(), UfsError> {
        self.ufs.sim.jitter().await;
        self.bytes.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(self, digests: &BodyDigests) -> Result<UfsObject, UfsError> {
        self.ufs.before().await?;
        assert_eq!(self.bytes.len() as u64, self.size, "bytes as announced");
        let file = File {
            content: self.bytes.into(),
            headers: ObjectHeaders::default(),
            etag: ETag::from_md5(&digests.md5),
            serial: 0,
        };
        match self.place {
            Place::Object(key, headers) => {
                let file = File { headers, ..file };
                self.ufs.put_now(&key, file).await
            }
            Place::Part(upload, number) => {
                let object = file.object();
                let (ufs, md5) = (&self.ufs, digests.md5);
                ufs.store_part(&upload, number, file.content, md5).await?;
                Ok(object)
            }
            Place::Cut(upload, part_bytes, sent) => {
                for (at, part) in file.content.chunks(part_bytes).enumerate() {
                    let number = at as u16 + 1;
                    let seen = UfsPartSeen {
                        number,
                        size: part.len() as u64,
                        md5: Some(hash_of(part)),
                    };
                    if sent.contains(&seen) {
                        continue;
                    }
                    let bytes = file.content.slice_ref(part);
                    let stored =
                        self.ufs
                            .store_part(&upload.ufs_upload, number, bytes, hash_of(part));
                    stored.await?;
                }
                self.ufs.before().await?;
                let file = {
                    let state = self.ufs.state.borrow();
                    let Some(open) = state.uploads.get(&upload.ufs_upload) else {
                        return error(UfsErrorKind::NotFound);
                    };
                    let whole: Vec<u8> = open
                        .parts
                        .values()
                        .flat_map(|(bytes, _)| bytes.to_vec())
                        .collect();
                    assert_eq!(whole, file.content, "the parts are the object");
                    let headers = open.headers.clone();
                    File { headers, ..file }
                };
                let object = self.ufs.put_now(&upload.key, file).await?;
                let mut state = self.ufs.state.borrow_mut();
                state.uploads.remove(&upload.ufs_upload);
                Ok(object)
            }
        }
    }

    async fn abort(self) {}
}

pub struct CrashReader {
    sim: Sim,
    rest: Bytes,
}

impl UfsReader for CrashReader {
    async fn next(&mut self) -> Result<Option<Bytes>, UfsError> {
        self.sim.jitter().await;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let take = (1 + self.sim.below(700_000) as usize).min(self.rest.len());
        Ok(Some(self.rest.split_to(take)))
    }
}

pub struct CrashListing {
    ufs: CrashUfs,
    prefix: String,
    after: String,
    recursive: bool,
}

impl UfsListing for CrashListing {
    async fn next(&mut self) -> Result<Option<Vec<UfsEntry>>, UfsError> {
        self.ufs.before().await?;
        let state = self.ufs.state.borrow();
        let mut names = BTreeSet::new();
        for key in state.files.keys().map(ObjectKey::as_str) {
            let Some(rest) = key.strip_prefix(self.prefix.as_str()) else {
                continue;
            };
            let folder = rest.find('/').filter(|_| !self.recursive);
            let name = folder.map_or(key, |at| &key[..=self.prefix.len() + at]);
            if name > self.after.as_str() {
                names.insert(name.to_owned());
            }
        }
        let entry = |name: &String| match state.files.iter().find(|(k, _)| k.as_str() == name) {
            None => UfsEntry::Prefix(name.clone()),
            Some((_, file)) => UfsEntry::Object {
                key: name.clone(),
                identity: file.identity(),
                etag: Some(file.etag.clone()),
            },
        };
        let batch: Vec<_> = names.iter().take(2).map(entry).collect();
        if let Some(last) = names.iter().take(2).next_back() {
            self.after.clone_from(last);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }
}
