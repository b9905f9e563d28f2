//! Inputs of the multipart operations.

use quickwater_proto::{Checksum, ChecksumAlgorithm, UploadId};

use super::conditions::put_condition;
use super::copy::{CopySource, copy_range};
use super::headers::stored;
use super::object::{Route, algorithm, part_marker, part_number};
use super::tags::header_tags;
use super::{CompleteUpload, Conditions, CopyPart, CreateUpload, ListParts, Operation, listing};
use crate::error::{S3Error, S3ErrorCode};
use crate::view::Fields;

/// Headers of UploadPartCopy.
const COPY_PART: &[&str] = &[
    "x-amz-copy-source",
    "x-amz-copy-source-range",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-unmodified-since",
];

pub(super) fn create(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["uploads"], &["x-amz-tagging"])?;
    Ok(Operation::CreateMultipartUpload(Box::new(CreateUpload {
        headers: stored(route.fields, route.dialect.metadata_bytes_max)?,
        tags: header_tags(route.fields)?,
        checksum: announced(route.fields)?,
    })))
}

/// What the client announces: algorithm and type, with the combinations and
/// defaults of S3 ("Checking object integrity").
fn announced(fields: &Fields<'_>) -> Result<Option<(ChecksumAlgorithm, bool)>, S3Error> {
    let full_object = full_object(fields)?;
    let Some(algorithm) = algorithm(fields, "x-amz-checksum-algorithm")? else {
        return match full_object {
            None => Ok(None),
            Some(_) => Err(S3Error::request(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
        };
    };
    let full_only = algorithm == ChecksumAlgorithm::Crc64Nvme;
    let composite_only = matches!(
        algorithm,
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256
    );
    let full = full_object.unwrap_or(full_only);
    if (full && composite_only) || (!full && full_only) {
        let kind = if full { "FULL_OBJECT" } else { "COMPOSITE" };
        return Err(S3Error::request(format!(
            "The {kind} checksum type cannot be used with the {} checksum algorithm.",
            algorithm.name().to_lowercase()
        )));
    }
    Ok(Some((algorithm, full)))
}

fn full_object(fields: &Fields<'_>) -> Result<Option<bool>, S3Error> {
    match fields.filled("x-amz-checksum-type")?.as_deref() {
        None => Ok(None),
        Some("FULL_OBJECT") => Ok(Some(true)),
        Some("COMPOSITE") => Ok(Some(false)),
        Some(_) => Err(S3Error::request(
            "Value for x-amz-checksum-type header is invalid.",
        )),
    }
}

pub(super) fn upload_part(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["uploadId", "partNumber"], &[])?;
    let (upload, number) = part(route.fields)?;
    refuse_conditions(route.fields)?;
    Ok(Operation::UploadPart { upload, number })
}

pub(super) fn copy_part(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["uploadId", "partNumber"], COPY_PART)?;
    let (upload, number) = part(route.fields)?;
    refuse_conditions(route.fields)?;
    Ok(Operation::UploadPartCopy(Box::new(CopyPart {
        upload,
        number,
        source: CopySource::parse(route.fields)?,
        conditions: Conditions::parse(route.fields, "x-amz-copy-source-")?,
        range: copy_range(route.fields)?,
    })))
}

pub(super) fn complete(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["uploadId"], &["x-amz-mp-object-size"])?;
    let fields = route.fields;
    let object_size =
        match fields.filled("x-amz-mp-object-size")? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                S3Error::request("Value for x-amz-mp-object-size header is invalid.")
            })?),
        };
    Ok(Operation::CompleteMultipartUpload(Box::new(
        CompleteUpload {
            upload: upload(fields)?,
            condition: put_condition(fields)?,
            checksum: checksum_header(fields)?,
            full_object: full_object(fields)?,
            object_size,
        },
    )))
}

pub(super) fn abort(route: &Route<'_>) -> Result<Operation, S3Error> {
    route.check(&["uploadId"], &[])?;
    refuse_conditions(route.fields)?;
    Ok(Operation::AbortMultipartUpload {
        upload: upload(route.fields)?,
    })
}

pub(super) fn list_parts(route: &Route<'_>) -> Result<ListParts, S3Error> {
    let own = [
        "uploadId",
        "max-parts",
        "part-number-marker",
        "encoding-type",
    ];
    route.check(&own, &[])?;
    let fields = route.fields;
    Ok(ListParts {
        upload: upload(fields)?,
        after: part_marker("part-number-marker", fields.parameter("part-number-marker"))?,
        max_parts: listing::page(fields, "max-parts")?,
        encode_url: listing::encode_url(fields)?,
    })
}

/// The one `x-amz-checksum-<algorithm>` of a request.
pub(super) fn checksum_header(fields: &Fields<'_>) -> Result<Option<Checksum>, S3Error> {
    let mut found = None;
    for algorithm in ChecksumAlgorithm::ALL {
        let Some(text) = fields.header(algorithm.header())? else {
            continue;
        };
        let checksum = crate::checksum::parse(algorithm, &text).ok_or_else(|| {
            S3Error::request(format!(
                "Value for {} header is invalid.",
                algorithm.header()
            ))
        })?;
        if found.replace(checksum).is_some() {
            return Err(S3Error::request(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
    }
    Ok(found)
}

fn part(fields: &Fields<'_>) -> Result<(UploadId, u16), S3Error> {
    let need = |name: &'static str| {
        fields
            .parameter(name)
            .ok_or_else(|| S3Error::argument(name, "", "uploadId and partNumber go together."))
    };
    let number = part_number(need("partNumber")?)?;
    need("uploadId")?;
    Ok((upload(fields)?, number))
}

fn upload(fields: &Fields<'_>) -> Result<UploadId, S3Error> {
    let text = fields.parameter("uploadId").unwrap_or_default();
    listing::upload_id(text)
        .ok_or_else(|| S3Error::from(S3ErrorCode::NoSuchUpload).with("UploadId", text))
}

/// These operations know no conditions on the key; ignoring one would be a lie.
fn refuse_conditions(fields: &Fields<'_>) -> Result<(), S3Error> {
    for name in ["if-match", "if-none-match"] {
        if fields.filled(name)?.is_some() {
            return Err(S3Error::not_implemented(name));
        }
    }
    Ok(())
}
