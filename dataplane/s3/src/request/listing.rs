//! Inputs of the listings, and the tokens that continue them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quickwater_proto::UploadId;

use super::{ListBuckets, ListObjects, ListObjectsV2, ListUploads};
use crate::error::S3Error;
use crate::view::Fields;

/// Most entries of one page (S3).
const PAGE_MAX: u16 = 1000;
/// First character of a token: the version of its format.
const TOKEN_VERSION: char = '1';

/// Parameters of ListObjects and ListObjectsV2.
pub(super) const OBJECTS: &[&str] = &[
    "list-type",
    "prefix",
    "delimiter",
    "marker",
    "max-keys",
    "encoding-type",
    "continuation-token",
    "start-after",
    "fetch-owner",
];
/// Parameters of ListMultipartUploads.
pub(super) const UPLOADS: &[&str] = &[
    "uploads",
    "prefix",
    "delimiter",
    "key-marker",
    "upload-id-marker",
    "max-uploads",
    "encoding-type",
];

/// The token that continues a listing after this key or common prefix.
#[must_use]
pub fn continuation_token(after: &str) -> String {
    format!("{TOKEN_VERSION}{}", URL_SAFE_NO_PAD.encode(after))
}

/// Reads a token made by [`continuation_token`].
///
/// # Errors
/// `InvalidArgument` for anything else.
pub fn parse_continuation_token(token: &str) -> Result<String, S3Error> {
    token
        .strip_prefix(TOKEN_VERSION)
        .and_then(|digits| URL_SAFE_NO_PAD.decode(digits).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            S3Error::argument(
                "continuation-token",
                token,
                "The continuation token provided is incorrect",
            )
        })
}

pub(super) fn buckets(fields: &Fields<'_>) -> Result<ListBuckets, S3Error> {
    let after = match fields.parameter("continuation-token") {
        None | Some("") => String::new(),
        Some(token) => parse_continuation_token(token)?,
    };
    let max_buckets = match fields.parameter("max-buckets") {
        None => None,
        Some(text) => match text.parse() {
            Ok(count @ 1..=10_000) => Some(count),
            _ => {
                return Err(S3Error::argument(
                    "max-buckets",
                    text,
                    "Argument max-buckets must be an integer between 1 and 10000",
                ));
            }
        },
    };
    Ok(ListBuckets {
        prefix: text(fields, "prefix"),
        after,
        max_buckets,
    })
}

pub(super) fn objects(fields: &Fields<'_>) -> Result<ListObjects, S3Error> {
    for name in ["continuation-token", "start-after", "fetch-owner"] {
        if fields.has(name) {
            return Err(S3Error::argument(name, "", "It needs list-type=2."));
        }
    }
    Ok(ListObjects {
        prefix: text(fields, "prefix"),
        delimiter: filled(fields, "delimiter"),
        marker: text(fields, "marker"),
        max_keys: page(fields, "max-keys")?,
        encode_url: encode_url(fields)?,
    })
}

pub(super) fn objects_v2(fields: &Fields<'_>) -> Result<ListObjectsV2, S3Error> {
    let start_after = filled(fields, "start-after");
    let continuation_token = fields.parameter("continuation-token").map(str::to_owned);
    let after = match &continuation_token {
        Some(token) => parse_continuation_token(token)?,
        None => start_after.clone().unwrap_or_default(),
    };
    Ok(ListObjectsV2 {
        prefix: text(fields, "prefix"),
        delimiter: filled(fields, "delimiter"),
        start_after,
        continuation_token,
        after,
        max_keys: page(fields, "max-keys")?,
        encode_url: encode_url(fields)?,
        fetch_owner: fields
            .parameter("fetch-owner")
            .is_some_and(|v| v.eq_ignore_ascii_case("true")),
    })
}

pub(super) fn uploads(fields: &Fields<'_>) -> Result<ListUploads, S3Error> {
    let key_marker = text(fields, "key-marker");
    let upload_id_marker = match filled(fields, "upload-id-marker") {
        // S3 ignores it without a key-marker.
        Some(id) if !key_marker.is_empty() => Some(upload_id(&id).ok_or_else(|| {
            S3Error::argument("upload-id-marker", &id, "Invalid uploadId marker")
        })?),
        _ => None,
    };
    Ok(ListUploads {
        prefix: text(fields, "prefix"),
        delimiter: filled(fields, "delimiter"),
        key_marker,
        upload_id_marker,
        max_uploads: page(fields, "max-uploads")?,
        encode_url: encode_url(fields)?,
    })
}

/// An upload id: exactly 32 hex digits.
pub(super) fn upload_id(text: &str) -> Option<UploadId> {
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| UploadId::parse(text))?
}

/// A page size: not given or more than 1,000 = 1,000.
pub(super) fn page(fields: &Fields<'_>, name: &str) -> Result<u16, S3Error> {
    page_size(name, fields.parameter(name).filter(|v| !v.is_empty()))
}

/// [`page`] of a value from anywhere.
pub(super) fn page_size(name: &str, value: Option<&str>) -> Result<u16, S3Error> {
    let Some(text) = value else {
        return Ok(PAGE_MAX);
    };
    match text.parse::<i32>() {
        Ok(count) if count >= 0 => Ok(u16::try_from(count).unwrap_or(PAGE_MAX).min(PAGE_MAX)),
        _ => Err(S3Error::argument(
            name,
            text,
            format!("Argument {name} must be an integer between 0 and 2147483647"),
        )),
    }
}

pub(super) fn encode_url(fields: &Fields<'_>) -> Result<bool, S3Error> {
    match fields.parameter("encoding-type") {
        None => Ok(false),
        Some(kind) if kind.eq_ignore_ascii_case("url") => Ok(true),
        Some(other) => Err(S3Error::argument(
            "encoding-type",
            other,
            "Invalid Encoding Method specified in Request",
        )),
    }
}

fn text(fields: &Fields<'_>, name: &str) -> String {
    fields.parameter(name).unwrap_or_default().to_owned()
}

fn filled(fields: &Fields<'_>, name: &str) -> Option<String> {
    fields
        .parameter(name)
        .filter(|v| !v.is_empty())
        .map(str::to_owned)
}
