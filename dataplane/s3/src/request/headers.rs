//! Headers that are stored with an object and come back with it.

use quickwater_proto::ObjectHeaders;

use super::ResponseOverrides;
use crate::error::{S3Error, S3ErrorCode};
use crate::view::Fields;

const META_PREFIX: &str = "x-amz-meta-";

/// The stored headers of a PUT, a copy with REPLACE or a new upload.
pub(super) fn stored(fields: &Fields<'_>, bytes_max: usize) -> Result<ObjectHeaders, S3Error> {
    let get = |name: &str| match fields.filled(name)? {
        None => Ok(None),
        Some(value) => clean(name, &value).map(|()| Some(value.into_owned())),
    };
    Ok(ObjectHeaders {
        content_type: get("content-type")?,
        content_encoding: get("content-encoding")?.and_then(|v| without_aws_chunked(&v)),
        content_disposition: get("content-disposition")?,
        content_language: get("content-language")?,
        cache_control: get("cache-control")?,
        expires: get("expires")?,
        user: user_metadata(fields, bytes_max)?,
    })
}

/// `aws-chunked` describes the transfer, not the object.
fn without_aws_chunked(value: &str) -> Option<String> {
    let rest: Vec<_> = value
        .split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty() && !token.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!rest.is_empty()).then(|| rest.join(", "))
}

/// `x-amz-meta-*`, names in lower case, several of one name joined by commas.
fn user_metadata(fields: &Fields<'_>, bytes_max: usize) -> Result<Vec<(String, String)>, S3Error> {
    let mut user: Vec<(String, String)> = Vec::new();
    let mut bytes = 0;
    for name in fields.amz_names() {
        let Some(short) = name
            .get(META_PREFIX.len()..)
            .filter(|_| name[..META_PREFIX.len()].eq_ignore_ascii_case(META_PREFIX))
        else {
            continue;
        };
        let short = short.to_ascii_lowercase();
        if user.iter().any(|(n, _)| *n == short) {
            continue;
        }
        if short.is_empty() || !short.bytes().all(is_token) {
            return Err(S3Error::argument(name, "", "Invalid metadata name."));
        }
        let full = format!("{META_PREFIX}{short}");
        let value = fields.header(&full)?.unwrap_or_default();
        clean(name, &value)?;
        bytes += short.len() + value.len();
        if bytes > bytes_max {
            return Err(S3Error::from(S3ErrorCode::MetadataTooLarge)
                .with("Size", bytes.to_string())
                .with("MaxSizeAllowed", bytes_max.to_string()));
        }
        user.push((short, value.into_owned()));
    }
    Ok(user)
}

/// `response-*` parameters, `None` when there are none.
pub(super) fn overrides(fields: &Fields<'_>) -> Result<Option<Box<ResponseOverrides>>, S3Error> {
    if !fields.query.iter().any(|(n, _)| n.starts_with("response-")) {
        return Ok(None);
    }
    let get = |name: &str| match fields.parameter(name) {
        None => Ok(None),
        Some(value) => clean(name, value).map(|()| Some(value.to_owned())),
    };
    Ok(Some(Box::new(ResponseOverrides {
        content_type: get("response-content-type")?,
        content_language: get("response-content-language")?,
        expires: get("response-expires")?,
        cache_control: get("response-cache-control")?,
        content_disposition: get("response-content-disposition")?,
        content_encoding: get("response-content-encoding")?,
    })))
}

/// Refuses control characters: a value from the query could split our answer.
fn clean(name: &str, value: &str) -> Result<(), S3Error> {
    if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(S3Error::argument(
            name,
            "",
            "Header values must not hold control characters.",
        ));
    }
    Ok(())
}

/// `tchar` of RFC 9110 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
