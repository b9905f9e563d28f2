//! `GET` and `PUT /api/v1/conf`: the document of path policies.
//!
//! `GET` answers the document with its version as ETag; `?version=N` an earlier
//! one. `PUT` sets one; with `If-Match: "N"` only while version N is in force,
//! otherwise 409. Errors are JSON and name the field.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use quickwater_proto::MetadataError;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};

use crate::namespace::PolicyError;
use crate::policies::{DOCUMENT_BYTES_MAX, InvalidDocument, Problem};
use crate::rpc::{AdminService, AdminToken, by};
use crate::store::Store;

/// What the calls need.
#[derive(Clone)]
pub(super) struct Desk<S> {
    pub(super) service: AdminService<S>,
    pub(super) token: AdminToken,
    /// Who gathers what the status page shows.
    pub(super) turn: Arc<Mutex<()>>,
}

pub(super) async fn get<S: Store>(State(desk): State<Desk<S>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let answer = async {
        admit(&desk.token, &head.headers)?;
        let version = asked_version(head.uri.query().unwrap_or_default())?;
        let stored = desk.service.policies(version).await?;
        Ok((stored.version, stored.text))
    };
    match answer.await {
        Ok((version, text)) => respond(StatusCode::OK, Some(version), text),
        Err(failure) => refuse(failure),
    }
}

pub(super) async fn put<S: Store>(State(desk): State<Desk<S>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let answer = async {
        admit(&desk.token, &head.headers)?;
        let expected = expected_version(&head.headers)?;
        let peer = head.extensions.get::<TcpConnectInfo>();
        let by = by("REST", peer.and_then(TcpConnectInfo::remote_addr));
        let text = document(body).await?;
        Ok(desk.service.set_policies(&text, expected, &by).await?)
    };
    match answer.await {
        Ok(set) => {
            let body = json!({ "version": set.version, "warnings": set.warnings });
            respond(StatusCode::OK, Some(set.version), format!("{body:#}\n"))
        }
        Err(failure) => refuse(failure),
    }
}

/// Why a call was not done.
pub(super) enum Failure {
    /// No or wrong token.
    Unauthenticated(&'static str),
    /// The request is no good.
    BadRequest(String),
    /// The body is too large.
    TooLarge,
    /// As the rules say.
    Policy(PolicyError),
    /// As the admin service says.
    Call(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

pub(super) fn admit(token: &AdminToken, headers: &HeaderMap) -> Result<(), Failure> {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    token.admit(given).map_err(Failure::Unauthenticated)
}

fn asked_version(query: &str) -> Result<Option<u64>, Failure> {
    if query.is_empty() {
        return Ok(None);
    }
    let number = query.strip_prefix("version=").and_then(|n| n.parse().ok());
    let refuse = || Failure::BadRequest(format!("{query:?} is unknown; write ?version=N"));
    number.map(Some).ok_or_else(refuse)
}

/// RFC 9110, section 13.1.1; `*`: any version.
fn expected_version(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get(IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    let number = text.trim_matches('"').parse();
    match (text, number) {
        ("*", _) => Ok(None),
        (_, Ok(number)) => Ok(Some(number)),
        (_, Err(_)) => Err(Failure::BadRequest(
            "If-Match must be a version as GET answers it in ETag, such as \"3\"".into(),
        )),
    }
}

async fn document(body: Body) -> Result<String, Failure> {
    let bytes = to_bytes(body, DOCUMENT_BYTES_MAX).await;
    let bytes = bytes.map_err(|_| Failure::TooLarge)?;
    String::from_utf8(bytes.into()).map_err(|_| {
        let message = "is not UTF-8".to_owned();
        let field = "$".to_owned();
        PolicyError::Document(InvalidDocument(vec![Problem { field, message }])).into()
    })
}

pub(super) fn refuse(failure: Failure) -> Response {
    let (status, code, message) = match &failure {
        Failure::Unauthenticated(why) => (
            StatusCode::UNAUTHORIZED,
            "Unauthenticated",
            (*why).to_owned(),
        ),
        Failure::BadRequest(why) => (StatusCode::BAD_REQUEST, "BadRequest", why.clone()),
        Failure::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "TooLarge",
            format!("the document is larger than {DOCUMENT_BYTES_MAX} bytes, or its sending broke"),
        ),
        Failure::Policy(error) => describe(error),
        Failure::Call(status) => called(status),
    };
    let mut error = json!({ "code": code, "message": message });
    match failure {
        Failure::Policy(PolicyError::Document(InvalidDocument(problems))) => {
            error["problems"] = json!(problems);
        }
        Failure::Policy(PolicyError::Stale { current, .. }) => {
            error["currentVersion"] = json!(current);
        }
        _ => {}
    }
    let mut response = respond(status, None, text_of(&error));
    if status == StatusCode::UNAUTHORIZED {
        let headers = response.headers_mut();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// There is no such call.
pub(super) async fn nowhere() -> Response {
    let error = json!({
        "code": "NotFound",
        "message": "there is no such call; there are /api/v1/status, /api/v1/conf and /api/v1/conf/test",
    });
    respond(StatusCode::NOT_FOUND, None, text_of(&error))
}

/// The call is made another way, which the header `Allow` says.
pub(super) async fn not_so() -> Response {
    let message = "this address takes other methods: see the header Allow";
    let error = json!({ "code": "MethodNotAllowed", "message": message });
    respond(StatusCode::METHOD_NOT_ALLOWED, None, text_of(&error))
}

fn describe(error: &PolicyError) -> (StatusCode, &'static str, String) {
    let (status, code) = match error {
        PolicyError::Document(_) => (StatusCode::BAD_REQUEST, "InvalidDocument"),
        PolicyError::Stale { .. } => (StatusCode::CONFLICT, "StaleVersion"),
        PolicyError::NoSuchVersion(_) => (StatusCode::NOT_FOUND, "NoSuchVersion"),
        PolicyError::Metadata(MetadataError::Unknown(_)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "OutcomeUnknown")
        }
        PolicyError::Metadata(MetadataError::TooLarge(_)) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "TooLarge")
        }
        PolicyError::Metadata(_) => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
    };
    (status, code, error.to_string())
}

fn called(status: &Status) -> (StatusCode, &'static str, String) {
    let (code, name) = match status.code() {
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "InvalidArgument"),
        Code::NotFound => (StatusCode::NOT_FOUND, "NotFound"),
        Code::Unavailable | Code::DeadlineExceeded => {
            (StatusCode::SERVICE_UNAVAILABLE, "Unavailable")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "Internal"),
    };
    (code, name, status.message().to_owned())
}

fn text_of(error: &Value) -> String {
    format!("{:#}\n", json!({ "error": error }))
}

pub(super) fn respond(status: StatusCode, version: Option<u64>, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(Ok(tag)) = version.map(|v| HeaderValue::from_str(&format!("\"{v}\""))) {
        headers.insert(ETAG, tag);
    }
    response
}
