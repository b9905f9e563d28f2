//! Answers of the multipart operations.

use quickwater_proto::{
    BucketName, Checksum, ChecksumAlgorithm, ETag, ObjectKey, PartRecord, UploadId, UploadRecord,
};

use super::header::HeaderList;
use super::listing::common_prefix;
use super::write::{Xml, shown};
use crate::request::{ListParts, ListUploads, Owner};

/// One page of ListMultipartUploads.
#[derive(Debug, Clone, Copy)]
pub struct UploadsPage<'a> {
    /// Uploads in order of (key, id).
    pub uploads: &'a [UploadRecord],
    /// Common prefixes in order.
    pub prefixes: &'a [String],
    /// Markers of the next page; `None` when the listing is complete. The id is
    /// `None` after a common prefix.
    pub next: Option<(&'a str, Option<UploadId>)>,
}

/// One page of ListParts.
#[derive(Debug, Clone, Copy)]
pub struct PartsPage<'a> {
    /// Parts in order.
    pub parts: &'a [PartRecord],
    /// More follow the last.
    pub more: bool,
}

/// Header lines of CreateMultipartUpload.
pub fn create_upload_head(out: &mut Vec<u8>, checksum: Option<(ChecksumAlgorithm, bool)>) {
    if let Some((algorithm, full_object)) = checksum {
        let mut head = HeaderList::new(out);
        head.push("x-amz-checksum-algorithm", algorithm.name());
        head.push("x-amz-checksum-type", kind_name(full_object));
    }
}

/// The body of CreateMultipartUpload.
#[must_use]
pub fn create_upload(bucket: &BucketName, key: &ObjectKey, upload: UploadId) -> Vec<u8> {
    let mut xml = Xml::new("InitiateMultipartUploadResult");
    xml.text("Bucket", bucket.as_str());
    xml.text("Key", key.as_str());
    xml.text("UploadId", &upload.to_string());
    xml.finish()
}

/// The body of CompleteMultipartUpload. `location`: the URL of the object.
#[must_use]
pub fn complete_upload(
    location: &str,
    bucket: &BucketName,
    key: &ObjectKey,
    etag: &ETag,
    checksums: &[Checksum],
) -> Vec<u8> {
    let mut xml = Xml::new("CompleteMultipartUploadResult");
    xml.text("Location", location);
    xml.text("Bucket", bucket.as_str());
    xml.text("Key", key.as_str());
    xml.etag(etag);
    xml.checksums(checksums, true);
    xml.finish()
}

/// The body of ListMultipartUploads.
#[must_use]
pub fn list_uploads(
    bucket: &BucketName,
    input: &ListUploads,
    page: &UploadsPage<'_>,
    owner: &Owner,
) -> Vec<u8> {
    let url = input.encode_url;
    let id = |id: Option<UploadId>| id.map(|i| i.to_string()).unwrap_or_default();
    let mut xml = Xml::new("ListMultipartUploadsResult");
    xml.text("Bucket", bucket.as_str());
    xml.text("KeyMarker", &shown(&input.key_marker, url));
    xml.text("UploadIdMarker", &id(input.upload_id_marker));
    if let Some((key, upload)) = page.next {
        xml.text("NextKeyMarker", &shown(key, url));
        xml.text("NextUploadIdMarker", &id(upload));
    }
    xml.text("Prefix", &shown(&input.prefix, url));
    if let Some(delimiter) = &input.delimiter {
        xml.text("Delimiter", &shown(delimiter, url));
    }
    if url {
        xml.text("EncodingType", "url");
    }
    xml.number("MaxUploads", input.max_uploads);
    xml.flag("IsTruncated", page.next.is_some());
    for upload in page.uploads {
        listed_upload(&mut xml, upload, url, owner);
    }
    for prefix in page.prefixes {
        common_prefix(&mut xml, prefix, url);
    }
    xml.finish()
}

fn listed_upload(xml: &mut Xml, upload: &UploadRecord, url: bool, owner: &Owner) {
    xml.open("Upload");
    xml.text("Key", &shown(upload.key.as_str(), url));
    xml.text("UploadId", &upload.id.to_string());
    xml.owner("Initiator", owner);
    xml.owner("Owner", owner);
    xml.text("StorageClass", "STANDARD");
    xml.time("Initiated", upload.initiated_ms);
    announced(xml, upload.checksum);
    xml.close("Upload");
}

/// The body of ListParts.
#[must_use]
pub fn list_parts(
    bucket: &BucketName,
    input: &ListParts,
    upload: &UploadRecord,
    page: &PartsPage<'_>,
    owner: &Owner,
) -> Vec<u8> {
    let mut xml = Xml::new("ListPartsResult");
    xml.text("Bucket", bucket.as_str());
    xml.text("Key", &shown(upload.key.as_str(), input.encode_url));
    xml.text("UploadId", &upload.id.to_string());
    xml.owner("Initiator", owner);
    xml.owner("Owner", owner);
    xml.text("StorageClass", "STANDARD");
    xml.number("PartNumberMarker", input.after);
    let last = page.parts.last().map_or(0, |p| p.number);
    xml.number("NextPartNumberMarker", last);
    xml.number("MaxParts", input.max_parts);
    if input.encode_url {
        xml.text("EncodingType", "url");
    }
    xml.flag("IsTruncated", page.more);
    announced(&mut xml, upload.checksum);
    for part in page.parts {
        listed_part(&mut xml, part);
    }
    xml.finish()
}

fn listed_part(xml: &mut Xml, part: &PartRecord) {
    xml.open("Part");
    xml.number("PartNumber", part.number);
    xml.time("LastModified", part.modified_ms);
    xml.etag(&part.etag);
    xml.number("Size", part.size);
    xml.checksums(&part.checksums, false);
    xml.close("Part");
}

fn announced(xml: &mut Xml, checksum: Option<(ChecksumAlgorithm, bool)>) {
    if let Some((algorithm, full_object)) = checksum {
        xml.text("ChecksumAlgorithm", algorithm.name());
        xml.text("ChecksumType", kind_name(full_object));
    }
}

const fn kind_name(full_object: bool) -> &'static str {
    if full_object {
        "FULL_OBJECT"
    } else {
        "COMPOSITE"
    }
}
