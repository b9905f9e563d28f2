//! Answers about buckets, copies, deletes, tags, access, and errors.

use quickwater_proto::{BucketName, Checksum, ETag, ObjectKey};

use super::XML_CONTENT_TYPE;
use super::header::HeaderList;
use super::write::Xml;
use crate::error::{S3Error, S3ErrorCode};
use crate::request::{BucketDefault, ListBuckets, Owner, continuation_token};

/// Seconds after which an overloaded server may be asked again.
const RETRY_AFTER_SECONDS: &str = "1";
/// The region S3 shows as an empty location.
const REGION_DEFAULT: &str = "us-east-1";

/// One `<Bucket>`.
#[derive(Debug, Clone, Copy)]
pub struct BucketEntry<'a> {
    /// Its name.
    pub name: &'a BucketName,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// The body of ListBuckets; `more`: others follow the last.
#[must_use]
pub fn list_buckets(
    input: &ListBuckets,
    buckets: &[BucketEntry<'_>],
    more: bool,
    owner: &Owner,
) -> Vec<u8> {
    let mut xml = Xml::new("ListAllMyBucketsResult");
    xml.owner("Owner", owner);
    xml.open("Buckets");
    for bucket in buckets {
        xml.open("Bucket");
        xml.text("Name", bucket.name.as_str());
        xml.time("CreationDate", bucket.created_ms);
        xml.close("Bucket");
    }
    xml.close("Buckets");
    if let Some(last) = buckets.last().filter(|_| more) {
        xml.text("ContinuationToken", &continuation_token(last.name.as_str()));
    }
    if !input.prefix.is_empty() {
        xml.text("Prefix", &input.prefix);
    }
    xml.finish()
}

/// Header lines of CreateBucket.
pub fn create_bucket_head(out: &mut Vec<u8>, bucket: &BucketName) {
    HeaderList::new(out).push("Location", &format!("/{bucket}"));
}

/// Header lines of HeadBucket.
pub fn head_bucket_head(out: &mut Vec<u8>, region: &str) {
    HeaderList::new(out).push("x-amz-bucket-region", region);
}

/// The body of GetBucketLocation.
#[must_use]
pub fn location(region: &str) -> Vec<u8> {
    let mut xml = Xml::new("LocationConstraint");
    if region != REGION_DEFAULT {
        xml.content(region);
    }
    xml.finish()
}

/// The body of GetBucketVersioning: never enabled.
#[must_use]
pub fn versioning() -> Vec<u8> {
    Xml::new("VersioningConfiguration").finish()
}

/// The body of a configuration nobody set.
#[must_use]
pub fn bucket_default(kind: BucketDefault) -> Vec<u8> {
    match kind {
        BucketDefault::Logging => Xml::new("BucketLoggingStatus").finish(),
        BucketDefault::Notification => Xml::new("NotificationConfiguration").finish(),
        BucketDefault::Accelerate => Xml::new("AccelerateConfiguration").finish(),
        BucketDefault::RequestPayment => {
            let mut xml = Xml::new("RequestPaymentConfiguration");
            xml.text("Payer", "BucketOwner");
            xml.finish()
        }
    }
}

/// The body of GetBucketAcl and GetObjectAcl: the owner has full control.
#[must_use]
pub fn owner_acl(owner: &Owner) -> Vec<u8> {
    let mut xml = Xml::new("AccessControlPolicy");
    xml.owner("Owner", owner);
    xml.raw(&[
        "<AccessControlList><Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\">",
    ]);
    xml.text("ID", &owner.id);
    xml.text("DisplayName", &owner.display_name);
    xml.raw(&["</Grantee><Permission>FULL_CONTROL</Permission></Grant></AccessControlList>"]);
    xml.finish()
}

/// The body of GetBucketTagging and GetObjectTagging.
#[must_use]
pub fn tagging(tags: &[(String, String)]) -> Vec<u8> {
    let mut xml = Xml::new("Tagging");
    xml.open("TagSet");
    for (key, value) in tags {
        xml.open("Tag");
        xml.text("Key", key);
        xml.text("Value", value);
        xml.close("Tag");
    }
    xml.close("TagSet");
    xml.finish()
}

/// The body of CopyObject.
#[must_use]
pub fn copy_object(etag: &ETag, modified_ms: i64, checksums: &[Checksum]) -> Vec<u8> {
    copy_result("CopyObjectResult", etag, modified_ms, checksums, true)
}

/// The body of UploadPartCopy.
#[must_use]
pub fn copy_part(etag: &ETag, modified_ms: i64, checksums: &[Checksum]) -> Vec<u8> {
    copy_result("CopyPartResult", etag, modified_ms, checksums, false)
}

fn copy_result(
    root: &'static str,
    etag: &ETag,
    modified_ms: i64,
    checksums: &[Checksum],
    with_kind: bool,
) -> Vec<u8> {
    let mut xml = Xml::new(root);
    xml.time("LastModified", modified_ms);
    xml.etag(etag);
    xml.checksums(checksums, with_kind);
    xml.finish()
}

/// The body of DeleteObjects: one outcome per key, in order. `quiet` leaves the
/// successes out.
#[must_use]
pub fn delete_objects(outcomes: &[(ObjectKey, Result<(), S3Error>)], quiet: bool) -> Vec<u8> {
    let mut xml = Xml::new("DeleteResult");
    for (key, outcome) in outcomes {
        match outcome {
            Ok(()) if quiet => {}
            Ok(()) => {
                xml.open("Deleted");
                xml.text("Key", key.as_str());
                xml.close("Deleted");
            }
            Err(error) => {
                xml.open("Error");
                xml.text("Key", key.as_str());
                xml.text("Code", error.code.as_str());
                xml.text("Message", &error.message);
                xml.close("Error");
            }
        }
    }
    xml.finish()
}

/// Header lines of an error; returns its status. HEAD answers have no body.
pub fn error_head(out: &mut Vec<u8>, error: &S3Error) -> u16 {
    let mut head = HeaderList::new(out);
    head.push("Content-Type", XML_CONTENT_TYPE);
    let size = error.fields.iter().find(|(n, _)| *n == "ActualObjectSize");
    if let (S3ErrorCode::InvalidRange, Some((_, size))) = (error.code, size) {
        head.push("Content-Range", &format!("bytes */{size}"));
    }
    if error.status() == 503 {
        match error.retry_after_seconds {
            Some(seconds) => head.push("Retry-After", &seconds.to_string()),
            None => head.push("Retry-After", RETRY_AFTER_SECONDS),
        }
    }
    error.status()
}

/// The body of an error.
#[must_use]
pub fn error_body(error: &S3Error, request_id: &str, host_id: &str) -> Vec<u8> {
    let mut xml = Xml::bare("Error");
    xml.text("Code", error.code.as_str());
    xml.text("Message", &error.message);
    for (name, value) in &error.fields {
        xml.text(name, value);
    }
    xml.some("Resource", error.resource.as_deref());
    xml.text("RequestId", request_id);
    xml.text("HostId", host_id);
    xml.finish()
}
