//! S3 error codes, their HTTP status and usual text. No causes are kept here:
//! whoever handles a failure logs it and picks a code.

use std::borrow::Cow;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $text:literal $status:literal $message:literal;)*) => {
        /// Error codes of the S3 API ("Error responses", list of error codes).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum S3ErrorCode {
            $(#[doc = concat!("`", $text, "`, status ", stringify!($status), ".")] $(#[$doc])* $name,)*
        }

        impl S3ErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The text of `<Code>`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The text of `<Message>` when nothing better is known.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self { $(Self::$name => $message,)* }
            }
        }
    };
}

codes! {
    AccessDenied "AccessDenied" 403 "Access Denied";
    AuthorizationHeaderMalformed "AuthorizationHeaderMalformed" 400 "The authorization header that you provided is not valid.";
    AuthorizationQueryParametersError "AuthorizationQueryParametersError" 400 "The query parameters of the presigned request are not valid.";
    BadDigest "BadDigest" 400 "The Content-MD5 you specified did not match what we received.";
    BucketAlreadyExists "BucketAlreadyExists" 409 "The requested bucket name is not available. Select a different name and try again.";
    BucketAlreadyOwnedByYou "BucketAlreadyOwnedByYou" 409 "Your previous request to create the named bucket succeeded and you already own it.";
    BucketNotEmpty "BucketNotEmpty" 409 "The bucket you tried to delete is not empty.";
    EntityTooLarge "EntityTooLarge" 400 "Your proposed upload exceeds the maximum allowed object size.";
    EntityTooSmall "EntityTooSmall" 400 "Your proposed upload is smaller than the minimum allowed object size.";
    IncompleteBody "IncompleteBody" 400 "You did not provide the number of bytes specified by the Content-Length HTTP header.";
    InternalError "InternalError" 500 "We encountered an internal error. Please try again.";
    InvalidAccessKeyId "InvalidAccessKeyId" 403 "The AWS access key ID you provided does not exist in our records.";
    InvalidArgument "InvalidArgument" 400 "Invalid argument.";
    InvalidBucketName "InvalidBucketName" 400 "The specified bucket is not valid.";
    InvalidBucketState "InvalidBucketState" 409 "The request is not valid for the current state of the bucket.";
    InvalidDigest "InvalidDigest" 400 "The Content-MD5 you specified is not valid.";
    InvalidLocationConstraint "InvalidLocationConstraint" 400 "The specified location constraint is not valid.";
    InvalidObjectState "InvalidObjectState" 403 "The operation is not valid for the current state of the object.";
    InvalidPart "InvalidPart" 400 "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
    InvalidPartNumber "InvalidPartNumber" 416 "The requested partnumber is not satisfiable.";
    InvalidPartOrder "InvalidPartOrder" 400 "The list of parts was not in ascending order. Parts must be ordered by part number.";
    InvalidRange "InvalidRange" 416 "The requested range is not satisfiable.";
    InvalidRequest "InvalidRequest" 400 "Invalid request.";
    InvalidStorageClass "InvalidStorageClass" 400 "The storage class you specified is not valid.";
    InvalidTag "InvalidTag" 400 "The tag provided was not a valid tag. This error can occur if the tag did not pass input validation.";
    InvalidUri "InvalidURI" 400 "Couldn't parse the specified URI.";
    KeyTooLong "KeyTooLongError" 400 "Your key is too long.";
    MalformedTrailer "MalformedTrailerError" 400 "The request contained trailing data that was not well-formed or did not conform to our published schema.";
    MalformedXml "MalformedXML" 400 "The XML you provided was not well-formed or did not validate against our published schema.";
    MaxMessageLengthExceeded "MaxMessageLengthExceeded" 400 "Your request was too big.";
    MetadataTooLarge "MetadataTooLarge" 400 "Your metadata headers exceed the maximum allowed metadata size.";
    MethodNotAllowed "MethodNotAllowed" 405 "The specified method is not allowed against this resource.";
    MissingContentLength "MissingContentLength" 411 "You must provide the Content-Length HTTP header.";
    NoSuchBucket "NoSuchBucket" 404 "The specified bucket does not exist.";
    NoSuchBucketPolicy "NoSuchBucketPolicy" 404 "The bucket policy does not exist.";
    NoSuchCorsConfiguration "NoSuchCORSConfiguration" 404 "The CORS configuration does not exist.";
    NoSuchKey "NoSuchKey" 404 "The specified key does not exist.";
    NoSuchLifecycleConfiguration "NoSuchLifecycleConfiguration" 404 "The lifecycle configuration does not exist.";
    NoSuchPublicAccessBlockConfiguration "NoSuchPublicAccessBlockConfiguration" 404 "The public access block configuration was not found.";
    NoSuchTagSet "NoSuchTagSet" 404 "The TagSet does not exist.";
    NoSuchUpload "NoSuchUpload" 404 "The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload might have been aborted or completed.";
    NoSuchVersion "NoSuchVersion" 404 "The specified version does not exist.";
    NoSuchWebsiteConfiguration "NoSuchWebsiteConfiguration" 404 "The specified bucket does not have a website configuration.";
    NotImplemented "NotImplemented" 501 "A header you provided implies functionality that is not implemented.";
    ObjectLockConfigurationNotFound "ObjectLockConfigurationNotFoundError" 404 "Object Lock configuration does not exist for this bucket.";
    ObjectLost "ObjectLost" 410 "The only copy of this object is lost. Write it again or delete it.";
    OperationAborted "OperationAborted" 409 "A conflicting conditional operation is currently in progress against this resource. Please try again.";
    OwnershipControlsNotFound "OwnershipControlsNotFoundError" 404 "The bucket ownership controls were not found.";
    PreconditionFailed "PreconditionFailed" 412 "At least one of the preconditions you specified did not hold.";
    ReplicationConfigurationNotFound "ReplicationConfigurationNotFoundError" 404 "The replication configuration was not found.";
    RequestHeaderSectionTooLarge "RequestHeaderSectionTooLarge" 400 "Your request header section exceeds the maximum allowed size.";
    RequestTimeTooSkewed "RequestTimeTooSkewed" 403 "The difference between the request time and the current time is too large.";
    RequestTimeout "RequestTimeout" 400 "Your socket connection to the server was not read from or written to within the timeout period.";
    ServerSideEncryptionConfigurationNotFound "ServerSideEncryptionConfigurationNotFoundError" 404 "The server side encryption configuration was not found.";
    ServiceUnavailable "ServiceUnavailable" 503 "Service is unable to handle request.";
    SignatureDoesNotMatch "SignatureDoesNotMatch" 403 "The request signature we calculated does not match the signature you provided. Check your key and signing method.";
    SlowDown "SlowDown" 503 "Please reduce your request rate.";
    TooManyBuckets "TooManyBuckets" 400 "You have attempted to create more buckets than allowed.";
    XAmzContentSha256Mismatch "XAmzContentSHA256Mismatch" 400 "The provided 'x-amz-content-sha256' header does not match what was computed.";
}

impl S3ErrorCode {
    /// The code of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

/// A refusal or failure in S3 terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct S3Error {
    /// What went wrong.
    pub code: S3ErrorCode,
    /// Text for people; goes to the client.
    pub message: Cow<'static, str>,
    /// `<Resource>`: the path asked for, filled in by whoever knows it.
    pub resource: Option<String>,
    /// Further elements of the XML body, by name (e.g. `Key`, `ArgumentName`).
    pub fields: Vec<(&'static str, String)>,
    /// `Retry-After` of a 503, seconds (RFC 9110, 10.2.3); none: soon.
    pub retry_after_seconds: Option<u64>,
}

impl S3Error {
    /// An error with a text of its own.
    #[must_use]
    pub fn new(code: S3ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            resource: None,
            fields: Vec::new(),
            retry_after_seconds: None,
        }
    }

    /// HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.code.status()
    }

    /// The same error with one more element in its XML body.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The same error, saying which path was asked for.
    #[must_use]
    pub fn at(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// `InvalidArgument` naming the argument and its value.
    #[must_use]
    pub fn argument(name: &str, value: &str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(S3ErrorCode::InvalidArgument, message)
            .with("ArgumentName", name)
            .with("ArgumentValue", value)
    }

    /// `InvalidRequest` with a text of its own.
    #[must_use]
    pub fn request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(S3ErrorCode::InvalidRequest, message)
    }

    /// `NotImplemented` naming the header or query parameter we do not serve.
    #[must_use]
    pub fn not_implemented(name: &str) -> Self {
        Self::new(
            S3ErrorCode::NotImplemented,
            "A header or query parameter you provided implies functionality that is not implemented.",
        )
        .with("Header", name)
    }
}

impl From<S3ErrorCode> for S3Error {
    fn from(code: S3ErrorCode) -> Self {
        Self::new(code, code.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_has_an_error_status() {
        let mut seen = std::collections::HashSet::new();
        for code in S3ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code:?} twice");
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(!code.message().is_empty());
        }
    }

    #[test]
    fn display_names_code_and_text() {
        let error = S3Error::from(S3ErrorCode::NoSuchKey);
        assert_eq!(
            error.to_string(),
            "NoSuchKey: The specified key does not exist."
        );
        assert!(std::mem::size_of::<S3Error>() <= 128, "returned by value");
    }
}
