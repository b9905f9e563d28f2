//! ListObjects in both versions.

use quickwater_proto::{BucketName, Checksum, ETag};

use super::write::{Xml, shown};
use crate::request::{ListObjects, ListObjectsV2, Owner, continuation_token};

/// About the bytes of a `<Contents>` without its key.
const CONTENTS_BYTES: usize = 320;

/// One `<Contents>`.
#[derive(Debug, Clone, Copy)]
pub struct ListedObject<'a> {
    /// The key.
    pub key: &'a str,
    /// Its entity tag.
    pub etag: &'a ETag,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// Only algorithms and kind are shown.
    pub checksums: &'a [Checksum],
}

/// One page of a listing.
#[derive(Debug, Clone, Copy)]
pub struct ListPage<'a> {
    /// Objects in key order.
    pub objects: &'a [ListedObject<'a>],
    /// Common prefixes in order.
    pub prefixes: &'a [String],
    /// The greatest key or common prefix of a page that more follow; `None` when
    /// the listing is complete.
    pub next: Option<&'a str>,
}

/// The body of ListObjects.
#[must_use]
pub fn list_objects(
    bucket: &BucketName,
    input: &ListObjects,
    page: &ListPage<'_>,
    owner: &Owner,
) -> Vec<u8> {
    let mut xml = Xml::new("ListBucketResult");
    xml.text("Name", bucket.as_str());
    xml.text("Prefix", &shown(&input.prefix, input.encode_url));
    xml.text("Marker", &shown(&input.marker, input.encode_url));
    // Without a delimiter the client continues after the last key (S3).
    if let (Some(next), Some(_)) = (page.next, &input.delimiter) {
        xml.text("NextMarker", &shown(next, input.encode_url));
    }
    xml.number("MaxKeys", input.max_keys);
    tail(
        &mut xml,
        page,
        input.delimiter.as_deref(),
        input.encode_url,
        Some(owner),
    );
    xml.finish()
}

/// The body of ListObjectsV2.
#[must_use]
pub fn list_objects_v2(
    bucket: &BucketName,
    input: &ListObjectsV2,
    page: &ListPage<'_>,
    owner: &Owner,
) -> Vec<u8> {
    let mut xml = Xml::new("ListBucketResult");
    xml.text("Name", bucket.as_str());
    xml.text("Prefix", &shown(&input.prefix, input.encode_url));
    if let Some(start) = &input.start_after {
        xml.text("StartAfter", &shown(start, input.encode_url));
    }
    xml.some("ContinuationToken", input.continuation_token.as_deref());
    if let Some(next) = page.next {
        xml.text("NextContinuationToken", &continuation_token(next));
    }
    let count = page.objects.len() + page.prefixes.len();
    xml.number("KeyCount", count as u64);
    xml.number("MaxKeys", input.max_keys);
    tail(
        &mut xml,
        page,
        input.delimiter.as_deref(),
        input.encode_url,
        input.fetch_owner.then_some(owner),
    );
    xml.finish()
}

fn tail(
    xml: &mut Xml,
    page: &ListPage<'_>,
    delimiter: Option<&str>,
    encode_url: bool,
    owner: Option<&Owner>,
) {
    if let Some(delimiter) = delimiter {
        xml.text("Delimiter", &shown(delimiter, encode_url));
    }
    if encode_url {
        xml.text("EncodingType", "url");
    }
    xml.flag("IsTruncated", page.next.is_some());
    let keys: usize = page.objects.iter().map(|object| object.key.len()).sum();
    xml.reserve(page.objects.len() * CONTENTS_BYTES + keys);
    for object in page.objects {
        contents(xml, object, encode_url, owner);
    }
    for prefix in page.prefixes {
        common_prefix(xml, prefix, encode_url);
    }
}

fn contents(xml: &mut Xml, object: &ListedObject<'_>, encode_url: bool, owner: Option<&Owner>) {
    xml.open("Contents");
    xml.text("Key", &shown(object.key, encode_url));
    xml.time("LastModified", object.modified_ms);
    xml.etag(object.etag);
    xml.algorithms(object.checksums);
    xml.number("Size", object.size);
    if let Some(owner) = owner {
        xml.owner("Owner", owner);
    }
    xml.text("StorageClass", "STANDARD");
    xml.close("Contents");
}

pub(super) fn common_prefix(xml: &mut Xml, prefix: &str, encode_url: bool) {
    xml.open("CommonPrefixes");
    xml.text("Prefix", &shown(prefix, encode_url));
    xml.close("CommonPrefixes");
}
