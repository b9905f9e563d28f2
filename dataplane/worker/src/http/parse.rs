//! Bytes to a checked request head. No IO, and nothing that two readers of the
//! same bytes could understand differently (RFC 9112 §11.2) gets through.

use std::mem::MaybeUninit;

use httparse::Header;
use quickwater_s3::RequestView;

use super::limit::{BLANK_LINES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};

/// Why a request is refused before the service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
}

impl Refusal {
    const fn bad(message: &'static str) -> Self {
        Refusal {
            status: 400,
            code: "BadRequest",
            message,
        }
    }

    pub(crate) const TOO_LARGE: Refusal = Refusal {
        status: 431,
        code: "RequestHeaderSectionTooLarge",
        message: "Your request header section exceeds the maximum allowed size.",
    };
    /// HTTP where HTTPS is spoken.
    pub(crate) const PLAIN: Refusal = Refusal::bad(
        "This endpoint speaks HTTPS and the request came without TLS; use https:// in its address.",
    );
    pub(crate) const TIMEOUT: Refusal = Refusal {
        status: 400,
        code: "RequestTimeout",
        message: "Your socket connection to the server was not read from or written to within \
                  the timeout period. Idle connections will be closed.",
    };
    pub(crate) const SLOW_DOWN: Refusal = Refusal {
        status: 503,
        code: "SlowDown",
        message: "Please reduce your request rate.",
    };
    pub(crate) const INTERNAL: Refusal = Refusal {
        status: 500,
        code: "InternalError",
        message: "We encountered an internal error. Please try again.",
    };
    const VERSION: Refusal = Refusal {
        status: 505,
        code: "HttpVersionNotSupported",
        message: "Only HTTP/1.0 and HTTP/1.1 are supported.",
    };
    const CODING: Refusal = Refusal {
        status: 501,
        code: "NotImplemented",
        message: "A Transfer-Encoding other than chunked is not implemented.",
    };
    const EXPECTATION: Refusal = Refusal {
        status: 417,
        code: "ExpectationFailed",
        message: "Only the expectation 100-continue is supported.",
    };
}

/// How the request body is delimited (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Length(u64),
    Chunked,
}

/// A request head that passed every check.
#[derive(Debug)]
pub(crate) struct Head<'b, 'h> {
    pub(crate) method: &'b str,
    /// Origin form: begins with `/`.
    pub(crate) target: &'b str,
    pub(crate) headers: &'h [Header<'b>],
    pub(crate) body: BodyKind,
    pub(crate) expect_continue: bool,
    /// The client lets us keep the connection.
    pub(crate) keep_alive: bool,
    /// HTTP/1.0: keeping the connection must be announced.
    pub(crate) old_version: bool,
}

/// Storage for the header fields of one request.
pub(crate) type HeaderSlots<'b> = [MaybeUninit<Header<'b>>; HEADERS_MAX];

/// Fresh storage for [`parse`].
pub(crate) const fn header_slots<'b>() -> HeaderSlots<'b> {
    [const { MaybeUninit::uninit() }; HEADERS_MAX]
}

/// Whether bytes begin with a whole head that `judge` lets in.
pub(crate) fn is_head(bytes: &[u8], judge: impl FnOnce(&RequestView<'_>) -> bool) -> bool {
    let mut bytes = bytes.to_vec();
    let Ok(Some(end)) = HeadScan::default().scan(&mut bytes) else {
        return false;
    };
    let mut slots = header_slots();
    let Ok(head) = parse(&bytes[..end], &mut slots) else {
        return false;
    };
    judge(&RequestView {
        method: head.method,
        target: head.target,
        headers: head.headers,
    })
}

/// Finds the end of a head in bytes that arrive piece by piece, looking at every
/// byte once.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    seen: usize,
    line_start: usize,
    blanks: usize,
}

impl HeadScan {
    /// Length of the head at the front of `buffer`, its empty line included, or
    /// `None` when it is not complete. Removes empty lines in front of it.
    pub(crate) fn scan(&mut self, buffer: &mut Vec<u8>) -> Result<Option<usize>, Refusal> {
        self.strip_blank_lines(buffer)?;
        while let Some(offset) = find_newline(&buffer[self.seen..]) {
            let newline = self.seen + offset;
            if newline == 0 || buffer[newline - 1] != b'\r' {
                return Err(Refusal::bad("A line of the head does not end in CRLF."));
            }
            let empty = newline == self.line_start + 1;
            self.seen = newline + 1;
            self.line_start = self.seen;
            if self.seen > HEAD_BYTES_MAX {
                return Err(Refusal::TOO_LARGE);
            }
            if empty {
                return Ok(Some(self.seen));
            }
        }
        self.seen = buffer.len();
        if self.seen >= HEAD_BYTES_MAX {
            return Err(Refusal::TOO_LARGE);
        }
        Ok(None)
    }

    fn strip_blank_lines(&mut self, buffer: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.line_start > 0 {
            return Ok(());
        }
        while buffer.starts_with(b"\r\n") {
            self.blanks += 1;
            self.seen = 0;
            if self.blanks > BLANK_LINES_MAX {
                return Err(Refusal::bad("Too many empty lines before the request."));
            }
            buffer.drain(..2);
        }
        Ok(())
    }
}

/// First line feed, eight bytes at a time.
fn find_newline(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    const LINES: u64 = u64::from_ne_bytes([b'\n'; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let zeroed = u64::from_le_bytes(*word) ^ LINES;
        let hits = zeroed.wrapping_sub(ONES) & !zeroed & HIGH;
        if hits != 0 {
            return Some(index * 8 + (hits.trailing_zeros() / 8) as usize);
        }
    }
    let at = rest.iter().position(|&byte| byte == b'\n')?;
    Some(words.len() * 8 + at)
}

/// Parses and checks a complete head as found by [`HeadScan`].
pub(crate) fn parse<'b, 'h>(
    head: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
) -> Result<Head<'b, 'h>, Refusal> {
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, slots) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Refusal::bad("The request head is malformed.")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TOO_LARGE),
        Err(httparse::Error::Version) if names_a_version(head) => return Err(Refusal::VERSION),
        Err(_) => return Err(Refusal::bad("The request head is malformed.")),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Refusal::bad("The request line is incomplete."));
    };
    let headers: &'h [Header<'b>] = request.headers;
    let fields = Fields::read(headers, minor)?;
    Ok(Head {
        method,
        target: origin_form(target, fields.host)?,
        headers,
        body: fields.body(minor)?,
        expect_continue: fields.expect_continue && minor == 1,
        keep_alive: fields.keep_alive(minor),
        old_version: minor == 0,
    })
}

/// Whether a request line has the shape of another HTTP version's.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    words.nth(2).is_some_and(|word| word.starts_with(b"HTTP/")) && words.next().is_none()
}

/// The header fields this layer acts upon.
#[derive(Default)]
struct Fields<'b> {
    host: Option<&'b str>,
    length: Option<u64>,
    chunked: bool,
    expect_continue: bool,
    close: bool,
    keep: bool,
}

impl<'b> Fields<'b> {
    fn read(headers: &[Header<'b>], minor: u8) -> Result<Self, Refusal> {
        let mut fields = Fields::default();
        for header in headers {
            fields.note(header)?;
        }
        if fields.host.is_none() && minor == 1 {
            return Err(Refusal::bad("The Host header is missing."));
        }
        Ok(fields)
    }

    fn note(&mut self, header: &Header<'b>) -> Result<(), Refusal> {
        // By length first: most fields are none of ours.
        let name = header.name;
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => self.note_host(header.value),
            6 if name.eq_ignore_ascii_case("expect") => self.note_expect(header.value),
            10 if name.eq_ignore_ascii_case("connection") => {
                self.note_connection(header.value);
                Ok(())
            }
            14 if name.eq_ignore_ascii_case("content-length") => self.note_length(header.value),
            17 if name.eq_ignore_ascii_case("transfer-encoding") => self.note_coding(header.value),
            _ => Ok(()),
        }
    }

    fn note_host(&mut self, value: &'b [u8]) -> Result<(), Refusal> {
        let host = std::str::from_utf8(value.trim_ascii())
            .ok()
            .filter(|host| !host.is_empty() && host.bytes().all(is_host_byte))
            .ok_or(Refusal::bad("The Host header is invalid."))?;
        if self.host.replace(host).is_some() {
            return Err(Refusal::bad("There is more than one Host header."));
        }
        Ok(())
    }

    fn note_expect(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::EXPECTATION);
        }
        self.expect_continue = true;
        Ok(())
    }

    fn note_connection(&mut self, value: &[u8]) {
        for token in value.split(|&byte| byte == b',') {
            let token = token.trim_ascii();
            self.close |= token.eq_ignore_ascii_case(b"close");
            self.keep |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// One field, digits only. Repeated equal values could be folded into one
    /// (RFC 9112 §6.3) but no honest client sends them.
    fn note_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let length = decimal(value.trim_ascii())
            .ok_or(Refusal::bad("The Content-Length header is invalid."))?;
        if self.length.replace(length).is_some() {
            return Err(Refusal::bad(
                "There is more than one Content-Length header.",
            ));
        }
        Ok(())
    }

    fn note_coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked {
            return Err(Refusal::bad(
                "There is more than one Transfer-Encoding header.",
            ));
        }
        if !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::CODING);
        }
        self.chunked = true;
        Ok(())
    }

    fn body(&self, minor: u8) -> Result<BodyKind, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::bad(
                "Content-Length and Transfer-Encoding exclude each other.",
            )),
            (true, None) if minor == 0 => {
                Err(Refusal::bad("HTTP/1.0 does not know Transfer-Encoding."))
            }
            (true, None) => Ok(BodyKind::Chunked),
            (false, length) => Ok(BodyKind::Length(length.unwrap_or(0))),
        }
    }

    fn keep_alive(&self, minor: u8) -> bool {
        !self.close && (minor == 1 || self.keep)
    }
}

/// Digits only, no sign, no list; `None` on anything else and on overflow.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// `uri-host [":" port]` (RFC 3986 §3.2.2), loosely: nothing that could end an
/// authority or split a header.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&byte)
}

/// Reduces an absolute-form target to origin form (RFC 9112 §3.2). Its authority
/// must be the Host header's, so that nobody can see two different ones.
fn origin_form<'b>(target: &'b str, host: Option<&str>) -> Result<&'b str, Refusal> {
    let path = if target.starts_with('/') {
        target
    } else {
        absolute_path(target, host).ok_or(Refusal::bad("The request target is invalid."))?
    };
    if path.contains('#') {
        return Err(Refusal::bad("The request target has a fragment."));
    }
    Ok(path)
}

fn absolute_path<'b>(target: &'b str, host: Option<&str>) -> Option<&'b str> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !host.is_some_and(|host| host.eq_ignore_ascii_case(authority)) {
        return None;
    }
    match path {
        "" => Some("/"),
        path => path.starts_with('/').then_some(path),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
