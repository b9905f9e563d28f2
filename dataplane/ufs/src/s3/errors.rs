//! What an S3 store's refusal, or a failure on the way to it, means.
//!
//! Texts hold the operation, the status and the store's error code, never headers
//! or bodies: they might hold what was signed.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use quickwater_proto::{UfsError, UfsErrorKind};

/// Longest text of a cause.
const CAUSE_CHARS_MAX: usize = 300;

/// Makes a [`UfsError`] of a failed request. `write`: a lost answer leaves the
/// outcome unknown.
pub(super) fn failed<E>(what: &str, write: bool, error: &SdkError<E, HttpResponse>) -> UfsError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or_default();
            let kind = match kind(status, code) {
                _ if write && is_gateway(status) => UfsErrorKind::Timeout,
                // A body that is no answer to the request; of a write it is not
                // known whether it was applied.
                UfsErrorKind::Other if status < 300 && write => UfsErrorKind::Timeout,
                UfsErrorKind::Other if status < 300 => UfsErrorKind::Corrupt,
                kind => kind,
            };
            UfsError::new(
                kind,
                format!("{what}: HTTP {status} {code}{}", advice(code)),
            )
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            let kind = match status {
                _ if write && is_gateway(status) => UfsErrorKind::Timeout,
                200..=299 if write => UfsErrorKind::Timeout,
                200..=299 => UfsErrorKind::Corrupt,
                _ => kind(status, ""),
            };
            UfsError::new(
                kind,
                format!("{what}: HTTP {status}, answer not understood"),
            )
        }
        SdkError::TimeoutError(_) => {
            UfsError::new(UfsErrorKind::Timeout, format!("{what}: no answer in time"))
        }
        SdkError::DispatchFailure(failure) => {
            let cause = cause(
                failure
                    .as_connector_error()
                    .map(|e| e as &(dyn Error + 'static)),
            );
            // The only time limit inside the connector is the one to connect.
            let sent = !(failure.is_timeout() || is_connect(failure.as_connector_error()));
            let kind = if write && sent && !failure.is_user() {
                UfsErrorKind::Timeout
            } else {
                UfsErrorKind::Unavailable
            };
            UfsError::new(kind, format!("{what}: {cause}"))
        }
        SdkError::ConstructionFailure(_) => {
            let kind = if mentions_credentials(error) {
                UfsErrorKind::AccessDenied
            } else {
                UfsErrorKind::Invalid
            };
            UfsError::new(kind, format!("{what}: {}", cause(Some(error))))
        }
        _ => UfsError::new(
            UfsErrorKind::Other,
            format!("{what}: {}", cause(Some(error))),
        ),
    }
}

/// As [`failed`], of a request whose [`UfsErrorKind::Unsupported`] means that there is
/// no such object: only a key that is too long says so, not a store that does not know
/// the request.
pub(super) fn failed_on_object<E>(
    what: &str,
    write: bool,
    error: &SdkError<E, HttpResponse>,
) -> UfsError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let mut failed = failed(what, write, error);
    if failed.kind == UfsErrorKind::Unsupported
        && error.as_service_error().and_then(|e| e.code()) != Some("KeyTooLongError")
    {
        failed.kind = UfsErrorKind::Unavailable;
    }
    failed
}

/// What to do about a refusal that the code alone does not tell.
fn advice(code: &str) -> &'static str {
    match code {
        // Of an upload that was completed here, because we did not know better.
        "EntityTooSmall" => {
            ": a part, not the last, is smaller than the store takes; the option min_part_size of \
             the mount says how small they may be"
        }
        _ => "",
    }
}

/// Whether a HEAD was answered 404: without a body that says of what.
pub(super) fn is_bare_not_found<E>(error: &SdkError<E, HttpResponse>) -> bool {
    error
        .raw_response()
        .is_some_and(|raw| raw.status().as_u16() == 404)
}

/// A gateway before the store got no answer of it: the store may still apply the
/// request (RFC 9110, 15.6.3 and 15.6.5).
fn is_gateway(status: u16) -> bool {
    matches!(status, 502 | 504)
}

/// S3 "Error responses": code first, then status.
pub(super) fn kind(status: u16, code: &str) -> UfsErrorKind {
    match code {
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests" => return UfsErrorKind::Throttled,
        // CompleteMultipartUpload may fail after its 200 was sent.
        "InternalError" | "ServiceUnavailable" => return UfsErrorKind::Unavailable,
        "RequestTimeout" => return UfsErrorKind::Timeout,
        "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" => {
            return UfsErrorKind::Corrupt;
        }
        "EntityTooLarge" | "KeyTooLongError" | "NotImplemented" => {
            return UfsErrorKind::Unsupported;
        }
        "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage" => {
            return UfsErrorKind::NoSpace;
        }
        "InvalidObjectState" => return UfsErrorKind::Unsupported,
        "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" if status == 404 => {
            return UfsErrorKind::NotFound;
        }
        _ => {}
    }
    match status {
        401 | 403 => UfsErrorKind::AccessDenied,
        // Any other 404 is of a bucket that is away, or of somebody on the way: it says
        // nothing about an object.
        404 => UfsErrorKind::Unavailable,
        408 => UfsErrorKind::Timeout,
        412 | 416 => UfsErrorKind::Changed,
        429 | 503 => UfsErrorKind::Throttled,
        501 => UfsErrorKind::Unsupported,
        507 => UfsErrorKind::NoSpace,
        500..=599 => UfsErrorKind::Unavailable,
        300..=499 => UfsErrorKind::Invalid,
        _ => UfsErrorKind::Other,
    }
}

/// Whether the connection was never there, so that nothing was sent.
fn is_connect(error: Option<&aws_sdk_s3::error::ConnectorError>) -> bool {
    let mut next = error.map(|e| e as &(dyn Error + 'static));
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        // hyper-util's legacy client names the phase in its text only.
        if error.to_string().contains("client error (Connect)") {
            return true;
        }
        next = error.source();
    }
    false
}

fn mentions_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if text.contains("credentials") || text.contains("identity") {
            return true;
        }
        next = error.source();
    }
    false
}

/// The chain of causes in one line.
fn cause(error: Option<&(dyn Error + 'static)>) -> String {
    let mut text = String::new();
    let mut next = error;
    while let Some(error) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        next = error.source();
    }
    one_line(&text)
}

/// Whole words, as many as there is room for.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut left = CAUSE_CHARS_MAX;
    for word in text.split_whitespace() {
        let chars = word.chars().count() + usize::from(!line.is_empty());
        if chars > left {
            // A word longer than all the room shows at least how it begins.
            if line.is_empty() {
                line.extend(word.chars().take(left));
            }
            line.push_str(" ...");
            return line;
        }
        left -= chars;
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_cut_between_words() {
        assert_eq!(
            one_line("no credentials:\n  Profile: none"),
            "no credentials: Profile: none"
        );
        assert_eq!(one_line(""), "");
        let line = one_line(&"four ".repeat(200));
        assert_eq!(line.chars().count(), CAUSE_CHARS_MAX - 1 + " ...".len());
        assert!(line.ends_with("four ..."), "{line}");
        let word = one_line(&"é".repeat(400));
        assert_eq!(word, format!("{} ...", "é".repeat(CAUSE_CHARS_MAX)));
    }

    #[test]
    fn codes_and_statuses() {
        assert_eq!(kind(503, "SlowDown"), UfsErrorKind::Throttled);
        assert_eq!(kind(500, "InternalError"), UfsErrorKind::Unavailable);
        assert_eq!(kind(502, ""), UfsErrorKind::Unavailable);
        assert_eq!(kind(404, "NoSuchKey"), UfsErrorKind::NotFound);
        assert_eq!(kind(404, "NoSuchUpload"), UfsErrorKind::NotFound);
        assert_eq!(kind(404, "NoSuchBucket"), UfsErrorKind::Unavailable);
        assert_eq!(kind(404, ""), UfsErrorKind::Unavailable);
        assert_eq!(kind(400, "BadDigest"), UfsErrorKind::Corrupt);
        assert_eq!(kind(400, "EntityTooLarge"), UfsErrorKind::Unsupported);
        assert_eq!(kind(412, "PreconditionFailed"), UfsErrorKind::Changed);
        assert_eq!(kind(301, "PermanentRedirect"), UfsErrorKind::Invalid);
    }
}
