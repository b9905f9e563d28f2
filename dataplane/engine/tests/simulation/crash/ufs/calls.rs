//! What the engine asks of the UFS.

use super::streams::{CrashListing, CrashReader, CrashUpload, Place};
use super::*;

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
                let there = open.parts.get(&part.number);
                let Some((bytes, _)) = there.filter(|(_, md5)| Some(*md5) == part.etag.as_md5())
                else {
                    return error(UfsErrorKind::Invalid);
                };
                content.extend_from_slice(bytes);
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
            Some(crate::crash::Break::LateIsNotFenced) => Duration::ZERO,
            _ => LATE_MAX,
        }
    }
    fn outlives_us(&self, _: &Bucket) -> bool {
        true
    }
}
