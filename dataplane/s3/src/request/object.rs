//! Inputs of the operations on one object.

use quickwater_proto::{BucketName, ChecksumAlgorithm, ObjectKey, PART_NUMBER_MAX};

use super::conditions::put_condition;
use super::copy::CopySource;
use super::headers::{overrides, stored};
use super::refuse::{check_headers, check_query};
use super::tags::header_tags;
use super::{
    Attributes, ByteRange, Conditions, CopyObject, Dialect, GetAttributes, IfRange, Operation,
    PutObject, ReadObject, listing,
};
use crate::error::S3Error;
use crate::view::Fields;

/// What every object operation is parsed from.
pub(super) struct Route<'a> {
    pub(super) fields: &'a Fields<'a>,
    pub(super) dialect: &'a Dialect,
    pub(super) bucket: &'a BucketName,
    pub(super) key: &'a ObjectKey,
}

impl Route<'_> {
    /// Refuses every parameter and `x-amz-*` header but these.
    pub(super) fn check(&self, query: &[&str], headers: &[&str]) -> Result<(), S3Error> {
        check_query(self.fields, query, false)?;
        check_headers(self.fields, self.dialect, headers)
    }
}

/// Parameters of GetObject and HeadObject.
const READ: &[&str] = &[
    "versionId",
    "partNumber",
    "response-content-type",
    "response-content-language",
    "response-expires",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
];
/// Headers of CopyObject.
const COPY: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-metadata-directive",
    "x-amz-tagging-directive",
    "x-amz-tagging",
];

pub(super) fn read(route: &Route<'_>) -> Result<ReadObject, S3Error> {
    let fields = route.fields;
    check_query(fields, READ, true)?;
    check_headers(fields, route.dialect, &[])?;
    let range = fields.filled("range")?;
    let part_number = fields
        .parameter("partNumber")
        .map(part_number)
        .transpose()?;
    if range.is_some() && part_number.is_some() {
        return Err(S3Error::request(
            "Cannot specify both Range header and partNumber query parameter",
        ));
    }
    Ok(ReadObject {
        range: range.as_deref().and_then(ByteRange::parse),
        if_range: fields.filled("if-range")?.map(|v| IfRange::parse(&v)),
        part_number,
        conditions: Conditions::parse(fields, "")?,
        overrides: overrides(fields)?,
        checksums: fields
            .filled("x-amz-checksum-mode")?
            .is_some_and(|v| v.eq_ignore_ascii_case("enabled")),
    })
}

pub(super) fn put(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["versionId"], &["x-amz-tagging"])?;
    Ok(Operation::PutObject(Box::new(PutObject {
        headers: stored(route.fields, route.dialect.metadata_bytes_max)?,
        tags: header_tags(route.fields)?,
        condition: put_condition(route.fields)?,
    })))
}

pub(super) fn delete(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["versionId"], &[])?;
    Ok(Operation::DeleteObject {
        condition: put_condition(route.fields)?,
    })
}

pub(super) fn copy(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["versionId"], COPY)?;
    let fields = route.fields;
    let source = CopySource::parse(fields)?;
    let replace = directive(fields, "x-amz-metadata-directive")?;
    let replace_tags = directive(fields, "x-amz-tagging-directive")?;
    if !replace && source.bucket == *route.bucket && source.key == *route.key {
        return Err(S3Error::request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    let headers = replace
        .then(|| stored(fields, route.dialect.metadata_bytes_max))
        .transpose()?;
    let tags = replace_tags.then(|| header_tags(fields)).transpose()?;
    Ok(Operation::CopyObject(Box::new(CopyObject {
        source,
        conditions: Conditions::parse(fields, "x-amz-copy-source-")?,
        headers,
        tags,
        checksum: algorithm(fields, "x-amz-checksum-algorithm")?,
        condition: put_condition(fields)?,
    })))
}

pub(super) fn attributes(route: &Route<'_>) -> Result<GetAttributes, S3Error> {
    let own = [
        "x-amz-object-attributes",
        "x-amz-max-parts",
        "x-amz-part-number-marker",
    ];
    route.check(&["attributes", "versionId"], &own)?;
    let fields = route.fields;
    let text = fields
        .filled("x-amz-object-attributes")?
        .unwrap_or_default();
    let mut attributes = Attributes::default();
    for name in text.split(',').map(str::trim) {
        *match name {
            "ETag" => &mut attributes.etag,
            "Checksum" => &mut attributes.checksum,
            "ObjectParts" => &mut attributes.parts,
            "StorageClass" => &mut attributes.storage_class,
            "ObjectSize" => &mut attributes.size,
            _ => {
                return Err(S3Error::argument(
                    "x-amz-object-attributes",
                    name,
                    "Invalid attribute name specified.",
                ));
            }
        } = true;
    }
    let max_parts = fields.filled("x-amz-max-parts")?;
    let marker = fields.filled("x-amz-part-number-marker")?;
    Ok(GetAttributes {
        attributes,
        max_parts: listing::page_size("x-amz-max-parts", max_parts.as_deref())?,
        part_number_marker: part_marker("x-amz-part-number-marker", marker.as_deref())?,
    })
}

/// `COPY` (or nothing) is `false`, `REPLACE` is `true`.
fn directive(fields: &Fields<'_>, name: &str) -> Result<bool, S3Error> {
    match fields.filled(name)?.as_deref() {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(other) => Err(S3Error::argument(name, other, "Unknown directive.")),
    }
}

/// The algorithm a header names.
pub(super) fn algorithm(
    fields: &Fields<'_>,
    name: &str,
) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let Some(text) = fields.filled(name)? else {
        return Ok(None);
    };
    ChecksumAlgorithm::parse(&text).map(Some).ok_or_else(|| {
        S3Error::request("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
    })
}

/// 1 to 10,000.
pub(super) fn part_number(text: &str) -> Result<u16, S3Error> {
    match text.parse() {
        Ok(number @ 1..=PART_NUMBER_MAX) => Ok(number),
        _ => Err(S3Error::argument(
            "partNumber",
            text,
            "Part number must be an integer between 1 and 10000, inclusive",
        )),
    }
}

/// Nothing, or a number that parts may be greater than.
pub(super) fn part_marker(name: &str, value: Option<&str>) -> Result<u16, S3Error> {
    let Some(text) = value.filter(|v| !v.is_empty()) else {
        return Ok(0);
    };
    match text.parse::<u32>() {
        Ok(number) => Ok(u16::try_from(number).unwrap_or(u16::MAX)),
        Err(_) => Err(S3Error::argument(
            name,
            text,
            "The part number marker must be an integer between 0 and 2147483647",
        )),
    }
}
