//! Heads of GET, HEAD and PUT, and the attributes of an object.

use std::ops::Range;

use quickwater_proto::{Checksum, ETag, ObjectHeaders, PartRecord, PersistState};

use super::header::HeaderList;
use super::write::Xml;
use crate::checksum::kind_name;
use crate::date::http_date;
use crate::request::{GetAttributes, ResponseOverrides};

/// `Content-Type` of an object that was stored without one (S3).
const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";

/// What the head of a GET or HEAD shows.
#[derive(Debug, Clone)]
pub struct ObjectView<'a> {
    /// Entity tag.
    pub etag: &'a ETag,
    /// Bytes of the whole object.
    pub size: u64,
    /// Milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// Stored headers.
    pub headers: &'a ObjectHeaders,
    /// Shown as they are: pass none unless the client asked for them and gets the
    /// whole object (or the part they belong to).
    pub checksums: &'a [Checksum],
    /// Tags the object has.
    pub tag_count: usize,
    /// Parts of the object, when the client asked for one by number.
    pub parts_count: Option<u16>,
    /// The bytes that follow, when not all.
    pub range: Option<Range<u64>>,
    /// `response-*`.
    pub overrides: Option<&'a ResponseOverrides>,
}

/// Header lines of GetObject and HeadObject; returns the status, 200 or 206.
pub fn object_head(out: &mut Vec<u8>, view: &ObjectView<'_>) -> u16 {
    let mut head = HeaderList::new(out);
    head.push("Last-Modified", &http_date(view.modified_ms));
    head.push_etag(view.etag);
    head.push("Accept-Ranges", "bytes");
    stored(&mut head, view);
    user_metadata(&mut head, view.headers);
    checksums(&mut head, view.checksums);
    if let Some(count) = view.parts_count {
        head.push("x-amz-mp-parts-count", &count.to_string());
    }
    if view.tag_count > 0 {
        head.push("x-amz-tagging-count", &view.tag_count.to_string());
    }
    let Some(range) = &view.range else {
        return 200;
    };
    let last = range.end.saturating_sub(1);
    let text = format!("bytes {}-{last}/{}", range.start, view.size);
    head.push("Content-Range", &text);
    206
}

fn stored(head: &mut HeaderList<'_>, view: &ObjectView<'_>) {
    let own = view.headers;
    let over = view.overrides;
    let pick = |name: &str,
                over: Option<&Option<String>>,
                own: &Option<String>,
                head: &mut HeaderList<'_>| {
        let value = over.and_then(|o| o.as_deref()).or(own.as_deref());
        head.push_some(name, value);
        value.is_some()
    };
    if !pick(
        "Content-Type",
        over.map(|o| &o.content_type),
        &own.content_type,
        head,
    ) {
        head.push("Content-Type", CONTENT_TYPE_DEFAULT);
    }
    let lines = [
        (
            "Cache-Control",
            over.map(|o| &o.cache_control),
            &own.cache_control,
        ),
        (
            "Content-Disposition",
            over.map(|o| &o.content_disposition),
            &own.content_disposition,
        ),
        (
            "Content-Encoding",
            over.map(|o| &o.content_encoding),
            &own.content_encoding,
        ),
        (
            "Content-Language",
            over.map(|o| &o.content_language),
            &own.content_language,
        ),
        ("Expires", over.map(|o| &o.expires), &own.expires),
    ];
    for (name, over, own) in lines {
        pick(name, over, own, head);
    }
}

fn user_metadata(head: &mut HeaderList<'_>, headers: &ObjectHeaders) {
    let mut missing = 0usize;
    for (name, value) in &headers.user {
        if !head.push_named("x-amz-meta-", name, value) {
            missing += 1;
        }
    }
    // S3: metadata that cannot be a header is counted.
    if missing > 0 {
        head.push("x-amz-missing-meta", &missing.to_string());
    }
}

fn checksums(head: &mut HeaderList<'_>, checksums: &[Checksum]) {
    for checksum in checksums {
        head.push_checksum(checksum);
    }
    if let Some(first) = checksums.first() {
        head.push("x-amz-checksum-type", kind_name(first.kind));
    }
}

/// Header lines of a 304: what the client may refresh (RFC 9110 15.4.5).
pub fn not_modified_head(out: &mut Vec<u8>, view: &ObjectView<'_>) -> u16 {
    let mut head = HeaderList::new(out);
    head.push("Last-Modified", &http_date(view.modified_ms));
    head.push_etag(view.etag);
    head.push_some("Cache-Control", view.headers.cache_control.as_deref());
    head.push_some("Expires", view.headers.expires.as_deref());
    304
}

/// Header lines of PutObject.
pub fn put_head(out: &mut Vec<u8>, etag: &ETag, sums: &[Checksum]) {
    let mut head = HeaderList::new(out);
    head.push_etag(etag);
    checksums(&mut head, sums);
}

/// Adds where the bytes of a version are safe (GetObject, HeadObject).
pub fn persist_state(out: &mut Vec<u8>, state: PersistState) {
    let line: &[u8] = match state {
        PersistState::Persisted => b"x-quickwater-persist-state: PERSISTED\r\n",
        PersistState::NotPersisted => b"x-quickwater-persist-state: NOT_PERSISTED\r\n",
        PersistState::Persisting => b"x-quickwater-persist-state: PERSISTING\r\n",
        PersistState::Transient => b"x-quickwater-persist-state: TRANSIENT\r\n",
    };
    out.extend_from_slice(line);
}

/// Adds what a 200 to a write promises: `ufs`, or the copies flushed on workers.
pub fn durability(out: &mut Vec<u8>, state: PersistState, copies: usize) {
    let mut head = HeaderList::new(out);
    match state {
        PersistState::Persisted => head.push("x-quickwater-durability", "ufs"),
        _ => head.push("x-quickwater-durability", &format!("local-{copies}")),
    }
}

/// Header lines of UploadPart: as [`put_head`], without the type.
pub fn put_part_head(out: &mut Vec<u8>, etag: &ETag, sums: &[Checksum]) {
    let mut head = HeaderList::new(out);
    head.push_etag(etag);
    for checksum in sums {
        head.push_checksum(checksum);
    }
}

/// What GetObjectAttributes shows.
#[derive(Debug, Clone, Copy)]
pub struct AttributesView<'a> {
    /// Entity tag.
    pub etag: &'a ETag,
    /// Bytes.
    pub size: u64,
    /// Checksums of the object.
    pub checksums: &'a [Checksum],
    /// Parts, empty for an object that was put in one piece.
    pub parts: &'a [PartRecord],
}

/// Header lines of GetObjectAttributes.
pub fn attributes_head(out: &mut Vec<u8>, modified_ms: i64) {
    HeaderList::new(out).push("Last-Modified", &http_date(modified_ms));
}

/// The body of GetObjectAttributes.
#[must_use]
pub fn attributes(input: &GetAttributes, view: &AttributesView<'_>) -> Vec<u8> {
    let mut xml = Xml::new("GetObjectAttributesResponse");
    let show = input.attributes;
    if show.etag {
        // Here S3 leaves the quotes out.
        xml.text("ETag", view.etag.as_str());
    }
    if show.checksum && !view.checksums.is_empty() {
        xml.open("Checksum");
        xml.checksums(view.checksums, true);
        xml.close("Checksum");
    }
    if show.parts && !view.parts.is_empty() {
        object_parts(&mut xml, input, view.parts);
    }
    if show.storage_class {
        xml.text("StorageClass", "STANDARD");
    }
    if show.size {
        xml.number("ObjectSize", view.size);
    }
    xml.finish()
}

fn object_parts(xml: &mut Xml, input: &GetAttributes, parts: &[PartRecord]) {
    xml.open("ObjectParts");
    xml.number("PartsCount", parts.len() as u64);
    // S3 lists the parts themselves only when they have checksums.
    if parts.iter().all(|p| !p.checksums.is_empty()) {
        let after = input.part_number_marker;
        let rest: Vec<_> = parts.iter().filter(|p| p.number > after).collect();
        let page = &rest[..rest.len().min(usize::from(input.max_parts))];
        xml.number("PartNumberMarker", after);
        let last = page.last().map_or(0, |p| p.number);
        xml.number("NextPartNumberMarker", last);
        xml.number("MaxParts", input.max_parts);
        xml.flag("IsTruncated", page.len() < rest.len());
        for part in page {
            xml.open("Part");
            xml.number("PartNumber", part.number);
            xml.number("Size", part.size);
            xml.checksums(&part.checksums, false);
            xml.close("Part");
        }
    }
    xml.close("ObjectParts");
}
