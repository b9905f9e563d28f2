//! Reads answers: the head, then the framing of the body (RFC 9112). What bytes
//! mean is the receiver's business.

use super::errors::Failure;

/// Header lines of an answer.
const HEADERS_MAX: usize = 96;
/// Bytes of a chunk-size line or of a trailer line.
const LINE_BYTES_MAX: usize = 4096;

/// Where an answer said its bytes came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Source {
    #[default]
    Unsaid,
    Hit,
    Miss,
    Partial,
    Other,
}

impl Source {
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Hit, "hit"),
        (Self::Miss, "miss"),
        (Self::Partial, "partial"),
        (Self::Other, "other"),
    ];

    fn of(value: &[u8]) -> Self {
        let starts = |with: &str| {
            value
                .get(..with.len())
                .is_some_and(|v| v.eq_ignore_ascii_case(with.as_bytes()))
        };
        match () {
            () if starts("hit") => Self::Hit,
            () if starts("miss") => Self::Miss,
            () if starts("partial") => Self::Partial,
            () => Self::Other,
        }
    }
}

/// The head of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Content-Length, if it is there.
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
    /// First and last byte of a Content-Range with a range; none without the header.
    pub(crate) range: Option<(u64, u64)>,
    /// The server will close the connection.
    pub(crate) close: bool,
    pub(crate) source: Source,
    pub(crate) etag: Option<String>,
    /// The object was written by this tool (its tag's value is ours).
    pub(crate) tagged: bool,
}

/// Reads a head that may be incomplete: the head and its length, or none.
pub(crate) fn parse(bytes: &[u8], want_etag: bool) -> Result<Option<(Head, usize)>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let used = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Protocol("the head of an answer")),
    };
    let mut head = Head {
        status: answer.code.unwrap_or(0),
        close: answer.version == Some(0),
        ..Head::default()
    };
    for header in answer.headers.iter() {
        read_header(&mut head, header.name, header.value, want_etag)?;
    }
    Ok(Some((head, used)))
}

fn read_header(head: &mut Head, name: &str, value: &[u8], want_etag: bool) -> Result<(), Failure> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    // The length tells most names apart before they are compared.
    match name.len() {
        14 if is("content-length") => {
            let text = std::str::from_utf8(value)
                .ok()
                .filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            let length = text.and_then(|t| t.parse().ok());
            head.length = Some(length.ok_or(Failure::Protocol("Content-Length"))?);
        }
        17 if is("transfer-encoding") => {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Failure::Protocol("Transfer-Encoding"));
            }
            head.chunked = true;
        }
        10 if is("connection") => {
            head.close = head.close && !value.eq_ignore_ascii_case(b"keep-alive")
                || value.eq_ignore_ascii_case(b"close");
        }
        18 if is("x-quickwater-cache") => head.source = Source::of(value),
        7 if is("x-cache") => head.source = Source::of(value),
        13 if is("content-range") => {
            let text = std::str::from_utf8(value).unwrap_or_default();
            head.range = Some(range(text).ok_or(Failure::Protocol("Content-Range"))?);
        }
        4 if want_etag && is("etag") => {
            head.etag = std::str::from_utf8(value).ok().map(str::to_owned);
        }
        27 if is(super::call::TAG.0) => head.tagged = value == super::call::TAG.1.as_bytes(),
        _ => {}
    }
    Ok(())
}

/// `bytes 0-9/100` (RFC 9110, section 14.4); the length may be `*`.
fn range(text: &str) -> Option<(u64, u64)> {
    let (range, _length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// How the rest of a body is framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes are left; 0 is the end.
    Fixed(u64),
    Chunked(Chunk),
    /// Until the server closes.
    Close,
}

/// Inside a chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// In the line with the size; what there is of it.
    Size(Vec<u8>),
    /// Bytes left of the chunk.
    Data(u64),
    /// In the line end after a chunk; bytes left of it.
    DataEnd(u8),
    /// In a trailer line; its length so far without the line end.
    Trailer(usize),
    End,
}

impl Framing {
    /// The framing of an answer (RFC 9112, section 6.3).
    pub(crate) fn of(head: &Head, to_head_request: bool) -> Self {
        if to_head_request || matches!(head.status, 204 | 304) {
            return Self::Fixed(0);
        }
        if head.chunked {
            return Self::Chunked(Chunk::Size(Vec::new()));
        }
        head.length.map_or(Self::Close, Self::Fixed)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Fixed(0) | Self::Chunked(Chunk::End))
    }

    /// Takes bytes off the wire and hands on those of the body. Bytes after the
    /// end are a fault: nothing was asked for that they could answer.
    pub(crate) fn accept(
        &mut self,
        mut bytes: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            if self.is_over() {
                return Err(Failure::Protocol("bytes after the end of an answer"));
            }
            match self {
                Self::Close => {
                    body(bytes);
                    return Ok(());
                }
                Self::Fixed(left) => {
                    let (now, rest) = take(bytes, *left);
                    *left -= now.len() as u64;
                    body(now);
                    bytes = rest;
                }
                Self::Chunked(chunk) => bytes = chunk.accept(bytes, &mut body)?,
            }
        }
        Ok(())
    }
}

impl Chunk {
    fn accept<'b>(
        &mut self,
        bytes: &'b [u8],
        body: &mut impl FnMut(&[u8]),
    ) -> Result<&'b [u8], Failure> {
        let (first, rest) = match bytes.split_first() {
            Some((first, rest)) => (*first, rest),
            None => return Ok(bytes),
        };
        match self {
            Self::Data(left) => {
                let (now, rest) = take(bytes, *left);
                body(now);
                *left -= now.len() as u64;
                if *left == 0 {
                    *self = Self::DataEnd(2);
                }
                return Ok(rest);
            }
            Self::Size(line) if first == b'\n' => {
                *self = match chunk_size(line)? {
                    0 => Self::Trailer(0),
                    size => Self::Data(size),
                };
            }
            Self::Size(line) if line.len() < LINE_BYTES_MAX => line.push(first),
            Self::DataEnd(2) if first == b'\r' => *self = Self::DataEnd(1),
            Self::DataEnd(1) if first == b'\n' => *self = Self::Size(Vec::new()),
            Self::Trailer(0) if first == b'\n' => *self = Self::End,
            Self::Trailer(length) if first == b'\n' => *length = 0,
            Self::Trailer(_) if first == b'\r' => {}
            Self::Trailer(length) if *length < LINE_BYTES_MAX => *length += 1,
            _ => return Err(Failure::Protocol("a chunked body")),
        }
        Ok(rest)
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Failure> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    let digits = text.split([';', '\r', ' ']).next().unwrap_or_default();
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let size = u64::from_str_radix(digits, 16).ok().filter(|_| hex);
    size.ok_or(Failure::Protocol("the size of a chunk"))
}

fn take(bytes: &[u8], at_most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(
        bytes
            .len()
            .min(usize::try_from(at_most).unwrap_or(usize::MAX)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let text = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\nX-Quickwater-Cache: hit\r\nETag: \"e\"\r\nx-amz-meta-quickwater-bench: 1\r\n\r\nbody";
        let (head, used) = parse(text, true).unwrap().unwrap();
        assert_eq!(used, text.len() - 4);
        assert_eq!(
            (head.status, head.length, head.close),
            (206, Some(12), false)
        );
        assert_eq!(
            (head.source, head.etag.as_deref()),
            (Source::Hit, Some("\"e\""))
        );
        assert!(head.tagged);
        for cut in 0..used {
            assert_eq!(parse(&text[..cut], true), Ok(None), "{cut}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", false).is_err());
        assert!(parse(b"garbage\r\n\r\n", false).is_err());
    }

    #[test]
    fn old_servers_close_unless_they_say_otherwise() {
        let close = |text: &str| parse(text.as_bytes(), false).unwrap().unwrap().0.close;
        assert!(close("HTTP/1.0 200 OK\r\n\r\n"));
        assert!(!close("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"));
        assert!(close("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n"));
    }

    fn body_of(framing: &mut Framing, wire: &[u8], step: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        for piece in wire.chunks(step) {
            framing.accept(piece, |b| body.extend_from_slice(b))?;
        }
        Ok(body)
    }

    #[test]
    fn chunked_bodies_in_pieces_of_any_length() {
        let wire = b"5\r\nhello\r\nA;ext=1\r\n, chunked!\r\n0\r\nTrailer: x\r\n\r\n";
        for step in 1..wire.len() {
            let mut framing = Framing::Chunked(Chunk::Size(Vec::new()));
            assert_eq!(
                body_of(&mut framing, wire, step).unwrap(),
                b"hello, chunked!"
            );
            assert!(framing.is_over(), "{step}");
        }
    }

    #[test]
    fn wrong_framing_is_a_failure() {
        for wire in [
            "x\r\n",
            "\r\n",
            "5\r\nhelloX\r\n",
            "-1\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "0\r\n\r\nmore",
        ] {
            let mut framing = Framing::Chunked(Chunk::Size(Vec::new()));
            assert!(body_of(&mut framing, wire.as_bytes(), 3).is_err(), "{wire}");
        }
        assert!(body_of(&mut Framing::Fixed(2), b"abc", 1).is_err());
    }

    #[test]
    fn framing_follows_status_and_head() {
        let head = |status, length, chunked| Head {
            status,
            length,
            chunked,
            ..Head::default()
        };
        assert_eq!(
            Framing::of(&head(200, Some(5), false), false),
            Framing::Fixed(5)
        );
        assert_eq!(
            Framing::of(&head(200, Some(5), false), true),
            Framing::Fixed(0)
        );
        assert_eq!(
            Framing::of(&head(204, None, false), false),
            Framing::Fixed(0)
        );
        assert_eq!(Framing::of(&head(200, None, false), false), Framing::Close);
    }
}
