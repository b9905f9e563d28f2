//! Writes header lines. Nothing that comes from a record can end a line early.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quickwater_proto::ChecksumKind;

use crate::request::is_token;

/// Base64 digits of the longest checksum, SHA-256.
const CHECKSUM_DIGITS_MAX: usize = 44;

/// Header lines (`Name: value\r\n`) appended to a buffer.
#[derive(Debug)]
pub struct HeaderList<'a>(&'a mut Vec<u8>);

impl<'a> HeaderList<'a> {
    /// Appends to `out`.
    #[must_use]
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self(out)
    }

    /// Adds one line. Control characters in the value become spaces.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        self.value(value);
    }

    /// Adds one line whose name is not known to be a token; `false`: it is none
    /// and the line was left out.
    pub fn push_named(&mut self, prefix: &str, name: &str, value: &str) -> bool {
        if name.is_empty() || !name.bytes().all(is_token) {
            return false;
        }
        self.0.extend_from_slice(prefix.as_bytes());
        self.push(name, value);
        true
    }

    /// Adds one line if there is a value.
    pub fn push_some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(name, value);
        }
    }

    /// Adds an entity tag in quotes.
    pub fn push_etag(&mut self, etag: &quickwater_proto::ETag) {
        self.0.extend_from_slice(b"ETag: \"");
        self.value_bytes(etag.as_str());
        self.0.extend_from_slice(b"\"\r\n");
    }

    /// Adds a checksum: its value in base64, `-<parts>` behind that of parts.
    pub fn push_checksum(&mut self, checksum: &quickwater_proto::Checksum) {
        self.0
            .extend_from_slice(checksum.algorithm.header().as_bytes());
        self.0.extend_from_slice(b": ");
        let mut digits = [0u8; CHECKSUM_DIGITS_MAX];
        match STANDARD.encode_slice(&checksum.value, &mut digits) {
            Ok(len) => self.0.extend_from_slice(&digits[..len]),
            // No algorithm of ours has a value that long.
            Err(_) => self.value_bytes(&STANDARD.encode(&checksum.value)),
        }
        if let ChecksumKind::Composite { parts } = checksum.kind {
            self.value_bytes(&format!("-{parts}"));
        }
        self.0.extend_from_slice(b"\r\n");
    }

    fn value(&mut self, value: &str) {
        self.value_bytes(value);
        self.0.extend_from_slice(b"\r\n");
    }

    fn value_bytes(&mut self, value: &str) {
        let clean = |b: u8| (b >= 0x20 && b != 0x7f) || b == b'\t';
        if value.bytes().all(clean) {
            self.0.extend_from_slice(value.as_bytes());
        } else {
            self.0
                .extend(value.bytes().map(|b| if clean(b) { b } else { b' ' }));
        }
    }
}

/// The reason phrase of a status (RFC 9110 15).
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
