//! Multipart uploads, passed through to the store.

use std::collections::HashMap;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Part};
use quickwater_proto::{
    ETag, ObjectHeaders, ObjectKey, PART_NUMBER_MAX, PartRecord, UfsError, UfsErrorKind, UfsObject,
    UploadRecord,
};

use super::errors::failed;
use super::objects::metadata;
use super::{S3, upload_id, with_expires};
use crate::mount::within;

/// Pages of a part listing (S3: 1,000 parts each), with one to spare.
const PART_PAGES_MAX: usize = PART_NUMBER_MAX as usize / 1_000 + 1;

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
        match created.await?.upload_id() {
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
    ) -> Result<UfsObject, UfsError> {
        let size = parts.iter().map(|p| p.size).fold(0, u64::saturating_add);
        let id = upload_id(upload)?;
        let known = match self.parts(&self.full_key(&upload.key)?, &id).await {
            Ok(known) => known,
            Err(error) if error.kind == UfsErrorKind::NotFound => {
                return self.completed_before(&upload.key, size, etag, error).await;
            }
            Err(error) => return Err(error),
        };
        let named = named(parts, &known)?;
        let token = match self.send_complete(&upload.key, &id, named).await {
            Ok(token) => token,
            Err(error) if error.kind == UfsErrorKind::NotFound => {
                return self.completed_before(&upload.key, size, etag, error).await;
            }
            Err(error) => return Err(error),
        };
        Ok(UfsObject {
            identity: self
                .identity_of(&upload.key, token.as_deref(), size)
                .await?,
            etag: etag.clone(),
            headers: upload.headers.clone(),
            checksums: Vec::new(),
        })
    }

    /// A repeat after an unknown outcome: the upload is gone, so either the object
    /// is there, with the ETag it was to get, or the upload was aborted.
    async fn completed_before(
        &self,
        key: &ObjectKey,
        size: u64,
        etag: &ETag,
        no_upload: UfsError,
    ) -> Result<UfsObject, UfsError> {
        match self.head(key).await {
            Ok(object) if object.identity.size == size && object.etag == *etag => Ok(object),
            Ok(_) => Err(no_upload),
            Err(error) if error.kind == UfsErrorKind::NotFound => Err(no_upload),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn send_complete(
        &self,
        key: &ObjectKey,
        id: &str,
        parts: Vec<CompletedPart>,
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
            request
                .send()
                .await
                .map_err(|e| failed("complete upload", true, &e))
        });
        Ok(completed.await?.e_tag().map(str::to_owned))
    }

    pub(crate) async fn abort_upload(&self, upload: &UploadRecord) -> Result<(), UfsError> {
        self.send_abort(&self.full_key(&upload.key)?, &upload_id(upload)?)
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

/// Names the parts as the store knows them, after comparing them.
fn named(parts: &[PartRecord], known: &HashMap<i32, Part>) -> Result<Vec<CompletedPart>, UfsError> {
    let invalid = |number: u16, why: &str| {
        UfsError::new(
            UfsErrorKind::Invalid,
            format!("part {number} {why} in the store"),
        )
    };
    let mut named = Vec::with_capacity(parts.len());
    let mut same = 0;
    for part in parts {
        let number = i32::from(part.number);
        let theirs = known
            .get(&number)
            .ok_or_else(|| invalid(part.number, "is missing"))?;
        if theirs.size().and_then(|s| u64::try_from(s).ok()) != Some(part.size) {
            return Err(invalid(part.number, "has another length"));
        }
        let tag = theirs
            .e_tag()
            .ok_or_else(|| invalid(part.number, "has no ETag"))?;
        same += usize::from(ETag::new(tag) == part.etag);
        named.push(
            CompletedPart::builder()
                .part_number(number)
                .e_tag(tag)
                .build(),
        );
    }
    // Where ETags are no MD5s (encryption with a key service) none is the same.
    if same != 0 && same != parts.len() {
        return Err(UfsError::new(
            UfsErrorKind::Invalid,
            "a part was replaced in the store",
        ));
    }
    Ok(named)
}
