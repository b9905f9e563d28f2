//! A UFS that fails before or after it applied. Absent: multipart uploads.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quickwater_engine::io::*;
use quickwater_proto::*;

use super::Faults;
use quickwater_simulation::Sim;

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
    /// Listings begun.
    pub lists: Rc<Cell<u64>>,
    serial: Rc<Cell<i64>>,
}

impl SimUfs {
    pub fn new(sim: &Sim, faults: &Rc<Cell<Faults>>) -> Self {
        Self {
            sim: sim.clone(),
            faults: Rc::clone(faults),
            files: Rc::default(),
            reads: Rc::default(),
            lists: Rc::default(),
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
        self.lists.set(self.lists.get() + 1);
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
