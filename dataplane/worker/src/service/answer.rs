//! From a result to an HTTP response: every failure has its S3 code.

use bytes::Bytes;
use quickwater_engine::{FlowError, PutError, World};
use quickwater_s3::{S3Error, S3ErrorCode, response};

use super::body::BodyFailure;
use super::read::ObjectBytes;
use crate::http::{ConnectionInfo, Payload, RequestView, Response};

/// A successful answer: status, header lines and body.
pub type ServiceAnswer<W> = Response<ObjectBytes<W>>;

/// Why there is none.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Tell the client this.
    Error(Box<S3Error>),
    /// Not an error, but no body either: 304 with these header lines.
    NotModified(Vec<u8>),
    /// The UFS holds another version than the one being read: look again.
    Changed,
    /// The connection is gone.
    Lost,
}

impl Refusal {
    /// Whether the client would be told this.
    pub(super) fn is(&self, code: S3ErrorCode) -> bool {
        matches!(self, Self::Error(error) if error.code == code)
    }
}

impl From<S3Error> for Refusal {
    fn from(error: S3Error) -> Self {
        Self::Error(Box::new(error))
    }
}

impl From<S3ErrorCode> for Refusal {
    fn from(code: S3ErrorCode) -> Self {
        S3Error::from(code).into()
    }
}

impl From<FlowError> for Refusal {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Changed => Self::Changed,
            error => flow_error(error).into(),
        }
    }
}

impl From<PutError<BodyFailure>> for Refusal {
    fn from(error: PutError<BodyFailure>) -> Self {
        match error {
            PutError::Body(failure) => failure.into(),
            PutError::Flow(error) => error.into(),
        }
    }
}

impl From<BodyFailure> for Refusal {
    fn from(failure: BodyFailure) -> Self {
        match failure {
            BodyFailure::Refused(error) => error.into(),
            BodyFailure::Lost => Self::Lost,
            BodyFailure::Overloaded => S3ErrorCode::SlowDown.into(),
            BodyFailure::Changed => Self::Changed,
        }
    }
}

/// The S3 code of a flow's failure. The text of internal failures goes to the
/// log, not to the client.
pub(super) fn flow_error(error: FlowError) -> S3Error {
    let code = match &error {
        FlowError::NoSuchBucket => S3ErrorCode::NoSuchBucket,
        FlowError::NoSuchKey => S3ErrorCode::NoSuchKey,
        FlowError::NoSuchUpload => S3ErrorCode::NoSuchUpload,
        FlowError::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
        FlowError::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
        FlowError::PreconditionFailed => S3ErrorCode::PreconditionFailed,
        FlowError::InvalidPart => S3ErrorCode::InvalidPart,
        FlowError::Denied(_) => S3ErrorCode::AccessDenied,
        FlowError::Unsupported(_) | FlowError::Invalid(_) => S3ErrorCode::InvalidRequest,
        FlowError::KeyTooLong(_) => S3ErrorCode::KeyTooLong,
        FlowError::SlowDown(_)
        | FlowError::NoRoom(_)
        | FlowError::Fenced(_)
        | FlowError::NotHere(_) => S3ErrorCode::SlowDown,
        // A write of unknown outcome may be made again, as one that was not made.
        FlowError::Unavailable(_)
        | FlowError::Unknown(_)
        | FlowError::TooFewWorkers { .. }
        | FlowError::Awaits { .. }
        | FlowError::Unsettled(_)
        | FlowError::NotPersisted
        | FlowError::NeverPersisted
        | FlowError::Changed => S3ErrorCode::ServiceUnavailable,
        FlowError::Damaged(_) => S3ErrorCode::InternalError,
        FlowError::Lost => S3ErrorCode::ObjectLost,
        FlowError::NeverFits { .. } => S3ErrorCode::EntityTooLarge,
        FlowError::TooLarge(_) => S3ErrorCode::MetadataTooLarge,
    };
    match error {
        FlowError::Unsupported(text) | FlowError::Invalid(text) | FlowError::KeyTooLong(text) => {
            S3Error::new(code, text)
        }
        error @ (FlowError::NotPersisted
        | FlowError::NeverPersisted
        | FlowError::NeverFits { .. }) => S3Error::new(code, error.to_string()),
        FlowError::TooFewWorkers { wanted, possible } => S3Error::new(
            code,
            format!(
                "writeReplicas asks for {wanted} copies and {possible} can be kept now: too few \
                 workers are there and have room. Try again."
            ),
        ),
        FlowError::Awaits { ref node, what, .. } => {
            tracing::warn!(code = code.as_str(), %node, %error, "request failed");
            let text = format!(
                "Worker {node} has to {what} first, and does not now. Try again; `quickwater \
                 node list` shows how it is."
            );
            S3Error::new(code, text)
        }
        FlowError::NotHere(why) => S3Error::new(
            code,
            format!("This worker cannot answer for it now: {why}. Try again, or another worker."),
        ),
        FlowError::NoRoom(seconds) => {
            tracing::warn!(code = code.as_str(), %error, "request failed");
            S3Error {
                retry_after_seconds: Some(seconds),
                ..code.into()
            }
        }
        FlowError::Fenced(seconds) => {
            tracing::warn!(code = code.as_str(), %error, "request failed");
            let text = format!(
                "An earlier write of this key got no answer and may still be applied. Another \
                 one is taken in {seconds} seconds."
            );
            S3Error {
                retry_after_seconds: Some(seconds),
                ..S3Error::new(code, text)
            }
        }
        error => {
            let denied = code == S3ErrorCode::AccessDenied;
            if code.status() >= 500 || denied || code == S3ErrorCode::ObjectLost {
                tracing::warn!(code = code.as_str(), %error, "request failed");
            }
            code.into()
        }
    }
}

/// A response without body.
pub(super) fn empty<W: World>(status: u16, headers: Vec<u8>) -> ServiceAnswer<W> {
    Response {
        status,
        headers,
        body: Payload::Empty,
        close: false,
    }
}

/// An XML document.
pub(super) fn xml<W: World>(status: u16, mut document: Vec<u8>) -> ServiceAnswer<W> {
    // What counts is its length; giving back the rest moves nothing.
    document.shrink_to_fit();
    let headers = b"Content-Type: application/xml\r\n".to_vec();
    Response {
        status,
        headers,
        body: Payload::Bytes(document.into()),
        close: false,
    }
}

/// Turns the outcome into what goes over the wire, and names its error code.
pub(super) fn into_response<W: World>(
    answer: Result<ServiceAnswer<W>, Refusal>,
    request: &RequestView<'_>,
    path: &str,
    info: &ConnectionInfo,
) -> (ServiceAnswer<W>, Option<&'static str>) {
    match answer {
        Ok(response) => (response, None),
        Err(Refusal::NotModified(headers)) => (
            Response {
                status: 304,
                headers,
                body: Payload::NotModified,
                close: false,
            },
            None,
        ),
        Err(Refusal::Lost) => {
            let mut response = empty(400, Vec::new());
            response.close = true;
            (response, Some("ClientGone"))
        }
        Err(Refusal::Changed) => {
            let error = flow_error(FlowError::Changed);
            let code = error.code.as_str();
            (error_response(error, request, path, info), Some(code))
        }
        Err(Refusal::Error(error)) => {
            let code = error.code.as_str();
            (error_response(*error, request, path, info), Some(code))
        }
    }
}

fn error_response<W: World>(
    mut error: S3Error,
    request: &RequestView<'_>,
    path: &str,
    info: &ConnectionInfo,
) -> ServiceAnswer<W> {
    if error.resource.is_none() {
        error.resource = Some(path.to_owned());
    }
    let mut headers = Vec::new();
    let status = response::error_head(&mut headers, &error);
    let body = match request.method {
        "HEAD" => Payload::Empty,
        _ => Payload::Bytes(document_of(&error, info)),
    };
    Response {
        status,
        headers,
        body,
        close: false,
    }
}

fn document_of(error: &S3Error, info: &ConnectionInfo) -> Bytes {
    response::error_body(error, info.request_id.as_str(), info.host_id.as_str()).into()
}

/// The document for a request that HTTP itself refuses.
pub(super) fn transport_error(code: &str, message: &str, info: &ConnectionInfo) -> Bytes {
    let known = S3ErrorCode::ALL.iter().find(|c| c.as_str() == code);
    let code = known.copied().unwrap_or(S3ErrorCode::InvalidRequest);
    document_of(&S3Error::new(code, message.to_owned()), info)
}

/// Bytes the body of a response will have.
pub(super) fn body_bytes<W: World>(response: &ServiceAnswer<W>) -> u64 {
    match &response.body {
        Payload::Empty | Payload::NotModified | Payload::HeadOf(_) | Payload::Elsewhere(_) => 0,
        Payload::Bytes(bytes) | Payload::Document { bytes, .. } => bytes.len() as u64,
        Payload::Stream { length, .. } => *length,
    }
}
