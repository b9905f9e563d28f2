//! Bucket and key of a request, path style or virtual-host style. The key is
//! kept byte for byte.

use quickwater_proto::{BucketName, KEY_BYTES_MAX, ObjectKey};

use super::Dialect;
use crate::error::{S3Error, S3ErrorCode};
use crate::uri::decode;
use crate::view::RequestView;

/// Where a request points.
pub(super) struct Address {
    pub(super) bucket: Option<BucketName>,
    pub(super) key: Option<ObjectKey>,
}

pub(super) fn parse(
    view: &RequestView<'_>,
    domain: Option<&str>,
    path: &str,
) -> Result<Address, S3Error> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (bucket, key) = match virtual_bucket(view, domain)? {
        Some(bucket) => (bucket, path),
        None => {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            (bucket.to_owned(), key)
        }
    };
    if bucket.is_empty() {
        // `//key` has no bucket but is not the service either.
        return match path {
            "" => Ok(Address {
                bucket: None,
                key: None,
            }),
            _ => Err(S3ErrorCode::InvalidBucketName.into()),
        };
    }
    let bucket = bucket_name(&decode(&bucket, false)?)?;
    let key = match key {
        "" => None,
        raw => Some(object_key(&decode(raw, false)?)?),
    };
    Ok(Address {
        bucket: Some(bucket),
        key,
    })
}

/// Whether the bucket stands in the path and not in `Host`.
pub(super) fn is_path_style(view: &RequestView<'_>, dialect: &Dialect) -> bool {
    matches!(virtual_bucket(view, dialect.domain.as_deref()), Ok(None))
}

/// Checks a bucket name.
pub(super) fn bucket_name(name: &str) -> Result<BucketName, S3Error> {
    BucketName::new(name).map_err(|e| {
        S3Error::from(S3ErrorCode::InvalidBucketName)
            .with("BucketName", name)
            .with("Reason", e.0)
    })
}

/// Checks a key.
pub(crate) fn object_key(key: &str) -> Result<ObjectKey, S3Error> {
    ObjectKey::new(key).map_err(|e| {
        if key.len() > KEY_BYTES_MAX {
            S3Error::from(S3ErrorCode::KeyTooLong)
                .with("Size", key.len().to_string())
                .with("MaxSizeAllowed", KEY_BYTES_MAX.to_string())
        } else {
            S3Error::new(S3ErrorCode::InvalidArgument, e.0)
        }
    })
}

/// The bucket that stands in `Host` before the domain, if any.
fn virtual_bucket(view: &RequestView<'_>, domain: Option<&str>) -> Result<Option<String>, S3Error> {
    let (Some(domain), Some(host)) = (domain, view.header("host")?) else {
        return Ok(None);
    };
    let host = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let host = host.to_ascii_lowercase();
    let bucket = host
        .strip_suffix(&domain.to_ascii_lowercase())
        .and_then(|rest| rest.strip_suffix('.'))
        .filter(|bucket| !bucket.is_empty());
    Ok(bucket.map(str::to_owned))
}
