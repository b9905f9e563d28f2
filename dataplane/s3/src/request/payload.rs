//! What a request head says about its payload.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quickwater_proto::{Checksum, ChecksumAlgorithm, ChecksumKind};

use super::multipart::checksum_header;
use super::object::algorithm;
use super::{BodyKind, Operation};
use crate::error::{S3Error, S3ErrorCode};
use crate::view::Fields;

/// The head's words about the payload, not yet compared with anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PayloadHeaders {
    /// `Content-Length`: bytes on the wire.
    pub content_length: Option<u64>,
    /// `x-amz-decoded-content-length`: bytes without chunk framing.
    pub decoded_length: Option<u64>,
    /// A `Transfer-Encoding` header is there; the HTTP layer has taken it off.
    pub transfer_encoded: bool,
    /// `Content-MD5`.
    pub content_md5: Option<[u8; 16]>,
    /// `x-amz-checksum-*`.
    pub checksum: Option<Checksum>,
    /// The checksum that `x-amz-trailer` announces.
    pub trailer: Option<ChecksumAlgorithm>,
}

impl PayloadHeaders {
    pub(super) fn parse(fields: &Fields<'_>, operation: &Operation) -> Result<Self, S3Error> {
        let mut headers = Self {
            content_length: length(fields, "content-length")?,
            transfer_encoded: fields.view.header_bytes("transfer-encoding").is_some(),
            ..Self::default()
        };
        if operation.body() == BodyKind::None {
            return Ok(headers);
        }
        headers.decoded_length = length(fields, "x-amz-decoded-content-length")?;
        headers.content_md5 = content_md5(fields)?;
        headers.trailer = trailer(fields)?;
        // There it states the checksum of the object, not of this payload.
        if !matches!(operation, Operation::CompleteMultipartUpload(_)) {
            headers.checksum = payload_checksum(fields)?;
            check_algorithm(fields, &headers)?;
        }
        Ok(headers)
    }
}

fn length(fields: &Fields<'_>, name: &str) -> Result<Option<u64>, S3Error> {
    let Some(text) = fields.filled(name)? else {
        return Ok(None);
    };
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(value) if digits => Ok(Some(value)),
        _ => Err(S3Error::argument(
            name,
            &text,
            "It must be a number of bytes.",
        )),
    }
}

fn content_md5(fields: &Fields<'_>) -> Result<Option<[u8; 16]>, S3Error> {
    // An empty Content-MD5 is wrong, not absent.
    let Some(text) = fields.header("content-md5")? else {
        return Ok(None);
    };
    STANDARD
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map(Some)
        .ok_or_else(|| S3ErrorCode::InvalidDigest.into())
}

fn payload_checksum(fields: &Fields<'_>) -> Result<Option<Checksum>, S3Error> {
    match checksum_header(fields)? {
        Some(checksum) if checksum.kind != ChecksumKind::FullObject => {
            Err(S3Error::request(format!(
                "Value for {} header is invalid.",
                checksum.algorithm.header()
            )))
        }
        other => Ok(other),
    }
}

fn trailer(fields: &Fields<'_>) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let Some(text) = fields.filled("x-amz-trailer")? else {
        return Ok(None);
    };
    ChecksumAlgorithm::ALL
        .into_iter()
        .find(|a| a.header().eq_ignore_ascii_case(&text))
        .map(Some)
        .ok_or_else(|| {
            S3Error::request("The value specified in the x-amz-trailer header is not supported")
        })
}

/// The named algorithm must be the one that comes as header or trailer.
fn check_algorithm(fields: &Fields<'_>, headers: &PayloadHeaders) -> Result<(), S3Error> {
    let given = headers.checksum.as_ref().map(|c| c.algorithm);
    if given.is_some() && headers.trailer.is_some() {
        return Err(S3Error::request(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        ));
    }
    let given = given.or(headers.trailer);
    match (algorithm(fields, "x-amz-sdk-checksum-algorithm")?, given) {
        (Some(_), None) => Err(S3Error::request(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
        )),
        (Some(named), Some(given)) if named != given => Err(S3Error::request(
            "Value for x-amz-sdk-checksum-algorithm header is invalid.",
        )),
        _ => Ok(()),
    }
}
