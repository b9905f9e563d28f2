//! Why a request failed. The names are keys of the report.

use std::fmt;

/// Characters of an error answer that are kept in words.
const EXCERPT_CHARS_MAX: usize = 160;

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection could not be opened.
    Connect(String),
    /// No complete answer within the time a request has.
    Timeout,
    /// The connection broke in the middle.
    Closed(String),
    /// The answer is not HTTP as it should be.
    Protocol(&'static str),
    /// A status other than the one that means success, with what the body says.
    Status { status: u16, text: String },
    /// Not as many bytes as the object has.
    Length { expected: u64, found: u64 },
    /// Other bytes than were written.
    Content,
    /// Not as many keys as are there.
    Listing { expected: u64, found: u64 },
    /// A page with a key that is not due there.
    Key { expected: String, found: String },
    /// Another range than was asked for.
    Range(String),
}

impl Failure {
    /// The key of the report: few, told apart by what one does next.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Timeout => "timeout",
            Self::Closed(_) => "closed",
            Self::Protocol(_) => "protocol",
            Self::Status { status: 503, .. } => "slow_down",
            Self::Status { status: 404, .. } => "not_found",
            Self::Status { status: 403, .. } => "forbidden",
            Self::Status { status: 500.., .. } => "server_error",
            Self::Status { .. } => "client_error",
            Self::Length { .. } => "wrong_length",
            Self::Content => "wrong_bytes",
            Self::Listing { .. } | Self::Key { .. } => "wrong_listing",
            Self::Range(_) => "wrong_range",
        }
    }

    /// Whether no answer came, or none that ended.
    pub(crate) const fn is_unanswered(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Timeout | Self::Closed(_))
    }

    /// A status failure with the beginning of its body.
    pub(crate) fn status(status: u16, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let code = super::xml::element(&text, "Code").unwrap_or_default();
        let message = super::xml::element(&text, "Message").unwrap_or_default();
        let said = format!("{code} {message}");
        let text = said.trim().chars().take(EXCERPT_CHARS_MAX).collect();
        Self::Status { status, text }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Closed(why) => write!(f, "connection broke: {why}"),
            Self::Protocol(what) => write!(f, "not proper HTTP: {what}"),
            // The answer to a HEAD has no body that says why.
            Self::Status { status, text } if text.is_empty() => {
                write!(f, "answered {status} without a reason")
            }
            Self::Status { status, text } => write!(f, "answered {status} {text}"),
            Self::Length { expected, found } => {
                write!(f, "{found} bytes instead of {expected}")
            }
            Self::Content => f.write_str("other bytes than were written"),
            Self::Listing { expected, found } => {
                write!(f, "a page of {found} keys instead of {expected}")
            }
            Self::Key { expected, found } => {
                write!(f, "a page with the key {found:?} where {expected} is due")
            }
            Self::Range(found) => write!(f, "another range than was asked for: {found:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_without_a_body_says_so() {
        let said = |body: &[u8]| Failure::status(403, body).to_string();
        assert_eq!(said(b""), "answered 403 without a reason");
        let body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        assert_eq!(said(body), "answered 403 AccessDenied no");
    }
}
