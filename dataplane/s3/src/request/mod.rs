//! From a request head to one typed operation. A sub-resource, parameter or
//! `x-amz-*` header that we do not serve never falls through to a plainer one.

mod address;
mod conditions;
mod copy;
mod headers;
mod inputs;
mod listing;
mod multipart;
mod object;
mod operation;
mod payload;
mod plain;
mod range;
mod refuse;
mod route;
mod tags;
#[cfg(test)]
mod tests;

pub(crate) use address::object_key;
pub use conditions::{Conditions, ETagMatch, IfRange};
pub use copy::CopySource;
pub(crate) use headers::is_token;
pub use inputs::{
    Attributes, BucketDefault, CompleteUpload, CopyObject, CopyPart, CreateUpload, GetAttributes,
    ListBuckets, ListObjects, ListObjectsV2, ListParts, ListUploads, PutObject, ReadObject,
    ResponseOverrides,
};
pub use listing::{continuation_token, parse_continuation_token};
pub use operation::{BodyKind, Operation};
pub use payload::PayloadHeaders;
pub use plain::PlainRead;
pub use range::ByteRange;
pub use tags::{BUCKET_TAGS_MAX, OBJECT_TAGS_MAX, check_tags};

use std::time::Duration;

use quickwater_proto::{BucketName, ObjectKey};

use crate::auth::Identity;
use crate::error::{S3Error, S3ErrorCode};
use crate::uri;
use crate::view::{Fields, RequestView};

/// Largest object of one PUT or one part, bytes (S3: 5 GiB).
pub const PUT_BYTES_MAX: u64 = 5 << 30;
/// Most bytes of user metadata, names and values (S3: 2 KB).
pub const METADATA_BYTES_MAX: usize = 2048;

/// Who owns everything here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `<ID>`.
    pub id: String,
    /// `<DisplayName>`.
    pub display_name: String,
}

impl Default for Owner {
    fn default() -> Self {
        Self {
            id: "quickwater".into(),
            display_name: "quickwater".into(),
        }
    }
}

/// Settings of the dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// Virtual-host style is served below this name; none = path style only.
    pub domain: Option<String>,
    /// Most bytes of user metadata.
    pub metadata_bytes_max: usize,
    /// Largest object of one PUT or one part, bytes.
    pub put_bytes_max: u64,
    /// Owner shown in answers and expected by `x-amz-expected-bucket-owner`.
    pub owner: Owner,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            domain: None,
            metadata_bytes_max: METADATA_BYTES_MAX,
            put_bytes_max: PUT_BYTES_MAX,
            owner: Owner::default(),
        }
    }
}

/// Longest wait for persistence a client may ask for, seconds.
const WAIT_PERSISTED_SECONDS_MAX: u64 = 600;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The bucket; there for all but `ListBuckets`.
    pub bucket: Option<BucketName>,
    /// The key, exactly as sent; there for all object operations.
    pub key: Option<ObjectKey>,
    /// What to do.
    pub operation: Operation,
    /// What the head says about the payload.
    pub payload: PayloadHeaders,
    /// `Cache-Control: no-cache`: look at the under file system first.
    pub revalidate: bool,
    /// `x-quickwater-wait-persisted: SECONDS`: a write is answered only when the
    /// UFS has it, or not in time.
    pub wait_persisted: Option<Duration>,
}

impl Request {
    /// Understands a request head.
    ///
    /// # Errors
    /// The S3 code of whatever is wrong with it; nothing is half-understood.
    pub fn parse(view: &RequestView<'_>, dialect: &Dialect) -> Result<Self, S3Error> {
        let (path, query) = uri::split_target(view.target)?;
        parse_parts(view, dialect, path, query).map_err(|e| match e.resource {
            None => e.at(path),
            Some(_) => e,
        })
    }

    /// The bucket of an operation that has one.
    ///
    /// # Errors
    /// `InvalidBucketName` for a request without bucket.
    pub fn bucket(&self) -> Result<&BucketName, S3Error> {
        self.bucket
            .as_ref()
            .ok_or_else(|| S3ErrorCode::InvalidBucketName.into())
    }

    /// The key of an operation that has one.
    ///
    /// # Errors
    /// `NoSuchKey` for a request without key.
    pub fn key(&self) -> Result<&ObjectKey, S3Error> {
        self.key
            .as_ref()
            .ok_or_else(|| S3ErrorCode::NoSuchKey.into())
    }

    /// Checks what only a signed request may ask for.
    ///
    /// # Errors
    /// `InvalidRequest`: `response-*` overrides in an anonymous request.
    pub fn check_identity(&self, identity: &Identity) -> Result<(), S3Error> {
        match &self.operation {
            Operation::GetObject(read) | Operation::HeadObject(read)
                if identity.is_anonymous() && read.overrides.is_some() =>
            {
                Err(S3Error::request(
                    "Request specific response headers cannot be used for anonymous GET requests.",
                ))
            }
            _ => Ok(()),
        }
    }
}

fn parse_parts(
    view: &RequestView<'_>,
    dialect: &Dialect,
    path: &str,
    query: &str,
) -> Result<Request, S3Error> {
    let address = address::parse(view, dialect.domain.as_deref(), path)?;
    let fields = Fields {
        view: *view,
        query: uri::parse_query(query)?,
    };
    let operation = route::choose(&fields, &address, dialect)?;
    let payload = PayloadHeaders::parse(&fields, &operation)?;
    let revalidate = fields.header("cache-control")?.is_some_and(|v| {
        v.split(',')
            .any(|d| d.trim().eq_ignore_ascii_case("no-cache"))
    });
    let wait_persisted = fields
        .header("x-quickwater-wait-persisted")?
        .map(|text| wait_seconds(&text))
        .transpose()?;
    Ok(Request {
        wait_persisted,
        bucket: address.bucket,
        key: address.key,
        revalidate: revalidate && !operation.has_stored_headers(),
        operation,
        payload,
    })
}

fn wait_seconds(text: &str) -> Result<Duration, S3Error> {
    let seconds = text.trim().parse::<u64>().ok();
    let seconds = seconds.filter(|s| (1..=WAIT_PERSISTED_SECONDS_MAX).contains(s));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        S3Error::request("x-quickwater-wait-persisted must be a whole number of seconds, 1 to 600.")
    })
}
