//! Multipart uploads, passed through to the store.

use std::collections::HashMap;

use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, MultipartUpload, Part, ServerSideEncryption,
};
use quickwater_proto::{
    ETag, ObjectHeaders, ObjectKey, PART_NUMBER_MAX, PartRecord, UfsError, UfsErrorKind,
    UfsIdentity, UfsObject, UfsPartSeen, UfsUploadSeen, UploadRecord,
};

use super::errors::failed;
use super::objects::{is_shown, metadata};
use super::{S3, with_expires};
use crate::mount::within;
use crate::standing::Permit;

/// Begins the name of an upload whose parts' ETags are no MD5s.
pub(super) const OPAQUE: &str = "opaque:";
/// Pages of a part listing (S3: 1,000 parts each), with one to spare.
const PART_PAGES_MAX: usize = PART_NUMBER_MAX as usize / 1_000 + 1;
/// Pages of the open uploads of one key (S3: 1,000 uploads each).
const UPLOAD_PAGES_MAX: usize = 10;

impl S3 {
    pub(crate) async fn create_upload(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
    ) -> Result<String, UfsError> {
        let headers = headers.clone();
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full_key(key)?)
            .set_metadata(metadata(&headers))
            .set_content_type(headers.content_type)
            .set_content_encoding(headers.content_encoding)
            .set_content_disposition(headers.content_disposition)
            .set_content_language(headers.content_language)
            .set_cache_control(headers.cache_control)
            .customize();
        let request = with_expires!(request, headers.expires);
        let created = self.request("create upload", async {
            request
                .send()
                .await
                .map_err(|e| failed("create upload", true, &e))
        });
        let created = created.await?;
        let opaque = created.sse_customer_algorithm().is_some()
            || !is_md5_kept(created.server_side_encryption());
        match created.upload_id() {
            Some(id) if !id.is_empty() && opaque => Ok(format!("{OPAQUE}{id}")),
            Some(id) if !id.is_empty() => Ok(id.to_owned()),
            _ => Err(UfsError::new(
                UfsErrorKind::Corrupt,
                "the store named no upload id",
            )),
        }
    }

    pub(crate) async fn complete(
        &self,
        upload: &UploadRecord,
        parts: &[PartRecord],
        etag: &ETag,
        permit: &Permit,
    ) -> Result<UfsObject, UfsError> {
        let size = parts.iter().map(|p| p.size).fold(0, u64::saturating_add);
        let identity = match self.complete_by_etags(upload, parts, permit).await {
            Ok(token) => {
                self.identity_of(&upload.key, token.as_deref(), size)
                    .await?
            }
            Err(error) => self.completed_anyway(upload, size, etag, error).await?,
        };
        Ok(UfsObject {
            identity,
            etag: etag.clone(),
            headers: upload.headers.clone(),
            checksums: Vec::new(),
        })
    }

    /// Completes with the MD5s we know. Only a store whose ETags are no MD5s is
    /// asked for its own: else a part that somebody replaced would go unnoticed.
    async fn complete_by_etags(
        &self,
        upload: &UploadRecord,
        parts: &[PartRecord],
        permit: &Permit,
    ) -> Result<Option<String>, UfsError> {
        let id = upload_id(upload)?;
        let key = self.full_key(&upload.key)?;
        let opaque = upload.ufs_upload.starts_with(OPAQUE);
        if !opaque {
            let ours = parts
                .iter()
                .map(|p| completed(p.number, p.etag.as_str()))
                .collect();
            let refused = match self.send_complete(&upload.key, id, ours, permit).await {
                Err(error) if error.kind == UfsErrorKind::Invalid => error,
                done => return done,
            };
            let theirs = self
                .parts(&key, id)
                .await
                .and_then(|known| named(parts, &known, false));
            return match theirs {
                Ok(theirs) => self.send_complete(&upload.key, id, theirs, permit).await,
                Err(error) => {
                    tracing::debug!(%error, "no other ETags to complete with");
                    Err(refused)
                }
            };
        }
        let theirs = named(parts, &self.parts(&key, id).await?, true)?;
        self.send_complete(&upload.key, id, theirs, permit).await
    }

    /// After `error`: the upload is gone (this is a repeat) or the answer was lost.
    /// Either the object is there as it was to be, and no request for the upload can
    /// be applied any more, or `error` stands.
    pub(super) async fn completed_anyway(
        &self,
        upload: &UploadRecord,
        size: u64,
        etag: &ETag,
        error: UfsError,
    ) -> Result<UfsIdentity, UfsError> {
        let is_over = match error.kind {
            UfsErrorKind::NotFound => true,
            // What shows the same may have been there before.
            UfsErrorKind::Timeout => self.is_gone(upload).await,
            _ => false,
        };
        if !is_over {
            return Err(error);
        }
        match self.head(&upload.key).await {
            Ok(object)
                if object.identity.size == size
                    && object.etag == *etag
                    && is_shown(&upload.headers, &object.headers) =>
            {
                Ok(object.identity)
            }
            Ok(_) => Err(error),
            Err(look) => {
                tracing::debug!(error = %look, "no look at an object that was completed");
                Err(error)
            }
        }
    }

    /// Whether the store says that it has no such upload: it is completed or aborted.
    async fn is_gone(&self, upload: &UploadRecord) -> bool {
        match self.uploaded_parts(upload).await {
            Ok(_) => false,
            Err(error) => error.kind == UfsErrorKind::NotFound,
        }
    }

    pub(super) async fn send_complete(
        &self,
        key: &ObjectKey,
        id: &str,
        parts: Vec<CompletedPart>,
        permit: &Permit,
    ) -> Result<Option<String>, UfsError> {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full_key(key)?)
            .upload_id(id)
            .multipart_upload(parts);
        // A store may take long to put large objects together.
        let limit = self.context.config.request_timeout.saturating_mul(2);
        let completed = within(limit, "complete upload", async {
            permit.check()?;
            request
                .send()
                .await
                .map_err(|e| failed("complete upload", true, &e))
        });
        Ok(completed.await?.e_tag().map(str::to_owned))
    }

    pub(crate) async fn abort_upload(&self, upload: &UploadRecord) -> Result<(), UfsError> {
        self.send_abort(&self.full_key(&upload.key)?, upload_id(upload)?)
            .await
    }

    pub(super) async fn send_abort(&self, key: &str, id: &str) -> Result<(), UfsError> {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket);
        let request = request.key(key).upload_id(id);
        let aborted = self.request("abort upload", async {
            request
                .send()
                .await
                .map_err(|e| failed("abort upload", true, &e))
        });
        match aborted.await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == UfsErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Uploads of exactly this key that are open.
    pub(crate) async fn open_uploads(
        &self,
        key: &ObjectKey,
    ) -> Result<Vec<UfsUploadSeen>, UfsError> {
        let key = self.full_key(key)?;
        let mut seen = Vec::new();
        let mut marker: (Option<String>, Option<String>) = (None, None);
        for _ in 0..UPLOAD_PAGES_MAX {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(&key)
                .set_key_marker(marker.0)
                .set_upload_id_marker(marker.1)
                .customize()
                .config_override(self.repeatable());
            let page = self.request("list uploads", async {
                request
                    .send()
                    .await
                    .map_err(|e| failed("list uploads", false, &e))
            });
            let page = page.await?;
            let of_key = page.uploads().iter().filter(|u| u.key() == Some(&key));
            seen.extend(of_key.filter_map(upload_seen));
            // Keys that only begin with this one come after it.
            let beyond = page.uploads().iter().any(|u| u.key() != Some(&key));
            if beyond || page.is_truncated() != Some(true) {
                return Ok(seen);
            }
            marker = (
                page.next_key_marker().map(str::to_owned),
                page.next_upload_id_marker().map(str::to_owned),
            );
        }
        Err(UfsError::new(
            UfsErrorKind::Corrupt,
            "the list of uploads does not end",
        ))
    }

    /// The parts of an upload that the store has.
    pub(crate) async fn uploaded_parts(
        &self,
        upload: &UploadRecord,
    ) -> Result<Vec<UfsPartSeen>, UfsError> {
        let opaque = upload.ufs_upload.starts_with(OPAQUE);
        let key = self.full_key(&upload.key)?;
        let parts = self.parts(&key, upload_id(upload)?).await?;
        let seen = |(number, part): (i32, Part)| {
            let md5 = part.e_tag().and_then(|tag| ETag::new(tag).as_md5());
            Some(UfsPartSeen {
                number: u16::try_from(number).ok()?,
                size: u64::try_from(part.size()?).ok()?,
                md5: md5.filter(|_| !opaque),
            })
        };
        Ok(parts.into_iter().filter_map(seen).collect())
    }

    /// The parts the store has. Asked because their ETags need not be MD5s.
    async fn parts(&self, key: &str, id: &str) -> Result<HashMap<i32, Part>, UfsError> {
        let mut parts = HashMap::new();
        let mut marker = None;
        for _ in 0..PART_PAGES_MAX {
            let request = self
                .client
                .list_parts()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(id)
                .set_part_number_marker(marker)
                .customize()
                .config_override(self.repeatable());
            let page = self.request("list parts", async {
                request
                    .send()
                    .await
                    .map_err(|e| failed("list parts", false, &e))
            });
            let page = page.await?;
            for part in page.parts() {
                parts.insert(part.part_number().unwrap_or(0), part.clone());
            }
            marker = page.next_part_number_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || marker.is_none() {
                return Ok(parts);
            }
        }
        Err(UfsError::new(
            UfsErrorKind::Corrupt,
            "the list of parts does not end",
        ))
    }
}

/// An upload as it is listed.
fn upload_seen(upload: &MultipartUpload) -> Option<UfsUploadSeen> {
    Some(UfsUploadSeen {
        name: upload.upload_id()?.to_owned(),
        begun_ms: upload.initiated()?.to_millis().ok()?,
    })
}

/// The store's id in the name of an upload.
pub(crate) fn id_of(name: &str) -> &str {
    name.strip_prefix(OPAQUE).unwrap_or(name)
}

/// The store's name of an upload, from the metadata.
pub(super) fn upload_id(upload: &UploadRecord) -> Result<&str, UfsError> {
    let id = id_of(&upload.ufs_upload);
    if id.is_empty() {
        return Err(UfsError::new(
            UfsErrorKind::NotFound,
            "the upload has no id in the store",
        ));
    }
    Ok(id)
}

/// Whether ETags are MD5s under this encryption (S3 "Object", ETag).
pub(super) fn is_md5_kept(encryption: Option<&ServerSideEncryption>) -> bool {
    matches!(encryption, None | Some(ServerSideEncryption::Aes256))
}

pub(super) fn completed(number: u16, etag: &str) -> CompletedPart {
    CompletedPart::builder()
        .part_number(i32::from(number))
        .e_tag(format!("\"{etag}\""))
        .build()
}

/// Names the parts as the store knows them, after comparing what can be compared.
fn named(
    parts: &[PartRecord],
    known: &HashMap<i32, Part>,
    opaque: bool,
) -> Result<Vec<CompletedPart>, UfsError> {
    let name = |part: &PartRecord| {
        let invalid = |why: &str| {
            let message = format!("part {} {why} in the store", part.number);
            UfsError::new(UfsErrorKind::Invalid, message)
        };
        let theirs = known
            .get(&i32::from(part.number))
            .ok_or_else(|| invalid("is missing"))?;
        if theirs.size().and_then(|s| u64::try_from(s).ok()) != Some(part.size) {
            return Err(invalid("has another length"));
        }
        let tag = ETag::new(theirs.e_tag().ok_or_else(|| invalid("has no ETag"))?);
        if tag != part.etag && !opaque && tag.as_md5().is_some() {
            return Err(invalid("was replaced"));
        }
        Ok(completed(part.number, tag.as_str()))
    };
    parts.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickwater_proto::BlobId;

    #[test]
    fn parts_are_compared_as_far_as_their_etags_go() {
        let part = PartRecord {
            number: 3,
            size: 5,
            etag: ETag::from_md5(&[1; 16]),
            modified_ms: 0,
            checksums: Vec::new(),
            blob: BlobId(0),
            held: false,
        };
        let other = ETag::from_md5(&[2; 16]);
        let stored = |size: i64, tag: &str| {
            HashMap::from([(
                3,
                Part::builder().part_number(3).size(size).e_tag(tag).build(),
            )])
        };
        let check = |known: &HashMap<i32, Part>, opaque| {
            named(std::slice::from_ref(&part), known, opaque).map(|p| p[0].e_tag.clone())
        };
        let own = format!("\"{}\"", part.etag);
        assert_eq!(check(&stored(5, &own), false), Ok(Some(own)));
        assert!(
            check(&stored(5, other.as_str()), false).is_err(),
            "replaced"
        );
        assert!(check(&stored(5, other.as_str()), true).is_ok(), "encrypted");
        assert!(check(&stored(5, "0x8D"), false).is_ok(), "no MD5");
        assert!(
            check(&stored(6, other.as_str()), true).is_err(),
            "another length"
        );
        assert!(check(&HashMap::new(), true).is_err(), "missing");
    }
}
