//! Request targets: percent-coding as SigV4 wants it, paths and queries.
//! Nothing is normalised: `//`, `.` and `..` are part of a key.

use std::borrow::Cow;

use crate::error::{S3Error, S3ErrorCode};

/// Most query parameters of one request.
const PARAMETERS_MAX: usize = 128;

/// Query parameters, decoded, in order of arrival.
pub(crate) type Query = Vec<(String, String)>;

/// Parts a target into path and query; the target must be in origin form.
pub(crate) fn split_target(target: &str) -> Result<(&str, &str), S3Error> {
    if !target.starts_with('/') {
        return Err(S3Error::from(S3ErrorCode::InvalidUri));
    }
    Ok(target.split_once('?').unwrap_or((target, "")))
}

/// Decodes `%XX`; bad escapes are refused. `+` stays `+` unless `form`.
pub(crate) fn decode_bytes(text: &str, form: bool) -> Result<Cow<'_, [u8]>, S3Error> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| *b == b'%' || (form && *b == b'+')) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let (escape, tail) = rest
                    .split_at_checked(2)
                    .ok_or(S3Error::from(S3ErrorCode::InvalidUri))?;
                let mut byte = [0u8];
                hex::decode_to_slice(escape, &mut byte)
                    .map_err(|_| S3Error::from(S3ErrorCode::InvalidUri))?;
                out.push(byte[0]);
                rest = tail;
            }
            b'+' if form => out.push(b' '),
            other => out.push(*other),
        }
    }
    Ok(Cow::Owned(out))
}

/// [`decode_bytes`] where the result must be UTF-8.
pub(crate) fn decode(text: &str, form: bool) -> Result<Cow<'_, str>, S3Error> {
    let refuse = || S3Error::from(S3ErrorCode::InvalidUri);
    match decode_bytes(text, form)? {
        Cow::Borrowed(_) => Ok(Cow::Borrowed(text)),
        Cow::Owned(bytes) => String::from_utf8(bytes)
            .map(Cow::Owned)
            .map_err(|_| refuse()),
    }
}

/// Splits a query string into its raw, still encoded pairs.
pub(crate) fn raw_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Decodes a query string.
pub(crate) fn parse_query(query: &str) -> Result<Query, S3Error> {
    let mut out = Vec::new();
    for (name, value) in raw_pairs(query) {
        if out.len() == PARAMETERS_MAX {
            return Err(S3Error::request("Too many query parameters."));
        }
        out.push((
            decode(name, true)?.into_owned(),
            decode(value, true)?.into_owned(),
        ));
    }
    Ok(out)
}

/// Takes bytes in order: a buffer, or a hash of them.
pub(crate) trait Sink {
    /// Appends.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Appends `bytes` with all but `A-Z a-z 0-9 - . _ ~` (and `/` if `keep_slash`)
/// as `%XX` (SigV4 `UriEncode`).
pub(crate) fn encode_into(bytes: &[u8], keep_slash: bool, out: &mut impl Sink) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || (keep_slash && *byte == b'/')
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let run = rest.iter().position(|b| !plain(b)).unwrap_or(rest.len());
        let (as_is, after) = rest.split_at(run);
        out.put(as_is);
        let Some((byte, after)) = after.split_first() else {
            return;
        };
        let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
        out.put(&[b'%', DIGITS[high], DIGITS[low]]);
        rest = after;
    }
}

/// `text` URI-encoded as a string, slashes kept: `encoding-type=url` of listings.
pub(crate) fn encode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    encode_into(text.as_bytes(), true, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_escapes_are_refused() {
        for bad in ["%", "%2", "a%zz", "%%20", "%+1"] {
            assert!(decode_bytes(bad, false).is_err(), "{bad}");
        }
        assert!(decode("%ff", false).is_err(), "not UTF-8");
    }

    #[test]
    fn plus_is_a_space_in_queries_only() {
        assert_eq!(decode("a+b", false).unwrap(), "a+b");
        assert_eq!(decode("a+b", true).unwrap(), "a b");
    }

    #[test]
    fn queries_keep_order_and_flags() {
        let query = parse_query("uploads&prefix=a%2Fb&x=1=2&&").unwrap();
        let expect = [("uploads", ""), ("prefix", "a/b"), ("x", "1=2")];
        assert_eq!(query, expect.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(parse_query(&"a&".repeat(PARAMETERS_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn encode_then_decode_is_the_identity(text in any::<String>()) {
            let encoded = encode(&text);
            prop_assert_eq!(decode(&encoded, true).unwrap(), text);
        }

        #[test]
        fn never_panics(text in ".{0,64}") {
            let _ = (split_target(&text).is_ok(), parse_query(&text).is_ok());
        }
    }
}
