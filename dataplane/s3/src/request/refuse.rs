//! Which `x-amz-*` headers and query parameters mean something to an operation.
//! What is not in these tables is refused with 501 instead of being ignored.

use super::Dialect;
use crate::error::{S3Error, S3ErrorCode};
use crate::view::Fields;

/// Headers that change nothing, that are used wherever they make sense, or whose
/// values are checked by [`check_values`].
const COMMON: &[&str] = &[
    "x-amz-acl",
    "x-amz-algorithm",
    "x-amz-api-version",
    "x-amz-bypass-governance-retention",
    "x-amz-cf-id",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-mode",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-checksum-type",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-expected-bucket-owner",
    "x-amz-expires",
    "x-amz-optional-object-attributes",
    "x-amz-request-payer",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
    "x-amz-source-expected-bucket-owner",
    "x-amz-storage-class",
    "x-amz-te",
    "x-amz-trailer",
    "x-amz-user-agent",
];
/// The one version of the S3 API there is; the AWS SDK for C++ names it (pyarrow, and
/// other programs in C++).
const API_VERSION: &str = "2006-03-01";
const COMMON_PREFIXES: &[&str] = &["x-amz-meta-", "x-amz-sdk-"];
/// Canned ACLs that say no more than "the owner has full control".
const ACLS: &[&str] = &["private", "bucket-owner-full-control", "bucket-owner-read"];
/// Storage classes of S3 that we know and do not have.
const STORAGE_CLASSES: &[&str] = &[
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
    "FSX_OPENZFS",
];

/// Refuses every `x-amz-*` header that neither all operations nor this one know.
pub(super) fn check_headers(
    fields: &Fields<'_>,
    dialect: &Dialect,
    own: &[&str],
) -> Result<(), S3Error> {
    for name in fields.amz_names() {
        let known = [COMMON, own]
            .into_iter()
            .flatten()
            .any(|k| k.eq_ignore_ascii_case(name))
            || COMMON_PREFIXES.iter().any(|p| {
                name.get(..p.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(p))
            });
        if !known {
            return Err(S3Error::not_implemented(name));
        }
    }
    check_values(fields, dialect)
}

fn check_values(fields: &Fields<'_>, dialect: &Dialect) -> Result<(), S3Error> {
    if let Some(acl) = fields.filled("x-amz-acl")?
        && !ACLS.contains(&acl.as_ref())
    {
        return Err(S3Error::not_implemented("x-amz-acl"));
    }
    if let Some(class) = fields.filled("x-amz-storage-class")?
        && class != "STANDARD"
    {
        return Err(if STORAGE_CLASSES.contains(&class.as_ref()) {
            S3Error::not_implemented("x-amz-storage-class")
        } else {
            S3ErrorCode::InvalidStorageClass.into()
        });
    }
    if let Some(version) = fields.filled("x-amz-api-version")?
        && version != API_VERSION
    {
        return Err(S3Error::not_implemented("x-amz-api-version"));
    }
    for name in [
        "x-amz-expected-bucket-owner",
        "x-amz-source-expected-bucket-owner",
    ] {
        // A guard against the wrong account: silence would defeat its purpose.
        if let Some(owner) = fields.filled(name)?
            && owner != dialect.owner.id
        {
            return Err(S3ErrorCode::AccessDenied.into());
        }
    }
    Ok(())
}

/// Refuses query parameters the operation does not know. `x-*` is ignored as S3
/// does; `lenient` (plain reads) also ignores unknown parameters with a value,
/// which cannot be sub-resources.
pub(super) fn check_query(fields: &Fields<'_>, own: &[&str], lenient: bool) -> Result<(), S3Error> {
    for (name, value) in &fields.query {
        let ignored = name
            .get(..2)
            .is_some_and(|start| start.eq_ignore_ascii_case("x-"));
        let known = own.contains(&name.as_str()) || ignored || (lenient && !value.is_empty());
        if !known {
            return Err(S3Error::not_implemented(name));
        }
    }
    check_version(fields)
}

/// The only version of an object here is the `null` one.
fn check_version(fields: &Fields<'_>) -> Result<(), S3Error> {
    match fields.parameter("versionId") {
        None | Some("null") => Ok(()),
        Some(_) => Err(S3Error::not_implemented("versionId")),
    }
}
