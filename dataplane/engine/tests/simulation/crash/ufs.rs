//! A UFS that outlives us: a request may be applied long after we gave it up, also
//! after we ended. It keeps a journal of what was applied. Absent: the calls of the
//! engine.

mod calls;
mod streams;

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
use quickwater_simulation::Sim;

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
