//! Bytes on their way to and from the UFS, and its listings.

use super::*;

pub enum Place {
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
    pub(super) ufs: CrashUfs,
    pub(super) place: Place,
    pub(super) size: u64,
    pub(super) bytes: Vec<u8>,
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
    pub(super) sim: Sim,
    pub(super) rest: Bytes,
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
    pub(super) ufs: CrashUfs,
    pub(super) prefix: String,
    pub(super) after: String,
    pub(super) recursive: bool,
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
