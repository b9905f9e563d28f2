//! Chooses the operation from method, address and query.

use super::address::Address;
use super::refuse::{check_headers, check_query};
use super::{BucketDefault, Dialect, Operation, listing, multipart, object};
use crate::error::{S3Error, S3ErrorCode};
use crate::view::Fields;

/// Configurations nobody can set here, with the answer of S3 where nobody did.
const ABSENT: &[(&str, S3ErrorCode)] = &[
    ("cors", S3ErrorCode::NoSuchCorsConfiguration),
    (
        "encryption",
        S3ErrorCode::ServerSideEncryptionConfigurationNotFound,
    ),
    ("lifecycle", S3ErrorCode::NoSuchLifecycleConfiguration),
    ("object-lock", S3ErrorCode::ObjectLockConfigurationNotFound),
    ("ownershipControls", S3ErrorCode::OwnershipControlsNotFound),
    ("policy", S3ErrorCode::NoSuchBucketPolicy),
    ("policyStatus", S3ErrorCode::NoSuchBucketPolicy),
    (
        "publicAccessBlock",
        S3ErrorCode::NoSuchPublicAccessBlockConfiguration,
    ),
    ("replication", S3ErrorCode::ReplicationConfigurationNotFound),
    ("website", S3ErrorCode::NoSuchWebsiteConfiguration),
];
const DEFAULTS: &[(&str, BucketDefault)] = &[
    ("logging", BucketDefault::Logging),
    ("notification", BucketDefault::Notification),
    ("accelerate", BucketDefault::Accelerate),
    ("requestPayment", BucketDefault::RequestPayment),
];
const NO_HEADERS: &[&str] = &[];

/// What a request asks for, everything checked but its body.
pub(super) fn choose(
    fields: &Fields<'_>,
    address: &Address,
    dialect: &Dialect,
) -> Result<Operation, S3Error> {
    match (&address.bucket, &address.key) {
        (None, _) => service(fields, dialect),
        (Some(_), None) => bucket(fields, dialect),
        (Some(bucket), Some(key)) => {
            let route = object::Route {
                fields,
                dialect,
                bucket,
                key,
            };
            match fields.view.method {
                "GET" => object_get(&route),
                "HEAD" => object::read(&route).map(Operation::HeadObject),
                "PUT" => object_put(&route),
                "DELETE" => object_delete(&route),
                "POST" => object_post(&route),
                _ => not_allowed(),
            }
        }
    }
}

fn service(fields: &Fields<'_>, dialect: &Dialect) -> Result<Operation, S3Error> {
    match fields.view.method {
        "GET" => {
            let own = ["prefix", "max-buckets", "continuation-token"];
            check_query(fields, &own, true)?;
            check_headers(fields, dialect, NO_HEADERS)?;
            listing::buckets(fields).map(Operation::ListBuckets)
        }
        _ => not_allowed(),
    }
}

fn bucket(fields: &Fields<'_>, dialect: &Dialect) -> Result<Operation, S3Error> {
    match fields.view.method {
        "GET" => bucket_get(fields, dialect),
        "HEAD" => plain(fields, dialect, &[], Operation::HeadBucket),
        "PUT" if fields.has("tagging") => {
            plain(fields, dialect, &["tagging"], Operation::PutBucketTagging)
        }
        "PUT" => bucket_put(fields, dialect),
        "DELETE" => bucket_delete(fields, dialect),
        "POST" if fields.has("delete") => {
            plain(fields, dialect, &["delete"], Operation::DeleteObjects)
        }
        // Browser uploads by form (S3: "POST Object").
        "POST" => Err(S3Error::not_implemented("POST")),
        _ => not_allowed(),
    }
}

fn bucket_get(fields: &Fields<'_>, dialect: &Dialect) -> Result<Operation, S3Error> {
    let only = |name: &str, operation| plain(fields, dialect, &[name], operation);
    for (name, code) in ABSENT {
        if fields.has(name) {
            return only(name, Operation::GetAbsentConfiguration(*code));
        }
    }
    for (name, default) in DEFAULTS {
        if fields.has(name) {
            return only(name, Operation::GetBucketDefault(*default));
        }
    }
    for (name, operation) in [
        ("location", Operation::GetBucketLocation),
        ("versioning", Operation::GetBucketVersioning),
        ("acl", Operation::GetBucketAcl),
        ("tagging", Operation::GetBucketTagging),
    ] {
        if fields.has(name) {
            return only(name, operation);
        }
    }
    check_headers(fields, dialect, NO_HEADERS)?;
    if fields.has("uploads") {
        check_query(fields, listing::UPLOADS, true)?;
        return listing::uploads(fields).map(Operation::ListMultipartUploads);
    }
    check_query(fields, listing::OBJECTS, true)?;
    match fields.parameter("list-type") {
        None => listing::objects(fields).map(Operation::ListObjects),
        Some("2") => listing::objects_v2(fields).map(Operation::ListObjectsV2),
        Some(other) => Err(S3Error::argument("list-type", other, "Invalid list type.")),
    }
}

fn bucket_put(fields: &Fields<'_>, dialect: &Dialect) -> Result<Operation, S3Error> {
    check_query(fields, &[], false)?;
    let own = ["x-amz-object-ownership", "x-amz-bucket-object-lock-enabled"];
    check_headers(fields, dialect, &own)?;
    match fields
        .filled("x-amz-bucket-object-lock-enabled")?
        .as_deref()
    {
        Some(value) if !value.eq_ignore_ascii_case("false") => {
            Err(S3Error::not_implemented("x-amz-bucket-object-lock-enabled"))
        }
        _ => Ok(Operation::CreateBucket),
    }
}

fn bucket_delete(fields: &Fields<'_>, dialect: &Dialect) -> Result<Operation, S3Error> {
    if fields.has("tagging") {
        return plain(
            fields,
            dialect,
            &["tagging"],
            Operation::DeleteBucketTagging,
        );
    }
    for (name, _) in ABSENT.iter().filter(|(n, _)| *n != "policyStatus") {
        if fields.has(name) {
            return plain(
                fields,
                dialect,
                &[name],
                Operation::DeleteAbsentConfiguration,
            );
        }
    }
    plain(fields, dialect, &[], Operation::DeleteBucket)
}

fn object_get(route: &object::Route<'_>) -> Result<Operation, S3Error> {
    let fields = route.fields;
    let only =
        |name: &str, operation| plain(fields, route.dialect, &[name, "versionId"], operation);
    if fields.has("acl") {
        return only("acl", Operation::GetObjectAcl);
    }
    if fields.has("tagging") {
        return only("tagging", Operation::GetObjectTagging);
    }
    if fields.has("attributes") {
        return object::attributes(route).map(Operation::GetObjectAttributes);
    }
    if fields.has("uploadId") {
        return multipart::list_parts(route).map(Operation::ListParts);
    }
    if fields.has("legal-hold") || fields.has("retention") {
        return Err(S3Error::request(
            "Bucket is missing Object Lock Configuration",
        ));
    }
    object::read(route).map(Operation::GetObject)
}

fn object_put(route: &object::Route<'_>) -> Result<Operation, S3Error> {
    let fields = route.fields;
    // RFC 9110 14.5: a partial PUT must not become a whole one.
    if fields.view.header_bytes("content-range").is_some() {
        return Err(S3Error::not_implemented("Content-Range"));
    }
    if fields.has("tagging") {
        let own = ["tagging", "versionId"];
        return plain(fields, route.dialect, &own, Operation::PutObjectTagging);
    }
    let copy = fields.header("x-amz-copy-source")?.is_some();
    match (fields.has("uploadId") || fields.has("partNumber"), copy) {
        (true, true) => multipart::copy_part(route),
        (true, false) => multipart::upload_part(route),
        (false, true) => object::copy(route),
        (false, false) => object::put(route),
    }
}

fn object_delete(route: &object::Route<'_>) -> Result<Operation, S3Error> {
    let fields = route.fields;
    if fields.has("tagging") {
        let own = ["tagging", "versionId"];
        return plain(fields, route.dialect, &own, Operation::DeleteObjectTagging);
    }
    if fields.has("uploadId") {
        return multipart::abort(route);
    }
    object::delete(route)
}

fn object_post(route: &object::Route<'_>) -> Result<Operation, S3Error> {
    let fields = route.fields;
    if fields.has("uploads") {
        return multipart::create(route);
    }
    if fields.has("uploadId") {
        return multipart::complete(route);
    }
    check_query(fields, &[], false)?;
    not_allowed()
}

/// An operation without inputs: only its own parameters may be there.
fn plain(
    fields: &Fields<'_>,
    dialect: &Dialect,
    own: &[&str],
    operation: Operation,
) -> Result<Operation, S3Error> {
    check_query(fields, own, false)?;
    check_headers(fields, dialect, NO_HEADERS)?;
    Ok(operation)
}

fn not_allowed() -> Result<Operation, S3Error> {
    Err(S3ErrorCode::MethodNotAllowed.into())
}
